"""Clips from NumPy arrays in memory: `from_arrays(train, test)`.

N is a number of clips, T a number of frames, H, W and C the height, width and channels of a frame.
"""

import functools
import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from cwvae.errors import UserError
from cwvae.frame_sizes import HALVINGS
from data_loaders.pipeline import Dataset
from data_loaders.windows import Clips

# The value of `data.name` in the configuration of a run on clips that Python passes.
NAME = "arrays"

# Floats may leave the range from 0 to 1 by this much, as rounding errors do: half a gray level.
_SLACK = 0.5 / 255


class Splits(NamedTuple):
    """The two data sets that training and evaluation need."""

    train: Dataset
    test: Dataset


def from_arrays(
    train: np.ndarray | Sequence[np.ndarray], test: np.ndarray | Sequence[np.ndarray]
) -> Splits:
    """Returns data sets of clips in memory, for `cwvae.train` and `cwvae.evaluate`.

    Each split is an array [N, T, H, W, C], or a list of arrays [T, H, W, C] of any lengths. Values
    are uint8 from 0 to 255, floats from 0 to 1, or booleans. H and W are both 32, 64 or 128, and C
    is 1 or 3. uint8 arrays are not copied: do not change them afterwards. Others are converted to
    uint8, as videos in files are.

    Args:
      train: The training clips.
      test: The held-out clips.

    Raises:
      UserError: Another shape, type or range of values, or no clips.
    """
    clips = {name: _clips(given, name) for name, given in (("train", train), ("test", test))}
    shape = clips["train"][0].shape[1:]
    for name, every in clips.items():
        for i, clip in enumerate(every):
            if clip.shape[1:] != shape:
                raise UserError(
                    f"{name}[{i}]: frames of {_size(clip.shape[1:])}, but those of train[0] have"
                    f" {_size(shape)}. Give all clips frames of one size."
                )
    _check_size(shape)
    return Splits(Arrays(clips["train"]), Arrays(clips["test"]))


class Arrays(Dataset):
    """Clips in memory."""

    fingerprint_of = "arrays"

    def __init__(self, clips: Sequence[np.ndarray]):
        """Stores uint8 clips [T, H, W, C] of one frame size, without copying them."""
        super().__init__(Clips([len(clip) for clip in clips]), clips[0].shape[1:])
        self._clips = [clip.view() for clip in clips]
        for clip in self._clips:
            clip.flags.writeable = False

    @functools.cached_property
    def fingerprint(self) -> str:
        """The SHA-256 of the shapes and values of all clips."""
        digest = hashlib.sha256()
        for clip in self._clips:
            digest.update(repr(clip.shape).encode())
            digest.update(np.ascontiguousarray(clip))
        return digest.hexdigest()

    def clip(self, i: int, start: int = 0, length: int | None = None) -> np.ndarray:
        """As in `Dataset`; the frames are a read-only view."""
        length = self._window_length(i, start, length)
        return self._clips[i][start : start + length]

    def name(self, i: int) -> str:
        """As in `Dataset`."""
        self._check_index(i)
        return f"clip {i}"


def _clips(given: object, name: str) -> list[np.ndarray]:
    """Returns the clips of a split as uint8 [T, H, W, C]; checks all but the size of frames."""
    if isinstance(given, list | tuple):
        clips = [_array(clip, f"{name}[{i}]") for i, clip in enumerate(given)]
        for i, clip in enumerate(clips):
            _check_axes(clip.shape, "THWC", f"{name}[{i}]", f"each clip of {name}")
    else:
        clips = _array(given, name)
        _check_axes(clips.shape, "NTHWC", name, name)
    if len(clips) == 0:
        raise UserError(f"{name}: no clips. Give at least one.")
    for i, clip in enumerate(clips):
        if len(clip) == 0:
            raise UserError(f"{name}[{i}]: this clip has no frames. Leave it out.")
    clips = [_as_uint8(clip, f"{name}[{i}]") for i, clip in enumerate(clips)]
    if all(clip.max() <= 1 for clip in clips) and any(clip.any() for clip in clips):
        raise UserError(
            f"{name}: uint8 values of only 0 and 1, but white is 255. If 1 is white, pass"
            f" {name}.astype(bool)."
        )
    return clips


def _array(given: object, name: str) -> np.ndarray:
    try:
        array = np.asarray(given)
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"{name}: not an array ({error}). Pass NumPy arrays.") from None
    if array.dtype != np.uint8 and array.dtype != bool and array.dtype.kind != "f":
        integers = array.dtype.kind in "iu" and array.size
        found = f" from {array.min()} to {array.max()}" if integers else ""
        raise UserError(
            f"{name}: values of type {array.dtype}{found}. Pass uint8 from 0 to 255, floats from 0"
            " to 1, or booleans; for clips of different lengths, a list of such arrays."
        )
    return array


def _check_axes(shape: tuple[int, ...], axes: str, name: str, what: str) -> None:
    """Raises a UserError unless a shape has the axes and its last one is of channels."""
    if len(shape) == len(axes) and shape[-1] in (1, 3):
        return
    advice = ""
    if len(shape) == len(axes) and shape[-3] in (1, 3):
        advice = f" Channels come last: np.moveaxis(x, -3, -1) for x = {what}."
    elif len(shape) == len(axes) - 1 and axes == "NTHWC" and shape[-1] in (1, 3):
        advice = f" For a single clip, pass [{name}]."
    elif len(shape) == len(axes) - 1:
        advice = f" The axis of channels may be missing: x[..., None] for x = {what}."
    elif len(shape) == len(axes):
        advice = f" C is 1 (gray) or 3 (RGB), not {shape[-1]}."
    raise UserError(f"{name}: the shape is {shape}. It must be [{', '.join(axes)}].{advice}")


def _as_uint8(clip: np.ndarray, name: str) -> np.ndarray:
    if clip.dtype == np.uint8:
        return clip
    if clip.dtype == bool:
        return clip * np.uint8(255)
    low, high = float(clip.min()), float(clip.max())
    if not -_SLACK <= low <= high <= 1 + _SLACK:  # Also false for NaN.
        raise UserError(
            f"{name}: values from {low:.6g} to {high:.6g}, but floats must be from 0 to 1."
            f" {_scaling(low, high)}"
        )
    return np.rint(np.clip(clip, 0, 1) * np.float32(255)).astype(np.uint8)


def _scaling(low: float, high: float) -> str:
    """Returns how to bring floats into the range from 0 to 1."""
    if np.isfinite([low, high]).all():
        if low >= 0 and 2 < high <= 255 + _SLACK:
            return "If 255 is white, divide by 255."
        if low >= -1 - _SLACK and high <= 1 + _SLACK:
            return "If -1 is black and 1 is white, pass (x + 1) / 2."
        return "Scale or clip them."
    return "Replace NaN and infinity, or leave out the clip."


def _check_size(shape: tuple[int, int, int]) -> None:
    if shape[0] == shape[1] and shape[0] in HALVINGS:
        return
    *sizes, last = (f"{size}x{size}" for size in HALVINGS)
    raise UserError(
        f"train and test: frames of {shape[0]}x{shape[1]} pixels, but models take"
        f" {', '.join(sizes)} or {last}. Crop the clips to squares and resize them, for example"
        " with tf.image.resize(clip, (64, 64), 'area') for floats; or save each as a .npy file and"
        " train on the folder with data.name=video_folder, which does both."
    )


def _size(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
