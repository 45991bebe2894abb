"""Reads frames from arrays in .npy and .npz files: uint8 [T, h, w] or [T, h, w, 1 or 3].

h and w are the height and width of the frames, in pixels. Frames are read one by one, so an array
need not fit in memory. Streams are open binary files that can seek.
"""

import contextlib
import math
import pathlib
import zipfile
import zlib
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np
from PIL import Image

from data_loaders.sources import BadVideo


def array_frames(stream: BinaryIO, suffix: str, path: pathlib.Path | None) -> Iterator[np.ndarray]:
    """Reads an array written by `np.save`, or the only one in a file written by `np.savez`.

    Args:
      stream: The file's bytes, at their start.
      suffix: '.npy' or '.npz'.
      path: The file, which is memory-mapped if it is a .npy file; None if the stream is not a file.

    Yields:
      uint8 [h, w] or [h, w, 1 or 3].

    Raises:
      BadVideo: It is not such an array, or cut short.
    """
    with _array(stream, suffix) as array:
        shape, column_major = _header(array)
        size = math.prod(shape[1:])
        if array is stream:
            start = stream.tell()
            present = stream.seek(0, 2) - start
            if present < math.prod(shape):
                raise _cut_short(present // size, shape[0])
            if path is not None:
                yield from np.load(path, mmap_mode="r", allow_pickle=False)
                return
            stream.seek(start)
        if column_major:
            raise BadVideo(
                "is in Fortran order, in which frames are not contiguous; save"
                " np.ascontiguousarray(frames)"
            )
        for t in range(shape[0]):
            data = array.read(size)
            if len(data) < size:
                raise _cut_short(t, shape[0])
            yield np.frombuffer(data, np.uint8).reshape(shape[1:])


def array_length(stream: BinaryIO, suffix: str) -> int:
    """Returns T of an array; raises a `BadVideo` as `array_frames` does."""
    with _array(stream, suffix) as array:
        return _header(array)[0][0]


def _header(stream: BinaryIO) -> tuple[tuple[int, ...], bool]:
    """Returns the shape, and whether the first dimension varies fastest."""
    try:
        version = np.lib.format.read_magic(stream)
        read = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }[version]
        shape, column_major, dtype = read(stream)
    except Exception as error:  # A header is a Python literal: damage may raise any exception.
        raise BadVideo("is not an array written by np.save, or is damaged") from error
    if dtype != np.uint8:
        raise BadVideo(f"holds {dtype} values; save the frames as uint8, 0 to 255")
    pixels = math.prod(shape[1:3])
    if len(shape) not in (3, 4) or (len(shape) == 4 and shape[3] not in (1, 3)) or not pixels:
        raise BadVideo(
            f"has shape {list(shape)}; expected [T, H, W] or [T, H, W, C] with 1 or 3 channels"
        )
    # Otherwise a damaged or forged header could allocate all memory.
    if pixels > Image.MAX_IMAGE_PIXELS:
        raise BadVideo(f"frames are {shape[2]}x{shape[1]} pixels, which is too large")
    return shape, column_major


@contextlib.contextmanager
def _array(stream: BinaryIO, suffix: str) -> Iterator[BinaryIO]:
    """Opens the only array of a .npz file; a .npy file is one already."""
    if suffix == ".npy":
        yield stream
        return
    try:
        with zipfile.ZipFile(stream) as archive:
            members = archive.namelist()
            if len(members) != 1:
                names = ", ".join(pathlib.PurePath(name).stem for name in members[:4])
                raise BadVideo(f"holds {len(members)} arrays ({names}); expected one")
            with archive.open(members[0]) as member:
                yield member
    # The exceptions of zipfile for damaged, encrypted and unusually compressed archives.
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, ValueError) as error:
        raise BadVideo("is not an archive written by np.savez, or is damaged") from error


def _cut_short(present: int, announced: int) -> BadVideo:
    return BadVideo(f"is cut short: {present} of {announced} frames can be read")
