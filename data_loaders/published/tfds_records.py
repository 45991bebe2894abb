"""Finds the videos in a folder that `tensorflow_datasets` (tfds) prepared, and their frames.

Neither tfds nor TensorFlow is needed. Such a folder, `<data_dir>/<name>/<version>`, holds
`dataset_info.json` and the shards of each split, files of records that are one video each:

  shard    TFRecord: for each record uint64 size, uint32 CRC, the record, uint32 CRC; little-endian
  record   tf.train.Example, a protocol buffer: features (field 1) > map entry (1) > key (1) and
           value (2); the value of the key "video" > bytes_list (1) > value (1), one PNG per frame

Both say how long each part is, so that one can hop to any frame without reading the others. The
CRCs of TFRecord, CRC-32C, would be slow to compute in Python. They are not looked at: each chunk of
a PNG has its own CRC-32, which zlib computes in microseconds.

T, H, W and C are the frames of a video, and the height, width and channels of a frame.
"""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from cwvae.errors import UserError
from data_loaders.sources import BadVideo

_FEATURE = b"video"
_SAMPLE = 16  # Records of a split whose frames are counted to estimate those of all.
_HEADER = 12  # Bytes before a record: its size, and the CRC of that.
_FOOTER = 4  # Bytes after it: its CRC.
_FIXED_SIZES = {1: 8, 5: 4}  # Bytes of a number, by its protocol buffer wire type.


def find(data_dir: str | os.PathLike, name: str) -> Path | None:
    """Returns the newest complete folder `<data_dir>/<name>/1.x.y`, or None.

    tfds writes to a folder with a longer name and renames it at the end: what it left half-made is
    not taken.
    """
    found = []
    for path in Path(data_dir).expanduser().glob(f"{name}/1.*/dataset_info.json"):
        version = path.parent.name
        if re.fullmatch(r"1\.\d+\.\d+", version):
            found.append(([int(number) for number in version.split(".")], path.parent))
    return max(found)[1] if found else None


class Records:
    """Where the records of one split lie. Plain data, without open files."""

    def __init__(self, folder: Path, split: str):
        """Finds each record of each shard by hopping from one to the next.

        Args:
          folder: As `find` returns it.
          split: 'train' or 'test'.

        Raises:
          UserError: Another format, or files that are missing or damaged.
        """
        self.folder = folder
        self._shards = _list_shards(folder, split)
        spans = [_find_records(path, count, folder) for path, count in self._shards]
        if not any(len(shard) for shard in spans):
            raise UserError(f"{folder}: the split {split!r} holds no records. {anew(folder)}")
        self._numbers = np.repeat(np.arange(len(spans)), [len(shard) for shard in spans])
        self._spans = np.concatenate(spans)  # int64 [N, 2]: first byte in the shard, and size.
        self._check_features()

    def __len__(self) -> int:
        """The number of records."""
        return len(self._spans)

    def where(self, i: int) -> str:
        """Returns the file of record `i` and its place there, for messages."""
        shard = self._numbers[i]
        place = i - int(np.searchsorted(self._numbers, shard))
        return f"{self._shards[shard][0]}, record {place}"

    def read(self, i: int, start: int = 0, size: int | None = None) -> bytes:
        """Returns `size` bytes of record `i` from byte `start`; without a size, to its end.

        Raises:
          BadVideo: They cannot be read.
        """
        first, record_size = self._spans[i].tolist()
        size = record_size - start if size is None else size
        try:
            with self._shards[self._numbers[i]][0].open("rb", buffering=0) as file:
                file.seek(first + start)
                data = file.read(size)
        except OSError as error:
            raise BadVideo(f"cannot be read ({error})") from error
        if len(data) != size:
            raise BadVideo("the file has become shorter")
        return data

    def count_frames(self) -> int:
        """Returns about how many frames all records have, from some that are spread over them."""
        sample = np.unique(np.linspace(0, len(self) - 1, _SAMPLE).astype(int)).tolist()
        counts = []
        for i in sample:
            try:
                counts.append(len(frame_spans(self.read(i))))
            except BadVideo:
                counts.append(0)
        return -(-sum(counts) * len(self) // len(counts))  # Rounded up.

    def _check_features(self) -> None:
        try:
            names = _features(self.read(0))
        except (BadVideo, ValueError):
            return  # One bad video, for all that is known: said when it is read.
        if _FEATURE not in names:
            found = ", ".join(sorted(name.decode(errors="replace") for name in names)) or "nothing"
            raise UserError(
                f"{self.folder}: its records have no feature 'video'; found: {found}. Set another "
                "data.data_dir, and the data set is prepared there."
            )


def frame_spans(record: bytes) -> np.ndarray:
    """Returns where the PNGs of a record lie: first byte and end, int64 [T, 2].

    Raises:
      BadVideo: It is no `tf.train.Example`, or one without a video.
    """
    try:
        features = _features(record)
        if _FEATURE not in features:
            raise BadVideo("the record has no feature 'video'")
        start, end = features[_FEATURE]
        lists = [span[1:] for span in _fields(record, start, end) if span[0] == 1]
        spans = [span[1:] for part in lists for span in _fields(record, *part) if span[0] == 1]
    except ValueError as error:
        raise BadVideo(f"the record is no tf.train.Example ({error})") from error
    if not spans:
        raise BadVideo("the record holds no frames")
    return np.array(spans, np.int64)


def anew(folder: Path) -> str:
    """Returns the sentence that says what to do about a damaged folder."""
    return f"Restore the files, or delete the folder {folder} and prepare the data set anew."


def _list_shards(folder: Path, split: str) -> list[tuple[Path, int | None]]:
    """Returns the files of a split, each with its number of records, None where that is unknown."""
    path = folder / "dataset_info.json"
    try:
        info = json.loads(path.read_text(encoding="utf-8"))
        splits = {part["name"]: part for part in info["splits"]}
        part = splits.get(split, {})
        # The first versions of tfds wrote the number of shards only.
        counts = part.get("shardLengths") or [None] * int(part.get("numShards", 0))
        counts = [None if count is None else int(count) for count in counts]
        file_format = info.get("fileFormat", "tfrecord")
        stem = f"{info['name']}-{split}.tfrecord"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path}: is not the description of a data set that tfds writes "
            f"({type(error).__name__}: {error}). {anew(folder)}"
        ) from error
    if split not in splits:
        raise UserError(
            f"{folder}: has no split {split!r}; found: {', '.join(map(str, splits)) or 'none'}. "
            f"{anew(folder)}"
        )
    if file_format != "tfrecord":
        raise UserError(
            f"{folder}: holds files of the format {file_format!r}; only 'tfrecord' can be read. "
            "Delete the folder and prepare the data set anew, or set another data.data_dir."
        )
    ending = f"of-{len(counts):05d}"
    return [(folder / f"{stem}-{i:05d}-{ending}", count) for i, count in enumerate(counts)]


def _find_records(path: Path, count: int | None, folder: Path) -> np.ndarray:
    """Returns where the records of a shard lie: first byte and size, int64 [N, 2]."""
    spans = []
    try:
        with path.open("rb", buffering=0) as file:
            end = file.seek(0, os.SEEK_END)
            at = 0
            while at < end:
                file.seek(at)
                size = int.from_bytes(file.read(_HEADER)[:8], "little")
                spans.append((at + _HEADER, size))
                at += _HEADER + size + _FOOTER
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}). {anew(folder)}") from error
    if at > end:
        raise UserError(
            f"{path}: is cut short or damaged: record {len(spans) - 1} should end at byte {at}, "
            f"the file ends at byte {end}. {anew(folder)}"
        )
    if count is not None and len(spans) != count:
        raise UserError(
            f"{path}: holds {len(spans)} records; dataset_info.json announces {count}. "
            f"{anew(folder)}"
        )
    return np.array(spans, np.int64).reshape(-1, 2)


def _features(record: bytes) -> dict[bytes, tuple[int, int]]:
    """Returns where the values of a tf.train.Example lie, by name; ValueError if it is none."""
    found = {}
    for number, *features in _fields(record, 0, len(record)):
        entries = _fields(record, *features) if number == 1 else ()
        for number, *entry in entries:
            parts = {part: (start, end) for part, start, end in _fields(record, *entry)}
            if number == 1 and parts.keys() >= {1, 2}:
                start, end = parts[1]
                found[record[start:end]] = parts[2]
    return found


def _fields(data: bytes, at: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Yields (number, first byte, end) of what a message holds; plain numbers are passed over."""
    while at < end:
        key, at = _varint(data, at, end)
        wire_type = key & 7
        if wire_type == 0:
            _, at = _varint(data, at, end)
        elif wire_type == 2:
            size, at = _varint(data, at, end)
            if at + size <= end:
                yield key >> 3, at, at + size
            at += size
        elif wire_type in _FIXED_SIZES:
            at += _FIXED_SIZES[wire_type]
        else:
            raise ValueError(f"wire type {wire_type} at byte {at}")
    if at != end:
        raise ValueError(f"a field runs over its end at byte {end}")


def _varint(data: bytes, at: int, end: int) -> tuple[int, int]:
    """Returns a number of seven bits a byte, lowest first, and where it ends."""
    value = 0
    for shift in range(0, 64, 7):
        if at == end:
            break
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
    raise ValueError(f"an endless number at byte {at}")
