"""Held-out clips, and a model's open-loop predictions of them, one stretch of frames at a time.

Symbols: B clips, T predicted frames.
"""

from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from cwvae.arguments import as_seed
from cwvae.config import EvaluationConfig, level_flags
from cwvae.errors import UserError
from cwvae.evaluation.predictions import Predictions
from cwvae.video_model import CHUNK, Rollout, VideoModel


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
    model: VideoModel | Predictions,
    context: np.ndarray,
    options: EvaluationConfig,
    sample: int,
    first: int,
    observe_levels: tuple[bool, ...] | None = None,
) -> Iterator[tuple[int, Rollout]]:
    """Predicts `options.horizon` frames after the context [B, context, H, W, C] of clips.

    Latents differ between samples (number `sample`) and clips (number `first` of the first one).
    `observe_levels` has a bool per level and replaces `options.observe_levels`. A predictions file
    in place of a model has the predictions already.

    Yields:
      The number of a stretch's first predicted frame, from 0, and the stretch as NumPy arrays.
      Stretches have `CHUNK` frames, except for the last one: some scores depend in their last digit
      on the frames that are scored together. Frames are float32 in the units of [0, 1], not
      clipped.
    """
    if isinstance(model, Predictions):
        frames = model.sample(first, len(context), sample)
        for start in range(0, options.horizon, CHUNK):
            stretch = frames[:, start : start + CHUNK]
            scale = np.float32(255 if stretch.dtype == np.uint8 else 1)
            yield start, Rollout(stretch.astype(np.float32) / scale)
        return
    seed = tf.random.fold_in(as_seed(options.seed), sample)
    chosen = {"row": first} | observed_levels(options)
    if options.batch_statistics:
        chosen["batch_statistics"] = True
    if observe_levels is not None:
        chosen["observe_levels"] = observe_levels
    yield from _regrouped(model.predict_chunks(context, options.horizon, seed, **chosen))


def _regrouped(rollouts: Iterator[Rollout]) -> Iterator[tuple[int, Rollout]]:
    """Yields stretches of `CHUNK` frames, the last one maybe shorter, and where they start."""
    start, held = 0, None
    for rollout in rollouts:
        arrays = [None if values is None else values.numpy() for values in rollout]
        if held is not None:
            pairs = zip(held, arrays, strict=True)
            arrays = [None if new is None else np.concatenate([old, new], 1) for old, new in pairs]
        while arrays[0].shape[1] >= CHUNK:
            yield start, Rollout(*(None if a is None else a[:, :CHUNK] for a in arrays))
            arrays = [None if a is None else a[:, CHUNK:] for a in arrays]
            start += CHUNK
        held = arrays
    if held is not None and held[0].shape[1]:
        yield start, Rollout(*held)


def observed_levels(options: EvaluationConfig) -> dict:
    """Returns the argument `observe_levels` if it is set: only some models accept it."""
    if options.observe_levels is None:
        return {}
    return {"observe_levels": level_flags(options.observe_levels)}
