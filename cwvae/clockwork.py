"""Time: which level ticks when, what it reads, and how a hierarchy of cells is unrolled.

Levels count from 0, the fastest (the paper's level 1). Level l ticks at the frames that are
multiples of its period K_l = k_1 k_2 ... k_l, K_0 = 1 (Equation 1, with frames from 0); its n-th
tick, a node, begins at frame n K_l and its state is held until the next (Equation 2).

Symbols: B batch, T frames, L levels, N nodes of a level in a stretch of frames. What runs inside
the recurrence is time-major, [N, B, ...].
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import tensorflow as tf

from cwvae.cell import RSSMCell, State
from cwvae.distributions import DiagGaussian, Noise
from cwvae.fast import recurrence


def periods(factors: Sequence[int]) -> tuple[int, ...]:
    """Returns K_l for every level, in frames.

    Args:
      factors: For each level above the fastest, how many ticks of the level below it spans.
    """
    return tuple(math.prod(factors[:level]) for level in range(len(factors) + 1))


def active_nodes(start: int, stop: int, period: int) -> range:
    """Returns the nodes of a level that begin in the frames [start, stop): Equation 1."""
    return range(-(-start // period), -(-stop // period))


def pool(features: tf.Tensor, period: int) -> tf.Tensor:
    """Sums the features of the frames that each node spans.

    Args:
      features: [B, T, F]. The last node sums the frames there are.
      period: K_l.

    Returns:
      [B, ceil(T / K_l), F].
    """
    if period == 1:
        return features
    batch, length, size = features.shape
    period = min(period, length)  # One node sums all there is: no need to pad it to a long period.
    padded = tf.pad(features, [[0, 0], [0, -length % period], [0, 0]])
    return tf.reduce_sum(tf.reshape(padded, (batch, -1, period, size)), 2)


class LevelPass(NamedTuple):
    """What one level computed over a stretch of frames.

    Attributes:
      features: [z, h] of every node, [N, B, S + D].
      prior: p of every node, [N, B, S].
      posterior: q of every node, [N, B, S]; the prior itself where the level saw no embeddings.
    """

    features: tf.Tensor
    prior: DiagGaussian
    posterior: DiagGaussian


def unroll(
    cells: Sequence[RSSMCell],
    factors: Sequence[int],
    start: int,
    stop: int,
    states: Sequence[State],
    embeddings: Sequence[tf.Tensor | None],
    noise: Noise | None,
) -> tuple[list[LevelPass], list[State]]:
    """Runs all levels over the frames [start, stop), the slowest first.

    A stretch may begin anywhere: each level goes on from the state it holds, and the nodes that
    were in progress at `start` condition the level below until their next tick.

    Args:
      cells: One per level, the fastest first.
      factors: As for `periods`.
      start: The first frame.
      stop: The frame after the last.
      states: Each level's state before `start`.
      embeddings: For each level [B, N, F], from which its posterior is inferred (Equation 4); None
        where the level follows its prior.
      noise: Of the latents; None to take means instead of samples.

    Returns:
      What each level computed, and each level's last state.
    """
    clock = periods(factors)
    passes, last = [None] * len(cells), list(states)
    upper = None  # The level above: its nodes in this stretch and the features it held before.
    for level in reversed(range(len(cells))):
        nodes = active_nodes(start, stop, clock[level])
        if upper is None:
            batch = states[level].stochastic.shape[0]
            context = tf.zeros((len(nodes), batch, cells[level].context_size))
        else:
            # Node n of this level lies within node n // k of the level above; row 0 is the node
            # that was held at `start`.
            above = active_nodes(start, stop, clock[level + 1])
            rows = [node // factors[level] - above.start + 1 for node in nodes]
            context = tf.gather(upper, tf.constant(rows, tf.int32))
        drawn = noise and noise.normal(level, len(nodes), *states[level].stochastic.shape)
        passes[level], last[level] = _unroll_level(
            cells[level], context, states[level], embeddings[level], drawn
        )
        upper = tf.concat([states[level].features()[None], passes[level].features], 0)
    return passes, last


def _unroll_level(
    cell: RSSMCell,
    context: tf.Tensor,
    state: State,
    embeddings: tf.Tensor | None,
    noise: tf.Tensor | None,
) -> tuple[LevelPass, State]:
    """Runs one cell over its nodes: context [N, B, ...], embeddings [B, N, F], noise [N, B, S]."""
    if context.shape[0] == 0:
        empty = DiagGaussian(*[tf.zeros((0, *state.stochastic.shape))] * 2)
        return LevelPass(tf.zeros((0, *state.features().shape)), empty, empty), state

    inputs = [cell.context_input(context)]
    if embeddings is not None:
        inputs.append(tf.transpose(cell.embedding_input(embeddings), (1, 0, 2)))
    if noise is not None:
        inputs.append(noise)

    def tick(weights: NamedTuple, previous: State, now: Sequence[tf.Tensor]) -> tuple:
        now = list(now)
        deterministic = cell.transition(previous, now.pop(0), weights)
        if embeddings is None:
            belief = cell.prior(deterministic, weights)
        else:
            belief = cell.posterior(deterministic, now.pop(0), weights)
        stochastic = belief.mean if noise is None else belief.sample(now.pop(0))
        return stochastic, deterministic, belief.mean, belief.stddev

    weights = cell.tick_weights()
    stochastic, deterministic, mean, stddev = recurrence.run(tick, weights, state, inputs)
    posterior = DiagGaussian(mean, stddev)
    prior = posterior if embeddings is None else cell.prior(deterministic, weights)
    states = State(stochastic, deterministic)
    return LevelPass(states.features(), prior, posterior), State(*(x[-1] for x in states))
