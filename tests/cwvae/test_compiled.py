"""Traces of compiled methods: how many there are, and that a model forgets them."""

import gc
import logging
import sys
import weakref

import keras
import numpy as np
import pytest
import tensorflow as tf

from cwvae.baselines.svg import SVG
from cwvae.baselines.vta import VTA
from cwvae.compiled import TRACES, Traces, compiled
from cwvae.distributions import Noise
from cwvae.fast.model import FastCWVAE


class Doubler(keras.Model):
    def __init__(self):
        super().__init__()
        self.weight = self.add_weight((), "ones")
        self.traced = []

    @compiled
    def double(self, x, times, flags=None):
        self.traced.append((tuple(x.shape), times, flags))
        return 2 * times * x * self.weight


def test_a_method_is_traced_for_each_shape_and_each_python_value():
    model, other = Doubler(), Doubler()
    for _ in range(2):
        for length, times, flags in ((2, 1, None), (3, 1, None), (2, 2, (True, False))):
            got = model.double(tf.ones(length), times, flags=flags)
            np.testing.assert_array_equal(got, np.full(length, 2 * times))
    assert [*model.traced] == [((2,), 1, None), ((3,), 1, None), ((2,), 2, (True, False))]
    assert model.double.count() == (3, 3)
    assert other.double.count() == (0, 0)
    model.weight.assign(5.0)
    assert float(model.double(tf.ones(2), 1)[0]) == 10


def test_the_traces_used_last_are_kept_without_a_warning(caplog):
    model = Doubler()
    with caplog.at_level(logging.WARNING, "tensorflow"):
        for length in range(1, 3 * TRACES):
            model.double(tf.ones(length), 1)
            model.double(tf.ones(1), 1)  # Used all the time, so it is kept.
    assert model.double.count() == (3 * TRACES - 1, TRACES)
    assert caplog.text == ""


def test_what_is_forgotten_is_freed():
    graphs = []

    def watched(x):
        graphs.append(weakref.ref(tf.compat.v1.get_default_graph()))
        return 2 * x

    traces = Traces(watched)
    for length in range(TRACES + 3):
        traces(tf.ones(length))
    gc.collect()
    assert [graph() is None for graph in graphs] == [True] * 3 + [False] * TRACES


def test_traces_do_not_keep_their_model():
    model = Doubler()
    model.double(tf.ones(1), 1)
    model = weakref.ref(model)
    gc.collect()
    assert model() is None


def build(kind):
    keras.utils.set_random_seed(0)
    sizes = dict(frame_size=32, channels=1, decoder_stddev=0.5)
    if kind == "cwvae":
        sizes |= dict(levels=2, factors=(47,), stochastic_size=2, deterministic_size=3)
        return FastCWVAE(**sizes, hidden_size=4, mlp_size=4, channel_multiplier=0.0625)
    if kind == "svg":
        sizes |= dict(network="dcgan", feature_size=3, hidden_size=4, stochastic_size=2)
        return SVG(**sizes, context=2, channel_multiplier=0.0625)
    return VTA(**sizes, belief_size=3, state_size=2, feature_size=4, init_size=1)


@pytest.mark.parametrize("kind", ["cwvae", "svg", "vta"])
def test_notebooks_with_many_contexts_and_horizons_keep_few_traces(kind, monkeypatch):
    monkeypatch.setattr(sys.modules[Traces.__module__], "TRACES", 4)
    model, video = build(kind), np.random.default_rng(0).random((1, 25, 32, 32, 1))
    observe = model.observe if kind == "vta" else model._observe
    first = model.predict(video[:, :3], 5, 0)
    for number in range(8):
        model.predict(video[:, : 1 + number], 1 + number, 0)
    assert observe.count() == (8, 4)
    made, kept = model._roll.count()
    assert kept <= 4
    if kind == "svg":  # The number of frames is a tensor.
        assert made == 1
    # A forgotten trace is made again, with the same bits.
    np.testing.assert_array_equal(model.predict(video[:, :3], 5, 0), first)


@pytest.mark.parametrize("kind", ["cwvae", "svg", "vta"])
def test_forgotten_traces_of_models_are_freed(kind, monkeypatch):
    # TensorFlow keeps graphs with custom gradients.
    monkeypatch.setattr(sys.modules[Traces.__module__], "TRACES", 1)
    model, video, graphs = build(kind), np.zeros((1, 25, 32, 32, 1)), []
    normal = Noise.normal  # Each method draws noise.

    def watched(*arguments):
        graphs.append(weakref.ref(tf.compat.v1.get_default_graph()))
        return normal(*arguments)

    monkeypatch.setattr(Noise, "normal", watched)
    model.reconstruct(video[:, :7], 0)
    for context in (3, 4, 5):
        model.predict(video[:, :context], context, 0)
    model.reconstruct(video[:, :8], 0)
    gc.collect()
    assert len(graphs) >= 5
    assert len({graph() for graph in graphs} - {None}) <= 3


@pytest.mark.parametrize("kind", ["cwvae", "svg"])
def test_predictions_in_a_users_own_tape_have_gradients(kind):
    model, video = build(kind), tf.constant(np.random.default_rng(0).random((1, 5, 32, 32, 1)))
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(model.predict(video, 3, 0, clip=False))
    got = tape.gradient(loss, model.trainable_weights)
    assert sum(part is not None and bool(np.any(part)) for part in got) > len(got) / 2


def test_a_prime_period_needs_two_traces_of_the_prediction():
    model = build("cwvae")
    model.factors = (131,)
    model.predict(np.zeros((1, 2, 32, 32, 1)), 131 * 4, 0)
    assert model._roll.count()[0] == 2
    model.predict(np.zeros((1, 2, 32, 32, 1)), 131 * 4 + 1, 0)
    assert model._roll.count()[0] == 3
