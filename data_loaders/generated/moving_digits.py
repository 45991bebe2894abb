"""Digits that move across the frame and bounce off its edges, drawn on the fly.

This is the paper's Moving MNIST as a function: frame t of clip i can be computed without any other
frame. A digit moves on a straight line from p0 at v pixels per frame. Folding the line back into
the frame gives elastic reflection:

  p(t) = fold(p0 + v t),  fold(x) = S - |x mod 2S - S|,  S = frame_size - digit_size.

B, T, H, W and C are as in `pipeline.py`; N is the number of digits.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from cwvae.errors import UserError
from data_loaders.attributes import CLASSES, POINTS, Attributes, Readable
from data_loaders.generated import digits as digit_images
from data_loaders.pipeline import Dataset
from data_loaders.sources import SPLITS, check_choice, check_frame_shape, check_whole_numbers
from data_loaders.windows import EqualClips

OVERLAPS = ("sum", "max")

NUM_CLIPS = 2**31 - 1  # The largest signed 32-bit index: more than any run will see.


class _Motion(NamedTuple):
    """The parameters of a clip: image numbers [N], p0 [N, 2] and v [N, 2], as (row, column)."""

    indices: np.ndarray
    origin: np.ndarray
    velocity: np.ndarray


class MovingDigits(Dataset):
    """Clips of moving digits; clip i is a pure function of (seed, split, i) and the options."""

    # All else that decides the training clips is a setting that may not change during a run.
    fingerprint_of = "digit images or their labels"

    def __init__(
        self,
        split: str,
        *,
        frame_size: int = 64,
        channels: int = 1,
        seed: int = 0,
        num_digits: int = 2,
        digit_size: int = 28,
        speed: Sequence[float] = (2.0, 6.0),
        overlap: str = "sum",
        digits: str = "sklearn",
        digits_dir: str | None = None,
        data_dir: str | None = None,
        train_length: int = 100,
        test_length: int = 1000,
    ):
        """Loads the digit images of a split.

        Args:
          split: 'train' or 'test': different digits, and different motions for the same seed.
          frame_size: H and W, in pixels.
          channels: C: 1, or 3 for the same gray picture three times.
          seed: The seed of the clips, not negative.
          num_digits: Digits in each clip, N.
          digit_size: Height and width of a digit image, in pixels; less than `frame_size`.
          speed: (lowest, highest), in pixels per frame. Each digit has a constant speed, drawn
            uniformly.
          overlap: How crossing digits are combined: 'sum', clipped at 255, or 'max'.
          digits: The source of digit images; see `load_digits`.
          digits_dir: See `load_digits`.
          data_dir: See `load_digits`.
          train_length: Frames per clip of the train split.
          test_length: Frames per clip of the test split.

        Raises:
          UserError: An option out of range, or digits that are missing or damaged.
        """
        check_frame_shape(frame_size, channels)
        check_whole_numbers(0, seed=seed)
        check_whole_numbers(1, digit_size=digit_size, num_digits=num_digits)
        check_whole_numbers(1, train_length=train_length, test_length=test_length)
        if digit_size >= frame_size:
            raise UserError(
                f"data.digit_size: digits of {digit_size} pixels cannot move in frames of"
                f" {frame_size} pixels (model.frame_size). Make the digits smaller."
            )
        check_choice("data.overlap", overlap, OVERLAPS)
        self._speed = _checked_speed(speed)
        self._images, self._labels, self.fingerprint = digit_images.load_digits(
            split, digit_size, digits, digits_dir, data_dir
        )
        self._split, self._seed = split, seed
        self._num_digits, self._digit_size, self._overlap = num_digits, digit_size, overlap
        self._room = frame_size - digit_size  # S
        clips = EqualClips(NUM_CLIPS, train_length if split == "train" else test_length)
        super().__init__(clips, (frame_size, frame_size, channels))

    def clip(self, i: int, start: int = 0, length: int | None = None) -> np.ndarray:
        """As in `Dataset`. Digits are drawn at whole pixels."""
        length = self._window_length(i, start, length)
        motion = self._motion(i)
        positions, _ = self._trajectory(motion, start, length)
        corners = np.rint(positions).astype(int)  # [T, N, 2]
        frames = self._draw(motion.indices[0], corners[:, 0])
        for n in range(1, self._num_digits):
            digit = self._draw(motion.indices[n], corners[:, n])
            if self._overlap == "max":
                np.maximum(frames, digit, out=frames)
            else:
                frames += np.minimum(digit, 255 - frames)  # At most 255 in all.
        return np.repeat(frames[..., None], self.frame_shape[-1], axis=-1)

    def attributes(self, i: int, start: int = 0, length: int | None = None) -> Attributes:
        """Returns the attributes of `clip(i, start, length)`, by name.

        Returns:
          digits: int64 [N], the class of each digit, 0 to 9.
          indices: int64 [N], the number of its image in `load_digits` of this split.
          positions: float32 [T, N, 2], row and column of its image's top left corner, in pixels;
            the clip shows it at the nearest whole pixel.
          velocities: float32 [T, N, 2], rows and columns per frame, at the time of the frame.
        """
        length = self._window_length(i, start, length)
        motion = self._motion(i)
        positions, velocities = self._trajectory(motion, start, length)
        return {
            "digits": self._labels[motion.indices],
            "indices": motion.indices,
            "positions": positions,
            "velocities": velocities,
        }

    def readable(self) -> tuple[Readable, ...]:
        """Returns the digits, and the centers of their images at whole pixels."""
        count = self._num_digits

        def digits(known: Attributes) -> np.ndarray:
            return np.tile(known["digits"], (len(known["positions"]), 1))

        def centers(known: Attributes) -> np.ndarray:
            return np.rint(known["positions"]) + np.float32(self._digit_size / 2)

        return (
            Readable("digits", "digits right", CLASSES, count, digits, 10, "positions"),
            Readable("positions", "position error", POINTS, count, centers),
        )

    def _motion(self, i: int) -> _Motion:
        self._check_index(i)
        # With a spawn key, no (split, i) collides with another seed.
        key = (SPLITS.index(self._split), int(i))
        rng = np.random.default_rng(np.random.SeedSequence(self._seed, spawn_key=key))
        indices = rng.integers(len(self._images), size=self._num_digits)
        origin = rng.uniform(0, self._room, (self._num_digits, 2))
        angle = rng.uniform(0, 2 * np.pi, self._num_digits)
        speed = rng.uniform(*self._speed, self._num_digits)
        velocity = speed[:, None] * np.stack([np.sin(angle), np.cos(angle)], axis=-1)
        return _Motion(indices, origin, velocity)

    def _trajectory(
        self, motion: _Motion, start: int, length: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns positions and velocities, both float32 [T, N, 2]."""
        t = np.arange(start, start + length)[:, None, None]
        phase = np.mod(motion.origin + motion.velocity * t, 2 * self._room)
        positions = self._room - np.abs(phase - self._room)
        # In the second half of its period, a digit moves back.
        velocities = np.where(phase < self._room, motion.velocity, -motion.velocity)
        return positions.astype(np.float32), velocities.astype(np.float32)

    def _draw(self, index: int, corners: np.ndarray) -> np.ndarray:
        """Draws one digit with its top left corner at `corners` [T, 2], as uint8 [T, H, W]."""
        # The digit is in the middle of a black canvas, and frames are windows of the canvas that
        # move in the opposite direction. One copy draws all frames.
        canvas = np.pad(self._images[index], self._room)
        windows = np.lib.stride_tricks.sliding_window_view(canvas, self.frame_shape[:2])
        offsets = self._room - corners
        return windows[offsets[:, 0], offsets[:, 1]]


def _checked_speed(speed: Sequence[float]) -> tuple[float, float]:
    try:
        low, high = (float(value) for value in speed)
    except (TypeError, ValueError):
        low, high = np.nan, np.nan
    if not 0 <= low <= high < np.inf:
        raise UserError(
            f"data.speed is {speed!r}; expected the lowest and the highest speed in pixels per"
            " frame, such as [2, 6]."
        )
    return low, high
