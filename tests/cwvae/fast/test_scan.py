"""The scan's own gradient against that of a plain loop."""

import numpy as np
import pytest
import tensorflow as tf

from cwvae.cell import State
from cwvae.fast import scan

N, B, S, D = 6, 2, 3, 5
RNG = np.random.default_rng(0)


def array(*shape):
    return tf.constant(RNG.normal(size=shape), tf.float32)


def tick(weights, state, inputs):
    kernel, nested = weights
    joined = tf.concat([state.stochastic, state.deterministic, inputs[0]], -1)
    deterministic = tf.tanh(joined @ kernel)
    mean = deterministic @ nested["mean"]
    return mean + inputs[1], deterministic, mean


def plain(weights, state, inputs):
    outputs = []
    for n in range(N):
        outputs.append(tick(weights, state, [part[n] for part in inputs]))
        state = State(*outputs[-1][:2])
    return tuple(tf.stack(part) for part in zip(*outputs, strict=True))


def custom(weights, state, inputs):
    return scan.run(tick, weights, state, inputs)


@pytest.fixture
def arguments():
    weights = (array(S + D + 4, D), {"mean": array(D, S)})
    return weights, State(array(B, S), array(B, D)), [array(N, B, 4), array(N, B, S)]


@pytest.mark.parametrize("compiled", [False, True])
def test_outputs_and_all_gradients_equal_a_plain_loops(arguments, compiled):
    upstream = [array(N, B, size) for size in (S, D, S)]
    results = []
    for function in (plain, custom):

        def run(weights, state, inputs, function=function):
            with tf.GradientTape() as tape:
                tape.watch((weights, state, inputs))
                outputs = function(weights, state, inputs)
            return outputs, tape.gradient(outputs, [weights, state, inputs], upstream)

        results.append(tf.nest.flatten((tf.function(run) if compiled else run)(*arguments)))
    assert len(results[0]) == 3 + 6
    for want, got in zip(*results, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
        assert np.abs(want).max() > 1e-3


def test_a_gradient_of_the_last_output_alone_flows_back_to_the_first_tick(arguments):
    weights, state, inputs = arguments
    with tf.GradientTape() as tape:
        tape.watch((state, inputs))
        total = tf.reduce_sum(custom(weights, state, inputs)[2][-1])
    by_state, by_inputs = tape.gradient(total, [state, inputs])
    assert np.abs(by_state.deterministic).max() > 0
    assert np.all(np.abs(by_inputs[0]).max((1, 2)) > 0)


@pytest.mark.parametrize("parts", [1, 3])
def test_states_of_any_number_of_parts(parts):
    def mixed(weights, state, inputs):
        new = [tf.tanh(part @ weights + inputs[0]) for part in state]
        return (*new[1:], new[0], tf.add_n(new))

    kernel, state, x = array(D, D), tuple(array(B, D) for _ in range(parts)), array(N, B, D)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch((kernel, state, x))
        total = scan.run(mixed, kernel, state, [x])[-1]
        own, rows = state, []
        for n in range(N):
            *own, row = mixed(kernel, own, [x[n]])
            rows.append(row)
        by_hand = tf.stack(rows)
    np.testing.assert_allclose(total, by_hand, rtol=1e-5)
    sources = [kernel, *state, x]
    got, want = tape.gradient(total, sources), tape.gradient(by_hand, sources)
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("length", [1, 5])
def test_over_time_equals_a_python_loop(length):
    kernel, x = (array(*shape) for shape in ((D, D), (length, B, D)))
    state = State(array(B, D), array(B, D))

    def tick(weights, state, inputs):
        output = tf.tanh(state.stochastic @ weights + inputs[0])
        # The third output is not a part of the state.
        return output, state.deterministic + output, output - state.deterministic

    want, now = [], state
    for step in x:
        outputs = tick(kernel, now, [step])
        want.append(outputs)
        now = State(*outputs[:2])
    got = scan.over_time(tick, kernel, state, [x])
    for one, other in zip(got, zip(*want, strict=True), strict=True):
        np.testing.assert_allclose(one, tf.stack(other), rtol=1e-4, atol=1e-5)
