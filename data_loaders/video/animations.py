"""Reads animated pictures with Pillow: GIF, WebP and APNG.

FFmpeg merges pictures of a GIF that have no duration, and does not read animated WebP. Pillow
decodes, but GIFs are composed here: Pillow forgets that an area is transparent, and takes any color
for the areas that no picture covers. Streams are open binary files that can seek.
"""

import io
import os
import struct
from collections.abc import Iterator
from fractions import Fraction
from typing import BinaryIO, NamedTuple

import numpy as np
from PIL import Image

from data_loaders.sources import BadVideo, Note
from data_loaders.video.timing import at_rate

# An unknown part may be a damaged frame.
_WEBP_PARTS = {b"VP8X", b"ANIM", b"ANMF", b"ICCP", b"EXIF", b"XMP "}

# Players and FFmpeg show a picture with a duration below `_SHORTEST` for `_INSTEAD` seconds.
_SHORTEST, _INSTEAD = Fraction(2, 100), Fraction(1, 10)


def animation_kind(stream: BinaryIO) -> str | None:
    """Returns 'gif', 'webp' or 'apng' by the content of a file; None if it is neither."""
    stream.seek(0)
    start = stream.read(4096)
    stream.seek(0)
    if start[:6] in (b"GIF87a", b"GIF89a"):
        return "gif"
    is_webp = start[:4] == b"RIFF" and start[8:16] == b"WEBPVP8X" and len(start) > 20
    if is_webp and start[20] & 2:  # Other WebP files are single pictures.
        return "webp"
    # An APNG says so before its pixels.
    if start.startswith(b"\x89PNG\r\n\x1a\n") and b"acTL" in start.partition(b"IDAT")[0]:
        return "apng"
    return None


def animation_frames(
    stream: BinaryIO, kind: str, fps: float | None, note: Note
) -> Iterator[np.ndarray]:
    """Reads an animation; only one decoded picture is in memory at a time.

    Args:
      stream: The file's bytes.
      kind: See `animation_kind`.
      fps: As for `read_video`.
      note: See `Source.read`.

    Yields:
      uint8 [h, w, 3], RGB. Transparent areas are white.

    Raises:
      BadVideo: It is damaged, cut short or too slow.
    """
    durations, shown = _timing(stream, kind)
    rate = len(shown) / sum(shown)
    note(f"{kind} ({len(shown)} frames, {float(rate):.4g} frames/s on average)")
    if fps is not None and shown != durations:
        note(f"frames without a duration are shown for {float(_INSTEAD)} seconds, as players do")
    if min(shown) < max(shown):
        note(f"frames are shown for {float(min(shown)):.3g} to {float(max(shown)):.3g} seconds")
    if kind == "gif":
        frames = _gif_frames(stream, note)
    else:
        frames = _pillow_frames(stream, kind, len(shown), note)
    if fps is not None:
        unit = 0.01 if kind == "gif" else 0.001
        frames = at_rate(_timed(frames, shown), fps, float(rate), unit)
    yield from frames


def animation_length_and_rate(stream: BinaryIO, kind: str) -> tuple[int, float]:
    """Returns the number of frames, and of frames per second; raises a `BadVideo` if damaged."""
    _, shown = _timing(stream, kind)
    return len(shown), float(len(shown) / sum(shown))


def _timing(stream: BinaryIO, kind: str) -> tuple[list[Fraction], list[Fraction]]:
    """Returns the durations of the frames in seconds: in the file, and as players show them."""
    durations = list(_durations(stream, kind))
    if not durations:
        raise BadVideo("has no frames")
    return durations, [d if d >= _SHORTEST else _INSTEAD for d in durations]


def _timed(
    frames: Iterator[np.ndarray], durations: list[Fraction]
) -> Iterator[tuple[np.ndarray, float, float]]:
    time = Fraction(0)
    for frame, duration in zip(frames, durations, strict=True):
        yield frame, float(time), float(duration)
        time += duration


def _durations(stream: BinaryIO, kind: str) -> Iterator[Fraction]:
    """Yields the duration of each picture in seconds; checks that the file is complete."""
    if kind == "gif":
        for picture in _gif_pictures(stream):
            yield picture.duration
        return
    announced, found = None, 0
    for name, content in _chunks(stream, kind):
        if name == b"acTL":
            (announced,) = struct.unpack_from(">I", content)
        elif name == b"ANMF":
            found += 1
            yield Fraction(int.from_bytes(content[12:15], "little"), 1000)
        elif name == b"fcTL":
            found += 1
            ticks, per_second = struct.unpack_from(">HH", content, 20)
            yield Fraction(ticks, per_second or 100)
    if announced not in (None, found):
        raise BadVideo(f"is damaged: it has {found} frames, but its header says {announced}")


def _chunks(stream: BinaryIO, kind: str) -> Iterator[tuple[bytes, bytes]]:
    """Yields the names and first 26 bytes of the parts of a WebP or PNG file."""
    is_webp = kind == "webp"
    end = stream.seek(0, os.SEEK_END)
    stream.seek(4)
    # A WebP starts with its size, a PNG ends with an empty part.
    size = 8 + struct.unpack("<I", stream.read(4))[0] if is_webp else end
    at, name = (12 if is_webp else 8), b""
    while at + 8 <= size <= end and name != b"IEND":
        stream.seek(at)
        if is_webp:
            name, length = struct.unpack("<4sI", stream.read(8))
            at += 8 + length + length % 2
            if name not in _WEBP_PARTS:
                raise BadVideo(f"is damaged: it has a part {name!r}")
        else:
            length, name = struct.unpack(">I4s", stream.read(8))
            at += 12 + length
        if at <= end:
            yield name, stream.read(min(length, 26)).ljust(26, b"\0")
    if max(at, size) > end or not (is_webp or name == b"IEND"):
        raise BadVideo("is cut short: the end of the animation is missing")


def _pillow_frames(stream: BinaryIO, kind: str, expected: int, note: Note) -> Iterator[np.ndarray]:
    stream.seek(0)
    try:
        with Image.open(stream, formats=["PNG" if kind == "apng" else "WEBP"]) as image:
            _check_size(*image.size)
            # A PNG may start with a picture for viewers that cannot show animations.
            start = bool(getattr(image, "default_image", False))
            if image.n_frames - start != expected:
                raise BadVideo(
                    f"is damaged: {image.n_frames - start} of {expected} frames are read"
                )
            for number in range(start, image.n_frames):
                image.seek(number)
                frame = image.convert("RGBA")
                if frame.getextrema()[3][0] < 255:
                    note("transparent areas are white")
                white = Image.new("RGBA", frame.size, "white")
                yield np.asarray(Image.alpha_composite(white, frame).convert("RGB"))
    except Image.DecompressionBombError as error:
        raise BadVideo("frames are too large") from error
    except (SyntaxError, ValueError, EOFError) as error:
        raise BadVideo("is damaged: a frame cannot be decoded") from error
    except OSError as error:
        if error.errno is not None:  # The system's, not Pillow's.
            raise
        raise BadVideo("is damaged: a frame cannot be decoded") from error


class _Picture(NamedTuple):
    """A picture in a GIF, which changes a part of the frame before it."""

    duration: Fraction  # Seconds.
    disposal: int  # What happens to its area afterwards: 2 clears it, 3 restores it.
    transparent: int | None  # The color that leaves pixels unchanged.
    box: tuple[int, int, int, int]  # Left, top, width, height.
    is_interlaced: bool
    palette: np.ndarray  # uint8 [256, 3]
    data: bytes  # Compressed colors.


def _gif_size(stream: BinaryIO) -> tuple[int, int, np.ndarray, int]:
    """Returns width, height, palette and background color, and moves to the first block."""
    stream.seek(6)
    width, height, flags, background, _ = struct.unpack("<HHBBB", _exactly(stream, 7))
    return width, height, _palette(stream, flags), background


def _gif_pictures(stream: BinaryIO) -> Iterator[_Picture]:
    """Yields the pictures in a GIF; raises a `BadVideo` if it is damaged or its end is missing."""
    *_, palette, _ = _gif_size(stream)
    plain = (0, 0, 0)
    control, number = plain, 0
    while (kind := _exactly(stream, 1)) != b";":
        if kind == b"!":
            is_control = _exactly(stream, 1) == b"\xf9"
            data = _sub_blocks(stream)
            if is_control and len(data) >= 5:
                control = struct.unpack_from("<xBHB", data)
        elif kind == b",":
            *box, flags = struct.unpack("<HHHHB", _exactly(stream, 9))
            own = _palette(stream, flags) if flags & 0x80 else palette
            data = _exactly(stream, 1) + _sub_blocks(stream)
            options, hundredths, transparent = control
            yield _Picture(
                duration=Fraction(hundredths, 100),
                disposal=options >> 2 & 7,
                transparent=transparent if options & 1 else None,
                box=tuple(box),
                is_interlaced=bool(flags & 0x40),
                palette=own,
                data=data,
            )
            control, number = plain, number + 1
        elif kind != b"\0":  # Some programs write too many ends of blocks.
            raise BadVideo(f"is damaged: what follows frame {number} is not a part of a GIF")


def _gif_frames(stream: BinaryIO, note: Note) -> Iterator[np.ndarray]:
    width, height, palette, background = _gif_size(stream)
    _check_size(width, height)
    canvas = None
    for number, picture in enumerate(_gif_pictures(stream)):
        # Areas without a picture are transparent, here white, if the GIF uses transparency at all.
        bare = 255 if picture.transparent is not None else palette[background]
        if canvas is None:
            canvas = np.empty((height, width, 3), np.uint8)
            canvas[:] = bare
        left, top, w, h = picture.box
        _check_size(w, h)
        area = canvas[top : top + h, left : left + w]
        if not area.size:
            raise BadVideo(f"is damaged: frame {number} is outside of the picture")
        before = area.copy() if picture.disposal == 3 else None
        colors = _decoded(picture, number)[: area.shape[0], : area.shape[1]]
        if picture.transparent is None:
            area[:] = picture.palette[colors]
        else:
            kept = colors == picture.transparent
            np.copyto(area, picture.palette[colors], where=~kept[..., None])
            if picture.disposal == 2 or (number == 0 and kept.any()):
                note("transparent areas are white")
        yield canvas.copy()
        if picture.disposal == 2:
            area[:] = bare
        elif before is not None:
            area[:] = before
    if rest := len(stream.read().strip(b"\0\r\n ")):
        note(f"{rest:,} bytes after the end of the GIF are not used")


def _decoded(picture: _Picture, number: int) -> np.ndarray:
    """Returns the colors of a picture, uint8 [h, w], decoded as a GIF of one gray picture."""
    *_, w, h = picture.box
    flags = 0x40 if picture.is_interlaced else 0
    single = (
        struct.pack("<6sHHBBB", b"GIF89a", w, h, 0xF7, 0, 0)
        + bytes(np.repeat(np.arange(256, dtype=np.uint8), 3))
        + struct.pack("<cHHHHB", b",", 0, 0, w, h, flags)
        + picture.data
        + b";"
    )
    try:
        with Image.open(io.BytesIO(single), formats=["GIF"]) as image:
            return np.asarray(image)
    except (OSError, ValueError, EOFError, SyntaxError) as error:
        raise BadVideo(f"is damaged: frame {number} cannot be decoded") from error


def _palette(stream: BinaryIO, flags: int) -> np.ndarray:
    """Reads a palette, black beyond its end; a gray one if there is none."""
    if not flags & 0x80:
        return np.repeat(np.arange(256, dtype=np.uint8)[:, None], 3, axis=1)
    colors = np.frombuffer(_exactly(stream, 3 << (flags & 7) + 1), np.uint8)
    return np.pad(colors.reshape(-1, 3), ((0, 256 - len(colors) // 3), (0, 0)))


def _sub_blocks(stream: BinaryIO) -> bytes:
    """Reads blocks of up to 255 bytes, each after its size, up to an empty one."""
    parts = []
    while (size := _exactly(stream, 1)) != b"\0":
        parts += size, _exactly(stream, size[0])
    return b"".join((*parts, b"\0"))


def _exactly(stream: BinaryIO, size: int) -> bytes:
    data = stream.read(size)
    if len(data) < size:
        raise BadVideo("is cut short: the end of the GIF is missing")
    return data


def _check_size(width: int, height: int) -> None:
    """Raises a BadVideo if a picture would need too much memory."""
    if width * height > Image.MAX_IMAGE_PIXELS:
        raise BadVideo(f"frames are {width}x{height} pixels, which is too large")
    if not width * height:
        raise BadVideo("is damaged: its frames have no pixels")
