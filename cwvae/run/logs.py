"""Training logs: TensorBoard events, and the same scalars as JSON lines.

Both are written one whole record at a time. On a full disk, TensorFlow's own event writer leaves a
partial record and later appends after it, where TensorBoard has stopped reading.
"""

import contextlib
import io
import json
import os
import pathlib
import re
import socket
import sys
import time

import numpy as np
import tensorflow as tf
import tqdm
from tensorboard.summary.writer.record_writer import RecordWriter

from cwvae import visualize
from cwvae.run.files import sync

# Each record in an event file is framed by its length and checksums of the length and the record.
_FRAME_BYTES = 8 + 4 + 4


class RunLog:
    """Writes scalars and videos of a run.

    `metrics.jsonl` has one object per line: `step`, and scalars by name. TensorBoard reads the same
    from `tensorboard/`, with animated GIFs as images. Records that cannot be written, for example
    on a full disk, are lost with a warning on stderr; training continues.
    """

    def __init__(self, logdir: str | pathlib.Path, step: int):
        """Opens the logs of a run at `step`; drops partial records and those of later steps."""
        logdir = pathlib.Path(logdir)
        self._folder = logdir / "tensorboard"
        self._lines, self._events = _Appender(logdir / "metrics.jsonl"), _Appender()
        _drop_lines(self._lines.path, step)
        for path in _event_files(self._folder):
            _drop_events(path, step)

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Writes scalars by name."""
        self._lines.append((json.dumps({"step": step, **values}) + "\n").encode())
        floats = {name: np.float32(value) for name, value in values.items()}
        self._write_event(step, "scalars", floats)

    def video(self, step: int, name: str, frames: np.ndarray) -> None:
        """Writes an animated GIF of uint8 frames [T, H, W, 3]."""
        # TensorBoard's image plugin takes [width, height, encoded images...] and serves GIFs
        # unchanged; tf.summary.image would encode still PNGs.
        size = [str(frames.shape[2]).encode(), str(frames.shape[1]).encode()]
        self._write_event(step, "images", {name: [*size, visualize.gif_bytes(frames)]})

    def sync(self) -> None:
        """Waits until all records are on the disk: before a checkpoint, so that none is missing."""
        self._lines.sync()
        self._events.sync()

    def close(self) -> None:
        """Ends writing."""
        self.sync()

    def _write_event(self, step: int, plugin: str, values: dict) -> None:
        event = tf.compat.v1.Event(wall_time=time.time(), step=step)
        for name, value in values.items():
            entry = event.summary.value.add(tag=name, tensor=tf.make_tensor_proto(value))
            entry.metadata.plugin_data.plugin_name = plugin
        record = _framed(event)
        if self._events.path is None:
            self._events.path = _new_event_file(self._folder)
            first = tf.compat.v1.Event(wall_time=time.time(), file_version="brain.Event:2")
            record = _framed(first) + record
        if not self._events.append(record):
            # A running TensorBoard may have read the part that was removed again.
            self._events.path = None


class _Appender:
    """Appends records to a file, each whole or not at all."""

    def __init__(self, path: pathlib.Path | None = None):
        self.path = path
        self._partial = None  # A file, and the position of a partial record in it.
        self._failing = False

    def append(self, record: bytes) -> bool:
        """Writes a record and returns whether it succeeded; warns of the first failure in a row."""
        try:
            self._repair()
            self.path.parent.mkdir(exist_ok=True)
            with open(self.path, "ab") as file:
                self._partial = self.path, file.tell()
                file.write(record)
            self._partial, self._failing = None, False
            return True
        except OSError as error:
            with contextlib.suppress(OSError):  # The next `append` tries again.
                self._repair()
            self._warn(error)
            return False

    def sync(self) -> None:
        """Waits until all appended records are on the disk."""
        if self.path is not None and self.path.exists():
            try:
                sync(self.path)
                sync(self.path.parent)
            except OSError as error:
                self._warn(error)

    def _repair(self) -> None:
        """Removes the partial record of a failed write."""
        if self._partial is not None:
            path, whole = self._partial
            if whole:
                os.truncate(path, whole)
            else:
                path.unlink()
            self._partial = None

    def _warn(self, error: OSError) -> None:
        if not self._failing:
            message = (
                f"warning: {self.path}: cannot be written ({error.strerror}). Training continues;"
                " records are lost until this is fixed."
            )
            tqdm.tqdm.write(message, file=sys.stderr)
        self._failing = True


def _framed(event) -> bytes:
    """Returns an event as a record of an event file."""
    record = io.BytesIO()
    RecordWriter(record).write(event.SerializeToString())
    return record.getvalue()


def _event_files(folder: pathlib.Path) -> list[pathlib.Path]:
    """Returns the event files in a folder. Files with other names are the user's."""
    found = folder.glob("events.out.tfevents.*")
    return sorted(
        path
        for path in found
        if re.match(r"events\.out\.tfevents\.\d+\.", path.name) and path.is_file()
    )


def _new_event_file(folder: pathlib.Path) -> pathlib.Path:
    """Returns a file name that sorts after the existing ones, the order TensorBoard reads in."""
    times = [int(path.name.split(".")[3]) for path in _event_files(folder)]
    now = max([int(time.time()), *(1 + made for made in times)])
    return folder / f"events.out.tfevents.{now:010d}.{socket.gethostname()}.{os.getpid()}.v2"


def _drop_lines(path: pathlib.Path, step: int) -> None:
    """Truncates a file of JSON lines before the first later than a step, or partial."""
    if not path.is_file():
        return
    keep = 0
    with open(path, "rb") as file:
        for line in file:
            if not line.endswith(b"\n") or _step(line) > step:
                break
            keep += len(line)
    os.truncate(path, keep)


def _step(line: bytes) -> float:
    """Returns the step of a JSON line; infinity for a damaged line."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")


def _drop_events(path: pathlib.Path, step: int) -> None:
    """Truncates an event file before the first record later than a step, or partial."""
    keep = 0
    with contextlib.suppress(tf.errors.DataLossError):
        for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
            if tf.compat.v1.Event.FromString(record).step > step:
                break
            keep += len(record) + _FRAME_BYTES
    os.truncate(path, keep)
