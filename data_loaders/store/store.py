"""A store: the videos of a data set as plain uint8 frames, prepared once, with random access.

A store is a folder:

  store.json         its source with stamps of its files, and each split's counts and statistics
  train.frames       uint8 [frames, H, W, C], all clips one after the other, nothing else
  train.index.jsonl  a line per video of the source, in order: its name, the SHA-256 of the source's
                     bytes, what was done to it, and either its number of frames and their SHA-256,
                     or why it was skipped
  test.frames, test.index.jsonl
  skipped.txt        the skipped videos, with reasons

`Store` reads with `pread`, which is about as fast as a memory map (benchmarks/data.py), whose pages
count as memory of the process. H, W and C are the height, width and channels of a frame.
"""

import contextlib
import hashlib
import itertools
import json
import math
import os
import pathlib
import sys
from collections.abc import Iterator

import numpy as np
import tqdm

from cwvae.errors import UserError
from cwvae.run import files
from data_loaders.attributes import Attributes, Readable
from data_loaders.pipeline import Dataset
from data_loaders.sources import SPLITS, BadVideo, Source
from data_loaders.windows import Clips

FORMAT = 1
_PIECE = 64  # Frames read at a time when a clip is verified.

# Keys of the index that do not identify clips: versions word notes in different ways.
_REMARKS = ("notes", "unreadable")

_KINDS = {"archives": "the published archives", "tfds": "a folder of tensorflow-datasets"}

# What this process has told or compared, by store: each is done once even if it cannot be saved.
_told: set[pathlib.Path] = set()
_compared: dict[pathlib.Path, tuple[dict, dict]] = {}


def folder_of(source: Source, data_dir: pathlib.Path) -> pathlib.Path:
    """Returns the folder of a source's store, which need not exist: one for each description."""
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
    """Returns a video's name with its split, for messages. Most names already begin with it."""
    return name if name.startswith(split) else f"{split}/{name}"


def is_complete(folder: pathlib.Path) -> bool:
    """Returns whether a store exists. One that is being prepared has another name."""
    return (folder / "store.json").is_file()


def summary(folder: pathlib.Path) -> dict:
    """Returns the content of store.json.

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
        raise _damaged(path, f"has format {version}, but this version reads {FORMAT}")
    if digest != _digest(content):
        raise _damaged(path, "checksum mismatch")
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
        """Opens a store and checks the sizes of its files; `verify` checks their content.

        Args:
          folder: The store.
          split: 'train' or 'test'.
          source: The source it was made from, for `attributes`.

        Raises:
          UserError: A file of the store is missing or damaged.
        """
        content = summary(folder)
        self.folder, self.split, self._source = folder, split, source
        lines = _read_index(folder, split, content)
        self.fingerprint = _fingerprint(lines)
        self._lines = [line for line in lines if "skipped" not in line]
        frames = np.array([line["frames"] for line in self._lines], np.int64)
        super().__init__(Clips(frames), tuple(content["frame_shape"]))
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
            raise _damaged(self._path, f"has {size} bytes; its index says {ends[-1]}")

    def name(self, i: int) -> str:
        """Returns the source's name for clip `i`, such as a file's name."""
        self._check_index(i)
        return self._lines[i]["name"]

    def clip(self, i: int, start: int = 0, length: int | None = None) -> np.ndarray:
        """As in `Dataset`."""
        length = self._window_length(i, start, length)
        video = np.empty((length, *self.frame_shape), np.uint8)
        self._read_into(video, i, start)
        return video

    def attributes(self, i: int, start: int = 0, length: int | None = None) -> Attributes:
        """Returns the source's attributes of `clip(i, start, length)`, by name."""
        length = self._window_length(i, start, length)
        if self._source is None:
            return {}
        return self._source.attributes(self.split, self.name(i), start, start + length)

    def readable(self) -> tuple[Readable, ...]:
        """As in `Dataset`: those of the source."""
        return self._source.readable() if self._source else ()

    def is_intact(self, i: int) -> bool:
        """Reads all frames of clip `i`, in pieces, and compares their checksum."""
        digest, length = hashlib.sha256(), self.length(i)
        for start in range(0, length, _PIECE):
            digest.update(self.clip(i, start, min(_PIECE, length - start)))
        return digest.hexdigest() == self._lines[i]["sha256"]

    def _read_into(self, video: np.ndarray, i: int, start: int) -> None:
        memory = memoryview(video.reshape(-1))
        offset, done = int(self._offsets[i]) + start * self._frame_bytes, 0
        while done < len(memory):  # One call reads at most 2 GiB.
            try:
                count = os.preadv(self._file.fileno(), [memory[done:]], offset + done)
            except OSError as error:
                raise _damaged(self._path, f"cannot be read ({error.strerror})") from None
            if count == 0:
                raise _damaged(self._path, "was cut short while it was in use")
            done += count


def index_line(answer: dict) -> bytes:
    """Returns the line of an index for a result of `processes.read_one`."""
    return (json.dumps(answer) + "\n").encode()


def _fingerprint(lines: list[dict]) -> str:
    """Returns the SHA-256 of an index without remarks; earlier versions wrote none."""
    digest = hashlib.sha256()
    for line in lines:
        digest.update(index_line({k: v for k, v in line.items() if k not in _REMARKS}))
    return digest.hexdigest()


def _read_index(folder: pathlib.Path, split: str, content: dict) -> list[dict]:
    """Returns the lines of an index, after comparing its checksum with store.json's `content`."""
    path, expected = index_file(folder, split), content["splits"][split]["index_sha256"]
    try:
        text = path.read_bytes()
    except OSError as error:
        raise _damaged(path, f"cannot be read ({error.strerror})") from None
    if hashlib.sha256(text).hexdigest() != expected:
        raise _damaged(path, "checksum mismatch")
    return [json.loads(line) for line in text.splitlines()]


def _damaged(path: pathlib.Path, problem: str) -> UserError:
    return UserError(
        f"{path}: {problem}. Delete the folder {path.parent}; it is prepared again on its next use."
    )


def verify(folder: pathlib.Path) -> Iterator[tuple[str, str, bool]]:
    """Reads every byte of a store; yields each clip's split and name, and whether it is intact.

    Raises:
      UserError: A file of the store is missing, or its index is damaged.
    """
    for split in SPLITS:
        data = Store(folder, split)
        yield from ((split, data.name(i), data.is_intact(i)) for i in range(len(data)))


def report(
    folder: pathlib.Path,
) -> Iterator[tuple[str, str, int | None, list[str], str | None]]:
    """Yields what is known of every video of a store, used or skipped, in order.

    Yields:
      Its split, its name, its number of frames (None if it was skipped), notes on what was done to
      it, and why it was skipped (None if it was not).

    Raises:
      UserError: The store cannot be read.
    """
    content = summary(folder)
    for split in SPLITS:
        for line in _read_index(folder, split, content):
            notes, reason = line.get("notes", []), line.get("skipped")
            yield split, line["name"], line.get("frames"), notes, reason


def check_unchanged(source: Source, folder: pathlib.Path) -> None:
    """Rejects a store if its source has changed, since a run's data would change silently.

    Only videos whose stamps differ are read. A source whose files no longer exist is not checked.

    Raises:
      UserError: Videos were added, removed or moved to the other split, their content has changed,
        or skipped ones can be read now.
    """
    now = source.stamps()
    if now is None:
        return
    content = summary(folder)
    lines = {split: _read_index(folder, split, content) for split in SPLITS}
    made_from = _kind(content, lines) if source.kind else None
    if made_from != source.kind:
        if folder not in _told:
            _told.add(folder)
            print(
                f"{source.name}: the store {folder} was made from {_KINDS[made_from]}. Found as"
                f" well, and not used: {_KINDS[source.kind]}.",
                file=sys.stderr,
            )
        return
    changes = []
    for split in SPLITS:
        then, present = {line["name"] for line in lines[split]}, set(source.items(split))
        changes += [f"{name} is new in {split}" for name in present - then]
        changes += [f"{name} is gone from {split}" for name in then - present]
    # Not before all names are equal: it may take hours.
    changes = changes or _other_content(source, folder, content, lines, now)
    if changes:
        shown = ", ".join(sorted(changes)[:3]) + (", ..." if len(changes) > 3 else "")
        raise UserError(
            f"{source.name}: the videos are not those that {folder} was prepared from"
            f" ({len(changes)} differ: {shown}). To use the present videos, delete that folder, or"
            f" run `python -m data_loaders prepare {source.name} --again` with the same --config"
            " and --set; to keep the old ones, restore them."
        )
    if now != content["stamps"]:
        _compared[folder] = content, now
        # Not into a store that was made again meanwhile, nor into a read-only folder.
        with contextlib.suppress(OSError):
            if summary(folder) == content:
                write_summary(folder, content | {"stamps": now})


def _kind(content: dict, lines: dict[str, list[dict]]) -> str:
    """Returns the kind of source that a store of a published data set was made from."""
    if "kind" in content:
        return content["kind"]
    # An earlier version made it. Only records of tfds have numbers for names.
    numbered = all(line["name"].isdecimal() for line in itertools.chain(*lines.values()))
    return "tfds" if numbered else "archives"


def _other_content(
    source: Source,
    folder: pathlib.Path,
    content: dict,
    lines: dict[str, list[dict]],
    now: dict[str, str],
) -> list[str]:
    """Returns the videos with other content than in the store; a mere copy has a new time, too.

    `lines` are those of the index, by split; `now` are the source's stamps.
    """
    then = content["stamps"] or {}  # Earlier versions had no stamps of published data sets.
    differ = {name for name, stamp in now.items() if then.get(name) != stamp}
    if _compared.get(folder) == (content, now):
        differ = set()
    videos = [
        (split, line)
        for split in SPLITS
        for line in lines[split]
        if line["name"] in differ or _could_not_be_read(line)
    ]
    count = sum(line["name"] in differ for _, line in videos)
    if count:
        print(
            f"{source.name}: comparing the content of {count} videos with {folder}, once: their"
            " sizes or times are not those that it recorded, or it recorded none.",
            file=sys.stderr,
        )
    changes = []
    for split, line in tqdm.tqdm(videos, "comparing", unit="video", leave=False, disable=None):
        if problem := _change(source, split, line):
            changes.append(f"{label(split, line['name'])} {problem}")
    return changes


def _could_not_be_read(line: dict) -> bool:
    """Returns whether a video was skipped for a reason that may pass, such as permissions."""
    return "unreadable" in line or line.get("source_sha256", "") is None


def _change(source: Source, split: str, line: dict) -> str | None:
    """Returns in words how a video differs from its line in the index; None if it does not."""
    if "source_sha256" not in line:  # It crashed an earlier version, which did not record it.
        return None
    try:
        digest = source.digest(split, line["name"])
    except BadVideo as error:
        return None if "skipped" in line else str(error)
    if _could_not_be_read(line):
        return "can be read now"
    return None if digest == line["source_sha256"] else "has changed"
