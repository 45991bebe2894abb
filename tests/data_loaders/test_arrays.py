"""Tests of data sets of arrays in memory, and of data sets as sequences."""

import itertools

import numpy as np
import pytest

import data_loaders
from cwvae.errors import UserError
from data_loaders.windows import EqualClips


def clips(count=3, length=9, size=32, channels=1, seed=0):
    """Returns random clips, uint8 [N, T, H, W, C]."""
    shape = (count, length, size, size, channels)
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def train_of(given, test=None):
    return data_loaders.from_arrays(given, clips() if test is None else test).train


# Values.


def test_uint8_clips_are_those_of_the_array_without_a_copy():
    array = clips()
    data = train_of(array)
    assert len(data) == 3
    assert data.frame_shape == (32, 32, 1)
    for i in range(3):
        np.testing.assert_array_equal(data.clip(i), array[i])
        assert np.shares_memory(data.clip(i), array)
    np.testing.assert_array_equal(data.clip(1, 2, 4), array[1, 2:6])
    with pytest.raises(ValueError, match="read-only"):
        data.clip(0)[:] = 0
    assert array.flags.writeable


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_floats_from_0_to_1_become_the_nearest_uint8(dtype):
    array = clips()
    data = train_of((array / 255).astype(dtype))
    np.testing.assert_array_equal(data.clip(2), array[2])
    assert data.fingerprint == train_of(array).fingerprint


def test_floats_may_exceed_the_range_by_rounding_errors():
    array = np.full((1, 2, 32, 32, 1), 1.001)
    array[0, 0] = -0.001
    assert [int(frame.max()) for frame in train_of(array).clip(0)] == [0, 255]


def test_booleans_are_black_and_white():
    array = clips() > 99
    np.testing.assert_array_equal(train_of(array).clip(0), 255 * array[0].astype(int))


def test_clips_may_have_different_lengths():
    every = [clips(1, length)[0] for length in (4, 9, 6)]
    data = train_of(every)
    assert [data.length(i) for i in range(3)] == [4, 9, 6]
    assert data.at_least(6).tolist() == [1, 2]
    assert data.shorter_than(6) == ["clip 0: 4 frames"]
    batch = data.batch(batch_size=50, length=6, seed=0, step=0)
    windows = {every[1][t : t + 6].tobytes() for t in range(4)} | {every[2].tobytes()}
    assert {video.tobytes() for video in batch} == windows


def test_the_fingerprint_is_that_of_shapes_and_values():
    array = clips()
    changed = array.copy()
    changed[2, 8, 31, 31, 0] ^= 1
    same = [list(array), array.copy(), np.asfortranarray(array)]
    other = [changed, array[:2], array[::-1], [array.reshape(1, 27, 32, 32, 1)[0]]]
    own = train_of(array).fingerprint
    assert {train_of(given).fingerprint for given in same} == {own}
    assert len({own, *(train_of(given).fingerprint for given in other)}) == 5


# What is refused.


def moved(array):
    return np.moveaxis(array, -1, 2)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            clips() * 1.0,
            r"train\[0\]: values from 0 to 255, but .* 0 to 1\. If 255 .* divide by 255",
        ),
        (clips() / 127.5 - 1, r"values from -1 to 1, but .*pass \(x \+ 1\) / 2"),
        (clips() / 100.0, r"to 2\.55, but floats must be from 0 to 1\. If 255"),
        (np.where(clips() > 9, np.nan, 0), "from nan to nan, .* Replace NaN and infinity"),
        (clips().astype(int), "values of type int64 from 0 to 255. Pass uint8"),
        ((clips() > 99).astype(np.uint8), r"only 0 and 1, but white is 255.*train\.astype\(bool\)"),
        (
            clips()[..., 0],
            r"\(3, 9, 32, 32\)\. It must be \[N, T, H, W, C\].*x\[..., None\]",
        ),
        (
            list(clips()[..., 0]),
            r"train\[0\]: the shape is \(9, 32, 32\).*\[..., None\] for x",
        ),
        (clips()[0], r"For a single clip, pass \[train\]"),
        (moved(clips()), r"Channels come last: np\.moveaxis\(x, -3, -1\) for x = train"),
        (list(moved(clips())), r"moveaxis\(x, -3, -1\) for x = each clip of train"),
        (clips(channels=4), r"C is 1 \(gray\) or 3 \(RGB\), not 4"),
        (clips()[:, :, :16], r"test\[0\]: frames of 32x32x1, but those of train\[0\] have 16x32x1"),
        (clips(channels=3), r"test\[0\]: frames of 32x32x1, but those of train\[0\] have 32x32x3"),
        ([clips()[0], clips(size=64)[0]], r"train\[1\]: frames of 64x64x1, but .* 32x32x1"),
        ([], "train: no clips"),
        (clips()[:0], "train: no clips"),
        ([clips()[0], clips()[0, :0]], r"train\[1\]: this clip has no frames"),
        (None, "train: values of type object"),
        ([[1, 2], [3]], r"train\[0\]: values of type int64"),
        ([[[1], [2, 3]]], r"train\[0\]: not an array"),
        ("videos", "train: values of type <U6"),
    ],
)
def test_other_arrays_are_refused(given, message):
    with pytest.raises(UserError, match=message):
        train_of(given)


@pytest.mark.parametrize("shape", [(48, 48), (64, 32)])
def test_frames_that_no_model_takes_are_refused_with_advice(shape):
    array = np.zeros((1, 2, *shape, 3), np.uint8)
    message = (
        r"{}x{} pixels, but models take 32x32, 64x64 or 128x128\. Crop the .* tf\.image\.resize"
    )
    with pytest.raises(UserError, match=message.format(*shape)):
        train_of(array, array)


def test_the_test_split_is_checked_too():
    with pytest.raises(UserError, match=r"test\[0\]: values from 0 to 255"):
        train_of(clips(), clips() * 1.0)


def test_only_python_can_load_arrays():
    with pytest.raises(UserError, match=r"only Python can pass these clips\. .*cwvae\.train\("):
        data_loaders.load("arrays", "train", frame_size=32, channels=1)
    with pytest.raises(UserError, match="only Python can pass"):
        data_loaders.open_source("arrays")


# Data sets as sequences.


def test_a_data_set_is_a_sequence_of_whole_clips():
    array = clips(5)
    data = train_of(array)
    np.testing.assert_array_equal(data[0], array[0])
    np.testing.assert_array_equal(data[-1], array[4])
    np.testing.assert_array_equal(data[np.int64(2)], array[2])
    np.testing.assert_array_equal(list(data), array)
    for i in (5, -6):
        with pytest.raises(IndexError, match=f"no clip {i}: this data set has 5 clips"):
            data[i]
    with pytest.raises(TypeError):
        data["0"]


def test_a_slice_is_a_data_set():
    array = clips(5)
    data = train_of(array)
    np.testing.assert_array_equal(list(data[1:4]), array[1:4])
    np.testing.assert_array_equal(list(data[::-2]), array[::-2])
    assert data[1:4].fingerprint != data[:3].fingerprint
    assert len(data[9:]) == 0
    assert list(data[9:]) == []


def test_an_endless_data_set_is_a_sequence_too():
    class Endless(data_loaders.Dataset):
        def __init__(self):
            super().__init__(EqualClips(2**31 - 1, 2), (32, 32, 1))

        def clip(self, i, start=0, length=None):
            return np.full((2, 32, 32, 1), i % 256, np.uint8)

    data = Endless()
    assert [int(clip.max()) for clip in itertools.islice(data, 3)] == [0, 1, 2]
    assert data[10:20][1].max() == 11
    assert data[-1].max() == 254
