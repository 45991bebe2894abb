"""Draws windows from the clips of a data set.

A window is T successive frames of one clip. B is the batch size. All functions are pure.
"""

import functools
from collections.abc import Sequence

import numpy as np


class Clips:
    """The number of clips of a data set, and their lengths."""

    def __init__(self, lengths: Sequence[int]):
        """Stores the frames of each clip."""
        self._lengths = np.asarray(lengths, np.int64)

    def __len__(self) -> int:
        """The number of clips."""
        return len(self._lengths)

    def length(self, i: int) -> int:
        """Returns the number of frames of clip `i`."""
        return int(self._lengths[i])

    @property
    def longest(self) -> int:
        """The number of frames of the longest clip."""
        return int(self._lengths.max(initial=0))

    def at_least(self, length: int) -> Sequence[int]:
        """Returns the clips with `length` frames or more, in order."""
        return np.flatnonzero(self._lengths >= length)

    def select(self, numbers: Sequence[int]) -> "Clips":
        """Returns the clips with these numbers, in this order."""
        return Clips(self._lengths[np.asarray(numbers, np.int64)])

    def draw(
        self, rng: np.random.Generator, batch_size: int, length: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Draws windows with replacement, each window of each clip equally likely.

        Args:
          rng: The source of randomness.
          batch_size: B.
          length: Frames per window, T. At least one clip must be as long.

        Returns:
          (clips, starts): int64 [B] each.
        """
        ends = self._window_ends(length)
        return _locate(ends, rng.integers(ends[-1], size=batch_size))

    def count_chunks(self, length: int) -> int:
        """Returns the number of chunks, which are windows that start at a multiple of T."""
        return int(self._chunk_ends(length)[-1])

    def chunks(self, numbers: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns (clips, starts) of chunks by number, counted in the order of the clips."""
        clips, chunks = _locate(self._chunk_ends(length), numbers)
        return clips, chunks * length

    # A run uses few window lengths, so the sums are cached.

    @functools.lru_cache(maxsize=4)  # noqa: B019 - a few data sets live as long as the run
    def _window_ends(self, length: int) -> np.ndarray:
        return np.cumsum(np.maximum(self._lengths - length + 1, 0))

    @functools.lru_cache(maxsize=4)  # noqa: B019
    def _chunk_ends(self, length: int) -> np.ndarray:
        return np.cumsum(self._lengths // length)


class EqualClips(Clips):
    """Clips of the same length, any number of them: it takes no memory."""

    def __init__(self, count: int, length: int):
        """Stores the number of clips, and the frames of each."""
        self._count, self._length = count, length

    def __len__(self) -> int:
        return self._count

    def length(self, i: int) -> int:
        """As in `Clips`."""
        return self._length

    @property
    def longest(self) -> int:
        """As in `Clips`."""
        return self._length

    def at_least(self, length: int) -> range:
        """As in `Clips`."""
        return range(self._count if length <= self._length else 0)

    def select(self, numbers: Sequence[int]) -> "EqualClips":
        """As in `Clips`."""
        return EqualClips(len(numbers), self._length)

    def draw(self, rng, batch_size, length):
        """As in `Clips`."""
        clips = rng.integers(self._count, size=batch_size)
        return clips, rng.integers(self._length - length + 1, size=batch_size)

    def count_chunks(self, length: int) -> int:
        """As in `Clips`."""
        return self._count * (self._length // length)

    def chunks(self, numbers, length):
        """As in `Clips`."""
        clips, chunks = np.divmod(numbers, self._length // length)
        return clips, chunks * length


def _locate(ends: np.ndarray, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Converts numbers counted over all clips to (clip, number within it); `ends` is cumulative."""
    clips = np.searchsorted(ends, numbers, side="right")
    return clips, numbers - np.where(clips > 0, ends[clips - 1], 0)


@functools.lru_cache(maxsize=2)  # Except in tiny data sets, a batch spans at most two epochs.
def _epoch(seed: int, epoch: int, count: int) -> np.ndarray:
    return np.random.default_rng(np.random.SeedSequence([seed, epoch])).permutation(count)


def chunk_numbers(count: int, batch_size: int, seed: int, step: int) -> np.ndarray:
    """Returns the chunks of batch `step`, int64 [B], of `count` chunks in all.

    Each epoch is another permutation of all chunks. A batch may span epochs.
    """
    epochs, places = np.divmod(step * batch_size + np.arange(batch_size), count)
    numbers = np.empty(batch_size, np.int64)
    for epoch in np.unique(epochs):
        rows = epochs == epoch
        numbers[rows] = _epoch(seed, int(epoch), count)[places[rows]]
    return numbers
