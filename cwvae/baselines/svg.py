"""SVG-LP, stochastic video generation with a learned prior (Denton & Fergus 2018).

With frames x_t, latents z_t, features h_t and skips of an encoder, and three recurrent networks,

    h_t = enc(x_t)
    q_t = q(z_t | x_{1:t}) = N(posterior(h_t))                 for t = 2 ... T
    p_t = p(z_t | x_{1:t-1}) = N(prior(h_{t-1}))
    p(x_t | x_{1:t-1}, z_{2:t}) = N(dec(predictor([h_{t-1}, z_t]), skips), sigma^2)
    ELBO = sum_t E_q[ln p(x_t | x_{1:t-1}, z_{2:t})] - sum_t KL(q_t || p_t)

The model does not explain the first frame. The published loss is, per clip,

    sum_t MSE(x_t) + beta KL(q_t || p_t),    MSE the mean over pixels and channels.

Because -ln p(x_t) is MSE(x_t) H W C / (2 sigma^2) plus a constant, this loss is beta times the
negative ELBO, up to a constant, for

    beta = 2 sigma^2 / (H W C).

Differences from the released code:
- Batch normalization in training uses the statistics of all frames of a batch together. The
  released code normalizes each time step separately.
- Skips come from the last frame of the context. In the released code they come from the frame
  before it, or, with `last_frame_skip`, from the frame before each one, even a predicted one.
- Predictions use moving statistics by default. The released code uses those of the given clips.

In code t counts from 0. Symbols: B batch, T frames, g features, z latents. Internally tensors are
time-major.
"""

import math
from collections.abc import Iterator
from types import MappingProxyType
from typing import NamedTuple

import tensorflow as tf

from cwvae.arguments import as_batch_statistics
from cwvae.baselines import normalization
from cwvae.baselines.recurrent import swap
from cwvae.baselines.svg_networks import Decoder, Encoder, RecurrentNet, stretch
from cwvae.compiled import compiled
from cwvae.distributions import DiagGaussian, Noise
from cwvae.video_model import CHUNK, Elbo, Rollout, VideoModel


def stddev_of_beta(beta: float, frame_size: int, channels: int) -> float:
    """Returns the decoder's standard deviation that is equivalent to a published beta.

    Args:
      beta: Weight of the KL relative to the squared error, a mean over pixels and channels.
      frame_size: Height and width of frames.
      channels: Channels of frames.
    """
    return math.sqrt(beta * frame_size**2 * channels / 2)


class Carried(NamedTuple):
    """The state that a prediction carries from frame to frame.

    Attributes:
      features: Features of the latest frame, [B, g].
      prior: States of the prior's LSTMs.
      predictor: States of the predictor's LSTMs.
    """

    features: tf.Tensor
    prior: tuple
    predictor: tuple


class Pass(NamedTuple):
    """The results of a teacher-forced pass for the N frames after the first.

    Attributes:
      outputs: Outputs of the predictor, [N, B, g].
      posterior: q(z_t), [N, B, z].
      prior: p(z_t), [N, B, z].
      states: Final states of the prior's and of the predictor's LSTMs.
    """

    outputs: tf.Tensor
    posterior: DiagGaussian
    prior: DiagGaussian
    states: tuple


class SVG(VideoModel):
    """SVG-LP."""

    kl_names = ("latent",)
    prediction_options = MappingProxyType({"batch_statistics": False})

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
          channels: Channels of frames.
          feature_size: g, length of the encoder's features.
          hidden_size: Size of the LSTMs.
          stochastic_size: Length of z.
          decoder_stddev: Standard deviation of p(x | z), in units of [0, 1]; `stddev_of_beta`
            computes it from a published beta.
          context: Number of frames, at least 1, whose skips a teacher-forced pass uses: frame t is
            decoded with the skips of frame min(t - 1, context - 1), as in a prediction from that
            many frames. Predictions use the last frame of the context they are given.
          channel_multiplier: Factor on the filters of all convolutions.
          precision: "float32" or "mixed_bfloat16", for the convolutions.
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
        g, z = feature_size, stochastic_size
        self.encoder = Encoder(**convolutional)
        self.posterior = RecurrentNet(g, hidden_size, 2 * z, layers=1, name="posterior")
        self.prior = RecurrentNet(g, hidden_size, 2 * z, layers=1, name="prior")
        self.predictor = RecurrentNet(g + z, hidden_size, g, layers=2, name="predictor")
        self.decoder = Decoder(**convolutional)
        self.frame_shape = self.encoder.frame_shape
        self.built = True

    def teacher_forced(self, features: tf.Tensor, noise: Noise) -> Pass:
        """Runs the recurrent networks over known frames, from the zero state.

        Args:
          features: Features of frames 0 to N, [N + 1, B, g], N >= 1.
          noise: Noise of the latents.
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
        states = prior_states, predictor_states
        return Pass(tf.tanh(outputs), posterior, _gaussian(beliefs), states)

    def explain(
        self, frames: tf.Tensor, noise: Noise, statistics: dict | None = None
    ) -> tuple[tf.Tensor, Pass]:
        """Runs a teacher-forced pass.

        Args:
          frames: [T, B, H, W, C], T >= 2.
          noise: Noise of the latents.
          statistics: Statistics of batch normalization; see `normalization`.

        Returns:
          The decoder's means of all frames but the first, [T - 1, B, H, W, C], and the pass.
        """
        features, skips = self.encoder.encode(frames, statistics)
        passed = self.teacher_forced(features, noise)
        last = min(frames.shape[0] - 1, self.context)
        shares = self.decoder.shares([stretch(skip, 0, last) for skip in skips])
        return self.decoder.decode(passed.outputs, shares, statistics), passed

    def _option(self, name: str, value, clips: int) -> bool:
        return as_batch_statistics(value, clips)

    def _elbo(self, video, noise: Noise, step) -> Elbo:
        """Returns the terms of the ELBO of all frames but the first; needs 2 frames.

        `step` normalizes by the batch's statistics, None by the moving ones.
        """
        frames = swap(video)
        if frames.shape[0] < 2:
            raise ValueError("video of 1 frame is too short for SVG. Give at least 2 frames.")
        statistics = None if step is None else {}
        means, passed = self.explain(frames, noise, statistics)
        likelihood = DiagGaussian(means, self.decoder_stddev)
        return Elbo(
            nll=-swap(likelihood.log_prob(frames[1:], event_rank=3)),
            kl=(swap(passed.posterior.kl(passed.prior)),),
            diagnostics={
                "prior_entropy/latent": swap(passed.prior.entropy()),
                "posterior_entropy/latent": swap(passed.posterior.entropy()),
            },
            statistics=normalization.targets(self, statistics),
        )

    @compiled
    def _reconstruct(self, video, noise):
        """Returns the first frame as given, then the decoder's means of the others."""
        frames = swap(video)
        if frames.shape[0] == 1:
            return video
        means, _ = self.explain(frames, noise)
        return swap(tf.concat([frames[:1], means], 0))

    @compiled
    def _observe(self, frames, noise, batch_statistics):
        """Returns the state after a context, and the shares of its skips."""
        features, skips = self.encoder.encode(frames, {} if batch_statistics else None)
        length, batch = features.shape[:2]
        if length == 1:
            states = self.prior.zero_state(batch), self.predictor.zero_state(batch)
        else:
            states = self.teacher_forced(features, noise).states
        return Carried(features[-1], *states), self.decoder.shares([skip[-1:] for skip in skips])

    @compiled
    def _roll(self, count, carried, shares, noise, batch_statistics):
        """Returns `count` frames of a prediction, at most 64, and the state after them."""
        drawn = noise.normal(0, CHUNK, carried.features.shape[0], self.stochastic_size)

        def predict(i, carried, frames):
            frame, carried = self._predict(carried, shares, drawn[i], batch_statistics)
            return i + 1, carried, frames.write(i, frame)

        _, carried, frames = tf.while_loop(
            lambda i, *_: i < count,
            predict,
            (tf.constant(0), carried, tf.TensorArray(tf.float32, count)),
            parallel_iterations=1,
            maximum_iterations=count,
        )
        return swap(frames.stack()), carried

    def _predict(self, carried: Carried, shares, noise: tf.Tensor, batch_statistics):
        """Returns the next frame, [B, H, W, C], and the state after it, for noise [B, S]."""
        features = carried.features
        belief, prior = self.prior.step(features, carried.prior)
        latent = _gaussian(belief).sample(noise)
        output, predictor = self.predictor.step(
            tf.concat([features, latent], -1), carried.predictor
        )
        statistics = {} if batch_statistics else None
        frame = self.decoder.decode(tf.tanh(output)[None], shares, statistics)
        features, _ = self.encoder.encode(frame, statistics)
        return frame[0], Carried(features[0], prior, predictor)

    def _predict_chunks(
        self, context, horizon: int, noise: Noise, batch_statistics: bool
    ) -> Iterator[Rollout]:
        """Yields stretches whose frames all use the skips of the context's last frame.

        Batch statistics are, as in the released code, those of the whole context, then those of
        each predicted frame.
        """
        frames = swap(context)
        carried, shares = self._observe(frames, noise.fold_in(0), batch_statistics)
        for number, done in enumerate(range(0, horizon, CHUNK), 1):
            # A tensor, so that one trace serves every horizon.
            count, drawn = tf.constant(min(CHUNK, horizon - done)), noise.fold_in(number)
            frames, carried = self._roll(count, carried, shares, drawn, batch_statistics)
            yield Rollout(frames)


def _gaussian(beliefs: tf.Tensor) -> DiagGaussian:
    """Returns the Gaussian with the halves of `beliefs` as mean and log-variance."""
    mean, log_variance = tf.split(beliefs, 2, -1)
    return DiagGaussian(mean, tf.exp(log_variance / 2))
