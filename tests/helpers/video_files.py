"""Tiny video files for tests, written with PyAV."""

import fractions
import io
import os
import pathlib

import av
import numpy as np
import pytest

from data_loaders.sources import BadVideo
from data_loaders.video.frames import FrameFormat, read_video

# By extension: the codec and pixel format for gray and for RGB frames. All are lossless, except for
# RGB frames in a GIF, whose palette has few colors.
LOSSLESS = {
    ".mp4": (("libx264rgb", "rgb24"), ("libx264rgb", "rgb24")),
    ".avi": (("ffv1", "gray"), ("ffv1", "bgr0")),
    ".mkv": (("ffv1", "gray"), ("ffv1", "bgr0")),
    ".webm": (("libvpx-vp9", "gbrp"), ("libvpx-vp9", "gbrp")),
    ".gif": (("gif", "gray"), ("gif", "rgb8")),
}
CODEC_OPTIONS = {
    "libx264rgb": {"qp": "0", "preset": "ultrafast"},
    "libvpx-vp9": {"lossless": "1", "deadline": "good", "cpu-used": "8"},
}

H, W = 48, 64  # The frame size of `scene`.


def write_video(
    path: str | os.PathLike,
    frames: np.ndarray,
    fps: float = 25,
    codec: str | None = None,
    *,
    times: list[int] | None = None,
    options: dict[str, str] | None = None,
    aspect: fractions.Fraction | None = None,
) -> pathlib.Path:
    """Writes frames to a video file, by default without loss.

    Args:
      path: The file, with an extension in `LOSSLESS`, unless there is a `codec`.
      frames: uint8 [T, H, W], or [T, H, W, 3] in RGB.
      fps: Frames per second.
      codec: An encoder of FFmpeg, instead of the one in `LOSSLESS`, with its default pixel format,
        which is usually yuv420p and not lossless.
      times: The time of each frame, in units of 1 / `fps` seconds; by default 0, 1, 2, ...
      options: FFmpeg's options of the container.
      aspect: The width of a pixel as a multiple of its height.

    Returns:
      The file.
    """
    path = pathlib.Path(path)
    if codec is None:
        name, pixel_format = LOSSLESS[path.suffix.lower()][frames.ndim - 3]
    else:
        name, pixel_format = codec, av.Codec(codec, "w").video_formats[0].name
    codec_options = CODEC_OPTIONS.get(name, {}) if codec is None else {}
    rate = fractions.Fraction(fps).limit_denominator(1001)
    with av.open(str(path), "w", options=options or {}) as container:
        stream = container.add_stream(name, rate=rate, options=codec_options)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = pixel_format
        stream.thread_count = 1
        if aspect is not None:
            stream.codec_context.sample_aspect_ratio = aspect
        for t, picture in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(
                np.ascontiguousarray(picture), format="gray" if picture.ndim == 2 else "rgb24"
            ).reformat(format=pixel_format, threads=1)
            frame.pts = t if times is None else times[t]
            frame.time_base = 1 / rate
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def scene(length: int, channels: int = 3) -> np.ndarray:
    """Returns a moving texture, uint8 [length, H, W, 3], or [length, H, W] for 1 channel."""
    texture = np.random.default_rng(0).integers(0, 256, (H, W, channels)).astype(np.uint8)
    frames = np.stack([np.roll(texture, t, axis=1) for t in range(length)])
    return frames if channels == 3 else frames[..., 0]


def counting(length: int) -> np.ndarray:
    """Returns frames in which all pixels of frame t are t, uint8 [length, 16, 16]."""
    return np.tile(np.arange(length, dtype=np.uint8)[:, None, None], (1, 16, 16))


def read(file: pathlib.Path | bytes, name: str | None = None, size: int = 16, **options: object):
    """Returns the frames of a video file, or of its bytes, uint8 [T, size, size, C]."""
    name = name or file.name
    source = io.BytesIO(file) if isinstance(file, bytes) else file
    channels = options.pop("channels", 1)
    return np.concatenate(list(read_video(source, name, FrameFormat(size, channels), **options)))


def fault(content: bytes | pathlib.Path, name: str, **options: object) -> str:
    """Returns why a video cannot be used."""
    with pytest.raises(BadVideo) as caught:
        read(content, name, **options)
    return str(caught.value)


def filtered(path: pathlib.Path, spec: str, target: pathlib.Path) -> pathlib.Path:
    """Writes a video's packets to `target` after one of FFmpeg's bitstream filters."""
    with av.open(str(path)) as source, av.open(str(target), "w") as sink:
        video = source.streams.video[0]
        stream = sink.add_stream_from_template(video)
        context = av.bitstream.BitStreamFilterContext(spec, video, stream)
        for packet in source.demux(video):
            for changed in context.filter(packet if packet.size else None):
                changed.stream = stream
                sink.mux(changed)
    return target
