"""Reads the structure of video files: whether it is complete, and the crop that it stores.

FFmpeg reads what is left of truncated and damaged files without an error, and PyAV before 19 does
not tell the crop. Except in Ogg files, only the headers of a file's parts are read. Streams are
open binary files that can seek; their position is kept.
"""

import collections
import math
import os
import struct
import zlib
from collections.abc import Iterator
from typing import BinaryIO

from data_loaders.sources import BadVideo

_HEADER, _SEGMENT, _CLUSTER, _VOID = 0x1A45DFA3, 0x18538067, 0x1F43B675, 0xEC
_BLOCK, _GROUP = 0xA3, 0xA0
_TRACKS, _VIDEO = 0x1654AE6B, 0xE0
_CROP = (0x54BB, 0x54AA, 0x54CC, 0x54DD)  # From the top, bottom, left, right.
# What a Matroska segment and its clusters may consist of (RFC 9559).
_MATROSKA_PARTS = {
    *(0x114D9B74, 0x1549A966, _TRACKS, 0x1C53BB6B, 0x1941A469, 0x1043A770, 0x1254C367),
    *(_CLUSTER, 0xE7, 0x5854, 0xA7, 0xAB, _BLOCK, _GROUP, 0xAF),
    *(_VOID, 0xBF),
}
_ASF_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
_FLV_TAGS = (8, 9, 18)  # Sound, video, data.
# FFmpeg gives up on Ogg files and MPEG transport streams if nothing is found for about 64 KiB.
_LONGEST_PADDING = 65_000
_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def check_complete(stream: BinaryIO, kind: str) -> set[int] | None:
    """Raises a BadVideo if the file is cut short or its parts are damaged.

    Args:
      stream: The file's bytes.
      kind: FFmpeg's name of the format. Formats that do not tell are not checked.

    Returns:
      The numbers of packets of the streams; None if they are not counted.
    """
    packets = None
    check = {
        "mov": _check_mp4,
        "matroska": _check_matroska,
        "ogg": _check_ogg,
        "asf": _check_asf,
        "flv": _check_flv,
        "mpegts": _check_mpegts,
    }
    if kind in check:
        position, end = stream.tell(), stream.seek(0, os.SEEK_END)
        packets = check[kind](stream, end)
        stream.seek(position)
    return packets


def is_cut_avi(stream: BinaryIO) -> bool:
    """Returns whether an AVI is shorter than its header says."""
    position, end = stream.tell(), stream.seek(0, os.SEEK_END)
    at = 0
    while at + 8 <= end:
        stream.seek(at)
        name, size = struct.unpack("<4sI", stream.read(8))
        if name != b"RIFF":
            break
        at += 8 + size
    stream.seek(position)
    return at > end + 1  # The last part may lack its padding.


def stored_crop(
    stream: BinaryIO, kind: str, number: int, track: int
) -> tuple[float, float, float, float] | None:
    """Returns how many pixels the container cuts off at the top, bottom, left and right.

    Players apply it after decoding. A damaged file may have any numbers, including NaN.

    Args:
      stream: The file's bytes.
      kind: FFmpeg's name of the format.
      number: How many video streams precede this one in the file.
      track: FFmpeg's number of the stream, in an mp4.

    Returns:
      None if the container does not tell.
    """
    position, end = stream.tell(), stream.seek(0, os.SEEK_END)
    crop = None
    if kind == "mov":
        crop = _mp4_crop(stream, end, track)
    elif kind == "matroska":
        crop = _matroska_crop(stream, end, number)
    stream.seek(position)
    return crop


def _check_mp4(stream: BinaryIO, end: int) -> None:
    """Checks the last part of a fragmented mp4, which has no index."""
    at, kind, fragments = 0, b"", False
    for kind, _, stop in _mp4_boxes(stream, 0, end):
        fragments |= kind == b"moof"
        at = stop
    if fragments and (at != end or kind == b"moof"):
        raise BadVideo("is cut short: its last fragment is incomplete")


def _mp4_boxes(stream: BinaryIO, at: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Yields the kind of each box, where its content starts, and where it should end."""
    while at + 8 <= end:
        stream.seek(at)
        size, kind = struct.unpack(">I4s", stream.read(8))
        start = at + 8
        if size == 1 and at + 16 <= end:
            (size,) = struct.unpack(">Q", stream.read(8))
            start = at + 16
        at = at + size if size >= 8 else end  # 0: the last box, up to the end of the file.
        yield kind, start, at


def _mp4_find(stream: BinaryIO, at: int, end: int, *path: bytes) -> Iterator[tuple[int, int]]:
    """Yields where the contents of the boxes with a path start and end."""
    for kind, start, stop in _mp4_boxes(stream, at, end):
        if kind == path[0] and len(path) > 1:
            yield from _mp4_find(stream, start, min(stop, end), *path[1:])
        elif kind == path[0]:
            yield start, min(stop, end)


def _mp4_crop(stream: BinaryIO, end: int, track: int) -> tuple[float, float, float, float] | None:
    for start, stop in _mp4_find(stream, 0, end, b"moov", b"trak"):
        if _mp4_track(stream, start, stop) != track:
            continue
        for at, last in _mp4_find(stream, start, stop, b"mdia", b"minf", b"stbl", b"stsd"):
            for _, entry, entry_end in _mp4_boxes(stream, at + 8, last):
                for clap, _ in _mp4_find(stream, entry + 78, min(entry_end, last), b"clap"):
                    stream.seek(entry + 24)
                    width, height = struct.unpack(">HH", stream.read(4))
                    stream.seek(clap)
                    numbers = struct.unpack(">IIIIiIiI", stream.read(32).ljust(32, b"\0"))
                    pairs = zip(numbers[::2], numbers[1::2], strict=True)
                    w, h, x, y = (n / d if d else math.nan for n, d in pairs)
                    # x and y are from the middle of the frame to that of the crop.
                    dx, dy = (width - w) / 2, (height - h) / 2
                    return dy + y, dy - y, dx + x, dx - x
    return None


def _mp4_track(stream: BinaryIO, start: int, stop: int) -> int | None:
    """Returns a track's number."""
    for at, _ in _mp4_find(stream, start, stop, b"tkhd"):
        stream.seek(at)
        head = stream.read(24).ljust(24, b"\0")
        return struct.unpack_from(">I", head, 20 if head[0] == 1 else 12)[0]
    return None


def _check_matroska(stream: BinaryIO, end: int) -> set[int]:
    """Checks that the parts of a segment and of its clusters follow each other up to its end.

    Recordings that were not finished do not say where the segment ends.
    """
    at, stop, expected = 0, end, {_HEADER}
    blocks = collections.Counter()
    while at < stop:
        stream.seek(at)
        head = stream.read(32)
        part, size, length = _matroska_part(head)
        if part not in expected or (size is None and part not in (_SEGMENT, _CLUSTER)):
            raise BadVideo(f"is damaged or cut short: {at:,} of {end:,} bytes can be read")
        at += length
        if part == _HEADER:
            expected = {_SEGMENT, _VOID}
        elif part == _SEGMENT:
            expected = _MATROSKA_PARTS
            stop = end if size is None else at + size
            if stop > end:
                raise _cut_short(end, stop)
        if part not in (_SEGMENT, _CLUSTER):  # Their parts come next.
            at += size
        if part == _GROUP:  # It starts with a block.
            length += _matroska_part(head[length:])[2]
        if part in (_BLOCK, _GROUP):
            blocks[head[length : length + 1]] += 1  # By track.
    if at > stop:
        raise _cut_short(stop, at)
    return set(blocks.values())


def _matroska_part(head: bytes) -> tuple[int, int | None, int]:
    """Returns what kind of part starts here, its size if known, and the length of these two."""
    padded = head.ljust(24, b"\0")
    name_length = 9 - padded[0].bit_length()  # The leading zeros tell the length.
    size_length = 9 - padded[name_length].bit_length()
    length = name_length + size_length
    name = int.from_bytes(padded[:name_length], "big")
    if max(name_length - 4, size_length - 8, length - len(head)) > 0:
        return 0, None, length
    unknown = (1 << 7 * size_length) - 1
    size = int.from_bytes(padded[name_length:length], "big") & unknown
    return name, None if size == unknown else size, length


def _matroska_crop(
    stream: BinaryIO, end: int, number: int
) -> tuple[float, float, float, float] | None:
    at, part, size = 0, 0, 0
    while at < end and part != _TRACKS and size is not None:
        stream.seek(at)
        part, size, length = _matroska_part(stream.read(32))
        at += length
        if part == _SEGMENT:  # Its parts come next.
            size = 0
        at += size or 0
    if part != _TRACKS or size is None:
        return None
    stream.seek(at - size)
    tracks = [dict(_matroska_parts(t)) for _, t in _matroska_parts(stream.read(size))]
    videos = [dict(_matroska_parts(track[_VIDEO])) for track in tracks if _VIDEO in track]
    if number >= len(videos):
        return None
    return tuple(float(int.from_bytes(videos[number].get(name, b"")[:8], "big")) for name in _CROP)


def _matroska_parts(content: bytes) -> Iterator[tuple[int, bytes]]:
    """Yields the parts of a part, and their contents."""
    at = 0
    while at < len(content):
        part, size, length = _matroska_part(content[at : at + 32])
        if size is None:
            break
        at += length + size
        yield part, content[at - size : at]


def _check_ogg(stream: BinaryIO, end: int) -> None:
    """Checks the pages, as FFmpeg skips damaged ones, and that one is marked as the last."""
    at, flags = 0, 0
    data_end = _data_end(stream, end)
    while at < data_end:
        stream.seek(at)
        head = stream.read(27)
        lengths = stream.read(head[26]) if len(head) == 27 else b""
        page = head + lengths + stream.read(sum(lengths))
        if len(head) < 27 or len(page) < 27 + head[26] + sum(lengths):
            break
        if page[:4] != b"OggS" or _ogg_checksum(page) != page[22:26]:
            raise BadVideo(f"is damaged: the page at byte {at:,} of {end:,} is not valid")
        flags = page[5]
        at += len(page)
    if at < data_end or not flags & 4:
        raise BadVideo("is cut short: the last page of the Ogg file is missing")
    _check_padding(end - at)


def _ogg_checksum(page: bytes) -> bytes:
    """Returns a CRC like that of `zlib`, but of reversed bits, and from 0."""
    page = page[:22] + bytes(4) + page[26:]
    crc = zlib.crc32(page.translate(_REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return crc.to_bytes(4, "big").translate(_REVERSED)


def _check_flv(stream: BinaryIO, end: int) -> None:
    """Checks that the file consists of tags up to its end; FFmpeg would skip other data."""
    stream.seek(5)
    at, length = int.from_bytes(stream.read(4), "big") + 4, 0
    data_end = _data_end(stream, end)
    while at < end:
        stream.seek(at - 4)
        length_before, head = stream.read(4), stream.read(4)
        # If zeros follow, they may have replaced a part of the last tag.
        if at >= data_end and int.from_bytes(length_before, "big") == length:
            return
        if len(head) == 4 and head[0] not in _FLV_TAGS:
            raise BadVideo(f"is damaged: the tag at byte {at:,} of {end:,} is not valid")
        length = 11 + int.from_bytes(head[1:], "big")
        at += length + 4
    if at > end + 4:  # The size after the last tag may be missing.
        raise _cut_short(end, at)


def _check_asf(stream: BinaryIO, end: int) -> None:
    """Compares the size of a WMV with its header, which live recordings leave open."""
    stream.seek(0)
    _, found, properties = stream.read(2**16).partition(_ASF_PROPERTIES)
    if found and len(properties) >= 76:
        (size,) = struct.unpack_from("<Q", properties, 24)
        is_live = properties[72] & 1
        if size > end and not is_live:
            raise _cut_short(end, size)


def _check_mpegts(stream: BinaryIO, end: int) -> None:
    """Checks that the last packet is complete; nothing tells how many there should be."""
    stream.seek(0)
    start = stream.read(2 * 192)
    # Packets start with 0x47. In .m2ts, a time precedes each.
    for first, size in ((0, 188), (4, 192)):
        if start[first : first + size + 1 : size] == b"GG":
            data_end = _data_end(stream, end)
            last_end = -(-data_end // size) * size
            # Zeros after the last packet are padding, unless they replaced a part of it.
            if last_end > end or data_end < last_end < end:
                raise BadVideo("is cut short: its last packet is incomplete")
            _check_padding(end - last_end)


def _data_end(stream: BinaryIO, end: int) -> int:
    """Returns where the zeros start that end a file; some programs pad files with them."""
    while end:
        start = max(0, end - 2**16)
        stream.seek(start)
        if data := stream.read(end - start).rstrip(b"\0"):
            return start + len(data)
        end = start
    return 0


def _check_padding(length: int) -> None:
    if length > _LONGEST_PADDING:
        raise BadVideo(f"is cut short or padded: it ends with {length:,} bytes that are zero")


def _cut_short(present: int, announced: int) -> BadVideo:
    return BadVideo(f"is cut short: {present:,} of {announced:,} bytes are there")
