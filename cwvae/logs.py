"""What a run writes while it trains: TensorBoard events, and the same scalars as JSON lines."""

import json
import pathlib

import numpy as np
import tensorflow as tf

from cwvae import visualize


class RunLog:
    """Writes scalars and videos of a run.

    `metrics.jsonl` holds one object a line: `step`, and scalars by name. TensorBoard reads the same
    from `tensorboard/`, and animated GIFs among its images; there a run that went on after a crash
    shows the steps since its last checkpoint twice.
    """

    def __init__(self, logdir: str | pathlib.Path, step: int):
        """Opens the logs of a run that goes on from `step`.

        Lines of later steps, which a run left that was cut after its last checkpoint, are dropped.
        """
        self._path = pathlib.Path(logdir) / "metrics.jsonl"
        if self._path.exists():
            lines = [line for line in self._path.read_text().splitlines() if _step(line) <= step]
            self._path.write_text("".join(f"{line}\n" for line in lines))
        self._events = tf.summary.create_file_writer(str(pathlib.Path(logdir) / "tensorboard"))

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Writes scalars by name."""
        with self._path.open("a") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")
        with self._events.as_default(step=step):
            for name, value in values.items():
                tf.summary.scalar(name, value)
        self._events.flush()

    def video(self, step: int, name: str, frames: np.ndarray) -> None:
        """Writes an animated GIF of uint8 frames [T, H, W, 3]."""
        # TensorBoard's image plugin takes [width, height, encoded images...] and serves GIFs as
        # they are; tf.summary.image itself would encode still PNGs.
        metadata = tf.compat.v1.SummaryMetadata()
        metadata.plugin_data.plugin_name = "images"
        size = [str(frames.shape[2]), str(frames.shape[1])]
        tensor = tf.constant([*size, visualize.gif_bytes(frames)])
        with self._events.as_default(step=step):
            tf.summary.write(name, tensor, metadata=metadata)
        self._events.flush()

    def close(self) -> None:
        """Closes the files."""
        self._events.close()


def _step(line: str) -> float:
    """The step of a JSON line; a line that a crash cut short counts as after every step."""
    try:
        return json.loads(line)["step"]
    except (json.JSONDecodeError, KeyError, TypeError):
        return float("inf")
