"""Variational Temporal Abstraction (Kim, Ahn & Bengio 2019): two levels with learned boundaries.

A clip is divided into segments. m_t says whether frame t is a read, which starts a segment, or a
copy. The upper level is the abstraction (z), the lower one the observation (s). Both are Gaussian,
each with a deterministic belief (c, h):

    c_t = GRU(z_{t-1}, c_{t-1}) at a read, else c_{t-1}     z_t ~ p(z | c_t) at a read, else z_{t-1}
    a_t = W [c_t, z_t]
    h_t = a_t at a read, else GRU([s_{t-1}, a_t], h_{t-1})  s_t ~ p(s | h_t)
    f_t = W [h_t, s_t]           p(x_t | f_t)               p(m_{t+1} | f_t)

so every boundary resets the lower level. The posterior sees the whole clip: m from convolutions
over time; z from all frames before t and those from t to the end of the segment; s from those of
the segment up to t, and a_t. The ELBO is

    sum_t E[ln p(x_t | f_t) - read_t KL(q(z_t) || p(z_t)) - KL(q(s_t) || p(s_t))
            - ln q(m_{t+1}) / p(m_{t+1})]

over the middle frames of a clip; a few frames at either end are read by the encoders only. Symbols:
B batch, T frames, N middle frames, H belief size, S state size, F feature size. Everything except
[B, ...] is time-major.
"""

import functools
from collections.abc import Iterator
from types import MappingProxyType
from typing import NamedTuple

import tensorflow as tf
import tensorflow_probability as tfp

from cwvae.arguments import as_batch_statistics
from cwvae.baselines import boundaries, normalization
from cwvae.baselines.recurrent import GRU, Linear, swap
from cwvae.baselines.vta_networks import Belief, BoundaryDetector, FrameDecoder, FrameEncoder
from cwvae.compiled import compiled
from cwvae.distributions import DiagGaussian, Noise
from cwvae.video_model import CHUNK, Elbo, Rollout, VideoModel

tfd = tfp.distributions

# Numbers of the kinds of noise.
_ABSTRACTION, _OBSERVATION, _BOUNDARY = range(3)


class State(NamedTuple):
    """The state that a prediction carries from frame to frame.

    Attributes:
      abs_belief: c of the next frame, [B, H].
      abs_state: z, [B, S].
      obs_belief: h, [B, H].
      obs_state: s, [B, S].
      boundary: m of the next frame, one-hot (read, copy), [B, 2].
    """

    abs_belief: tf.Tensor
    abs_state: tf.Tensor
    obs_belief: tf.Tensor
    obs_state: tf.Tensor
    boundary: tf.Tensor


class Inference(NamedTuple):
    """The posterior of a clip's middle frames, and the prior along its samples.

    Attributes:
      abs_posterior: q(z), [N, B, S].
      abs_prior: p(z), [N, B, S].
      obs_posterior: q(s), [N, B, S].
      obs_prior: p(s), [N, B, S].
      features: f, [N, B, F].
      reads: 1 where a frame is a read, else 0, [N, B].
      next_posterior: Logits of q for the following frame's boundary, [N, B, 2].
      next_prior: Logits of p for the following frame's boundary, [N, B, 2].
      next_log_sample: Logarithm of the following frame's relaxed boundary, [N, B, 2]; None if
        boundaries are not sampled.
    """

    abs_posterior: DiagGaussian
    abs_prior: DiagGaussian
    obs_posterior: DiagGaussian
    obs_prior: DiagGaussian
    features: tf.Tensor
    reads: tf.Tensor
    next_posterior: tf.Tensor
    next_prior: tf.Tensor
    next_log_sample: tf.Tensor | None


class VTA(VideoModel):
    """Variational Temporal Abstraction."""

    kl_names = ("abstraction", "observation", "boundary")
    prediction_options = MappingProxyType({"batch_statistics": False})

    def __init__(
        self,
        *,
        frame_size: int,
        channels: int,
        belief_size: int = 128,
        state_size: int = 8,
        feature_size: int = 128,
        decoder_stddev: float = 0.5,
        init_size: int = 5,
        max_segments: int = 5,
        max_segment_length: int = 8,
        temperature_steps: float = 100,
        precision: str = "float32",
    ):
        """Builds all weights.

        Args:
          frame_size: Height and width of frames, 32, 64 or 128.
          channels: Channels of frames, 1 or 3.
          belief_size: H.
          state_size: S.
          feature_size: F, also the number of filters of all convolutions.
          decoder_stddev: Standard deviation of p(x | f), in units of [0, 1].
          init_size: Number of frames, at least 1, at either end of a clip that only the encoders
            read.
          max_segments: Number of segments after which, in training, the prior expects no other.
          max_segment_length: Number of frames after which, in training, the prior expects a segment
            to end, even if there are `max_segments`.
          temperature_steps: Decay of the boundaries' temperature; see `boundaries.temperature`.
          precision: "float32" or "mixed_bfloat16", for the networks of frames.
        """
        super().__init__(name="vta")
        if init_size < 1:
            raise ValueError(f"init_size must be at least 1, not {init_size}.")
        self.belief_size, self.state_size = belief_size, state_size
        self.decoder_stddev, self.init_size = decoder_stddev, init_size
        self.max_segments, self.max_segment_length = max_segments, max_segment_length
        self.temperature_steps = temperature_steps
        convolutional = dict(
            frame_size=frame_size, channels=channels, feature_size=feature_size, precision=precision
        )
        cell = functools.partial(GRU, size=belief_size)
        self.encoder = FrameEncoder(**convolutional)
        self.decoder = FrameDecoder(**convolutional)
        self.frame_shape = self.encoder.frame_shape
        self.boundary_posterior = BoundaryDetector(feature_size, name="boundary_posterior")
        self.boundary_prior = Linear(feature_size, 2, name="boundary_prior")
        self.abs_forward = cell(feature_size, name="abs_forward")
        self.abs_backward = cell(feature_size, name="abs_backward")
        self.obs_forward = cell(feature_size, name="obs_forward")
        self.abs_update = cell(state_size, name="abs_update")
        self.obs_update = cell(state_size + belief_size, name="obs_update")
        self.abs_posterior = Belief(2 * belief_size, state_size, name="abs_posterior")
        self.abs_prior = Belief(belief_size, state_size, name="abs_prior")
        self.obs_posterior = Belief(2 * belief_size, state_size, name="obs_posterior")
        self.obs_prior = Belief(belief_size, state_size, name="obs_prior")
        # At a read the lower level's belief is this feature, so it has the length of a belief.
        self.abs_feature = Linear(belief_size + state_size, belief_size, name="abs_feature")
        self.obs_feature = Linear(belief_size + state_size, feature_size, name="obs_feature")
        self.built = True

    @property
    def shortest(self) -> int:
        """The minimum number of frames of a clip for `elbo` and `reconstruct`."""
        return 2 * self.init_size + 1

    def infer(
        self,
        video: tf.Tensor,
        noise: Noise,
        temperature: tf.Tensor | None = None,
        statistics: dict | None = None,
    ) -> Inference:
        """Runs the posterior.

        Args:
          video: Float frames [B, T, H, W, C], T >= `shortest`.
          noise: Noise of the latents.
          temperature: Temperature of the boundaries; None for the most likely boundaries instead of
            samples.
          statistics: Statistics of batch normalization; see `normalization`.
        """
        batch, length = video.shape[:2]
        first, stop = self.init_size, length - self.init_size
        features = self.encoder.features(video, statistics)
        logits = swap(self.boundary_posterior.logits(features, statistics))
        log_samples = None
        if temperature is None:
            chosen = boundaries.most_likely(logits)
        else:
            uniform = noise.uniform(_BOUNDARY, length, batch, 2)
            chosen, log_samples = boundaries.straight_through(logits, uniform, temperature)
        # From the first middle frame to the frame after the last. These two are forced reads.
        read = boundaries.reads(1, batch)
        chosen = tf.concat([read, chosen[first + 1 : stop], read], 0)

        def sample(number: int, belief: DiagGaussian) -> tf.Tensor:
            return belief.sample(noise.normal(number, *belief.mean.shape))

        forward, backward, low = self._passes(swap(features), chosen[:-1])
        abs_posterior = self.abs_posterior.of(forward, backward)
        abs_states = sample(_ABSTRACTION, abs_posterior)
        abs_beliefs, abs_states = self._abstractions(forward[0], abs_states, chosen)
        abs_features = self.abs_feature.of(abs_beliefs, abs_states)
        obs_posterior = self.obs_posterior.of(low, abs_features)
        obs_states = sample(_OBSERVATION, obs_posterior)
        obs_beliefs = self._observations(abs_features, obs_states, chosen[:-1])
        features = self.obs_feature.of(obs_beliefs, obs_states)
        following = slice(first + 1, stop + 1)
        return Inference(
            abs_posterior,
            self.abs_prior.of(abs_beliefs),
            obs_posterior,
            self.obs_prior.of(obs_beliefs),
            features,
            tf.stop_gradient(chosen[:-1, :, boundaries.READ]),
            logits[following],
            self.boundary_prior.of(features),
            None if log_samples is None else log_samples[following],
        )

    def _passes(self, features: tf.Tensor, chosen: tf.Tensor) -> tuple[tf.Tensor, ...]:
        """Runs the posterior's passes over features [T, B, F] for the boundaries [N, B, 2].

        Returns:
          Summaries for each middle frame, [N, B, H]: of all frames before it; of the frames from it
          to the end of its segment; of the frames of its segment up to it.
        """
        first, stop = self.init_size, features.shape[0] - self.init_size
        middle, copies = features[first:stop], chosen[..., 1:]
        zeros = tf.zeros((features.shape[1], self.belief_size))
        forward = self.abs_forward.run(features[: stop - 1], zeros)[first - 1 :]
        # The reads at both ends cut off the outer frames, so these two passes skip those frames.
        # A read closes the segment before it, so the backward pass resets after the read.
        keep = tf.concat([copies[1:], tf.ones_like(copies[:1])], 0)
        backward = self.abs_backward.run(middle, zeros, keep, reverse=True)
        return forward, backward, self.obs_forward.run(middle, zeros, copies)

    def _abstractions(self, belief, samples, chosen) -> tuple[tf.Tensor, tf.Tensor]:
        """Runs the upper level and returns c [N, B, H] and z [N, B, S].

        Args:
          belief: c of the first middle frame, [B, H].
          samples: z of each frame if it is a read, [N, B, S].
          chosen: Boundaries of the middle frames and the one after them, [N + 1, B, 2].
        """

        def tick(previous: tuple, now: tuple) -> tuple:
            belief, state = previous
            sample, boundary, following = now
            state = _either(boundary, sample, state)
            return _next_abstraction(following, state, belief, self.abs_update), state

        inputs = samples, chosen[:-1], chosen[1:]
        later, states = tf.scan(tick, inputs, (belief, tf.zeros_like(samples[0])))
        return tf.concat([belief[None], later[:-1]], 0), states

    def _observations(self, abs_features, states, chosen) -> tf.Tensor:
        """Returns h [N, B, H] of the lower level for a [N, B, H], s [N, B, S], m [N, B, 2]."""
        before = tf.concat([tf.zeros_like(states[:1]), states[:-1]], 0)
        return tf.scan(
            lambda belief, now: _observation(*now, belief, self.obs_update),
            (chosen, abs_features, before),
            tf.zeros_like(abs_features[0]),
        )

    def decode(self, features: tf.Tensor, statistics: dict | None = None) -> tf.Tensor:
        """Returns the means of p(x_t | f_t), [B, N, H, W, C], for f [N, B, F]."""
        return self.decoder.frames(swap(features), statistics)

    def _option(self, name: str, value, clips: int) -> bool:
        return as_batch_statistics(value, clips)

    def _elbo(self, video, noise: Noise, step) -> Elbo:
        """Returns the terms of the ELBO of a clip's T - 2 init_size middle frames.

        In training the boundaries' term is a sample of ln q / p of the relaxed boundary, which may
        be negative. Otherwise boundaries are the most likely ones, and the term is the KL of the
        categorical variables, without the limits of segments. It concerns the boundary of the
        following frame: from the second middle frame to the one after the last.
        """
        self._check_length(video)
        temperature, statistics = None, None
        if step is not None:
            temperature, statistics = boundaries.temperature(step, self.temperature_steps), {}
        inferred = self.infer(video, noise, temperature, statistics)
        mean = self.decode(inferred.features, statistics)
        frames = DiagGaussian(mean, self.decoder_stddev)
        middle = video[:, self.init_size : video.shape[1] - self.init_size]
        kl = (
            inferred.reads * inferred.abs_posterior.kl(inferred.abs_prior),
            inferred.obs_posterior.kl(inferred.obs_prior),
            self._boundary_kl(inferred, temperature),
        )
        return Elbo(
            -frames.log_prob(middle, event_rank=3),
            tuple(map(swap, kl)),
            _diagnostics(inferred, kl[0], temperature),
            normalization.targets(self, statistics),
        )

    def _boundary_kl(self, inferred: Inference, temperature: tf.Tensor | None) -> tf.Tensor:
        """Returns ln q / p of each following frame's boundary, or its KL, [N, B]."""
        q, p = inferred.next_posterior, inferred.next_prior
        if temperature is None:
            return tfd.OneHotCategorical(q).kl_divergence(tfd.OneHotCategorical(p))
        p = boundaries.limited(p, inferred.reads, self.max_segments, self.max_segment_length)
        log_q, log_p = (
            tfd.ExpRelaxedOneHotCategorical(temperature, logits).log_prob(inferred.next_log_sample)
            for logits in (q, p)
        )
        return log_q - log_p

    @compiled
    def _reconstruct(self, video, noise):
        """Returns the decoder's means, between `init_size` frames at either end as given."""
        self._check_length(video)
        middle, ends = self.decode(self.infer(video, noise).features), self.init_size
        return tf.concat([video[:, :ends], middle, video[:, -ends:]], 1)

    @compiled
    def _boundaries(self, video, noise):
        """Returns where the posterior most likely starts segments, bool [B, T].

        The first frame always starts one; no other frame is forced to. `noise` is not used.
        """
        # In training the detector sees frames on both sides, so the outer features are repeated.
        features, ends = self.encoder.features(video, None), self.init_size
        before, after = (tf.repeat(end, ends, 1) for end in (features[:, :1], features[:, -1:]))
        around = tf.concat([before, features, after], 1)
        logits = self.boundary_posterior.logits(around, None)[:, ends:-ends]
        reads = tf.argmax(logits, -1) == boundaries.READ
        return tf.concat([tf.ones_like(reads[:, :1]), reads[:, 1:]], 1)

    @compiled
    def observe(self, context: tf.Tensor, batch_statistics: bool = False) -> State:
        """Returns the state after float frames [B, T, H, W, C]. The next frame is a read."""
        features = swap(self.encoder.features(context, {} if batch_statistics else None))
        batch = context.shape[0]
        belief, state = tf.zeros((batch, self.belief_size)), tf.zeros((batch, self.state_size))
        last = self.abs_forward.run(features, belief)[-1]
        return State(last, state, belief, state, boundaries.reads(batch))

    def imagine(self, state: State, frames: int, noise: Noise) -> tuple[State, tf.Tensor]:
        """Follows the priors with the most likely boundaries.

        Args:
          state: State before the first frame.
          frames: Number of frames, N.
          noise: Noise of the latents.

        Returns:
          The state after each frame, each part [N, B, ...], and f [N, B, F].
        """
        batch = state.abs_state.shape[0]
        drawn = [
            noise.normal(number, frames, batch, self.state_size)
            for number in (_ABSTRACTION, _OBSERVATION)
        ]

        def tick(state: State, now: list) -> State:
            abs_noise, obs_noise = now
            sample = self.abs_prior.of(state.abs_belief).sample(abs_noise)
            abs_state = _either(state.boundary, sample, state.abs_state)
            abs_feature = self.abs_feature.of(state.abs_belief, abs_state)
            obs_belief = _observation(
                state.boundary, abs_feature, state.obs_state, state.obs_belief, self.obs_update
            )
            obs_state = self.obs_prior.of(obs_belief).sample(obs_noise)
            feature = self.obs_feature.of(obs_belief, obs_state)
            boundary = boundaries.most_likely(self.boundary_prior.of(feature))
            abs_belief = _next_abstraction(boundary, abs_state, state.abs_belief, self.abs_update)
            return State(abs_belief, abs_state, obs_belief, obs_state, boundary)

        states = tf.scan(tick, drawn, state)
        return states, self.obs_feature.of(states.obs_belief, states.obs_state)

    @compiled
    def _roll(self, state: State, frames: int, noise: Noise, batch_statistics: bool):
        states, features = self.imagine(state, frames, noise)
        chosen = tf.concat([state.boundary[None], states.boundary[:-1]], 0)
        last = State(*(part[-1] for part in states))
        means = self.decode(features, {} if batch_statistics else None)
        return means, swap(chosen[..., boundaries.READ] > 0), last

    def _predict_chunks(
        self, context, horizon: int, noise: Noise, batch_statistics: bool
    ) -> Iterator[Rollout]:
        """Yields stretches of at most 64 frames; the first frame is a read.

        Batch statistics are those of the whole context, then those of each stretch.
        """
        state = self.observe(context, batch_statistics)
        for number, done in enumerate(range(0, horizon, CHUNK)):
            count, drawn = min(CHUNK, horizon - done), noise.fold_in(number)
            frames, reads, state = self._roll(state, count, drawn, batch_statistics)
            yield Rollout(frames, reads)

    def _check_length(self, video: tf.Tensor) -> None:
        """Raises a ValueError if a clip has fewer frames than `shortest`."""
        if video.shape[1] < self.shortest:
            raise ValueError(
                f"video of {video.shape[1]} frames is too short for init_size = {self.init_size}."
                f" Give at least {self.shortest} frames."
            )


def _either(boundary: tf.Tensor, at_read: tf.Tensor, at_copy: tf.Tensor) -> tf.Tensor:
    """Returns `at_read` [B, ...] where a boundary [B, 2] is a read, `at_copy` where a copy."""
    return boundary[:, :1] * at_read + boundary[:, 1:] * at_copy


def _next_abstraction(boundary, state, belief, update: GRU) -> tf.Tensor:
    """Returns c of a frame with this boundary, given z and c of the frame before."""
    return _either(boundary, update.step(state, belief), belief)


def _observation(boundary, abs_feature, state, belief, update: GRU) -> tf.Tensor:
    """Returns h of a frame with this boundary and a, given s and h of the frame before."""
    held = update.step(tf.concat([state, abs_feature], -1), belief)
    return _either(boundary, abs_feature, held)


def _diagnostics(inferred: Inference, abs_kl: tf.Tensor, temperature) -> dict[str, tf.Tensor]:
    length, batch = inferred.reads.shape
    reads = tf.reduce_sum(inferred.reads, 0)
    diagnostics = {
        "boundary/read_share": reads / length,
        "boundary/segment_length": length / reads,
        "boundary/abstraction_kl_per_read": tf.reduce_sum(abs_kl, 0) / reads,
    }
    if temperature is not None:
        diagnostics["boundary/temperature"] = tf.fill((batch,), temperature)
    for name, prior, posterior in (
        ("abstraction", inferred.abs_prior, inferred.abs_posterior),
        ("observation", inferred.obs_prior, inferred.obs_posterior),
    ):
        diagnostics[f"prior_entropy/{name}"] = swap(prior.entropy())
        diagnostics[f"posterior_entropy/{name}"] = swap(posterior.entropy())
    return diagnostics
