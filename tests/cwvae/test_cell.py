"""The cell against NumPy."""

import numpy as np
import pytest
import tensorflow as tf

from cwvae.cell import RSSMCell, State

B, S, D, E, F, C = 2, 3, 7, 5, 11, 10


@pytest.fixture
def cell():
    cell = RSSMCell(
        stochastic_size=S,
        deterministic_size=D,
        hidden_size=E,
        embedding_size=F,
        context_size=C,
        min_stddev=0.01,
        name="cell",
    )
    rng = np.random.default_rng(0)
    for weight in cell.trainable_weights:
        weight.assign(rng.normal(scale=0.5, size=weight.shape))
    return cell


def array(*shape, seed=1):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def relu(x):
    return np.maximum(x, 0)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def weights_of(layer):
    return [weight.numpy() for weight in layer.weights]


def affine(layer, x):
    kernel, bias = weights_of(layer)
    return x @ kernel + bias


def numpy_transition(cell, z, h, context):
    inputs = relu(affine(cell.prior_input, np.concatenate([z, context], -1)))
    kernel, recurrent_kernel, bias = weights_of(cell.gru)
    x = inputs @ kernel + bias[0]
    r = h @ recurrent_kernel + bias[1]
    update = sigmoid(x[:, :D] + r[:, :D])
    reset = sigmoid(x[:, D : 2 * D] + r[:, D : 2 * D])
    candidate = np.tanh(x[:, 2 * D :] + reset * r[:, 2 * D :])
    return update * h + (1 - update) * candidate


def numpy_belief(mean, stddev, hidden):
    return affine(mean, hidden), np.log1p(np.exp(affine(stddev, hidden + 0.54))) + 0.01


@pytest.mark.parametrize("compiled", [False, True])
def test_one_tick_equals_numpy(cell, compiled):
    arrays = z, h, context, embedding, noise = [array(B, n) for n in (S, D, C, F, S)]

    def tick(z, h, context, embedding, noise):
        return cell(State(z, h), context, embedding, noise)

    state, prior, posterior = (tf.function(tick) if compiled else tick)(*map(tf.constant, arrays))

    want = numpy_transition(cell, z, h, context)
    np.testing.assert_allclose(state.deterministic, want, rtol=1e-4, atol=1e-6)
    hidden = relu(affine(cell.prior_hidden, want))
    for got, expected in zip(
        prior, numpy_belief(cell.prior_mean, cell.prior_stddev, hidden), strict=True
    ):
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)
    hidden = relu(affine(cell.posterior_hidden1, np.concatenate([want, embedding], -1)))
    hidden = relu(affine(cell.posterior_hidden2, hidden))
    mean, stddev = numpy_belief(cell.posterior_mean, cell.posterior_stddev, hidden)
    np.testing.assert_allclose(posterior.mean, mean, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(posterior.stddev, stddev, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(state.stochastic, mean + stddev * noise, rtol=1e-4, atol=1e-5)


def test_without_an_embedding_z_follows_the_prior_and_without_noise_it_is_the_mean(cell):
    state, context = State(array(B, S), array(B, D)), array(B, C)
    blind = cell(state, context)
    np.testing.assert_array_equal(blind.posterior.mean, blind.prior.mean)
    np.testing.assert_array_equal(blind.state.stochastic, blind.prior.mean)
    noise = array(B, S, seed=2)
    sampled = cell(state, context, noise=noise)
    want = blind.prior.mean + blind.prior.stddev * noise
    np.testing.assert_allclose(sampled.state.stochastic, want, rtol=1e-6)
    seen = cell(state, context, embedding=array(B, F))
    np.testing.assert_array_equal(seen.prior.mean, blind.prior.mean)
    np.testing.assert_array_equal(seen.state.stochastic, seen.posterior.mean)
    assert np.abs(seen.posterior.mean - seen.prior.mean).max() > 1e-3


def test_the_context_enters_only_through_the_transition(cell):
    state = State(array(B, S), array(B, D))
    one, other = (cell(state, array(B, C, seed=seed)) for seed in (2, 3))
    assert np.abs(one.state.deterministic - other.state.deterministic).max() > 1e-3
    np.testing.assert_array_equal(cell.prior(one.state.deterministic).mean, one.prior.mean)


def test_standard_deviations_stay_above_the_minimum(cell):
    for head in (cell.prior_stddev, cell.posterior_stddev):
        head.bias.assign(np.full(S, -1e3))
    tick = cell(State(array(B, S), array(B, D)), array(B, C), array(B, F))
    assert np.all(tick.prior.stddev >= 0.01)
    assert np.all(tick.posterior.stddev >= 0.01)


def test_the_initial_state_is_zero(cell):
    np.testing.assert_array_equal(cell.initial_state(4).features(), np.zeros((4, S + D)))
