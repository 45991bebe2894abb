"""The predictors without a model."""

import numpy as np
import pytest

from cwvae.baselines import trivial


def test_copy_last_frame_repeats_the_last_frame_of_each_video():
    context = np.random.default_rng(0).random((2, 3, 5, 7, 1)).astype(np.float32)
    prediction = trivial.copy_last_frame(context, horizon=11)
    assert prediction.shape == (2, 11, 5, 7, 1)
    assert prediction.dtype == np.float32
    for b in range(2):
        for t in range(11):
            assert np.array_equal(prediction[b, t], context[b, 2])


@pytest.mark.parametrize("shape", [(3, 5, 7, 1), (2, 0, 5, 7, 1)])
def test_copy_last_frame_needs_a_frame(shape):
    with pytest.raises(ValueError, match=r"T >= 1, got \("):
        trivial.copy_last_frame(np.zeros(shape), 3)


def test_mean_frame_weighs_every_frame_the_same():
    bright = np.full((1, 5, 7, 3), 255, np.uint8)
    dark = np.zeros((4, 5, 7, 3), np.uint8)
    dark[:, 2, 4, 1] = 255
    mean = trivial.mean_frame([bright, dark])
    expected = np.full((5, 7, 3), 0.2)  # one frame of five is white, not one clip of two
    expected[2, 4, 1] = 1
    assert mean.dtype == np.float32
    np.testing.assert_allclose(mean, expected, rtol=1e-6)


def test_mean_frame_streams_and_keeps_precision():
    # A float32 sum near 2e7 ignores single steps, and a uint8 sum overflows.
    clip = np.full((10_000, 1, 1, 1), 255, np.uint8)
    clip[0] = 254
    mean = trivial.mean_frame(clip for _ in range(20))
    np.testing.assert_allclose(mean, 1 - 1 / (255 * 10_000), rtol=1e-7)


@pytest.mark.parametrize(
    ("clips", "message"),
    [
        ([], "at least one frame"),
        ([np.zeros((0, 5, 7, 1), np.uint8)], "at least one frame"),
        ([np.zeros((2, 5, 7, 1))], "must be uint8.*float64"),
        ([np.zeros((5, 7, 1), np.uint8)], r"\[T, H, W, C\].*\(5, 7, 1\)"),
        ([np.zeros((2, 5, 7, c), np.uint8) for c in (1, 3)], r"\(5, 7, 1\) and \(5, 7, 3\)"),
    ],
)
def test_mean_frame_reports_wrong_clips(clips, message):
    with pytest.raises(ValueError, match=message):
        trivial.mean_frame(clips)


def test_repeat_frame_is_the_same_everywhere():
    frame = np.random.default_rng(1).random((5, 7, 3)).astype(np.float32)
    prediction = trivial.repeat_frame(frame, batch=2, horizon=11)
    assert prediction.shape == (2, 11, 5, 7, 3)
    assert all(np.array_equal(shown, frame) for video in prediction for shown in video)
    with pytest.raises(ValueError, match=r"\[H, W, C\].*\(5, 7\)"):
        trivial.repeat_frame(frame[..., 0], batch=2, horizon=11)


def test_predictions_take_no_memory():
    frame = np.zeros((64, 64, 3), np.float32)
    # A million frames of 48 KiB each would not fit.
    assert trivial.repeat_frame(frame, 1000, 1000).base is not None
    assert trivial.copy_last_frame(frame[None, None], 1_000_000).strides[1] == 0


def test_random_frames_come_from_the_pool_by_video_and_frame():
    pool = np.arange(5 * 2 * 3, dtype=np.float32).reshape(5, 2, 3, 1)
    frames = trivial.random_frames(pool, range(4), 0, 60, 7)
    assert frames.shape == (4, 60, 2, 3, 1)
    numbers = frames[:, :, 0, 0, 0] / 6
    np.testing.assert_array_equal(frames, pool[numbers.astype(int)])
    assert set(numbers.ravel()) == set(range(5))
    # Other stretches and videos use the same draws.
    np.testing.assert_array_equal(
        trivial.random_frames(pool, range(2, 4), 11, 29, 7), frames[2:, 11:29]
    )
    assert not np.array_equal(trivial.random_frames(pool, range(4), 0, 60, 8), frames)


@pytest.mark.parametrize("shape", [(2, 3, 1), (0, 2, 3, 1)])
def test_an_invalid_pool_is_an_error(shape):
    with pytest.raises(ValueError, match="pool must be"):
        trivial.random_frames(np.zeros(shape), range(1), 0, 1, 0)
