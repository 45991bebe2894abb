"""The linear readout: planted maps, noise, and scores by hand."""

import numpy as np
import pytest

from cwvae.evaluation.linear_readout import (
    STRENGTHS,
    fit,
    percent_right,
    r_squared,
)


def drawn(rows, features, outputs, noise, seed=0):
    """Returns features with different means and scales, and a linear function of them."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, features)) * np.exp(rng.normal(size=features)) + 5
    y = x @ np.linspace(-1, 1, features * outputs).reshape(features, outputs) + 3
    return x.astype(np.float32), y + noise * rng.normal(size=y.shape)


def every_fifth(rows):
    return np.arange(rows) % 5 == 0


def test_it_recovers_a_planted_linear_map():
    x, y = drawn(2000, 7, 2, 0)
    readout = fit(x[:1000], y[:1000], every_fifth(1000), r_squared)
    assert readout.strength == min(STRENGTHS)
    assert r_squared(y[1000:], readout.predict(x[1000:])) > 0.9999
    slope = readout.predict(x[0] + np.eye(7)) - readout.predict(x[0])
    np.testing.assert_allclose(slope, np.linspace(-1, 1, 14).reshape(7, 2), atol=0.01)


def test_it_equals_ridge_regression_written_as_least_squares():
    # Ridge is least squares with one more row per feature.
    x, y = drawn(40, 3, 1, 1.0)
    readout = fit(x, y, every_fifth(40), r_squared)
    z = (x - x.mean(0)) / x.std(0)
    more = np.sqrt(40 * readout.strength) * np.eye(3)
    targets = np.concatenate([y - y.mean(0), np.zeros((3, 1))])
    weights = np.linalg.lstsq(np.concatenate([z, more]), targets, rcond=None)[0]
    np.testing.assert_allclose(readout.predict(x), z @ weights + y.mean(0), rtol=1e-4, atol=1e-4)


def test_validation_rows_choose_a_strong_ridge_for_many_features_of_noise():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 3000, 60))
    y = y[:, :1]
    readout = fit(x[:100], y[:100], every_fifth(100), r_squared)
    assert readout.strength == max(STRENGTHS)
    assert r_squared(y[100:], readout.predict(x[100:])) < 0


def test_classes_are_read_where_they_are_linear_and_at_chance_in_noise():
    rng = np.random.default_rng(1)
    labels = rng.integers(4, size=4000)
    counts = np.eye(4, dtype=np.float32)[labels]
    noise = rng.normal(size=(4000, 10))
    held = every_fifth(2000)
    for features, low, high in (
        (noise, 22, 28),
        (noise + 6 * rng.normal(size=(4, 10))[labels], 98, 100),
    ):
        readout = fit(features[:2000], counts[:2000], held, percent_right)
        assert low <= percent_right(counts[2000:], readout.predict(features[2000:])) <= high


def test_a_constant_feature_and_equal_features_do_no_harm():
    x, y = drawn(500, 2, 1, 0)
    x = np.concatenate([x, x, np.full((500, 1), 7, np.float32)], 1)
    readout = fit(x, y, every_fifth(500), r_squared)
    assert r_squared(y, readout.predict(x)) > 0.999
    x[:, -1] = 1e6  # Its weight is 0.
    assert r_squared(y, readout.predict(x)) > 0.999


def test_r_squared_by_hand():
    truth = np.array([[0.0, 1], [2, 1], [4, 1]])
    assert r_squared(truth, truth) == 1
    assert r_squared(truth, np.full((3, 2), 2.0)) == 0  # The second output is constant: skipped.
    assert r_squared(truth, truth + np.eye(3, 2)[[0, 2, 2]]) == pytest.approx(1 - 1 / 8)
    assert np.isnan(r_squared(truth[:0], truth[:0]))
    assert np.isnan(r_squared(truth[:, 1:], truth[:, 1:]))


def test_labels_right_by_hand():
    counts = np.array([[1.0, 1, 0], [2, 0, 0]])
    answers = [
        ([[0.9, 0.8, 0.1], [1.8, 0.3, 0]], 100),  # 1.8 - 1 is still the highest.
        ([[0.9, 0.1, 0.8], [1.2, 0.3, 0]], 50),
        ([[0, 0, 9.0], [0, 0, 9]], 0),
    ]
    for values, percent in answers:
        assert percent_right(counts, np.array(values)) == percent
    one = np.eye(3)[[0, 1, 2, 0]]
    assert percent_right(one, np.eye(3)[[0, 1, 2, 2]]) == 75
    assert np.isnan(percent_right(one[:0], one[:0]))
