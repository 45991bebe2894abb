"""The recurrence's own gradient against that of a plain loop."""

import numpy as np
import pytest
import tensorflow as tf

from cwvae.cell import State
from cwvae.fast import recurrence

B, S, D, E = 2, 3, 4, 5
MINIMUM = 0.1


def array(rng, *shape):
    return tf.constant(rng.normal(size=shape), tf.float32)


def arguments(ticks, two_layers, seed=0):
    rng = np.random.default_rng(seed)
    shapes = [(S, E), (E, 3 * D), (D, 3 * D), (2, 3 * D), (D, E)]
    second = (array(rng, E, E), array(rng, E)) if two_layers else ()
    heads = array(rng, E, 2 * S), array(rng, 2 * S)
    weights = recurrence.Weights(*(array(rng, *shape) for shape in shapes), second, heads)
    state = State(array(rng, B, S), array(rng, B, D))
    inputs = recurrence.Inputs(*(array(rng, ticks, B, size) for size in (E, E, S)))
    return weights, state, inputs


def plain(weights, state, inputs):
    """The equations at the top of the module, one tick after the other."""
    z, h = state
    outputs = []
    for c, e, noise in zip(*map(tf.unstack, inputs), strict=True):
        u = tf.nn.relu(z @ weights.transition + c)
        x = tf.split(u @ weights.kernel + weights.bias[0], 3, -1)
        r = tf.split(h @ weights.recurrent_kernel + weights.bias[1], 3, -1)
        update, reset = tf.sigmoid(x[0] + r[0]), tf.sigmoid(x[1] + r[1])
        candidate = tf.tanh(x[2] + reset * r[2])
        h = candidate + update * (h - candidate)
        q = tf.nn.relu(h @ weights.first + e)
        if weights.second:
            q = tf.nn.relu(q @ weights.second[0] + weights.second[1])
        mean, s = tf.split(q @ weights.heads[0] + weights.heads[1], 2, -1)
        stddev = tf.nn.softplus(s) + MINIMUM
        z = mean + stddev * noise
        outputs.append((z, h, mean, stddev))
    return tuple(tf.stack(part) for part in zip(*outputs, strict=True))


def fast(weights, state, inputs):
    states, belief = recurrence.run(weights, state, inputs, MINIMUM)
    return *states, *belief


@pytest.mark.parametrize("jit", [None, False, True])
@pytest.mark.parametrize("two_layers", [True, False])
@pytest.mark.parametrize("ticks", [6, 1])
def test_outputs_and_all_gradients_equal_a_plain_loops(ticks, two_layers, jit):
    rng = np.random.default_rng(1)
    upstream = [array(rng, ticks, B, size) for size in (S, D, S, S)]
    results = []
    for function in (plain, fast):

        def run(given, function=function):
            with tf.GradientTape() as tape:
                tape.watch(given)
                outputs = function(*given)
            return outputs, tape.gradient(outputs, tf.nest.flatten(given), upstream)

        run = run if jit is None else tf.function(run, jit_compile=jit)
        results.append(tf.nest.flatten(run(arguments(ticks, two_layers))))
    assert len(results[0]) == 4 + (9 if two_layers else 7) + 2 + 3
    for want, got in zip(*results, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
        assert np.abs(want).max() > 1e-3
