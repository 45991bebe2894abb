"""SVG-LP: parameter counts, recurrent nets in NumPy, losses, predictions, learning."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from cwvae.baselines import svg
from cwvae.baselines.svg import SVG, stddev_of_beta
from cwvae.distributions import Noise
from cwvae.training.optimizer import Adam
from cwvae.video_model import training_loss

# Odd and distinct sizes, so that swapped axes fail.
SIZES = dict(
    network="dcgan",
    frame_size=32,
    channels=1,
    feature_size=11,
    hidden_size=7,
    stochastic_size=5,
    decoder_stddev=0.5,
    context=3,
    channel_multiplier=0.125,
)


def fresh(**options):
    keras.utils.set_random_seed(0)
    return SVG(**SIZES | options)


def build(**options):
    """Returns a model with weights so large that every output depends on every input."""
    model, rng = fresh(**options), np.random.default_rng(0)
    for weight in model.weights:
        name, shape = weight.path.split("/")[-1], weight.shape
        if name.endswith("kernel"):
            weight.assign(rng.normal(0, 2 / np.sqrt(np.prod(shape[:-1])), shape))
        elif name.startswith("moving"):
            weight.assign(rng.uniform(0.5, 1.5, shape))
    return model


@pytest.fixture(scope="module")
def model():
    """A model for all tests that do not change it, so that predictions are traced once."""
    return build()


def clips(length=7, batch=2, channels=1, size=32, seed=0):
    rng = np.random.default_rng(seed)
    return rng.random((batch, length, size, size, channels)).astype(np.float32)


# Sizes.


def weights_of_convolutions(network, channels):
    """Counts those of encoder and decoder at 64x64 with g = 128."""
    # Each as (kernel area, inputs, outputs).
    if network == "dcgan":
        normalized = [(16, channels, 64), (16, 64, 128), (16, 128, 256), (16, 256, 512)]
        normalized += [(16, 512, 128), (16, 128, 512)]
        normalized += [(16, 1024, 256), (16, 512, 128), (16, 256, 64)]
        last = (16, 128, channels)
    else:
        normalized = [(9, channels, 64), (9, 64, 64), (9, 64, 128), (9, 128, 128)]
        normalized += [(9, 128, 256), (9, 256, 256), (9, 256, 256)]
        normalized += [(9, 256, 512), (9, 512, 512), (9, 512, 512)]
        normalized += [(16, 512, 128), (16, 128, 512)]
        normalized += [(9, 1024, 512), (9, 512, 512), (9, 512, 256)]
        normalized += [(9, 512, 256), (9, 256, 256), (9, 256, 128)]
        normalized += [(9, 256, 128), (9, 128, 64), (9, 128, 64)]
        last = (9, 64, channels)
    # Kernel, bias, scale and shift.
    total = sum(area * inputs * outputs + 3 * outputs for area, inputs, outputs in normalized)
    return total + last[0] * last[1] * last[2] + last[2]


@pytest.mark.parametrize(
    ("network", "channels", "published"),
    [
        ("dcgan", 1, 12_614_057),
        ("dcgan", 3, 12_620_203),
        ("vgg", 1, 22_760_105),
        ("vgg", 3, 22_762_411),
    ],
)
def test_parameter_counts(network, channels, published):
    model = SVG(
        network=network,
        frame_size=64,
        channels=channels,
        feature_size=128,
        hidden_size=256,
        stochastic_size=10,
        decoder_stddev=1.0,
        context=2,
    )
    lstm = 2 * 256 * 4 * 256 + 4 * 256  # PyTorch has 4 * 256 more biases.
    belief = (128 + 1) * 256 + lstm + (256 + 1) * 20
    predictor = (128 + 10 + 1) * 256 + 2 * lstm + (256 + 1) * 128
    by_hand = weights_of_convolutions(network, channels) + 2 * belief + predictor
    got = sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)
    assert got == by_hand == published - 4 * 4 * 256
    assert len({weight.path for weight in model.weights}) == len(model.weights)


@pytest.mark.parametrize("network", ["dcgan", "vgg"])
@pytest.mark.parametrize(("size", "channels"), [(32, 3), (64, 1), (128, 3)])
def test_both_networks_run_at_every_size(network, size, channels):
    model = build(network=network, frame_size=size, channels=channels, channel_multiplier=0.0625)
    video = clips(4, size=size, channels=channels)
    elbo = model.elbo(video, 0, step=tf.constant(0, tf.int64))
    assert len(elbo.kl) == len(model.kl_names) == 1
    assert set(elbo.diagnostics) == {"prior_entropy/latent", "posterior_entropy/latent"}
    for term in (elbo.nll, *elbo.kl, *elbo.diagnostics.values()):
        assert term.shape == (2, 3)
        assert term.dtype == tf.float32
        assert np.isfinite(term).all()
    shapes = [weight.shape for weight in model.non_trainable_weights]
    assert [target.shape for target in elbo.statistics] == shapes


def test_vgg_predicts_and_reconstructs():
    model, video = build(network="vgg", channels=3), clips(4, channels=3)
    assert model.predict(video, 2, 0).shape == (2, 2, 32, 32, 3)
    assert model.reconstruct(video, 0).shape == video.shape


def test_wrong_input_raises_clear_errors(model):
    with pytest.raises(ValueError, match="at least 2 frames"):
        model.elbo(clips(1), 0)
    with pytest.raises(ValueError, match=r"frames of \(32, 32, 1\), not \(64, 64, 1\)"):
        model.elbo(clips(size=64), 0)
    with pytest.raises(ValueError, match="horizon must be at least 1, not 0"):
        model.predict(clips(), 0, 0)
    with pytest.raises(ValueError, match="at least 2 clips"):
        model.predict(clips(batch=1), 1, 0, batch_statistics=True)
    with pytest.raises(ValueError, match="context must be at least 1, not 0"):
        build(context=0)


# The teacher-forced pass.


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def recurrent_net(net, inputs):
    """Runs a linear layer, LSTMs from the zero state and a linear layer, frame by frame."""
    kernel, bias = (weight.numpy() for weight in net.enter.weights)
    x = [frame @ kernel + bias for frame in inputs]
    for layer in net.lstms:
        kernel, recurrent, bias = (weight.numpy() for weight in layer.weights)
        h = c = np.zeros((len(x[0]), len(recurrent)))
        for t, frame in enumerate(x):
            enter, forget, candidate, leave = np.split(
                frame @ kernel + h @ recurrent + bias, 4, axis=-1
            )
            c = sigmoid(forget) * c + sigmoid(enter) * np.tanh(candidate)
            x[t] = h = sigmoid(leave) * np.tanh(c)
    kernel, bias = (weight.numpy() for weight in net.leave.weights)
    return np.stack([frame @ kernel + bias for frame in x])


@pytest.mark.parametrize("compiled", [False, True])
def test_the_recurrent_nets_against_numpy(compiled):
    model, rng = build(), np.random.default_rng(1)
    for net in (model.posterior, model.prior, model.predictor):
        for layer in (net.enter, net.leave):
            layer.bias.assign(rng.normal(0, 0.5, layer.bias.shape))
    features = rng.uniform(-1, 1, (6, 2, 11)).astype(np.float32)
    noise = Noise(tf.constant([3, 0], tf.int64))
    run = tf.function(model.teacher_forced) if compiled else model.teacher_forced
    passed = run(tf.constant(features), noise)

    beliefs = []
    for net, inputs in ((model.posterior, features[1:]), (model.prior, features[:-1])):
        mean, log_variance = np.split(recurrent_net(net, inputs), 2, axis=-1)
        beliefs.append((mean, np.sqrt(np.exp(log_variance))))
    (mean, stddev), _ = beliefs
    latents = mean + stddev * noise.normal(0, 5, 2, 5).numpy()
    inputs = np.concatenate([features[:-1], latents], -1)
    outputs = np.tanh(recurrent_net(model.predictor, inputs))

    np.testing.assert_allclose(passed.outputs, outputs, rtol=1e-4, atol=1e-5)
    for got, want in zip((passed.posterior, passed.prior), beliefs, strict=True):
        np.testing.assert_allclose(got.mean, want[0], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(got.stddev, want[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("context", [1, 3, 6, 20])
def test_skips_come_from_the_previous_frame_up_to_the_last_context_frame(context):
    model, frames = build(context=context), tf.constant(clips(7).transpose(1, 0, 2, 3, 4))
    means, passed = model.explain(frames, Noise(tf.constant([0, 0], tf.int64)))
    for t in range(1, 7):
        source = min(t - 1, context - 1)
        _, skips = model.encoder.encode(frames[source : source + 1])
        want = model.decoder.decode(passed.outputs[t - 1 : t], model.decoder.shares(skips))
        np.testing.assert_allclose(means[t - 1], want[0], atol=1e-5)


def test_the_terms_by_hand():
    model, video = build(decoder_stddev=0.3), clips()
    elbo = model.elbo(video, 4)
    frames = tf.constant(video.transpose(1, 0, 2, 3, 4))
    means, passed = model.explain(frames, Noise(tf.constant([4, 0], tf.int64)))
    error = (frames[1:] - means).numpy() / 0.3
    constant = np.log(0.3) + 0.5 * np.log(2 * np.pi)
    nll = np.sum(0.5 * error**2 + constant, axis=(2, 3, 4)).T
    np.testing.assert_allclose(elbo.nll, nll, rtol=1e-4)
    (m, s), (n, r) = (
        (belief.mean.numpy(), belief.stddev.numpy()) for belief in (passed.posterior, passed.prior)
    )
    kl = np.sum(np.log(r / s) + (s**2 + (m - n) ** 2) / (2 * r**2) - 0.5, -1).T
    np.testing.assert_allclose(elbo.kl[0], kl, rtol=1e-3, atol=1e-5)
    reconstruction = model.reconstruct(video, 4)
    np.testing.assert_array_equal(reconstruction[:, 0], video[:, 0])
    np.testing.assert_allclose(reconstruction[:, 1:], means.numpy().swapaxes(0, 1), atol=1e-5)
    np.testing.assert_array_equal(model.reconstruct(video[:, :1], 4), video[:, :1])


def test_the_published_loss_has_proportional_gradients():
    beta, video = 0.02, clips(channels=3)
    model = build(channels=3, decoder_stddev=stddev_of_beta(beta, 32, 3))
    frames = tf.constant(video.transpose(1, 0, 2, 3, 4))
    with tf.GradientTape(persistent=True) as tape:
        elbo = model.elbo(video, 4)
        ours = training_loss(elbo, (1.0,))
        means, passed = model.explain(frames, Noise(tf.constant([4, 0], tf.int64)))
        error = tf.reduce_sum(tf.reduce_mean((frames[1:] - means) ** 2, (1, 2, 3, 4)))
        kl = tf.reduce_sum(passed.posterior.kl(passed.prior)) / 2
        published = error + beta * kl
    weights = model.trainable_weights
    for weight, one, other in zip(
        weights, tape.gradient(ours, weights), tape.gradient(published, weights), strict=True
    ):
        scale = np.abs(other).max()
        assert scale > 0, weight.path  # So gradients reach every weight.
        np.testing.assert_allclose(
            6 * beta * one, other, atol=1e-3 * scale, rtol=1e-3, err_msg=weight.path
        )


def test_every_weight_has_a_gradient_in_training(model):
    video = clips()
    with tf.GradientTape() as tape:
        loss = training_loss(model.elbo(video, 0, step=tf.constant(5)), (1.0,))
    gradients = tape.gradient(loss, model.trainable_weights)
    assert all(gradient is not None for gradient in gradients)


def test_the_terms_of_a_frame_do_not_depend_on_later_frames(model):
    video = clips()
    elbo = model.elbo(video, 0)
    for first in (1, 4, 6):  # The terms start with frame 1.
        changed = video.copy()
        changed[:, first:] = 1 - changed[:, first:]
        other = model.elbo(changed, 0)
        for one, two in ((elbo.nll, other.nll), (elbo.kl[0], other.kl[0])):
            np.testing.assert_array_equal(one[:, : first - 1], two[:, : first - 1])
            assert np.all(one[:, first - 1 :] != two[:, first - 1 :])


def test_a_batch_in_parts_draws_the_same_latents_as_in_one_piece(model):
    video = clips(batch=4)
    whole = model.elbo(video, 3)
    parts = [model.elbo(video[first : first + 2], 3, row=first) for first in (0, 2)]
    np.testing.assert_allclose(whole.nll, np.concatenate([p.nll for p in parts]), rtol=1e-5)
    kl = np.concatenate([part.kl[0] for part in parts])
    np.testing.assert_allclose(whole.kl[0], kl, rtol=1e-3, atol=1e-6)
    other = model.elbo(video[2:], 3)  # Without its place in the batch it draws different ones.
    assert np.abs(other.nll - whole.nll[2:]).max() > 1e-4


def test_training_normalizes_by_the_batch_and_reports_its_statistics():
    model, video = build(), clips(9, batch=4)
    by_batch = model.elbo(video, 0, step=tf.constant(0))
    before = model.elbo(video, 0)
    for weight, target in zip(model.non_trainable_weights, by_batch.statistics, strict=True):
        weight.assign(target)
    after = model.elbo(video, 0)
    assert after.statistics == ()
    np.testing.assert_allclose(after.nll, by_batch.nll, rtol=0.01)
    assert np.abs(before.nll / by_batch.nll - 1).max() > 0.02


def test_bfloat16_agrees_with_float32_and_returns_float32():
    video = clips()
    exact, rough = (
        build(precision=precision).elbo(video, 0, step=tf.constant(0))
        for precision in ("float32", "mixed_bfloat16")
    )
    assert rough.nll.dtype == rough.kl[0].dtype == tf.float32
    np.testing.assert_allclose(rough.nll, exact.nll, rtol=0.01)
    np.testing.assert_allclose(rough.kl[0], exact.kl[0], rtol=0.2, atol=0.02)


# Predictions.


def without_spread(model):
    """Makes the posterior and the prior nearly deterministic."""
    for net in (model.posterior, model.prior):
        kernel, bias = net.leave.weights
        kernel.assign(kernel * np.repeat([1, 0], 5))
        bias.assign(np.repeat([0, -50], 5))
    return model


@pytest.mark.parametrize("context", [1, 4])
def test_a_prediction_equals_a_teacher_forced_pass_over_it(context):
    model, video = without_spread(build(context=context)), clips(context)
    prediction = model.predict(video, 5, 0)
    itself = tf.concat([video, prediction], 1)
    features, skips = model.encoder.encode(tf.transpose(itself, (1, 0, 2, 3, 4)))
    posterior, prior = (
        net.run(inputs, net.zero_state(2))[0][..., :5]
        for net, inputs in ((model.posterior, features[1:]), (model.prior, features[:-1]))
    )
    latents = tf.concat([posterior[: context - 1], prior[context - 1 :]], 0)
    inputs = tf.concat([features[:-1], latents], -1)
    outputs, _ = model.predictor.run(inputs, model.predictor.zero_state(2))
    shares = model.decoder.shares([skip[context - 1 : context] for skip in skips])
    want = model.decoder.decode(tf.tanh(outputs[context - 1 :]), shares)
    np.testing.assert_allclose(prediction, tf.transpose(want, (1, 0, 2, 3, 4)), atol=1e-5)
    assert np.abs(np.diff(prediction, axis=1)).max(axis=(0, 2, 3, 4)).min() > 1e-3


def test_the_same_seed_gives_the_same_bits_and_another_seed_another_video(model):
    video = clips(4)
    one, same, other = (model.predict(video, 5, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert np.abs(one - other).max(axis=(0, 2, 3, 4)).min() > 1e-3


def test_a_prediction_does_not_depend_on_chunks_or_horizon(monkeypatch):
    def same(noise, number, steps, batch, size):  # Whatever the number of the chunk.
        return tf.zeros((steps, batch, size))

    monkeypatch.setattr(Noise, "normal", same)
    model, video = build(), clips(4)
    prediction = model.predict(video, 5, 0)
    assert prediction.shape[1] == 5
    monkeypatch.setattr(svg, "CHUNK", 3)
    model = build()
    chunks = list(model.predict_chunks(video, 5, 0))
    assert [chunk.frames.shape[1] for chunk in chunks] == [3, 2]
    assert all(chunk.boundaries is None for chunk in chunks)
    in_chunks = tf.concat([chunk.frames for chunk in chunks], 1)
    np.testing.assert_array_equal(in_chunks, prediction)
    for horizon in (2, 3):
        np.testing.assert_array_equal(model.predict(video, horizon, 0), prediction[:, :horizon])


def test_a_prediction_depends_on_all_of_the_context_and_nothing_else(model):
    video = clips(7)
    for context in (1, 4):
        prediction = model.predict(video[:, :context], 5, 0)
        future = video.copy()
        future[:, context:] = 1 - future[:, context:]
        np.testing.assert_array_equal(model.predict(future[:, :context], 5, 0), prediction)
        for frame in range(context):
            changed = video[:, :context].copy()
            changed[:, frame] = 1 - changed[:, frame]
            assert np.abs(model.predict(changed, 5, 0) - prediction).max() > 1e-4


def test_predictions_of_clips_depend_on_each_other_with_batch_statistics_only(model):
    video = clips(4)
    changed = np.stack([video[0], 1 - video[1]])
    for together in (False, True):
        one, other = (
            model.predict(context, 5, 0, batch_statistics=together) for context in (video, changed)
        )
        assert np.array_equal(one[0], other[0]) is not together
        assert not np.array_equal(one[1], other[1])


def test_a_prediction_with_batch_statistics():
    # Statistics of the context frame, then those of the predicted frame.
    model, video = without_spread(build()), clips(1, batch=3)
    got = model.predict(video, 1, 0, batch_statistics=True)
    features, skips = model.encoder.encode(tf.constant(video.swapaxes(0, 1)), {})
    latent = model.prior.step(features[0], model.prior.zero_state(3))[0][:, :5]
    inputs = tf.concat([features[0], latent], -1)
    output, _ = model.predictor.step(inputs, model.predictor.zero_state(3))
    want = model.decoder.decode(tf.tanh(output)[None], model.decoder.shares(skips), {})
    np.testing.assert_allclose(got[:, 0], want[0], atol=1e-5)


# Learning.


def train(model, batches, learning_rate=3e-3):
    """Trains on batches [B, T, H, W, C] and returns the losses."""
    optimizer = Adam(model.trainable_weights, learning_rate, 1e-8)

    @tf.function(autograph=False)
    def update(video, number):
        with tf.GradientTape() as tape:
            elbo = model.elbo(video, tf.stack([number, 0]), step=number)
            loss = training_loss(elbo, (1.0,))
        optimizer.apply(tape.gradient(loss, model.trainable_weights), tf.constant(True))
        for weight, target in zip(model.non_trainable_weights, elbo.statistics, strict=True):
            weight.assign(weight + 0.1 * (target - weight))
        return loss

    numbers = range(len(batches))
    return [
        float(update(tf.constant(video), tf.constant(n, tf.int64)))
        for n, video in zip(numbers, batches, strict=True)
    ]


def psnr(prediction, truth):
    return float(np.mean(-10 * np.log10(np.mean((prediction - truth) ** 2, axis=(2, 3, 4)))))


@pytest.mark.slow
def test_learning_overfits_four_clips():
    # A bright square that moves: two positions, two directions.
    video = np.zeros((4, 12, 32, 32, 1), np.float32)
    for clip, (start, speed) in enumerate([(2, 1), (20, -1), (2, 2), (22, -2)]):
        for t in range(12):
            x = min(max(start + speed * t, 0), 24)
            video[clip, t, 10:18, x : x + 8] = 1.0
    model = fresh(feature_size=16, hidden_size=32, decoder_stddev=0.3)
    # The loss of a perfect prediction: the normalization constant.
    best = 32 * 32 * (np.log(0.3) + 0.5 * np.log(2 * np.pi))
    losses = np.array(train(model, [video] * 400)) - best
    assert losses[0] > 1000  # nats per frame; measured: 1410 at the start, 3.4 at the end
    assert np.mean(losses[-10:]) < 20
    assert float(training_loss(model.elbo(video, 0), (1.0,))) - best < 20  # measured: 5.3
    # Repeating the last context frame scores 11.1 dB. Predictions scored 25.5.
    assert psnr(model.predict(video[:, :3], 9, 0), video[:, 3:]) > 20


def scenes(count, seed):
    """Returns frames of four rectangles at random places on a wave, [count, 32, 32, 1]."""
    rng, frames = np.random.default_rng(seed), np.zeros((count, 32, 32, 1), np.float32)
    y, x = np.mgrid[:32, :32] / 32
    for frame in frames[..., 0]:
        a, b, c = rng.uniform(-1, 1, 3)
        frame[:] = 0.4 + 0.2 * np.sin(2 * np.pi * (a * x + b * y + c))
        for _ in range(4):
            (i, j), (height, width) = rng.integers(0, 26, 2), rng.integers(3, 12, 2)
            frame[i : i + height, j : j + width] = rng.random()
    return frames


@pytest.mark.slow
def test_static_scenes_are_copied_through_the_skips():
    model = fresh(hidden_size=16, context=2, decoder_stddev=0.1)
    known, rng = scenes(200, seed=0), np.random.default_rng(1)

    def static(frames, length):
        return np.repeat(frames[:, None], length, 1)

    for steps, learning_rate in ((300, 5e-3), (100, 5e-4)):
        batches = [static(known[rng.integers(0, 200, 16)], 6) for _ in range(steps)]
        train(model, batches, learning_rate)
    # Unseen scenes, from 2 frames. The mean of the training scenes scores 15.2 dB.
    unknown = scenes(20, seed=2)
    truth = static(unknown, 40)
    prediction = model.predict(truth[:, :2], 40, 0)
    assert psnr(prediction, truth) > 32  # dB; measured: 36.0 for all frames and for the last
    assert psnr(prediction[:, -1:], truth[:, -1:]) > 32
    by_clips = model.predict(truth[:, :2], 40, 0, batch_statistics=True)
    assert psnr(by_clips, truth) > 32  # measured: 35.6
