"""Frames of video files: decoding, and bringing frames to one size and number of channels.

h and w are the height and width of a video's own frames, in pixels, C the channels asked for.
Whatever is wrong with a file is a `BadVideo`.
"""

import contextlib
import dataclasses
import functools
import os
import pathlib
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
from PIL import Image

from cwvae.errors import UserError, unknown_name
from data_loaders.sources import BadVideo
from data_loaders.video import decoding, frame_arrays

if TYPE_CHECKING:
    import scipy.sparse

ARRAY_SUFFIXES = (".npy", ".npz")
SUFFIXES = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".gif", *ARRAY_SUFFIXES)
FITS = ("crop", "squeeze")
RESIZES = ("area", "bilinear")

BLOCK_LENGTH = 64


@dataclasses.dataclass(frozen=True)
class FrameFormat:
    """What frames are brought to.

    Attributes:
      size: H and W, in pixels.
      channels: C: 1, the luma of ITU-R 601 where there are colors, or 3 for RGB.
      fit: 'crop' brings the shorter side to `size` and cuts out the middle; 'squeeze' brings both
        sides to `size`, which changes the aspect ratio.
      resize: 'area' takes the mean over what a new pixel covers, parts of pixels included, and
        interpolates linearly along a side that grows; 'bilinear' is a triangle filter, as wide as
        needed against aliasing.
    """

    size: int
    channels: int
    fit: str = "crop"
    resize: str = "area"

    def __post_init__(self):
        if self.fit not in FITS:
            raise UserError(unknown_name("data.fit", self.fit, FITS))
        if self.resize not in RESIZES:
            raise UserError(unknown_name("data.resize", self.resize, RESIZES))

    def convert(self, frames: np.ndarray) -> np.ndarray:
        """Brings frames to this format; frames that have it are returned as they are.

        Args:
          frames: uint8 [n, h, w] or [n, h, w, 1 or 3].

        Returns:
          uint8 [n, size, size, channels].
        """
        if frames.ndim == 3:
            frames = frames[..., None]
        if frames.shape[1:] == (self.size, self.size, self.channels):
            return frames
        if self.channels == 1 and frames.shape[-1] == 3:
            frames = np.stack([np.asarray(Image.fromarray(f).convert("L")) for f in frames])
            frames = frames[..., None]
        if frames.shape[1:3] != (self.size, self.size):
            frames = self._resized(frames)
        return np.repeat(frames, self.channels // frames.shape[-1], axis=-1)

    def _resized(self, frames: np.ndarray) -> np.ndarray:
        _, height, width, c = frames.shape
        side = min(height, width)
        cut_y, cut_x = (height - side, width - side) if self.fit == "crop" else (0, 0)
        down = _weights(height, cut_y, self.size, self.resize)
        across = _weights(width, cut_x, self.size, self.resize)
        resized = np.empty((len(frames), self.size, self.size, c), np.uint8)
        for frame, target in zip(frames, resized, strict=True):
            rows = down @ frame.reshape(height, width * c).astype(np.float32)
            rows = rows.reshape(self.size, width, c).swapaxes(0, 1)
            columns = across @ rows.reshape(width, self.size * c)
            columns = columns.reshape(self.size, self.size, c).swapaxes(0, 1)
            np.rint(columns, out=target, casting="unsafe")  # Means of uint8 stay in its range.
        return resized


@functools.lru_cache(maxsize=8)  # A store's videos mostly have one size.
def _weights(length: int, cut: int, size: int, resize: str) -> "scipy.sparse.csr_array":
    """Returns how much of each old pixel a new one is made of, float32 [size, length].

    Args:
      length: Pixels along the old side.
      cut: Pixels of it that are cut off, half of them at each end.
      size: Pixels along the new side.
      resize: As in `FrameFormat`.
    """
    import scipy.sparse  # Here, for it takes a while, and most frames fit as they are.

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
) -> Iterator[np.ndarray]:
    """Decodes a video, or reads an array of frames, in memory that does not grow with its length.

    A video's first stream of pictures counts, turned as a player would turn it. Where a picture is
    transparent, its hidden color shows; GIFs have white there. Arrays are uint8 [T, h, w] or
    [T, h, w, 1 or 3]; a .npz file holds exactly one.

    Args:
      file: A file, or an open one that can seek, such as `io.BytesIO`.
      name: Its name; the ending, one of `SUFFIXES`, tells arrays from videos.
      frame_format: What frames are brought to.
      fps: Frames a second. Of a faster video, those frames are taken that are shown at times 0,
        1 / fps, 2 / fps, ... after the first; one that a video of variable rate holds is taken
        again. A slower video is a `BadVideo`: frames are not made up. None takes all frames.
      exact_size: (h, w) that frames must have before they are converted.

    Yields:
      uint8 [n, size, size, C], n from 1 to `BLOCK_LENGTH`.

    Raises:
      BadVideo: The video cannot be used, which may show after some of its frames only.
      UserError: PyAV is not installed.
    """
    suffix = pathlib.PurePath(name).suffix.lower()
    if suffix not in SUFFIXES:
        raise BadVideo(f"is no video by its name, which ends in none of {', '.join(SUFFIXES)}")
    if suffix in ARRAY_SUFFIXES and fps is not None:
        raise BadVideo(
            "is an array, which has no frame rate to reduce; keep only the frames you want and "
            "leave data.fps out"
        )
    with _reading(file) as stream:
        if suffix == ".npy":
            path = file if isinstance(file, os.PathLike) else None
            frames = frame_arrays.npy_frames(stream, path)
        elif suffix == ".npz":
            frames = frame_arrays.npz_frames(stream)
        else:
            frames = decoding.video_frames(stream, fps)
        yield from _blocks(frames, frame_format, exact_size)


def frames_and_rate(path: pathlib.Path, through: bool = False) -> tuple[int, float | None] | None:
    """Reads from a file's header about how many frames it has, at which rate.

    Args:
      path: A file with one of `SUFFIXES`.
      through: Whether to go through all of the file where its header does not say.

    Returns:
      The number of frames, and frames a second (None for arrays); None where a header does not
      tell, or cannot be read.

    Raises:
      UserError: PyAV is not installed.
    """
    suffix = path.suffix.lower()
    try:
        with _reading(path) as stream:
            if suffix == ".npy":
                return frame_arrays.npy_length(stream), None
            if suffix == ".npz":
                return frame_arrays.npz_length(stream), None
            return decoding.frames_and_rate(stream, through)
    except BadVideo:
        return None


@contextlib.contextmanager
def _reading(file: pathlib.Path | BinaryIO) -> Iterator[BinaryIO]:
    """Opens a file that has something in it."""
    try:
        with contextlib.ExitStack() as stack:
            if isinstance(file, os.PathLike):
                file = stack.enter_context(open(file, "rb"))
            if file.seek(0, os.SEEK_END) == 0:
                raise BadVideo("is empty")
            file.seek(0)
            yield file
    except OSError as error:
        raise BadVideo(f"cannot be read: {error.strerror or error}") from error


def _blocks(
    frames: Iterable[np.ndarray], frame_format: FrameFormat, exact_size: tuple[int, int] | None
) -> Iterator[np.ndarray]:
    block = []
    any_frames = False
    for frame in frames:
        any_frames = True
        h, w = frame.shape[:2]
        if exact_size and (h, w) != tuple(exact_size):
            raise BadVideo(f"frames are {w}x{h} pixels; expected {exact_size[1]}x{exact_size[0]}")
        block.append(frame_format.convert(frame[None]))
        if len(block) == BLOCK_LENGTH:
            yield np.concatenate(block)
            block = []
    if block:
        yield np.concatenate(block)
    if not any_frames:
        raise BadVideo("has no frames")
