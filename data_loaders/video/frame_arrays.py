"""Frames kept as arrays, in .npy and .npz files: uint8 [T, h, w] or [T, h, w, 1 or 3].

h and w are the height and width of the frames, in pixels. Frames are read one by one, so that an
array need not fit in memory. Streams are open binary files that can seek.
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

_Header = tuple[tuple[int, ...], bool]


def npy_frames(stream: BinaryIO, path: pathlib.Path | None) -> Iterator[np.ndarray]:
    """Reads what `np.save` has written.

    Args:
      stream: The file's bytes, at their start.
      path: The file, if it is one: it is memory-mapped.

    Yields:
      uint8 [h, w] or [h, w, 1 or 3].

    Raises:
      BadVideo: It is no such array, or cut short.
    """
    shape, column_major = _header(stream)
    start = stream.tell()
    present = stream.seek(0, 2) - start
    if present < math.prod(shape):
        raise _cut_short(present // math.prod(shape[1:]), shape[0])
    if path is not None:
        yield from np.load(path, mmap_mode="r", allow_pickle=False)
        return
    stream.seek(start)
    yield from _frames(stream, shape, column_major)


def npz_frames(stream: BinaryIO) -> Iterator[np.ndarray]:
    """Reads the one array that `np.savez` has written; otherwise as `npy_frames`."""
    with _only_member(stream) as member:
        yield from _frames(member, *_header(member))


def npy_length(stream: BinaryIO) -> int:
    """Returns T of what `np.save` has written; raises a `BadVideo` as `npy_frames` does."""
    return _header(stream)[0][0]


def npz_length(stream: BinaryIO) -> int:
    """Returns T of the one array that `np.savez` has written, as `npy_length` does."""
    with _only_member(stream) as member:
        return _header(member)[0][0]


def _header(stream: BinaryIO) -> _Header:
    """Returns the shape, and whether the first dimension is the one that varies fastest."""
    try:
        version = np.lib.format.read_magic(stream)
        read = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }[version]
        shape, column_major, dtype = read(stream)
    except (
        Exception
    ) as error:  # A header is Python code; what damage there raises is anyone's guess.
        raise BadVideo("is not an array as np.save writes it, or is damaged") from error
    if dtype != np.uint8:
        raise BadVideo(f"holds {dtype} values; save the frames as uint8, 0 to 255")
    pixels = math.prod(shape[1:3])
    if len(shape) not in (3, 4) or (len(shape) == 4 and shape[3] not in (1, 3)) or not pixels:
        raise BadVideo(
            f"has shape {list(shape)}; expected [T, H, W] or [T, H, W, C] with 1 or 3 channels"
        )
    # Also keeps a damaged or forged header from asking for all memory there is.
    if pixels > Image.MAX_IMAGE_PIXELS:
        raise BadVideo(f"frames are {shape[2]}x{shape[1]} pixels, which is too large")
    return shape, column_major


def _frames(stream: BinaryIO, shape: tuple[int, ...], column_major: bool) -> Iterator[np.ndarray]:
    if column_major:
        raise BadVideo(
            "is in Fortran's order, whose frames lie scattered; save np.ascontiguousarray(frames)"
        )
    size = math.prod(shape[1:])
    for t in range(shape[0]):
        data = stream.read(size)
        if len(data) < size:
            raise _cut_short(t, shape[0])
        yield np.frombuffer(data, np.uint8).reshape(shape[1:])


@contextlib.contextmanager
def _only_member(stream: BinaryIO) -> Iterator[BinaryIO]:
    try:
        with zipfile.ZipFile(stream) as archive:
            members = archive.namelist()
            if len(members) != 1:
                names = ", ".join(pathlib.PurePath(name).stem for name in members[:4])
                raise BadVideo(f"holds {len(members)} arrays ({names}); expected one")
            with archive.open(members[0]) as member:
                yield member
    # What zipfile raises of archives that are damaged, encrypted or packed in an unusual way.
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, ValueError) as error:
        raise BadVideo("is not an archive as np.savez writes it, or is damaged") from error


def _cut_short(present: int, announced: int) -> BadVideo:
    return BadVideo(f"is cut short: {present} of {announced} frames can be read")
