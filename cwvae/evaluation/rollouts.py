"""Held-out clips, and a model's open-loop predictions of them, one stretch of frames at a time.

Symbols: B clips, T predicted frames.
"""

from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from cwvae.arguments import as_seed
from cwvae.config import EvaluationConfig, level_flags
from cwvae.errors import UserError
from cwvae.video_model import Rollout, VideoModel


def held_out(options: EvaluationConfig, data):
    """Returns the clips to evaluate: the first that are long enough, in file order.

    Raises a UserError if the clips are too short or too few.
    """
    needed = options.context + options.horizon
    if data.clips.longest < needed:
        raise UserError(
            f"evaluation.context + evaluation.horizon = {needed} frames, but the held-out clips"
            f" have at most {data.clips.longest}. Lower one of the two."
        )
    chosen = data.at_least(needed)[: options.num_videos]
    if len(chosen) < options.num_videos:
        raise UserError(
            f"evaluation.num_videos = {options.num_videos}, but there are {len(chosen)} held-out"
            f" clips of at least evaluation.context + evaluation.horizon = {needed} frames, out of"
            f" {len(data)}. To evaluate those: --set evaluation.num_videos={len(chosen)}."
        )
    return data.select(chosen)


def batches(options: EvaluationConfig) -> Iterator[range]:
    """Yields the numbers of the evaluated clips, a batch at a time."""
    for first in range(0, options.num_videos, options.batch_size):
        yield range(first, min(first + options.batch_size, options.num_videos))


def clips(data, videos: range, start: int, length: int) -> np.ndarray:
    """Returns frames `start` to `start + length` of some clips, uint8 [B, length, H, W, C]."""
    return np.stack([data.clip(i, start, length) for i in videos])


def predict(
    model: VideoModel,
    context: np.ndarray,
    options: EvaluationConfig,
    sample: int,
    first: int,
    observe_levels: tuple[bool, ...] | None = None,
) -> Iterator[tuple[int, Rollout]]:
    """Predicts `options.horizon` frames after the context [B, context, H, W, C] of clips.

    Latents differ between samples (number `sample`) and clips (number `first` of the first one).
    `observe_levels` has a bool per level and replaces `options.observe_levels`.

    Yields:
      The number of a stretch's first predicted frame, from 0, and the stretch as NumPy arrays.
      Frames are float32 in the units of [0, 1], not clipped.
    """
    seed = tf.random.fold_in(as_seed(options.seed), sample)
    chosen = {"row": first} | observed_levels(options)
    if options.batch_statistics:
        chosen["batch_statistics"] = True
    if observe_levels is not None:
        chosen["observe_levels"] = observe_levels
    start = 0
    for frames, boundaries in model.predict_chunks(context, options.horizon, seed, **chosen):
        yield start, Rollout(frames.numpy(), None if boundaries is None else boundaries.numpy())
        start += frames.shape[1]


def observed_levels(options: EvaluationConfig) -> dict:
    """Returns the argument `observe_levels` if it is set: only some models accept it."""
    if options.observe_levels is None:
        return {}
    return {"observe_levels": level_flags(options.observe_levels)}
