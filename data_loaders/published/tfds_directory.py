"""The videos in a folder that `tensorflow_datasets` (tfds) prepared, for a store or without one.

`tfds_records.py` finds them. Neither tfds nor TensorFlow is needed.

T, H, W and C are the frames of a video, and the height, width and channels of a frame.
"""

import hashlib
import io
import os
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from cwvae.errors import UserError
from data_loaders.pipeline import Dataset
from data_loaders.published.tfds_records import Records, anew, frame_spans
from data_loaders.sources import SPLITS, BadVideo, Source
from data_loaders.video.frames import FrameFormat
from data_loaders.windows import UnequalClips

RECORD_SIZE = 64  # H and W of the frames in the records of every data set that is read here.
_BLOCK = 64  # Frames that are decoded at a time.
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


class TfdsDirectory(Source):
    """The videos of a prepared folder, to be put into a store. Items are named by their number."""

    in_tfds = True

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
        """Keeps where to read. Nothing is read before `fetch`.

        Args:
          name: The data set's name.
          folder: As `find` returns it.
          description: What `describe` returns: that of the archives that the folder was made from,
            so that both give one store.
          frame_size: H and W of the frames that are given, in pixels.
          channels: C, 1 or 3, whatever the PNGs have.
          fit: See `video.FrameFormat`.
          resize: See `video.FrameFormat`.
        """
        super().__init__(name, frame_size, channels)
        self._folder = Path(folder).expanduser()
        self._description = dict(description)
        self._format = FrameFormat(frame_size, channels, fit, resize)
        self._records: dict[str, Records] = {}

    def describe(self) -> dict[str, object]:
        """As in `Source`: what the constructor was given."""
        return dict(self._description)

    def fetch(self) -> None:
        """As in `Source`: finds the records of both splits."""
        for split in SPLITS:
            self._split(split)

    def origin(self) -> list[object]:
        """As in `Source`: the folder, and its description's time of change in ns."""
        return [str(self._folder), (self._folder / "dataset_info.json").stat().st_mtime_ns]

    def items(self, split: str) -> list[str]:
        """As in `Source`, in the order of the files."""
        return [f"{i:05d}" for i in range(len(self._split(split)))]

    def expected_frames(self) -> int:
        """As in `Source`: exact where all videos are equally long."""
        return sum(self._split(split).count_frames() for split in SPLITS)

    def digest(self, split: str, item: str) -> str:
        """As in `Source`, of the whole record."""
        return hashlib.sha256(self._split(split).read(int(item))).hexdigest()

    def read(self, split: str, item: str) -> Iterator[np.ndarray]:
        """As in `Source`."""
        record = self._split(split).read(int(item))
        spans = frame_spans(record).tolist()
        for first in range(0, len(spans), _BLOCK):
            pngs = [record[start:end] for start, end in spans[first : first + _BLOCK]]
            yield _decode(pngs, first, self._format)

    def _split(self, split: str) -> Records:
        if split not in self._records:
            self._records[split] = Records(self._folder, split)
        return self._records[split]


class TfdsStream(Dataset):
    """One split of a prepared folder, without a store: decodes what is asked for, each time.

    Takes no room and no preparation, but each time a frame is read costs its PNG, about 100 us, a
    hundred times as much as from a store. Keeps 8 bytes a frame in memory.
    """

    def __init__(
        self,
        split: str,
        *,
        folder: str | os.PathLike,
        frame_size: int = RECORD_SIZE,
        channels: int = 3,
        fit: str = "crop",
        resize: str = "area",
    ):
        """Finds every frame of every record: reads all files once, without decoding.

        Args:
          split: 'train' or 'test'.
          folder: As `find` returns it.
          frame_size: As for `TfdsDirectory`, as for the next three.
          channels: See there.
          fit: See there.
          resize: See there.

        Raises:
          UserError: Another format, or files that are missing or damaged.
        """
        self._records = Records(Path(folder).expanduser(), split)
        self._format = FrameFormat(frame_size, channels, fit, resize)
        self._spans = [self._find_frames(i) for i in range(len(self._records))]
        lengths = [len(spans) for spans in self._spans]
        super().__init__(UnequalClips(lengths), (frame_size, frame_size, channels))

    def clip(self, i: int, start: int = 0, length: int | None = None) -> np.ndarray:
        """As in `Dataset`. Reads and decodes the frames asked for only."""
        length = self._window_length(i, start, length)
        spans = self._spans[i][start : start + length].tolist()
        offset = spans[0][0]
        try:
            data = self._records.read(i, offset, spans[-1][1] - offset)
            pngs = [data[first - offset : end - offset] for first, end in spans]
            return _decode(pngs, start, self._format)
        except BadVideo as error:
            raise self._unusable(i, error) from error

    def _find_frames(self, i: int) -> np.ndarray:
        try:
            # No record reaches 2 GiB, the limit of protocol buffers: half the memory will do.
            return frame_spans(self._records.read(i)).astype(np.uint32)
        except BadVideo as error:
            raise self._unusable(i, error) from error

    def _unusable(self, i: int, error: BadVideo) -> UserError:
        return UserError(
            f"{self._records.where(i)}: {error}. Set data.store=true to leave out videos that "
            f"cannot be used. Otherwise: {anew(self._records.folder)}"
        )


def _decode(pngs: Sequence[bytes], first: int, frame_format: FrameFormat) -> np.ndarray:
    """Decodes frames `first`, ... of a video to uint8 [T, H, W, C]."""
    mode = "L" if frame_format.channels == 1 else "RGB"
    frames = [_decode_png(png, number, mode) for number, png in enumerate(pngs, first)]
    return frame_format.convert(np.stack(frames))


def _decode_png(png: bytes, number: int, mode: str) -> np.ndarray:
    """Decodes one PNG of any kind, in 8 bits and without transparency, as TensorFlow does."""
    try:
        _check_png(png)
        with Image.open(io.BytesIO(png), formats=["PNG"]) as image:
            width, height = image.size
            good = width == height == RECORD_SIZE
            frame = _in_mode(image, mode) if good else None
    except Exception as error:  # What Pillow raises has no common base class.
        raise BadVideo(f"frame {number} is not a readable PNG ({error})") from error
    if not good:
        raise BadVideo(f"frames are {width}x{height}; expected {RECORD_SIZE}x{RECORD_SIZE}")
    return frame


def _check_png(png: bytes) -> None:
    """Checks the CRC of every chunk: Pillow passes over those of the pixels."""
    if not png.startswith(_PNG_SIGNATURE):
        raise ValueError("another format")
    at = len(_PNG_SIGNATURE)
    while at < len(png):
        end = at + 8 + int.from_bytes(png[at : at + 4], "big")
        if zlib.crc32(png[at + 4 : end]) != int.from_bytes(png[end : end + 4], "big"):
            raise ValueError("wrong CRC")
        at = end + 4
    if at != len(png):
        raise ValueError("cut short")


def _in_mode(image: Image.Image, mode: str) -> np.ndarray:
    if image.mode.startswith("I"):  # 16 bits, which Pillow would clip to 8, not scale.
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    return np.asarray(image.convert(mode))
