"""The Clockwork VAE (Saxena, Ba & Hafner 2021): its joint distribution, its ELBO, its predictions.

With frames x_t, and at each level l a state s_t^l that changes only at the active steps T_l,

    T_l = {t | t mod k^(l-1) = 1}, every step for l = 1                              (Equation 1)
    p(x, s) = prod_t p(x_t | s_t^1)  prod_l prod_{t in T_l} p(s_t^l | s_{t-1}^l, s_t^{l+1})    (3)
    encoder e_t^l, posterior q(s_t^l | s_{t-1}^l, s_t^{l+1}, e_t^l), prior p, decoder p(x_t | s_t^1)
                                                                                               (4)
    ELBO = sum_t E_q[ln p(x_t | s_t^1)] - sum_l sum_{t in T_l} E_q[KL(q_t^l || p_t^l)]         (5)

`cwvae.clockwork` holds Equations 1 and 2, `cwvae.cell` one tick of 4, `cwvae.networks` the encoder
and the decoder. In code levels count from 0, the fastest, and each level may have its own k; logs
and results count from 1, as the paper does. `cwvae.fast` computes the same functions faster.
Symbols: B batch, T frames, L levels, N_l active steps of level l.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from types import MappingProxyType

import tensorflow as tf

from cwvae import clockwork
from cwvae.arguments import as_frames, as_integer, as_level_flags, as_noise
from cwvae.cell import RSSMCell, State, Tick
from cwvae.compiled import compiled
from cwvae.distributions import DiagGaussian, Noise
from cwvae.levels import names as level_names
from cwvae.networks import embedding_mlp, feature_size, frame_decoder, frame_encoder
from cwvae.video_model import CHUNK, Elbo, Rollout, VideoModel


class CWVAE(VideoModel):
    """The Clockwork VAE. One level is an RSSM; factors of 1 are the paper's NoTmpAbs."""

    posterior_options = prediction_options = MappingProxyType({"observe_levels": None})

    def __init__(
        self,
        *,
        levels: int,
        factors: Sequence[int],
        frame_size: int,
        channels: int,
        stochastic_size: int,
        deterministic_size: int,
        hidden_size: int,
        mlp_size: int,
        decoder_stddev: float,
        channel_multiplier: float = 1.0,
        min_stddev: float = 1e-4,
        mean_only: bool = False,
        kl_balance: float | None = None,
        precision: str = "float32",
    ):
        """Builds all weights.

        Args:
          levels: L, from 1.
          factors: k of each level above the fastest, [L - 1].
          frame_size: Height and width of frames: 32, 64 or 128.
          channels: Channels of frames.
          stochastic_size: S, length of z at every level.
          deterministic_size: D, length of h at every level.
          hidden_size: Width of the cells' hidden layers.
          mlp_size: Width of the embedding MLPs' hidden layers.
          decoder_stddev: Standard deviation of p(x | s).
          channel_multiplier: Scales the filters of all convolutions.
          min_stddev: Added to every standard deviation of the latents.
          mean_only: Take the means of the latents instead of samples.
          kl_balance: Share of the KL's gradient that trains the prior; None for the plain KL.
          precision: "float32" or "mixed_bfloat16", of the networks.
        """
        super().__init__(name="cwvae")
        if len(factors) != levels - 1:
            raise ValueError(f"{levels} levels need {levels - 1} factors, not {len(factors)}.")
        self.levels, self.factors = levels, tuple(factors)
        self.kl_names = level_names(levels)
        self.decoder_stddev, self.kl_balance = decoder_stddev, kl_balance
        self.mean_only = mean_only
        self.frame_shape = (frame_size, frame_size, channels)
        state_size = stochastic_size + deterministic_size
        embedding_size = feature_size(frame_size, channel_multiplier)
        scale = (channel_multiplier, precision)
        self.encoder = frame_encoder(frame_size, channels, *scale)
        self.mlps = [
            embedding_mlp(embedding_size, mlp_size, precision, name=f"level{level}_embedding")
            for level in range(1, levels)
        ]
        self.cells = [
            RSSMCell(
                stochastic_size=stochastic_size,
                deterministic_size=deterministic_size,
                hidden_size=hidden_size,
                embedding_size=embedding_size,
                context_size=state_size,
                min_stddev=min_stddev,
                name=f"level{level}",
            )
            for level in range(levels)
        ]
        self.decoder = frame_decoder(frame_size, channels, state_size, *scale)
        self.built = True

    def observed_states(self, video, seed, *, row=0, observe_levels=None) -> tuple[State, ...]:
        """Returns the states of every level while a video is observed.

        Level l ticks at the frames 0, K_l, 2 K_l, ... (`clockwork.periods`), and its state is held
        until its next tick. h of a tick is computed before the tick's own frames are seen, z
        afterwards. These frames are all those until the next tick, so z of slow levels looks ahead.
        The states of the fastest level are those that `reconstruct` decodes for the same arguments.

        Frames are encoded in stretches: memory grows with the states and the video itself only.

        Args:
          video: [B, T, H, W, C], floats in [0, 1] or uint8.
          seed: Seed of the latents.
          row: Row of the first clip, from 0.
          observe_levels: As for `elbo`.

        Returns:
          For each level, the fastest first, z [B, N_l, S] (`stochastic`) and h [B, N_l, D]
          (`deterministic`), float32, with N_l = ceil(T / K_l): tick n is at frame n K_l.
        """
        video = as_frames(video, self.frame_shape)
        observed = as_level_flags(observe_levels, self.levels)
        slowest, noise = clockwork.periods(self.factors)[-1], as_noise(seed, row)
        length = slowest * -(-CHUNK // slowest)  # The frames of a tick are in one stretch.
        starts = range(0, video.shape[1], length)
        stretches = [self._embed(video[:, start : start + length]) for start in starts]
        embeddings = [tf.concat(parts, 1) for parts in zip(*stretches, strict=True)]
        return _by_clip(self._posterior_states(embeddings, noise, observed))

    def predicted_states(
        self, context, horizon: int, seed, *, row=0, observe_levels=None
    ) -> tuple[State, ...]:
        """Returns the states of every level in an open-loop prediction.

        They are the states behind the frames that `predict` returns for the same arguments. Level l
        ticks at those of the frames 0, K_l, 2 K_l, ..., counted from the first one of the context,
        that are predicted.

        Args:
          context: The frames seen, [B, T, H, W, C] with T from 1, floats in [0, 1] or uint8.
          horizon: Frames to predict, from 1.
          seed: Seed of the latents.
          row: Row of the first clip, from 0.
          observe_levels: As for `elbo`.

        Returns:
          As for `observed_states`, for the ticks n with T <= n K_l < T + horizon: the first is
          n = ceil(T / K_l). A slow level may have none: N_l = 0.
        """
        horizon = as_integer(horizon, "horizon", 1)
        context = as_frames(context, self.frame_shape, "context")
        observed = as_level_flags(observe_levels, self.levels)
        noise = as_noise(seed, row)
        stretches = self._open_loop(context, horizon, noise, observed, self._prior_states)
        levels = zip(*map(_by_clip, stretches), strict=True)
        return tuple(
            State(*(tf.concat(parts, 1) for parts in zip(*level, strict=True))) for level in levels
        )

    def _option(self, name: str, value, clips: int) -> tuple[bool, ...]:
        return as_level_flags(value, self.levels)

    def _elbo(self, video, noise: Noise, step, observe_levels: Sequence[bool]) -> Elbo:
        """Returns the terms of Equation 5."""
        ticks, _ = self.infer(video, noise, observe_levels)
        likelihood = DiagGaussian(self.decode(ticks[0].state), self.decoder_stddev)
        diagnostics = {}
        for level, (_, prior, posterior) in zip(self.kl_names, ticks, strict=True):
            diagnostics[f"prior_entropy/{level}"] = tf.transpose(prior.entropy())
            diagnostics[f"posterior_entropy/{level}"] = tf.transpose(posterior.entropy())
        kl = tuple(tf.transpose(self._kl(tick.posterior, tick.prior)) for tick in ticks)
        return Elbo(-likelihood.log_prob(video, event_rank=3), kl, diagnostics)

    def _kl(self, posterior: DiagGaussian, prior: DiagGaussian) -> tf.Tensor:
        """Returns KL(q || p). Balanced, the value is the same and the gradient is split."""
        if self.kl_balance is None:
            return posterior.kl(prior)
        return self.kl_balance * posterior.stop_gradient().kl(prior) + (
            1 - self.kl_balance
        ) * posterior.kl(prior.stop_gradient())

    def _used(self, noise: Noise) -> Noise | None:
        """Returns the noise of the latents; None if they are means."""
        return None if self.mean_only else noise

    def infer(
        self, video: tf.Tensor, noise: Noise, observe_levels: Sequence[bool] | None = None
    ) -> tuple[list[Tick], list[State]]:
        """Runs the posterior over float frames from the zero state; see `clockwork.unroll`."""
        observe_levels = observe_levels or (True,) * self.levels
        return self._posterior(self.embed(video), noise, observe_levels)

    def _posterior(
        self, embeddings: Sequence[tf.Tensor], noise: Noise, observe_levels: Sequence[bool]
    ) -> tuple[list[Tick], list[State]]:
        """Does what `infer` does, for the embeddings of all frames."""
        clips, frames, _ = embeddings[0].shape
        seen = [
            embedding if observed else None
            for embedding, observed in zip(embeddings, observe_levels, strict=True)
        ]
        states = [cell.initial_state(clips) for cell in self.cells]
        return self.unroll(0, frames, states, seen, self._used(noise))

    def _follow_priors(
        self, start: int, frames: int, states: Sequence[State], noise: Noise
    ) -> tuple[list[State], list[State]]:
        """Returns each level's states at its ticks in a stretch of frames, and its last state."""
        unseen = [None] * self.levels
        ticks, last = self.unroll(start, start + frames, states, unseen, self._used(noise))
        return [tick.state for tick in ticks], last

    def embed(self, video: tf.Tensor) -> list[tf.Tensor]:
        """Returns e^l of every level (Equation 4), [B, N_l, F], for float frames.

        The embedding of a step sums the features of all frames until the next step: posteriors of
        slow levels look ahead.
        """
        features = per_frame(self.encoder, video)
        embeddings = [features]
        for mlp, period in zip(self.mlps, clockwork.periods(self.factors)[1:], strict=True):
            features = per_frame(mlp, features)
            embeddings.append(clockwork.pool(features, period))
        return embeddings

    def unroll(self, start, stop, states, embeddings, noise) -> tuple[list[Tick], list[State]]:
        """Runs all levels over the frames [start, stop); see `clockwork.unroll`."""
        return clockwork.unroll(self.cells, self.factors, start, stop, states, embeddings, noise)

    def decode(self, state: State) -> tf.Tensor:
        """Returns the means of p(x_t | s_t), [B, T, H, W, C], for states s^1 [T, B, ...]."""
        return per_frame(self.decoder, tf.transpose(state.features(), (1, 0, 2)))

    @compiled
    def _reconstruct(self, video, noise, observe_levels):
        ticks, _ = self.infer(video, noise, observe_levels)
        return self.decode(ticks[0].state)

    @compiled
    def _observe(self, context, noise, observe_levels):
        return self.infer(context, noise, observe_levels)[1]

    @compiled
    def _roll(self, start, frames, states, noise):
        states, last = self._follow_priors(start, frames, states, noise)
        return self.decode(states[0]), last

    @compiled
    def _prior_states(self, start, frames, states, noise):
        return self._follow_priors(start, frames, states, noise)

    @compiled
    def _embed(self, video):
        return self.embed(video)

    @compiled
    def _posterior_states(self, embeddings, noise, observe_levels):
        ticks, _ = self._posterior(embeddings, noise, observe_levels)
        return [tick.state for tick in ticks]

    def _predict_chunks(
        self, context, horizon: int, noise: Noise, observe_levels: Sequence[bool]
    ) -> Iterator[Rollout]:
        """Infers the states of the context, then follows the priors."""
        return map(Rollout, self._open_loop(context, horizon, noise, observe_levels, self._roll))

    def _open_loop(
        self, context, horizon: int, noise: Noise, observe_levels: Sequence[bool], roll: Callable
    ) -> Iterator:
        """Yields what `roll`, which is `_roll` or `_prior_states`, returns for each stretch.

        The context need not be a multiple of any period, since every level keeps its clock.
        """
        states = self._observe(context, noise.fold_in(0), observe_levels)
        slowest = clockwork.periods(self.factors)[-1]
        lengths, number, done = itertools.cycle(_stretches(slowest)), 0, 0
        while done < horizon:
            number += 1
            # Clocks depend on the start only modulo the slowest period: fewer traces of `roll`.
            start, length = (context.shape[1] + done) % slowest, min(next(lengths), horizon - done)
            result, states = roll(start, length, states, noise.fold_in(number))
            yield result
            done += length


def per_frame(network: Callable[[tf.Tensor], tf.Tensor], x: tf.Tensor) -> tf.Tensor:
    """Returns float32 outputs [B, T, ...] of a network for single frames, for x [B, T, ...]."""
    y = network(tf.reshape(x, (-1, *x.shape[2:])))
    return tf.cast(tf.reshape(y, (*x.shape[:2], *y.shape[1:])), tf.float32)


def _by_clip(states: Sequence[State]) -> tuple[State, ...]:
    """Returns states [B, N, ...] of each level, for states [N, B, ...]."""
    return tuple(State(*(tf.transpose(part, (1, 0, 2)) for part in state)) for state in states)


def _stretches(slowest: int) -> tuple[int, ...]:
    """Returns how many frames to predict at a time, in turn: about `CHUNK` each.

    `CWVAE._roll` is traced for each start modulo the slowest period. Stretches whose lengths divide
    that period, or add up to a multiple of it, have few different starts.
    """
    if slowest <= 2 * CHUNK:
        return (slowest * -(-CHUNK // slowest),)
    if divisors := [n for n in range(CHUNK // 2, 2 * CHUNK + 1) if slowest % n == 0]:
        return (max(divisors),)
    parts = round(slowest / CHUNK)
    ends = [slowest * part // parts for part in range(parts + 1)]
    return tuple(end - start for start, end in itertools.pairwise(ends))
