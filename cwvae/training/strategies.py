"""Which devices train: one, all of this machine, or those of several machines (tf.distribute).

Several machines are told of each other by the environment variable TF_CONFIG, TensorFlow's own:
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
    """Returns this process's number among the workers of TF_CONFIG, and how many there are.

    Raises:
      UserError: TF_CONFIG is not what TensorFlow takes.
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
            f"the environment variable TF_CONFIG is not readable ({error!r}). It should be like"
            f" {_EXAMPLE}"
        ) from None
    if kind != "worker" or set(content["cluster"]) != {"worker"} or not 0 <= index < len(names):
        raise UserError(
            "the environment variable TF_CONFIG must name workers alone (the first is the chief),"
            f" and this process's index among them, like {_EXAMPLE}"
        )
    for name in names:
        if not re.fullmatch(r".+:\d+", name):
            raise UserError(
                f"the environment variable TF_CONFIG names a worker {name!r}, which is no"
                f" host:port. It should be like {_EXAMPLE}"
            )
    return index, len(names)


def is_chief() -> bool:
    """Whether this process writes the run's folder."""
    return workers()[0] == 0


def check(name: str) -> None:
    """Sees that TF_CONFIG fits `training.strategy`, without starting TensorFlow.

    Raises:
      UserError: It does not.
    """
    count = workers()[1]
    if name == "multi_worker" and not os.environ.get("TF_CONFIG"):
        raise UserError(
            "training.strategy = multi_worker needs the environment variable TF_CONFIG in every"
            f" process, like {_EXAMPLE}; docs/several_machines.md shows how."
        )
    if name in ("single", "mirrored") and count > 1:
        raise UserError(
            f"training.strategy = {name} is for one machine, but the environment variable TF_CONFIG"
            f" names {count} workers: take multi_worker, or unset TF_CONFIG."
        )


def build(name: str) -> "tf.distribute.Strategy":
    """Returns the strategy of `training.strategy`. To be called before TensorFlow does anything.

    Args:
      name: auto, single, mirrored or multi_worker. `auto` takes the workers of TF_CONFIG if there
        are several, or else all GPUs if there are several, or else one device.

    Raises:
      UserError: Workers that cannot be joined.
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
    # Not TensorFlow's default strategy, which would not bring batches to a GPU ahead of time.
    return tf.distribute.OneDeviceStrategy("/gpu:0" if gpus else "/cpu:0")


def _join_workers() -> "tf.distribute.Strategy":
    import tensorflow as tf

    # TensorFlow waits for the other workers in native code: Python would not see a Ctrl-C.
    previous = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        return tf.distribute.MultiWorkerMirroredStrategy()
    except tf.errors.OpError as error:
        raise UserError(
            f"cannot join the workers of TF_CONFIG: {_reason(error)}. Is the port of this worker"
            " free, and can it reach the others?"
        ) from None
    finally:
        signal.signal(signal.SIGINT, previous)


@contextlib.contextmanager
def telling_of_lost_workers() -> Iterator[None]:
    """Ends training with a message where another worker is lost while the block runs.

    TensorFlow says so to all that wait for it.

    Raises:
      TrainingStopped: One is gone.
    """
    import tensorflow as tf

    try:
        yield
    except tf.errors.UnavailableError as error:
        if workers()[1] == 1:
            raise
        raise TrainingStopped(
            f"another worker is gone ({_reason(error)}). Its own output may say why. Start all"
            " workers again, each with the same command: the run goes on from its newest"
            " checkpoint."
        ) from None


def _reason(error: "tf.errors.OpError") -> str:
    """Returns the sentence of an error that tells of the network, without what surrounds it."""
    text = re.sub(r"(?s).*Collective ops is aborted by: ", "", error.message).strip()
    return re.split(r"\.\s|\n", text)[0].rstrip(".:")


def check_same(strategy: "tf.distribute.Strategy", content: str) -> None:
    """Sees that all workers were given the same.

    Raises:
      UserError: They were not.
    """
    own = zlib.crc32(content.encode())
    if workers()[1] > 1 and total(strategy, own) != own * workers()[1]:
        raise UserError(
            "the workers of TF_CONFIG were given different settings. Start each with the same"
            " command."
        )


def total(strategy: "tf.distribute.Strategy", number: int) -> int:
    """Returns the sum of what the workers give. Each waits there for all."""
    import tensorflow as tf

    def give():
        value = tf.constant(number, tf.int64)  # On the device that it is to be summed from.
        return tf.distribute.get_replica_context().all_reduce("SUM", value)

    @tf.function
    def summed():
        return strategy.experimental_local_results(strategy.run(give))[0]

    return int(summed()) // local_replicas(strategy)


def local_replicas(strategy: "tf.distribute.Strategy") -> int:
    """Returns how many of a strategy's devices belong to this process."""
    return strategy.num_replicas_in_sync // workers()[1]
