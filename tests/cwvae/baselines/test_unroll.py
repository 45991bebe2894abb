"""The plain loop over time against a Python loop, and the fast recurrence against the plain one."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from cwvae.baselines.recurrent import GRU, LSTM, LSTMState, over_time
from cwvae.baselines.svg import SVG
from cwvae.baselines.vta import VTA
from cwvae.video_model import training_loss

recurrence = pytest.importorskip("cwvae.fast.recurrence")

B, IN, H = 3, 4, 6
# (length, batch): an odd length, a single step, a single clip.
SIZES = [(5, B), (1, B), (7, 1)]


def array(*shape, seed=0):
    return tf.constant(np.random.default_rng(seed).normal(size=shape), tf.float32)


def assert_close(one, other):
    """Compares nests: differences of float32 rounding, relative to each tensor's largest entry."""
    one, other = tf.nest.flatten(one), tf.nest.flatten(other)
    for got, want in zip(one, other, strict=True):
        scale = max(np.abs(want).max(), 1e-3)
        np.testing.assert_allclose(got / scale, want / scale, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("length", [1, 5])
def test_over_time_equals_a_python_loop(length):
    kernel, x = array(H, H), array(length, B, H, seed=1)
    state = LSTMState(array(B, H, seed=2), array(B, H, seed=3))

    def tick(weights, state, inputs):
        output = tf.tanh(state.output @ weights + inputs[0])
        # The third output is not a part of the state.
        return output, state.cell + output, output - state.cell

    want, now = [], state
    for step in x:
        outputs = tick(kernel, now, [step])
        want.append(outputs)
        now = LSTMState(*outputs[:2])
    assert_close(
        over_time(tick, kernel, state, [x]), [tf.stack(part) for part in zip(*want, strict=True)]
    )


def both(build, run):
    """Returns the results of `run` for the same layer with each of the two ways to unroll it."""
    results = []
    for unroll in (over_time, recurrence.run):
        keras.utils.set_random_seed(0)
        results.append(tf.function(run)(build(unroll)))
    return results


@pytest.mark.parametrize(("length", "batch"), SIZES)
def test_an_lstm_is_the_same_with_the_fast_recurrence(length, batch):
    x, state = array(length, batch, IN), LSTMState(*tf.unstack(array(2, batch, H, seed=1)))
    upstream = array(length, batch, H, seed=2)

    def run(layer):
        weights = [weight.value for weight in layer.weights]
        with tf.GradientTape() as tape:
            tape.watch((x, state))
            outputs, last = layer.run(x, state)
            total = tf.reduce_sum(outputs * upstream) + tf.reduce_sum(last.cell)
        return outputs, last, tape.gradient(total, [x, state, weights])

    assert_close(*both(lambda unroll: LSTM(IN, H, unroll=unroll, name="lstm"), run))


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("with_keep", [False, True])
@pytest.mark.parametrize(("length", "batch"), SIZES)
def test_a_gru_is_the_same_with_the_fast_recurrence(length, batch, with_keep, reverse):
    x, state, upstream = array(length, batch, IN), array(batch, H), array(length, batch, H, seed=1)
    keep = tf.cast(array(length, batch, 1, seed=2) > 0, tf.float32) if with_keep else None

    def run(layer):
        weights = [weight.value for weight in layer.weights]
        with tf.GradientTape() as tape:
            watched = [x, state, *([keep] if with_keep else [])]
            tape.watch(watched)
            states = layer.run(x, state, keep, reverse)
            total = tf.reduce_sum(states * upstream)
        return states, tape.gradient(total, [watched, weights])

    assert_close(*both(lambda unroll: GRU(IN, H, unroll=unroll, name="gru"), run))


def terms_and_gradients(video, step):
    def run(model):
        with tf.GradientTape() as tape:
            elbo = model.elbo(video, 3, step=step)
            loss = training_loss(elbo, (1.0,) * len(elbo.kl))
        return elbo, tape.gradient(loss, [weight.value for weight in model.trainable_weights])

    return run


def clips(length, batch):
    return np.random.default_rng(0).random((batch, length, 32, 32, 1)).astype(np.float32)


@pytest.mark.parametrize(("length", "batch"), [(6, 2), (2, 2), (4, 1)])
def test_svg_is_the_same_with_the_fast_recurrence(length, batch):
    def build(unroll):
        return SVG(
            network="dcgan",
            frame_size=32,
            channels=1,
            feature_size=11,
            hidden_size=7,
            stochastic_size=5,
            decoder_stddev=0.5,
            context=3,
            channel_multiplier=0.125,
            unroll=unroll,
        )

    # With moving statistics: the batch's would make the gradients of biases zero but for rounding.
    assert_close(*both(build, terms_and_gradients(clips(length, batch), step=None)))


@pytest.mark.parametrize(("length", "batch"), [(9, 2), (5, 2), (7, 1)])
def test_vta_is_the_same_with_the_fast_recurrence(length, batch):
    sizes = dict(frame_size=32, channels=1, belief_size=7, state_size=3, feature_size=5)

    def build(unroll):
        return VTA(**sizes, init_size=2, unroll=unroll)

    assert_close(*both(build, terms_and_gradients(clips(length, batch), tf.constant(0, tf.int64))))
