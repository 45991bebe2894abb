"""Reads frames of video files, and converts them to one size and number of channels.

h and w are the height and width of a video's frames, in pixels, C the channels of the result. Any
problem with a file is a `BadVideo`.
"""

import contextlib
import dataclasses
import fractions
import functools
import os
import pathlib
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
from PIL import Image

from data_loaders.sources import BadVideo, Note, check_choice, ignore_note
from data_loaders.video import animations, decoding, regular_files

if TYPE_CHECKING:
    import scipy.sparse

ARRAY_SUFFIXES = (".npy", ".npz")
SUFFIXES = (
    *dict.fromkeys(s for _, names in decoding.FORMATS.values() for s in names),
    *(".gif", ".apng"),
)
FITS = ("crop", "squeeze")
RESIZES = ("area", "bilinear")

BLOCK_LENGTH = 64

_SQUARE = fractions.Fraction(1)  # The shape of most pixels.


@dataclasses.dataclass(frozen=True)
class FrameFormat:
    """The format of converted frames.

    Attributes:
      size: H and W, in pixels.
      channels: C: 1 for gray, by the luma of ITU-R 601, or 3 for RGB.
      fit: 'crop' scales the shorter side to `size` and cuts out the middle; 'squeeze' scales both
        sides to `size`, which changes the aspect ratio.
      resize: 'area' averages over the area of a new pixel, including parts of old pixels, and
        interpolates linearly along a side that grows; 'bilinear' is a triangle filter, wide enough
        to prevent aliasing.
    """

    size: int
    channels: int
    fit: str = "crop"
    resize: str = "area"

    def __post_init__(self):
        check_choice("data.fit", self.fit, FITS)
        check_choice("data.resize", self.resize, RESIZES)

    def changes(self, h: int, w: int, c: int, aspect: fractions.Fraction = _SQUARE) -> str:
        """Returns in words what `convert` does to frames of a size and number of channels."""
        words = []
        if self.fit == "crop":
            if aspect != 1:
                words.append(
                    f"pixels are {aspect.numerator}:{aspect.denominator} wide: stretched from"
                    f" {w}x{h} to {round(w * aspect)}x{h}"
                )
                w = round(w * aspect)
            if h != w:
                words.append(f"cut to the middle {min(h, w)}x{min(h, w)}")
        if (min(h, w) if self.fit == "crop" else (h, w)) not in (self.size, (self.size, self.size)):
            words.append(f"resized to {self.size}x{self.size} ({self.resize})")
        if c > self.channels:
            words.append("converted to gray")
        return ", ".join(words) or "unchanged"

    def convert(
        self, frames: np.ndarray, aspect: fractions.Fraction | float = _SQUARE
    ) -> np.ndarray:
        """Converts frames to this format; returns frames that have it unchanged.

        Args:
          frames: uint8 [n, h, w] or [n, h, w, 1 or 3].
          aspect: The width of a pixel as a multiple of its height. A crop is a square as it is
            shown.

        Returns:
          uint8 [n, size, size, channels].
        """
        if frames.ndim == 3:
            frames = frames[..., None]
        is_resized = frames.shape[1:3] != (self.size, self.size)
        is_resized |= aspect != 1 and self.fit == "crop"
        if not is_resized and frames.shape[3] == self.channels:
            return frames
        if self.channels == 1 and frames.shape[-1] == 3:
            frames = np.stack([np.asarray(Image.fromarray(f).convert("L")) for f in frames])
            frames = frames[..., None]
        if is_resized:
            frames = self._resized(frames, float(aspect))
        return np.repeat(frames, self.channels // frames.shape[-1], axis=-1)

    def _resized(self, frames: np.ndarray, aspect: float) -> np.ndarray:
        _, height, width, c = frames.shape
        side = min(height, width * aspect)
        cut_y, cut_x = (height - side, width - side / aspect) if self.fit == "crop" else (0, 0)
        down = _weights(height, cut_y, self.size, self.resize)
        across = _weights(width, cut_x, self.size, self.resize)
        resized = np.empty((len(frames), self.size, self.size, c), np.uint8)
        for frame, target in zip(frames, resized, strict=True):
            rows = down @ frame.reshape(height, width * c).astype(np.float32)
            rows = rows.reshape(self.size, width, c).swapaxes(0, 1)
            columns = across @ rows.reshape(width, self.size * c)
            columns = columns.reshape(self.size, self.size, c).swapaxes(0, 1)
            np.rint(columns, out=target, casting="unsafe")  # Averages of uint8 fit in uint8.
        return resized


@functools.lru_cache(maxsize=8)  # Most videos of a store have the same size.
def _weights(length: int, cut: float, size: int, resize: str) -> "scipy.sparse.csr_array":
    """Returns the weights of old pixels in each new one, float32 [size, length].

    Half of the `cut` pixels are ignored at each end.
    """
    import scipy.sparse  # A slow import, which most data sets do not need.

    scale = (length - cut) / size  # Old pixels per new one.
    starts = cut / 2 + scale * np.arange(size)[:, None]
    pixels = np.arange(length)
    if resize == "area" and scale >= 1:
        weights = np.minimum(starts + scale, pixels + 1) - np.maximum(starts, pixels)
    else:
        weights = 1 - np.abs(pixels + 0.5 - starts - scale / 2) / max(1.0, scale)
    weights = np.maximum(weights, 0)
    weights /= weights.sum(1, keepdims=True)
    return scipy.sparse.csr_array(weights.astype(np.float32))


def read_video(
    file: pathlib.Path | BinaryIO,
    name: str,
    frame_format: FrameFormat,
    fps: float | None = None,
    exact_size: tuple[int, int] | None = None,
    note: Note = ignore_note,
) -> Iterator[np.ndarray]:
    """Decodes a video; memory use does not depend on its length.

    Uses the first video stream that is not a single picture. Frames are cropped, turned, mirrored
    and, if pixels are not square, stretched as a player would do it. Transparent areas show their
    hidden color, in animated pictures white.

    The content, not the name, decides how a file is decoded; animated WebP and PNG files may be
    called .gif, too, as some programs do.

    Args:
      file: The path of a file, or an open file that can seek, such as `io.BytesIO`.
      name: The file's name, which ends in one of `SUFFIXES`.
      frame_format: The format of the result.
      fps: Frames per second. A faster video is reduced to the frames that are shown 0, 1 / fps,
        2 / fps, ... seconds after the first; with a variable rate, frames may be repeated. A slower
        video is a `BadVideo`, since frames are not interpolated. None: all frames.
      exact_size: The required (h, w) of frames before conversion, in stored pixels.
      note: See `Source.read`.

    Yields:
      uint8 [n, size, size, C], n from 1 to `BLOCK_LENGTH`.

    Raises:
      BadVideo: The video cannot be used. It may be raised after some of the frames.
      UserError: PyAV is not installed.
    """
    suffix = pathlib.PurePath(name).suffix.lower()
    if suffix not in SUFFIXES:
        raise BadVideo(f"is not a video: its name ends in none of {', '.join(SUFFIXES)}")
    with _reading(file) as stream:
        if kind := animations.animation_kind(stream):
            if kind not in suffix and suffix != ".gif":
                note(f"is {kind}, in spite of its name")
            frames = animations.animation_frames(stream, kind, fps, note)
            yield from blocks(frames, frame_format, exact_size, note)
        else:
            with decoding.video_frames(stream, suffix, fps, note) as (frames, aspect):
                yield from blocks(frames, frame_format, exact_size, note, aspect)


def frames_and_rate(path: pathlib.Path, through: bool = False) -> tuple[int, float] | None:
    """Returns the approximate number of frames of a file, and their rate, from its header.

    Args:
      path: A file with one of `SUFFIXES`.
      through: Whether to read the whole file if its header has no number of frames.

    Returns:
      The number of frames, and frames per second; None if the header lacks them or cannot be read.

    Raises:
      UserError: PyAV is not installed.
    """
    try:
        with _reading(path) as stream:
            if kind := animations.animation_kind(stream):
                return animations.animation_length_and_rate(stream, kind)
            return decoding.frames_and_rate(stream, through)
    except BadVideo:
        return None


@contextlib.contextmanager
def _reading(file: pathlib.Path | BinaryIO) -> Iterator[BinaryIO]:
    """Opens a file that must not be empty."""
    with regular_files.opened(file) as stream:
        if stream.seek(0, os.SEEK_END) == 0:
            raise BadVideo("is empty")
        stream.seek(0)
        yield stream


def blocks(
    frames: Iterable[np.ndarray],
    frame_format: FrameFormat,
    exact_size: tuple[int, int] | None = None,
    note: Note = ignore_note,
    aspect: fractions.Fraction = _SQUARE,
) -> Iterator[np.ndarray]:
    """Converts single frames to a format; the arguments are as for `read_video` and `convert`."""
    block = []
    before = None
    for number, frame in enumerate(frames):
        h, w = frame.shape[:2]
        if exact_size and (h, w) != tuple(exact_size):
            raise BadVideo(f"frames are {w}x{h} pixels; expected {exact_size[1]}x{exact_size[0]}")
        if before != frame.shape:
            c = 1 if frame.ndim == 2 else frame.shape[2]
            size = f"frames of {w}x{h}" if before is None else f"from frame {number} on {w}x{h}"
            note(f"{size} {'gray' if c == 1 else 'RGB'}: {frame_format.changes(h, w, c, aspect)}")
            before = frame.shape
        block.append(frame_format.convert(frame[None], aspect))
        if len(block) == BLOCK_LENGTH:
            yield np.concatenate(block)
            block = []
    if block:
        yield np.concatenate(block)
    if before is None:
        raise BadVideo("has no frames")
