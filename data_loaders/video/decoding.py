"""Decodes video files with FFmpeg, through PyAV.

PyAV is imported only when a video is opened. Decoding uses one core, since several processes share
the work. h and w are the height and width of a video's frames, in pixels. Streams are open binary
files that can seek.

Truncated files are reported if they announce their length or mark their end. MPEG streams (.mpg,
.vob, .ts, .m2ts) and live recordings do not: only a cut within a frame or packet is detected there.
"""

import contextlib
import dataclasses
import fractions
import itertools
import math
import os
import types
from collections.abc import Iterator
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from data_loaders.sources import BadVideo, Note, ignore_note, require
from data_loaders.video.structure import check_complete, is_cut_avi, stored_crop
from data_loaders.video.timing import at_rate

if TYPE_CHECKING:
    import av

# By FFmpeg's name: what a format is called, and the extensions of its files. A file may have any of
# these formats, whatever its name. Formats that refer to other files or addresses, such as
# playlists, are excluded.
FORMATS = {
    "mov": ("mp4", (".mp4", ".m4v", ".mov", ".qt", ".3gp", ".3g2", ".f4v")),
    "avi": ("avi", (".avi", ".divx")),
    "matroska": ("mkv", (".mkv", ".webm")),
    "asf": ("wmv", (".wmv", ".asf")),
    "flv": ("flv", (".flv",)),
    "ogg": ("ogg", (".ogv",)),
    "mpeg": ("mpeg", (".mpg", ".mpeg", ".mpe", ".vob")),
    "mpegvideo": ("mpeg", (".mpg", ".mpeg", ".mpe", ".m1v", ".m2v")),
    "mpegts": ("mpeg-ts", (".ts", ".m2ts", ".mts")),
}
# Formats of sound, for which "no pictures" is a clearer message than "not a video".
_SOUND = ("aac", "flac", "mp3", "wav")

# A film's first video stream may be its cover, in one of these.
_PICTURES = ("mjpeg", "png", "bmp", "gif", "tiff", "webp")
# Codecs with one frame per packet, except if the two fields of a frame are in two packets. Others
# have packets that are never shown, such as vp8.
_ALL_SHOWN = ("h264", "hevc", "vp9", "av1")
# Formats that start with a frame that can be decoded, unlike recorded broadcasts.
_STORED = ("mov", "avi", "matroska", "flv", "asf")

# Formats whose header has the length in seconds, but not in frames or bytes.
_TIMED = ("flv", "asf")

# Pixels are not wider or higher than this; more is an error in the file.
_WIDEST = 5
# Pixels whose aspect differs less from 1 are square.
_ASPECT_TOLERANCE = 0.005

# With fewer bytes per frame, a file's header or one of its times may be wrong.
_FEW_BYTES = 50

# By the signs of the first rows of a display matrix, (a, b, c, d): x' = a x + c y, y' = b x + d y.
_ORIENTATIONS = {
    (-1, 0, 0, 1): "mirrored left to right",
    (1, 0, 0, -1): "mirrored top to bottom",
    (-1, 0, 0, -1): "turned by 180 degrees",
    (0, 1, -1, 0): "turned by 90 degrees clockwise",
    (0, -1, 1, 0): "turned by 90 degrees counterclockwise",
    (0, 1, 1, 0): "mirrored at the diagonal from top left to bottom right",
    (0, -1, -1, 0): "mirrored at the diagonal from bottom left to top right",
}
_UPRIGHT = (1, 0, 0, 1)


def require_av() -> types.ModuleType:
    """Imports and silences PyAV; raises a UserError if it is not installed."""
    av = require("av", "decoding videos", "av")
    av.logging.set_level(None)  # Errors are raised; FFmpeg's messages would only clutter stderr.
    return av


@contextlib.contextmanager
def video_frames(
    stream: BinaryIO, suffix: str, fps: float | None, note: Note
) -> Iterator[tuple[Iterator[np.ndarray], fractions.Fraction]]:
    """Decodes the film in a file, cropped, turned and mirrored as a player would do it.

    Args:
      stream: The file's bytes.
      suffix: The extension of the file's name.
      fps: As for `read_video`.
      note: See `Source.read`.

    Yields:
      The frames, uint8 [h, w, 3], RGB; and the width of their pixels as a multiple of the height.

    Raises:
      BadVideo: It is not a video, damaged, cut short or too slow. It may be raised by the frames.
      UserError: PyAV is not installed.
    """
    with _opened(stream, note) as (container, video):
        kind = _kind(container)
        rate = _rate(video)
        speed = f"{rate:.4g} frames/s" if rate else "no frame rate"
        label, suffixes = FORMATS[kind]
        note(f"{label} ({video.codec_context.name}, {speed})")
        if suffix not in suffixes:
            note(f"is {label}, in spite of its name")
        stored = check_complete(stream, kind)
        number = container.streams.video.index(video)
        crop = stored_crop(stream, kind, number, video.id)
        frames = _decoded(container, video, stream, stored, note)
        try:
            first = next(frames)
        except StopIteration:
            raise BadVideo("has no frames") from None
        orientation = _orientation(first[0], note) or _UPRIGHT
        if orientation != _UPRIGHT:
            note(_ORIENTATIONS[orientation])
        aspect = _pixel_aspect(video, note)
        frames = itertools.chain([first], frames)
        if fps is not None:
            if not rate:
                raise BadVideo("has no frame rate to reduce; unset data.fps")
            frames = at_rate(frames, fps, rate, float(video.time_base))
        else:
            frames = (frame for frame, *_ in frames)
        yield (
            _pixels(frames, video, crop, orientation, note),
            1 / aspect if orientation[0] == 0 else aspect,
        )


def frames_and_rate(stream: BinaryIO, through: bool) -> tuple[int, float] | None:
    """Returns the approximate number of frames and their rate per second, or None if unknown.

    Args:
      stream: The file's bytes.
      through: Whether to read the whole file if its header has no number of frames.
    """
    size = stream.seek(0, os.SEEK_END)
    stream.seek(0)
    with _opened(stream) as (container, video), _reporting("is damaged"):
        rate = _rate(video)
        frames = video.frames
        if not frames and container.duration and rate:
            frames = round(container.duration / 1e6 * rate)
        if _FEW_BYTES * frames > size or (not frames and through):
            frames = sum(packet.size > 0 for packet in container.demux(video))
        return (frames, rate) if frames and rate else None


@contextlib.contextmanager
def _opened(
    stream: BinaryIO, note: Note = ignore_note
) -> Iterator[tuple["av.container.InputContainer", "av.VideoStream"]]:
    """Opens a video file as FFmpeg's container and the video stream that is the film."""
    av = require_av()
    options = {"container_options": {"format_whitelist": ",".join((*FORMATS, *_SOUND))}}
    if int(av.__version__.split(".")[0]) < 19:  # Later versions accept any text.
        options["metadata_errors"] = "replace"
    with _reporting("cannot be opened: it is not a video, or damaged, or its end is missing"):
        container = av.open(stream, **options)
    with container:
        video = _film(container, note)
        video.thread_count = 1
        # Otherwise FFmpeg moves the left edge of a crop to a multiple of 32 pixels.
        video.codec_context.flags |= av.codec.context.Flags.unaligned
        yield container, video


@contextlib.contextmanager
def _reporting(problem: str) -> Iterator[None]:
    """Raises a BadVideo instead of FFmpeg's errors."""
    try:
        yield
    # In damaged files FFmpeg may seek before the start, where io.BytesIO raises a ValueError.
    except (require_av().FFmpegError, ValueError) as error:
        raise BadVideo(problem) from error


def _film(container: "av.container.InputContainer", note: Note) -> "av.VideoStream":
    """Returns the first video stream that is not a picture, such as the cover."""
    videos = _videos(container)
    if not videos:
        raise BadVideo("has no pictures: it lacks a video stream")
    film = next((v for v in videos if not _is_picture(v)), videos[0])
    if len(videos) > 1:
        number = videos.index(film) + 1
        note(f"video stream {number} of {len(videos)} is used, the others are not")
    if film.codec_context is None:
        raise BadVideo("is encoded in a way that PyAV cannot decode")
    return film


def _videos(container: "av.container.InputContainer") -> list["av.VideoStream"]:
    """Returns the video streams that are not marked as covers."""
    cover = require_av().stream.Disposition.attached_pic
    return [video for video in container.streams.video if not video.disposition & cover]


def _is_picture(video: "av.VideoStream") -> bool:
    if video.frames:
        return video.frames == 1
    return video.codec_context is not None and video.codec_context.name in _PICTURES


def _kind(container: "av.container.InputContainer") -> str:
    """Returns the key in `FORMATS`."""
    return container.format.name.partition(",")[0]


def _rate(video: "av.VideoStream") -> float:
    """Returns the average number of frames per second, 0 if unknown."""
    return float(video.average_rate or video.guessed_rate or 0)


@dataclasses.dataclass
class _Counts:
    """Counts what has been read of a stream so far; times are in seconds."""

    packets: int = 0  # With data.
    hidden: int = 0  # Packets with data that an edit list hides.
    empty: int = 0  # Packets that mean "no change".
    slots: int = 0  # In AVI, frames including the unchanged ones.
    furthest: float = 0  # The end of the latest packet of any stream.
    frames: int = 0
    early: int = 0  # Packets for times before the first frame.
    is_interlaced: bool = False
    time: float = 0  # The latest frame's.
    shortest_hold: float = math.inf
    longest_hold: float = 0
    resized: int | None = None  # The first frame of another size than the first one.


def _decoded(
    container: "av.container.InputContainer",
    video: "av.VideoStream",
    stream: BinaryIO,
    stored: set[int] | None,
    note: Note,
) -> Iterator[tuple["av.VideoFrame", float, float]]:
    """Yields frames, and when and for about how long they are shown, in seconds.

    Args:
      container: The file.
      video: One of its streams.
      stream: The file's bytes.
      stored: See `check_complete`.
      note: See `Source.read`.

    Raises:
      BadVideo: Frames are damaged or missing.
    """
    interval = 1 / (_rate(video) or 25)
    # These have no timestamps. Decoding times are in order there, unlike the ones FFmpeg guesses.
    is_untimed = _kind(container) in ("avi", "mpegvideo")
    count = _Counts()
    first = None
    waiting = []  # The times of packets up to the first frame.
    offset = None  # From timestamps to times.
    try:
        for packet in _packets(container, video, count):
            if first is None and packet.size and not packet.is_discard:
                if packet.pts is not None:
                    waiting.append(packet.pts)
                elif packet.dts is None:  # Matroska can store times before 0, FFmpeg drops them.
                    waiting.append(-math.inf)
            for frame in packet.decode():
                if frame.is_corrupt:
                    raise BadVideo(f"is damaged: frame {count.frames} cannot be decoded")
                follows = count.time + interval if count.frames else 0.0
                ticks = frame.dts if is_untimed else frame.pts
                time = follows
                if ticks is not None:
                    stamp = float(ticks * frame.time_base)
                    if offset is None:  # The first frames may have no timestamp.
                        offset = follows - stamp
                    elif stamp + offset < count.time:
                        note(f"frame {count.frames} has an earlier time than the one before it")
                        offset = follows - stamp
                    time = stamp + offset
                if first is None:
                    first = frame.width, frame.height
                    count.early = sum(pts < (frame.pts or 0) for pts in waiting)
                elif (frame.width, frame.height) != first and count.resized is None:
                    count.resized = count.frames
                count.is_interlaced |= frame.interlaced_frame
                if count.frames:
                    count.shortest_hold = min(count.shortest_hold, time - count.time)
                    count.longest_hold = max(count.longest_hold, time - count.time)
                count.time = time
                yield frame, time, interval
                count.frames += 1
    except (require_av().FFmpegError, ValueError) as error:
        raise BadVideo(f"is damaged: frame {count.frames} cannot be decoded") from error
    if stored is not None and count.packets + count.empty not in stored:
        raise BadVideo(f"is damaged: only {count.frames} frames can be read")
    _check_count(container, video, stream, count, note)


def _packets(
    container: "av.container.InputContainer", video: "av.VideoStream", count: _Counts
) -> Iterator["av.Packet"]:
    """Yields and counts the packets to decode; raises a BadVideo where the file breaks off."""
    # The header has the length of the longest stream, which may be the sound.
    streams = () if _kind(container) in _TIMED else (video,)
    for packet in container.demux(*streams):
        if packet.pts is not None:
            end = (packet.pts + (packet.duration or 0)) * packet.time_base
            count.furthest = max(count.furthest, float(end))
        if packet.stream.index != video.index:
            continue
        if packet.is_corrupt:  # Its end is missing.
            raise _cut_short(count.packets, _announced(container, video))
        if packet.dts is not None:
            count.slots = max(count.slots, packet.dts + 1)
        # Empty packets mean "no change", but the decoder would take them for the final packet,
        # which is empty, too, has no time, and makes it return its remaining frames.
        if packet.size == 0 and packet.dts is not None:
            count.empty += 1
            continue
        count.packets += packet.size > 0
        count.hidden += packet.is_discard
        yield packet


def _announced(container: "av.container.InputContainer", video: "av.VideoStream") -> int:
    """Returns how many packets the header announces; 0 if it does not."""
    # The index of an mp4 is without those that an edit list removes.
    if _kind(container) == "mov":
        return sum(entry.size > 0 for entry in video.index_entries)
    return video.frames


def _check_count(
    container: "av.container.InputContainer",
    video: "av.VideoStream",
    stream: BinaryIO,
    count: _Counts,
    note: Note,
) -> None:
    """Compares what was read with what was announced, and what was decoded with what was read."""
    kind, announced, rate = _kind(container), _announced(container, video), _rate(video)
    if kind == "mov" and count.packets < announced:
        raise _cut_short(count.packets, announced)
    if kind == "avi":
        # FFmpeg skips empty frames and, after damage, others that are in the index.
        count.empty = count.slots - count.packets
        indexed = sum(entry.size > 0 for entry in video.index_entries)
        if count.packets < indexed:
            raise BadVideo(f"is damaged: {count.packets} of {indexed} frames can be read")
    if kind == "avi" and count.slots < announced:
        # Some programs count wrongly, and a last frame may be shown for long.
        held = 1.5 * count.longest_hold * rate
        if is_cut_avi(stream) or announced - count.slots > max(1, held):
            raise _cut_short(count.slots, announced)
        note(f"its header announces {announced} frames, {count.slots} are there")
    if kind in _TIMED and container.duration and rate and count.frames > 1:  # One has no rate.
        end = container.duration / 1e6
        if end - count.furthest > 2.5 * max(count.longest_hold, 1 / rate):
            raise BadVideo(f"is cut short: {count.furthest:.1f} of {end:.1f} seconds can be read")
    if kind == "matroska":
        tags = [v for k, v in video.metadata.items() if k.startswith("NUMBER_OF_FRAMES")]
        if tags and tags[0] != str(count.packets):
            note(f"its tags announce {tags[0]} frames, {count.packets} are there")

    if count.longest_hold > 1.5 * count.shortest_hold:
        note(f"frames are shown for {count.shortest_hold:.3g} to {count.longest_hold:.3g} seconds")
    if count.empty:
        note(f"empty frames, which repeat the one before, are skipped: {count.empty}")
    hidden = video.frames - (count.packets - count.hidden + count.empty)
    if kind == "mov" and video.frames > stream.seek(0, os.SEEK_END):  # Its table is damaged.
        note(f"its header announces {video.frames} frames, {count.packets} are there")
    elif kind == "mov" and hidden > 0:
        note(f"{hidden} of {video.frames} frames are hidden by the file's edit list")
    missing = count.packets - count.hidden - count.frames
    if missing and count.resized is not None:
        raise BadVideo(
            f"{missing} frames are lost where the size changes, at about frame {count.resized}; cut"
            " the file there, or encode it again with one size"
        )
    if missing > count.early and _decodes_all(video, kind) and not count.is_interlaced:
        raise BadVideo(f"is damaged: {missing} of {count.packets} frames cannot be decoded")
    if missing:
        note(f"{count.frames} frames from {count.packets - count.hidden} packets")
    if count.frames == 1 and len(_videos(container)) > 1:
        raise BadVideo("has several video streams, and the first is a single picture; remove it")


def _decodes_all(video: "av.VideoStream", kind: str) -> bool:
    """Returns whether a frame is expected from every packet but the first ones."""
    codec = video.codec_context.codec
    if codec.intra_only:
        return True
    return kind in _STORED and codec.canonical_name in _ALL_SHOWN


def _cut_short(present: int, announced: int) -> BadVideo:
    if not announced:
        return BadVideo(
            f"is damaged, cut short or joined from several files: only {present} frames can be"
            " read; if it plays well, copy it to an mp4 with FFmpeg"
        )
    return BadVideo(f"is cut short: {present} of {announced} frames can be read")


def _pixels(
    frames: Iterator["av.VideoFrame"],
    video: "av.VideoStream",
    crop: tuple[float, ...] | None,
    orientation: tuple[int, ...],
    note: Note,
) -> Iterator[np.ndarray]:
    """Yields frames as RGB, cropped by `stored_crop`, turned and mirrored.

    Raises:
      BadVideo: Their geometry changes.
    """
    pixels = None
    for number, frame in enumerate(frames):
        # Some encoders tell the orientation in key frames only.
        if _orientation(frame, note) not in (None, orientation):
            raise BadVideo(f"is turned differently from frame {number} on; cut the file there")
        ratio = video.codec_context.sample_aspect_ratio
        if number and ratio != pixels:
            raise BadVideo(
                f"has pixels of another shape from about frame {number} on: {_ratio(pixels)}, then"
                f" {_ratio(ratio)}; cut the file there"
            )
        pixels = ratio
        if frame.interlaced_frame:
            note("interlaced: the two fields of a frame are not separated")
        if any(component.is_alpha for component in frame.format.components):
            note("transparent areas show their hidden color")
        with _reporting(f"frame {number} cannot be converted to RGB"):
            rgb = frame.to_ndarray(format="rgb24", threads=1)
        if crop is not None and any(crop):
            rgb = _cropped(rgb, crop, note)
        a, b, c, d = orientation
        yield rgb[::d, ::a] if a else rgb.swapaxes(0, 1)[::b, ::c]


def _cropped(rgb: np.ndarray, crop: tuple[float, ...], note: Note) -> np.ndarray:
    """Cuts pixels off as `stored_crop` says, unless that makes no sense."""
    h, w = rgb.shape[:2]
    is_whole = all(edge >= 0 and edge.is_integer() for edge in crop)  # Not so with NaN.
    if not is_whole or crop[0] + crop[1] >= h or crop[2] + crop[3] >= w:
        note("a crop in the container is ignored: it is not of whole pixels within the frame")
        return rgb
    top, bottom, left, right = map(int, crop)
    rgb = rgb[top : h - bottom, left : w - right]
    size = f"{rgb.shape[1]}x{rgb.shape[0]}"
    note(f"cropped to {size} at ({left}, {top}) as the container says")
    return rgb


def _orientation(frame: "av.VideoFrame", note: Note) -> tuple[int, ...] | None:
    """Returns a frame's key in `_ORIENTATIONS` or `_UPRIGHT`; None if it does not tell."""
    data = frame.side_data.get("DISPLAYMATRIX")
    if data is None:
        return None
    entries = np.frombuffer(bytes(data), np.int32)[[0, 1, 3, 4]].astype(float)
    signs = np.sign(entries) * (np.abs(entries) > 0.01 * np.abs(entries).max())
    key = tuple(int(sign) for sign in signs)
    if key == _UPRIGHT or key in _ORIENTATIONS:
        return key
    note(f"a turn by {-frame.rotation} degrees is ignored: only multiples of 90 are applied")
    return _UPRIGHT


def _pixel_aspect(video: "av.VideoStream", note: Note) -> fractions.Fraction:
    """Returns the width of pixels as a multiple of their height, 1 if unknown or absurd."""
    aspect = video.sample_aspect_ratio or video.codec_context.sample_aspect_ratio
    if not aspect or abs(aspect - 1) < _ASPECT_TOLERANCE:
        return fractions.Fraction(1)
    if not 1 / _WIDEST <= aspect <= _WIDEST:
        note(f"pixels are said to be {_ratio(aspect)} wide, which is ignored")
        return fractions.Fraction(1)
    return aspect


def _ratio(aspect: fractions.Fraction | None) -> str:
    return f"{aspect.numerator}:{aspect.denominator}" if aspect else "of unknown shape"
