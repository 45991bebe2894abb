"""The interface of a data set, and its batches as a function of (seed, step).

B is the batch size, T a number of frames, H, W and C the height, width and channels of a frame.
"""

import abc
import hashlib
import json
import math
import operator
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from cwvae.errors import UserError
from data_loaders.attributes import Attributes, Readable
from data_loaders.windows import Clips, chunk_numbers

if TYPE_CHECKING:
    import tensorflow as tf


_ALIGNMENT = 64  # Bytes. TensorFlow requires it of a tensor's memory.
WINDOWS = ("random", "chunks")


class Dataset(abc.ABC):
    """A sequence of video clips of one frame size, with random access to their frames.

    A batch is a pure function of (seed, step): a run needs only its step to resume, and two runs
    with the same seed see the same batches. Windows are drawn by number, so only they are read.
    """

    # How windows are chosen; `load` sets it. 'random': any T frames of a clip, each window equally
    # likely. 'chunks': clips are cut every T frames and each epoch covers all pieces in another
    # order, as in the original implementation.
    windows = "random"

    # Identifies the clips: it differs if they differ although the settings are the same.
    fingerprint: str
    # In words, the part of the clips that the fingerprint is computed from.
    fingerprint_of = "videos"

    # The error that ended a stream of batches. tf.data raises it with another type.
    failure: UserError | None = None

    def __init__(self, clips: Clips, frame_shape: tuple[int, int, int]):
        """Stores the lengths of the clips, and (H, W, C) of a frame."""
        self.clips, self.frame_shape = clips, frame_shape

    @abc.abstractmethod
    def clip(self, i: int, start: int = 0, length: int | None = None) -> np.ndarray:
        """Returns frames of clip `i`.

        Args:
          i: The number of the clip, from 0, in the order of the files.
          start: The first frame.
          length: The number of frames; None for all to the end of the clip.

        Returns:
          uint8 [length, H, W, C].

        Raises:
          IndexError: There is no clip `i`.
          UserError: Some of the frames are outside the clip, or cannot be read.
        """

    def __len__(self) -> int:
        """The number of clips."""
        return len(self.clips)

    def __getitem__(self, i: int | slice) -> "np.ndarray | Selection":
        """Returns all frames of clip `i`, uint8 [T, H, W, C], or a data set of a slice of clips.

        Negative numbers count from the end, as in a list.

        Raises:
          IndexError: There is no clip `i`.
        """
        if isinstance(i, slice):
            return self.select(range(len(self))[i])
        number = operator.index(i)
        number += len(self) if number < 0 else 0
        if not 0 <= number < len(self):
            raise IndexError(f"there is no clip {i}: this data set has {len(self)} clips.")
        return self.clip(number)

    def __iter__(self) -> Iterator[np.ndarray]:
        """Yields all frames of each clip, uint8 [T, H, W, C]."""
        return map(self.clip, range(len(self)))

    def length(self, i: int) -> int:
        """Returns the number of frames of clip `i`."""
        self._check_index(i)
        return self.clips.length(i)

    def at_least(self, length: int) -> Sequence[int]:
        """Returns the numbers of the clips with `length` frames or more, in order.

        Raises:
          UserError: There are none.
        """
        found = self.clips.at_least(length)
        if len(found) == 0:
            raise UserError(
                f"windows have {length} frames, but the clips of this data set have at most"
                f" {self.clips.longest} frames. Set fewer frames (training.seq_len, or"
                " evaluation.context and evaluation.horizon), or use longer clips."
            )
        return found

    def shorter_than(self, length: int) -> list[str]:
        """Returns `NAME: N frames` for each clip that is shorter than a window."""
        if len(self.at_least(length)) == len(self):
            return []
        short = np.setdiff1d(np.arange(len(self)), self.at_least(length)).tolist()
        return [f"{self.name(i)}: {self.length(i)} frames" for i in short]

    def name(self, i: int) -> str:
        """Returns the name of clip `i`, such as its file's name."""
        self._check_index(i)
        return str(i)

    def select(self, numbers: Sequence[int]) -> "Selection":
        """Returns a data set of the clips with these numbers, in this order."""
        return Selection(self, numbers)

    def attributes(self, i: int, start: int = 0, length: int | None = None) -> Attributes:
        """Returns the known attributes of `clip(i, start, length)`, by name; may be empty."""
        self._check_index(i)
        return {}

    def readable(self) -> tuple[Readable, ...]:
        """Returns the attributes that a single frame shows; may be empty."""
        return ()

    def readings(self, i: int, start: int = 0, length: int | None = None) -> Attributes:
        """Returns the true values of `readable()` for each frame of `clip(i, start, length)`.

        Returns:
          By name: classes int64 [T, K] or points float32 [T, K, 2], in arbitrary order within K.
        """
        known = self.attributes(i, start, length)
        return {readable.name: readable.read(known) for readable in self.readable()}

    def batch(
        self, batch_size: int, length: int, seed: int, step: int, rows: range | None = None
    ) -> np.ndarray:
        """Returns one batch of windows, skipping clips that are shorter than a window.

        Args:
          batch_size: B.
          length: Frames per window, T.
          seed: The seed of the run, not negative.
          step: The number of the batch, from 0.
          rows: The rows of the batch to return; None for all.

        Returns:
          uint8 [B or len(rows), T, H, W, C], a pure function of the arguments.

        Raises:
          UserError: All clips are shorter than a window, or an argument is out of range.
        """
        self._check_batch(batch_size, length, seed, step)
        if self.windows == "chunks":
            count = self.clips.count_chunks(length)
            numbers = chunk_numbers(count, batch_size, seed, step)
            clips, starts = self.clips.chunks(numbers, length)
        else:
            rng = np.random.default_rng(np.random.SeedSequence([seed, step]))
            clips, starts = self.clips.draw(rng, batch_size, length)
        rows = range(batch_size) if rows is None else rows
        videos = _aligned((len(rows), length, *self.frame_shape))
        for video, row in zip(videos, rows, strict=True):
            self._read_into(video, int(clips[row]), int(starts[row]))
        return videos

    def _read_into(self, video: np.ndarray, i: int, start: int) -> None:
        """Reads frames of clip `i` into uint8 [T, H, W, C]."""
        video[:] = self.clip(i, start, len(video))

    def batches(
        self,
        batch_size: int,
        length: int,
        seed: int,
        step: int = 0,
        *,
        shards: int = 1,
        own: range = range(1),
    ) -> "tf.data.Dataset":
        """Returns the endless stream of `batch(batch_size, length, seed, n)` for n = step, ...

        Batches are prefetched in the background, and come in order.

        Args:
          batch_size: B.
          length: Frames per window, T.
          seed: The seed of the run, not negative.
          step: The number of the first batch. A run that stopped after `step` batches resumes here.
          shards: The number of equal parts of each batch, one per device.
          own: The parts to return, one after the other: those of this process's devices.

        Returns:
          A tf.data.Dataset of uint8 [B / shards, T, H, W, C], shapes static.

        Raises:
          UserError: All clips are shorter than a window, or an argument is out of range.
        """
        import tensorflow as tf  # Only needed here: clips and batches are NumPy.

        # Checked before the first batch, since errors inside tf.data lose their type and message.
        self._check_batch(batch_size, length, seed, step)
        size = batch_size // shards

        def part(n: int) -> np.ndarray:
            first = own[n % len(own)] * size
            rows = range(first, first + size)
            try:
                return self.batch(batch_size, length, seed, n // len(own), rows)
            except UserError as error:
                self.failure = error
                raise

        def make(n: "tf.Tensor") -> "tf.Tensor":
            videos = tf.numpy_function(lambda n: part(int(n)), [n], tf.uint8)
            return tf.ensure_shape(videos, (size, length, *self.frame_shape))

        numbers = tf.data.Dataset.range(step * len(own), tf.int64.max)
        ahead = 2 * len(own)
        return numbers.map(make, num_parallel_calls=2, deterministic=True).prefetch(ahead)

    def _check_batch(self, batch_size: int, length: int, seed: int, step: int) -> None:
        lowest = (("batch_size", batch_size, 1), ("length", length, 1), ("seed", seed, 0))
        for name, value, least in (*lowest, ("step", step, 0)):
            if value < least:
                raise UserError(f"{name} is {value}, but must be at least {least}.")
        self.at_least(length)

    def _check_index(self, i: int) -> None:
        if not 0 <= i < len(self):
            raise IndexError(f"there is no clip {i}: this data set has {len(self)} clips, from 0.")

    def _window_length(self, i: int, start: int, length: int | None) -> int:
        """Returns the length of a window, after checking that it lies within the clip."""
        frames = self.length(i)
        if length is None:
            length = frames - start
        if start < 0 or length < 1 or start + length > frames:
            raise UserError(
                f"frames {start} to {start + length}: clip {i} of this data set has {frames}"
                " frames. Ask for at least one frame, within these."
            )
        return length


class Selection(Dataset):
    """Some clips of a data set."""

    def __init__(self, dataset: Dataset, numbers: Sequence[int]):
        """Stores the numbers of the clips; `dataset` stays open."""
        super().__init__(dataset.clips.select(numbers), dataset.frame_shape)
        self._dataset, self._numbers = dataset, numbers
        self.windows, self.fingerprint_of = dataset.windows, dataset.fingerprint_of

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the data set, together with the numbers of the clips."""
        about = [self._dataset.fingerprint, [int(i) for i in self._numbers]]
        return hashlib.sha256(json.dumps(about).encode()).hexdigest()

    def clip(self, i: int, start: int = 0, length: int | None = None) -> np.ndarray:
        """As in `Dataset`."""
        self._check_index(i)
        return self._dataset.clip(int(self._numbers[i]), start, length)

    def name(self, i: int) -> str:
        """As in `Dataset`."""
        self._check_index(i)
        return self._dataset.name(int(self._numbers[i]))

    def attributes(self, i: int, start: int = 0, length: int | None = None) -> Attributes:
        """As in `Dataset`."""
        self._check_index(i)
        return self._dataset.attributes(int(self._numbers[i]), start, length)

    def readable(self) -> tuple[Readable, ...]:
        """As in `Dataset`."""
        return self._dataset.readable()


def _aligned(shape: tuple[int, ...]) -> np.ndarray:
    """Returns an uninitialised uint8 array that TensorFlow can use without a copy."""
    size = math.prod(shape)
    memory = np.empty(size + _ALIGNMENT, np.uint8)
    first = -memory.ctypes.data % _ALIGNMENT
    return memory[first : first + size].reshape(shape)
