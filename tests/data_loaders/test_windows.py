"""Tests of windows: how they are drawn, and epochs of chunks."""

import numpy as np
import pytest

from data_loaders.windows import Clips, EqualClips, chunk_numbers

LENGTHS = [13, 4, 0, 5, 3, 20]


def test_clips_that_are_long_enough_are_in_order():
    clips = Clips(LENGTHS)
    assert len(clips) == 6
    assert clips.longest == 20
    assert [clips.length(i) for i in range(6)] == LENGTHS
    assert list(clips.at_least(5)) == [0, 3, 5]
    assert list(clips.at_least(21)) == []
    assert EqualClips(7, 13).at_least(13) == range(7)
    assert len(EqualClips(7, 13).at_least(14)) == 0


def test_some_clips_are_selected():
    some = Clips(LENGTHS).select([5, 1])
    assert (len(some), some.length(0), some.length(1)) == (2, 20, 4)
    many = EqualClips(2**40, 13).select(range(10**9))  # In no time, and in no memory.
    assert (len(many), many.length(10**9 - 1), many.longest) == (10**9, 13, 13)


def test_every_window_of_every_clip_is_drawn_equally():
    clips, starts = Clips(LENGTHS).draw(np.random.default_rng(0), 30000, 4)
    counts = np.zeros((6, 20), int)
    np.add.at(counts, (clips, starts), 1)
    expected = [[t + 4 <= length for t in range(20)] for length in LENGTHS]
    np.testing.assert_array_equal(counts > 0, expected)
    # 10 + 1 + 2 + 17 windows, about 1,000 draws of each.
    assert counts[counts > 0].min() > 850
    assert counts.max() < 1150


def test_equal_clips_have_the_distribution_of_a_list_of_equal_lengths():
    for clips in (EqualClips(5, 6), Clips([6] * 5)):
        drawn = np.stack(clips.draw(np.random.default_rng(1), 9000, 4), axis=-1)
        _, counts = np.unique(drawn, axis=0, return_counts=True)
        assert len(counts) == 15
        assert counts.min() > 480
        assert counts.max() < 720


@pytest.mark.parametrize("clips", [Clips(LENGTHS), EqualClips(4, 13)])
def test_chunks_are_consecutive_pieces_of_the_clips(clips):
    expected = [(i, t) for i in range(len(clips)) for t in range(0, clips.length(i) - 3, 4)]
    assert clips.count_chunks(4) == len(expected)
    found = np.stack(clips.chunks(np.arange(len(expected)), 4), axis=-1)
    np.testing.assert_array_equal(found, expected)


def test_each_epoch_has_every_chunk_once_in_another_order():
    batches = [chunk_numbers(10, 4, seed=3, step=n) for n in range(5)]
    epochs = np.concatenate(batches).reshape(2, 10)  # The third batch spans both epochs.
    np.testing.assert_array_equal(np.sort(epochs), [np.arange(10)] * 2)
    assert not np.array_equal(*epochs)
    assert not np.array_equal(epochs[0], np.concatenate([chunk_numbers(10, 10, 4, 0)]))


def test_a_batch_may_be_larger_than_an_epoch():
    numbers = chunk_numbers(3, 7, seed=0, step=1)
    whole = np.concatenate([chunk_numbers(3, 3, seed=0, step=n) for n in range(5)])
    np.testing.assert_array_equal(numbers, whole[7:14])
