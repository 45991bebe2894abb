"""Tests of decoding video files."""

import io
import os
from pathlib import Path

import av
import numpy as np
import pytest
from helpers.video_files import H, W, counting, fault, read, scene, write_video
from PIL import Image, ImageSequence

from data_loaders.video.frames import FrameFormat, frames_and_rate, read_video

REAL_DIR = os.environ.get("CWVAE_VIDEO_DIR", "")
REAL = sorted(path for path in Path(REAL_DIR).glob("*") if path.is_file()) if REAL_DIR else []
needs_real = pytest.mark.skipif(not REAL, reason="CWVAE_VIDEO_DIR names no folder with videos")


def reference(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    return np.stack(frames)


@pytest.mark.parametrize("suffix", ["mp4", "avi", "mkv", "webm", "gif", "MP4"])
def test_gray_frames_round_trip(tmp_path, suffix):
    frames = scene(70, 1)[:, :, :H]
    path = write_video(tmp_path / f"a.{suffix.lower()}", frames)
    path = path.rename(tmp_path / f"b.{suffix}")
    for file in (path, io.BytesIO(path.read_bytes())):
        blocks = list(read_video(file, path.name, FrameFormat(H, 1)))
        assert [len(block) for block in blocks] == [64, 6]
        np.testing.assert_array_equal(np.concatenate(blocks)[..., 0], frames)
    assert frames_and_rate(path) == (70, 25)


@pytest.mark.parametrize("suffix", ["mp4", "avi", "mkv", "webm"])
def test_colors_round_trip(tmp_path, suffix):
    frames = scene(10)[:, :, :H]
    path = write_video(tmp_path / f"a.{suffix}", frames)
    np.testing.assert_array_equal(read(path, size=H, channels=3), frames)
    gray = FrameFormat(H, 1).convert(frames)
    np.testing.assert_array_equal(read(path, size=H, channels=1), gray)


@pytest.mark.parametrize(
    ("suffix", "codec"),
    [("mp4", "libx264"), ("avi", "mpeg4"), ("webm", "libvpx"), ("avi", "mjpeg")],
)
def test_usual_codecs(tmp_path, suffix, codec):
    ramp = np.linspace(0, 255, W, dtype=np.uint8)  # Black and white reveal a wrong color range.
    frames = np.stack([np.tile(np.roll(ramp, 5 * t), (W, 1)) for t in range(30)])
    path = write_video(tmp_path / f"a.{suffix}", frames, codec=codec)
    expected = reference(path)
    np.testing.assert_array_equal(read(path, size=W, channels=3), expected)
    gray = read(path, size=W)
    np.testing.assert_array_equal(gray, FrameFormat(W, 1).convert(expected))
    assert np.abs(gray[..., 0].astype(int) - frames).mean() < 5
    assert gray.min() < 5
    assert gray.max() > 250


def drawn(t: int, background: int) -> Image.Image:
    """A moving colored square; the background's alpha is 0 or 255."""
    pixels = np.zeros((16, 24, 4), np.uint8)
    pixels[..., 3] = background
    pixels[3:9, 2 * t : 2 * t + 6] = (*np.random.default_rng(t).integers(0, 256, 3), 255)
    return Image.fromarray(pixels)


@pytest.mark.parametrize("disposal", [0, 1, 2])
@pytest.mark.parametrize("background", [0, 255])
def test_gifs_as_pillow_reads_them(tmp_path, disposal, background):
    path = tmp_path / "a.gif"
    first, *others = [drawn(t, background) for t in range(6)]
    first.save(path, save_all=True, append_images=others, duration=40, disposal=disposal)
    frames = FrameFormat(16, 3, "squeeze")
    decoded = np.concatenate(list(read_video(path, path.name, frames)))
    with Image.open(path) as image:
        expected = [np.asarray(f.convert("RGBA")) for f in ImageSequence.Iterator(image)]
    # Transparent areas are white.
    expected = [np.where(f[..., 3:] > 0, f[..., :3], 255).astype(np.uint8) for f in expected]
    np.testing.assert_array_equal(decoded, frames.convert(np.stack(expected)))


def test_gifs_that_restore_the_previous_frame(tmp_path):
    path = tmp_path / "a.gif"
    drawings = [drawn(t, 255) for t in range(6)]
    drawings[0].save(path, save_all=True, append_images=drawings[1:], disposal=3)
    expected = np.stack([np.asarray(drawing.convert("RGB")) for drawing in drawings])
    frames = FrameFormat(16, 3)
    np.testing.assert_array_equal(read(path, channels=3), frames.convert(expected))


@pytest.mark.parametrize("suffix", ["mp4", "avi", "mkv", "gif"])
@pytest.mark.parametrize(
    ("rate", "fps", "expected"),
    [
        (30, 10, range(0, 60, 3)),
        (25, 10, [0, 2, 5, 7, 10, 12, 15, 17, 20, 22, 25, 27, 30]),
        (50, 12.5, range(0, 60, 4)),
        (30, 20, [0, 1, 3, 4, 6, 7, 9, 10, 12, 13, 15, 16]),
    ],
)
def test_a_lower_rate_takes_the_frames_shown_at_those_times(tmp_path, suffix, rate, fps, expected):
    path = write_video(tmp_path / f"a.{suffix}", counting(60), fps=rate)
    taken = read(path, fps=fps)[:, 0, 0, 0].tolist()
    assert taken[: len(expected)] == list(expected)
    assert len(taken) == int(np.ceil(60 / rate * fps))


@pytest.mark.parametrize(("rate", "fps"), [(25, 25), (25, 25.02), (30000 / 1001, 30)])
def test_the_same_rate_takes_all_frames(tmp_path, rate, fps):
    path = write_video(tmp_path / "a.mkv", counting(60), fps=rate)
    np.testing.assert_array_equal(read(path, fps=fps)[:, 0, 0, 0], np.arange(60))


def test_an_avi_whose_frames_are_stored_out_of_order(tmp_path):
    """AVI has no timestamps, and FFmpeg's guesses are wrong there."""
    frames = 4 * counting(60)
    path = write_video(tmp_path / "a.avi", frames, codec="libx264", fps=30)
    with av.open(str(path)) as container:
        assert container.streams.video[0].codec_context.has_b_frames
    taken = read(path, fps=15)[:, 0, 0, 0]
    np.testing.assert_allclose(taken, 4 * np.arange(0, 60, 2), atol=1)


@pytest.mark.parametrize("start", [0, 1])
@pytest.mark.parametrize("codec", ["libx264", "libx265"])
def test_a_video_cut_where_frames_refer_to_earlier_ones(tmp_path, codec, start):
    """Some frames that follow its first key frame are shown before it, but cannot be decoded."""
    options = {f"{codec[3:]}-params": "open-gop=1:keyint=8:bframes=3:b-adapt=0"}
    path, cut = tmp_path / "a.mp4", tmp_path / "b.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = W, H, "yuv420p"
        for frame in scene(30):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame)))
        container.mux(stream.encode())
    as_they_are = {"avoid_negative_ts": "disabled"}
    with av.open(str(path)) as source, av.open(str(cut), "w", options=as_they_are) as sink:
        video = source.streams.video[0]
        stream = sink.add_stream_from_template(video)
        packets = [packet for packet in source.demux(video) if packet.size]
        second = [i for i, packet in enumerate(packets) if packet.is_keyframe][1]
        offset = packets[second].pts - start / video.time_base  # Times before 0 are dropped.
        early = sum(packet.pts < packets[second].pts for packet in packets[second:])
        for packet in packets[second:]:
            packet.pts, packet.dts = packet.pts - int(offset), packet.dts - int(offset)
            packet.stream = stream
            sink.mux(packet)
    assert early
    total = len(packets) - second
    notes = []
    np.testing.assert_array_equal(
        read(cut, size=H, note=notes.append), read(path, size=H)[early - total :]
    )
    assert f"{total - early} frames from {total} packets" in notes


def test_variable_rates_use_timestamps(tmp_path):
    # 50 frames per second at first, then one that is shown for half a second.
    times = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 35, 36, 37, 38, 39]
    path = write_video(tmp_path / "a.mkv", counting(16), fps=50, times=times)
    taken = read(path, fps=10)[:, 0, 0, 0].tolist()
    assert taken == [0, 5, 10, 10, 10, 10, 10, 11]


def test_times_count_from_the_first_frame(tmp_path):
    path = write_video(tmp_path / "a.mkv", counting(20), fps=50, times=list(range(7, 27)))
    assert read(path, fps=10)[:, 0, 0, 0].tolist() == [0, 5, 10, 15]


def test_frames_are_not_interpolated(tmp_path):
    path = write_video(tmp_path / "a.mp4", counting(20), fps=25)
    assert fault(path, path.name, fps=30) == ("has 25 frames per second, fewer than data.fps = 30")


def test_an_absurd_timestamp(tmp_path):
    path = write_video(tmp_path / "a.mkv", counting(3000), fps=1000, times=[*range(2999), 900_000])
    assert "one frame is shown for 897 seconds" in fault(path, path.name, fps=1)


@needs_real
def test_real_gifs_are_as_pillow_reads_them():
    for path in [path for path in REAL if path.suffix == ".gif"]:
        with Image.open(path) as image:
            expected = [np.asarray(f.convert("RGB")) for f in ImageSequence.Iterator(image)]
        assert len(expected) == frames_and_rate(path)[0]
        np.testing.assert_array_equal(read(path, size=64, channels=3), expected, err_msg=path.name)


@needs_real
def test_real_videos_are_as_pyav_reads_them():
    for path in [path for path in REAL if path.suffix != ".gif"]:
        expected = reference(path)
        assert len(expected) == frames_and_rate(path)[0]
        for channels in (1, 3):
            with av.open(str(path)) as container:
                aspect = container.streams.video[0].sample_aspect_ratio or 1
            frames = FrameFormat(64, channels).convert(expected, aspect)
            decoded = read(path, size=64, channels=channels)
            np.testing.assert_allclose(decoded, frames, atol=1, err_msg=path.name)


@needs_real
@pytest.mark.parametrize("step", [2, 3])
def test_real_videos_at_a_lower_rate(step):
    for path in REAL:
        _, rate = frames_and_rate(path)
        taken, frames = read(path, size=64, fps=rate / step), read(path, size=64)[::step]
        assert abs(len(taken) - len(frames)) <= 1  # One of them shows its second-last frame longer.
        np.testing.assert_array_equal(taken[: len(frames)], frames, err_msg=path.name)
