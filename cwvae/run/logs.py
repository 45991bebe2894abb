"""What a run writes while it trains: TensorBoard events, and the same scalars as JSON lines.

Both are written here, a whole record at a time. TensorFlow's own writer of events leaves a part of
one behind on a full disk, and the rest of a large one it drops without an error; once there is room
it goes on behind that part, where TensorBoard has stopped to read.
"""

import contextlib
import io
import json
import os
import pathlib
import socket
import sys
import time

import numpy as np
import tensorflow as tf
import tqdm
from tensorboard.summary.writer.record_writer import RecordWriter

from cwvae import visualize
from cwvae.run.files import sync

# What frames a record in an event file: its length, and checksums of the length and the record.
_FRAME_BYTES = 8 + 4 + 4


class RunLog:
    """Writes scalars and videos of a run.

    `metrics.jsonl` holds one object a line: `step`, and scalars by name. TensorBoard reads the same
    from `tensorboard/`, and animated GIFs among its images. What cannot be written, as on a full
    disk, is lost, and stderr says so; training goes on.
    """

    def __init__(self, logdir: str | pathlib.Path, step: int):
        """Opens the logs of a run that goes on from `step`.

        Records of later steps, and torn ones, which a crash after that step left, are dropped.
        """
        logdir = pathlib.Path(logdir)
        self._folder = logdir / "tensorboard"
        self._lines, self._events = _Appender(logdir / "metrics.jsonl"), _Appender()
        _drop_lines(self._lines.path, step)
        for path in _event_files(self._folder):
            _drop_events(path, step)

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Writes scalars by name."""
        self._lines.append((json.dumps({"step": step, **values}) + "\n").encode())
        self._write_event(
            step, "scalars", {name: np.float32(value) for name, value in values.items()}
        )

    def video(self, step: int, name: str, frames: np.ndarray) -> None:
        """Writes an animated GIF of uint8 frames [T, H, W, 3]."""
        # TensorBoard's image plugin takes [width, height, encoded images...] and serves GIFs as
        # they are; tf.summary.image itself would encode still PNGs.
        size = [str(frames.shape[2]).encode(), str(frames.shape[1]).encode()]
        self._write_event(step, "images", {name: [*size, visualize.gif_bytes(frames)]})

    def sync(self) -> None:
        """Waits until all is on the disk.

        Before a checkpoint is saved, so that whatever crashes then, the log reaches up to it.
        """
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
            # A TensorBoard that is running may have read the part that was taken back.
            self._events.path = None


class _Appender:
    """Appends whole records to a file; of one that it cannot write it leaves no part."""

    def __init__(self, path: pathlib.Path | None = None):
        self.path = path
        self._torn = None  # A file, and where in it a part of a record begins.
        self._failing = False

    def append(self, record: bytes) -> bool:
        """Writes a record, and returns whether it is there; tells the first failure in a row."""
        try:
            self._mend()
            self.path.parent.mkdir(exist_ok=True)
            with open(self.path, "ab") as file:
                self._torn = self.path, file.tell()
                file.write(record)
            self._torn, self._failing = None, False
            return True
        except OSError as error:
            with contextlib.suppress(OSError):  # Else before the next record.
                self._mend()
            self._tell(error)
            return False

    def sync(self) -> None:
        """Waits until what was appended is on the disk."""
        if self.path is not None and self.path.exists():
            try:
                sync(self.path)
                sync(self.path.parent)
            except OSError as error:
                self._tell(error)

    def _mend(self) -> None:
        """Takes back what a write that failed has left."""
        if self._torn is not None:
            path, whole = self._torn
            if whole:
                os.truncate(path, whole)
            else:
                path.unlink()
            self._torn = None

    def _tell(self, error: OSError) -> None:
        if not self._failing:
            message = (
                f"warning: {self.path}: cannot be written ({error.strerror}). Training goes on;"
                " what it logs until there is room again is lost."
            )
            tqdm.tqdm.write(message, file=sys.stderr)
        self._failing = True


def _framed(event) -> bytes:
    """Returns an event as a record of an event file."""
    record = io.BytesIO()
    RecordWriter(record).write(event.SerializeToString())
    return record.getvalue()


def _event_files(folder: pathlib.Path) -> list[pathlib.Path]:
    return sorted(folder.glob("events.out.tfevents.*"))


def _new_event_file(folder: pathlib.Path) -> pathlib.Path:
    """Returns a name that sorts behind those there are: TensorBoard reads them in this order."""
    times = [int(path.name.split(".")[3]) for path in _event_files(folder)]
    now = max([int(time.time()), *(1 + made for made in times)])
    return folder / f"events.out.tfevents.{now:010d}.{socket.gethostname()}.{os.getpid()}.v2"


def _drop_lines(path: pathlib.Path, step: int) -> None:
    """Cuts a file of JSON lines off before the first that is later than a step, or torn."""
    if not path.exists():
        return
    keep = 0
    with open(path, "rb") as file:
        for line in file:
            if not line.endswith(b"\n") or _step(line) > step:
                break
            keep += len(line)
    os.truncate(path, keep)


def _step(line: bytes) -> float:
    """The step of a JSON line; a line that a crash cut short counts as after every step."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")


def _drop_events(path: pathlib.Path, step: int) -> None:
    """Cuts an event file off before the first record that is later than a step, or torn."""
    keep = 0
    with contextlib.suppress(tf.errors.DataLossError):
        for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
            if tf.compat.v1.Event.FromString(record).step > step:
                break
            keep += len(record) + _FRAME_BYTES
    os.truncate(path, keep)
