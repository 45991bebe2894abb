"""Time, tested with a cell that counts instead of computing.

The counting cell's h holds how often it ticked; its z holds which ticks of the levels above it
read. So every context, clock and held state can be written down by hand.
"""

import numpy as np
import pytest
import tensorflow as tf

from cwvae import clockwork
from cwvae.cell import State, Tick
from cwvae.distributions import DiagGaussian


class CountingCell:
    """State: h = [ticks so far], z = [the h of the level above, the embedding at this tick]."""

    context_size = 3

    def initial_state(self, batch):
        return State(tf.zeros((batch, 2)), tf.zeros((batch, 1)))

    def __call__(self, state, context, embedding=None, noise=None):
        upper = context[..., -1:]
        z = tf.concat([upper, tf.zeros_like(upper) if embedding is None else embedding], -1)
        belief = DiagGaussian(z, tf.zeros_like(z))
        return Tick(State(z, state.deterministic + 1), belief, belief)


def run(factors, start, stop, states=None, embeddings=None):
    cells = [CountingCell() for _ in range(len(factors) + 1)]
    states = states or [cell.initial_state(2) for cell in cells]
    embeddings = embeddings or [None] * len(cells)
    return clockwork.unroll(cells, factors, start, stop, states, embeddings, None)


def ticks(nodes):
    """The number of each tick, [N]."""
    return nodes.state.features()[:, 0, 2].numpy().tolist()


def contexts(nodes):
    """The number of the tick of the level above that each tick read, [N]."""
    return nodes.state.features()[:, 0, 0].numpy().tolist()


def seen(nodes):
    """The embedding that each tick read, [N]."""
    return nodes.state.features()[:, 1, 1].numpy().tolist()


# T = 13, L = 3. Which tick of the level above each tick reads; the top level reads zeros.
BY_HAND = {
    2: {
        0: [1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7],
        1: [1, 1, 2, 2, 3, 3, 4],
        2: [0, 0, 0, 0],
    },
    3: {0: [1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4, 5], 1: [1, 1, 1, 2, 2], 2: [0, 0]},
}
# How many ticks each level has made within a context of so many frames.
TICKS_IN_CONTEXT = {
    2: {1: (1, 1, 1), 5: (5, 3, 2), 8: (8, 4, 2), 13: (13, 7, 4)},
    3: {1: (1, 1, 1), 5: (5, 2, 1), 8: (8, 3, 1), 13: (13, 5, 2)},
}


@pytest.mark.parametrize("k", [2, 3])
def test_ticks_and_contexts_of_a_whole_pass(k):
    passes, states = run((k, k), 0, 13)
    for level, want in BY_HAND[k].items():
        assert contexts(passes[level]) == want
        assert ticks(passes[level]) == list(range(1, len(want) + 1))
        assert float(states[level].deterministic[0, 0]) == len(want)


@pytest.mark.parametrize("k", [2, 3])
@pytest.mark.parametrize("context", [1, 5, 8, 13])
def test_clocks_go_on_over_the_context_boundary(k, context):
    _, held = run((k, k), 0, context)
    assert [float(s.deterministic[0, 0]) for s in held] == list(TICKS_IN_CONTEXT[k][context])
    passes, states = run((k, k), context, 20, held)
    whole, last = run((k, k), 0, 20)
    for level, done in enumerate(TICKS_IN_CONTEXT[k][context]):
        assert contexts(passes[level]) == contexts(whole[level])[done:]
        assert ticks(passes[level]) == ticks(whole[level])[done:]
        np.testing.assert_array_equal(states[level].features(), last[level].features())


def test_a_level_that_does_not_tick_in_a_stretch_holds_its_state():
    _, held = run((3, 3), 0, 10)
    passes, states = run((3, 3), 10, 12, held)
    assert [len(p.state.stochastic) for p in passes] == [2, 0, 0]
    assert contexts(passes[0]) == [4.0, 4.0]  # the middle level's fourth tick, at frame 9
    for level in (1, 2):
        np.testing.assert_array_equal(states[level].features(), held[level].features())


def test_each_level_has_its_own_factor():
    assert clockwork.periods((2, 3)) == (1, 2, 6)
    passes, _ = run((2, 3), 0, 13)
    assert contexts(passes[0]) == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7]
    assert contexts(passes[1]) == [1, 1, 1, 2, 2, 2, 3]


def test_factors_of_one_tick_at_every_frame():
    passes, _ = run((1, 1), 0, 5)
    assert [ticks(p) for p in passes] == [[1, 2, 3, 4, 5]] * 3
    assert contexts(passes[0]) == contexts(passes[1]) == [1, 2, 3, 4, 5]


def test_one_level_reads_zeros():
    passes, _ = run((), 0, 4)
    assert ticks(passes[0]) == [1, 2, 3, 4]
    assert contexts(passes[0]) == [0, 0, 0, 0]


def test_each_tick_reads_its_own_embedding():
    embeddings = [
        tf.reshape(tf.range(0.0, 26), (2, 13, 1)),
        tf.reshape(tf.range(0.0, 10), (2, 5, 1)),
        None,
    ]
    passes, _ = run((3, 3), 0, 13, embeddings=embeddings)
    assert seen(passes[0]) == list(range(13, 26))  # of the second clip
    assert seen(passes[1]) == list(range(5, 10))
    assert seen(passes[2]) == [0, 0]


def test_active_nodes_are_those_of_equation_1():
    for period in (1, 2, 6, 36):
        for start, stop in [(0, 13), (5, 6), (7, 100), (35, 37)]:
            frames = [t for t in range(start, stop) if (t + 1) % period == 1 % period]
            nodes = clockwork.active_nodes(start, stop, period)
            assert [n * period for n in nodes] == frames


def test_pool_sums_windows_and_pads_the_last():
    features = np.random.default_rng(0).normal(size=(2, 13, 5)).astype(np.float32)
    pooled = clockwork.pool(tf.constant(features), 6)
    want = np.stack([features[:, :6].sum(1), features[:, 6:12].sum(1), features[:, 12]], 1)
    np.testing.assert_allclose(pooled, want, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(clockwork.pool(tf.constant(features), 1), features)


def test_pool_of_a_period_far_beyond_the_clip_costs_no_more_than_the_clip():
    np.testing.assert_array_equal(
        clockwork.pool(tf.ones((2, 100, 4)), 6**12), np.full((2, 1, 4), 100)
    )


def test_pool_of_the_papers_sizes():
    frames = tf.ones((1, 100, 1))
    assert clockwork.pool(frames, 6).shape[1] == 17
    np.testing.assert_array_equal(clockwork.pool(frames, 36)[0, :, 0], [36, 36, 28])
