"""Moments, the Frechet distance and its interval, on features of a known distribution."""

import functools

import numpy as np
import pytest

from cwvae.metrics import frechet, tfgan
from cwvae.metrics.frechet import Moments, bootstrap_intervals, frechet_distance, moments


def normal(count, size, seed, shift=0.0, scale=1.0):
    """Returns features with a falling spectrum, like a network's."""
    rng = np.random.default_rng(seed)
    return shift + scale * rng.normal(0, 1, (count, size)) / np.sqrt(1 + np.arange(size))


def in_chunks(features, *sizes):
    return np.split(features, np.cumsum(sizes))


def distance(x, y):
    return frechet_distance(moments([x], x.shape[1]), moments([y], y.shape[1]))


def interval(x, y, seed=0, replicates=60):
    value = distance(x, y)
    chunks = [functools.partial(in_chunks, features, 3, 0, 4) for features in (x, y)]
    found = bootstrap_intervals(
        {"model": value}, chunks[0], {"model": chunks[1]}, *x.shape, seed, replicates
    )
    return value, *found["model"]


def test_moments_of_chunks_equal_moments_of_all():
    # Far from 0, where differences of squares would lose the variance.
    features = normal(101, 7, 0, shift=1e6)
    found = moments(in_chunks(features, 1, 30, 0, 45), 7)
    assert found.count == 101
    np.testing.assert_allclose(found.mean, features.mean(0), rtol=1e-12)
    np.testing.assert_allclose(found.covariance, np.cov(features.T), rtol=1e-6, atol=1e-9)


def test_moments_refuse_invalid_features():
    found = Moments(3)
    with pytest.raises(ValueError, match=r"expected \[N, 3\], got \[5, 4\]"):
        found.add(np.zeros((5, 4)))
    with pytest.raises(ValueError, match="finite"):
        found.add([[1, 2, np.nan]])
    found.add([[1, 2, 3]])
    with pytest.raises(ValueError, match="at least 2 videos, got 1"):
        frechet_distance(found, found)
    with pytest.raises(ValueError, match="cannot compare sets of 3 and 2 features"):
        frechet_distance(found, Moments(2))


@pytest.mark.parametrize("count", [5, 60, 400])  # fewer and more videos than features
def test_the_distance_equals_tensorflow_gans(count):
    x, y = normal(count, 30, 0), normal(count, 30, 1, shift=0.2, scale=1.3)
    want = tfgan.classifier_metrics.frechet_classifier_distance_from_activations(x, y).numpy()
    a, b = (moments(in_chunks(features, 2, 2), 30) for features in (x, y))
    np.testing.assert_allclose(frechet_distance(a, b), want, rtol=1e-6)


@pytest.mark.parametrize("count", [4, 20, 300])  # fewer and more videos than features
def test_the_quick_distance_of_a_resampled_set_equals_the_distance(count):
    x, y = normal(count, 30, 0), normal(count, 30, 1, shift=0.2, scale=1.3)
    times = np.random.default_rng(2).permutation(np.arange(count) % 3)
    drawn = [frechet._drawn(in_chunks(features, 1, 9), times, 30) for features in (x, y)]
    want = distance(np.repeat(x, times, 0), np.repeat(y, times, 0))
    np.testing.assert_allclose(frechet._quick_distance(*drawn), want, rtol=1e-6)


@pytest.mark.parametrize("count", [2, 5, 100])
def test_equal_sets_are_at_distance_0(count):
    x = normal(count, 30, 0, shift=5)
    assert 0 <= distance(x, x) < 1e-6


def test_the_distance_of_known_gaussians():
    # |m1 - m2|^2 + sum (s1 - s2)^2 for diagonal covariances; with many videos the bias is small.
    x, y = normal(200_000, 3, 0), normal(200_000, 3, 1, shift=2, scale=3)
    want = 3 * 2**2 + np.sum((3 - 1) ** 2 / (1 + np.arange(3)))
    np.testing.assert_allclose(distance(x, y), want, rtol=0.01)


def test_an_interval_is_around_its_value_and_narrows_with_more_videos():
    value, low, high = interval(normal(40, 5, 0), normal(40, 5, 1, shift=0.5))
    assert 0 <= low < value < high
    _, low_of_more, high_of_more = interval(normal(1000, 5, 2), normal(1000, 5, 3, shift=0.5))
    assert high_of_more - low_of_more < (high - low) / 2


def test_intervals_hold_the_mean_distance_at_this_number_of_videos():
    def draw(seed):
        return normal(30, 8, seed), normal(30, 8, seed + 1000, shift=0.3, scale=1.2)

    mean = np.mean([distance(*draw(seed)) for seed in range(100)])
    intervals = [interval(*draw(seed)) for seed in range(200, 220)]
    # 19 of 20 are expected. Plain percentiles of the replicates contain it in 13.
    assert sum(low <= mean <= high for _, low, high in intervals) >= 16


def test_a_clip_is_resampled_with_its_prediction():
    x = normal(20, 4, 0)
    _, low, high = interval(x, x)
    assert 0 <= low <= high < 1e-6


def test_intervals_depend_on_the_seed_and_not_on_other_predictors():
    x, y, z = normal(20, 4, 0), normal(20, 4, 1, scale=2), normal(20, 4, 2, scale=3)
    assert interval(x, y) == interval(x, y)
    assert interval(x, y) != interval(x, y, seed=1)
    values = {"y": distance(x, y), "z": distance(x, z)}
    chunks = {"y": lambda: [y], "z": lambda: [z]}
    both = bootstrap_intervals(values, lambda: [x], chunks, 20, 4, seed=0, replicates=60)
    np.testing.assert_allclose(both["y"], interval(x, y)[1:])
    np.testing.assert_allclose(both["z"], interval(x, z)[1:])


def test_two_videos_have_an_interval():
    _, low, high = interval(normal(2, 6, 0), normal(2, 6, 1))
    assert 0 <= low <= high < np.inf


def test_a_distance_that_is_nan_is_an_error(monkeypatch):
    rng = np.random.default_rng(0)
    sets = [frechet.moments([rng.normal(size=(9, 3))], 3) for _ in range(2)]
    root = tfgan.classifier_metrics
    monkeypatch.setattr(root, "trace_sqrt_product", lambda a, b: np.nan)
    with pytest.raises(ValueError, match="is nan"):
        frechet.frechet_distance(*sets)
