"""Tests of arrays of frames: the order of axes, types of values, and damaged files."""

import io
import itertools
import re
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest

from cwvae.errors import UserError
from data_loaders.sources import BadVideo, UnreadableVideo, ignore_note
from data_loaders.video import frame_arrays
from data_loaders.video.frame_arrays import ArrayOptions

SUFFIXES = (".npy", ".npz")


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


def saved(path: Path, array: np.ndarray) -> Path:
    (np.savez if path.suffix == ".npz" else np.save)(path, array)
    return path


def read(
    path: Path, axes: str | None = None, video: int | None = None, key: str | None = None
) -> np.ndarray:
    return np.stack([*frame_arrays.frames(path, ArrayOptions(axes, key), video, ignore_note)])


def notes(path: Path, axes: str | None = None, video: int | None = None) -> list[str]:
    told = []
    list(frame_arrays.frames(path, ArrayOptions(axes), video, told.append))
    return list(dict.fromkeys(told))


def fault(path: Path, axes: str | None = None, **options: object) -> str:
    with pytest.raises(BadVideo) as caught:
        read(path, axes, **options)
    return str(caught.value)


def fault_of(tmp_path: Path, *shape: int) -> str:
    return fault(saved(tmp_path / "a.npy", noise(*shape)))


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".NPY"])
@pytest.mark.parametrize("channels", [(), (1,), (3,)])
def test_arrays_are_read_unchanged(tmp_path, suffix, channels):
    frames = noise(70, 12, 12, *channels)
    path = saved(tmp_path / f"a{suffix.lower()}", frames).rename(tmp_path / f"b{suffix}")
    np.testing.assert_array_equal(read(path).reshape(frames.shape), frames)
    assert frame_arrays.expected_frames(path, ArrayOptions()) == 70
    axes = "[T, H, W, C]" if channels else "[T, H, W]"
    kind = suffix[1:].lower()
    assert notes(path) == [f"{kind} array {list(frames.shape)}, read as {axes}"]


# Every order of the axes that may be named.
ORDERS = ["".join(p) for n in (3, 4) for p in itertools.permutations("THWC"[:n])]
ORDERS += ["".join(p) for p in itertools.permutations("NTHW")]
ORDERS += ["".join(p) for p in itertools.permutations("NTHWC")]
SIZES = {"N": 4, "T": 5, "H": 6, "W": 7, "C": 3}


@pytest.mark.parametrize("axes", ORDERS)
@pytest.mark.parametrize("order", ["C", "F"])
def test_every_order_of_axes_gives_the_same_frames(tmp_path, axes, order):
    usual = "".join(axis for axis in "NTHWC" if axis in axes)
    frames = noise(*(SIZES[axis] for axis in usual))
    array = frames.transpose([usual.index(axis) for axis in axes])
    path = saved(tmp_path / "a.npy", np.array(array, order=order))
    options = ArrayOptions(axes)
    if "N" not in axes:
        np.testing.assert_array_equal(read(path, axes), frames)
        assert frame_arrays.videos_in(path, options) is None
        return
    assert frame_arrays.videos_in(path, options) == 4
    assert frame_arrays.expected_frames(path, options) == 20
    for number in range(4):
        np.testing.assert_array_equal(read(path, axes, number), frames[number])
    assert "4 videos" in fault(path, axes, video=4)


@pytest.mark.parametrize("axes", ["THW", "THWC", "TCHW", "TWH"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_archives_are_read_if_frames_are_in_one_piece(tmp_path, axes, order):
    frames = noise(*(SIZES[axis] for axis in "THWC" if axis in axes))
    usual = "".join(axis for axis in "THWC" if axis in axes)
    stored = axes if order == "C" else axes[::-1]
    array = np.array(frames.transpose([usual.index(axis) for axis in stored]), order=order)
    path = saved(tmp_path / "a.npz", array)
    np.testing.assert_array_equal(read(path, stored), frames)
    other = saved(tmp_path / "b.npz", np.array(array, order="CF"[order == "C"]))
    assert "save it with np.save" in fault(other, stored)


@pytest.mark.parametrize(
    ("shape", "readings"),
    [
        ((64, 44, 3), "THW HWC"),  # A picture.
        ((64, 64, 3), "THW HWC"),
        ((64, 44, 1), "THW HWC"),
        ((3, 64, 48), "THW CHW"),
        ((64, 64, 20), "THW HWT"),
        ((120, 160, 500), "THW HWT"),
        ((120, 160, 90), "THW HWT"),
        ((48, 64, 36), "THW HWT"),
        ((50, 60, 20), "THW HWT"),
        ((288, 352, 20), "THW HWT"),
        ((256, 340, 20), "THW HWT"),
        ((171, 128, 16), "THW HWT"),
        ((120, 214, 20), "THW HWT"),
        ((240, 427, 2), "THW HWT"),  # Optical flow.
        ((288, 352, 20, 3), "THWC HWTC"),
        ((120, 214, 20, 3), "THWC HWTC"),
        ((20, 3, 48, 3), "THWC TCHW"),
        ((64, 44, 3, 3), "THWC HWCT"),
        ((64, 64, 20, 3), "THWC HWTC"),
        ((3, 3, 64, 48), "TCHW CTHW"),
        ((3, 1, 64, 48), "TCHW CTHW"),
        ((1, 3, 64, 48), "TCHW NTHW"),
        ((3, 20, 64, 48), "CTHW TNHW NTHW"),
        ((64, 48, 3, 20), "HWCT TNHW NTHW"),
        ((20, 10, 64, 48), "TNHW NTHW"),
        ((10, 20, 64, 48, 3), "NTHWC TNHWC"),
        ((10, 20, 3, 64, 48), "NTCHW TNCHW"),
        ((10, 3, 20, 64, 48), "NCTHW"),
    ],
)
def test_ambiguous_shapes_are_refused(tmp_path, shape, readings):
    """Each reading is named, and the setting for it leads to frames."""
    path = saved(tmp_path / "a.npy", noise(*shape))
    words = fault(path)
    named = re.findall(r"data\.array_axes=(\w+)", words)
    assert sorted(named) == sorted(readings.split())
    for axes in named:
        assert f"[{', '.join(axes)}]" in words
        if "T" in axes:
            read(path, axes, 0 if "N" in axes else None)
        else:
            picture = frame_arrays.picture(path, ArrayOptions(axes))
            assert picture.shape[:2] == tuple(shape[axes.index(axis)] for axis in "HW")
    assert frame_arrays.videos_in(path, ArrayOptions()) is None


@pytest.mark.parametrize(
    ("shape", "axes"),
    [
        ((20, 64, 64), "THW"),
        ((64, 64, 64), "THW"),
        ((20, 64, 48), "THW"),
        ((48, 64, 64), "THW"),
        ((48, 36, 64), "THW"),
        ((100, 80, 72), "THW"),
        ((100, 90, 160), "THW"),
        ((90, 72, 128, 3), "THWC"),
        ((20, 64, 48, 3), "THWC"),
        ((20, 64, 48, 1), "THWC"),
        ((3, 64, 48, 3), "THWC"),
        ((20, 3, 64, 48), "TCHW"),
        ((20, 1, 64, 48), "TCHW"),
        ((1, 1, 64, 48), "TCHW"),
        ((1, 20, 64, 48), "NTHW"),
        ((1, 20, 64, 48, 3), "NTHWC"),
        ((1, 3, 20, 64, 48), "NCTHW"),
    ],
)
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_shapes_with_one_likely_order_are_read(tmp_path, shape, axes, suffix):
    array = noise(*shape)
    path = saved(tmp_path / f"a{suffix}", array)
    if axes == "NCTHW" and suffix == ".npz":
        assert "save it with np.save" in fault(path)
        return
    order = [axes.index(axis) for axis in "NTHWC" if axis in axes]
    frames = array.transpose(order)
    frames = frames[0] if "N" in axes else frames
    found = read(path)
    assert found.shape[:3] == frames.shape[:3]
    np.testing.assert_array_equal(found.reshape(frames.shape), frames)
    assert notes(path)[0].endswith(f"{list(shape)}, read as [{', '.join(axes)}]")


def test_four_channels_are_refused_with_how_to_drop_alpha(tmp_path):
    assert "frames[:, :, :, :3]" in fault_of(tmp_path, 20, 64, 48, 4)
    assert "frames[:, :, :, :3]" in fault_of(tmp_path, 1, 64, 48, 4)
    assert "frames[:, :3, :, :]" in fault_of(tmp_path, 20, 4, 64, 48)
    assert "frames[:, :3, :, :]" in fault_of(tmp_path, 1, 4, 64, 48)
    assert "frames[:, :, :3]" in fault_of(tmp_path, 64, 48, 4)
    assert "frames[:3, :, :]" in fault_of(tmp_path, 4, 64, 48)
    path = saved(tmp_path / "b.npy", noise(20, 4, 64, 48))
    assert "frames[:, :3, :, :]" in fault(path, "TCHW")
    assert "1 or 3 channels" in fault(path, "CTHW")


@pytest.mark.parametrize(
    "axes", ["", "thw", "TH", "THWX", "TTHW", "NHW", "NHWC", "T,H,W", 3, ["T", "H", "W"]]
)
def test_axes_that_are_not_an_order_are_refused(axes):
    with pytest.raises(UserError, match=r"data\.array_axes is .*such as THWC"):
        ArrayOptions(axes)


@pytest.mark.parametrize("key", ["", 3])
def test_keys_that_are_not_names_are_refused(key):
    with pytest.raises(UserError, match=r"data\.array_key"):
        ArrayOptions(key=key)


def test_axes_for_another_number_of_axes(tmp_path):
    path = saved(tmp_path / "a.npy", noise(9, 8, 8))
    assert "data.array_axes = THWC is for 4 axes" in fault(path, "THWC")
    assert "is one picture" in fault(saved(tmp_path / "b.npy", noise(8, 9, 3)), "HWC")


def test_the_test_set_of_moving_mnist_is_known_by_its_name(tmp_path):
    array = noise(20, 12, 16, 16)
    path = saved(tmp_path / "mnist_test_seq.npy", array)
    assert frame_arrays.videos_in(path, ArrayOptions()) == 12
    np.testing.assert_array_equal(read(path, None, 11), array[:, 11])
    assert "Moving MNIST" in notes(path, None, 0)[0]
    assert "[T, N, H, W]" in notes(path, None, 0)[0]
    assert frame_arrays.videos_in(path, ArrayOptions("NTHW")) == 20
    np.testing.assert_array_equal(read(path, "NTHW", 19), array[19])
    other = saved(tmp_path / "other.npy", array)
    assert frame_arrays.videos_in(other, ArrayOptions()) is None
    assert "data.array_axes=TNHW" in fault(other)


def test_the_digest_of_a_video_in_an_array_is_of_its_own_frames(tmp_path):
    array = noise(4, 6, 8, 8)
    path = saved(tmp_path / "a.npy", array)

    def digests() -> list[str]:
        return [frame_arrays.digest(path, ArrayOptions("NTHW"), number) for number in range(4)]

    before = digests()
    assert len(set(before)) == 4
    array[2, 5, 7, 7] ^= 1
    saved(path, array)
    assert [a == b for a, b in zip(before, digests(), strict=True)] == [True, True, False, True]
    saved(path, np.asfortranarray(array))
    assert digests()[0] == before[0]  # The same frames in another order in memory.
    saved(path, array.astype(np.float32))
    assert not set(digests()) & set(before)


@pytest.mark.parametrize("dtype", ["<f2", "<f4", ">f4", "<f8", ">f8"])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_floats_from_0_to_1_become_the_nearest_integers(tmp_path, dtype, suffix):
    frames = noise(5, 9, 8)
    path = saved(tmp_path / f"a{suffix}", (frames / 255).astype(dtype))
    np.testing.assert_array_equal(read(path), frames)
    assert "floats from 0 to 1: multiplied by 255" in notes(path)


def test_floats_are_rounded_not_cut(tmp_path):
    values = np.array([0, 0.499, 0.501, 100.6, 254.6, 255]) / 255
    path = saved(tmp_path / "a.npy", np.tile(values, (5, 6, 1)))
    assert read(path)[0, 0].tolist() == [0, 0, 1, 101, 255, 255]


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [
        (0, 255, "from 0 to 255, which must be from 0 to 1; if they are from 0 to 255, save them"),
        (-1, 1, r"from -1 to 1.*\(frames \+ 1\) / 2"),
        (-3, 700, "from -3 to 700.*scale them"),
        (0, 1.01, r"from 0 to 1\.01, which must be from 0 to 1; scale them"),
        (-0.01, 1, "from -0.01 to 1, which must be from 0 to 1; scale them"),
        (0, np.inf, "NaN or infinite"),
        (np.nan, 1, "NaN or infinite"),
    ],
)
def test_floats_out_of_range_are_refused_with_their_range(tmp_path, low, high, words):
    array = np.full((9, 8, 8), 0.5)
    array[8, 7, 6], array[3, 0, 0] = low, high  # The range is that of all frames.
    assert re.search(words, fault(saved(tmp_path / "a.npy", array)))


def test_archives_that_np_save_would_hold_better(tmp_path):
    np.savez(tmp_path / "a.npz", *noise(8, 20, 16))
    assert "each array is a frame, save np.stack(frames)" in fault(tmp_path / "a.npz")
    many = saved(tmp_path / "b.npz", noise(5, 20, 32, 40))
    assert "Files with N videos must be saved with np.save" in fault(many)


def test_rounding_errors_of_floats_are_clipped(tmp_path):
    array = np.full((9, 8, 8), 0.5, np.float32)
    array[8, 7, 6], array[3, 0, 0] = -1e-8, 1.0000001
    path = saved(tmp_path / "a.npy", array)
    assert read(path).max() == 255
    assert read(path).min() == 0
    assert "floats slightly below 0 or above 1: clipped" in notes(path)


def test_bool_becomes_black_and_white(tmp_path):
    array = noise(5, 9, 8) > 100
    path = saved(tmp_path / "a.npy", array)
    np.testing.assert_array_equal(read(path), np.where(array, 255, 0))
    assert any("bool" in note for note in notes(path))


@pytest.mark.parametrize("scale", [1, 1 / 65025])
def test_videos_that_would_be_black_are_refused(tmp_path, scale):
    """Such as Moving MNIST with the values 0 and 1, and floats divided by 255 twice."""
    array = (noise(5, 9, 8) > 100) * scale if scale == 1 else noise(5, 9, 8) * scale
    array = array.astype(np.uint8 if scale == 1 else np.float32)
    assert "multiply by 255" in fault(saved(tmp_path / "a.npy", array))
    assert not read(saved(tmp_path / "b.npy", np.zeros_like(array))).any()
    array[4, 0, 0] = 2 * scale
    if scale == 1:
        np.testing.assert_array_equal(read(saved(tmp_path / "c.npy", array)), array)


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (noise(5, 8, 8).astype(np.int64), "holds int64 values; save the frames as uint8"),
        (noise(5, 8, 8).astype(np.uint16), "holds uint16 values"),
        (noise(5, 8, 8).astype(np.int8), "holds int8 values"),
        (noise(5, 8, 8).astype(np.longdouble), "holds .*float.* values"),
        (noise(5, 8, 8).astype(np.complex64), "holds complex64 values"),
        (np.array([None, "code"]), "holds object values"),
        (np.zeros(3, [("r", np.uint8)]), "holds .* values"),
        (noise(8, 8), r"has shape \[8, 8\]; expected \[T, H, W\]"),
        (noise(8), r"has shape \[8\]; expected \[T, H, W\]"),
        (noise(1, 1, 1, 1, 1, 8), r"has shape .*; expected \[T, H, W\]"),
        (noise(5, 0, 8), r"has shape \[5, 0, 8\]"),
        (noise(0, 8, 8), "has no frames"),
    ],
)
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_arrays_that_are_not_videos(tmp_path, array, words, suffix):
    path = saved(tmp_path / f"a{suffix}", array)
    assert re.search(words, fault(path))
    with pytest.raises(BadVideo):
        frame_arrays.expected_frames(path, ArrayOptions())


def test_pickles_are_never_loaded(tmp_path):
    class Trap:
        def __reduce__(self):
            return (pytest.fail, ("unpickled",))

    array = np.array([Trap()] * 3, object).reshape(3, 1, 1)
    assert "holds object values" in fault(saved(tmp_path / "a.npy", array))
    assert "holds object values" in fault(saved(tmp_path / "a.npz", array))


def test_an_archive_with_several_arrays_needs_the_name_of_the_frames(tmp_path):
    frames, labels = noise(9, 8, 8), noise(9, 2)
    path = tmp_path / "a.npz"
    np.savez_compressed(path, labels=labels, video=frames)
    words = fault(path)
    assert "holds 2 arrays: labels [9, 2], video [9, 8, 8]; set data.array_key" in words
    np.testing.assert_array_equal(read(path, key="video"), frames)
    assert "holds no array 'frames' (data.array_key); it holds labels [9, 2]" in fault(
        path, key="frames"
    )
    # Never another array, even if it is the only one.
    np.savez(path, labels=frames)
    assert "holds no array 'video'" in fault(path, key="video")
    np.testing.assert_array_equal(read(path), frames)
    np.testing.assert_array_equal(read(saved(tmp_path / "b.npy", frames), key="video"), frames)


def test_an_archive_with_many_videos_is_refused(tmp_path):
    path = saved(tmp_path / "a.npz", noise(4, 9, 8, 8))
    assert frame_arrays.videos_in(path, ArrayOptions("NTHW")) is None
    assert "save it with np.save" in fault(path, "NTHW")


def forged(*shape: int, dtype: str = "|u1") -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        stream, {"descr": dtype, "fortran_order": False, "shape": shape}
    )
    return stream.getvalue() + bytes(2 * 8 * 8 + 5)


def packed(*members: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for i, member in enumerate(members):
            archive.writestr(f"arr_{i}.npy", member)
    return stream.getvalue()


def test_damaged_arrays(tmp_path):
    whole = forged(2, 8, 8)
    faults = {
        "a.npy": forged(9, 8, 8),
        "b.npz": packed(forged(9, 8, 8)),
        "c.npy": b"\x93NUMPY\x01\x00",
        "d.npy": b"text",
        "e.npy": whole.replace(b"'shape'", b"'shade'"),
        "f.npz": packed(whole)[:-30],
        "g.npz": packed(whole, whole),
        "h.npz": packed(),
        "i.npy": forged(1, 10**6, 10**6),
        "j.npz": packed(forged(1, 10**6, 10**6)),
        "k.npy": forged(-9, 8, -8),
        "l.npy": b"",
        "m.npz": packed(b"text", whole),
    }
    words = {}
    for name, content in faults.items():
        (tmp_path / name).write_bytes(content)
        words[name] = fault(tmp_path / name)
    assert words["a.npy"] == words["b.npz"] == "is cut short: 2 of 9 frames can be read"
    assert all("written by np.save" in words[f"{letter}.npy"] for letter in "cde")
    assert "written by np.savez" in words["f.npz"]
    assert "holds 2 arrays: arr_0 [2, 8, 8], arr_1 [2, 8, 8]; set" in words["g.npz"]
    assert words["h.npz"] == "holds no arrays"
    assert words["i.npy"] == words["j.npz"]
    assert "too large" in words["i.npy"]
    assert "without any pixels" in words["k.npy"]
    assert words["l.npy"] == "is empty"
    assert "holds 2 arrays: arr_0, arr_1 [2, 8, 8]" in words["m.npz"]


def test_many_videos_cut_short(tmp_path):
    (tmp_path / "a.npy").write_bytes(forged(9, 5, 8, 8))
    assert (
        fault(tmp_path / "a.npy", "NTHW", video=0) == "is cut short: 133 of 2880 bytes can be read"
    )


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_expected_frames_are_bounded_by_the_bytes_present(tmp_path, suffix):
    content = forged(2 * 10**9, 8, 8)
    path = tmp_path / f"a{suffix}"
    path.write_bytes(packed(content) if suffix == ".npz" else content)
    assert frame_arrays.expected_frames(path, ArrayOptions()) == 2
    assert "is cut short: 2 of 2000000000 frames" in fault(path)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_tables_are_told_from_frames(tmp_path, suffix):
    for shape in ((), (9,), (9, 6), (9, 4, 4), (9, 3, 4)):
        assert frame_arrays.is_table(saved(tmp_path / f"a{suffix}", np.zeros(shape)))
    for shape in ((9, 8, 8), (64, 64, 3), (9, 3, 8, 8)):
        assert not frame_arrays.is_table(saved(tmp_path / f"a{suffix}", noise(*shape)))
    (tmp_path / f"a{suffix}").write_bytes(b"damaged")
    assert not frame_arrays.is_table(tmp_path / f"a{suffix}")


def test_an_archive_with_frames_is_no_table(tmp_path):
    np.savez(tmp_path / "a.npz", poses=np.zeros((9, 4, 4)), frames=noise(9, 8, 8))
    assert not frame_arrays.is_table(tmp_path / "a.npz")


def test_an_archive_with_flipped_bits(tmp_path):
    content = bytearray(packed(forged(2, 8, 8)))
    content[45] ^= 0xFF
    (tmp_path / "a.npz").write_bytes(bytes(content))
    assert "is damaged" in fault(tmp_path / "a.npz")


def test_files_that_the_system_cannot_read(tmp_path):
    with pytest.raises(UnreadableVideo, match="cannot be read: No such file"):
        read(tmp_path / "a.npy")
    (tmp_path / "b.npy").mkdir()
    assert fault(tmp_path / "b.npy") == "is not a regular file"


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_memory_does_not_grow_with_the_length(tmp_path, suffix):
    path = saved(tmp_path / f"long{suffix}", np.repeat(noise(1, 64, 64), 2000, 0))  # 8 MB
    frames = frame_arrays.frames(path, ArrayOptions(), None, ignore_note)
    next(frames)  # Excludes one-time allocations, such as imports.
    tracemalloc.start()
    length = 1 + sum(1 for _ in frames)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert length == 2000
    assert peak < 2e6
