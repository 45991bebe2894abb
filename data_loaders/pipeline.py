"""What every dataset is, and how it feeds training: (seed, step) -> batch.

B is the batch size, T a number of frames, H, W and C the height, width and channels of a frame.
"""

import abc
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from cwvae.errors import UserError
from data_loaders.attributes import Readable
from data_loaders.windows import Clips, UnequalClips, chunk_numbers

if TYPE_CHECKING:
    import tensorflow as tf


_ALIGNMENT = 64  # Bytes: what TensorFlow asks of a tensor's memory.
WINDOWS = ("random", "chunks")


class Dataset(abc.ABC):
    """A sequence of video clips of one frame size, with random access to their frames.

    A subclass gives the clips; batches are made here. A batch is a pure function of (seed, step):
    a run that resumes needs its step and nothing else, and two runs with one seed see the same
    batches. There is no shuffle buffer: windows are drawn by number, and only they are read.
    """

    # How windows are chosen; `load` sets it. 'random': any T frames of a clip, each window equally
    # likely. 'chunks': clips are cut every T frames and each epoch goes through all pieces in an
    # order of its own, as in the original implementation.
    windows = "random"

    # Differs where the clips do; None for those that are a function of the configuration.
    fingerprint: str | None = None

    # The error that ended a stream of batches, since what passes through tf.data loses its type.
    failure: UserError | None = None

    def __init__(self, clips: Clips, frame_shape: tuple[int, int, int]):
        """Keeps how many clips there are and how long each is, and (H, W, C) of a frame."""
        self.clips, self.frame_shape = clips, frame_shape

    @abc.abstractmethod
    def clip(self, i: int, start: int = 0, length: int | None = None) -> np.ndarray:
        """Returns frames `start` to `start + length` of clip `i`; without a length, to its end.

        Args:
          i: The clip, from 0 to `len(self) - 1`, in the order of the files.
          start: The first frame.
          length: Frames to return.

        Returns:
          uint8 [length, H, W, C].

        Raises:
          IndexError: there is no clip `i`.
          UserError: the frames asked for are not all within the clip, or cannot be read.
        """

    def __len__(self) -> int:
        """The number of clips."""
        return len(self.clips)

    def length(self, i: int) -> int:
        """Returns the number of frames of clip `i`."""
        self._check_index(i)
        return self.clips.length(i)

    def at_least(self, length: int) -> Sequence[int]:
        """Returns the clips with `length` frames or more, in order.

        Raises:
          UserError: there is none.
        """
        found = self.clips.at_least(length)
        if len(found) == 0:
            raise UserError(
                f"windows of {length} frames were asked for, but the clips of this data set have "
                f"at most {self.clips.longest} frames. Ask for fewer frames (training.seq_len, or "
                "evaluation.context and evaluation.horizon), or take longer clips."
            )
        return found

    def shorter_than(self, length: int) -> list[str]:
        """Returns `NAME: N frames` of every clip that is shorter than a window."""
        if len(self.at_least(length)) == len(self):
            return []
        short = np.setdiff1d(np.arange(len(self)), self.at_least(length)).tolist()
        return [f"{self.name(i)}: {self.length(i)} frames" for i in short]

    def name(self, i: int) -> str:
        """Returns what clip `i` is called, such as its file's name."""
        self._check_index(i)
        return str(i)

    def select(self, numbers: Sequence[int]) -> "Selection":
        """Returns the data set of some of the clips, in the order of their numbers."""
        return Selection(self, numbers)

    def attributes(
        self, i: int, start: int = 0, length: int | None = None
    ) -> dict[str, np.ndarray]:
        """Returns what is known of the content of `clip(i, start, length)`, by name: may be {}."""
        del start, length
        self._check_index(i)
        return {}

    def readable(self) -> tuple[Readable, ...]:
        """Returns what of the attributes can be read from a single frame: may be ()."""
        return ()

    def readings(self, i: int, start: int = 0, length: int | None = None) -> dict[str, np.ndarray]:
        """Returns what is to be read in each frame of `clip(i, start, length)`.

        Returns:
          By the name of each `readable()`: int64 [T, K] classes or float32 [T, K, 2] points, in an
          order that means nothing.
        """
        known = self.attributes(i, start, length)
        return {readable.name: readable.read(known) for readable in self.readable()}

    def batch(
        self, batch_size: int, length: int, seed: int, step: int, rows: range | None = None
    ) -> np.ndarray:
        """Returns one batch of windows; clips that are shorter than a window are left out.

        Args:
          batch_size: B.
          length: Frames per window, T.
          seed: The seed of the run, not negative.
          step: The number of the batch, from 0.
          rows: Which of the batch's rows to return; all without it.

        Returns:
          uint8 [B or len(rows), T, H, W, C], a pure function of the arguments.

        Raises:
          UserError: a window longer than all clips, or an argument out of range.
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

        Batches are made ahead in the background, and come in order.

        Args:
          batch_size: B.
          length: Frames per window, T.
          seed: The seed of the run, not negative.
          step: The number of the first batch: a run that stopped after `step` batches goes on
            here.
          shards: In how many equal parts each batch is cut, for as many devices.
          own: The parts that come, one after the other: those of this process's devices.

        Returns:
          A tf.data.Dataset of uint8 [B / shards, T, H, W, C], shapes static.

        Raises:
          UserError: a window longer than the clips, or an argument out of range.
        """
        import tensorflow as tf  # Here, for the datasets themselves need NumPy only.

        # Checked before the first batch, for errors inside tf.data lose their type and message.
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
        """Returns the frames in a window of a clip, after checking that it lies within the clip."""
        frames = self.length(i)
        if length is None:
            length = frames - start
        if start < 0 or length < 1 or start + length > frames:
            raise UserError(
                f"frames {start} to {start + length} were asked for, but clip {i} of this data "
                f"set has {frames} frames. Ask for at least one frame, within these."
            )
        return length


class Selection(Dataset):
    """Some clips of a data set."""

    def __init__(self, dataset: Dataset, numbers: Sequence[int]):
        """Takes the clips with these numbers; `dataset` stays open."""
        lengths = [dataset.length(int(i)) for i in numbers]
        super().__init__(UnequalClips(lengths), dataset.frame_shape)
        self._dataset, self._numbers = dataset, numbers
        self.windows = dataset.windows

    def clip(self, i: int, start: int = 0, length: int | None = None) -> np.ndarray:
        """As in `Dataset`."""
        self._check_index(i)
        return self._dataset.clip(int(self._numbers[i]), start, length)

    def name(self, i: int) -> str:
        """As in `Dataset`."""
        self._check_index(i)
        return self._dataset.name(int(self._numbers[i]))

    def attributes(
        self, i: int, start: int = 0, length: int | None = None
    ) -> dict[str, np.ndarray]:
        """As in `Dataset`."""
        self._check_index(i)
        return self._dataset.attributes(int(self._numbers[i]), start, length)

    def readable(self) -> tuple[Readable, ...]:
        """As in `Dataset`."""
        return self._dataset.readable()


def _aligned(shape: tuple[int, ...]) -> np.ndarray:
    """Returns an uninitialised uint8 array that TensorFlow takes over without a copy of its own."""
    size = math.prod(shape)
    memory = np.empty(size + _ALIGNMENT, np.uint8)
    first = -memory.ctypes.data % _ALIGNMENT
    return memory[first : first + size].reshape(shape)
