"""Training logs: TensorBoard events, and the same scalars as JSON lines.

TensorBoard draws curves of one name in one chart, a curve per folder. So the scalars of training
and of held-out clips have the same names, in `tensorboard/train/` and `tensorboard/test/`. The
folder around them holds the settings: TensorBoard's HPARAMS page then finds the scalars inside.
`tensorboard/scores/` has a folder for each evaluation.

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
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf
import tqdm
from tensorboard.plugins.hparams.summary_v2 import hparams_pb
from tensorboard.plugins.text.summary_v2 import text_pb
from tensorboard.summary.writer.record_writer import RecordWriter

from cwvae import visualize
from cwvae.run import files

# Each record in an event file is framed by its length and checksums of the length and the record.
_FRAME_BYTES = 8 + 4 + 4
_SPLITS = ("train", "test")
# What TensorBoard shows next to a chart, by the start of the scalar's name.
_DESCRIPTIONS = {
    "loss": "The training loss in nats per frame: nll, plus the KL terms with their weights.",
    "nll": "Negative log-likelihood of the frames, in nats per frame.",
    "kl/level_": "KL(posterior, prior) of a level in nats: summed over the clip, or per tick of the"
    " level. Level 1 is the fastest; each further level is slower.",
    "kl/": "KL(posterior, prior) in nats: summed over the clip, or per step.",
    "prior_entropy/": "Entropy of the prior, in nats.",
    "posterior_entropy/": "Entropy of the posterior, in nats.",
    "learning_rate": "The learning rate of the step.",
    "gradient_norm": "Global norm of the gradient before clipping.",
    "frames_per_second": "Frames trained on per second.",
    "skipped_updates": "Updates skipped since the last point, because they were not finite.",
    "open_loop": "Clips: truth, open-loop prediction, error. The model sees the frames with a blue"
    " border.",
}


class RunLog:
    """Writes scalars and videos of a run.

    `metrics.jsonl` has one object per line: `step`, and scalars by name; those of held-out clips
    are called `test/<name>`. TensorBoard reads the same from `tensorboard/`, with animated GIFs as
    images. Records that cannot be written, for example on a full disk, are lost with a warning on
    stderr; training continues.
    """

    def __init__(self, logdir: str | pathlib.Path, step: int):
        """Opens the logs of a run at `step`; drops partial records and those of later steps."""
        logdir = pathlib.Path(logdir)
        self._folder = logdir / "tensorboard"
        self._lines = _Appender(logdir / "metrics.jsonl")
        self._events = {split: _Events(self._folder / split) for split in _SPLITS}
        _drop_lines(self._lines.path, step)
        _move_old_events(self._folder)
        for events in self._events.values():
            events.drop_after(step)

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Writes scalars by name."""
        self._lines.append((json.dumps({"step": step, **values}) + "\n").encode())
        for split, events in self._events.items():
            own = {
                name.removeprefix("test/"): np.float32(value)
                for name, value in values.items()
                if name.startswith("test/") == (split == "test")
            }
            if own:
                events.write(step, "scalars", own)

    def video(self, step: int, split: str, frames: np.ndarray) -> None:
        """Writes an animated GIF of uint8 frames [T, H, W, 3], of clips of a split."""
        # TensorBoard's image plugin takes [width, height, encoded images...] and serves GIFs
        # unchanged; tf.summary.image would encode still PNGs.
        size = [str(frames.shape[2]).encode(), str(frames.shape[1]).encode()]
        image = [*size, visualize.gif_bytes(frames)]
        self._events[split].write(step, "images", {"open_loop": image})

    def settings(self, text: str, values: dict[str, Any], changes: Sequence[str]) -> None:
        """Writes the settings for TensorBoard, in place of those of an earlier start.

        Args:
          text: The configuration as YAML.
          values: The settings to compare runs by, on TensorBoard's HPARAMS page: bool, int, float
            or str by name.
          changes: A sentence for each change of settings on resume.
        """
        shown = "".join([f"```yaml\n{text}```\n", *(f"\n* {line}" for line in changes)])
        try:
            self._folder.mkdir(exist_ok=True)
            content = _event(0, hparams_pb(values)) + _event(
                0, text_pb("configuration", shown, "All settings, as in config.yml.")
            )
            files.write(self._folder / "events.out.tfevents.settings", content)
        except OSError as error:
            _warn(self._folder, error, "Training continues; TensorBoard lacks the settings.")

    def sync(self) -> None:
        """Waits until all records are on the disk: before a checkpoint, so that none is missing."""
        self._lines.sync()
        for events in self._events.values():
            events.sync()

    def close(self) -> None:
        """Ends writing."""
        self.sync()


def write_scores(logdir: str | pathlib.Path, name: str, results: dict) -> None:
    """Writes the scores of an evaluation for TensorBoard, if the run has a folder for it.

    A file that cannot be written gives a warning.

    Args:
      logdir: The run's folder.
      name: The name of the evaluation's folder.
      results: The content of its metrics.json.
    """
    folder = pathlib.Path(logdir) / "tensorboard"
    if not folder.is_dir():
        return
    model, step = results["model"], results["step"]
    scores = {}
    for metric, summary in results["scores"][model].items():
        scores[f"scores/{metric}"] = summary["mean"], _words(results["metrics"][metric])
    if results["fvd"]:
        scores["scores/fvd"] = results["fvd"]["scores"][model]["value"], "FVD, lower is better."
    summary = tf.compat.v1.Summary()
    for tag, (value, words) in scores.items():
        _add(summary, tag, "scalars", np.float32(value), words)
    try:
        (folder / "scores" / name).mkdir(parents=True, exist_ok=True)
        # A file for each step, so that repeating an evaluation replaces its scores.
        path = folder / "scores" / name / f"events.out.tfevents.{step:010d}.scores"
        files.write(path, _event(step, summary))
    except OSError as error:
        _warn(folder, error, "TensorBoard lacks the scores of this evaluation.")


def _words(about: dict) -> str:
    unit = f" in {about['unit']}" if about.get("unit") else ""
    return f"{about['label']}{unit}, mean over all predicted frames; {about['better']} is better."


class _Events:
    """Writes the event files of a folder."""

    def __init__(self, folder: pathlib.Path):
        self._folder, self._file = folder, _Appender()

    def drop_after(self, step: int) -> None:
        """Drops partial records and those of later steps."""
        for path in _event_files(self._folder):
            _drop_events(path, step)

    def write(self, step: int, plugin: str, values: dict) -> None:
        """Writes values by name."""
        summary = tf.compat.v1.Summary()
        for name, value in values.items():
            start = next((start for start in _DESCRIPTIONS if name.startswith(start)), None)
            _add(summary, name, plugin, value, _DESCRIPTIONS.get(start, ""))
        record = _event(step, summary)
        if self._file.path is None:
            self._file.path = _new_event_file(self._folder)
            first = tf.compat.v1.Event(wall_time=time.time(), file_version="brain.Event:2")
            record = _framed(first) + record
        if not self._file.append(record):
            # A running TensorBoard may have read the part that was removed again.
            self._file.path = None

    def sync(self) -> None:
        """Waits until all records are on the disk."""
        self._file.sync()


def _add(summary, tag: str, plugin: str, value, description: str) -> None:
    entry = summary.value.add(tag=tag, tensor=tf.make_tensor_proto(value))
    entry.metadata.plugin_data.plugin_name = plugin
    entry.metadata.summary_description = description


def _event(step: int, summary) -> bytes:
    """Returns a summary as a record of an event file."""
    event = tf.compat.v1.Event(wall_time=time.time(), step=step)
    event.summary.ParseFromString(summary.SerializeToString())
    return _framed(event)


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
            self.path.parent.mkdir(parents=True, exist_ok=True)
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
                files.sync(self.path)
                files.sync(self.path.parent)
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
            _warn(self.path, error, "Training continues; records are lost until this is fixed.")
        self._failing = True


def _warn(path: pathlib.Path, error: OSError, effect: str) -> None:
    message = f"warning: {path}: cannot be written ({error.strerror}). {effect}"
    tqdm.tqdm.write(message, file=sys.stderr)


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


def _move_old_events(folder: pathlib.Path) -> None:
    """Moves the event files of earlier versions, which held all scalars, to those of training."""
    for path in [] if (folder / "train").exists() else _event_files(folder):
        (folder / "train").mkdir(exist_ok=True)
        path.rename(folder / "train" / path.name)


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
