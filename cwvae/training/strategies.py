"""The devices that train: one, all of this machine, or those of several machines (tf.distribute).

Several machines find each other by TensorFlow's environment variable TF_CONFIG:
{"cluster": {"worker": ["host1:12345", "host2:12345"]}, "task": {"type": "worker", "index": 0}}.
The first worker, the chief, writes the run's folder; all read it. TensorFlow is imported late.
"""

import contextlib
import json
import os
import re
import signal
import zlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from cwvae.errors import TrainingStopped, UserError

if TYPE_CHECKING:
    import tensorflow as tf

_EXAMPLE = (
    '{"cluster": {"worker": ["host1:12345", "host2:12345"]},'
    ' "task": {"type": "worker", "index": 0}}'
)


def workers() -> tuple[int, int]:
    """Returns the index of this process among the workers of TF_CONFIG, and their number.

    Raises:
      UserError: TF_CONFIG is not in TensorFlow's format.
    """
    text = os.environ.get("TF_CONFIG")
    if not text:
        return 0, 1
    try:
        content = json.loads(text)
        names = [str(name) for name in content["cluster"]["worker"]]
        kind, index = content["task"]["type"], int(content["task"]["index"])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"the environment variable TF_CONFIG is not readable ({error!r}). Write it like"
            f" {_EXAMPLE}"
        ) from None
    if kind != "worker" or set(content["cluster"]) != {"worker"} or not 0 <= index < len(names):
        raise UserError(
            "the environment variable TF_CONFIG must name workers only (the first is the chief),"
            f" and the index of this process among them, like {_EXAMPLE}"
        )
    for name in names:
        if not re.fullmatch(r".+:\d+", name):
            raise UserError(
                f"the environment variable TF_CONFIG names a worker {name!r}, which is not"
                f" host:port. Write it like {_EXAMPLE}"
            )
    return index, len(names)


def is_chief() -> bool:
    """Returns whether this process writes the run's folder."""
    return workers()[0] == 0


def check(name: str) -> None:
    """Checks that TF_CONFIG fits `training.strategy`, without starting TensorFlow.

    Raises:
      UserError: It does not fit.
    """
    count = workers()[1]
    if name == "multi_worker" and not os.environ.get("TF_CONFIG"):
        raise UserError(
            "training.strategy = multi_worker needs the environment variable TF_CONFIG in every"
            f" process, like {_EXAMPLE}. See docs/several_machines.md."
        )
    if name in ("single", "mirrored") and count > 1:
        raise UserError(
            f"training.strategy = {name} is for one machine, but the environment variable TF_CONFIG"
            f" names {count} workers. Set multi_worker, or unset TF_CONFIG."
        )


def build(name: str) -> "tf.distribute.Strategy":
    """Returns the strategy of `training.strategy`. Call it before TensorFlow does anything.

    Args:
      name: auto, single, mirrored or multi_worker. `auto` means all workers of TF_CONFIG if there
        are several, otherwise all GPUs if there are several, otherwise one device.

    Raises:
      UserError: The workers cannot connect.
    """
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    if name == "auto":
        name = "multi_worker" if workers()[1] > 1 else "mirrored" if len(gpus) > 1 else "single"
    if name == "multi_worker":
        return _join_workers()
    if name == "mirrored":
        kind = "GPU" if gpus else "CPU"
        devices = [device.name for device in tf.config.list_logical_devices(kind)]
        return tf.distribute.MirroredStrategy(devices)
    # TensorFlow's default strategy would not copy batches to a GPU ahead of time.
    return tf.distribute.OneDeviceStrategy("/gpu:0" if gpus else "/cpu:0")


def _join_workers() -> "tf.distribute.Strategy":
    import tensorflow as tf

    # TensorFlow waits for the other workers in native code, where Python does not see a Ctrl-C.
    previous = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        return tf.distribute.MultiWorkerMirroredStrategy()
    except tf.errors.OpError as error:
        raise UserError(
            f"cannot join the workers of TF_CONFIG: {_reason(error)}. Check that the port of this"
            " worker is free, and that it can reach the others."
        ) from None
    finally:
        signal.signal(signal.SIGINT, previous)


@contextlib.contextmanager
def reporting_lost_workers() -> Iterator[None]:
    """Ends training with a message if another worker is lost while the block runs.

    Raises:
      TrainingStopped: TensorFlow reports a lost worker.
    """
    import tensorflow as tf

    try:
        yield
    except tf.errors.UnavailableError as error:
        if workers()[1] == 1:
            raise
        raise TrainingStopped(
            f"another worker is gone ({_reason(error)}). Its output may say why. Start all workers"
            " again, each with the same command. The run then resumes from its newest checkpoint."
        ) from None


def _reason(error: "tf.errors.OpError") -> str:
    """Returns the first sentence of an error of the network, without TensorFlow's preamble."""
    text = re.sub(r"(?s).*Collective ops is aborted by: ", "", error.message).strip()
    return re.split(r"\.\s|\n", text)[0].rstrip(".:")


def check_same(strategy: "tf.distribute.Strategy", content: str) -> None:
    """Checks that all workers have the same content.

    Raises:
      UserError: They do not.
    """
    own = zlib.crc32(content.encode())
    if workers()[1] > 1 and total(strategy, own) != own * workers()[1]:
        raise UserError(
            "the workers of TF_CONFIG were given different settings or training data. Start each"
            " with the same command, and give each the same data and the same folder of the run."
        )


def total(strategy: "tf.distribute.Strategy", number: int) -> int:
    """Returns the sum of a number over all workers. Each waits for the others."""
    import tensorflow as tf

    def give():
        value = tf.constant(number, tf.int64)  # Made here, to be on the replica's device.
        return tf.distribute.get_replica_context().all_reduce("SUM", value)

    @tf.function
    def summed():
        return strategy.experimental_local_results(strategy.run(give))[0]

    return int(summed()) // local_replicas(strategy)


def local_replicas(strategy: "tf.distribute.Strategy") -> int:
    """Returns the number of a strategy's devices that belong to this process."""
    return strategy.num_replicas_in_sync // workers()[1]
