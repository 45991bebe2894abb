"""Makes a store from a source in several processes, with a progress bar; resumes after a kill.

The store grows in a folder `NAME.partial` next to its final place. Frames are appended video by
video, in order, and a line of the index is written once its frames are on the disk. After a kill,
both files are truncated to the last such line, and preparation resumes there.
"""

import collections
import contextlib
import datetime
import errno
import hashlib
import itertools
import json
import math
import os
import pathlib
import shutil
import sys
import time

import numpy as np
import tqdm

from cwvae.errors import UserError
from cwvae.run.files import locked
from data_loaders.sources import SPLITS, Source
from data_loaders.store import store
from data_loaders.store.processes import Read, open_readers

_SECONDS_BETWEEN_SYNCS = 2.0  # A kill loses at most this much work.
_SHOWN_REASONS = 5  # Reasons for skipped videos to print. skipped.txt has all of them.
_PIECE = 2**20  # Bytes copied at a time.
_ROOM = 2**26  # Bytes of disk space for the index and the videos being read.


def prepare(
    source: Source,
    data_dir: pathlib.Path,
    recipe: dict | None = None,
    processes: int | None = None,
    again: bool = False,
) -> pathlib.Path:
    """Makes the store of a source unless it exists.

    Args:
      source: The videos.
      data_dir: The folder of data sets; the store is made in its folder `stores`.
      recipe: The arguments of `data_loaders.open_source` that create `source` in another process.
        None: this process does all the work.
      processes: The number of processes that read videos; None for one per core.
      again: Whether to replace an existing store.

    Returns:
      The store's folder.

    Raises:
      UserError: The videos are missing, none of them can be used, the disk is too small, or the
        source has changed since the store was made.
    """
    folder = store.folder_of(source, data_dir)
    if store.is_complete(folder) and not again:
        store.check_unchanged(source, folder)
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with locked(folder.with_name(folder.name + ".lock"), f"preparing {source.name}"):
            # Another process may have made it meanwhile.
            if again or not store.is_complete(folder):
                _prepare(source, folder, recipe, processes)
    except OSError as error:
        raise _disk_error(error, folder) from None
    return folder


def _prepare(
    source: Source, folder: pathlib.Path, recipe: dict | None, processes: int | None
) -> None:
    began = time.monotonic()
    partial = folder.with_name(folder.name + ".partial")
    there = sum(path.stat().st_size for path in partial.glob("*.frames"))
    _check_disk(source, folder, there)  # Before the download, which would be useless.
    source.fetch()
    items = {split: source.items(split) for split in SPLITS}
    # Taken before the first video is read, so a change during preparation is detected later.
    stamps = source.stamps()
    plan = {"description": source.describe(), "items": items, "stamps": stamps}
    _begin(partial, plan)
    kept = {split: _Writer(partial, split, items[split], source) for split in SPLITS}
    room = _check_disk(source, folder, sum(writer.bytes for writer in kept.values()))
    counts = " and ".join(f"{len(names)} {split}" for split, names in items.items())
    print(f"Preparing {source.name}, once: {counts} videos, {room}.", file=sys.stderr, flush=True)
    count = sum(map(len, items.values()))
    done = sum(len(writer.lines) for writer in kept.values())
    with (
        open_readers(source, recipe, min(processes or _cores(), count)) as read,
        tqdm.tqdm(
            total=count, initial=done, unit="video", desc=source.name, dynamic_ncols=True
        ) as progress,
    ):
        for writer in kept.values():
            writer.run(read, progress)
    _finish(source, folder, partial, kept, stamps)
    _report(source, folder, kept, time.monotonic() - began)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _begin(partial: pathlib.Path, plan: dict) -> None:
    """Makes the folder, or keeps what a killed process prepared there from the same videos."""
    path, text = partial / "plan.json", json.dumps(plan, sort_keys=True)
    if path.is_file() and path.read_text() == text:
        print(f"Resuming from {partial}.", file=sys.stderr)
        for scratch in partial.glob("*.tmp"):
            scratch.unlink()
        return
    if path.is_file():
        print(f"{partial}: was made from other videos. Starting again.", file=sys.stderr)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    path.write_text(text)


def _check_disk(source: Source, folder: pathlib.Path, there: int = 0) -> str:
    """Raises a UserError if the disk is too small; returns the space needed, in words.

    `there` is the number of bytes of the store already on the disk.
    """
    frames = source.expected_frames()
    size = frames * math.prod(source.frame_shape)
    free = shutil.disk_usage(folder.parent).free
    if max(0, size - there) + _ROOM > free:
        raise UserError(
            f"{source.name}: the prepared videos need about {size_text(size)} in {folder.parent},"
            f" where {size_text(free)} are free. That is the size of about {frames:,} frames of"
            f" {'x'.join(map(str, source.frame_shape))} bytes. Make room, or set data.data_dir to a"
            " folder on a larger disk."
        )
    return f"about {size_text(size)} in {folder} ({size_text(free)} free)"


class _Writer:
    """Appends to the frames and the index of one split."""

    def __init__(self, partial: pathlib.Path, split: str, items: list[str], source: Source):
        """Creates the files, or truncates existing ones to the last complete video."""
        self.split, self.items, self._partial = split, items, partial
        self._frame_bytes = math.prod(source.frame_shape)
        self._frames_path = store.frames_file(partial, split)
        self._index_path = store.index_file(partial, split)
        for path in (self._frames_path, self._index_path):
            path.touch()
        self.lines = _whole_lines(self._index_path)
        self.bytes = sum(line.get("frames", 0) for line in self.lines) * self._frame_bytes
        if self._frames_path.stat().st_size < self.bytes:  # Damaged by something else than a kill.
            self.lines, self.bytes = [], 0
        os.truncate(self._frames_path, self.bytes)
        os.truncate(self._index_path, sum(len(store.index_line(line)) for line in self.lines))
        self._pending = []
        self._synced = time.monotonic()

    def run(self, read: Read, progress: tqdm.tqdm) -> None:
        """Reads all remaining videos."""
        with (
            open(self._frames_path, "ab", buffering=0) as frames,
            open(self._index_path, "ab") as index,
        ):
            try:
                left = self.items[len(self.lines) :]
                with contextlib.closing(read(self.split, left, self._partial)) as answers:
                    for answer, path in answers:
                        self._append(frames, answer, path)
                        if time.monotonic() - self._synced > _SECONDS_BETWEEN_SYNCS:
                            self._sync(frames, index)
                        progress.update()
            except BaseException:
                # If the disk is full, this makes room for the index.
                for scratch in self._partial.glob("*.tmp"):
                    scratch.unlink()
                frames.truncate(self.bytes)
                raise
            finally:
                self._sync(frames, index)

    def _append(self, frames, answer: dict, path: pathlib.Path) -> None:
        if "skipped" not in answer:
            size = answer["frames"] * self._frame_bytes
            if path.stat().st_size != size:
                raise RuntimeError(f"{path}: has {path.stat().st_size} bytes, not {size}.")
            with open(path, "rb") as file:
                while piece := file.read(_PIECE):
                    while piece:  # A disk that fills up accepts a part first, then fails.
                        piece = piece[frames.write(piece) :]
            self.bytes += size
        path.unlink(missing_ok=True)
        self.lines.append(answer)
        self._pending.append(answer)

    def _sync(self, frames, index) -> None:
        os.fsync(frames.fileno())
        index.write(b"".join(store.index_line(line) for line in self._pending))
        index.flush()
        os.fsync(index.fileno())
        self._pending, self._synced = [], time.monotonic()

    def skipped(self) -> list[tuple[str, str]]:
        """Returns the names of the skipped videos, and the reasons."""
        bad = [line for line in self.lines if "skipped" in line]
        return [(store.label(self.split, line["name"]), line["skipped"]) for line in bad]

    def statistics(self) -> dict:
        """Returns the split's counts, mean and standard deviation per channel, and a checksum."""
        lines = [line for line in self.lines if "skipped" not in line]
        frames = [line["frames"] for line in lines]
        values = self.bytes / len(lines[0]["sum"])  # Per channel.
        mean = np.sum([line["sum"] for line in lines], 0) / values
        variance = np.sum([line["squares"] for line in lines], 0) / values - mean**2
        return {
            "clips": len(lines),
            "skipped": len(self.lines) - len(lines),
            "frames": sum(frames),
            "shortest": min(frames),
            "longest": max(frames),
            "mean": mean.round(4).tolist(),
            "stddev": np.sqrt(np.maximum(variance, 0)).round(4).tolist(),
            "index_sha256": hashlib.sha256(self._index_path.read_bytes()).hexdigest(),
        }


def _whole_lines(path: pathlib.Path) -> list[dict]:
    """Returns an index's lines up to the first incomplete one."""
    lines = []
    for text in path.read_bytes().splitlines(keepends=True):
        if not text.endswith(b"\n"):
            break
        try:
            lines.append(json.loads(text))
        except ValueError:
            break
    return lines


def _finish(
    source: Source,
    folder: pathlib.Path,
    partial: pathlib.Path,
    kept: dict[str, _Writer],
    stamps: dict[str, str] | None,
) -> None:
    """Writes the store's summary, and renames its folder."""
    skipped = [f"{name}: {why}\n" for writer in kept.values() for name, why in writer.skipped()]
    # Names of files need not be UTF-8.
    (partial / "skipped.txt").write_text("".join(skipped), errors="backslashreplace")
    for split, writer in kept.items():
        if writer.bytes == 0:
            (partial / "plan.json").unlink()  # There is nothing to resume.
            raise UserError(
                f"{source.name}: none of the {len(writer.items)} {split} videos can be used; the"
                f" reasons are in {partial / 'skipped.txt'}. The first: {''.join(skipped[:1])}"
            )
    content = {
        "name": source.name,
        "description": source.describe(),
        "frame_shape": source.frame_shape,
        "made": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "splits": {split: writer.statistics() for split, writer in kept.items()},
        "kind": source.kind,
        "stamps": stamps,
    }
    store.write_summary(partial, content)
    # After a kill from here on, the next process finds all videos prepared, or the finished store.
    old = folder.with_name(folder.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():  # With `again`. Processes that have it open keep its files.
        folder.rename(old)
    partial.rename(folder)
    (folder / "plan.json").unlink()
    shutil.rmtree(old, ignore_errors=True)


def _report(source: Source, folder: pathlib.Path, kept: dict[str, _Writer], seconds: float) -> None:
    splits = store.summary(folder)["splits"]
    counts = " and ".join(f"{splits[split]['clips']} {split}" for split in kept)
    size = size_text(sum(writer.bytes for writer in kept.values()))
    print(f"Prepared {source.name}: {counts} videos, {size}, {seconds:.0f} s.", file=sys.stderr)
    skipped = collections.defaultdict(list)
    for name, reason in itertools.chain(*(writer.skipped() for writer in kept.values())):
        skipped[reason].append(name)
    if skipped:
        bad, total = sum(map(len, skipped.values())), sum(len(w.items) for w in kept.values())
        shown = [
            f"\n  {names[0]}{f' and {len(names) - 1} more' if names[1:] else ''}: {reason}"
            for reason, names in list(skipped.items())[:_SHOWN_REASONS]
        ]
        more = "\n  ..." if len(skipped) > _SHOWN_REASONS else ""
        print(
            f"warning: {bad} of {total} videos cannot be used and were skipped, see"
            f" {folder / 'skipped.txt'}:{''.join(shown)}{more}",
            file=sys.stderr,
        )


def size_text(count: float) -> str:
    """Returns a number of bytes in a readable unit."""
    return tqdm.tqdm.format_sizeof(count, "B")


def _disk_error(error: OSError, folder: pathlib.Path) -> UserError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        place, problem, advice = folder.parent, "the disk is full", "make room"
    else:
        place, problem = error.filename or folder.parent, error.strerror or error
        advice = "make the folder writable"
    return UserError(
        f"{place}: {problem}. Prepared videos are kept: {advice}, and the same command resumes; or"
        " set data.data_dir to another folder."
    )
