"""Properties of the model: shapes, seeds, clocks, options, gradients, learning."""

import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from cwvae import clockwork
from cwvae.cell import State
from cwvae.distributions import Noise
from cwvae.fast.model import FastCWVAE
from cwvae.model import CWVAE
from cwvae.video_model import Elbo, training_loss

# Odd and distinct sizes, so that swapped axes fail.
SIZES = dict(
    frame_size=32,
    stochastic_size=5,
    deterministic_size=7,
    hidden_size=11,
    mlp_size=13,
    channel_multiplier=0.125,
    decoder_stddev=0.5,
)


@pytest.fixture(params=[CWVAE, FastCWVAE], ids=["plain", "fast"], autouse=True)
def kernels(request, monkeypatch):
    """Every test is of the definition and of its faster implementation."""
    monkeypatch.setattr(sys.modules[__name__], "MODEL", request.param)


MODEL = CWVAE


def build(levels=3, factors=None, channels=1, **options):
    keras.utils.set_random_seed(0)
    factors = (3,) * (levels - 1) if factors is None else factors
    return MODEL(levels=levels, factors=factors, channels=channels, **SIZES | options)


def clips(length=13, channels=1, batch=2, size=32, seed=0):
    rng = np.random.default_rng(seed)
    return rng.random((batch, length, size, size, channels)).astype(np.float32)


def nodes(length, factors):
    return [-(-length // period) for period in clockwork.periods(factors)]


@pytest.mark.parametrize(
    ("levels", "factors", "channels", "length"),
    [(1, (), 1, 1), (1, (), 3, 13), (2, (1,), 1, 4), (2, (4,), 3, 13), (3, (2, 5), 1, 23)],
)
def test_shapes_for_any_number_of_levels_factors_and_frames(levels, factors, channels, length):
    model, video = build(levels, factors, channels), clips(length, channels)
    elbo = model.elbo(video, seed=0)
    assert elbo.nll.shape == (2, length)
    assert [kl.shape for kl in elbo.kl] == [(2, n) for n in nodes(length, factors)]
    for level, n in enumerate(nodes(length, factors), 1):
        assert elbo.diagnostics[f"prior_entropy/level_{level}"].shape == (2, n)
        assert elbo.diagnostics[f"posterior_entropy/level_{level}"].shape == (2, n)
    assert all(term.dtype == tf.float32 for term in (elbo.nll, *elbo.kl))
    assert all(np.isfinite(term).all() for term in (elbo.nll, *elbo.kl))
    assert model.reconstruct(video, seed=0).shape == video.shape
    assert model.predict(video[:, :1], 9, seed=0).shape == (2, 9, *video.shape[2:])


@pytest.mark.parametrize("size", [32, 64, 128])
def test_frame_sizes(size):
    model = build(frame_size=size)
    video = clips(2, size=size)
    assert model.reconstruct(video, 0).shape == video.shape
    kernels = [
        len([weight for weight in network.weights if len(weight.shape) == 4])
        for network in (model.encoder, model.decoder)
    ]
    assert kernels == [{32: 3, 64: 4, 128: 5}[size]] * 2


def test_a_frame_size_that_does_not_fit_says_which_do():
    with pytest.raises(ValueError, match=r"48.*32, 64, 128"):
        build(frame_size=48)


def test_uint8_frames_are_scaled():
    video = (clips() * 255).astype(np.uint8)
    model = build()
    scaled = model.elbo(video.astype(np.float32) / 255, 0)
    np.testing.assert_allclose(model.elbo(video, 0).nll, scaled.nll, rtol=1e-6)


def test_same_seed_same_bits_other_seed_other_samples():
    model, video = build(), clips()
    one, same, other = (model.predict(video, 70, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert np.abs(one - other).max() > 1e-4
    one, same, other = (model.elbo(video, seed).nll for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert np.abs(one - other).max() > 1e-4


def test_mean_only_needs_no_seed():
    model, video = build(mean_only=True), clips()
    np.testing.assert_array_equal(model.predict(video, 9, 1), model.predict(video, 9, 2))


def test_levels_and_ticks_have_their_own_noise():
    model = build(levels=2, factors=(1,))
    for cell in model.cells:  # Standard normal beliefs: the samples are the noise.
        for weight in cell.trainable_weights:
            weight.assign(tf.zeros_like(weight))
        cell.posterior_stddev.bias.assign(tf.fill([5], np.log(np.e - 1)))
    noise = Noise(tf.constant([3, 0], tf.int64))
    ticks, _ = model.infer(tf.constant(clips(50)), noise)
    fast, slow = (tick.state.stochastic.numpy() for tick in ticks)
    assert abs(np.corrcoef(fast.ravel(), slow.ravel())[0, 1]) < 0.15
    assert abs(np.corrcoef(fast[1:].ravel(), fast[:-1].ravel())[0, 1]) < 0.15
    np.testing.assert_allclose([fast.std(), slow.std()], 1, atol=0.15)


def test_a_batch_in_parts_draws_the_latents_that_it_draws_in_one_piece():
    model, video = build(), tf.constant(clips(7))
    video = tf.concat([video, 1 - video], 0)
    whole, parts = model.elbo(video, 3), []
    for first in range(0, video.shape[0], 2):
        parts.append(model.elbo(video[first : first + 2], 3, row=first))
    np.testing.assert_allclose(whole.nll, np.concatenate([p.nll for p in parts]), rtol=1e-5)
    for level, kl in enumerate(whole.kl):
        got = np.concatenate([part.kl[level] for part in parts])
        np.testing.assert_allclose(kl, got, rtol=1e-3, atol=1e-5)
    other = model.elbo(video[2:], 3)  # Without its place in the batch it draws others.
    assert np.abs(other.nll - whole.nll[2:]).max() > 1e-3


@pytest.mark.parametrize(
    "context", [8, *(pytest.param(length, marks=pytest.mark.slow) for length in (1, 13))]
)
def test_predicting_from_any_context_continues_the_clocks_node_for_node(context):
    # Means instead of samples: then a pass that sees embeddings up to the context, and priors
    # afterwards, is written down in one unroll per part and compared with the prediction.
    model, video = build(mean_only=True), tf.constant(clips(13))
    horizon = 150
    _, states = model.infer(video[:, :context], None)
    frames = []
    for t in range(context, context + horizon):  # frame by frame, every clock at its true time
        ticks, states = clockwork.unroll(
            model.cells, model.factors, t, t + 1, states, [None] * 3, None
        )
        frames.append(model.decode(ticks[0].state))
    want = tf.concat(frames, 1)
    got = model.predict(video[:, :context], horizon, 0, clip=False)
    np.testing.assert_allclose(got, want, atol=1e-5)


def test_prediction_in_chunks_covers_the_horizon_once():
    model, video = build(), clips(5)
    chunks = list(model.predict_chunks(video, 150, 0))
    assert len(chunks) > 1
    frames = [chunk.frames for chunk in chunks]
    assert sum(stretch.shape[1] for stretch in frames) == 150
    whole = model.predict(video, 150, 0, clip=False)
    np.testing.assert_array_equal(tf.concat(frames, 1), whole)


@pytest.mark.parametrize("factors", [(6, 6, 6), (2,), (131,)])
def test_long_predictions_trace_few_stretches(factors):
    model = build(len(factors) + 1, factors)
    slowest = clockwork.periods(factors)[-1]
    assert model.predict(clips(5), 700, 0).shape[1] == 700
    # One for each place within the period where a stretch begins, and one for the last stretch.
    places = {216: 2, 2: 1, 131: 2}[slowest]
    assert model._roll.count()[0] <= places + 1


@pytest.mark.parametrize(
    ("levels", "factors", "context", "horizon"),
    [(1, (), 1, 3), (2, (4,), 5, 8), (3, (2, 5), 7, 90)],
)
def test_states_have_a_tick_for_every_period(levels, factors, context, horizon):
    model, video = build(levels, factors), clips(context + horizon)
    periods = clockwork.periods(factors)
    for first, states in (
        (0, model.observed_states(video, 0)),
        (context, model.predicted_states(video[:, :context], horizon, 0)),
    ):
        ticks = [len([t for t in range(first, context + horizon) if t % k == 0]) for k in periods]
        assert [state.deterministic.shape for state in states] == [(2, n, 7) for n in ticks]
        assert [state.stochastic.shape for state in states] == [(2, n, 5) for n in ticks]


@pytest.mark.parametrize("observed", [None, "TFT"])
def test_states_are_those_behind_the_frames(observed):
    # 70 frames are two stretches, of the embeddings too: 66 = 64 rounded up to a multiple of 6.
    model, video = build(factors=(2, 3)), clips(75)
    options = {"seed": 4, "row": 3, "observe_levels": observed}
    fastest = model.observed_states(video, **options)[0]
    frames = model.decode(State(*(tf.transpose(part, (1, 0, 2)) for part in fastest)))
    np.testing.assert_allclose(frames, model.reconstruct(video, clip=False, **options), atol=1e-5)
    fastest = model.predicted_states(video[:, :5], 70, **options)[0]
    frames = model.decode(State(*(tf.transpose(part, (1, 0, 2)) for part in fastest)))
    want = model.predict(video[:, :5], 70, clip=False, **options)
    np.testing.assert_allclose(frames, want, atol=1e-5)


def test_states_of_all_levels_are_those_of_one_pass():
    model, video = build(factors=(2, 3), mean_only=True), tf.constant(clips(75))
    ticks, _ = model.infer(video, None)
    _, held = model.infer(video[:, :7], None)
    after, _ = model.unroll(7, 75, held, [None] * 3, None)
    for passed, states in (
        (ticks, model.observed_states(video, 0)),
        (after, model.predicted_states(video[:, :7], 68, 0)),
    ):
        for tick, state in zip(passed, states, strict=True):
            for want, got in zip(tick.state, state, strict=True):
                np.testing.assert_allclose(got, tf.transpose(want, (1, 0, 2)), atol=1e-5)


def test_wrong_input_is_refused_in_a_sentence():
    model = build()
    with pytest.raises(ValueError, match=r"floats in \[0, 1\] or uint8, not int64"):
        model.elbo(np.zeros((1, 2, 32, 32, 1), np.int64), 0)
    with pytest.raises(ValueError, match=r"frames of \(32, 32, 1\), not \(64, 64, 1\)"):
        model.reconstruct(clips(2, size=64), 0)
    with pytest.raises(ValueError, match=r"\[B, T, H, W, C\]"):
        model.predict(clips(2)[0], 3, 0)
    with pytest.raises(ValueError, match="with T from 1"):
        model.predict(clips(2)[:, :0], 3, 0)
    with pytest.raises(ValueError, match="horizon must be at least 1, not 0"):
        model.predict(clips(2), 0, 0)


def test_a_prediction_reads_the_context_alone_and_all_of_it():
    model, video = build(), clips(5)
    prediction = model.predict(video, 9, 0)
    for frame in range(5):
        changed = video.copy()
        changed[:, frame] = 1 - changed[:, frame]
        assert np.abs(model.predict(changed, 9, 0) - prediction).max() > 0


def test_an_unobserved_level_follows_its_prior():
    model, video = build(), clips()
    elbo = model.elbo(video, 0, observe_levels=(True, True, False))
    assert np.all(elbo.kl[2] == 0)
    assert np.all(elbo.kl[0] > 0)
    blind = (False,) * 3
    one = model.predict(clips(seed=1), 9, 0, observe_levels=blind)
    other = model.predict(clips(seed=2), 9, 0, observe_levels=blind)
    np.testing.assert_array_equal(one, other)
    seen = model.predict(clips(seed=1), 9, 0, observe_levels=(True, True, False))
    assert np.abs(one - seen).max() > 1e-6


def test_kl_is_zero_where_posterior_and_prior_are_forced_equal():
    model, video = build(), clips()
    for cell in model.cells:
        for belief in ("prior", "posterior"):
            for head in ("mean", "stddev"):
                for weight in getattr(cell, f"{belief}_{head}").weights:
                    weight.assign(tf.zeros_like(weight))
    for kl in model.elbo(video, 0).kl:
        np.testing.assert_array_equal(kl, np.zeros(kl.shape))


def gradients(model, video, **options):
    with tf.GradientTape() as tape:
        loss = training_loss(model.elbo(video, 0), (1.0,) * model.levels, **options)
    return tape.gradient(loss, model.trainable_variables)


def test_gradients_reach_every_variable():
    # The slowest level's h is zero at first: its recurrent kernel matters from the third tick on.
    model, video = build(), clips(20)
    for variable, gradient in zip(model.trainable_variables, gradients(model, video), strict=True):
        assert gradient is not None, variable.path
        assert np.abs(gradient).max() > 0, variable.path


def test_kl_balance_keeps_the_value_and_splits_the_gradient():
    # One frame: no later step that a belief could reach through the state.
    video = clips(1)

    def kl_gradients(balance):
        model = build(levels=1, kl_balance=balance)
        with tf.GradientTape() as tape:
            kl = tf.reduce_sum(model.elbo(video, 0).kl[0])
        cell = model.cells[0]
        weights = [cell.prior_mean.bias, cell.posterior_mean.bias]
        zeros = tf.UnconnectedGradients.ZERO
        return float(kl), *tape.gradient(kl, weights, unconnected_gradients=zeros)

    value, prior, posterior = kl_gradients(None)
    assert np.abs(prior).max() > 1e-3
    for balance in (0.0, 0.25, 1.0):
        same, trains_prior, trains_posterior = kl_gradients(balance)
        np.testing.assert_allclose(same, value, rtol=1e-5)
        np.testing.assert_allclose(trains_prior, balance * prior, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(
            trains_posterior, (1 - balance) * posterior, rtol=1e-4, atol=1e-6
        )


def test_training_loss_by_hand():
    elbo = Elbo(
        nll=tf.constant([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]),
        kl=(tf.constant([[0.5, 2.0, 0.1], [0.0, 1.0, 3.0]]), tf.constant([[4.0], [0.2]])),
        diagnostics={},
    )
    want = ((6 + 2.6 + 4) + (15 + 4 + 0.2)) / 2 / 3
    np.testing.assert_allclose(training_loss(elbo, (1.0, 1.0)), want, rtol=1e-6)
    # Every active step counts at least one nat, then each level is weighted.
    want = ((6 + 2 * (1 + 2 + 1) + 0.5 * 4) + (15 + 2 * (1 + 1 + 3) + 0.5 * 1)) / 2 / 3
    np.testing.assert_allclose(training_loss(elbo, (2.0, 0.5), free_nats=1.0), want, rtol=1e-6)


def test_free_nats_take_the_gradient_of_what_lies_below():
    model = build()
    for variable, gradient in zip(
        model.trainable_variables, gradients(model, clips(), free_nats=1e6), strict=True
    ):
        if "prior_mean" in variable.path or "prior_stddev" in variable.path:
            assert gradient is None or np.all(np.asarray(gradient) == 0), variable.path


def test_bfloat16_networks_agree_with_float32_and_return_float32():
    video = clips()
    exact = build().elbo(video, 0)
    rough = build(precision="mixed_bfloat16").elbo(video, 0)
    assert rough.nll.dtype == tf.float32
    np.testing.assert_allclose(rough.nll, exact.nll, rtol=0.01)
    for got, want in zip(rough.kl, exact.kl, strict=True):
        np.testing.assert_allclose(got, want, rtol=0.2, atol=0.02)


@pytest.mark.slow
def test_the_step_compiles_under_xla_and_agrees():
    # Means instead of samples: XLA's random bits are not those of TensorFlow's own kernels.
    model, video = build(mean_only=True), tf.constant(clips())
    plain = tf.function(lambda: gradients(model, video))()
    compiled = tf.function(lambda: gradients(model, video), jit_compile=True)()
    for variable, one, other in zip(model.trainable_variables, plain, compiled, strict=True):
        scale = np.abs(one).max()
        np.testing.assert_allclose(one, other, atol=2e-3 * scale, err_msg=variable.path)


def test_weight_paths_are_unique():
    paths = [weight.path for weight in build().weights]
    assert len(set(paths)) == len(paths)


@pytest.mark.parametrize(
    "factors",
    [
        (3,),
        pytest.param((), id="RSSM", marks=pytest.mark.slow),
    ],
)
def test_learning_overfits_four_clips(factors):
    # A bright square that moves: two positions, two directions.
    video = np.zeros((4, 12, 32, 32, 1), np.float32)
    for clip, (start, speed) in enumerate([(2, 1), (20, -1), (2, 2), (22, -2)]):
        for t in range(12):
            x = min(max(start + speed * t, 0), 24)
            video[clip, t, 10:18, x : x + 8] = 1.0
    levels = len(factors) + 1
    sizes = dict(deterministic_size=32, hidden_size=32, decoder_stddev=0.3)
    model = build(levels=levels, factors=factors, **sizes)
    optimizer = keras.optimizers.Adam(3e-3, epsilon=1e-4)
    optimizer.build(model.trainable_variables)
    # What the decoder's normalization alone costs: the loss of a perfect prediction.
    best = 32 * 32 * (np.log(0.3) + 0.5 * np.log(2 * np.pi))

    @tf.function
    def step(number):
        with tf.GradientTape() as tape:
            seed = tf.stack([number, 0])
            loss = training_loss(model.elbo(video, seed), (1.0,) * levels)
        optimizer.apply(tape.gradient(loss, model.trainable_variables), model.trainable_variables)
        return loss

    losses = [float(step(tf.constant(i, tf.int64))) - best for i in range(300)]
    assert losses[0] > 300  # Nats per frame above that.
    assert np.mean(losses[-10:]) < 30
