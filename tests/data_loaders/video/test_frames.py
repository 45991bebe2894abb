"""Tests of the conversion of frames: size, channels, blocks; and of arrays of frames."""

import io
import re
import subprocess
import sys
import tracemalloc
import zipfile
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


def saved(path: Path, array: np.ndarray) -> Path:
    (np.savez if path.suffix == ".npz" else np.save)(path, array)
    return path


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


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".NPY"])
@pytest.mark.parametrize("channels", [(), (1,), (3,)])
def test_arrays_are_read_unchanged(tmp_path, suffix, channels):
    frames = noise(70, 12, 12, *channels)
    path = saved(tmp_path / f"a{suffix.lower()}", frames).rename(tmp_path / f"b{suffix}")
    expected = frames.reshape(70, 12, 12, -1)
    for file in (path, io.BytesIO(path.read_bytes())):
        blocks = list(read_video(file, path.name, FrameFormat(12, expected.shape[-1])))
        assert [len(block) for block in blocks] == [64, 6]
        np.testing.assert_array_equal(np.concatenate(blocks), expected)
    assert frames_and_rate(path) == (70, None)


def test_arrays_in_fortran_order(tmp_path):
    frames = noise(10, 6, 7)
    path = saved(tmp_path / "a.npy", np.asfortranarray(frames))
    np.testing.assert_array_equal(
        read(path, FrameFormat(6, 1, "squeeze")), FrameFormat(6, 1, "squeeze").convert(frames)
    )
    assert "np.ascontiguousarray" in fault(io.BytesIO(path.read_bytes()), "a.npy")
    assert "np.ascontiguousarray" in fault(
        saved(tmp_path / "a.npz", np.asfortranarray(frames)), "a.npz"
    )


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((5, 8, 8), np.float32), "holds float32 values; save the frames as uint8"),
        (np.array([None, "code"]), "holds object values"),
        (np.zeros(3, [("r", np.uint8)]), "holds .* values"),
        (np.zeros((8, 8), np.uint8), r"has shape \[8, 8\]; expected \[T, H, W\]"),
        (np.zeros((5, 3, 8, 8), np.uint8), r"has shape \[5, 3, 8, 8\]"),
        (np.zeros((5, 8, 8, 4), np.uint8), "with 1 or 3 channels"),
        (np.zeros((5, 0, 8), np.uint8), r"has shape \[5, 0, 8\]"),
        (np.zeros((0, 8, 8), np.uint8), "has no frames"),
    ],
)
@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_arrays_that_are_not_videos(tmp_path, array, words, suffix):
    path = saved(tmp_path / f"a{suffix}", array)
    assert re.search(words, fault(path, path.name))
    assert frames_and_rate(path) in (None, (0, None))


def forged(shape: tuple[int, ...]) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        stream, {"descr": "|u1", "fortran_order": False, "shape": shape}
    )
    return stream.getvalue() + bytes(2 * 8 * 8 + 5)


def packed(*members: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for i, member in enumerate(members):
            archive.writestr(f"arr_{i}.npy", member)
    return stream.getvalue()


def test_damaged_arrays(tmp_path):
    whole = forged((2, 8, 8))
    faults = {
        "a.npy": forged((9, 8, 8)),
        "b.npz": packed(forged((9, 8, 8))),
        "c.npy": b"\x93NUMPY\x01\x00",
        "d.npy": b"text",
        "e.npy": whole.replace(b"'shape'", b"'shade'"),
        "f.npz": packed(whole)[:-30],
        "g.npz": packed(whole, whole),
        "h.npz": packed(),
        "i.npy": forged((1, 10**6, 10**6)),
        "j.npz": packed(forged((1, 10**6, 10**6))),
        "l.npy": b"",
    }
    words = {}
    for name, content in faults.items():
        (tmp_path / name).write_bytes(content)
        words[name] = fault(tmp_path / name, name)
        assert fault(io.BytesIO(content), name) == words[name]
    assert words["a.npy"] == words["b.npz"] == "is cut short: 2 of 9 frames can be read"
    assert all("written by np.save" in words[f"{letter}.npy"] for letter in "cde")
    assert "written by np.savez" in words["f.npz"]
    assert words["g.npz"] == "holds 2 arrays (arr_0, arr_1); expected one"
    assert "holds 0 arrays" in words["h.npz"]
    assert words["i.npy"] == words["j.npz"]
    assert "too large" in words["i.npy"]
    assert words["l.npy"] == "is empty"


def test_an_archive_with_flipped_bits(tmp_path):
    content = bytearray(packed(forged((2, 8, 8))))
    content[45] ^= 0xFF
    assert "is damaged" in fault(io.BytesIO(bytes(content)), "a.npz")


def test_arrays_have_no_frame_rate(tmp_path):
    path = saved(tmp_path / "a.npy", noise(5, 8, 8))
    assert "unset data.fps" in fault(path, path.name, fps=10)


def test_names_that_are_not_videos(tmp_path):
    assert "ends in none of .mp4" in fault(tmp_path / "notes.txt", "notes.txt")


def test_missing_files(tmp_path):
    assert fault(tmp_path / "a.mp4", "a.mp4") == "cannot be read: No such file or directory"
    assert fault(tmp_path / "a.npy", "a.npy") == "cannot be read: No such file or directory"
    assert frames_and_rate(tmp_path / "a.mp4") is None


def test_an_exact_size(tmp_path):
    path = saved(tmp_path / "a.npy", noise(5, 60, 80))
    assert len(read(path, FrameFormat(8, 1), exact_size=(60, 80))) == 5
    words = fault(path, path.name, exact_size=(64, 64))
    assert words == "frames are 80x60 pixels; expected 64x64"


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".mkv"])
def test_memory_does_not_grow_with_the_length(tmp_path, suffix):
    frames = np.repeat(noise(1, 64, 64), 2000, 0)  # 8 MB
    path = tmp_path / f"long{suffix}"
    if suffix == ".mkv":
        write_video(path, frames)
    else:
        saved(path, frames)
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
