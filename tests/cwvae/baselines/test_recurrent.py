"""LSTM and GRU against plain NumPy, step by step and over time."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from cwvae.baselines.recurrent import GRU, LSTM

N, B, IN, H = 5, 3, 4, 6
RNG = np.random.default_rng(0)
X = RNG.normal(size=(N, B, IN)).astype(np.float32)
STATE = RNG.normal(size=(2, B, H)).astype(np.float32)
KEEP = np.array([1, 0, 1, 0.5, 0], np.float32)[:, None, None] * np.ones((N, B, 1), np.float32)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def lstm(layer, x, output, cell):
    w, u, b = (weight.numpy() for weight in layer.weights)
    enter, forget, candidate, leave = np.split(x @ w + output @ u + b, 4, -1)
    cell = sigmoid(forget) * cell + sigmoid(enter) * np.tanh(candidate)
    return sigmoid(leave) * np.tanh(cell), cell


def gru(layer, x, state):
    w, u, b = (weight.numpy() for weight in layer.weights)
    inputs, recurrent = np.split(x @ w + b[0], 3, -1), np.split(state @ u + b[1], 3, -1)
    update, reset = (sigmoid(inputs[i] + recurrent[i]) for i in (0, 1))
    return update * state + (1 - update) * np.tanh(inputs[2] + reset * recurrent[2])


@pytest.mark.parametrize("compiled", [False, True])
def test_an_lstm(compiled):
    layer = LSTM(IN, H, name="lstm")
    run = tf.function(layer.run) if compiled else layer.run
    state, outputs = tuple(STATE), []
    for x in X:
        state = lstm(layer, x, *state)
        outputs.append(state[0])
    before = tuple(map(tf.constant, STATE))
    got, (output, cell) = run(tf.constant(X), before)
    np.testing.assert_allclose(got, outputs, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(output, got[-1])
    np.testing.assert_allclose(cell, state[1], rtol=1e-5, atol=1e-6)
    output, (same, _) = layer(tf.constant(X[0]), before)
    np.testing.assert_array_equal(output, same)
    np.testing.assert_allclose(output, outputs[0], rtol=1e-5, atol=1e-6)
    assert np.all(np.equal(layer.get_initial_state(B), np.zeros((2, B, H))))


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("keep", [None, KEEP])
def test_a_gru_keeps_and_drops_its_state(keep, reverse):
    layer = GRU(IN, H, name="gru")
    order = range(N)[::-1] if reverse else range(N)
    state, states = STATE[0], np.zeros((N, B, H))
    for n in order:
        states[n] = state = gru(layer, X[n], state if keep is None else keep[n] * state)
    got = layer.run(tf.constant(X), tf.constant(STATE[0]), keep, reverse)
    np.testing.assert_allclose(got, states, rtol=1e-5, atol=1e-6)
    one = layer.step(tf.constant(X[0]), tf.constant(STATE[0]))
    np.testing.assert_allclose(one, gru(layer, X[0], STATE[0]), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("layer", [LSTM, GRU])
def test_the_gates_are_in_the_order_of_keras(layer):
    ours = layer(IN, H, name="ours")
    kind = {LSTM: keras.layers.LSTM, GRU: keras.layers.GRU}[layer]
    theirs = kind(H, return_sequences=True)
    theirs.build((B, N, IN))
    theirs.set_weights([weight.numpy() for weight in ours.weights])
    zeros = tf.zeros((B, H))
    if layer is LSTM:
        got = ours.run(tf.constant(X), (zeros, zeros))[0]
    else:
        got = ours.run(tf.constant(X), zeros)
    want = tf.transpose(theirs(X.transpose(1, 0, 2)), (1, 0, 2))
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("layer", [LSTM, GRU])
def test_initial_weights_are_pytorchs(layer):
    weights = np.concatenate([weight.numpy().ravel() for weight in layer(30, 25, name="x").weights])
    assert np.abs(weights).max() <= 0.2
    np.testing.assert_allclose(weights.std(), 0.2 / np.sqrt(3), rtol=0.05)
