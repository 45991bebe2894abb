"""Predictors without a model, which any learned model should beat. NumPy only.

B: batch, T: frames, H, W: height and width, C: channels.
"""

from collections.abc import Iterable

import numpy as np
from numpy.typing import ArrayLike


def copy_last_frame(context: ArrayLike, horizon: int) -> np.ndarray:
    """Repeats the last frame of each video.

    Args:
      context: The frames seen, [B, T, H, W, C], T at least 1.
      horizon: Number of frames to predict.

    Returns:
      [B, horizon, H, W, C] in the type and units of `context`, a read-only view without memory.

    Raises:
      ValueError: `context` is not [B, T, H, W, C] or has no frames.
    """
    context = np.asarray(context)
    if context.ndim != 5 or context.shape[1] == 0:
        raise ValueError(f"context must be [B, T, H, W, C] with T >= 1, got {context.shape}.")
    batch, _, *frame = context.shape
    return np.broadcast_to(context[:, -1:], (batch, horizon, *frame))


def mean_frame(clips: Iterable[np.ndarray]) -> np.ndarray:
    """Returns the mean of all frames, float32 [H, W, C] in [0, 1].

    It is the best constant guess under squared error. Clips are uint8 [T, H, W, C] and read once,
    one at a time. T may differ; every frame has the same weight.

    Raises:
      ValueError: A clip is not uint8 [T, H, W, C], frame shapes differ, or no frame is given.
    """
    total, count = None, 0
    for clip in clips:
        if clip.dtype != np.uint8 or clip.ndim != 4:
            raise ValueError(f"clips must be uint8 [T, H, W, C], got {clip.dtype} {clip.shape}.")
        if total is None:
            total = np.zeros(clip.shape[1:], np.float64)
        if clip.shape[1:] != total.shape:
            raise ValueError(f"frames differ in shape: {total.shape} and {clip.shape[1:]}.")
        total += clip.sum(axis=0, dtype=np.float64)
        count += len(clip)
    if count == 0:
        raise ValueError("the mean frame needs at least one frame, got none.")
    return (total / count / 255).astype(np.float32)


def repeat_frame(frame: ArrayLike, batch: int, horizon: int) -> np.ndarray:
    """Repeats one frame [H, W, C], such as `mean_frame`, for `batch` videos of `horizon` frames.

    Returns:
      [B, horizon, H, W, C], a read-only view without memory.

    Raises:
      ValueError: `frame` is not [H, W, C].
    """
    frame = np.asarray(frame)
    if frame.ndim != 3:
        raise ValueError(f"frame must be [H, W, C], got {frame.shape}.")
    return np.broadcast_to(frame, (batch, horizon, *frame.shape))


def random_frames(pool: ArrayLike, videos: range, start: int, stop: int, seed: int) -> np.ndarray:
    """Draws frames at random: the line "random" in Figure 1.

    Args:
      pool: Frames to draw from, [P, H, W, C].
      videos: Numbers of the videos, B; they determine the draws, whatever the batch.
      start: First predicted frame, from 0.
      stop: The frame after the last.
      seed: Seed of the draws.

    Returns:
      [B, stop - start, H, W, C]. Frame t of a video does not depend on `start` and `stop`.

    Raises:
      ValueError: `pool` is not [P, H, W, C] or has no frames.
    """
    pool = np.asarray(pool)
    if pool.ndim != 4 or len(pool) == 0:
        raise ValueError(f"pool must be [P, H, W, C] with P >= 1, got {pool.shape}.")
    draws = [np.random.default_rng([seed, i]).integers(len(pool), size=stop) for i in videos]
    return pool[np.stack(draws)[:, start:]]
