"""VTA against the published algorithm in NumPy, and properties of its predictions."""

import collections
import math
from typing import NamedTuple

import keras
import numpy as np
import pytest
import tensorflow as tf

from cwvae.baselines import boundaries
from cwvae.baselines.vta import VTA
from cwvae.distributions import Noise
from cwvae.training.optimizer import Adam
from cwvae.video_model import training_loss

# Odd and distinct sizes, so that swapped axes fail.
SIZES = dict(frame_size=32, channels=1, belief_size=7, state_size=3, feature_size=5, init_size=2)
STEP = tf.constant(0, tf.int64)


def build(**options):
    keras.utils.set_random_seed(0)
    return VTA(**SIZES | options)


def clips(length=13, batch=2, size=32, channels=1, seed=0):
    rng = np.random.default_rng(seed)
    return rng.random((batch, length, size, size, channels)).astype(np.float32)


def sharpen(model, factor=6.0):
    """Makes beliefs and boundaries depend strongly on their inputs."""
    for weight in model.trainable_weights:
        if "norm" not in weight.path:
            weight.assign(weight * factor)
    return model


# --- sizes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("channels", "count"), [(3, 2_760_775), (1, 2_752_581)])
def test_parameters_of_the_published_model(channels, count):
    model = VTA(frame_size=64, channels=channels)
    assert sum(np.prod(weight.shape) for weight in model.trainable_weights) == count


@pytest.mark.parametrize(("size", "channels"), [(32, 3), (64, 1), (128, 3)])
def test_frame_sizes(size, channels):
    model, video = build(frame_size=size, channels=channels), clips(5, 1, size, channels)
    assert model.elbo(video, 0, step=STEP).nll.shape == (1, 1)
    assert model.reconstruct(video, 0).shape == video.shape
    assert model.predict(video, 2, 0).shape == (1, 2, size, size, channels)
    layers = {32: 3, 64: 4, 128: 5}[size]
    assert len(model.encoder.convolutions) == len(model.decoder.convolutions) == layers


def test_wrong_input_raises_clear_errors():
    model = build()
    with pytest.raises(ValueError, match=r"48.*32, 64, 128"):
        build(frame_size=48)
    with pytest.raises(ValueError, match="init_size must be at least 1, not 0"):
        build(init_size=0)
    assert model.shortest == 5
    for method in (model.elbo, model.reconstruct):
        with pytest.raises(
            ValueError, match=r"4 frames is too short for init_size = 2. Give at least 5"
        ):
            method(clips(4), 0)
    with pytest.raises(ValueError, match=r"frames of \(32, 32, 1\), not \(64, 64, 1\)"):
        model.predict(clips(2, size=64), 3, 0)
    with pytest.raises(ValueError, match="horizon must be at least 1, not 0"):
        model.predict(clips(2), 0, 0)


def test_weight_paths_are_unique():
    paths = [weight.path for weight in build().weights]
    assert len(set(paths)) == len(paths)


def test_shapes_of_the_elbo():
    video = clips(7)
    for step in (None, STEP):
        elbo = build().elbo(video, 0, step=step)
        assert elbo.nll.shape == (2, 3)
        assert [kl.shape for kl in elbo.kl] == [(2, 3)] * len(VTA.kl_names)
        for term in (elbo.nll, *elbo.kl, *elbo.diagnostics.values()):
            assert term.dtype == tf.float32
            assert term.shape[0] == 2
            assert np.isfinite(term).all()


# --- the published algorithm, frame by frame, in NumPy -------------------------------------------


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def gru(layer, x, h):
    kernel, recurrent, (bias, recurrent_bias) = (w.numpy() for w in layer.weights)
    xz, xr, xc = np.split(x @ kernel + bias, 3, -1)
    hz, hr, hc = np.split(h @ recurrent + recurrent_bias, 3, -1)
    z = sigmoid(xz + hz)
    return z * h + (1 - z) * np.tanh(xc + sigmoid(xr + hr) * hc)


def linear(layer, *parts):
    return np.concatenate(parts, -1) @ layer.kernel.numpy() + layer.bias.numpy()


def belief(layer, *parts):
    mean, stddev = np.split(linear(layer, *parts), 2, -1)
    return mean, sigmoid(stddev)


def plain_passes(model, features, m):
    """Runs the posterior's passes, m [T, B, 2]. Entry t of a result is after reading frame t."""
    length, batch, _ = features.shape
    fwd, bwd, low = ([None] * length for _ in range(3))
    abs_fwd = abs_bwd = obs_fwd = np.zeros((batch, model.belief_size))
    for t in range(length):
        fwd[t] = abs_fwd = gru(model.abs_forward, features[t], abs_fwd)
        low[t] = obs_fwd = gru(model.obs_forward, features[t], m[t, :, 1:] * obs_fwd)
    for t in reversed(range(length)):
        bwd[t] = abs_bwd = gru(model.abs_backward, features[t], abs_bwd)
        abs_bwd = m[t, :, 1:] * abs_bwd
    return fwd, bwd, low


def zero_states(model, batch):
    """Returns c, z, h and s before the first frame."""
    sizes = (model.belief_size, model.state_size) * 2
    return (np.zeros((batch, size)) for size in sizes)


def forced(model, m):
    m = m.copy()
    m[: model.init_size + 1] = m[-model.init_size :] = [1, 0]
    return m


def plain_infer(model, features, m, abs_noise, obs_noise):
    """Runs the posterior: features [T, B, F], m [T, B, 2] before forced reads, noise [N, B, S]."""
    m = forced(model, m)
    fwd, bwd, low = plain_passes(model, features, m)
    c, z, h, s = zero_states(model, m.shape[1])
    out = collections.defaultdict(list)
    for n, t in enumerate(range(model.init_size, len(features) - model.init_size)):
        read, copy = m[t, :, :1], m[t, :, 1:]
        mean, stddev = belief(model.abs_posterior, fwd[t - 1], bwd[t])
        out["abs_posterior"].append((mean, stddev))
        sample = mean + stddev * abs_noise[n]
        c = read * gru(model.abs_update, z, c) + copy * c if n else fwd[t - 1]
        z = read * sample + copy * z
        a = linear(model.abs_feature, c, z)
        h = read * a + copy * gru(model.obs_update, np.concatenate([s, a], -1), h)
        mean, stddev = belief(model.obs_posterior, low[t], a)
        s = mean + stddev * obs_noise[n]
        f = linear(model.obs_feature, h, s)
        out["obs_posterior"].append((mean, stddev))
        out["abs_prior"].append(belief(model.abs_prior, c))
        out["obs_prior"].append(belief(model.obs_prior, h))
        out["features"].append(f)
        out["reads"].append(read[:, 0])
        out["next_prior"].append(linear(model.boundary_prior, f))
    return {name: np.array(values) for name, values in out.items()}


def plain_imagine(model, abs_belief, abs_noise, obs_noise):
    """Runs the prior from the context's belief, noise [N, B, S], and returns all states."""
    _, z, h, s = zero_states(model, len(abs_belief))
    out = collections.defaultdict(list)
    c, read = abs_belief, np.ones((len(abs_belief), 1))
    for n in range(len(abs_noise)):
        copy = 1 - read
        if n:
            c = read * gru(model.abs_update, z, c) + copy * c
        mean, stddev = belief(model.abs_prior, c)
        z = read * (mean + stddev * abs_noise[n]) + copy * z
        a = linear(model.abs_feature, c, z)
        h = read * a + copy * gru(model.obs_update, np.concatenate([s, a], -1), h)
        mean, stddev = belief(model.obs_prior, h)
        s = mean + stddev * obs_noise[n]
        f = linear(model.obs_feature, h, s)
        for name, value in dict(c=c, z=z, h=h, s=s, features=f, reads=read[:, 0] > 0).items():
            out[name].append(value)
        logits = linear(model.boundary_prior, f)
        read = (logits[:, :1] >= logits[:, 1:]).astype(float)
    return {name: np.array(values) for name, values in out.items()}


class Drawn(NamedTuple):
    """Given noise, [N, B, S]."""

    abstraction: np.ndarray
    observation: np.ndarray

    def normal(self, number, *shape):
        assert self[number].shape == shape
        return self[number]


class Means:
    """Zero noise."""

    def normal(self, number, *shape):
        return tf.zeros(shape)


MEANS = Means()

# Boundaries of 13 frames, the middle 9 set apart: r read, c copy. The model must override those at
# the ends and the first of the middle.
SEQUENCES = (
    "cc ccrcccrcr rr",
    "rr rcccccccc cc",
    "cr rrrrrrrrr cr",
    "rc crccccccr cc",
)


def set_boundaries(monkeypatch, model, sequences=SEQUENCES):
    """Makes the detector return these boundaries, nearly certain, and returns m [T, B, 2]."""
    signs = np.array([list(sequence.replace(" ", "")) for sequence in sequences])
    m = np.stack([signs == "r", signs == "c"], -1).astype(np.float32)
    logits = tf.constant(60 * m - 30)
    monkeypatch.setattr(model.boundary_posterior, "logits", lambda *_: logits, raising=True)
    return m.transpose(1, 0, 2)


@pytest.mark.parametrize("sampled", [False, True])
def test_the_posterior_equals_the_published_algorithm(monkeypatch, sampled):
    model, video = sharpen(build(), 2.0), tf.constant(clips(13, batch=len(SEQUENCES)))
    m = set_boundaries(monkeypatch, model)
    noise = Noise(tf.constant([3, 0], tf.int64))
    drawn = [noise.normal(number, 9, 4, 3).numpy() for number in range(2)]
    temperature = tf.constant(0.5) if sampled else None
    got = model.infer(video, noise, temperature)
    features = model.encoder.features(video, None).numpy().transpose(1, 0, 2)
    want = plain_infer(model, features, m, *drawn)
    for name, value in want.items():
        array = getattr(got, name)
        if isinstance(array, tuple):
            array = tf.stack(array[:2], 1)
        np.testing.assert_allclose(array, value, rtol=1e-3, atol=1e-4, err_msg=name)
    np.testing.assert_array_equal(
        got.reads,
        [
            [sign == "r" for sign in row]
            for row in zip("rcrcccrcr", "rcccccccc", "rrrrrrrrr", "rrccccccr", strict=True)
        ],
    )
    np.testing.assert_array_equal(got.next_posterior, 60 * m[3:12] - 30)  # not forced
    # The kinds of latents draw different noise.
    assert np.abs(drawn[0] - drawn[1]).min() > 0


def test_reads_cut_off_the_passes_of_the_posterior(monkeypatch):
    # Row t of the batch differs from the last row in the features of frame t.
    model, length = sharpen(build(), 2.0), 13
    set_boundaries(monkeypatch, model, ["rr rccrcccrc rr"] * (length + 1))
    features = np.repeat(np.random.default_rng(0).normal(size=(1, length, 5)), length + 1, 0)
    features[range(length), range(length)] += 1
    features = tf.constant(features, tf.float32)
    monkeypatch.setattr(model.encoder, "features", lambda *_: features)
    inference = model.infer(tf.zeros((length + 1, length, 32, 32, 1)), MEANS)
    # Segments of the middle frames 0..8: [0, 3), [3, 7), [7, 9).
    middle, ends = np.arange(9)[:, None], np.repeat([3, 7, 9], [3, 4, 2])[:, None]
    frame = np.arange(length) - model.init_size
    # z reads all frames before it and those up to the end of its segment; so does s, through z.
    want = (frame < middle) | (frame < ends)
    for posterior in inference.abs_posterior, inference.obs_posterior:
        mean = posterior.mean.numpy()
        effect = np.abs(mean[:, :-1] - mean[:, -1:]).max(-1)
        assert effect[want].min() > 1e-3
        assert effect[~want].max() < 1e-5  # Rows of a product are rounded differently.


def test_both_ends_are_forced_reads(monkeypatch):
    model, video = build(), tf.constant(clips(9, batch=2))
    set_boundaries(monkeypatch, model, ["cc ccccc cc"] * 2)
    reads = model.infer(video, MEANS).reads.numpy()
    np.testing.assert_array_equal(reads, [[1, 1]] + [[0, 0]] * 4)
    # The last frames close the last segment, so the backward pass does not read them.
    later = video.numpy().copy()
    later[:, -2:] = 1 - later[:, -2:]
    for one, other in zip(
        model.infer(video, MEANS)[:4], model.infer(tf.constant(later), MEANS)[:4], strict=True
    ):
        np.testing.assert_array_equal(one.mean, other.mean)


def test_states_are_held_reset_and_updated(monkeypatch):
    model, video = build(), tf.constant(clips(13, batch=len(SEQUENCES)))
    set_boundaries(monkeypatch, model)
    abs_noise, obs_noise = np.random.default_rng(0).normal(size=(2, 9, 4, 3)).astype(np.float32)
    inference = model.infer(video, Drawn(abs_noise, obs_noise))
    reads, beliefs = inference.reads.numpy() > 0, inference.abs_prior.mean.numpy()
    moved = np.abs(np.diff(beliefs, axis=0)).max(-1) > 0
    np.testing.assert_array_equal(moved, reads[1:])
    # At a read the lower level's belief depends on the abstraction only, not on its old state.
    other = model.infer(video, Drawn(abs_noise, -obs_noise)).obs_prior.mean
    same = np.all(other == inference.obs_prior.mean, -1)
    np.testing.assert_array_equal(same, reads)


# --- the terms of the ELBO -----------------------------------------------------------------------


def test_the_kl_of_the_abstraction_counts_at_reads_only(monkeypatch):
    model, video = build(), tf.constant(clips(13, batch=len(SEQUENCES)))
    set_boundaries(monkeypatch, model)
    elbo = model.elbo(video, 0)
    inference = model.infer(video, Noise(tf.constant([0, 0], tf.int64)))
    want = inference.abs_posterior.kl(inference.abs_prior) * inference.reads
    np.testing.assert_allclose(elbo.kl[0], tf.transpose(want), rtol=1e-5)
    np.testing.assert_array_equal(elbo.kl[0].numpy() > 0, tf.transpose(inference.reads) > 0)
    assert np.all(elbo.kl[1] > 0)
    reads = np.array([4, 1, 9, 3])
    diagnostics = elbo.diagnostics
    np.testing.assert_allclose(diagnostics["boundary/read_share"], reads / 9, rtol=1e-6)
    np.testing.assert_allclose(diagnostics["boundary/segment_length"], 9 / reads, rtol=1e-6)
    per_read = diagnostics["boundary/abstraction_kl_per_read"]
    np.testing.assert_allclose(per_read, np.sum(elbo.kl[0], 1) / reads, rtol=1e-5)


def test_the_reads_that_weight_the_kl_have_no_gradient():
    model, video = build(), tf.constant(clips(7))
    with tf.GradientTape() as tape:
        inference = model.infer(
            video, Noise(tf.constant([0, 0], tf.int64)), tf.constant(0.9), statistics={}
        )
        reads = tf.reduce_sum(inference.reads)
    weights = model.boundary_posterior.trainable_weights
    assert all(gradient is None for gradient in tape.gradient(reads, weights))


def test_the_boundary_term_is_a_log_ratio_in_training_and_the_kl_otherwise():
    # At most two segments of one frame, so that the limits apply.
    options = dict(max_segments=3, max_segment_length=2, temperature_steps=0.5)
    model, video = build(**options), tf.constant(clips(13))
    step = tf.constant(100, tf.int64)
    temperature = 0.9 * 0.999 ** (100 / 0.5) + 0.1
    elbo = model.elbo(video, 7, step=step)
    np.testing.assert_allclose(
        elbo.diagnostics["boundary/temperature"], [temperature] * 2, rtol=1e-5
    )
    inference = model.infer(
        video, Noise(tf.constant([7, 0], tf.int64)), tf.constant(temperature, tf.float32), {}
    )
    prior = boundaries.limited(inference.next_prior, inference.reads, 3, 2)
    assert np.any(prior != inference.next_prior)

    def log_density(logits):
        scores = logits.numpy() - temperature * inference.next_log_sample.numpy()
        return (
            math.log(temperature) + scores.sum(-1) - 2 * np.logaddexp(*np.moveaxis(scores, -1, 0))
        )

    want = log_density(inference.next_posterior) - log_density(prior)
    np.testing.assert_allclose(elbo.kl[2], want.T, rtol=1e-3, atol=1e-3)

    inference = model.infer(video, Noise(tf.constant([7, 0], tf.int64)))
    log_q, log_p = (
        logits - np.logaddexp(logits[..., :1], logits[..., 1:])
        for logits in (inference.next_posterior.numpy(), inference.next_prior.numpy())
    )
    want = np.sum(np.exp(log_q) * (log_q - log_p), -1)
    elbo = model.elbo(video, 7)
    np.testing.assert_allclose(elbo.kl[2], want.T, rtol=1e-4, atol=1e-6)
    assert "boundary/temperature" not in elbo.diagnostics


@pytest.mark.parametrize("temperature", [None, 0.5])
@pytest.mark.parametrize("jit", [False, True])
def test_the_boundary_term_compiles(temperature, jit):
    model, video = build(max_segments=3, max_segment_length=2), tf.constant(clips(13))
    if temperature is not None:
        temperature = tf.constant(temperature)
    inference = model.infer(video, Noise(tf.constant([7, 0], tf.int64)), temperature)
    logits = inference.next_posterior, inference.next_prior

    def term_and_gradients(*logits):
        with tf.GradientTape() as tape:
            tape.watch(logits)
            replaced = inference._replace(next_posterior=logits[0], next_prior=logits[1])
            term = model._boundary_kl(replaced, temperature)
        return term, *tape.gradient(term, logits)

    compiled = tf.function(term_and_gradients, jit_compile=jit)
    for got, want in zip(compiled(*logits), term_and_gradients(*logits), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def test_the_likelihood_of_the_middle_frames_in_units_of_0_to_1():
    model, video = build(decoder_stddev=0.3), clips(7)
    inference = model.infer(tf.constant(video), Noise(tf.constant([5, 0], tf.int64)))
    mean = model.decode(inference.features).numpy()
    assert mean.min() > 0
    assert mean.max() < 1
    density = -0.5 * ((video[:, 2:5] - mean) / 0.3) ** 2 - np.log(0.3 * np.sqrt(2 * np.pi))
    nll = model.elbo(video, 5).nll
    np.testing.assert_allclose(nll, -density.sum((2, 3, 4)), rtol=1e-5)


def test_training_normalizes_by_the_batch_and_reports_its_statistics():
    model, video = build(), clips(5)
    training, evaluating = (model.elbo(video, 0, step=step) for step in (STEP, None))
    weights = model.non_trainable_weights
    assert [part.shape for part in training.statistics] == [weight.shape for weight in weights]
    assert evaluating.statistics == ()
    for weight, target in zip(weights, training.statistics, strict=True):
        weight.assign(target)
    np.testing.assert_array_equal(model.elbo(video, 0, step=STEP).nll, training.nll)
    assert np.abs(model.elbo(video, 0).nll - evaluating.nll).max() > 1e-3


def test_gradients_reach_every_variable():
    model, video = build(), tf.constant(clips(8))
    detector = model.boundary_posterior.trainable_weights
    with tf.GradientTape(persistent=True) as tape:
        elbo = model.elbo(video, 0, step=STEP)
        loss = training_loss(elbo, (1.0, 1.0, 1.0))
        likelihood = tf.reduce_sum(elbo.nll)
    gradients = tape.gradient(loss, model.trainable_weights), tape.gradient(likelihood, detector)
    # The likelihood alone also reaches the boundaries' posterior, through the samples.
    for weights, found in zip((model.trainable_weights, detector), gradients, strict=True):
        for weight, gradient in zip(weights, found, strict=True):
            assert gradient is not None, weight.path
            assert np.abs(gradient).max() > 0, weight.path


def test_uint8_frames_are_scaled():
    video = (clips(5) * 255).astype(np.uint8)
    model = build()
    scaled = model.elbo(video.astype(np.float32) / 255, 0)
    np.testing.assert_allclose(model.elbo(video, 0).nll, scaled.nll, rtol=1e-6)


def test_a_batch_in_parts_draws_the_same_latents_as_in_one_piece():
    model, video = build(), tf.constant(clips(6, batch=5))
    whole = model.elbo(video, 3)
    parts = [model.elbo(video[i : i + 2], 3, row=i) for i in (0, 2, 4)]
    np.testing.assert_allclose(whole.nll, np.concatenate([p.nll for p in parts]), rtol=1e-5)
    for i, kl in enumerate(whole.kl):
        got = np.concatenate([part.kl[i] for part in parts])
        np.testing.assert_allclose(kl, got, rtol=1e-3, atol=1e-5)
    noise = Noise(tf.constant([3, 0], tf.int64))
    chosen = [
        model.infer(video[first:], noise, tf.constant(0.5)).next_log_sample[:, -1]
        for noise, first in ((noise, 0), (noise._replace(row=3), 3))
    ]
    np.testing.assert_allclose(*chosen, rtol=1e-4, atol=1e-4)


def test_bfloat16_networks_agree_with_float32_and_return_float32():
    video = clips(6)
    exact = build(feature_size=16).elbo(video, 0)
    rough = build(feature_size=16, precision="mixed_bfloat16").elbo(video, 0)
    assert rough.nll.dtype == tf.float32
    np.testing.assert_allclose(rough.nll, exact.nll, rtol=0.01)
    for got, want in zip(rough.kl[1:], exact.kl[1:], strict=True):
        np.testing.assert_allclose(got, want, rtol=0.2, atol=0.02)
    trained = build(precision="mixed_bfloat16").elbo(video, 0, step=STEP)
    assert all(np.isfinite(part).all() for part in (trained.nll, *trained.kl))


# --- reconstruction and prediction ----------------------------------------------------------------


def test_reconstruction_covers_the_middle_frames():
    model, video = build(), clips(7)
    got = model.reconstruct(video, 0, clip=False)
    np.testing.assert_array_equal(got[:, :2], video[:, :2])
    np.testing.assert_array_equal(got[:, -2:], video[:, -2:])
    noise = Noise(tf.constant([0, 0], tf.int64))
    want = model.decode(model.infer(tf.constant(video), noise).features)
    np.testing.assert_allclose(got[:, 2:-2], want, atol=1e-5)
    np.testing.assert_array_equal(got, model.reconstruct(video, 0, clip=False))
    assert np.abs(got - model.reconstruct(video, 1, clip=False)).max() > 0


def test_boundaries_of_a_video_are_those_of_the_posterior_without_forced_reads():
    model = build()
    for length in (1, 13):
        video = clips(length, batch=4)
        around = np.concatenate([video[:, [0, 0]], video, video[:, [-1, -1]]], 1)
        features = model.encoder.features(tf.constant(around), None)
        logits = model.boundary_posterior.logits(features, None)[:, 2:-2].numpy()
        # About as many reads as copies.
        bias = model.boundary_posterior.convolutions[-1].bias
        shift = np.float32(-np.median(logits[..., 0] - logits[..., 1]))
        bias.assign(bias + tf.stack([shift, 0.0]))
        want = logits[..., 0] + shift > logits[..., 1]
        want[:, 0] = True
        got = model.boundaries(video, 0)
        assert got.dtype == tf.bool
        np.testing.assert_array_equal(got, want)
    assert 0.3 < np.mean(want) < 0.7
    assert not np.all(got[:, :3])
    assert not np.all(got[:, -2:])


@pytest.fixture(scope="module")
def restless():
    """A model that predicts segments of several lengths. Tests must not change it."""
    model = sharpen(build(), 3.0)
    model.boundary_prior.kernel.assign(model.boundary_prior.kernel * 3)
    return model


def test_a_prediction_equals_the_published_algorithm(restless):
    context, horizon = tf.constant(clips(4, batch=3)), 70
    rollouts = list(restless.predict_chunks(context, horizon, 5))
    assert [rollout.frames.shape[1] for rollout in rollouts] == [64, 6]
    assert rollouts[0].boundaries.dtype == tf.bool
    features = restless.encoder.features(context, None).numpy().transpose(1, 0, 2)
    abs_belief = plain_passes(restless, features, np.zeros((4, 3, 2)))[0][-1]
    noise = [Noise(tf.constant([5, 0], tf.int64)).fold_in(n) for n in range(2)]
    drawn = [
        np.concatenate([chunk.normal(number, 64, 3, 3) for chunk in noise])[:horizon]
        for number in range(2)
    ]
    want = plain_imagine(restless, abs_belief, *drawn)
    got = np.concatenate([rollout.boundaries for rollout in rollouts], 1)
    np.testing.assert_array_equal(got, want["reads"].T)
    assert np.all(got[:, 0])
    assert 0.05 < np.mean(got) < 0.95
    frames = restless.decode(tf.constant(want["features"], tf.float32))
    got = tf.concat([rollout.frames for rollout in rollouts], 1)
    np.testing.assert_allclose(got, frames, atol=1e-3)


def test_boundaries_are_reported_where_the_state_jumps(restless):
    start = restless.observe(tf.constant(clips(4, batch=3)))
    states, _ = restless.imagine(start, 40, Noise(tf.constant([5, 0], tf.int64)))
    reads = np.concatenate([start.boundary[None], states.boundary[:-1]])[..., boundaries.READ] > 0
    assert np.all(reads[0])
    jumps = np.any(np.diff(states.abs_state, axis=0), -1)
    np.testing.assert_array_equal(jumps, reads[1:])
    assert 0.05 < np.mean(jumps) < 0.95


def test_predictions_without_boundaries_and_with_boundaries_only():
    model = build()
    for bias, want in (([9.0, 0.0], True), ([0.0, 9.0], False)):
        model.boundary_prior.bias.assign(bias)
        (rollout,) = model.predict_chunks(clips(1), 6, 0)
        assert np.all(rollout.boundaries[:, 0])
        assert np.all(rollout.boundaries[:, 1:] == want)


def test_a_prediction_depends_on_all_of_the_context_and_nothing_else(restless):
    context = clips(4, batch=3)
    prediction = restless.predict(context, 6, 0)
    for frame in range(4):
        changed = context.copy()
        changed[:, frame] = 1 - changed[:, frame]
        assert np.abs(restless.predict(changed, 6, 0) - prediction).max() > 0
    # Later frames do not matter, neither those of the video nor the number of predicted ones.
    longer = np.concatenate([context, clips(6, batch=3, seed=1)], 1)
    np.testing.assert_array_equal(restless.predict(longer[:, :4], 70, 0)[:, :6], prediction)


def test_a_prediction_with_batch_statistics(restless):
    context = tf.constant(clips(4, batch=3))
    state = restless.observe(context, True)
    features = restless.encoder.features(context, {}).numpy().transpose(1, 0, 2)
    want = plain_passes(restless, features, np.zeros((4, 3, 2)))[0][-1]
    np.testing.assert_allclose(state.abs_belief, want, rtol=1e-3, atol=1e-4)
    got = restless.predict(context, 6, 0, clip=False, batch_statistics=True)
    _, features = restless.imagine(state, 6, Noise(tf.constant([0, 0], tf.int64)).fold_in(0))
    np.testing.assert_allclose(got, restless.decode(features, {}), atol=1e-4)
    with pytest.raises(ValueError, match="at least 2 clips"):
        restless.predict(context[:1], 6, 0, batch_statistics=True)


def test_the_same_seed_gives_the_same_bits_and_another_seed_other_samples(restless):
    video = clips(4, batch=3)
    for of_seed in (
        lambda seed: restless.predict(video, 70, seed),
        lambda seed: build(init_size=1).elbo(video, seed, step=STEP).kl[2],
    ):
        one, same, other = map(of_seed, (1, 1, 2))
        np.testing.assert_array_equal(one, same)
        assert np.abs(one - other).max() > 1e-5


# --- learning ------------------------------------------------------------------------------------


def train(model, batch, steps, learning_rate):
    """Trains on batch(n) and returns each step's loss minus the loss of a perfect prediction."""
    optimizer = Adam(model.trainable_variables, learning_rate, 1e-8)
    pixels = np.prod(model.encoder.frame_shape)
    best = pixels * (np.log(model.decoder_stddev) + 0.5 * np.log(2 * np.pi))

    @tf.function
    def step(video, number):
        with tf.GradientTape() as tape:
            elbo = model.elbo(video, tf.stack([number, 0]), step=number)
            loss = training_loss(elbo, (1.0, 1.0, 1.0))
        gradients = tape.gradient(loss, model.trainable_variables)
        gradients, norm = tf.clip_by_global_norm(gradients, 10.0)
        optimizer.apply(gradients, tf.math.is_finite(norm))
        for weight, target in zip(model.non_trainable_weights, elbo.statistics, strict=True):
            weight.assign(weight + 0.1 * (target - weight))
        return loss

    numbers = (tf.constant(n, tf.int64) for n in range(steps))
    return [float(step(tf.constant(batch(n)), number)) - best for n, number in enumerate(numbers)]


def moving_squares():
    """Returns four clips of a bright square: two starting places, two directions."""
    video = np.zeros((4, 14, 32, 32, 1), np.float32)
    for clip, (start, speed) in enumerate([(2, 1), (22, -1), (2, 2), (24, -2)]):
        for t in range(14):
            x = min(max(start + speed * t, 0), 24)
            video[clip, t, 10:18, x : x + 8] = 1.0
    return video


@pytest.mark.slow
def test_learning_overfits_four_clips():
    keras.utils.set_random_seed(0)
    model = VTA(
        frame_size=32,
        channels=1,
        belief_size=32,
        feature_size=32,
        init_size=2,
        temperature_steps=1.0,
    )
    video = moving_squares()
    losses = train(model, lambda n: video, 300, 2e-3)
    assert losses[0] > 500
    assert np.mean(losses[-10:]) < 30  # Nats per frame above a perfect prediction.
    error = np.mean(np.square(model.reconstruct(video, 0) - video)[:, 2:-2])
    assert error < 0.1 * np.var(video)


def cut_clips(rng, count, length=26):
    """Makes clips of 4x4 random patches that change at cuts, every 8 frames at a random phase.

    Returns:
      The clips, and where the cuts are, bool [B, T].
    """
    phase = rng.integers(8, size=(count, 1))
    segment = (np.arange(length) + phase) // 8
    scenes = rng.random((count, segment.max() + 1, 4, 4, 1), np.float32)
    video = scenes[np.arange(count)[:, None], segment].repeat(8, 2).repeat(8, 3)
    return video, np.diff(segment, axis=1, prepend=segment[:, :1] - 1) > 0


@pytest.mark.slow
def test_boundaries_fall_on_cuts():
    # The limits do not reveal the cuts: five segments of up to 20 frames, in 20 frames. Seeds 1 and
    # 2 pass, too; one takes minutes.
    keras.utils.set_random_seed(0)
    model = VTA(
        frame_size=32,
        channels=1,
        belief_size=32,
        feature_size=32,
        init_size=3,
        max_segment_length=20,
        temperature_steps=1.0,
    )
    rng = np.random.default_rng([1, 0])
    train(model, lambda n: cut_clips(rng, 16)[0], 400, 2e-3)
    video, cuts = cut_clips(np.random.default_rng(0), 64)
    found, cuts = model.boundaries(video, 0)[:, 1:].numpy(), cuts[:, 1:]
    precision, recall = np.sum(found & cuts) / np.sum(found), np.sum(found & cuts) / np.sum(cuts)
    assert precision > 0.75  # By chance: one in eight.
    assert recall > 0.9
