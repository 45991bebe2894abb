"""Tests of moving digits: drawing, motion, and random access to frames."""

import numpy as np
import pytest

from cwvae.errors import UserError
from data_loaders.generated.digits import load_digits
from data_loaders.generated.moving_digits import MovingDigits, _Motion

SMALL = {"frame_size": 31, "digit_size": 12, "train_length": 41, "test_length": 67}


@pytest.fixture(scope="module")
def small() -> MovingDigits:
    return MovingDigits("train", **SMALL)


def paint(dataset: MovingDigits, images: np.ndarray, i: int, size: int) -> np.ndarray:
    """Draws clip i from its attributes, one digit and frame at a time: int [T, N, size, size]."""
    known = dataset.attributes(i)
    num_frames, num_digits, _ = known["positions"].shape
    layers = np.zeros((num_frames, num_digits, size, size), int)
    for t in range(num_frames):
        for n in range(num_digits):
            row, column = np.rint(known["positions"][t, n]).astype(int)
            digit = images[known["indices"][n]]
            layers[t, n, row : row + len(digit), column : column + len(digit)] = digit
    return layers


def test_shapes_and_lengths():
    for split, length in (("train", 41), ("test", 67)):
        dataset = MovingDigits(split, channels=3, num_digits=3, **SMALL)
        assert len(dataset) == 2**31 - 1
        assert dataset.length(0) == length
        assert dataset.frame_shape == (31, 31, 3)
        clip = dataset.clip(5)
        assert clip.shape == (length, 31, 31, 3)
        assert clip.dtype == np.uint8
        shapes = {name: value.shape for name, value in dataset.attributes(5, 7, 11).items()}
        assert shapes == {
            "digits": (3,),
            "indices": (3,),
            "positions": (11, 3, 2),
            "velocities": (11, 3, 2),
        }


@pytest.mark.parametrize("num_digits", [1, 2, 4])
def test_sum_is_the_clipped_sum_of_digits_at_their_rounded_positions(num_digits):
    # Four digits with 31 - 12 pixels of room often cross.
    dataset = MovingDigits("train", num_digits=num_digits, **SMALL)
    images, _, _ = load_digits("train", 12)
    layers = paint(dataset, images, 3, 31)
    total = layers.sum(axis=1)
    assert num_digits == 1 or total.max() > 255, "the digits of this clip never cross"
    np.testing.assert_array_equal(dataset.clip(3)[..., 0], np.minimum(total, 255))


def test_max_is_the_brightest_digit_at_each_pixel():
    dataset = MovingDigits("train", num_digits=3, overlap="max", **SMALL)
    images, _, _ = load_digits("train", 12)
    layers = paint(dataset, images, 3, 31)
    np.testing.assert_array_equal(dataset.clip(3)[..., 0], layers.max(axis=1))
    assert np.any(layers.max(axis=1) != np.minimum(layers.sum(axis=1), 255))


def test_three_channels_are_the_gray_picture_three_times(small):
    color = MovingDigits("train", channels=3, **SMALL).clip(2)
    np.testing.assert_array_equal(color, np.repeat(small.clip(2), 3, axis=-1))


def test_attributes_name_the_digits(small):
    _, labels, _ = load_digits("train", 12)
    known = small.attributes(11)
    np.testing.assert_array_equal(known["digits"], labels[known["indices"]])
    seen = {digit for i in range(60) for digit in small.attributes(i, 0, 1)["digits"].tolist()}
    assert seen == set(range(10))


def test_a_window_does_not_depend_on_others(small):
    whole, known = small.clip(7), small.attributes(7)
    for start, length in ((0, 1), (10, 5), (40, 1), (13, 28)):
        stop = start + length
        np.testing.assert_array_equal(small.clip(7, start, length), whole[start:stop])
        part = small.attributes(7, start, length)
        for name in ("positions", "velocities"):
            np.testing.assert_array_equal(part[name], known[name][start:stop])
        for name in ("digits", "indices"):
            np.testing.assert_array_equal(part[name], known[name])
    np.testing.assert_array_equal(small.clip(7, 10), whole[10:])


def test_window_outside_of_the_clip_names_both(small):
    with pytest.raises(UserError, match=r"frames 40 to 42: .* 41 frames"):
        small.clip(0, 40, 2)
    for start, length in ((-1, 2), (0, 0), (0, 42), (41, None), (5, -2)):
        with pytest.raises(UserError):
            small.attributes(0, start, length)


def test_clip_out_of_range(small):
    small.clip(len(small) - 1, 0, 1)
    for i in (-1, len(small)):
        with pytest.raises(IndexError):
            small.clip(i, 0, 1)


def test_clips_depend_on_seed_split_and_index_only():
    def positions(split, seed, i):
        return MovingDigits(split, seed=seed, **SMALL).attributes(i, 0, 9)["positions"]

    reference = positions("train", 0, 5)
    np.testing.assert_array_equal(positions("train", 0, 5), reference)
    others = [("train", 1, 5), ("train", 0, 6), ("test", 0, 5), ("train", 2**32, 5)]
    for other in others:
        assert np.abs(positions(*other) - reference).max() > 1, other


def test_lengths_do_not_change_the_motion(small):
    longer = MovingDigits("train", **{**SMALL, "train_length": 90})
    np.testing.assert_array_equal(longer.clip(4)[:41], small.clip(4))


def test_reflection_by_hand(small):
    # 19 pixels of room. Down from 10 at 5 per frame, with walls at 19 and 0. Left at 8.
    motion = _Motion(np.array([0]), np.array([[10.0, 3.0]]), np.array([[5.0, -8.0]]))
    positions, velocities = small._trajectory(motion, 0, 7)
    assert positions[:, 0, 0].tolist() == [10, 15, 18, 13, 8, 3, 2]
    assert velocities[:, 0, 0].tolist() == [5, 5, -5, -5, -5, -5, 5]
    assert positions[:, 0, 1].tolist() == [3, 5, 13, 17, 9, 1, 7]
    assert velocities[:, 0, 1].tolist() == [-8, 8, 8, -8, -8, -8, 8]


def test_fast_digits_may_cross_the_frame_more_than_once_in_a_frame(small):
    # 19 pixels of room: 45 = 2 * 19 + 7 pixels per frame look like 7.
    fast = _Motion(np.array([0]), np.array([[1.0, 1.0]]), np.array([[45.0, 0.0]]))
    positions, _ = small._trajectory(fast, 0, 3)
    assert positions[:, 0, 0].tolist() == [1, 8, 15]


def test_digits_stay_inside_and_use_the_whole_frame():
    dataset = MovingDigits("test", num_digits=4, **SMALL)
    positions = np.stack([dataset.attributes(i)["positions"] for i in range(50)])
    assert positions.min() >= 0
    assert positions.max() <= 19
    assert positions.min() < 0.1
    assert positions.max() > 18.9
    # A reflected walk with a uniform start stays uniform: mean S / 2, deviation S / sqrt(12).
    np.testing.assert_allclose(positions.mean(axis=(0, 1, 2)), 9.5, atol=0.6)
    np.testing.assert_allclose(positions.std(axis=(0, 1, 2)), 19 / 12**0.5, atol=0.6)


def test_speed_and_direction_are_uniform():
    dataset = MovingDigits("train", speed=[1.0, 3.0], num_digits=4, **SMALL)
    start = np.concatenate([dataset.attributes(i, 0, 1)["velocities"][0] for i in range(400)])
    speed = np.linalg.norm(start, axis=-1)
    assert speed.min() >= 1 - 1e-6
    assert speed.max() <= 3 + 1e-6
    np.testing.assert_allclose(np.quantile(speed, [0.25, 0.5, 0.75]), [1.5, 2, 2.5], atol=0.1)
    octants = np.floor(np.arctan2(start[:, 0], start[:, 1]) / (np.pi / 4)).astype(int)
    counts = np.bincount(octants + 4, minlength=8)[:8]
    assert counts.min() > 150
    assert counts.max() < 250


def test_reflections_keep_the_speed(small):
    known = small.attributes(9)
    speed = np.linalg.norm(known["velocities"], axis=-1)
    np.testing.assert_allclose(speed, np.broadcast_to(speed[0], speed.shape), rtol=1e-6)
    # Away from the walls, a frame's velocity is the difference to the next frame.
    step = np.diff(known["positions"], axis=0)
    free = known["velocities"][:-1] == known["velocities"][1:]
    assert 0.3 < free.mean() < 1
    np.testing.assert_allclose(step[free], known["velocities"][:-1][free], atol=1e-4)


def test_digits_without_speed_do_not_move():
    clip = MovingDigits("train", speed=(0, 0), **SMALL).clip(1)
    assert clip.max() > 0
    np.testing.assert_array_equal(clip, np.broadcast_to(clip[:1], clip.shape))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"digit_size": 31}, "31 pixels cannot move in frames of 31 pixels"),
        ({"digit_size": 40}, "40 pixels cannot move"),
        ({"digit_size": 0}, "data.digit_size is 0"),
        ({"frame_size": 31.5}, "model.frame_size is 31.5"),
        ({"num_digits": 0}, "data.num_digits is 0"),
        ({"train_length": 0}, "data.train_length is 0"),
        ({"test_length": "many"}, "data.test_length is 'many'"),
        ({"seed": -1}, "data.seed is -1"),
        ({"channels": 2}, "model.channels is 2"),
        ({"overlap": "sums"}, "did you mean 'sum'"),
        ({"speed": (6, 2)}, r"data.speed is \(6, 2\)"),
        ({"speed": (-1, 2)}, "data.speed"),
        ({"speed": (1, float("nan"))}, "data.speed"),
        ({"speed": (1, float("inf"))}, "data.speed"),
        ({"speed": 4}, "data.speed is 4"),
        ({"speed": (1, 2, 3)}, "data.speed"),
        ({"speed": "fast"}, "data.speed is 'fast'"),
        ({"digits": "emnist"}, "did you mean 'mnist'"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(UserError, match=message):
        MovingDigits("train", **{**SMALL, **options})


def test_unknown_split():
    with pytest.raises(UserError, match="unknown split 'validation'"):
        MovingDigits("validation", **SMALL)


def test_the_fingerprint_of_the_built_in_digits_stays_the_same():
    """Otherwise runs refuse to resume with a new version."""
    expected = {
        "train": "11b82b617287ed8dda8b62da4965cc1d7e4f3af23f6af5f0d4c1bfa7b0287fdf",
        "test": "9b512e9a6c455430833da9115dde48af1b08c337140f75c31d098e517e127e57",
    }
    for split, fingerprint in expected.items():
        assert MovingDigits(split, **SMALL).fingerprint == fingerprint
        assert MovingDigits(split, seed=1, frame_size=64).fingerprint == fingerprint
