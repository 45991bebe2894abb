"""Pictures of a model's predictions: samples.gif and .png, levels.png, boundaries.png, animations.

Only the frames that are shown are kept, so memory depends on neither the horizon nor the number of
videos. For a model with segments, true clips show where the posterior begins segments. Predictions
show the posterior's segments in the context and the prior's after it.

`samples`, `levels` and `boundaries` predict, and return a function that draws and writes. It does
not use the model, so it can run in a thread while the model predicts other clips.

`folder` is the folder to write into, `options` the section `evaluation` of a configuration, `data`
held-out clips.
"""

import dataclasses
import pathlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from cwvae import visualize
from cwvae.evaluation import rollouts
from cwvae.levels import label
from cwvae.levels import names as level_names
from cwvae.video_model import Rollout, VideoModel

_CLIPS, _SAMPLES = 4, 3  # clips, and predictions of each
# Frames of an animation: at most before the first prediction, and at most in all.
_CONTEXT, _FRAMES = 50, 300
# Approximate width of frames in pixels: in samples.gif, boundaries.png, animations.
_SIZE, _CELL, _ENLARGED = 96, 64, 128
_PART = 16  # Frames of an animation that are drawn at a time.
_COLUMNS = 12  # of a film strip
_LINE = 16  # Frames in a line of boundaries.png: one line of context, and three of predictions.
# Frames of a true clip that a model sees before and after those whose boundaries are shown.
_MARGIN = 16


class Animation(NamedTuple):
    """A video, and the picture that a page shows in its place until it plays."""

    video: bytes  # MP4
    still: bytes  # PNG of the first predicted frame


class Samples(NamedTuple):
    """Predictions of some clips."""

    # Of each clip: the truth and predictions, with the absolute errors below them.
    clips: tuple[Animation, ...]
    count: int  # predictions per clip
    frames: range  # shown frames of each clip
    strip: bytes  # content of samples.png
    segments: bool = False  # whether segment boundaries are shown


class Levels(NamedTuple):
    """Predictions in which one level at a time samples from its prior (Figure 7 of the paper)."""

    animation: Animation
    rows: tuple[str, ...]  # descriptions of the animation's rows, top to bottom
    frames: range  # shown frames of the clip
    strip: bytes  # content of levels.png


class Segments(NamedTuple):
    """Segment boundaries in consecutive frames of a clip and of a prediction."""

    frames: range  # shown frames of the clip
    strip: bytes  # content of boundaries.png


def samples(folder: pathlib.Path, options, model: VideoModel, data) -> Callable[[], Samples]:
    """Predicts samples.gif, truth above predictions, and samples.png, one clip to the last frame.

    Returns a function that writes both, and returns the same predictions, for report.html.
    """
    videos = range(min(_CLIPS, options.num_videos))
    context = _seen(model, rollouts.clips(data, videos, 0, options.context), options)
    shown, times = _shown(options), strip_times(options.context, options.horizon)
    rows = [_truth(model, data, videos, shown, options)]
    stills = [_truth(model, data, range(1), range(time, time + 1), options) for time in times]
    strips = [_joined(stills)]
    count = min(_SAMPLES, getattr(model, "num_samples", _SAMPLES))  # Of a predictions file.
    for sample in range(count):
        row, strip = _predict(model, context, options, sample, [np.array(shown), times])
        rows.append(row)
        strips.append(strip)

    def draw() -> Samples:
        labels = ["truth", *(f"sample {i + 1}" for i in range(count))]
        scale = max(1, _SIZE // context.frames.shape[2])
        seen = options.context - shown.start
        cells = [row.frames for row in rows]
        cells = visualize.mark_segments(cells, [row.boundaries for row in rows])
        grid = visualize.mark_context(visualize.grid(cells, scale=scale), seen)
        visualize.save_gif(folder / "samples.gif", visualize.label_rows(grid, labels))
        picture = _filmstrip(strips, times, labels, options.context)
        visualize.save_png(folder / "samples.png", picture)
        clips = tuple(_with_errors(rows, clip, seen) for clip in videos)
        strip = (folder / "samples.png").read_bytes()
        return Samples(clips, count, shown, strip, segments=context.boundaries is not None)

    return draw


def levels(folder: pathlib.Path, options, model: VideoModel, data) -> Callable[[], Levels | None]:
    """Predicts levels.png: the first clip, a prediction, and predictions with a level unobserved.

    A level that samples from its prior does not show what it saw. What then differs from the truth
    is what the level stores (Section 3.6 of the paper). The first prediction uses
    `options.observe_levels`. In the others one level, the slowest first, samples from its prior.

    Returns a function that writes it, and returns the same predictions, for report.html. For a
    model without several levels it returns None and writes no file.
    """
    count = getattr(model, "levels", 1)
    if count < 2:
        return lambda: None
    shown, times = _shown(options), strip_times(options.context, options.horizon)
    truth = data.clip(0, shown.start, len(shown))
    strips = [np.concatenate([data.clip(0, int(time), 1) for time in times])]
    # The samples are the rows of one batch, because each row has its own latents.
    context = Rollout(np.repeat(rollouts.clips(data, range(1), 0, options.context), _SAMPLES, 0))
    wanted = [np.array(shown), times]

    chosen = "" if options.observe_levels is None else f" ({options.observe_levels})"
    predicted, strip = _predict(model, context, options, 0, wanted)
    rows = {f"truth, then predictions{chosen}": [truth, *predicted.frames[:-1]]}
    strips.append(strip.frames[0])
    labels = ["truth", f"prediction{chosen}"]
    for level, term in reversed([*enumerate(level_names(count))]):
        name = f"{label(term, count)} from its prior"
        observed = tuple(other != level for other in range(count))
        predicted, strip = _predict(model, context, options, 0, wanted, observed)
        rows[name] = list(predicted.frames)
        strips += list(strip.frames)
        labels += [f"{name}, sample {i + 1}" for i in range(_SAMPLES)]

    def draw() -> Levels:
        picture = visualize.filmstrip(strips, times.tolist(), labels, options.context)
        visualize.save_png(folder / "levels.png", picture)
        animation = _animation(list(rows.values()), options.context - shown.start)
        return Levels(animation, tuple(rows), shown, (folder / "levels.png").read_bytes())

    return draw


def boundaries(
    folder: pathlib.Path, options, model: VideoModel, data
) -> Callable[[], Segments | None]:
    """Predicts boundaries.png: consecutive frames of the first clip around the context's end.

    Each line shows the truth above a prediction. Returns a function that writes it, and returns the
    same picture, for report.html. For a model without segments it returns None and writes no file.
    """
    # The batch of samples.gif, for the same prediction; batch statistics need several clips.
    videos = range(min(_CLIPS, options.num_videos))
    context = _seen(model, rollouts.clips(data, videos, 0, options.context), options)
    if context.boundaries is None:
        return lambda: None
    near = dataclasses.replace(options, horizon=min(options.horizon, 3 * _LINE))
    frames = range(max(0, options.context - _LINE), options.context + near.horizon)
    truth = _truth(model, data, range(1), frames, options)
    (predicted,) = _predict(model, context, near, 0, [np.array(frames)])

    def draw() -> Segments:
        lines = []
        for start in range(frames.start, frames.stop, _LINE):
            times = np.array(range(start, min(start + _LINE, frames.stop)))
            rows = [_at(row, frames.start, times) for row in (truth, predicted)]
            scale = max(1, _CELL // context.frames.shape[2])
            lines.append(_filmstrip(rows, times, ["truth", "prediction"], options.context, scale))
        visualize.save_png(folder / "boundaries.png", visualize.stacked(lines))
        return Segments(frames, (folder / "boundaries.png").read_bytes())

    return draw


def strip_times(context: int, horizon: int) -> np.ndarray:
    """Returns the frames of a film strip: some of the context, then ever longer strides to the end.

    They are at most 12 increasing numbers; the first context frame is 0.
    """
    seen = np.linspace(0, context - 1, min(3, context))
    predicted = context - 1 + np.geomspace(1, horizon, min(_COLUMNS - 3, horizon))
    return np.unique(np.rint(np.concatenate([seen, predicted])).astype(int))


def _shown(options) -> range:
    """Returns the frames of a clip that animations show."""
    begin = max(0, options.context - _CONTEXT)
    return range(begin, min(options.context + options.horizon, begin + _FRAMES))


def _seen(model: VideoModel, videos: np.ndarray, options) -> Rollout:
    """Returns clips with the posterior's segment boundaries."""
    # Clip by clip, to use less memory.
    boundaries = [model.boundaries(video[None], options.seed) for video in videos]
    return Rollout(videos, None if boundaries[0] is None else np.concatenate(boundaries))


def _truth(model: VideoModel, data, videos: range, frames: range, options) -> Rollout:
    """Returns frames of true clips with boundaries; the model sees a margin around the frames."""
    end = options.context + options.horizon
    length = min(len(frames) + 2 * _MARGIN, end)  # independent of the frames' position
    first = min(max(0, frames.start - _MARGIN), end - length)
    clips = rollouts.clips(data, videos, first, length)
    return _at(_seen(model, clips, options), first, np.array(frames))


def _predict(
    model: VideoModel,
    context: Rollout,
    options,
    sample: int,
    wanted: Sequence[np.ndarray],
    observe_levels: tuple[bool, ...] | None = None,
) -> list[Rollout]:
    """Predicts a batch and returns, for each array of frame numbers in `wanted`, those frames.

    Frames are uint8; the context counts as part of the prediction.
    """
    kept = [[_at(context, 0, times)] for times in wanted]
    predicted = rollouts.predict(model, context.frames, options, sample, 0, observe_levels)
    for start, rollout in predicted:
        rollout = rollout._replace(frames=visualize.to_uint8(rollout.frames))
        for parts, times in zip(kept, wanted, strict=True):
            parts.append(_at(rollout, options.context + start, times))
    return [_joined(parts) for parts in kept]


def _at(rollout: Rollout, first: int, times: np.ndarray) -> Rollout:
    """Returns the frames of a rollout with numbers in `times`; the rollout starts at `first`."""
    places = times - first
    places = places[(places >= 0) & (places < rollout.frames.shape[1])]
    frames, boundaries = rollout
    return Rollout(frames[:, places], None if boundaries is None else boundaries[:, places])


def _joined(parts: Sequence[Rollout]) -> Rollout:
    frames, boundaries = zip(*parts, strict=True)
    frames = np.concatenate(frames, 1)
    return Rollout(frames, None if boundaries[0] is None else np.concatenate(boundaries, 1))


def _filmstrip(rows: Sequence[Rollout], times, labels, context, scale=None) -> np.ndarray:
    """Returns a film strip of each row's first clip."""
    flags = [None if row.boundaries is None else row.boundaries[0] for row in rows]
    clips = [row.frames[0] for row in rows]
    return visualize.filmstrip(clips, times.tolist(), labels, context, scale, boundaries=flags)


def _with_errors(rows: Sequence[Rollout], clip: int, seen: int) -> Animation:
    """Returns an animation of one clip: the truth, which is the first row, predictions, errors."""
    truth, *predictions = [row.frames[clip] for row in rows]
    errors = [visualize.error_frames(truth, prediction) for prediction in predictions]
    empty = np.broadcast_to(np.array(visualize.GAP_COLOR, np.uint8), (*truth.shape[:3], 3))
    cells = [[truth, *predictions], [empty, *errors]]
    if rows[0].boundaries is not None:
        cells = visualize.mark_segments(cells, [[row.boundaries[clip] for row in rows], None])
    return _animation(cells, seen)


def _animation(rows, seen: int) -> Animation:
    length, scale = len(rows[0][0]), max(1, _ENLARGED // rows[0][0].shape[2])

    def drawn(start: int, stop: int) -> np.ndarray:
        cells = [[clip[start:stop] for clip in row] for row in rows]
        grid = visualize.grid(cells, scale=scale)
        grid = visualize.mark_context(grid, max(0, seen - start), width=4)
        return visualize.time_bar(grid, seen, height=6, first=start, length=length)

    # Enlarged, all frames would take hundreds of MB.
    parts = (drawn(start, start + _PART) for start in range(0, length, _PART))
    return Animation(visualize.mp4_of_parts(parts), visualize.png_bytes(drawn(seen, seen + 1)[0]))
