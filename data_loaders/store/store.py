"""A store: the videos of a data set as plain uint8 frames, prepared once, read at any place.

A store is a folder:

  store.json         what it was made of, by whom, and each split's counts and statistics
  train.frames       uint8 [frames, H, W, C], all clips one after the other, nothing else
  train.index.jsonl  a line per video of the source, in order: its name, and either its frames, its
                     SHA-256 and that of the source's bytes, or why it was left out
  test.frames, test.index.jsonl
  skipped.txt        the videos that were left out, and why

`numpy.memmap` reads a `.frames` file as it is. Here frames are read with `pread` straight into the
batch instead, from the same page cache and about as fast: what a memory map has touched counts as
memory of the process, which seems to grow to the size of the data (benchmarks/data.py).

H, W and C are the height, width and channels of a frame.
"""

import contextlib
import hashlib
import json
import math
import os
import pathlib
import sys
from collections.abc import Iterator

import numpy as np

from cwvae.errors import UserError
from cwvae.run import files
from data_loaders.attributes import Readable
from data_loaders.pipeline import Dataset
from data_loaders.sources import SPLITS, BadVideo, Source
from data_loaders.windows import UnequalClips

FORMAT = 1
_PIECE = 2**24  # Bytes read at a time when a clip is verified.


def folder_of(source: Source, data_dir: pathlib.Path) -> pathlib.Path:
    """Returns where the store of a source is, or is to be: one folder for each description."""
    text = json.dumps([FORMAT, source.describe()], sort_keys=True)
    size = "x".join(map(str, source.frame_shape))
    key = hashlib.sha256(text.encode()).hexdigest()[:8]
    return data_dir / "stores" / f"{source.name}-{size}-{key}"


def frames_file(folder: pathlib.Path, split: str) -> pathlib.Path:
    """Returns the file with the frames of a split."""
    return folder / f"{split}.frames"


def index_file(folder: pathlib.Path, split: str) -> pathlib.Path:
    """Returns the file that lists the videos of a split."""
    return folder / f"{split}.index.jsonl"


def label(split: str, name: str) -> str:
    """Returns what to call a video in messages: with its split, which most names begin with."""
    return name if name.startswith(split) else f"{split}/{name}"


def is_complete(folder: pathlib.Path) -> bool:
    """Says whether a store is there; one that is being prepared has another name."""
    return (folder / "store.json").is_file()


def summary(folder: pathlib.Path) -> dict:
    """Returns what store.json says.

    Raises:
      UserError: It cannot be read, or another version of this program wrote it.
    """
    path = folder / "store.json"
    try:
        content = json.loads(path.read_text())
        version, digest = content.pop("format"), content.pop("sha256", None)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(path, f"cannot be read ({type(error).__name__})") from None
    if version != FORMAT:
        raise _damaged(path, f"has format {version}, and this version reads {FORMAT}")
    if digest != _digest(content):
        raise _damaged(path, "is not what was written: its checksum differs")
    return content


def write_summary(folder: pathlib.Path, content: dict) -> None:
    """Writes store.json, whole or not at all."""
    text = json.dumps({"format": FORMAT, **content, "sha256": _digest(content)}, indent=1)
    files.write(folder / "store.json", text)


def _digest(content: dict) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


class Store(Dataset):
    """One split of a store."""

    def __init__(self, folder: pathlib.Path, split: str, source: Source | None = None):
        """Opens a store, and compares its files' sizes, not their content: `verify` does that.

        Args:
          folder: The store.
          split: 'train' or 'test'.
          source: What it was made of, for `attributes`.

        Raises:
          UserError: A file of the store is missing or damaged.
        """
        content = summary(folder)
        self.folder, self.split, self._source = folder, split, source
        self.fingerprint = content["splits"][split]["index_sha256"]
        lines = _read_index(folder, split, self.fingerprint)
        self._lines = [line for line in lines if "skipped" not in line]
        frames = np.array([line["frames"] for line in self._lines], np.int64)
        super().__init__(UnequalClips(frames), tuple(content["frame_shape"]))
        self._frame_bytes = math.prod(self.frame_shape)
        ends = np.cumsum(frames) * self._frame_bytes
        self._offsets = ends - frames * self._frame_bytes
        self._path = frames_file(folder, split)
        try:
            self._file = open(self._path, "rb", buffering=0)  # noqa: SIM115 - for as long as self
            size = os.fstat(self._file.fileno()).st_size
        except OSError as error:
            raise _damaged(self._path, f"cannot be read ({error.strerror})") from None
        if size != ends[-1]:
            raise _damaged(self._path, f"has {size} bytes, not {ends[-1]} as its index says")

    def name(self, i: int) -> str:
        """Returns what the source calls clip `i`, such as a file's name."""
        self._check_index(i)
        return self._lines[i]["name"]

    def clip(self, i: int, start: int = 0, length: int | None = None) -> np.ndarray:
        """As in `Dataset`."""
        length = self._window_length(i, start, length)
        video = np.empty((length, *self.frame_shape), np.uint8)
        self._read_into(video, i, start)
        return video

    def attributes(
        self, i: int, start: int = 0, length: int | None = None
    ) -> dict[str, np.ndarray]:
        """Returns what the source knows of the content of `clip(i, start, length)`, by name."""
        length = self._window_length(i, start, length)
        if self._source is None:
            return {}
        whole, stop = self.length(i), start + length
        known = self._source.attributes(self.split, self.name(i))
        return {
            name: values[start:stop] if np.shape(values)[:1] == (whole,) else values
            for name, values in known.items()
        }

    def readable(self) -> tuple[Readable, ...]:
        """Returns what the source says can be read from a single frame."""
        return self._source.readable() if self._source else ()

    def verify(self) -> Iterator[tuple[str, bool]]:
        """Reads every byte; yields each clip's name, and whether its frames are what they were."""
        for i, line in enumerate(self._lines):
            digest = hashlib.sha256()
            left, offset = line["frames"] * self._frame_bytes, int(self._offsets[i])
            while left:
                piece = os.pread(self._file.fileno(), min(left, _PIECE), offset)
                if not piece:
                    break
                digest.update(piece)
                left, offset = left - len(piece), offset + len(piece)
            yield line["name"], digest.hexdigest() == line["sha256"]

    def _read_into(self, video: np.ndarray, i: int, start: int) -> None:
        memory = memoryview(video.reshape(-1))
        offset, done = int(self._offsets[i]) + start * self._frame_bytes, 0
        while done < len(memory):  # The system reads at most 2 GiB at a time.
            try:
                count = os.preadv(self._file.fileno(), [memory[done:]], offset + done)
            except OSError as error:
                raise _damaged(self._path, f"cannot be read ({error.strerror})") from None
            if count == 0:
                raise _damaged(self._path, "was cut short while it was in use")
            done += count


def _read_index(folder: pathlib.Path, split: str, digest: str) -> list[dict]:
    path = index_file(folder, split)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise _damaged(path, f"cannot be read ({error.strerror})") from None
    if hashlib.sha256(content).hexdigest() != digest:
        raise _damaged(path, "is not what was written: its checksum differs")
    return [json.loads(line) for line in content.splitlines()]


def _damaged(path: pathlib.Path, problem: str) -> UserError:
    return UserError(
        f"{path}: {problem}. Delete the folder {path.parent}; it is prepared again on its next use."
    )


def verify(folder: pathlib.Path) -> Iterator[tuple[str, str, bool]]:
    """Reads every byte of a store; yields each clip's split and name, and whether it is whole.

    Raises:
      UserError: A file of the store is missing, or its index is damaged.
    """
    for split in SPLITS:
        for name, whole in Store(folder, split).verify():
            yield split, name, whole


def check_unchanged(source: Source, folder: pathlib.Path) -> None:
    """Refuses a store whose source has other files by now: a run's data would change silently.

    Raises:
      UserError: Files are new, gone or have another content.
    """
    content, now = summary(folder), source.stamps()
    then = content["stamps"]
    if now is None or then == now:
        return
    print(f"{source.name}: comparing with {folder}, for files have other times.", file=sys.stderr)
    differ = {name for name in now.keys() & then.keys() if now[name] != then[name]}
    changes = [f"{name} is new" for name in now.keys() - then.keys()]
    changes += [f"{name} is gone" for name in then.keys() - now.keys()]
    changes += [f"{name} has changed" for name in _other_content(source, folder, content, differ)]
    if not changes:
        with contextlib.suppress(OSError):  # Where it cannot be written, this is done each time.
            write_summary(folder, content | {"stamps": now})
        return
    shown = ", ".join(sorted(changes)[:3]) + (", ..." if len(changes) > 3 else "")
    raise UserError(
        f"{source.name}: the videos are not those that {folder} was prepared from ({len(changes)}"
        f" differ: {shown}). To take them as they are now, delete that folder, or run `python -m"
        f" data_loaders prepare {source.name} --again` with the same --config and --set; to keep"
        " the old ones, put them back."
    )


def _other_content(
    source: Source, folder: pathlib.Path, content: dict, names: set[str]
) -> list[str]:
    """Returns which videos are not what the store was made of: a copy of a file has a new time."""
    found = []
    for split in SPLITS if names else ():
        for line in _read_index(folder, split, content["splits"][split]["index_sha256"]):
            if line["name"] not in names:
                continue
            try:
                same = source.digest(split, line["name"]) == line.get("source_sha256")
            except BadVideo:
                same = False
            if not same:
                found.append(line["name"])
    return found
