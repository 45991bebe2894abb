"""LPIPS against plain torch (tests/golden/lpips.py), its properties and errors."""

import keras
import numpy as np
import pytest
from golden import lpips as golden

from cwvae.metrics import lpips, weights

ARRAYS = golden.arrays()


@pytest.fixture(scope="module")
def distance():
    return lpips.LPIPS(weights.Weights(ARRAYS, weights.digest(ARRAYS)))


@pytest.fixture(scope="module")
def want():
    with np.load(golden.FILE, allow_pickle=False) as file:
        return dict(file)


def video(*shape, seed=0):
    return np.random.default_rng(seed).uniform(size=shape).astype(np.float32)


# The value.


@pytest.mark.parametrize("case", golden.CASES)
def test_it_equals_torch(distance, want, case):
    truth, prediction = golden.images(case)
    assert want[case].sum(1)[-1] > 0.5, "too small for a tolerance of 1e-5"
    values = distance(truth[None], prediction[None])
    assert values.dtype == np.float32
    np.testing.assert_allclose(values, want[case].sum(1)[None], rtol=0, atol=1e-5)
    signed = (2 * np.repeat(x, 3 // x.shape[-1], -1) - 1 for x in (truth, prediction))
    np.testing.assert_allclose(distance.taps(*signed), want[case], rtol=0, atol=1e-5)


def test_the_number_of_weights_equals_the_published_one():
    sizes = {name: array.size for name, array in ARRAYS.items()}
    assert sum(size for name, size in sizes.items() if not name.startswith("head")) == 2_469_696
    assert sum(size for name, size in sizes.items() if name.startswith("head")) == 1_152


def test_equal_frames_have_distance_0(distance):
    frames = video(2, 3, 33, 37, 1)
    np.testing.assert_array_equal(distance(frames, frames), np.zeros((2, 3)))
    black = np.zeros_like(frames)
    np.testing.assert_array_equal(distance(black, black), np.zeros((2, 3)))


def test_it_is_symmetric(distance):
    x, y = video(1, 3, 33, 37, 3), video(1, 3, 33, 37, 3, seed=1)
    np.testing.assert_allclose(distance(x, y), distance(y, x), rtol=1e-6)


def test_it_grows_with_noise(distance):
    frames, noise = video(1, 1, 48, 40, 3), video(1, 1, 48, 40, 3, seed=1)
    amounts = (0.01, 0.05, 0.2, 0.5, 1)
    values = [distance(frames, (1 - a) * frames + a * noise).item() for a in amounts]
    assert values[0] > 0
    assert np.all(np.diff(values) > 0)


def test_values_keep_the_order_of_frames(distance):
    truth, prediction = video(2, 5, 32, 35, 3), video(2, 5, 32, 35, 3, seed=1)
    prediction[1, 3] = truth[1, 3]
    assert np.argwhere(distance(truth, prediction) == 0).tolist() == [[1, 3]]


def test_predictions_are_clipped(distance):
    truth, prediction = video(1, 2, 32, 35, 1), 3 * video(1, 2, 32, 35, 1, seed=1) - 1
    clipped = distance(truth, np.clip(prediction, 0, 1))
    np.testing.assert_array_equal(distance(truth, prediction), clipped)


def test_it_is_float32_under_any_policy(distance):
    truth, prediction = video(1, 2, 32, 35, 3), video(1, 2, 32, 35, 3, seed=1)
    want = distance(truth, prediction)
    keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        again = lpips.LPIPS(weights.Weights(ARRAYS, weights.digest(ARRAYS)))
        np.testing.assert_allclose(again(truth, prediction), want, rtol=1e-6)
    finally:
        keras.mixed_precision.set_global_policy("float32")


def test_chunks_do_not_change_values(distance, monkeypatch):
    truth, prediction = video(1, 7, 32, 35, 1), video(1, 7, 32, 35, 1, seed=1)
    together = distance(truth, prediction)
    monkeypatch.setattr(lpips, "_FRAMES", 3)  # The last chunk has one frame.
    monkeypatch.setattr(lpips, "_PIXELS", 2 * 32 * 35)
    np.testing.assert_allclose(distance(truth, prediction), together, rtol=1e-5)


def test_the_truth_is_computed_once_and_a_repeated_frame_too(distance, monkeypatch):
    truth, prediction = video(2, 7, 32, 35, 1), video(2, 7, 32, 35, 1, seed=1)
    want, calls = distance(truth, prediction), []
    taps = distance._unit_taps
    monkeypatch.setattr(
        distance, "_unit_taps", lambda images: calls.append(len(images)) or taps(images)
    )
    against = distance.against(truth)
    assert calls == [14]
    for _ in range(2):
        np.testing.assert_array_equal(against(prediction), want)
    assert calls == [14] * 3
    for still, frames in ((prediction[:, :1], 2), (prediction[:1, :1], 1), (prediction[:1], 7)):
        repeated = np.broadcast_to(still, prediction.shape)
        copied = distance(truth, np.ascontiguousarray(repeated))
        calls.clear()
        np.testing.assert_allclose(against(repeated), copied, rtol=1e-5)
        assert calls == [frames]


def test_videos_without_frames_have_no_distances(distance):
    for shape in ((0, 4, 32, 35, 3), (4, 0, 32, 35, 3)):
        assert distance(video(*shape), video(*shape)).shape == shape[:2]
    assert distance.taps(video(0, 32, 35, 3), video(0, 32, 35, 3)).shape == (0, 5)


# Errors.


@pytest.mark.parametrize("given", ["weights.npz", None, weights.Weights({}, "")])
def test_other_things_than_weights_are_refused(given):
    with pytest.raises(TypeError, match=r"cwvae\.metrics\.weights\.load\('lpips'\)"):
        lpips.LPIPS(given)


def changed(value, shape=(2, 3, 32, 33, 3)):
    frames = video(*shape)
    frames[1, 2, 5, 6, 0] = value
    return frames


GOOD = video(2, 3, 32, 33, 3)


@pytest.mark.parametrize(
    ("truth", "prediction", "message"),
    [
        (GOOD, GOOD[:, :2], "differ in shape"),
        (GOOD[0], GOOD[0], r"\[N, T, H, W, C\]"),
        (GOOD[..., :2], GOOD[..., :2], "1 or 3 channels, got 2"),
        (GOOD[..., :30, :], GOOD[..., :30, :], "31x31 pixels, got 32x30"),
        ((GOOD * 255).astype(np.uint8), GOOD, "truth must be floats"),
        (GOOD, changed(np.nan), r"prediction holds a NaN .*\[1, 2\]"),
        (changed(np.inf), GOOD, "truth holds a NaN or an infinity"),
        (GOOD * 255, GOOD, r"truth must lie in \[0, 1\]"),
        (changed(-0.1), GOOD, r"truth must lie in \[0, 1\]"),
    ],
)
def test_invalid_videos_are_refused(distance, truth, prediction, message):
    with pytest.raises(ValueError, match=message):
        distance(truth, prediction)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (GOOD[0] * 255, r"must lie in \[-1, 1\].*2 x / 255 - 1"),
        (changed(1.01)[1], r"must lie in \[-1, 1\]"),
        (changed(np.nan)[1], r"must lie in \[-1, 1\]"),
        (GOOD[0].astype(np.uint8), "must be floats"),
        (GOOD[0, ..., :1], r"\[F, H, W, 3\]"),
        (GOOD, r"\[F, H, W, 3\]"),
        (GOOD[0, :, :30], "31x31 pixels, got 30x33"),
        (GOOD[0, :2], "differ in shape"),
    ],
)
def test_invalid_images_are_refused(distance, images, message):
    good = GOOD[0] if "differ" in message else np.zeros_like(images, np.float32)
    for pair in ((images, good), (good, images)):
        with pytest.raises(ValueError, match=message):
            distance.taps(*pair)


def test_the_smallest_frame(distance):
    frames = video(1, 2, lpips.MIN_SIZE, lpips.MIN_SIZE, 1)
    assert (distance(frames, 1 - frames) > 0).all()
