"""Decodes video files with FFmpeg, through PyAV.

PyAV is imported only when a video is opened. Decoding uses one core, since several processes share
the work. h and w are the height and width of a video's frames, in pixels. Streams are open binary
files that can seek.
"""

import contextlib
import os
import re
import struct
import types
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from data_loaders.sources import BadVideo, require

if TYPE_CHECKING:
    import av

# The formats that a file may have, whatever its name. Formats that refer to other files or
# addresses, such as playlists, are excluded. The last ones are sound, for which "no pictures" is a
# clearer message than "not a video".
_CONTAINERS = "mov,mp4,avi,matroska,webm,gif,asf,flv,mpeg,mpegts,ogg,aac,flac,mp3,wav"

# Rates with a smaller relative difference are equal, such as 29.97 and 30.
_RATE_TOLERANCE = 0.005
# A frame shown for longer, in seconds, has a damaged timestamp.
_LONGEST_HOLD = 600


def require_av() -> types.ModuleType:
    """Imports and silences PyAV; raises a UserError if it is not installed."""
    av = require("av", "decoding videos", "av")
    av.logging.set_level(None)  # Errors are raised; FFmpeg's messages would only clutter stderr.
    return av


def video_frames(stream: BinaryIO, fps: float | None) -> Iterator[np.ndarray]:
    """Decodes the first video stream, rotated as a player would rotate it.

    Args:
      stream: The file's bytes.
      fps: As for `read_video`.

    Yields:
      uint8 [h, w, 3], RGB.

    Raises:
      BadVideo: It is not a video, damaged, cut short or too slow.
      UserError: PyAV is not installed.
    """
    with _opened(stream) as (container, video):
        if container.format.name == "gif" and not _ends_as_gif(stream):
            raise BadVideo("is cut short: the end of the GIF is missing")
        if container.format.name.startswith("mov,") and _breaks_off_in_a_fragment(stream):
            raise BadVideo("is cut short: its last fragment is incomplete")
        frames = _decoded(container, video)
        if fps is not None:
            frames = _at_rate(frames, fps, video)
        for frame, _ in frames:
            rgb = frame.to_ndarray(format="rgb24", threads=1)
            turns, rest = divmod(frame.rotation, 90)
            yield rgb if rest or not turns else np.rot90(rgb, turns)


def frames_and_rate(stream: BinaryIO, through: bool) -> tuple[int, float] | None:
    """Returns the approximate number of frames and their rate per second, or None if unknown.

    Args:
      stream: The file's bytes.
      through: Whether to read the whole file if its header has no number of frames.
    """
    with _opened(stream) as (container, video):
        rate = video.average_rate
        frames = video.frames
        if not frames and container.duration and rate:
            frames = round(container.duration / 1e6 * rate)
        if not frames and through:
            frames = sum(packet.size > 0 for packet in container.demux(video))
        return (frames, float(rate)) if frames and rate else None


@contextlib.contextmanager
def _opened(stream: BinaryIO) -> Iterator[tuple["av.container.InputContainer", "av.VideoStream"]]:
    """Opens a video file as FFmpeg's container and its first video stream."""
    av = require_av()
    options = {"container_options": {"format_whitelist": _CONTAINERS}}
    if int(av.__version__.split(".")[0]) < 19:  # Later versions accept any text.
        options["metadata_errors"] = "replace"
    try:
        with av.open(stream, **options) as container:
            # Sound files store their cover as a video stream.
            cover = av.stream.Disposition.attached_pic
            videos = [v for v in container.streams.video if not v.disposition & cover]
            if not videos:
                raise BadVideo("has no pictures: there is no video stream in it")
            if videos[0].codec_context is None:
                raise BadVideo("is encoded in a way that PyAV cannot decode")
            videos[0].thread_count = 1
            yield container, videos[0]
    # In damaged files FFmpeg may seek before the start, where io.BytesIO raises a ValueError.
    except (av.FFmpegError, ValueError) as error:
        raise BadVideo(
            "cannot be opened: it is not a video, or damaged, or its end is missing"
        ) from error


def _ends_as_gif(stream: BinaryIO) -> bool:
    position = stream.tell()
    stream.seek(-min(64, stream.seek(0, os.SEEK_END)), os.SEEK_END)
    end = stream.read().rstrip(b"\0\r\n ")
    stream.seek(position)
    return end.endswith(b";")


def _breaks_off_in_a_fragment(stream: BinaryIO) -> bool:
    """Returns whether a fragmented mp4, which has no index, ends within a fragment."""
    position, end = stream.tell(), stream.seek(0, os.SEEK_END)
    at, kind, fragments = 0, b"", False
    while at + 8 <= end:
        stream.seek(at)
        size, kind = struct.unpack(">I4s", stream.read(8))
        if size == 1 and at + 16 <= end:
            (size,) = struct.unpack(">Q", stream.read(8))
        if size < 8:  # 0: the last box, up to the end of the file.
            at = end
            break
        fragments |= kind == b"moof"
        at += size
    stream.seek(position)
    return fragments and (at != end or kind == b"moof")


def _decoded(
    container: "av.container.InputContainer", video: "av.VideoStream"
) -> Iterator[tuple["av.VideoFrame", float]]:
    """Yields frames and their times in seconds; raises a BadVideo if some are missing."""
    av = require_av()
    # AVI has no timestamps. Decoding times are in order there, unlike the ones FFmpeg guesses.
    is_avi = container.format.name == "avi"
    is_mp4 = container.format.name.startswith("mov,")
    # An mp4's index lists the expected packets, without those that an edit list removes. Empty
    # packets, which mean "no change", are not counted.
    announced = sum(entry.size > 0 for entry in video.index_entries) if is_mp4 else video.frames
    interval = 1 / float(video.average_rate or 25)
    packets = frames = 0
    time = longest_hold = 0.0
    try:
        for packet in container.demux(video):
            if packet.is_corrupt:  # Its end is missing.
                raise _cut_short(packets, announced)
            # Empty packets mean "no change", but the decoder would take them for the final packet,
            # which is empty, too, has no time, and makes it return its remaining frames.
            if packet.size == 0 and packet.dts is not None:
                continue
            packets += packet.size > 0
            for frame in packet.decode():
                if frame.is_corrupt:
                    raise BadVideo(f"is damaged: frame {frames} cannot be decoded")
                ticks = frame.dts if is_avi else frame.pts
                before = time
                time = time + interval if ticks is None else float(ticks * frame.time_base)
                if frames:
                    longest_hold = max(longest_hold, time - before)
                yield frame, time
                frames += 1
    except (av.FFmpegError, ValueError) as error:
        raise BadVideo(f"is damaged: frame {frames} cannot be decoded") from error
    if is_mp4 and packets < announced:
        raise _cut_short(packets, announced)
    # The last frame may be shown for long, too. Fewer than two missing frames are not detected.
    end = _announced_end(container, video)
    if end is not None and end - time > 2.5 * max(longest_hold, interval):
        raise BadVideo(f"is cut short: {time:.1f} of {end:.1f} seconds can be read")


def _announced_end(
    container: "av.container.InputContainer", video: "av.VideoStream"
) -> float | None:
    """Returns the end of the last frame according to the file's header, in seconds."""
    if container.format.name == "avi":
        return float(video.frames / video.average_rate) if video.average_rate else None
    if container.format.name == "matroska,webm":
        tag = re.fullmatch(r"(\d+):(\d+):(\d+\.?\d*)", video.metadata.get("DURATION", ""))
        if tag:
            hours, minutes, seconds = map(float, tag.groups())
            return 3600 * hours + 60 * minutes + seconds
        # The container's duration is that of its longest stream, which may be the sound.
        if len(container.streams) == 1 and container.duration:
            return container.duration / 1e6
    return None


def _at_rate(
    frames: Iterable[tuple["av.VideoFrame", float]], fps: float, video: "av.VideoStream"
) -> Iterator[tuple["av.VideoFrame", float]]:
    """Yields the frames that are shown 0, 1 / fps, 2 / fps, ... seconds after the first one."""
    rate = float(video.average_rate or 0)
    if rate < (1 - _RATE_TOLERANCE) * fps:
        raise BadVideo(f"has {rate:.4g} frames per second, fewer than data.fps = {fps:g}")
    if rate < (1 + _RATE_TOLERANCE) * fps:
        yield from frames
        return
    # Timestamps are rounded to their unit. In AVI, that is a whole frame.
    slack = min(float(video.time_base) / 2, 1 / (4 * rate))
    shown = None
    taken = 0
    for frame, time in frames:
        if shown is None:
            start = time
        elif time - shown[1] > _LONGEST_HOLD:
            raise BadVideo(f"is damaged: one frame is shown for {time - shown[1]:.0f} seconds")
        while shown is not None and start + taken / fps + slack < time:
            yield shown
            taken += 1
        shown = frame, time
    while shown is not None and start + taken / fps + slack < shown[1] + 1 / rate:
        yield shown
        taken += 1


def _cut_short(present: int, announced: int) -> BadVideo:
    number = f"{present} of {announced}" if announced else f"only {present}"
    return BadVideo(f"is cut short: {number} frames can be read")
