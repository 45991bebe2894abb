"""PSNR and SSIM against hand-computed values, tf.image and scikit-image.

The protocol is `standard` unless a test names one.
"""

import json

import numpy as np
import pytest
import skimage.data
import skimage.transform
import tensorflow as tf
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from cwvae.metrics import image


def noise(shape, rng):
    return rng.random(shape), rng.random(shape)


def smooth(shape, rng):
    """Returns waves, as in photographs: little variance under one window."""
    _, num_frames, height, width, channels = shape
    t, y, x, c = np.ogrid[:num_frames, :height, :width, :channels]
    truth = 0.6 + 0.2 * np.sin(x / 17 + y / 23 + t + c) * np.ones(shape)
    return truth, truth + 0.02 * np.sin(x / 3 + t) + rng.normal(0, 0.002, shape)


def constant(shape, rng):
    return np.full(shape, 0.9), rng.random((*shape[:2], 1, 1, 1)) * np.ones(shape)


def sparse(shape, rng):
    """Returns a few white strokes on black, like digits."""
    truth, prediction = np.zeros(shape), np.zeros(shape)
    for n, t in np.ndindex(*shape[:2]):
        for frame, strokes in ((truth[n, t], 4), (prediction[n, t], 5)):
            for row, column in rng.integers(0, 20, (strokes, 2)):
                frame[row : row + 3, column : column + 9] = 1
    return truth, prediction


def scikit_ssim(truth, prediction):
    values = [
        structural_similarity(
            x.astype(np.float64),
            y.astype(np.float64),
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            data_range=1,
            channel_axis=-1,
        )
        for x, y in zip(np.concatenate(truth), np.concatenate(prediction), strict=True)
    ]
    return np.reshape(values, truth.shape[:2])


@pytest.mark.parametrize("frame", [(32, 32), (64, 64), (128, 128), (29, 47)])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("make", [noise, smooth, constant, sparse])
def test_ssim_equals_scikit_image_and_tensorflow(make, channels, frame):
    rng = np.random.default_rng(0)
    truth, prediction = make((2, 3, *frame, channels), rng)
    truth = truth.astype(np.float32)
    prediction = np.clip(prediction, 0, 1).astype(np.float32)
    values = image.ssim(truth, prediction)
    assert values.dtype == np.float32
    np.testing.assert_allclose(values, scikit_ssim(truth, prediction), atol=1e-6)
    # On flat frames TensorFlow is inexact: it subtracts squares in float32.
    atol = 3e-3 if make is constant else 1e-4
    np.testing.assert_allclose(values, tf.image.ssim(truth, prediction, 1.0), atol=atol)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("make", [noise, smooth, constant, sparse])
def test_cwvae2021_equals_scikit_image_on_unclipped_predictions(make, channels):
    rng = np.random.default_rng(0)
    truth, prediction = (x.astype(np.float32) for x in make((2, 3, 29, 47, channels), rng))
    prediction = 1.4 * prediction - 0.2  # leaves [0, 1]
    ssim, psnr = [], []
    for x, y in zip(np.concatenate(truth), np.concatenate(prediction), strict=True):
        # Scikit-image 0.18 assumed range 2 for floats; later versions require the argument.
        by_channel = [
            (
                structural_similarity(x[..., c], y[..., c], data_range=2),
                peak_signal_noise_ratio(x[..., c], y[..., c], data_range=1),
            )
            for c in range(channels)
        ]
        ssim.append(np.mean([pair[0] for pair in by_channel]))
        psnr.append(np.mean([pair[1] for pair in by_channel]))
    got = image.ssim(truth, prediction, "cwvae2021")
    np.testing.assert_allclose(got.reshape(-1), ssim, atol=1e-5)
    got = image.psnr(truth, prediction, "cwvae2021")
    np.testing.assert_allclose(got.reshape(-1), psnr, atol=1e-4)


@pytest.mark.parametrize("protocol", ["standard", "cwvae2021"])
@pytest.mark.parametrize("picture", ["astronaut", "camera"])
def test_natural_frames_equal_scikit_image(protocol, picture):
    frame = getattr(skimage.data, picture)() / 255
    frame = skimage.transform.resize(frame, (64, 64), anti_aliasing=True)
    truth = frame.reshape(1, 1, 64, 64, -1).astype(np.float32)
    truth = np.concatenate([truth, truth[:, :, ::-1], np.roll(truth, 3, 2)], 1)
    prediction = truth + np.random.default_rng(0).normal(0, 0.1, truth.shape).astype(np.float32)
    shown = np.clip(prediction, 0, 1) if protocol == "standard" else prediction
    options = {
        "standard": {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
        | {"data_range": 1},
        "cwvae2021": {"data_range": 2},
    }[protocol]
    want = [
        structural_similarity(x, y, channel_axis=-1, **options)
        for x, y in zip(truth[0], shown[0], strict=True)
    ]
    np.testing.assert_allclose(image.ssim(truth, prediction, protocol)[0], want, atol=1e-4)
    # Errors differ between channels, so the mean of PSNRs differs from the pooled PSNR.
    parts = 1 if protocol == "standard" else truth.shape[-1]
    want = [
        np.mean(
            [
                peak_signal_noise_ratio(a, b, data_range=1)
                for a, b in zip(np.split(x, parts, -1), np.split(y, parts, -1), strict=True)
            ]
        )
        for x, y in zip(truth[0], shown[0], strict=True)
    ]
    np.testing.assert_allclose(image.psnr(truth, prediction, protocol)[0], want, atol=1e-4)


def test_the_two_protocols_differ_where_predictions_leave_the_range():
    truth = np.random.default_rng(7).integers(0, 2, (1, 2, 16, 16, 1)).astype(np.float32)
    prediction = 3 * truth - 1  # an error of 1 everywhere, which clipping removes
    np.testing.assert_allclose(image.psnr(truth, prediction, "cwvae2021"), 0, atol=1e-5)
    assert (image.psnr(truth, prediction) == 100).all()
    assert (image.ssim(truth, prediction, "cwvae2021") < 0.8).all()


def test_predictions_too_large_to_measure_are_an_error():
    truth = np.random.default_rng(0).random((1, 2, 16, 16, 1))
    with pytest.raises(ValueError, match=r"too large to measure: up to 1e\+20"):
        image.psnr(truth, truth + 1e20, "cwvae2021")


def test_an_unknown_protocol_is_an_error():
    video = np.zeros((1, 1, 16, 16, 1))
    for metric in (image.psnr, image.ssim):
        with pytest.raises(KeyError, match="cwvae2022"):
            metric(video, video, "cwvae2022")


@pytest.mark.parametrize("make", [noise, smooth, constant, sparse])
def test_ssim_of_a_single_window_equals_scikit_image(make):
    truth, prediction = make((2, 3, 11, 11, 3), np.random.default_rng(0))
    prediction = np.clip(prediction, 0, 1)
    np.testing.assert_allclose(
        image.ssim(truth, prediction), scikit_ssim(truth, prediction), atol=1e-5
    )


def test_ssim_keeps_the_order_of_frames_across_chunks():
    rng = np.random.default_rng(1)
    truth, prediction = (x.astype(np.float32) for x in noise((3, 193, 12, 15, 1), rng))
    assert truth[..., 0, 0, 0].size > 2 * image._CHUNK
    np.testing.assert_allclose(
        image.ssim(truth, prediction), scikit_ssim(truth, prediction), atol=1e-6
    )


@pytest.mark.parametrize(("a", "b"), [(0.0, 1.0), (1.0, 0.95), (0.2, 0.3)])
def test_ssim_of_flat_frames_is_the_luminance_term(a, b):
    # Without variance the structure term is 1; equation 13 becomes (2ab + C1) / (a^2 + b^2 + C1).
    shape = (1, 2, 17, 19, 3)
    values = image.ssim(np.full(shape, a), np.full(shape, b))
    np.testing.assert_allclose(values, (2 * a * b + 1e-4) / (a * a + b * b + 1e-4), atol=1e-6)


def test_ssim_of_the_negative_is_negative():
    truth = np.random.default_rng(2).random((1, 1, 32, 32, 1))
    assert image.ssim(truth, 1 - truth) < -0.8


def test_psnr_known_answers():
    truth = np.zeros((2, 3, 4, 5, 1))
    prediction = np.full_like(truth, 0.1)  # MSE .01
    prediction[1, 2] = 0.5  # MSE .25
    prediction[0, 1, :2] = 0  # half of the pixels: MSE .005
    expected = [[20, 23.0103, 20], [20, 20, 6.0206]]
    values = image.psnr(truth, prediction)
    assert values.dtype == np.float32
    np.testing.assert_allclose(values, expected, atol=1e-4)


def test_psnr_pools_channels_before_the_logarithm():
    truth, prediction = np.zeros((2, 1, 1, 7, 5, 3))
    prediction[..., 2] = 0.3  # MSE .09 / 3; the mean over channels would be (100 + 100 + 10.5) / 3
    np.testing.assert_allclose(image.psnr(truth, prediction), 15.2288, atol=1e-4)


def test_psnr_equals_tensorflow():
    rng = np.random.default_rng(3)
    truth, prediction = (x.astype(np.float32) for x in noise((2, 3, 7, 5, 3), rng))
    np.testing.assert_allclose(
        image.psnr(truth, prediction), tf.image.psnr(truth, prediction, 1.0), rtol=1e-5
    )


def test_identical_frames_are_perfect_and_finite():
    truth = np.random.default_rng(4).random((2, 3, 16, 12, 3))
    assert (image.psnr(truth, truth) == 100).all()
    np.testing.assert_allclose(image.ssim(truth, truth), 1, atol=1e-6)
    json.dumps(image.psnr(truth, truth).tolist(), allow_nan=False)


@pytest.mark.parametrize("metric", [image.psnr, image.ssim])
class TestBothMetrics:
    def test_symmetric(self, metric):
        truth, prediction = noise((2, 3, 13, 17, 3), np.random.default_rng(5))
        np.testing.assert_allclose(
            metric(truth, prediction), metric(prediction, truth), rtol=1e-5, atol=1e-6
        )

    def test_falls_as_noise_grows(self, metric):
        rng = np.random.default_rng(6)
        truth, error = rng.random((2, 3, 16, 16, 1)), rng.normal(0, 1, (2, 3, 16, 16, 1))
        values = [metric(truth, truth + level * error) for level in (0, 0.01, 0.03, 0.1, 0.3)]
        assert (np.diff(values, axis=0) < 0).all()

    def test_the_prediction_is_clipped_in_a_copy(self, metric):
        truth = np.random.default_rng(7).integers(0, 2, (1, 2, 16, 16, 1)).astype(np.float32)
        prediction = 3 * truth - 1  # -1 and 2 where truth is 0 and 1
        before = prediction.copy()
        assert np.array_equal(metric(truth, prediction), metric(truth, truth))
        assert np.array_equal(prediction, before)

    @pytest.mark.parametrize("dtype", [tf.float32, tf.float64, tf.bfloat16])
    def test_tensors_are_accepted(self, metric, dtype):
        truth, prediction = noise((2, 3, 16, 16, 1), np.random.default_rng(8))
        truth, prediction = tf.cast(truth, dtype), tf.cast(prediction, dtype)
        expected = metric(truth.numpy().astype(np.float32), prediction.numpy().astype(np.float32))
        np.testing.assert_allclose(metric(truth, prediction), expected, atol=1e-6)

    def test_different_shapes_are_an_error(self, metric):
        # These would broadcast.
        with pytest.raises(ValueError, match=r"\(2, 3, 16, 16, 1\) and \(2, 3, 16, 16, 3\)"):
            metric(np.zeros((2, 3, 16, 16, 1)), np.zeros((2, 3, 16, 16, 3)))

    def test_a_missing_axis_is_an_error(self, metric):
        with pytest.raises(ValueError, match=r"N, T, H, W, C.*\(3, 16, 16, 1\)"):
            metric(np.zeros((3, 16, 16, 1)), np.zeros((3, 16, 16, 1)))

    @pytest.mark.parametrize("value", [np.nan, np.inf])
    @pytest.mark.parametrize("name", ["truth", "prediction"])
    def test_nan_is_reported_with_its_position(self, metric, name, value):
        videos = {"truth": np.zeros((2, 5, 16, 16, 1)), "prediction": np.zeros((2, 5, 16, 16, 1))}
        videos[name][1, 3, 2, 4, 0] = value
        videos[name][1, 4] = value
        with pytest.raises(ValueError, match=rf"^{name} holds a NaN.*\[1, 3\]"):
            metric(**videos)

    @pytest.mark.parametrize("value", [-0.5, -1e-7, 1.000001, 255.0])
    def test_truth_outside_the_range_is_an_error_that_states_it(self, metric, value):
        with pytest.raises(ValueError, match=rf"lie in \[0, 1\], got \[{value}, {value}\]\. Clip"):
            metric(np.full((1, 1, 16, 16, 1), value), np.zeros((1, 1, 16, 16, 1)))

    def test_bytes_are_an_error(self, metric):
        with pytest.raises(ValueError, match=r"prediction must be floats.*uint8"):
            metric(np.zeros((1, 1, 16, 16, 1)), np.zeros((1, 1, 16, 16, 1), np.uint8))


@pytest.mark.parametrize("frame", [(10, 32), (32, 10)])
def test_frames_smaller_than_the_window_are_an_error(frame):
    video = np.zeros((1, 1, *frame, 1))
    with pytest.raises(ValueError, match=f"11x11 pixels, got {frame[0]}x{frame[1]}"):
        image.ssim(video, video)
