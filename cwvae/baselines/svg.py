"""SVG-LP, stochastic video generation with a learned prior (Denton & Fergus 2018).

With frames x_t, latents z_t, features h_t and skips of an encoder, and three recurrent networks,

    h_t = enc(x_t)
    q_t = q(z_t | x_{1:t}) = N(posterior(h_t))                 for t = 2 ... T
    p_t = p(z_t | x_{1:t-1}) = N(prior(h_{t-1}))
    p(x_t | x_{1:t-1}, z_{2:t}) = N(dec(predictor([h_{t-1}, z_t]), skips), sigma^2)
    ELBO = sum_t E_q[ln p(x_t | x_{1:t-1}, z_{2:t})] - sum_t KL(q_t || p_t)

The first frame has no model. The published loss is, per clip,

    sum_t MSE(x_t) + beta KL(q_t || p_t),    MSE the mean over pixels and channels.

As -ln p(x_t) is MSE(x_t) H W C / (2 sigma^2) and a constant, this is beta times the negative ELBO,
but for a constant, where

    beta = 2 sigma^2 / (H W C).

Departures from the released code: batch normalization in training takes the statistics of all
frames of a batch together, there it takes each time step's apart; skips come from the last frame
that is seen, there from the one before it (or, with `last_frame_skip`, from the frame before each,
be it predicted); predictions use moving
statistics unless asked otherwise, there those of the clips at hand.

In code t counts from 0. Symbols: B batch, T frames, g features, z latents; time-major within.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import tensorflow as tf

from cwvae.baselines import normalization
from cwvae.baselines.svg_networks import Decoder, Encoder, RecurrentNet, stretch
from cwvae.distributions import DiagGaussian, Noise
from cwvae.video_model import (
    CHUNK,
    Elbo,
    Rollout,
    VideoModel,
    as_frames,
    as_seed,
)


def stddev_of_beta(beta: float, frame_size: int, channels: int) -> float:
    """Returns the decoder's standard deviation that stands for a published beta.

    Args:
      beta: Weight of the KL beside a squared error that is a mean over pixels and channels.
      frame_size: Height and width of frames.
      channels: Of frames.
    """
    return math.sqrt(beta * frame_size**2 * channels / 2)


class Carried(NamedTuple):
    """What a prediction carries from frame to frame.

    Attributes:
      features: Of the latest frame, [B, g].
      prior: States of the prior's LSTMs.
      predictor: States of the predictor's LSTMs.
    """

    features: tf.Tensor
    prior: tuple
    predictor: tuple


class Pass(NamedTuple):
    """What a teacher-forced pass computed, for the N frames after the first.

    Attributes:
      outputs: Of the predictor, [N, B, g].
      posterior: q(z_t), [N, B, z].
      prior: p(z_t), [N, B, z].
      states: Of the prior's and of the predictor's LSTMs, at the end.
    """

    outputs: tf.Tensor
    posterior: DiagGaussian
    prior: DiagGaussian
    states: tuple


class SVG(VideoModel):
    """SVG-LP."""

    kl_names = ("latent",)

    def __init__(
        self,
        *,
        network: str,
        frame_size: int,
        channels: int,
        feature_size: int,
        hidden_size: int,
        stochastic_size: int,
        decoder_stddev: float,
        context: int,
        channel_multiplier: float = 1.0,
        precision: str = "float32",
    ):
        """Builds all weights.

        Args:
          network: "dcgan" or "vgg".
          frame_size: Height and width of frames: 32, 64 (as published) or 128.
          channels: Of frames.
          feature_size: g, length of the encoder's features.
          hidden_size: Of the recurrent networks.
          stochastic_size: Length of z.
          decoder_stddev: Standard deviation of p(x | z), in units of [0, 1]; `stddev_of_beta` makes
            one of a published beta.
          context: Frames whose skips a teacher-forced pass uses, from 1: frame t is decoded with
            the skips of frame min(t - 1, context - 1), as a prediction from that many frames would
            be. The released code stops one frame earlier, or with `last_frame_skip` not at all.
            Predictions use the last frame of the context that they are given.
          channel_multiplier: Scales the filters of all convolutions.
          precision: "float32" or "mixed_bfloat16", of the convolutions.
        """
        super().__init__(name="svg")
        if context < 1:
            raise ValueError(f"context must be at least 1, not {context}.")
        self.context, self.decoder_stddev = context, decoder_stddev
        self.stochastic_size = stochastic_size
        convolutional = dict(
            network=network,
            frame_size=frame_size,
            channels=channels,
            feature_size=feature_size,
            channel_multiplier=channel_multiplier,
            precision=precision,
        )
        features, latents, hidden = feature_size, stochastic_size, hidden_size
        self.encoder = Encoder(**convolutional)
        self.posterior = RecurrentNet(features, hidden, 2 * latents, layers=1, name="posterior")
        self.prior = RecurrentNet(features, hidden, 2 * latents, layers=1, name="prior")
        self.predictor = RecurrentNet(
            features + latents, hidden, features, layers=2, name="predictor"
        )
        self.decoder = Decoder(**convolutional)
        self.built = True

    def teacher_forced(self, features: tf.Tensor, noise: Noise) -> Pass:
        """Runs the recurrent networks over frames that are known, from the zero state.

        Args:
          features: Of frames 0 to N, [N + 1, B, g], N from 1.
          noise: Of the latents.
        """
        before, now = features[:-1], features[1:]
        length, batch = now.shape[:2]
        beliefs, _ = self.posterior.run(now, self.posterior.zero_state(batch))
        posterior = _gaussian(beliefs)
        beliefs, prior_states = self.prior.run(before, self.prior.zero_state(batch))
        latents = posterior.sample(noise.normal(0, length, batch, self.stochastic_size))
        outputs, predictor_states = self.predictor.run(
            tf.concat([before, latents], -1), self.predictor.zero_state(batch)
        )
        return Pass(
            tf.tanh(outputs), posterior, _gaussian(beliefs), (prior_states, predictor_states)
        )

    def explain(
        self, frames: tf.Tensor, noise: Noise, statistics: dict | None = None
    ) -> tuple[tf.Tensor, Pass]:
        """Returns the decoder's means of all frames but the first, [T - 1, B, H, W, C], and more.

        Args:
          frames: [T, B, H, W, C], T from 2.
          noise: Of the latents.
          statistics: As for `cwvae.baselines.normalization.BatchNorm`.
        """
        features, skips = self.encoder.encode(frames, statistics)
        passed = self.teacher_forced(features, noise)
        last = min(frames.shape[0] - 1, self.context)
        shares = self.decoder.shares([stretch(skip, 0, last) for skip in skips])
        return self.decoder.decode(passed.outputs, shares, statistics), passed

    def elbo(self, video, seed, rows: tuple | None = None, step=None) -> Elbo:
        """Returns the terms of the ELBO of all frames but the first.

        Args:
          video: [B, T, H, W, C], T from 2.
          seed: Of the latents.
          rows: As for `VideoModel.elbo`.
          step: Whatever its number, batch normalization uses the batch's own statistics in
            training. None: the moving ones.

        Raises:
          ValueError: A single frame, or frames of another size than the model's.
        """
        frames = self._time_major(video)
        if frames.shape[0] < 2:
            raise ValueError("the first frame has no model: a video must have 2 frames or more.")
        statistics = normalization.of(batch=step is not None)
        means, passed = self.explain(frames, Noise(as_seed(seed), *(rows or ())), statistics)
        likelihood = DiagGaussian(means, self.decoder_stddev)
        return Elbo(
            nll=-tf.transpose(likelihood.log_prob(frames[1:], event_rank=3)),
            kl=(tf.transpose(passed.posterior.kl(passed.prior)),),
            diagnostics={
                "prior_entropy/latent": tf.transpose(passed.prior.entropy()),
                "posterior_entropy/latent": tf.transpose(passed.posterior.entropy()),
            },
            statistics=() if step is None else normalization.targets(self, statistics),
        )

    @tf.function(autograph=False)
    def _reconstruct(self, frames, seed):
        means, _ = self.explain(frames, Noise(seed))
        return _batch_major(tf.concat([frames[:1], means], 0))

    def reconstruct(self, video, seed) -> tf.Tensor:
        """Returns the decoder's means under the posterior, [B, T, H, W, C].

        The first frame, of which there is no model, comes back as it is.

        Args:
          video: [B, T, H, W, C].
          seed: Of the latents.
        """
        frames = self._time_major(video)
        if frames.shape[0] == 1:
            return _batch_major(frames)
        return self._reconstruct(frames, as_seed(seed))

    @tf.function(autograph=False)
    def _observe(self, frames, seed, batch_statistics):
        """Returns what a prediction carries after a context, and the shares of its skips."""
        features, skips = self.encoder.encode(frames, normalization.of(batch=batch_statistics))
        length, batch = features.shape[:2]
        if length == 1:
            states = self.prior.zero_state(batch), self.predictor.zero_state(batch)
        else:
            states = self.teacher_forced(features, Noise(seed)).states
        return Carried(features[-1], *states), self.decoder.shares([skip[-1:] for skip in skips])

    @tf.function(autograph=False)
    def _roll(self, first, count, carried, shares, seed, batch_statistics):
        """Returns frames `first` to `first` + `count` of a prediction, and what it carries on."""

        def predict(i, carried, frames):
            frame, carried = self._predict(first + i, carried, shares, seed, batch_statistics)
            return i + 1, carried, frames.write(i, frame)

        _, carried, frames = tf.while_loop(
            lambda i, *_: i < count,
            predict,
            (tf.constant(0), carried, tf.TensorArray(tf.float32, count)),
            parallel_iterations=1,
            maximum_iterations=count,
        )
        return _batch_major(frames.stack()), carried

    def _predict(self, number, carried: Carried, shares, seed, batch_statistics):
        """Returns predicted frame `number`, [B, H, W, C], and what is carried on from it."""
        features, batch = carried.features, carried.features.shape[0]
        belief, prior = self.prior.step(features, carried.prior)
        noise = Noise(seed).normal(number, 1, batch, self.stochastic_size)[0]
        latent = _gaussian(belief).sample(noise)
        output, predictor = self.predictor.step(
            tf.concat([features, latent], -1), carried.predictor
        )
        statistics = normalization.of(batch=batch_statistics)
        frame = self.decoder.decode(tf.tanh(output)[None], shares, statistics)
        features, _ = self.encoder.encode(frame, statistics)
        return frame[0], Carried(features[0], prior, predictor)

    def predict_chunks(
        self, context, horizon: int, seed, batch_statistics: bool = False
    ) -> Iterator[Rollout]:
        """Yields what `predict` returns: sees the context, then feeds predictions back.

        Args:
          context: The frames seen, [B, T, H, W, C] with T from 1. The last one's skips serve all
            predicted frames.
          horizon: Frames to predict, from 1.
          seed: Of the latents.
          batch_statistics: Normalize by the clips at hand, all frames of the context together and
            each predicted frame by itself, as the released code does: then a clip's prediction
            depends on the others.

        Yields:
          About 64 frames, `horizon` in all.

        Raises:
          ValueError: Frames of another size than the model's, no frame to predict, or a single clip
            whose statistics are asked for.
        """
        if horizon < 1:
            raise ValueError(f"horizon must be at least 1, not {horizon}.")
        frames, seed = self._time_major(context), as_seed(seed)
        if batch_statistics and frames.shape[1] < 2:
            raise ValueError("batch_statistics are those of 2 clips or more.")
        seen, unseen = (tf.random.fold_in(seed, i) for i in range(2))
        carried, shares = self._observe(frames, seen, batch_statistics)
        for first in range(0, horizon, CHUNK):
            count = min(CHUNK, horizon - first)
            start = tf.constant(first)
            frames, carried = self._roll(start, count, carried, shares, unseen, batch_statistics)
            yield Rollout(frames)

    def _time_major(self, video) -> tf.Tensor:
        """Returns float frames [T, B, H, W, C], checked to be of the model's size."""
        video = as_frames(video, self.encoder.frame_shape)
        return tf.transpose(video, (1, 0, 2, 3, 4))


def _gaussian(beliefs: tf.Tensor) -> DiagGaussian:
    """Returns the Gaussian whose mean and log-variance are the halves of `beliefs`."""
    mean, log_variance = tf.split(beliefs, 2, -1)
    return DiagGaussian(mean, tf.exp(log_variance / 2))


def _batch_major(frames: tf.Tensor) -> tf.Tensor:
    return tf.transpose(frames, (1, 0, 2, 3, 4))
