"""The videos in a folder that `tensorflow_datasets` (tfds) prepared.

Nothing here starts TensorFlow, whose reader gives up a file at the first damaged record and cannot
jump to a record. The folder, `<data_dir>/<name>/<version>`, holds `dataset_info.json` and shards. A
shard is a TFRecord file: for each record its size (uint64, little-endian), a CRC (uint32), the
record and its CRC (uint32). A record is one video, a `tf.train.Example` with one PNG per frame.
CRC-32C is slow in Python, so these CRCs are not checked: each chunk of a PNG has its own.
"""

import collections
import hashlib
import io
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

from cwvae.errors import UserError
from data_loaders.sources import (
    SPLITS,
    BadVideo,
    Note,
    Source,
    UnreadableVideo,
    check_choice,
    ignore_note,
)
from data_loaders.video.frames import BLOCK_LENGTH, FrameFormat

RECORD_SIZE = 64  # Height and width of the stored frames, in every data set that is read here.
_SAMPLE = 16  # Records per split that are read to estimate its number of frames.
_DEPTH = 24  # Position in a PNG of its number of bits per value.
_HEADER, _FOOTER = 12, 4  # Bytes before and after each record of a shard.


def find(data_dir: str | os.PathLike, name: str) -> Path | None:
    """Returns the newest complete folder `<data_dir>/<name>/1.x.y`, or None.

    tfds writes to a folder with a longer name and renames it at the end.
    """
    paths = Path(data_dir).expanduser().glob(f"{name}/1.*/dataset_info.json")
    found = [path.parent for path in paths if re.fullmatch(r"1\.\d+\.\d+", path.parent.name)]
    return max(found, key=lambda path: [int(n) for n in path.name.split(".")], default=None)


class TfdsDirectory(Source):
    """The videos of a prepared folder. Items are the numbers of records."""

    kind = "tfds"

    def __init__(
        self,
        *,
        name: str,
        folder: str | os.PathLike,
        description: dict[str, object],
        frame_size: int = RECORD_SIZE,
        channels: int = 3,
        fit: str = "crop",
        resize: str = "area",
    ):
        """Stores the options. Nothing is read before `fetch`.

        Args:
          name: The data set's name.
          folder: The folder, as `find` returns it.
          description: The description of the archives, so both lead to the same store.
          frame_size: H and W of the returned frames, in pixels.
          channels: C of the returned frames, 1 or 3. The PNGs may have others.
          fit: See `FrameFormat`.
          resize: See `FrameFormat`.
        """
        super().__init__(name, frame_size, channels)
        self._folder = Path(folder).expanduser()
        self._description = dict(description)
        self._format = FrameFormat(frame_size, channels, fit, resize)
        self._shards: dict[str, list[tuple[Path, int | None]]] = {}
        self._records: dict[str, list[_Record]] = {}

    def describe(self) -> dict[str, object]:
        """Returns the description given to the constructor."""
        return dict(self._description)

    def fetch(self) -> None:
        """Finds the records of both splits.

        Raises:
          UserError: The folder has another format, or files are missing or damaged.
        """
        for split in SPLITS:
            self._split(split)

    def stamps(self) -> dict[str, str] | None:
        """Returns, per number, what identifies the records of both splits that have it.

        That is each record's number in its shard, and the shard's size in bytes and times of
        modification and status change in ns. A record's place in the shard is not needed, and to
        find it takes a disk access per record. None if a shard is missing.
        """
        shards = [path for split in SPLITS for path, _ in self._list_shards(split)]
        if not all(path.is_file() for path in shards):
            return None
        found = collections.defaultdict(list)
        for split in SPLITS:
            items = iter(self.items(split))
            for path, count in self._counted_shards(split):
                status = path.stat()
                shard = f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"
                for number in range(count):
                    found[next(items)].append(f"{number} of {shard}")
        return {item: ", ".join(records) for item, records in found.items()}

    def items(self, split: str) -> list[str]:
        """Returns the numbers of the records, in the order of the files."""
        check_choice("split", split, SPLITS)
        return [f"{i:05d}" for i in range(sum(n for _, n in self._counted_shards(split)))]

    def expected_frames(self) -> int:
        """Returns an estimate from some records; exact if all videos have the same length."""
        return sum(_estimate_frames(self._split(split)) for split in SPLITS)

    def digest(self, split: str, item: str) -> str:
        """Returns the SHA-256 of a record."""
        return hashlib.sha256(self._split(split)[int(item)].read()).hexdigest()

    def read(self, split: str, item: str, note: Note = ignore_note) -> Iterator[np.ndarray]:
        """As in `Source`."""
        pngs = _pngs(self._split(split)[int(item)].read())
        size, channels = RECORD_SIZE, self._format.channels
        changes = self._format.changes(size, size, channels)
        note(f"record of tensorflow-datasets with {len(pngs)} PNGs of {size}x{size}: {changes}")
        for first in range(0, len(pngs), BLOCK_LENGTH):
            block = enumerate(pngs[first : first + BLOCK_LENGTH], first)
            frames = [decode_png(png, number, channels, note) for number, png in block]
            yield self._format.convert(np.stack(frames))

    def _list_shards(self, split: str) -> list[tuple[Path, int | None]]:
        if split not in self._shards:
            self._shards[split] = _list_shards(self._folder, split)
        return self._shards[split]

    def _counted_shards(self, split: str) -> list[tuple[Path, int]]:
        """Returns a split's files with their numbers of records, without reading them if known."""
        shards = self._list_shards(split)
        if all(count is not None for _, count in shards):
            return shards
        counts = collections.Counter(record.path for record in self._split(split))
        return [(path, counts[path]) for path, _ in shards]

    def _split(self, split: str) -> list["_Record"]:
        if split not in self._records:
            self._records[split] = _find_records(self._folder, split, self._list_shards(split))
        return self._records[split]


class _Record(NamedTuple):
    """The place of a record in its shard; `start` and `size` are in bytes."""

    path: Path
    start: int
    size: int

    def read(self) -> bytes:
        """Returns the record; raises a `BadVideo`, perhaps an `UnreadableVideo`, if that fails."""
        try:
            with self.path.open("rb", buffering=0) as file:
                file.seek(self.start)
                data = file.read(self.size)
        except OSError as error:
            raise UnreadableVideo(f"cannot be read: {self.path}: {error.strerror}") from error
        if len(data) != self.size:
            raise BadVideo("the file has become shorter")
        return data


def _find_records(folder: Path, split: str, shards: list[tuple[Path, int | None]]) -> list[_Record]:
    """Returns the records of a split, in order; raises a `UserError` for a damaged folder."""
    records = []
    for path, count in shards:
        found, at = [], 0
        try:
            with path.open("rb", buffering=0) as file:
                end = file.seek(0, os.SEEK_END)
                while at < end:
                    file.seek(at)
                    size = int.from_bytes(file.read(_HEADER)[:8], "little")
                    found.append(_Record(path, at + _HEADER, size))
                    at += _HEADER + size + _FOOTER
        except OSError as error:
            raise _damaged(folder, f"{path}: cannot be read ({error.strerror})") from error
        if at > end:
            problem = f"record {len(found) - 1} should end at byte {at}, the file ends at {end}"
            raise _damaged(folder, f"{path}: is cut short or damaged: {problem}")
        if count is not None and len(found) != count:
            problem = f"holds {len(found)} records; dataset_info.json announces {count}"
            raise _damaged(folder, f"{path}: {problem}")
        records += found
    if not records:
        raise _damaged(folder, f"{folder}: the split {split!r} holds no records")
    try:
        features = _features(records[0].read())
    except BadVideo:
        return records  # One bad video, which is reported when it is read.
    if "video" not in features:
        raise UserError(
            f"{folder}: its records have no feature 'video'; found: "
            f"{', '.join(sorted(features)) or 'nothing'}. Set data.data_dir to another folder, and"
            " the data set is prepared there."
        )
    return records


def _list_shards(folder: Path, split: str) -> list[tuple[Path, int | None]]:
    """Returns the files of a split, each with its number of records; None if that is unknown."""
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.dataset_info import read_proto_from_builder_dir

    path = folder / "dataset_info.json"
    try:
        info = read_proto_from_builder_dir(folder)
    except Exception as error:  # Errors of the file and of the parser have no common base class.
        problem = f"is not the description of a tfds data set ({type(error).__name__}: {error})"
        raise _damaged(folder, f"{path}: {problem}") from error
    splits = {part.name: part for part in info.splits}
    if split not in splits:
        found = ", ".join(splits) or "none"
        raise _damaged(folder, f"{path}: has no split {split!r}; found: {found}")
    if info.file_format not in ("", "tfrecord"):
        raise UserError(
            f"{folder}: holds files of the format {info.file_format!r}; only 'tfrecord' can be "
            "read. Delete the folder and prepare the data set again, or set another data.data_dir."
        )
    # The first versions of tfds wrote only the number of shards.
    counts = list(splits[split].shard_lengths) or [None] * splits[split].num_shards
    template = tfds.core.ShardedFileTemplate(
        data_dir=folder, dataset_name=info.name, split=split, filetype_suffix="tfrecord"
    )
    files = template.sharded_filepaths(len(counts)) if counts else []
    return [(Path(file), count) for file, count in zip(files, counts, strict=True)]


def _damaged(folder: Path, problem: str) -> UserError:
    return UserError(
        f"{problem}. Restore the files, or delete the folder {folder} and prepare the data set"
        " again."
    )


def _features(record: bytes):
    """Returns the features of a `tf.train.Example` by name."""
    from google.protobuf.message import DecodeError
    from tensorflow_datasets.proto import tf_example_pb2

    try:
        return tf_example_pb2.Example.FromString(record).features.feature
    except DecodeError as error:
        raise BadVideo(f"the record is not a tf.train.Example ({error})") from error


def _pngs(record: bytes) -> Sequence[bytes]:
    features = _features(record)
    if "video" not in features:
        raise BadVideo("the record has no feature 'video'")
    pngs = features["video"].bytes_list.value
    if not pngs:
        raise BadVideo("the record holds no frames")
    return pngs


def _estimate_frames(records: list[_Record]) -> int:
    counts = []
    for i in np.unique(np.linspace(0, len(records) - 1, _SAMPLE).astype(int)).tolist():
        try:
            counts.append(len(_pngs(records[i].read())))
        except BadVideo:
            counts.append(0)
    return -(-sum(counts) * len(records) // len(counts))  # Rounded up.


def decode_png(png: bytes, number: int, channels: int, note: Note = ignore_note) -> np.ndarray:
    """Decodes any PNG to 8 bits without transparency, as TensorFlow does.

    Args:
      png: The content of the file.
      number: The number of the frame, for messages.
      channels: C, 1 or 3.
      note: See `Source.read`.

    Returns:
      uint8 [RECORD_SIZE, RECORD_SIZE], with a last dimension of 3 for RGB.

    Raises:
      BadVideo: It is not a PNG of that size, or it is damaged.
    """
    try:
        image = Image.open(io.BytesIO(png), formats=["PNG"])
        width, height = image.size
        if width == height == RECORD_SIZE:
            image.verify()  # Decoding ignores the CRCs of the pixels. It needs the image again.
            image = Image.open(io.BytesIO(png), formats=["PNG"])
            if png[_DEPTH] == 16:
                note("PNGs of 16 bits per value: only the upper 8 are used")
            if "A" in image.mode or "transparency" in image.info:
                note("transparency of PNGs is ignored")
            if channels == 1 and image.mode.startswith(("RGB", "P")):
                note("PNGs in color are converted to gray")
            if image.mode.startswith("I"):  # 16 bits, which Pillow would clip to 8, not scale.
                image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
            return np.asarray(image.convert("L" if channels == 1 else "RGB"))
    except UnidentifiedImageError as error:  # Its message holds an address in memory.
        raise BadVideo(f"frame {number} is not a PNG") from error
    except Exception as error:  # Pillow's errors have no common base class.
        raise BadVideo(f"frame {number} is not a readable PNG ({error})") from error
    raise BadVideo(f"frames are {width}x{height}; expected {RECORD_SIZE}x{RECORD_SIZE}")
