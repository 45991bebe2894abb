"""Time: which level ticks when, what it reads, and how a hierarchy of cells is unrolled.

Levels count from 0, the fastest (the paper's level 1). Level l ticks at the frames 0, K_l, 2 K_l,
..., with its period K_l = k_1 k_2 ... k_l, K_0 = 1 (Equation 1, with frames from 0). Its state is
held from one tick to the next (Equation 2). A node is a tick with the K_l frames that it spans.
Here `context` is the features of the level above, not the frames that the model has seen.

Symbols: B batch, T frames, L levels, N nodes of a level in a stretch of frames. Nodes are
time-major, [N, B, ...].
"""

import math
from collections.abc import Callable, Sequence

import tensorflow as tf

from cwvae.cell import RSSMCell, State, Tick
from cwvae.distributions import DiagGaussian, Noise


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
    """Sums the features of the frames that each node spans, also those after its tick.

    Args:
      features: [B, T, F]. If K_l does not divide T, the last node sums the frames that remain.
      period: K_l.

    Returns:
      [B, ceil(T / K_l), F].
    """
    batch, length, size = features.shape
    period = min(period, length)  # One node sums them all: no need to pad to a long period.
    padded = tf.pad(features, [[0, 0], [0, -length % period], [0, 0]])
    return tf.reduce_sum(tf.reshape(padded, (batch, -1, period, size)), 2)


def run_level(
    cell: RSSMCell,
    state: State,
    context: tf.Tensor,
    embeddings: tf.Tensor | None,
    noise: tf.Tensor | None,
) -> Tick:
    """Runs one cell over its nodes, one tick after the other.

    Args:
      cell: The level's cell.
      state: Its state before the first node.
      context: Features of the level above at every node, [N, B, context_size], N from 1.
      embeddings: [B, N, F]. None: the level follows its prior.
      noise: Standard normal, [N, B, S]. None: z is the mean of its belief.

    Returns:
      The ticks of all nodes, each part [N, B, ...].
    """
    inputs = {"context": context, "noise": noise}
    inputs["embedding"] = None if embeddings is None else tf.transpose(embeddings, (1, 0, 2))
    inputs = {name: values for name, values in inputs.items() if values is not None}
    # tf.scan needs a first value of the result's structure; only its state is read.
    placeholder = DiagGaussian(tf.zeros_like(state.stochastic), tf.zeros_like(state.stochastic))

    def tick(previous: Tick, now: dict[str, tf.Tensor]) -> Tick:
        return cell(previous.state, **now)

    return tf.scan(tick, inputs, Tick(state, placeholder, placeholder))


def unroll(
    cells: Sequence[RSSMCell],
    factors: Sequence[int],
    start: int,
    stop: int,
    states: Sequence[State],
    embeddings: Sequence[tf.Tensor | None],
    noise: Noise | None,
    run_level: Callable[..., Tick] = run_level,
) -> tuple[list[Tick], list[State]]:
    """Runs all levels over the frames [start, stop), the slowest first.

    A stretch may begin anywhere: each level continues from the state it holds. Until a level ticks
    in the stretch, its held state conditions the level below.

    Args:
      cells: One per level, the fastest first.
      factors: As for `periods`.
      start: The first frame.
      stop: The frame after the last.
      states: Each level's state before `start`.
      embeddings: For each level [B, N, F], from which its posterior is inferred (Equation 4). None:
        the level follows its prior.
      noise: Noise of the latents. None: means instead of samples.
      run_level: Runs one level; the fast kernels pass another implementation.

    Returns:
      Each level's ticks, every part [N, B, ...], and each level's last state.
    """
    clock = periods(factors)
    ticks, last = [None] * len(cells), list(states)
    # Features of the level above: row 0 is the state held at `start`, row i the i-th tick after it.
    upper = None
    for level in reversed(range(len(cells))):
        cell, state, nodes = cells[level], states[level], active_nodes(start, stop, clock[level])
        if upper is None:  # No level is above the top one: its context is zero.
            context = tf.zeros((len(nodes), state.stochastic.shape[0], cell.context_size))
        else:
            # Node n of this level lies within node n // k of the level above. With k = 2 and
            # start = 3, nodes 3, 4, 5 lie within the held node 1 and within 2, 2: rows 0, 1, 1.
            above = active_nodes(start, stop, clock[level + 1])
            rows = [node // factors[level] - above.start + 1 for node in nodes]
            context = tf.gather(upper, tf.constant(rows, tf.int32))
        if nodes:
            drawn = None
            if noise is not None:
                drawn = noise.normal(level, len(nodes), *state.stochastic.shape)
            ticks[level] = run_level(cell, state, context, embeddings[level], drawn)
            last[level] = State(*(part[-1] for part in ticks[level].state))
        else:
            none = [tf.zeros((0, *part.shape)) for part in state]
            ticks[level] = Tick(State(*none), *[DiagGaussian(none[0], none[0])] * 2)
        upper = tf.concat([state.features()[None], ticks[level].state.features()], 0)
    return ticks, last
