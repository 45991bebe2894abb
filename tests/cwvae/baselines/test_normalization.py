"""Batch normalization by the batch's statistics and by the moving ones."""

import numpy as np
import pytest
import tensorflow as tf

from cwvae.baselines.normalization import BatchNorm, targets

RNG = np.random.default_rng(0)


def norm(filters):
    layer = BatchNorm(filters, name="norm")
    for weight, low in zip(layer.weights, (0.5, -1, -1, 0.5), strict=True):
        weight.assign(RNG.uniform(low, low + 1, filters))
    return layer


@pytest.mark.parametrize("shape", [(7, 3), (5, 4, 3), (2, 6, 5, 3), (2, 2, 4, 5, 3)])
@pytest.mark.parametrize("compiled", [False, True])
def test_both_ways_by_hand(shape, compiled):
    x, layer = RNG.normal(2, 3, shape).astype(np.float32), norm(3)
    gamma, beta, mean, variance = (weight.numpy() for weight in layer.weights)
    call = tf.function(layer.normalize) if compiled else layer.normalize
    want = gamma * (x - mean) / np.sqrt(variance + 1e-5) + beta
    np.testing.assert_allclose(call(tf.constant(x)), want, rtol=1e-4, atol=1e-4)

    statistics = {}
    y = layer.normalize(tf.constant(x), statistics)
    rows = x.reshape(-1, 3)
    want = gamma * (x - rows.mean(0)) / np.sqrt(rows.var(0) + 1e-5) + beta
    np.testing.assert_allclose(y, want, rtol=1e-4, atol=1e-4)
    assert set(statistics) == {layer.moving_mean.path, layer.moving_variance.path}
    np.testing.assert_allclose(statistics[layer.moving_mean.path], rows.mean(0), rtol=1e-4)
    unbiased = rows.var(0, ddof=1)
    np.testing.assert_allclose(statistics[layer.moving_variance.path], unbiased, rtol=1e-4)
    assert [*map(tuple, map(np.shape, targets(layer, statistics)))] == [(3,), (3,)]
    np.testing.assert_array_equal(layer.moving_mean.numpy(), mean)  # Not updated.


def test_bfloat16_stays_bfloat16():
    x, layer = tf.constant(RNG.normal(size=(4, 6, 6, 3)), tf.bfloat16), norm(3)
    for statistics in (None, {}):
        exact = layer.normalize(tf.cast(x, tf.float32), statistics)
        rough = layer.normalize(x, statistics)
        assert rough.dtype == tf.bfloat16
        np.testing.assert_allclose(tf.cast(rough, tf.float32), exact, rtol=0.02, atol=0.03)


def test_gradients_flow_through_the_batch_statistics():
    x, layer = tf.constant(RNG.normal(size=(8, 3)), tf.float32), norm(3)
    with tf.GradientTape() as tape:
        tape.watch(x)
        total = tf.reduce_sum(layer.normalize(x, {}))  # 8 beta for any x
    np.testing.assert_allclose(tape.gradient(total, x), np.zeros((8, 3)), atol=1e-5)


def test_initial_scales_have_the_requested_spread():
    drawn = BatchNorm(4000, gamma_stddev=0.02, name="norm").gamma.numpy()
    np.testing.assert_allclose([drawn.mean(), drawn.std()], [1, 0.02], rtol=0.05)
