"""I3D: its input, and its features for random weights against the plain definition."""

import numpy as np
import pytest
import tensorflow as tf
from helpers import random_weights

from cwvae.errors import MissingWeights
from cwvae.metrics import fvd, i3d, weights

ARRAYS = random_weights.i3d_arrays()


@pytest.fixture(scope="module")
def network():
    return fvd.I3D(weights.Weights(ARRAYS, weights.digest(ARRAYS)))


def videos(count, length, channels=3, size=(13, 9), seed=0):
    shape = (count, length, *size, channels)
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def tf1_bilinear(frame, size):
    """Resizes as TensorFlow 1: source = target * scale, between the two nearest pixels."""
    for axis in (0, 1):
        length = frame.shape[axis]
        source = np.arange(size) * (length / size)
        before = source.astype(int)
        after = np.minimum(before + 1, length - 1)
        weight = (source - before).reshape([-1 if i == axis else 1 for i in range(3)])
        frame = frame.take(before, axis) * (1 - weight) + frame.take(after, axis) * weight
    return frame


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(64, 64), (13, 29), (300, 224)])
def test_frames_are_resized_as_tensorflow_1_did(size, channels):
    video = videos(2, 3, channels, size)
    got = fvd.preprocess(video).numpy()
    assert got.shape == (2, 3, 224, 224, channels)
    for n, t in np.ndindex(2, 3):
        want = tf1_bilinear(video[n, t].astype(float), 224)
        np.testing.assert_allclose(got[n, t], 2 * want / 255 - 1, atol=1e-4)
        want = tf.compat.v1.image.resize_bilinear(video[n, t : t + 1], (224, 224))[0]
        np.testing.assert_array_equal(got[n, t], 2 * want / 255 - 1)


def test_the_resize_differs_from_half_pixel_centres():
    video = videos(1, 1, size=(64, 64))
    other = 2 * tf.image.resize(video[0], (224, 224)).numpy() / 255 - 1
    assert np.abs(fvd.preprocess(video).numpy()[0] - other).max() > 0.1


# The network.


def plain(frames):
    """I3D in TensorFlow's own three-dimensional operations, with batch normalization."""

    def unit(x, name, kernel, stride=1):
        x = tf.nn.conv3d(x, ARRAYS[f"{name}/kernel"], (1, *[stride] * 3, 1), "SAME")
        assert ARRAYS[f"{name}/kernel"].shape[0] == kernel
        mean, variance, beta = (ARRAYS[f"{name}/{part}"] for part in ("mean", "variance", "beta"))
        return tf.nn.relu(tf.nn.batch_normalization(x, mean, variance, beta, None, 1e-3))

    def pool(x, window, stride):
        return tf.nn.max_pool3d(x, window, stride, "SAME")

    def mixed(x, name):
        return tf.concat(
            [
                unit(x, f"{name}/Branch_0/Conv3d_0a_1x1", 1),
                unit(
                    unit(x, f"{name}/Branch_1/Conv3d_0a_1x1", 1),
                    f"{name}/Branch_1/Conv3d_0b_3x3",
                    3,
                ),
                unit(
                    unit(x, f"{name}/Branch_2/Conv3d_0a_1x1", 1),
                    f"{name}/Branch_2/Conv3d_0b_3x3",
                    3,
                ),
                unit(pool(x, 3, 1), f"{name}/Branch_3/Conv3d_0b_1x1", 1),
            ],
            -1,
        )

    x = unit(frames, "Conv3d_1a_7x7", 7, 2)
    x = pool(x, (1, 3, 3), (1, 2, 2))
    x = unit(unit(x, "Conv3d_2b_1x1", 1), "Conv3d_2c_3x3", 3)
    x = pool(x, (1, 3, 3), (1, 2, 2))
    x = mixed(mixed(x, "Mixed_3b"), "Mixed_3c")
    x = pool(x, 3, 2)
    for letter in "bcdef":
        x = mixed(x, f"Mixed_4{letter}")
    x = pool(x, 2, 2)
    x = mixed(mixed(x, "Mixed_5b"), "Mixed_5c")
    x = tf.nn.avg_pool3d(x, (2, 7, 7), 1, "VALID")
    x = tf.nn.conv3d(x, ARRAYS[f"{i3d.LOGITS}/kernel"], [1] * 5, "SAME")
    x = tf.squeeze(x + ARRAYS[f"{i3d.LOGITS}/bias"], [2, 3])
    return tf.reduce_mean(x, 1)


@pytest.mark.parametrize(
    "length", [9, *(pytest.param(length, marks=pytest.mark.slow) for length in (16, 21))]
)
def test_features_equal_the_plain_definition(network, length):
    video = videos(2, length)
    want = plain(fvd.preprocess(video)).numpy()
    got = network.features(video)
    assert got.dtype == np.float32
    assert got.shape == (2, network.size) == (2, 400)
    np.testing.assert_allclose(got, want, atol=1e-4 * np.abs(want).max())


@pytest.mark.slow
def test_it_compiles_under_xla(network):
    weights_ = {name: tf.constant(part) for name, part in i3d.fold(ARRAYS).items()}
    frames = fvd.preprocess(videos(1, 9))
    run = tf.function(lambda x: i3d.logits(weights_, x), jit_compile=True, autograph=False)
    want = network.features(videos(1, 9))
    np.testing.assert_allclose(run(frames)[:, 0], want, atol=1e-4 * np.abs(want).max())


def test_the_number_of_weights_equals_the_published_one():
    assert sum(array.size for array in ARRAYS.values()) == 12_704_544


def test_gray_is_repeated_to_rgb(network):
    gray = videos(2, 9, channels=1)
    want = network.features(np.repeat(gray, 3, -1))
    np.testing.assert_allclose(network.features(gray), want, atol=1e-4 * np.abs(want).max())
    assert np.abs(want - network.features(videos(2, 9))).max() > 0.01


def test_floats_are_rounded_to_bytes(network):
    video = videos(1, 9)
    floats = (video / 255).astype(np.float32)
    np.testing.assert_array_equal(network.features(floats), network.features(video))
    np.testing.assert_array_equal(
        network.features(np.clip(floats + 0.001, 0, 1)), network.features(video)
    )


@pytest.mark.parametrize(("count", "length"), [(18, 9), (3, 120), (2, 300), (0, 9)])
def test_features_do_not_depend_on_the_other_videos(network, monkeypatch, count, length):
    def means(video):
        calls.append(video.shape[:2])
        return tf.tile(tf.reduce_mean(tf.cast(video, tf.float32), (1, 2, 3)), (1, 134))[:, :400]

    video, calls = videos(count, length, size=(5, 4)), []
    monkeypatch.setattr(network, "_features", means)
    got = network.features(video)
    assert got.shape == (count, 400)
    assert sum(call[0] for call in calls) == count
    assert all(n <= 16 and (n == 1 or n * t <= 256) for n, t in calls)
    for n in range(count)[::5]:
        np.testing.assert_allclose(got[n], means(video[n : n + 1])[0], rtol=1e-4)


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        (np.zeros((2, 8, 5, 5, 3), np.uint8), "at least 9 frames, got 8"),
        (np.zeros((2, 9, 5, 5, 3), np.int32), "floats in .* or uint8, got int32"),
        (np.full((2, 9, 5, 5, 3), 1.5), r"must lie in \[0, 1\], got \[1.5, 1.5\]"),
        (np.full((2, 9, 5, 5, 3), -0.1), "must lie in"),
        (np.full((2, 9, 5, 5, 3), np.nan), "must lie in"),
        (np.zeros((9, 5, 5, 3), np.uint8), r"must be \[N, T, H, W, 1 or 3\]"),
        (np.zeros((2, 9, 5, 5, 2), np.uint8), r"must be \[N, T, H, W, 1 or 3\]"),
        (np.zeros((2, 9, 0, 5, 3), np.uint8), r"must be \[N, T, H, W, 1 or 3\]"),
    ],
)
def test_invalid_videos_are_refused(network, wrong, match):
    with pytest.raises(ValueError, match=match):
        network.features(wrong)


def test_half_precision_is_rounded_to_the_nearest_byte():
    video = (np.arange(256, dtype=np.uint8) / 255).astype(np.float16).reshape(1, 1, 16, 16, 1)
    np.testing.assert_array_equal(fvd._as_bytes(video).ravel(), np.arange(256))


@pytest.mark.parametrize("given", ["weights.npz", {}, weights.Weights({}, "")])
def test_other_things_than_weights_are_refused(given):
    with pytest.raises(TypeError, match=r"cwvae\.metrics\.weights\.load\('fvd'\)"):
        fvd.I3D(given)


def test_the_digest_is_that_of_the_weights(network):
    assert network.digest == weights.digest(ARRAYS)


def test_without_weights_the_command_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("CWVAE_CACHE", str(tmp_path))
    for call in (fvd.I3D, fvd.find):
        with pytest.raises(MissingWeights, match=r"python -m cwvae\.metrics\.weights fetch"):
            call()
