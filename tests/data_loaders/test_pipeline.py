"""Tests of batches: a pure function of (seed, step), as arrays and as a stream; and of `load`."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

import data_loaders
from cwvae.errors import UserError
from data_loaders.pipeline import Dataset
from data_loaders.windows import Clips, EqualClips

NUM_CLIPS, CLIP_LENGTH = 5, 13
FRAME_SHAPE = (2, 3, 1)


class NumberedFrames(Dataset):
    """Every pixel of frame t of clip i is 20 i + t, which identifies the windows of a batch."""

    def __init__(self, clips=EqualClips(NUM_CLIPS, CLIP_LENGTH)):  # noqa: B008 - never changed
        super().__init__(clips, FRAME_SHAPE)

    def clip(self, i, start=0, length=None):
        self._check_index(i)
        length = self._window_length(i, start, length)
        numbers = (20 * i + np.arange(start, start + length)).astype(np.uint8)
        return np.broadcast_to(numbers[:, None, None, None], (length, *FRAME_SHAPE))


def windows(batch: np.ndarray) -> np.ndarray:
    """Returns (clip, start) of each video of a batch, [B, 2], and checks that it is a window."""
    first = batch[:, :1, :1, :1, :1].astype(int)
    expected = first + np.arange(batch.shape[1])[:, None, None, None]
    np.testing.assert_array_equal(batch, np.broadcast_to(expected, batch.shape))
    return np.stack(np.divmod(first.ravel(), 20), axis=-1)


def take(stream, count: int) -> list[np.ndarray]:
    return [batch.numpy() for batch in stream.take(count)]


def test_batch_is_made_of_windows_of_clips():
    batch = NumberedFrames().batch(batch_size=7, length=4, seed=3, step=2)
    assert batch.shape == (7, 4, *FRAME_SHAPE)
    assert batch.dtype == np.uint8
    windows(batch)


def test_every_clip_and_start_is_drawn_equally():
    batch = NumberedFrames().batch(batch_size=5000, length=4, seed=0, step=0)
    clips, starts = windows(batch).T
    counts = np.zeros((NUM_CLIPS, CLIP_LENGTH - 4 + 1), int)
    np.add.at(counts, (clips, starts), 1)
    assert counts.min() > 50
    assert counts.max() < 150


def test_window_may_be_the_whole_clip():
    batch = NumberedFrames().batch(batch_size=9, length=CLIP_LENGTH, seed=0, step=0)
    assert set(windows(batch)[:, 1].tolist()) == {0}


def unequal_frames():
    """The same clips, except that clip 1 has only three frames and clip 3 has none."""
    return NumberedFrames(Clips([CLIP_LENGTH, 3, CLIP_LENGTH, 0, CLIP_LENGTH]))


def test_batches_skip_clips_shorter_than_a_window():
    dataset = unequal_frames()
    clips, starts = windows(dataset.batch(batch_size=500, length=4, seed=0, step=0)).T
    assert set(clips) == {0, 2, 4}
    assert set(starts) == set(range(10))
    assert dataset.at_least(3).tolist() == [0, 1, 2, 4]
    with pytest.raises(UserError, match="clip 1 of this data set has 3 frames"):
        dataset.clip(1, 2, 2)


def test_chunks_start_at_multiples_and_occur_once_per_epoch():
    dataset = unequal_frames()
    dataset.windows = "chunks"  # Three clips of 13 frames: nine chunks of four.
    epochs = [windows(dataset.batch(9, 4, seed=5, step=n)).tolist() for n in range(2)]
    expected = [[i, t] for i in (0, 2, 4) for t in (0, 4, 8)]
    assert [sorted(epoch) for epoch in epochs] == [expected] * 2
    assert epochs[0] != epochs[1]
    rows = dataset.batch(9, 4, seed=5, step=1, rows=range(3, 5))
    assert windows(rows).tolist() == epochs[1][3:5]


def test_the_error_that_ends_a_stream_is_stored():
    class Vanishing(NumberedFrames):
        def clip(self, i, start=0, length=None):
            raise UserError("the disk is gone")

    dataset = Vanishing()
    with pytest.raises(tf.errors.OpError):
        take(dataset.batches(2, 4, seed=0), 1)
    assert str(dataset.failure) == "the disk is gone"


def test_batch_is_a_function_of_seed_and_step():
    reference = windows(NumberedFrames().batch(32, 4, seed=3, step=2))
    np.testing.assert_array_equal(windows(NumberedFrames().batch(32, 4, seed=3, step=2)), reference)
    for seed, step in ((3, 3), (4, 2), (2, 3)):
        assert np.any(windows(NumberedFrames().batch(32, 4, seed, step)) != reference)


def test_huge_steps_are_steps():
    dataset = NumberedFrames()
    low, high = (windows(dataset.batch(32, 4, 0, step)) for step in (7, 2**40 + 7))
    assert np.any(low != high)
    [first] = take(dataset.batches(32, 4, seed=0, step=2**40 + 7), 1)
    np.testing.assert_array_equal(windows(first), high)


def test_stream_is_the_batches_in_order_with_static_shapes():
    dataset = NumberedFrames()
    stream = dataset.batches(2, 4, seed=1)
    assert tuple(stream.element_spec.shape) == (2, 4, *FRAME_SHAPE)
    assert stream.element_spec.dtype == "uint8"
    for step, batch in enumerate(take(stream, 6)):
        np.testing.assert_array_equal(batch, dataset.batch(2, 4, seed=1, step=step))


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_the_parts_of_all_workers_are_the_batches(workers):
    """With six rows and six devices, each worker's stream has its devices' rows, step by step."""
    dataset, local = NumberedFrames(), 6 // workers
    whole = take(dataset.batches(6, 4, seed=1, step=2), 2)
    for worker in range(workers):
        own = range(worker * local, (worker + 1) * local)
        parts = take(dataset.batches(6, 4, seed=1, step=2, shards=6, own=own), 2 * local)
        assert parts[0].shape[0] == 1
        for step, batch in enumerate(whole):
            got = np.concatenate(parts[step * local :][:local])
            np.testing.assert_array_equal(got, batch[own.start : own.stop])


def test_a_resumed_stream_is_identical_bit_for_bit():
    options = {"frame_size": 31, "digit_size": 12}
    whole = take(data_loaders.load("moving_digits", "train", **options).batches(3, 5, seed=1), 5)
    resumed = data_loaders.load("moving_digits", "train", **options).batches(3, 5, seed=1, step=3)
    assert whole[3].max() > 0
    for batch, expected in zip(take(resumed, 2), whole[3:], strict=True):
        np.testing.assert_array_equal(batch, expected)


def test_too_long_window_names_both_lengths():
    with pytest.raises(UserError, match=r"windows have 14 frames, .* at most 13 frames"):
        NumberedFrames().batch(2, 14, seed=0, step=0)
    with pytest.raises(UserError, match=r"windows have 14 frames, .* at most 13 frames"):
        NumberedFrames().batches(2, 14, seed=0)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ((0, 4, 0, 0), "batch_size"),
        ((2, 0, 0, 0), "length"),
        ((2, 4, -1, 0), "seed"),
        ((2, 4, 0, -1), "step"),
    ],
)
def test_arguments_out_of_range_are_named(arguments, name):
    with pytest.raises(UserError, match=f"{name} is "):
        NumberedFrames().batches(*arguments)


def test_attributes_are_empty_by_default():
    assert NumberedFrames().attributes(4) == {}
    with pytest.raises(IndexError, match="no clip 5"):
        NumberedFrames().attributes(5)


def test_load_passes_its_options_on():
    dataset = data_loaders.load("moving_digits", "test", frame_size=31, digit_size=12, channels=3)
    assert dataset.frame_shape == (31, 31, 3)
    assert dataset.length(5) == 1000


def test_unknown_names_suggest_the_nearest():
    with pytest.raises(UserError, match="'mooving_digits'; did you mean 'moving_digits'"):
        data_loaders.load("mooving_digits", "train")
    with pytest.raises(UserError, match="'digit_sice'; did you mean 'digit_size'"):
        data_loaders.load("moving_digits", "train", digit_sice=12)
    with pytest.raises(UserError, match="did you mean 'test'"):
        data_loaders.load("moving_digits", "tset")


def test_import_starts_nothing_heavy():
    code = "import sys, data_loaders; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(data_loaders.__file__).parents[1],
        check=True,
        capture_output=True,
        text=True,
    )
    modules = set(done.stdout.split())
    assert "numpy" in modules
    heavy = {"tensorflow", "tensorflow_datasets", "keras", "sklearn", "scipy", "av", "labmaze"}
    assert not modules & heavy


def test_the_fingerprint_of_a_selection_is_of_its_data_set_and_its_clips():
    data, other = NumberedFrames(), NumberedFrames()
    data.fingerprint, other.fingerprint = "first", "second"
    prints = [
        data.select([0, 1]).fingerprint,
        data.select([1, 0]).fingerprint,
        other.select([0, 1]).fingerprint,
    ]
    assert len(set(prints)) == 3
    assert data.select(np.array([0, 1])).fingerprint == prints[0]
