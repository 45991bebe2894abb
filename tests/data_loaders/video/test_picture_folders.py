"""Tests of videos that are folders of pictures: their order, conversion, and damage."""

import io
import os
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_loaders.sources import BadVideo, UnreadableVideo
from data_loaders.video import picture_folders
from data_loaders.video.frame_arrays import ArrayOptions

LOSSLESS = (".png", ".bmp", ".tif", ".tiff", ".ppm", ".webp")


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


def save(path: Path, values: np.ndarray, **options: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npy":
        np.save(path, values)
    else:
        options |= {"lossless": True} if path.suffix == ".webp" else {}
        Image.fromarray(values).save(path, **options)


def write(folder: Path, *names: str) -> np.ndarray:
    """Writes a gray picture for each name; returns them, uint8 [n, 6, 8]."""
    frames = noise(len(names), 6, 8)
    for name, frame in zip(names, frames, strict=True):
        save(folder / name, frame)
    return frames


def pictures(folder: Path, axes: str | None = None) -> list[Path]:
    videos, found = picture_folders.divide([*folder.iterdir()], ArrayOptions(axes))
    assert not (videos and found)
    return found


def videos(folder: Path, axes: str | None = None) -> list[str]:
    return [p.name for p in picture_folders.divide([*folder.iterdir()], ArrayOptions(axes))[0]]


def read(folder: Path, axes: str | None = None) -> tuple[list[np.ndarray], list[str]]:
    """Returns the frames and the notes."""
    told = []
    frames = picture_folders.frames(pictures(folder, axes), ArrayOptions(axes), told.append)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return [*frames], list(dict.fromkeys(told))


def fault(folder: Path, axes: str | None = None) -> str:
    with pytest.raises(BadVideo) as caught:
        read(folder, axes)
    return str(caught.value)


@pytest.mark.parametrize("suffix", LOSSLESS)
def test_pictures_in_colors_are_read_unchanged(tmp_path, suffix):
    frames = noise(3, 6, 8, 3)
    for t, frame in enumerate(frames):
        save(tmp_path / f"{t}{suffix}", frame)
    found, told = read(tmp_path)
    np.testing.assert_array_equal(np.stack(found), frames)
    assert told == [f"3 pictures ({suffix[1:]})"]


@pytest.mark.parametrize("suffix", [".png", ".pgm", ".PNG"])
def test_gray_pictures_are_read_unchanged(tmp_path, suffix):
    frames = write(tmp_path, *(f"{t}{suffix}" for t in range(3)))
    np.testing.assert_array_equal(np.stack(read(tmp_path)[0]), frames)


def test_jpegs_are_read(tmp_path):
    frame = np.full((8, 8, 3), (200, 100, 50), np.uint8)
    save(tmp_path / "1.jpg", frame)
    save(tmp_path / "2.jpeg", frame)
    found, told = read(tmp_path)
    np.testing.assert_allclose(np.stack(found), np.stack([frame] * 2), atol=3)
    assert told == ["2 pictures (jpeg, jpg)"]


def test_the_order_is_that_of_the_numbers(tmp_path):
    names = [f"frame_{number}.png" for number in (0, 1, 2, 9, 10, 11, 100)]
    frames = write(tmp_path, *names)
    assert [path.name for path in pictures(tmp_path)] == names
    np.testing.assert_array_equal(np.stack(read(tmp_path)[0]), frames)


def test_names_without_numbers_are_in_alphabetical_order_with_a_note(tmp_path):
    write(tmp_path, "b.png", "a.png")
    assert [path.name for path in pictures(tmp_path)] == ["a.png", "b.png"]
    assert "pictures in the order of their names, which have no numbers" in read(tmp_path)[1]


@pytest.mark.parametrize(
    ("numbers", "note"),
    [
        ([1, 2, 3, 4], None),
        ([0, 5, 10, 15], None),
        ([1, 3], None),
        ([1403636579, 1403636584, 1403636591, 1403636597], None),  # Times.
        ([1, 2, 4], "1 picture seems to be missing: between 2.png and 4.png"),
        ([0, 5, 10, 25, 30], "2 pictures seem to be missing: between 10.png and 25.png"),
        ([1, 2, 3, 5, 6, 8], "2 pictures seem to be missing: between 3.png and 5.png, between 6"),
    ],
)
def test_gaps_between_numbers_are_told(tmp_path, numbers, note):
    write(tmp_path, *(f"{number}.png" for number in numbers))
    told = " ".join(read(tmp_path)[1])
    assert note in told if note else "missing" not in told


@pytest.mark.parametrize("name", ["{:05}_64x64.png", "frame_{}_8bit.png", "clip2_{}.png"])
def test_the_number_that_changes_is_that_of_the_frame(tmp_path, name):
    numbers = (0, 1, 2, 7, 8, 10, 11)
    frames = write(tmp_path, *(name.format(number) for number in numbers))
    found, told = read(tmp_path)
    np.testing.assert_array_equal(np.stack(found), frames)
    gaps = [f"between {name.format(i)} and {name.format(j)}" for i, j in ((2, 7), (8, 10))]
    assert told[1:] == [f"5 pictures seem to be missing: {', '.join(gaps)}"]


def test_names_may_be_times(tmp_path):
    """As in the data sets of TUM."""
    names = [f"{time}.png" for time in ("9.975304", "10.011214", "10.043142", "11.000002")]
    frames = write(tmp_path, *names)
    found, told = read(tmp_path)
    np.testing.assert_array_equal(np.stack(found), frames)
    assert told == ["4 pictures (png)"]


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["depth_1.png", "depth_2.png", "rgb_1.png", "rgb_2.png"], "depth_1.png and rgb_1.png"),
        (["a_1.png", "a_2.png", "b_3.png"], "a_1.png and b_3.png"),
        (["1.png", "1.bmp", "2.png"], "the same number"),
        (["1.png", "01.png"], "the same number"),
        (["1.png", "2.png", "2 - copy.png"], "1.png and 2 - copy.png"),
        (["1.png", "2.png", "cover.png"], "has cover.png among numbered pictures"),
        (["IMG_3.png", "img_1.png", "img_2.png"], "IMG_3.png and img_1.png"),
        (["0.25.png", "0.5.png"], "fractions of different lengths"),
    ],
)
def test_pictures_whose_order_is_ambiguous_are_refused(tmp_path, names, words):
    write(tmp_path, *names)
    assert words in fault(tmp_path)


@pytest.mark.parametrize(
    "names",
    [
        [f"aachen_{s:06}_{t:06}_leftImg8bit" for s in range(3) for t in range(4)],  # Cityscapes.
        ["v1_0001", "v1_0002", "v2_0001", "v2_0002"],
        ["1_1", "1_2", "2_1"],
        ["cam0_1", "cam0_2", "cam1_1"],
        ["000000_10", "000000_11", "000001_10"],  # KITTI's stereo pairs.
        ["2020-01-01 10.00.01", "2020-01-02 09.00.00"],
    ],
)
def test_names_with_several_numbers_that_change_are_refused(tmp_path, names):
    """They are probably those of several clips."""
    write(tmp_path, *(f"{name}.png" for name in names))
    words = fault(tmp_path)
    assert f"several numbers that change, from {names[0]}.png to {names[-1]}.png; put each" in words


def test_pictures_of_different_sizes_are_refused(tmp_path):
    save(tmp_path / "1.png", noise(6, 8))
    save(tmp_path / "2.png", noise(6, 8, 3))
    save(tmp_path / "10.png", noise(6, 9))
    assert "1.png has 8x6 pixels, and 10.png has 9x6" in fault(tmp_path)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".webp"])
def test_the_orientation_of_exif_is_applied_and_told(tmp_path, suffix):
    frame = np.zeros((8, 16, 3), np.uint8)
    frame[:, :8] = 255  # The left half is white.
    exif = Image.Exif()
    exif[0x0112] = 6  # To be turned clockwise.
    save(tmp_path / f"1{suffix}", frame, exif=exif)
    [found], told = read(tmp_path)
    assert found.shape == (16, 8, 3)
    np.testing.assert_allclose(found, np.rot90(frame, -1), atol=5)
    assert "turned or mirrored according to EXIF" in told


def png16(values: np.ndarray) -> bytes:
    """Returns a PNG with 16 bits per value, which Pillow writes only for gray pictures."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        crc = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + crc

    height, width = values.shape[:2]
    header = struct.pack(">IIBBBBB", width, height, 16, 2 if values.ndim == 3 else 0, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    start = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
    return start + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("channels", [(), (3,)])
def test_16_bits_are_scaled_to_8_and_told(tmp_path, channels):
    values = np.random.default_rng(0).integers(0, 65536, (6, 8, *channels))
    (tmp_path / "1.png").write_bytes(png16(values))
    [found], told = read(tmp_path)
    np.testing.assert_array_equal(found, values >> 8)
    assert "16 bits per value" in told[-1]


@pytest.mark.parametrize("suffix", [".tif", ".pgm", ".png"])
def test_16_bits_of_other_files(tmp_path, suffix):
    values = np.random.default_rng(0).integers(0, 65536, (6, 8)).astype(np.uint16)
    save(tmp_path / f"1{suffix}", values)
    [found], told = read(tmp_path)
    np.testing.assert_array_equal(found, values >> 8)
    assert told[-1] == (f"16 bits per value: divided by 256 (the largest value was {values.max()})")


def test_16_bits_that_hold_8_bits_are_refused(tmp_path):
    """They would be black."""
    (tmp_path / "1.png").write_bytes(png16(noise(6, 8)))
    assert "so it would be black" in fault(tmp_path)


def test_masks_with_the_values_0_and_1_are_refused(tmp_path):
    save(tmp_path / "1.png", (noise(6, 8) > 99).astype(np.uint8))
    assert "multiply by 255" in fault(tmp_path)
    save(tmp_path / "1.png", noise(6, 8) > 99)  # A picture with one bit per pixel is fine.
    np.testing.assert_array_equal(read(tmp_path)[0][0], np.where(noise(6, 8) > 99, 255, 0))


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_pictures_with_32_bits_per_value_are_refused(tmp_path, dtype):
    save(tmp_path / "1.tif", noise(6, 8).astype(dtype))
    assert fault(tmp_path).startswith("1.tif has ")


def test_transparent_areas_are_white_and_told(tmp_path):
    values = noise(6, 8, 4)
    save(tmp_path / "1.png", values)
    [found], told = read(tmp_path)
    alpha = values[..., 3:] / 255
    np.testing.assert_allclose(found, values[..., :3] * alpha + 255 * (1 - alpha), atol=1)
    assert "transparent areas: drawn over white" in told
    values[..., 3] = 255
    save(tmp_path / "1.png", values)
    [found], told = read(tmp_path)
    np.testing.assert_array_equal(found, values[..., :3])
    assert told == ["1 picture (png)"]


def test_other_kinds_of_colors_are_converted(tmp_path):
    colors = Image.fromarray(noise(6, 8, 3))
    palette = colors.quantize(16)
    palette.save(tmp_path / "1.png")
    np.testing.assert_array_equal(read(tmp_path)[0][0], np.asarray(palette.convert("RGB")))
    (tmp_path / "1.png").unlink()
    colors.convert("CMYK").save(tmp_path / "1.tif")
    [found], told = read(tmp_path)
    np.testing.assert_array_equal(found, np.asarray(colors.convert("CMYK").convert("RGB")))
    assert "CMYK: converted to RGB" in told


def animation(path: Path) -> None:
    first, *others = (Image.fromarray(frame) for frame in noise(3, 6, 8, 3))
    first.save(path, save_all=True, append_images=others)


@pytest.mark.parametrize("suffix", [".webp", ".tif", ".png"])
def test_files_with_several_pictures_among_others_are_refused(tmp_path, suffix):
    save(tmp_path / f"1{suffix}", noise(6, 8, 3))
    animation(tmp_path / f"2{suffix}")
    assert fault(tmp_path).startswith(f"2{suffix} holds 3 pictures")


@pytest.mark.parametrize("suffix", [".webp", ".PNG"])
def test_animations_are_videos(tmp_path, suffix):
    write(tmp_path, "1.jpg", "4.webp", f"2{suffix}")
    os.mkfifo(tmp_path / f"3{suffix}")
    animation(tmp_path / f"a{suffix}")
    assert not videos(tmp_path)  # Only the first file is read.
    animation(tmp_path / f"0{suffix}")
    assert videos(tmp_path) == [f"0{suffix}", f"a{suffix}"]


def test_the_first_picture_of_a_jpeg_of_a_camera_is_read(tmp_path):
    """The others are previews."""
    first, other = Image.new("RGB", (8, 6), "red"), Image.new("RGB", (4, 3))
    first.save(tmp_path / "1.jpg", "MPO", save_all=True, append_images=[other])
    [found], told = read(tmp_path)
    np.testing.assert_allclose(found, np.asarray(first), atol=3)
    assert "several pictures in one JPEG file: the first" in told


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".tif", ".ppm"])
@pytest.mark.parametrize("cut", [0, 5, 0.5])
def test_damaged_pictures_are_named(tmp_path, suffix, cut):
    write(tmp_path, f"1{suffix}")
    save(tmp_path / f"2{suffix}", noise(60, 80))
    content = (tmp_path / f"2{suffix}").read_bytes()
    (tmp_path / f"2{suffix}").write_bytes(content[: int(cut * len(content)) if cut < 1 else cut])
    assert fault(tmp_path) == f"2{suffix} cannot be decoded: it is not a picture, or damaged"


def test_flipped_bits_in_a_png_are_noticed(tmp_path):
    save(tmp_path / "1.png", noise(60, 80))
    content = bytearray((tmp_path / "1.png").read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "1.png").write_bytes(content)
    assert "damaged" in fault(tmp_path)


def test_huge_pictures_are_refused(tmp_path):
    (tmp_path / "1.pgm").write_bytes(b"P5 100000 100000 255\n")
    assert fault(tmp_path) == "1.pgm is too large"


def test_only_formats_of_pictures_are_decoded(tmp_path):
    """Whatever the name says."""
    (tmp_path / "1.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n")
    assert "cannot be decoded" in fault(tmp_path)


def test_files_that_the_system_cannot_read(tmp_path):
    write(tmp_path, "1.png")
    (tmp_path / "2.png").symlink_to(tmp_path / "nowhere")
    with pytest.raises(UnreadableVideo, match=r"2\.png cannot be read: No such file"):
        read(tmp_path)
    with pytest.raises(UnreadableVideo, match=r"2\.png cannot be read: No such file"):
        picture_folders.digest(pictures(tmp_path))
    (tmp_path / "2.png").unlink()
    os.mkfifo(tmp_path / "2.png")
    assert fault(tmp_path) == "2.png is not a regular file"


def test_arrays_with_two_axes_are_pictures(tmp_path):
    frames = write(tmp_path, *(f"{t}.npy" for t in range(12)))
    found, told = read(tmp_path)
    np.testing.assert_array_equal(np.stack(found), frames)
    assert told == ["12 pictures (npy)", "each array read as [H, W]"]


def test_a_single_array_with_two_axes_is_no_video(tmp_path):
    """It is rather a table, such as the poses of a camera."""
    write(tmp_path, "poses.npy")
    assert not pictures(tmp_path)
    assert videos(tmp_path) == ["poses.npy"]  # It is reported when it is read.


def test_arrays_of_which_some_are_videos_are_not_pictures(tmp_path):
    write(tmp_path, "1.npy", "2.npy")
    save(tmp_path / "3.npy", noise(9, 6, 8))
    assert videos(tmp_path) == ["1.npy", "2.npy", "3.npy"]


@pytest.mark.parametrize("axes", ["HWC", "CHW", "WHC"])
def test_arrays_that_are_one_picture_each_by_setting(tmp_path, axes):
    frames = noise(12, 6, 8, 3)
    for t, frame in enumerate(frames):
        save(tmp_path / f"{t}.npy", frame.transpose(["HWC".index(axis) for axis in axes]))
    found, told = read(tmp_path, axes)
    np.testing.assert_array_equal(np.stack(found), frames)
    assert told[1] == f"each array read as [{', '.join(axes)}]"
    assert videos(tmp_path) == sorted(f"{t}.npy" for t in range(12))
    save(tmp_path / "3.npy", noise(6, 8))
    assert fault(tmp_path, axes).startswith("3.npy has shape [6, 8]")


def test_arrays_of_floats_are_pictures_too(tmp_path):
    for t, frame in enumerate(frames := noise(3, 6, 8)):
        save(tmp_path / f"{t}.npy", frame / 255)
    np.testing.assert_array_equal(np.stack(read(tmp_path)[0]), frames)
    save(tmp_path / "2.npy", frames[2])
    assert "1.npy" not in (words := fault(tmp_path))
    assert "0.npy has float64, and 2.npy has uint8" in words


def test_pictures_next_to_videos_are_not_used(tmp_path):
    write(tmp_path, "1.png", "2.png", "poses.npy", "times.npy")
    assert [path.name for path in pictures(tmp_path)] == ["1.png", "2.png"]
    (tmp_path / "video.mp4").touch()
    assert videos(tmp_path) == ["video.mp4"]
    assert not pictures(tmp_path, "HW")
    save(tmp_path / "video.npy", noise(9, 6, 8))
    assert videos(tmp_path) == ["video.mp4", "video.npy"]


@pytest.mark.parametrize(
    "arrays",
    [
        {"depth.npy": (6, 16, 20)},
        {"keypoints.npy": (6, 17, 3)},
        {f"{t}_flow.npy": (16, 20, 2) for t in range(6)},
        {f"{t}.npy": (16, 20, 3) for t in range(5)},  # Not for each picture.
        {f"{t}.npy": (4, 4) for t in range(6)},
    ],
)
@pytest.mark.parametrize("axes", [None, "HW", "THWC"])
def test_arrays_next_to_pictures_are_not_used(tmp_path, arrays, axes):
    names = [f"{t}.png" for t in range(6)]
    write(tmp_path, *names)
    for name, shape in arrays.items():
        save(tmp_path / name, noise(*shape))
    np.savez(tmp_path / "meta.npz", poses=np.zeros((6, 4, 4)), lens=np.eye(3))
    assert [path.name for path in pictures(tmp_path, axes)] == names


def test_previews_of_arrays_are_not_used(tmp_path):
    write(tmp_path, "cover.jpg", "labels.npy")
    for name in "abc":
        save(tmp_path / f"{name}.npy", noise(9, 6, 8))
    expected = ["a.npy", "b.npy", "c.npy"]
    assert videos(tmp_path) == expected
    (tmp_path / "cover.jpg").unlink()
    write(tmp_path, "a.png", "b.png")
    assert videos(tmp_path) == expected
    # An ambiguous or damaged array is reported, and the pictures do not become a video instead.
    save(tmp_path / "a.npy", noise(64, 64, 3))
    (tmp_path / "b.npy").write_bytes(b"damaged")
    assert videos(tmp_path) == expected


def test_the_digest_changes_with_contents_and_names(tmp_path):
    write(tmp_path, "1.png", "2.png")
    before = picture_folders.digest(pictures(tmp_path))
    assert picture_folders.digest(pictures(tmp_path)) == before
    (tmp_path / "2.png").rename(tmp_path / "3.png")
    assert picture_folders.digest(pictures(tmp_path)) != before
    (tmp_path / "3.png").rename(tmp_path / "2.png")
    assert picture_folders.digest(pictures(tmp_path)) == before
    stream = io.BytesIO()
    Image.fromarray(noise(6, 8, seed=9)).save(stream, "PNG")
    (tmp_path / "2.png").write_bytes(stream.getvalue())
    assert picture_folders.digest(pictures(tmp_path)) != before
