"""Which devices train: one, all of this machine, or those of several machines (tf.distribute).

Several machines are told of each other by the environment variable TF_CONFIG, TensorFlow's own:
{"cluster": {"worker": ["host1:12345", "host2:12345"]}, "task": {"type": "worker", "index": 0}}.
The first worker, the chief, writes the run's folder; all read it. TensorFlow is imported late.
"""

import json
import os
from typing import TYPE_CHECKING

from cwvae.errors import UserError

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
        names = content["cluster"]["worker"]
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
    return index, len(names)


def is_chief() -> bool:
    """Whether this process writes the run's folder."""
    return workers()[0] == 0


def build(name: str) -> "tf.distribute.Strategy":
    """Returns the strategy of `training.strategy`. To be called before TensorFlow does anything.

    Args:
      name: auto, single, mirrored or multi_worker. `auto` takes the workers of TF_CONFIG if there
        are several, or else all GPUs if there are several, or else one device.

    Raises:
      UserError: multi_worker without workers.
    """
    count = workers()[1]
    if name == "multi_worker" and not os.environ.get("TF_CONFIG"):
        raise UserError(
            "training.strategy = multi_worker needs the environment variable TF_CONFIG in every"
            f" process, like {_EXAMPLE}; docs/several_machines.md shows how."
        )
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    if name == "auto":
        name = "multi_worker" if count > 1 else "mirrored" if len(gpus) > 1 else "single"
    if name == "multi_worker":
        return tf.distribute.MultiWorkerMirroredStrategy()
    if name == "mirrored":
        kind = "GPU" if gpus else "CPU"
        devices = [device.name for device in tf.config.list_logical_devices(kind)]
        return tf.distribute.MirroredStrategy(devices)
    # Not TensorFlow's default strategy, which would not bring batches to a GPU ahead of time.
    return tf.distribute.OneDeviceStrategy("/gpu:0" if gpus else "/cpu:0")


def local_replicas(strategy: "tf.distribute.Strategy") -> int:
    """Returns how many of a strategy's devices belong to this process."""
    return strategy.num_replicas_in_sync // workers()[1]
