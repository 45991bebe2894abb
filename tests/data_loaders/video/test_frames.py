"""Tests of the conversion of frames: size, channels and blocks."""

import io
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from helpers.video_files import write_video
from PIL import Image
from skimage import data
from skimage.transform import resize_local_mean

from cwvae.errors import UserError
from data_loaders.sources import BadVideo
from data_loaders.video import frames
from data_loaders.video.frames import FrameFormat, frames_and_rate, read_video


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


def picture(height: int, width: int) -> np.ndarray:
    """A photograph, uint8 [height, width, 3]."""
    return data.astronaut()[:height, :width].copy()


def read(file: Path, frame_format: FrameFormat, **options: object) -> np.ndarray:
    return np.concatenate(list(read_video(file, file.name, frame_format, **options)))


def fault(file: Path | io.BytesIO, name: str, **options: object) -> str:
    with pytest.raises(BadVideo) as caught:
        list(read_video(file, name, FrameFormat(8, 1), **options))
    return str(caught.value)


@pytest.mark.parametrize("fit", frames.FITS)
@pytest.mark.parametrize("resize", frames.RESIZES)
@pytest.mark.parametrize("channels", [1, 3])
def test_frames_of_the_right_format_are_unchanged(fit, resize, channels):
    frames = noise(5, 12, 12, channels)
    assert FrameFormat(12, channels, fit, resize).convert(frames) is frames


def test_gray_frames_get_three_equal_channels():
    frames = noise(4, 9, 9)
    converted = FrameFormat(9, 3).convert(frames)
    np.testing.assert_array_equal(converted, np.repeat(frames[..., None], 3, -1))


def test_colors_become_the_luma_of_itu_r_601():
    frames = noise(3, 16, 16, 3)
    luma = frames @ np.array([0.299, 0.587, 0.114])
    converted = FrameFormat(16, 1).convert(frames)
    assert converted.shape == (3, 16, 16, 1)
    np.testing.assert_allclose(converted[..., 0], luma, atol=0.51)


def test_area_is_the_mean_of_the_pixels_covered():
    frames = noise(2, 48, 48, 3)
    means = frames.reshape(2, 16, 3, 16, 3, 3).mean((2, 4))
    np.testing.assert_allclose(FrameFormat(16, 3).convert(frames), means, atol=1)


def triangle(frame: np.ndarray, size: int) -> np.ndarray:
    """Resamples both sides of [h, w] with a triangle as wide as two new pixels."""
    for _ in range(2):
        scale = len(frame) / size
        centers = (np.arange(size)[:, None] + 0.5) * scale
        distances = np.abs(np.arange(len(frame)) + 0.5 - centers) / max(scale, 1)
        weights = np.maximum(0, 1 - distances)
        frame = (weights / weights.sum(1, keepdims=True) @ frame).T
    return frame


@pytest.mark.parametrize("side", [24, 60, 100, 37])
def test_area_and_bilinear_are_the_documented_filters(side):
    frame = noise(side, side)
    area = FrameFormat(24, 1).convert(frame[None])[0, ..., 0]
    mean = resize_local_mean(frame, (24, 24), grid_mode=True, preserve_range=True)
    np.testing.assert_allclose(area, mean, atol=0.51)
    bilinear = FrameFormat(24, 1, resize="bilinear").convert(frame[None])[0, ..., 0]
    np.testing.assert_allclose(bilinear, triangle(frame, 24), atol=0.51)
    pillow = Image.fromarray(frame).resize((24, 24), Image.Resampling.BILINEAR)
    np.testing.assert_allclose(bilinear, np.asarray(pillow), atol=1.01)


def test_area_interpolates_if_a_picture_grows():
    frames = noise(1, 10, 10)
    grown = FrameFormat(25, 1).convert(frames)
    np.testing.assert_array_equal(grown, FrameFormat(25, 1, resize="bilinear").convert(frames))


def test_area_squeezes_the_sides_independently():
    frame = noise(8, 64)
    wide = FrameFormat(16, 1, "squeeze").convert(frame[None])[0, ..., 0]
    means = np.rint(frame.reshape(8, 16, 4).mean(2)).astype(np.uint8)
    grown = Image.fromarray(means).resize((16, 16), Image.Resampling.BILINEAR)
    np.testing.assert_allclose(wide, np.asarray(grown), atol=1)
    tall = FrameFormat(16, 1, "squeeze").convert(frame.T[None])[0, ..., 0]
    np.testing.assert_allclose(tall, wide.T, atol=1)


@pytest.mark.parametrize(("height", "width"), [(40, 72), (72, 40), (40, 40)])
@pytest.mark.parametrize("resize", frames.RESIZES)
def test_crop_keeps_the_middle(height, width, resize):
    frame = picture(height, width)
    top, left = (height - 40) // 2, (width - 40) // 2
    middle = frame[top : top + 40, left : left + 40]
    frame_format = FrameFormat(20, 3, resize=resize)
    inside = np.s_[:, 2:-2, 2:-2]  # A filter reads pixels outside the crop.
    cropped, expected = (frame_format.convert(f[None])[inside] for f in (frame, middle))
    np.testing.assert_allclose(cropped, expected, atol=1)


@pytest.mark.parametrize(("height", "width"), [(41, 70), (70, 41), (7, 12), (1, 3)])
@pytest.mark.parametrize("fit", frames.FITS)
def test_odd_and_small_pictures_stay_centered(height, width, fit):
    frame = noise(height, width)
    frame = np.maximum(frame, frame[:, ::-1])
    frame_format = FrameFormat(16, 1, fit, "bilinear")
    converted = frame_format.convert(frame[None])[0, ..., 0]
    assert converted.shape == (16, 16)
    np.testing.assert_allclose(converted, converted[:, ::-1], atol=1)


@pytest.mark.parametrize(
    ("options", "words"),
    [({"fit": "crops"}, "data.fit 'crops'; did you mean 'crop'"), ({"resize": "lanczos"}, "area")],
)
def test_unknown_options_are_reported(options, words):
    with pytest.raises(UserError, match=words):
        FrameFormat(64, 1, **options)


def test_names_that_are_not_videos(tmp_path):
    for name in ("notes.txt", "a.npy"):  # Arrays are read by `frame_arrays`.
        assert "ends in none of .mp4" in fault(tmp_path / name, name)


def test_missing_files(tmp_path):
    assert fault(tmp_path / "a.mp4", "a.mp4") == "cannot be read: No such file or directory"
    assert frames_and_rate(tmp_path / "a.mp4") is None


def test_an_exact_size(tmp_path):
    path = write_video(tmp_path / "a.mkv", noise(5, 60, 80))
    assert len(read(path, FrameFormat(8, 1), exact_size=(60, 80))) == 5
    words = fault(path, path.name, exact_size=(64, 64))
    assert words == "frames are 80x60 pixels; expected 64x64"


def test_memory_does_not_grow_with_the_length(tmp_path):
    path = write_video(tmp_path / "long.mkv", np.repeat(noise(1, 64, 64), 2000, 0))  # 8 MB
    blocks = read_video(path, path.name, FrameFormat(64, 1))
    next(blocks)  # Excludes one-time allocations, such as imports.
    tracemalloc.start()
    length = 64 + sum(len(block) for block in blocks)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert length == 2000
    assert peak < 2e6


def test_nothing_heavy_is_imported():
    code = (
        "import sys, data_loaders.video.folder;"
        "assert not {'tensorflow', 'av'} & set(sys.modules), 'heavy'"
    )
    root = Path(frames.__file__).parents[2]
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root)
