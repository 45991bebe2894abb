"""The cell against a rewriting in NumPy."""

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


def numpy_transition(w, z, h, context):
    inputs = relu(
        np.concatenate([z, context], -1) @ w["prior_input_kernel"] + w["prior_input_bias"]
    )
    x = inputs @ w["gru_kernel"] + w["gru_bias"][0]
    r = h @ w["gru_recurrent_kernel"] + w["gru_bias"][1]
    update = sigmoid(x[:, :D] + r[:, :D])
    reset = sigmoid(x[:, D : 2 * D] + r[:, D : 2 * D])
    candidate = np.tanh(x[:, 2 * D :] + reset * r[:, 2 * D :])
    return update * h + (1 - update) * candidate


def numpy_belief(w, name, hidden):
    mean = hidden @ w[f"{name}_mean_kernel"] + w[f"{name}_mean_bias"]
    raw = (hidden + 0.54) @ w[f"{name}_stddev_kernel"] + w[f"{name}_stddev_bias"]
    return mean, np.log1p(np.exp(raw)) + 0.01


@pytest.mark.parametrize("compiled", [False, True])
def test_one_tick_equals_numpy(cell, compiled):
    z, h, context, embedding = array(B, S), array(B, D), array(B, C), array(B, F)

    def tick(z, h, context, embedding):
        weights = cell.tick_weights()
        deter = cell.transition(State(z, h), cell.context_input(context), weights)
        posterior = cell.posterior(deter, cell.embedding_input(embedding), weights)
        return deter, cell.prior(deter, weights)[:2], posterior[:2]

    run = tf.function(tick) if compiled else tick
    deter, prior, posterior = run(*map(tf.constant, (z, h, context, embedding)))

    w = {weight.name: weight.numpy() for weight in cell.weights}
    want = numpy_transition(w, z, h, context)
    np.testing.assert_allclose(deter, want, rtol=1e-4, atol=1e-6)
    hidden = relu(want @ w["prior_hidden_kernel"] + w["prior_hidden_bias"])
    for got, expected in zip(prior, numpy_belief(w, "prior", hidden), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)
    both = np.concatenate([want, embedding], -1)
    hidden = relu(both @ w["posterior_hidden1_kernel"] + w["posterior_hidden1_bias"])
    hidden = relu(hidden @ w["posterior_hidden2_kernel"] + w["posterior_hidden2_bias"])
    for got, expected in zip(posterior, numpy_belief(w, "posterior", hidden), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


def test_the_context_enters_through_the_transition_alone(cell):
    deter = array(B, D)
    weights = cell.tick_weights()
    assert cell.prior(deter, weights).mean.shape == (B, S)
    state = State(array(B, S), deter)
    one = cell.transition(state, cell.context_input(array(B, C, seed=2)), weights)
    other = cell.transition(state, cell.context_input(array(B, C, seed=3)), weights)
    assert np.abs(one - other).max() > 1e-3


def test_standard_deviations_stay_above_the_minimum(cell):
    for head in (cell.prior_heads, cell.posterior_heads):
        head[1][1].assign(np.full(S, -1e3))
    assert np.all(cell.prior(array(B, D), cell.tick_weights()).stddev.numpy() >= 0.01)


def test_the_initial_state_is_zero(cell):
    state = cell.initial_state(4)
    np.testing.assert_array_equal(state.features(), np.zeros((4, S + D)))
