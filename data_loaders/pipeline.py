"""What every dataset is, and how it feeds training: (seed, step) -> batch.

B is the batch size, T a number of frames, H, W and C the height, width and channels of a frame.
"""

import abc
from typing import TYPE_CHECKING

import numpy as np

from cwvae.errors import UserError

if TYPE_CHECKING:
    import tensorflow as tf


class Dataset(abc.ABC):
    """A sequence of video clips of equal length and frame size, with random access to their frames.

    A subclass gives the clips; batches are made here. A batch is a pure function of (seed, step):
    a run that resumes needs its step and nothing else, and two runs with one seed see the same
    batches.
    """

    @abc.abstractmethod
    def __len__(self) -> int:
        """The number of clips."""

    @property
    @abc.abstractmethod
    def clip_length(self) -> int:
        """Frames per clip."""

    @property
    @abc.abstractmethod
    def frame_shape(self) -> tuple[int, int, int]:
        """(H, W, C) of a frame."""

    @abc.abstractmethod
    def clip(self, i: int, start: int = 0, length: int | None = None) -> np.ndarray:
        """Returns frames `start` to `start + length` of clip `i`; without a length, to its end.

        Args:
          i: The clip, from 0 to `len(self) - 1`.
          start: The first frame.
          length: Frames to return.

        Returns:
          uint8 [length, H, W, C].

        Raises:
          IndexError: there is no clip `i`.
          UserError: the frames asked for are not all within the clip.
        """

    def attributes(
        self, i: int, start: int = 0, length: int | None = None
    ) -> dict[str, np.ndarray]:
        """Returns what is known of the content of `clip(i, start, length)`, by name: may be {}."""
        del start, length
        self._check_index(i)
        return {}

    def batch(
        self, batch_size: int, length: int, seed: int, step: int, rows: range | None = None
    ) -> np.ndarray:
        """Returns one batch: windows of random clips, drawn with replacement, at random starts.

        Args:
          batch_size: B.
          length: Frames per window, T.
          seed: The seed of the run, not negative.
          step: The number of the batch, from 0.
          rows: Which of the batch's rows to return; all without it.

        Returns:
          uint8 [B or len(rows), T, H, W, C], a pure function of the arguments.

        Raises:
          UserError: a window longer than the clips, or an argument out of range.
        """
        self._check_batch(batch_size, length, seed, step)
        rng = np.random.default_rng(np.random.SeedSequence([seed, step]))
        clips = rng.integers(len(self), size=batch_size)
        starts = rng.integers(self.clip_length - length + 1, size=batch_size)
        rows = range(batch_size) if rows is None else rows
        videos = np.empty((len(rows), length, *self.frame_shape), np.uint8)
        for video, row in zip(videos, rows, strict=True):
            video[:] = self.clip(int(clips[row]), int(starts[row]), length)
        return videos

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
            return self.batch(batch_size, length, seed, n // len(own), rows)

        def make(n: "tf.Tensor") -> "tf.Tensor":
            videos = tf.numpy_function(lambda n: part(int(n)), [n], tf.uint8)
            return tf.ensure_shape(videos, (size, length, *self.frame_shape))

        numbers = tf.data.Dataset.range(step * len(own), tf.int64.max)
        ahead = 2 * len(own)
        return numbers.map(make, num_parallel_calls=2, deterministic=True).prefetch(ahead)

    def _check_batch(self, batch_size: int, length: int, seed: int, step: int) -> None:
        if length > self.clip_length:
            raise UserError(
                f"windows of {length} frames were asked for, but the clips of this data set have "
                f"{self.clip_length} frames. Ask for at most {self.clip_length} frames "
                "(training.seq_len), or make the clips longer."
            )
        lowest = (("batch_size", batch_size, 1), ("length", length, 1), ("seed", seed, 0))
        for name, value, least in (*lowest, ("step", step, 0)):
            if value < least:
                raise UserError(f"{name} is {value}, but must be at least {least}.")

    def _check_index(self, i: int) -> None:
        if not 0 <= i < len(self):
            raise IndexError(f"there is no clip {i}: this data set has {len(self)} clips, from 0.")

    def _window_length(self, start: int, length: int | None) -> int:
        """Returns the frames in a window of a clip, after checking that it lies within the clip."""
        if length is None:
            length = self.clip_length - start
        if start < 0 or length < 1 or start + length > self.clip_length:
            raise UserError(
                f"frames {start} to {start + length} were asked for, but the clips of this data "
                f"set have {self.clip_length} frames. Ask for at least one frame, within these."
            )
        return length
