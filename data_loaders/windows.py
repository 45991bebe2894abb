"""Which windows of frames the clips of a data set have, and how they are drawn.

A window is T frames in a row of one clip. B is the batch size. Everything here is a pure function
of its arguments and takes memory in proportion to the number of clips at most.
"""

import abc
import functools
from collections.abc import Sequence

import numpy as np


class Clips(abc.ABC):
    """How many clips a data set has, and how long each is."""

    @abc.abstractmethod
    def __len__(self) -> int:
        """The number of clips."""

    @abc.abstractmethod
    def length(self, i: int) -> int:
        """Returns the number of frames of clip `i`."""

    @property
    @abc.abstractmethod
    def longest(self) -> int:
        """The number of frames of the longest clip."""

    @abc.abstractmethod
    def at_least(self, length: int) -> Sequence[int]:
        """Returns the clips with `length` frames or more, in order."""

    @abc.abstractmethod
    def draw(
        self, rng: np.random.Generator, batch_size: int, length: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Draws windows with replacement, each window of each clip equally likely.

        Args:
          rng: Where randomness comes from.
          batch_size: B.
          length: Frames per window, T; some clip is as long.

        Returns:
          (clips, starts): int64 [B] each.
        """

    @abc.abstractmethod
    def count_chunks(self, length: int) -> int:
        """Returns how many chunks there are: windows that begin at a multiple of T."""

    @abc.abstractmethod
    def chunks(self, numbers: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns (clips, starts) of chunks by their numbers, in the order of the clips."""


class EqualClips(Clips):
    """Clips of one length, as many as there may be."""

    def __init__(self, count: int, length: int):
        """Keeps the number of clips, and the frames of each."""
        self._count, self._length = count, length

    def __len__(self) -> int:
        return self._count

    def length(self, i: int) -> int:
        """As in `Clips`."""
        del i
        return self._length

    @property
    def longest(self) -> int:
        """As in `Clips`."""
        return self._length

    def at_least(self, length: int) -> range:
        """As in `Clips`."""
        return range(self._count if length <= self._length else 0)

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


class UnequalClips(Clips):
    """Clips whose lengths are listed."""

    def __init__(self, lengths: Sequence[int]):
        """Keeps the frames of each clip."""
        self._lengths = np.asarray(lengths, np.int64)

    def __len__(self) -> int:
        return len(self._lengths)

    def length(self, i: int) -> int:
        """As in `Clips`."""
        return int(self._lengths[i])

    @property
    def longest(self) -> int:
        """As in `Clips`."""
        return int(self._lengths.max(initial=0))

    def at_least(self, length: int) -> np.ndarray:
        """As in `Clips`."""
        return np.flatnonzero(self._lengths >= length)

    def draw(self, rng, batch_size, length):
        """As in `Clips`."""
        ends = self._window_ends(length)
        return _locate(ends, rng.integers(ends[-1], size=batch_size))

    def count_chunks(self, length: int) -> int:
        """As in `Clips`."""
        return int(self._chunk_ends(length)[-1])

    def chunks(self, numbers, length):
        """As in `Clips`."""
        clips, chunks = _locate(self._chunk_ends(length), numbers)
        return clips, chunks * length

    # A run asks for windows of one length over and over: the sums are made once.

    @functools.lru_cache(maxsize=4)  # noqa: B019 - a handful of data sets live as long as the run
    def _window_ends(self, length: int) -> np.ndarray:
        return np.cumsum(np.maximum(self._lengths - length + 1, 0))

    @functools.lru_cache(maxsize=4)  # noqa: B019
    def _chunk_ends(self, length: int) -> np.ndarray:
        return np.cumsum(self._lengths // length)


def _locate(ends: np.ndarray, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns (clip, number within the clip) of things that are numbered through all clips.

    Args:
      ends: How many there are in the clips up to each one, this one included, int64 [N].
      numbers: int64 [B].
    """
    clips = np.searchsorted(ends, numbers, side="right")
    return clips, numbers - np.where(clips > 0, ends[clips - 1], 0)


@functools.lru_cache(maxsize=2)  # A batch reaches into two epochs at most, but for tiny data sets.
def _epoch(seed: int, epoch: int, count: int) -> np.ndarray:
    return np.random.default_rng(np.random.SeedSequence([seed, epoch])).permutation(count)


def chunk_numbers(count: int, batch_size: int, seed: int, step: int) -> np.ndarray:
    """Returns which chunks a batch holds: every epoch is another order of all of them.

    Args:
      count: How many chunks there are.
      batch_size: B.
      seed: Of the run.
      step: The number of the batch.

    Returns:
      int64 [B]. Batches go on from one epoch into the next.
    """
    epochs, places = np.divmod(step * batch_size + np.arange(batch_size), count)
    numbers = np.empty(batch_size, np.int64)
    for epoch in np.unique(epochs):
        rows = epochs == epoch
        numbers[rows] = _epoch(seed, int(epoch), count)[places[rows]]
    return numbers
