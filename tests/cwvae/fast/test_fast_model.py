"""The fast kernels against the plain definition: outputs, gradients, and what they do not cover."""

import functools
import shutil
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import tiny
from helpers.scripts import ROOT

import data_loaders
from cwvae import clockwork, factory, networks
from cwvae import config as configuration
from cwvae import model as definition
from cwvae.cell import RSSMCell, State
from cwvae.distributions import Noise
from cwvae.fast import cell as fast_cell
from cwvae.fast import networks as fast_networks
from cwvae.fast.model import FastCWVAE
from cwvae.model import CWVAE, per_frame
from cwvae.training import loop
from cwvae.training import step as training_step
from cwvae.video_model import training_loss

SIZES = dict(
    frame_size=32,
    channels=1,
    stochastic_size=5,
    deterministic_size=7,
    hidden_size=11,
    mlp_size=13,
    channel_multiplier=0.125,
    decoder_stddev=0.5,
)
# bfloat16 has 8 bits, and the layers round in another order.
TOLERANCES = {"float32": 1e-4, "mixed_bfloat16": 0.06}
RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def seeds(monkeypatch):
    """Every test draws the same inputs and weights, whichever ran before."""
    monkeypatch.setattr(sys.modules[__name__], "RNG", np.random.default_rng(0))
    keras.utils.set_random_seed(0)


def array(*shape):
    return tf.constant(RNG.normal(size=shape), tf.float32)


def randomize(layer):
    """Gives all weights a random part: biases begin as zeros, which would hide mistakes."""
    rng = np.random.default_rng(1)
    for weight in layer.trainable_weights:
        weight.assign(weight + 0.1 * rng.normal(size=weight.shape))
    return layer


def with_gradients(function, inputs, weights):
    """Returns the outputs of a function, and the gradients of a number made of them."""
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        outputs = tf.nest.flatten(function(*inputs))
        total = tf.add_n([tf.reduce_sum(tf.sin(output)) for output in outputs])
    sources = [*inputs, *(weight.value for weight in weights)]
    gradients = tape.gradient(total, sources, unconnected_gradients="zero")
    return [*outputs, *gradients]


def errors(got, want):
    """Returns the norm of each difference, relative to the norm of what is wanted."""
    pairs = [
        [np.asarray(tf.cast(x, tf.float32)) for x in pair] for pair in zip(got, want, strict=True)
    ]
    return [np.linalg.norm(a - b) / max(np.linalg.norm(b), 1e-6) for a, b in pairs]


def assert_equal(got, want, precision="float32"):
    """Compares arrays by the norm of their difference, relative to the norm of the array."""
    assert len(got) == len(want) > 1
    for one, other in zip(got, want, strict=True):
        assert one.shape == other.shape
        assert one.dtype == other.dtype
        one, other = (np.ravel(np.asarray(x, np.float64)) for x in (one, other))
        error, size = np.linalg.norm(one - other), np.linalg.norm(other)
        assert error <= TOLERANCES[precision] * max(size, 1e-6)


# Each layer.


def encoder_and_decoder(size, channels, batch, precision):
    """Yields the plain network, its fast version and an input."""
    frames, features = tf.sigmoid(array(3 * batch, size, size, channels)), array(3 * batch, 7)
    yield networks.frame_encoder(size, channels, 0.125, precision), fast_networks.encode, frames
    yield (
        networks.frame_decoder(size, channels, 7, 0.125, precision),
        fast_networks.decode,
        features,
    )


every_frame = pytest.mark.parametrize(
    ("size", "channels", "batch"), [(32, 1, 2), (32, 3, 1), (64, 1, 1), (64, 3, 2), (128, 3, 1)]
)


@every_frame
def test_encoder_and_decoder(size, channels, batch):
    for plain, fast, x in encoder_and_decoder(size, channels, batch, "float32"):
        weights = randomize(plain).trainable_weights
        got = with_gradients(functools.partial(fast, plain), [x], weights)
        assert_equal(got, with_gradients(plain, [x], weights))


@every_frame
def test_encoder_and_decoder_in_bfloat16_are_as_exact_as_the_plain_ones(size, channels, batch):
    exact = encoder_and_decoder(size, channels, batch, "float32")
    rounded = encoder_and_decoder(size, channels, batch, "mixed_bfloat16")
    for (reference, _, x), (plain, fast, _) in zip(exact, rounded, strict=True):
        weights = randomize(plain).trainable_weights
        reference.set_weights(plain.get_weights())
        want = with_gradients(reference, [x], reference.trainable_weights)
        # Not compared with each other: an activation near 0 changes its sign by rounding, and which
        # ones do depends on how a processor adds up products.
        allowed = errors(with_gradients(plain, [x], weights), want)
        found = errors(with_gradients(functools.partial(fast, plain), [x], weights), want)
        assert len(found) == len(allowed) > 1
        for ours, theirs in zip(found, allowed, strict=True):
            assert ours <= max(TOLERANCES["mixed_bfloat16"], 3 * theirs)


@pytest.mark.parametrize("precision", TOLERANCES)
@pytest.mark.parametrize(
    ("batch", "length", "period"), [(2, 13, 6), (1, 1, 4), (1, 7, 1), (2, 5, 9)]
)
def test_embedding_mlps(batch, length, period, precision):
    mlp = randomize(networks.embedding_mlp(5, 6, precision, name="mlp"))
    x, weights = array(batch, length, 5), mlp.trainable_weights
    want = with_gradients(lambda x: per_frame(mlp, x), [x], weights)
    got = with_gradients(lambda x: fast_networks.embed(mlp, x), [x], weights)
    assert_equal(got, want, precision)
    want = with_gradients(lambda x: clockwork.pool(per_frame(mlp, x), period), [x], weights)
    got = with_gradients(lambda x: fast_networks.embed_pooled(mlp, x, period), [x], weights)
    assert_equal(got, want, precision)


@pytest.mark.parametrize("sampled", [True, False])
@pytest.mark.parametrize("observed", [True, False])
@pytest.mark.parametrize(("nodes", "batch"), [(6, 2), (1, 2), (5, 1)])
def test_the_ticks_of_a_level(nodes, batch, observed, sampled):
    sizes = dict(stochastic_size=3, deterministic_size=4, hidden_size=5)
    cell = randomize(
        RSSMCell(embedding_size=6, context_size=7, min_stddev=0.1, name="cell", **sizes)
    )
    given = {
        "context": array(nodes, batch, 7),
        "embeddings": array(batch, nodes, 6) if observed else None,
        "noise": array(nodes, batch, 3) if sampled else None,
    }
    names = [name for name, value in given.items() if value is not None]

    def run(function):
        def call(z, h, *inputs):
            return function(cell, State(z, h), **given | dict(zip(names, inputs, strict=True)))

        inputs = [array(batch, 3), array(batch, 4), *(given[name] for name in names)]
        return with_gradients(call, inputs, cell.trainable_weights)

    global RNG
    results = []
    for function in (clockwork.run_level, fast_cell.run_level):
        RNG = np.random.default_rng(5)
        results.append(run(function))
    assert_equal(*reversed(results))


# The whole model.


def both(**options):
    models = []
    for kind in (CWVAE, FastCWVAE):
        keras.utils.set_random_seed(0)
        models.append(randomize(kind(**SIZES | options)))
    return models


def terms(model, video):
    """Returns all terms of the ELBO, the loss, and the gradient of every weight."""
    weights = model.trainable_weights
    with tf.GradientTape() as tape:
        elbo = model.elbo(video, 3)
        loss = training_loss(elbo, (1.0,) * model.levels)
    gradients = tape.gradient(loss, [w.value for w in weights], unconnected_gradients="zero")
    return [elbo.nll, *elbo.kl, *elbo.diagnostics.values(), loss, *gradients]


CASES = [
    (1, (), 7, 2),
    (2, (1,), 5, 2),
    (2, (4,), 13, 1),
    (3, (2, 3), 13, 2),
    (3, (6, 6), 37, 1),
    (4, (2, 2, 2), 9, 1),
    (3, (3, 3), 1, 2),
]


@pytest.mark.parametrize(
    ("levels", "factors", "length", "batch", "precision"),
    [(*case, "float32") for case in CASES] + [(*case, "mixed_bfloat16") for case in CASES[2:5]],
)
def test_elbo_and_gradients(levels, factors, length, batch, precision):
    plain, fast = both(levels=levels, factors=factors, precision=precision)
    video = tf.sigmoid(array(batch, length, 32, 32, 1))
    want = tf.function(lambda: terms(plain, video), autograph=False)()
    got = tf.function(lambda: terms(fast, video), autograph=False)()
    if precision == "float32":
        assert_equal(got, want)
        return
    # Rounding adds up over ticks: the terms within a few percent, the gradient as a whole, too.
    count = len(got) - len(plain.trainable_weights)
    for one, other in zip(got[:count], want[:count], strict=True):
        np.testing.assert_allclose(one, other, rtol=0.05, atol=0.05)
    one, other = (np.concatenate([np.ravel(g) for g in x[count:]]) for x in (got, want))
    assert np.linalg.norm(one - other) < 0.1 * np.linalg.norm(other)


@pytest.mark.parametrize(("levels", "factors", "length", "batch"), CASES)
def test_reconstructions_and_predictions(levels, factors, length, batch):
    plain, fast = both(levels=levels, factors=factors)
    video = tf.sigmoid(array(batch, length, 32, 32, 1))
    want, got = (
        [m.reconstruct(video, 3, clip=False), m.predict(video, 80, 3, clip=False)]
        for m in (plain, fast)
    )
    assert_equal(got, want)


@pytest.mark.parametrize(("levels", "factors", "length", "batch"), CASES[::2])
def test_states(levels, factors, length, batch):
    plain, fast = both(levels=levels, factors=factors)
    video = tf.sigmoid(array(batch, length, 32, 32, 1))
    want, got = (
        tf.nest.flatten([m.observed_states(video, 3), m.predicted_states(video, 80, 3)])
        for m in (plain, fast)
    )
    assert_equal(got, want)


def test_other_options():
    for options in (dict(mean_only=True), dict(kl_balance=0.3), dict(min_stddev=0.1)):
        plain, fast = both(levels=2, factors=(3,), **options)
        video = tf.sigmoid(array(2, 8, 32, 32, 1))
        assert_equal(terms(fast, video), terms(plain, video))


def test_the_plain_step_compiles_under_xla_and_agrees():
    # Means instead of samples: XLA's random bits are not those of TensorFlow's own kernels.
    plain, _ = both(levels=2, factors=(3,), mean_only=True)
    video = tf.sigmoid(array(2, 7, 32, 32, 1))
    want = tf.function(lambda: terms(plain, video), autograph=False)()
    got = tf.function(lambda: terms(plain, video), autograph=False, jit_compile=True)()
    for one, other in zip(got, want, strict=True):
        np.testing.assert_allclose(one, other, atol=2e-3 * max(np.abs(other).max(), 1e-6))


def test_a_clip_in_pieces_of_frames_has_the_same_gradients():
    keras.utils.set_random_seed(0)
    pieces = randomize(FastCWVAE(levels=2, factors=(3,), gradient_checkpointing=4, **SIZES))
    plain, _ = both(levels=2, factors=(3,))
    video = tf.sigmoid(array(2, 7, 32, 32, 1))
    want = tf.function(lambda: terms(plain, video), autograph=False)()
    got = tf.function(lambda: terms(pieces, video), autograph=False)()
    assert_equal(got, want)


@pytest.mark.slow
def test_twenty_steps_of_quickstart():
    losses = {}
    for kernels in ("plain", "fast"):
        config = configuration.load(
            ROOT / "configs" / "quickstart.yml",
            [f"training.kernels={kernels}", "training.precision=float32"],
        )
        options = config.training
        data = data_loaders.load(split="train", **config.data_options())
        batches = data.batches(options.batch_size, options.seq_len, options.seed)
        model = factory.build(config, options.seed)
        step = training_step.build_step(config, model, loop.build_optimizer(options, model))
        run = tf.function(step, autograph=False)
        losses[kernels] = [
            float(run(video, tf.constant(i, tf.int64), 0.0)["loss"])
            for i, video in enumerate(batches.take(20))
        ]
    assert losses["plain"][0] > losses["plain"][-1] + 10
    # Training amplifies rounding errors: measured 8e-5 at step 50, 3e-7 at the first ones.
    np.testing.assert_allclose(losses["fast"][:5], losses["plain"][:5], rtol=1e-5)
    np.testing.assert_allclose(losses["fast"], losses["plain"], rtol=1e-3)


# What they do not cover.


def settings(kernels):
    return tiny.settings(f"training.kernels={kernels}")


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_they_cover_the_definition(precision, capsys, monkeypatch):
    monkeypatch.setattr(factory, "_UNCOVERED", {})
    config = tiny.settings("training.kernels=fast", f"training.precision={precision}")
    assert type(factory.build(config, 0)) is FastCWVAE
    assert [*factory._UNCOVERED.values()] == [[]]
    assert capsys.readouterr().err == ""


def encoder_with_another_activation(*arguments):
    encoder = networks.frame_encoder(*arguments)
    encoder.layers[1].activation = tf.nn.relu
    return encoder


def decoder_with_one_layer_more(frame_size, channels, input_size, *arguments):
    *layers, tanh = networks.frame_decoder(frame_size, channels, input_size, *arguments).layers
    more = networks.Conv2DTranspose(channels, 1, name="more")
    return keras.Sequential([keras.Input((input_size,)), *layers, more, tanh], name="decoder")


class Residual(RSSMCell):
    """Another transition, which begins as the same one: only other weights show it."""

    def __init__(self, **options):
        super().__init__(**options)
        self.scale = self.add_weight((1, 1), "zeros", name="scale")

    def call(self, state, context, embedding=None, noise=None):
        tick = super().call(state, context, embedding, noise)
        h = tick.state.deterministic + self.scale * state.deterministic
        return tick._replace(state=tick.state._replace(deterministic=h))


@pytest.mark.parametrize(
    ("name", "changed", "method"),
    [
        ("frame_encoder", encoder_with_another_activation, "embed"),
        ("frame_decoder", decoder_with_one_layer_more, "decode"),
        ("RSSMCell", Residual, "unroll"),
    ],
)
def test_a_changed_layer_is_said_and_computed_as_it_is_defined(
    name, changed, method, monkeypatch, capsys
):
    monkeypatch.setattr(definition, name, changed)
    monkeypatch.setattr(factory, "_UNCOVERED", {})
    plain = factory.build(settings("plain"), 0)
    assert type(plain) is CWVAE
    assert capsys.readouterr().err == ""
    model = factory.build(settings("auto"), 0)
    assert type(model) is FastCWVAE
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"warning: cwvae/fast does not compute what CWVAE.{method} defines")
    video = tf.sigmoid(array(2, 7, 32, 32, 1))
    randomize(model), randomize(plain)
    assert_equal(terms(model, video), terms(plain, video))
    frames, want = (m.predict(video, 5, 0, clip=False) for m in (model, plain))
    assert np.abs(frames - want).max() < 1e-5


def test_the_check_leaves_the_weights_and_the_random_state_alone():
    model = factory.build(settings("fast"), 0)
    before = [weight.numpy() for weight in model.weights]
    model.uncovered()
    for weight, array in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(weight, array)
    plain = factory.build(settings("plain"), 0)
    for weight, array in zip(plain.weights, before, strict=True):
        np.testing.assert_array_equal(weight, array)


def test_noise_does_not_depend_on_the_kernels():
    plain, fast = both(levels=2, factors=(3,))
    video = tf.sigmoid(array(2, 7, 32, 32, 1))
    noise = Noise(tf.constant([3, 0], tf.int64))
    for one, other in zip(plain.infer(video, noise)[0], fast.infer(video, noise)[0], strict=True):
        np.testing.assert_allclose(one.state.stochastic, other.state.stochastic, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["cwvae", "svg"])
def test_without_the_folder_plain_kernels_train_and_evaluate(model, tmp_path):
    for name in ("cwvae", "data_loaders", "configs"):
        ignore = shutil.ignore_patterns("fast", "__pycache__")
        shutil.copytree(ROOT / name, tmp_path / name, ignore=ignore)
    for name in ("train.py", "eval.py"):
        shutil.copy(ROOT / name, tmp_path)
    overrides = [*tiny.MODELS[model], *tiny.OVERRIDES, f"model.name={model}"]
    (tmp_path / "empty.yml").write_text("model: {}")
    words = [word for override in overrides for word in ("--set", override)]
    words += ["--set", "training.kernels=plain"]
    for command in (
        ["train.py", "--config", "empty.yml", "--logdir", "run", *words],
        ["eval.py", "--logdir", "run"],
    ):
        done = subprocess.run(
            [sys.executable, *command], cwd=tmp_path, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "eval" / "metrics.json").exists()
