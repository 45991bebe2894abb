"""Reads frames from arrays in .npy and .npz files.

A letter stands for each axis of an array: N videos, T frames, H and W the height and width of a
frame in pixels, C channels (1 or 3). Values are uint8, floats from 0 to 1, or bool. Frames are read
one by one, so an array need not fit in memory. Nothing is ever unpickled.
"""

import contextlib
import dataclasses
import hashlib
import itertools
import math
import os
import pathlib
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from typing import BinaryIO

import numpy as np
from PIL import Image

from cwvae.errors import UserError
from data_loaders.sources import BadVideo, Note
from data_loaders.video import regular_files

# The test set of the authors of Moving MNIST, uint8 [20, 10000, 64, 64].
_MOVING_MNIST = "mnist_test_seq.npy"

# The usual shapes of frames, as their longer divided by their shorter side. Others are common only
# if they are nearly square, and rare above a limit.
_USUAL_RATIOS = (1, 11 / 9, 5 / 4, 4 / 3, 3 / 2, 16 / 10, 16 / 9)
_RATIO_TOLERANCE = 0.03
_NEARLY_SQUARE, _LONGEST = 1.25, 2.5

_SHOWN_ARRAYS = 6  # Arrays of a .npz file that messages list.
# Floats may leave the range from 0 to 1 by this much, as rounding errors do: half a gray level.
_SLACK = 0.5 / 255
_FEWEST_VALUES = 32  # A frame has more. Matrices of poses have up to 16.
_LARGEST_DEFLATION = 1032  # Deflate shrinks data by at most this factor.


@dataclasses.dataclass(frozen=True)
class ArrayOptions:
    """How arrays are read.

    Attributes:
      axes: A letter for each axis, in the order of the array. Without T, each array is one picture.
        None: the order follows from the shape, and ambiguous shapes are refused.
      key: The name of the frames in .npz files. None: files with more than one array are refused.
    """

    axes: str | None = None
    key: str | None = None

    def __post_init__(self):
        if self.axes is not None and not _is_order(self.axes):
            raise UserError(
                f"data.array_axes is {self.axes!r}; expected a letter for each axis, in the order"
                " of the arrays: T, H and W, and perhaps C and N, such as THWC, TCHW or NTHW; or"
                " for arrays that are one picture each, HW, HWC or CHW."
            )
        if self.key is not None and (not isinstance(self.key, str) or not self.key):
            raise UserError(f"data.array_key is {self.key!r}; expected the name of an array.")

    @property
    def are_pictures(self) -> bool:
        """Whether each array is one picture."""
        return self.axes is not None and "T" not in self.axes

    @property
    def hold_many(self) -> bool:
        """Whether an array holds N videos."""
        return self.axes is not None and "N" in self.axes


def _is_order(axes: object) -> bool:
    if not isinstance(axes, str) or len(set(axes)) < len(axes):
        return False
    return set("HW") <= set(axes) <= set("NTHWC") and ("T" in axes or "N" not in axes)


@dataclasses.dataclass(frozen=True)
class _Array:
    """An array in a file.

    Attributes:
      shape: The number of entries of each axis.
      axes: The letter of each axis.
      dtype: The type of its values.
      column_major: Whether the first axis varies fastest.
      start: The position of the values in the file, in bytes.
      present: The size of the values in the file, in bytes, which may be too small.
      moving_mnist: Whether it was recognized as the test set of Moving MNIST.
    """

    shape: tuple[int, ...]
    axes: str
    dtype: np.dtype
    column_major: bool
    start: int
    present: int
    moving_mnist: bool

    def size(self, axes: str) -> int:
        """Returns the number of entries along all of some axes; a missing one counts as 1."""
        return math.prod(n for n, axis in zip(self.shape, self.axes, strict=True) if axis in axes)

    @property
    def frame_bytes(self) -> int:
        """The size of a frame."""
        return self.size("HWC") * self.dtype.itemsize

    def in_storage_order(self) -> list[tuple[str, int]]:
        """Returns the letters and sizes of the axes, those that vary slowest first."""
        pairs = list(zip(self.axes, self.shape, strict=True))
        pairs = [(axis, n) for axis, n in pairs if n > 1 or axis in "THW"]
        return pairs[::-1] if self.column_major else pairs


def videos_in(path: pathlib.Path, options: ArrayOptions) -> int | None:
    """Returns the number N of videos in a file, from its header; None if it is a single video.

    A file with a damaged header counts as a single video, too, which reading it reports.
    """
    known = path.name.lower() == _MOVING_MNIST and options.axes is None
    if path.suffix.lower() != ".npy" or not (options.hold_many or known):
        return None
    try:
        with _opened(path, options) as (_, array):
            return array.size("N") if options.hold_many or array.moving_mnist else None
    except BadVideo:
        return None


def is_table(path: pathlib.Path) -> bool:
    """Returns whether all arrays in a file are too small for frames, such as poses or labels.

    A file with a damaged header may have been a video.
    """
    try:
        with regular_files.opened(path) as file:
            if path.suffix.lower() == ".npy":
                return _is_table(file)
            with _archive(file) as archive:
                for member in archive.infolist():
                    with archive.open(member) as stream:
                        if not _is_table(stream):
                            return False
                return True
    except BadVideo:
        return False


def _is_table(stream: BinaryIO) -> bool:
    shape = _header(stream)[0]
    return len(shape) < 3 or math.prod(shape[1:]) < _FEWEST_VALUES


def num_axes(path: pathlib.Path) -> int | None:
    """Returns the number of axes of the array in a .npy file; None if its header is damaged."""
    try:
        with regular_files.opened(path) as file:
            return len(_header(file)[0])
    except BadVideo:
        return None


def expected_frames(path: pathlib.Path, options: ArrayOptions) -> int:
    """Returns the number of frames of all videos in a file, but no more than its bytes can hold.

    Raises:
      BadVideo: The header says that the file cannot be read.
    """
    with _opened(path, options) as (_, array):
        return min(array.size("NT"), array.present // array.frame_bytes)


def frames(
    path: pathlib.Path, options: ArrayOptions, video: int | None, note: Note
) -> Iterator[np.ndarray]:
    """Reads the frames of a video.

    Args:
      path: A .npy file, or a .npz file with a single video.
      options: How it is read.
      video: The video's number if the file holds N of them.
      note: See `Source.read`.

    Yields:
      uint8 [h, w] or [h, w, 1 or 3].

    Raises:
      UnreadableVideo: The system cannot read the file.
      BadVideo: It is not such an array, it is ambiguous, or it is cut short.
    """
    with _opened(path, options) as (stream, array):
        known = "the Moving MNIST test set, " if array.moving_mnist else ""
        kind = path.suffix[1:].lower()
        note(f"{known}{kind} array {list(array.shape)}, read as {words(array.axes)}")
        if options.are_pictures:
            raise BadVideo(
                f"is one picture, according to data.array_axes = {options.axes}; pictures of one"
                " video are .npy files in a folder"
            )
        if kind == "npz":
            if options.hold_many:
                raise BadVideo("is a .npz file with many videos; save it with np.save")
            values = _streamed(stream, array)
        else:
            values = _mapped(stream, array, video)
        yield from as_uint8(values, note)


def picture(path: pathlib.Path, options: ArrayOptions) -> np.ndarray:
    """Returns the only picture in a .npy file, [h, w] or [h, w, 1 or 3], with values as stored.

    Raises:
      UnreadableVideo: The system cannot read the file.
      BadVideo: It does not hold one picture.
    """
    with _opened(path, ArrayOptions(options.axes or "HW")) as (stream, array):
        [values] = _mapped(stream, array, None)
        return np.array(values)


def digest(path: pathlib.Path, options: ArrayOptions, video: int) -> str:
    """Returns the SHA-256 of one of N videos in a .npy file: type, shape [T, H, W, C], and values.

    Raises:
      UnreadableVideo: The system cannot read the file.
      BadVideo: It is not such an array, or it is cut short.
    """
    with _opened(path, options) as (stream, array):
        shape = [array.size(axis) for axis in "THWC"]
        result = hashlib.sha256(f"{array.dtype.str} {shape}".encode())
        for frame in _mapped(stream, array, video):
            result.update(frame)
        return result.hexdigest()


def as_uint8(values: Iterable[np.ndarray], note: Note) -> Iterator[np.ndarray]:
    """Converts the frames of one video to uint8.

    Args:
      values: uint8, bool or floats from 0 to 1, [h, w] or [h, w, 1 or 3].
      note: See `Source.read`.

    Yields:
      Frames of the same shapes.

    Raises:
      BadVideo: Floats are out of range, or all frames would be black although the values differ.
    """
    values = iter(values)
    largest = 0
    lowest, highest = math.inf, -math.inf  # Of floats.
    for frame in values:
        if frame.dtype.kind == "b":
            note("bool: 0 for False and 255 for True")
            frame = frame.astype(np.uint8) * 255
        elif frame.dtype.kind == "f":
            low, high = frame.min(), frame.max()
            if not (low >= -_SLACK and high <= 1 + _SLACK):  # Also true of NaN.
                raise _out_of_range(itertools.chain([frame], values), lowest, highest)
            lowest, highest = min(lowest, float(low)), max(highest, float(high))
            note("floats from 0 to 1: multiplied by 255")
            if low < 0 or high > 1:
                note("floats slightly below 0 or above 1: clipped")
            exact = frame.astype(np.promote_types(frame.dtype, np.float32))
            frame = np.rint(np.clip(exact, 0, 1) * 255).astype(np.uint8)
        if largest <= 1:
            largest = max(largest, frame.max())
        yield frame
    if largest == 1:
        raise BadVideo(
            "has only the values 0 and 1 of 255, so it would be black; multiply by 255 and save the"
            " frames as uint8"
        )


def _out_of_range(values: Iterable[np.ndarray], low: float, high: float) -> BadVideo:
    """Returns what is wrong with floats, given the others and the range of those before."""
    is_finite = True
    for frame in values:
        finite = frame[np.isfinite(frame)]
        is_finite = is_finite and finite.size == frame.size
        if finite.size:
            low, high = min(low, float(finite.min())), max(high, float(finite.max()))
    if not is_finite:
        return BadVideo("holds NaN or infinite values; repair them")
    found = f"holds floats from {low:.9g} to {high:.9g}, which must be from 0 to 1"
    if low >= 0 and 2 < high <= 255:
        return BadVideo(f"{found}; if they are from 0 to 255, save them as uint8")
    if -1 <= low < -0.1 and high <= 1:
        return BadVideo(f"{found}; if they are from -1 to 1, save (frames + 1) / 2")
    return BadVideo(f"{found}; scale them")


@contextlib.contextmanager
def _opened(path: pathlib.Path, options: ArrayOptions) -> Iterator[tuple[BinaryIO, _Array]]:
    """Opens an array; the stream is at the start of its values."""
    with regular_files.opened(path) as file:
        size = os.fstat(file.fileno()).st_size
        if not size:
            raise BadVideo("is empty")
        if path.suffix.lower() == ".npy":
            yield file, _array(file, size, path.name.lower(), options)
            return
        with _archive(file) as archive:
            member = _member(archive, options.key)
            size = min(member.file_size, size * _LARGEST_DEFLATION)
            with archive.open(member) as stream:
                yield stream, _array(stream, size, "", options)


@contextlib.contextmanager
def _archive(file: BinaryIO) -> Iterator[zipfile.ZipFile]:
    """Opens a .npz file."""
    try:
        with zipfile.ZipFile(file) as archive:
            yield archive
    # The exceptions of zipfile for damaged, encrypted and unusually compressed archives.
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, ValueError) as error:
        raise BadVideo("is not an archive written by np.savez, or is damaged") from error


def _member(archive: zipfile.ZipFile, key: str | None) -> zipfile.ZipInfo:
    """Returns the array in a .npz file that holds the frames."""
    members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
    if key in members:
        return members[key]
    if key is None and len(members) == 1:
        return next(iter(members.values()))
    shown = [_described(archive, name, members[name]) for name in [*members][:_SHOWN_ARRAYS]]
    arrays = ", ".join(shown) + (", ..." if len(members) > _SHOWN_ARRAYS else "")
    if not members:
        raise BadVideo("holds no arrays")
    if key is None:
        raise BadVideo(
            f"holds {len(members)} arrays: {arrays}; set data.array_key to the name of the frames,"
            " or if each array is a frame, save np.stack(frames)"
        )
    raise BadVideo(f"holds no array {key!r} (data.array_key); it holds {arrays}")


def _described(archive: zipfile.ZipFile, name: str, member: zipfile.ZipInfo) -> str:
    try:
        with archive.open(member) as stream:
            return f"{name} {list(_header(stream)[0])}"
    except BadVideo:
        return name


def _header(stream: BinaryIO) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Returns an array's shape, whether its first axis varies fastest, and the type of values."""
    try:
        version = np.lib.format.read_magic(stream)
        read = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }[version]
        return read(stream)
    except OSError:  # Not damage.
        raise
    except Exception as error:  # A header is a Python literal: damage may raise any exception.
        raise BadVideo("is not an array written by np.save, or is damaged") from error


def _array(stream: BinaryIO, size: int, name: str, options: ArrayOptions) -> _Array:
    shape, column_major, dtype = _header(stream)
    is_float = dtype.kind == "f" and dtype.itemsize <= 8
    if not is_float and dtype not in (np.uint8, np.bool_):
        raise BadVideo(f"holds {dtype} values; save the frames as uint8, 0 to 255")
    moving_mnist = options.axes is None and name == _MOVING_MNIST and _is_moving_mnist(shape, dtype)
    axes = "TNHW" if moving_mnist else _axes(shape, options.axes, is_npz=not name)
    start = stream.tell()
    array = _Array(shape, axes, dtype, column_major, start, size - start, moving_mnist)
    if array.size("C") not in (1, 3):
        raise BadVideo(
            f"has shape {list(shape)}, read as {words(axes)}; expected 1 or 3 channels"
            + (f". {_without_alpha(axes)}" if array.size("C") == 4 else "")
        )
    if array.size("T") == 0:
        raise BadVideo("has no frames")
    if min(shape) <= 0:
        raise BadVideo(f"has shape {list(shape)}, read as {words(axes)}, without any pixels")
    # Otherwise a damaged or forged header could allocate all memory.
    if array.size("HW") > Image.MAX_IMAGE_PIXELS:
        raise BadVideo(f"frames are {array.size('W')}x{array.size('H')} pixels: too large")
    return array


def _is_moving_mnist(shape: tuple[int, ...], dtype: np.dtype) -> bool:
    return dtype == np.uint8 and len(shape) == 4 and shape[0] == 20 and shape[2] == shape[3]


def _axes(shape: tuple[int, ...], axes: str | None, is_npz: bool) -> str:
    """Returns the letters of an array's axes, which are given or follow from its shape."""
    if axes is not None:
        if len(axes) != len(shape):
            raise BadVideo(
                f"has shape {list(shape)}, but data.array_axes = {axes} is for {len(axes)} axes"
            )
        return axes
    readings = _readings(shape)
    if len(shape) == 4 and shape[3] == 4:
        raise BadVideo(f"has shape {list(shape)}, with four channels. {_without_alpha('THWC')}")
    if len(readings) == 1 and ("N" not in readings[0] or shape[readings[0].index("N")] == 1):
        return readings[0]
    if not readings:
        raise BadVideo(
            f"has shape {list(shape)}; expected [T, H, W], or [T, H, W, C] with 1 or 3 channels"
        )
    may_be = " or ".join(("" if "T" in r else "a picture ") + words(r) for r in readings)
    settings = " or ".join(f"data.array_axes={reading}" for reading in readings)
    alpha = [r for r in (*readings, "TCHW") if "C" in r and len(r) == len(shape)]
    alpha = [r for r in alpha if shape[r.index("C")] == 4][:1]
    hint = f". If the 4 are channels: {_without_alpha(alpha[0])}" if alpha else ""
    if is_npz and any("N" in reading for reading in readings):
        hint += ". Files with N videos must be saved with np.save"
    raise BadVideo(f"has shape {list(shape)}, which may be {may_be}; set {settings}{hint}")


def _readings(shape: tuple[int, ...]) -> list[str]:
    """Returns the orders of axes that are likely for a shape."""
    if len(shape) == 3:
        a, b, c = shape
        found = ["THW"]
        if a in (3, 4) and min(b, c) > a:
            found.append("CHW")
        if c in (1, 3, 4):
            found.append("HWC")
        elif _are_sides(a, b, c):
            found.append("HWT")
        return found
    if len(shape) == 4:
        return _readings_of_four(*shape)
    if len(shape) == 5:
        a, b, c, _, e = shape
        orders = ["NTHWC", "TNHWC"] if e in (1, 3) else []
        orders += ["NTCHW", "TNCHW"] if c in (1, 3) else []
        orders += ["NCTHW"] if b in (1, 3) and e not in (1, 3) else []
        return [order for order in orders if a > 1 or order[0] == "N"]
    return []


def _readings_of_four(a: int, b: int, c: int, d: int) -> list[str]:
    found = []
    if d in (1, 3):
        found.append("THWC")
        if c not in (1, 3, 4) and _are_sides(a, b, c):
            found.append("HWTC")
    if b in (1, 3):
        found.append("TCHW")
    if c in (1, 3):
        found.append("HWCT")
    if d in (1, 3):
        return found
    if a == 3:
        found.append("CTHW")
    if b not in (1, 3) and (a != 1 or b == 4):  # 4 may be RGBA.
        found += ["TNHW", "NTHW"]
    elif a == 1 and b != 1:  # With b = 1, TCHW is the same frame.
        found.append("NTHW")
    return found


def _are_sides(a: int, b: int, c: int) -> bool:
    """Returns whether [H, W, T] is at least as likely as [T, H, W], by the shapes of frames."""
    if min(a, b, c) < 1 or b == c or _elongation(a, b) > _LONGEST:
        return False
    if a == b or _elongation(b, c) > _LONGEST:
        return True
    is_frame = _elongation(b, c) <= _NEARLY_SQUARE or (b < c and _is_usual(b, c))
    return _is_usual(a, b) and not is_frame


def _is_usual(h: int, w: int) -> bool:
    return any(abs(_elongation(h, w) / r - 1) < _RATIO_TOLERANCE for r in _USUAL_RATIOS)


def _elongation(h: int, w: int) -> float:
    return max(h, w) / min(h, w)


def words(axes: str) -> str:
    """Returns axes as in messages, such as [T, H, W]."""
    return f"[{', '.join(axes)}]"


def _without_alpha(axes: str) -> str:
    index = ", ".join(":3" if axis == "C" else ":" for axis in axes)
    return f"RGBA is not read: drop the alpha channel, as in frames[{index}]"


def _mapped(stream: BinaryIO, array: _Array, video: int | None) -> Iterator[np.ndarray]:
    """Yields the frames of one video from a .npy file, or its only picture."""
    if array.present < math.prod(array.shape) * array.dtype.itemsize:
        raise _cut_short(array)
    if (video or 0) >= array.size("N") or (video is None and array.size("N") > 1):
        raise BadVideo(f"holds {array.size('N')} videos: it changed while the folder was read")
    order = "F" if array.column_major else "C"
    values = np.memmap(stream, array.dtype, "r", array.start, array.shape, order)
    values = values.transpose([array.axes.index(axis) for axis in "NTHWC" if axis in array.axes])
    if "N" in array.axes:
        values = values[video or 0]
    if "T" not in array.axes:
        values = values[None]
    for frame in values:
        yield np.ascontiguousarray(frame)


def _streamed(stream: BinaryIO, array: _Array) -> Iterator[np.ndarray]:
    """Yields the frames of an array that can only be read from start to end."""
    (first, length), *rest = array.in_storage_order()
    if first != "T":
        raise BadVideo(
            f"is read as {words(array.axes)}{' in Fortran order' if array.column_major else ''}, in"
            " which a frame is not in one piece; save it with np.save, or save"
            " np.ascontiguousarray(frames) with T as the first axis"
        )
    letters = "".join(axis for axis, _ in rest)
    order = [letters.index(axis) for axis in "HWC" if axis in letters]
    for t in range(length):
        data = stream.read(array.frame_bytes)
        if len(data) < array.frame_bytes:
            raise BadVideo(f"is cut short: {t} of {length} frames can be read")
        frame = np.frombuffer(data, array.dtype).reshape([n for _, n in rest])
        yield np.ascontiguousarray(frame.transpose(order))


def _cut_short(array: _Array) -> BadVideo:
    if array.in_storage_order()[0][0] == "T" and array.size("N") == 1:
        present = array.present // array.frame_bytes
        return BadVideo(f"is cut short: {present} of {array.size('T')} frames can be read")
    needed = math.prod(array.shape) * array.dtype.itemsize
    return BadVideo(f"is cut short: {array.present} of {needed} bytes can be read")
