"""Pictures of a model's predictions: samples.gif, samples.png, levels.png, what report.html plays.

They are the one thing that keeps frames, no more than a person looks at: memory depends on neither
the horizon nor the number of videos.
"""

import pathlib
from typing import NamedTuple

import numpy as np

from cwvae import rollouts, visualize
from cwvae.model import VideoModel

# Clips, and predictions of each, that are shown.
_CLIPS, _SAMPLES = 4, 3
# Animations begin at most so many frames before the first prediction, and have so many in all.
_CONTEXT, _FRAMES = 50, 300
# Pixels to which frames are enlarged, about: in samples.gif, in report.html.
_SIZE, _CELL = 96, 64
_COLUMNS = 12  # of a film strip


class Samples(NamedTuple):
    """Predictions of some clips.

    Attributes:
      clips: An animated AVIF per clip: a grid of two rows, truth and predictions above, nothing
        and their absolute errors below.
      count: Predictions per clip.
      frames: Which of the clip's frames the animations show.
      strip: What samples.png holds.
    """

    clips: tuple[bytes, ...]
    count: int
    frames: range
    strip: bytes


class Levels(NamedTuple):
    """Predictions with each level in turn left to its prior (Figure 7 of the paper).

    Attributes:
      video: Animated AVIF: a grid with a row per entry of `rows`.
      rows: What the rows show, top to bottom.
      frames: Which of the clip's frames the animation shows.
      strip: What levels.png holds.
    """

    video: bytes
    rows: tuple[str, ...]
    frames: range
    strip: bytes


def write_samples(folder: pathlib.Path, options, model: VideoModel, data) -> Samples:
    """Writes samples.gif, truth above predictions, and samples.png, one clip to the last frame.

    Args:
      folder: Where to.
      options: The section `evaluation` of a configuration.
      model: The trained model.
      data: Held-out clips, the first of which are shown.

    Returns:
      The same predictions, as report.html shows them.
    """
    videos = range(min(_CLIPS, options.num_videos))
    context = rollouts.clips(data, videos, 0, options.context)
    shown, times = _shown(options), strip_times(options.context, options.horizon)
    rows = [list(rollouts.clips(data, videos, shown.start, len(shown)))]
    strips = [_at(data, 0, times)]
    for sample in range(_SAMPLES):
        predicted, strip = _predict(model, context, options, sample)
        rows.append(list(predicted))
        strips.append(strip[0])
    labels = ["truth", *(f"sample {i + 1}" for i in range(_SAMPLES))]
    scale = max(1, _SIZE // context.shape[2])
    seen = options.context - shown.start
    grid = visualize.mark_context(visualize.grid(rows, scale=scale), seen)
    visualize.save_gif(folder / "samples.gif", visualize.label_rows(grid, labels))
    strip = visualize.filmstrip(strips, times.tolist(), labels, options.context)
    visualize.save_png(folder / "samples.png", strip)
    clips = tuple(_with_errors(*clip, seen=seen) for clip in zip(*rows, strict=True))
    return Samples(clips, _SAMPLES, shown, (folder / "samples.png").read_bytes())


def write_levels(folder: pathlib.Path, options, model: VideoModel, data) -> Levels | None:
    """Writes levels.png: the first clip, a prediction, and predictions with a level unobserved.

    A level left to its prior draws what it holds from what it saw in training: what then differs
    from the truth is what that level stores (Section 3.6 of the paper).

    Args:
      folder: Where to.
      options: The section `evaluation` of a configuration: the first prediction is made by its
        `observe_levels`. In the others one level in turn, the slowest first, is left to its prior.
      model: The trained model.
      data: Held-out clips.

    Returns:
      The same predictions, as report.html shows them. None, and no file, for a model that has not
      several levels: there is nothing to tell apart.
    """
    count = getattr(model, "levels", 1)
    if count < 2:
        return None
    shown, times = _shown(options), strip_times(options.context, options.horizon)
    truth, strips = data.clip(0, shown.start, len(shown)), [_at(data, 0, times)]
    # The samples are the rows of one batch: each row has latents of its own.
    context = np.repeat(rollouts.clips(data, range(1), 0, options.context), _SAMPLES, 0)

    chosen = "" if options.observe_levels is None else f" ({options.observe_levels})"
    predicted, strip = _predict(model, context, options, 0)
    rows = {f"truth, then predictions{chosen}": [truth, *predicted[:-1]]}
    strips.append(strip[0])
    labels = ["truth", f"prediction{chosen}"]
    for level in reversed(range(count)):
        name = f"level {level}{_speed(level, count)} from its prior"
        observed = tuple(other != level for other in range(count))
        predicted, strip = _predict(model, context, options, 0, observed)
        rows[name] = list(predicted)
        strips += list(strip)
        labels += [f"{name}, sample {i + 1}" for i in range(_SAMPLES)]
    picture = visualize.filmstrip(strips, times.tolist(), labels, options.context)
    visualize.save_png(folder / "levels.png", picture)
    video = _animation(list(rows.values()), options.context - shown.start)
    return Levels(video, tuple(rows), shown, (folder / "levels.png").read_bytes())


def strip_times(context: int, horizon: int) -> np.ndarray:
    """Which frames a film strip shows: the context's, then ever longer strides to the last.

    Args:
      context: Frames seen.
      horizon: Frames predicted.

    Returns:
      Frames counted from 0 at the first one seen, rising, at most 12.
    """
    seen = np.linspace(0, context - 1, min(3, context))
    predicted = context - 1 + np.geomspace(1, horizon, min(_COLUMNS - 3, horizon))
    return np.unique(np.rint(np.concatenate([seen, predicted])).astype(int))


def _shown(options) -> range:
    """The frames of a clip that animations show."""
    begin = max(0, options.context - _CONTEXT)
    return range(begin, min(options.context + options.horizon, begin + _FRAMES))


def _at(data, clip: int, times: np.ndarray) -> np.ndarray:
    return np.concatenate([data.clip(clip, int(time), 1) for time in times])


def _predict(model, context, options, sample, observe_levels=None):
    """Predicts a batch, and keeps what is shown: uint8 frames of the animations and of strips.

    Both begin with context frames. [B, frames of `_shown`, H, W, C], [B, strip's frames, H, W, C].
    """
    shown, times = _shown(options), strip_times(options.context, options.horizon)
    video, strip = [context[:, shown.start :]], [context[:, times[times < options.context]]]
    for start, frames in rollouts.predict(model, context, options, sample, 0, observe_levels):
        frames, first = visualize.to_uint8(frames), options.context + start
        if first < shown.stop:
            video.append(frames[:, : shown.stop - first])
        within = (times >= first) & (times < first + frames.shape[1])
        strip.append(frames[:, times[within] - first])  # A copy: it keeps no other frame.
    return np.concatenate(video, 1), np.concatenate(strip, 1)


def _with_errors(truth, *predictions, seen: int) -> bytes:
    errors = [visualize.error_frames(truth, prediction) for prediction in predictions]
    nothing = np.broadcast_to(np.array(visualize.GAP_COLOR, np.uint8), (*truth.shape[:3], 3))
    return _animation([[truth, *predictions], [nothing, *errors]], seen)


def _animation(rows, seen: int) -> bytes:
    grid = visualize.grid(rows, scale=max(1, _CELL // rows[0][0].shape[1]))
    return visualize.avif_bytes(visualize.time_bar(visualize.mark_context(grid, seen), seen))


def _speed(level: int, count: int) -> str:
    return {0: " (fastest)", count - 1: " (slowest)"}.get(level, "")
