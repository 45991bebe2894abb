"""Scores predicted frames: every predictor under every score, one stretch of frames at a time.

Memory use, except for the scores, does not depend on the horizon, videos or samples.

PSNR and SSIM of the model's predictions are computed for every frame. LPIPS and the readout cost
more than the prediction of a frame. If the horizon is long, they are computed for the frames soon
after the context and for evenly spaced ones, and the mean over all frames is that of the evenly
spaced ones: neighbouring frames hardly differ. So is every score of the predictors without a model.

Symbols: N videos, B of a batch, S samples, T predicted frames.
"""

import collections
import functools
from collections.abc import Callable, Collection, Iterable, Mapping

import numpy as np
import tqdm
from scipy.special import stdtrit

from cwvae.baselines import trivial
from cwvae.evaluation import rollouts
from cwvae.evaluation.frame_scores import FrameScore
from cwvae.evaluation.predictions import Predictions, Writer
from cwvae.evaluation.results import COPY, MEAN, RANDOM, TRUTH, best_of
from cwvae.evaluation.stopwatch import Stopwatch
from cwvae.video_model import VideoModel, as_frames

# Frames right after the context ("soon"), whose mean is reported next to that of all frames.
SOON = 10
# Where only some frames are scored, these are the frames soon after the context and at most this
# many evenly spaced ones. Shorter horizons are scored whole.
_SPACED = 64

# A predictor without a model: (last frame of the context, videos, start, stop) -> [B, T, H, W, C].
Guess = Callable[[np.ndarray, range, int, int], np.ndarray]


def guesses(mean: np.ndarray, pool: np.ndarray, seed: int) -> dict[str, Guess]:
    """Returns the predictors without a model, by name.

    They need the mean training frame [H, W, C] and training frames to draw from [P, H, W, C].
    """
    return {
        COPY: lambda last, _, start, stop: trivial.copy_last_frame(last, stop - start),
        MEAN: lambda _, videos, start, stop: trivial.repeat_frame(mean, len(videos), stop - start),
        RANDOM: lambda last, *where: trivial.random_frames(pool, *where, seed),
    }


def metrics(used: Mapping[str, FrameScore], reader, horizon: int) -> dict[str, dict[str, str]]:
    """Returns label, unit, better direction and protocol of every score that `score` computes."""
    every = stride(horizon)
    which = f"the first {SOON} and 1 of {every} predicted frames"
    everywhere = f"; predictors without a model: {which}" if every > 1 else ""
    some = f"; {which}" if every > 1 else ""
    found = {}
    for name, one in used.items():
        note = everywhere if one.every_frame else some
        found[name] = one.about | {"protocol": one.about["protocol"] + note}
    for name, about in reader.metrics().items() if reader else ():
        found[name] = about | {"protocol": about["protocol"] + some}
    return found


def stride(horizon: int) -> int:
    """Returns the distance between the evenly spaced frames, where only some are scored."""
    return -(-horizon // _SPACED)


def score(
    options,
    name: str,
    model: VideoModel | Predictions,
    data,
    used: Mapping[str, FrameScore],
    others: Mapping[str, Guess],
    reader=None,
    distances=None,
    watch: Stopwatch | None = None,
    keep: Writer | None = None,
) -> dict[str, dict[str, np.ndarray]]:
    """Scores predictions of held-out clips, by a model and without one.

    Args:
      options: The section `evaluation` of a configuration.
      name: The model's name.
      model: The model, or a file with its predictions.
      data: Held-out clips.
      used: Scores of frames, by name.
      others: Predictors without a model, by name.
      reader: A `Readout`, to also score how well the data's attributes can be read.
      distances: A `VideoDistances`, which collects the first sample of each clip.
      watch: Counts the time of the model and of each score.
      keep: Writes the predictions to a file.

    Returns:
      {predictor: {score: float32 [N, T]}}. The model's name holds the mean over samples. With
      several samples, `best_of` holds the sample with the best mean over its frames, chosen for
      each clip and score. NaN where a frame is not scored, or the readout reads nothing.

    Raises:
      ValueError: Predictions are not finite.
    """
    watch = watch or Stopwatch()
    measured = _Measured(used, reader, options.horizon, watch)
    best = best_of(name, options.num_samples)
    scores = collections.defaultdict(lambda: _blank(options.num_videos, options.horizon))
    progress = tqdm.tqdm(total=options.num_videos * options.num_samples, unit="video")
    for videos in rollouts.batches(options):
        rows = slice(videos.start, videos.stop)
        context = rollouts.clips(data, videos, 0, options.context)
        last = as_frames(context[:, -1:]).numpy()
        samples = _blank(options.num_samples, len(videos), options.horizon)
        for sample in range(options.num_samples):
            stretches = rollouts.predict(model, context, options, sample, videos.start)
            for start, rollout in watch.each("model", stretches):
                frames = rollout.frames
                stop = start + frames.shape[1]
                if keep:
                    watch.call("saving", keep.add, videos, sample, start, frames)
                truth = rollouts.clips(data, videos, options.context + start, stop - start)
                truth = as_frames(truth).numpy()
                measured.see(data, videos, options.context, start, truth)
                _put(samples, sample, start, measured(frames))
                if sample > 0:
                    continue
                if distances:
                    watch.call("FVD", distances.add, start, frames)
                for other, guess in others.items():
                    guessed = guess(last, videos, start, stop)
                    _put(scores[other], rows, start, measured.some(guessed))
                _put(scores[TRUTH], rows, start, measured.read(truth))
            if stop != options.horizon:
                raise ValueError(f"{stop} frames were predicted instead of {options.horizon}.")
            progress.update(len(videos))
        for metric, values in samples.items():
            scores[name][metric][rows] = values.mean(0)
            if options.num_samples > 1:
                every = 1 if metric in measured.whole else stride(options.horizon)
                chosen = _best(values[:, :, ::every], measured.higher_is_better[metric])
                scores[best][metric][rows] = values[chosen, np.arange(len(videos))]
    progress.close()
    order = (name, best, *others, TRUTH)
    return {predictor: dict(scores[predictor]) for predictor in order if scores[predictor]}


def _blank(*shape: int) -> collections.defaultdict[str, np.ndarray]:
    return collections.defaultdict(lambda: np.full(shape, np.nan, np.float32))


def _put(values, where: int | slice, start: int, found: Mapping[str, np.ndarray]) -> None:
    """Writes a stretch [B, t] of scores to values[score][where], from frame `start` on."""
    for metric, stretch in found.items():
        values[metric][where][:, start : start + stretch.shape[1]] = stretch


class _Measured:
    """All scores of a stretch: `see` takes the truth, then calls score predictions of it."""

    def __init__(self, used: Mapping[str, FrameScore], reader, horizon: int, watch: Stopwatch):
        self._used, self._reader, self._watch = used, reader, watch
        self._every = stride(horizon)
        self.whole = [name for name, one in used.items() if one.every_frame]
        self._sparse = [name for name in used if name not in self.whole]
        about = metrics(used, reader, horizon)
        self.higher_is_better = {name: one["better"] == "higher" for name, one in about.items()}

    def see(self, data, videos: range, context: int, start: int, truth: np.ndarray) -> None:
        """Takes the true frames [B, t, H, W, C] from predicted frame `start` on."""
        self._parts = self._of_grid(start, truth.shape[1])
        self._scores = self._against(truth, self.whole)
        self._scores_of = [self._against(truth[:, part], self._used) for part in self._parts]
        if self._reader is None:
            return
        each = [data.readings(i, context + start, truth.shape[1]) for i in videos]
        self._readings = [
            {name: np.stack([clip[name][part] for clip in each]) for name in each[0]}
            for part in self._parts
        ]

    def __call__(self, prediction: np.ndarray) -> dict[str, np.ndarray]:
        """Returns the scores [B, t] of a model's prediction."""
        values = {name: compute(prediction) for name, compute in self._scores.items()}
        return values | self._some(prediction, self._sparse)

    def some(self, prediction: np.ndarray) -> dict[str, np.ndarray]:
        """Returns the scores [B, t] of some frames; NaN for the others."""
        return self._some(prediction, self._used)

    def read(self, frames: np.ndarray) -> dict[str, np.ndarray]:
        """Returns how well some of the frames can be read; NaN for the others."""
        return self._some(frames, ())

    def _against(self, truth: np.ndarray, names: Iterable[str]) -> dict[str, Callable]:
        """Returns functions from predictions to scores, by name, whose time is counted."""
        call, found = self._watch.call, {}
        for name in names:
            against, purpose = self._used[name].against, self._used[name].purpose
            found[name] = functools.partial(call, purpose, call(purpose, against, truth))
        return found

    def _of_grid(self, start: int, length: int) -> list[slice]:
        """Returns the frames of a stretch that are scored where only some are.

        They are slices, not indices, which keep repeated frames visible: each is scored once.
        """
        if self._every == 1:
            return [slice(length)]
        soon = max(0, min(SOON - start, length))
        later = slice(soon + -(start + soon) % self._every, None, self._every)
        return [part for part in (slice(soon), later) if range(length)[part]]

    def _some(self, prediction: np.ndarray, names: Collection[str]) -> dict[str, np.ndarray]:
        """Returns some scores and all readings of some frames; NaN for the others."""
        results = _blank(*prediction.shape[:2])
        for i, part in enumerate(self._parts):
            frames = prediction[:, part]
            for name in names:
                results[name][:, part] = self._scores_of[i][name](frames)
            if self._reader is not None:
                readings = self._readings[i]
                found = self._watch.call("readout", self._reader.scores, frames, readings)
                for name, values in found.items():
                    results[name][:, part] = values
        return results


def _best(values: np.ndarray, higher_is_better: bool) -> np.ndarray:
    """Returns the number of the sample [S, B, T] with the best mean over frames, per clip: [B]."""
    sign = 1 if higher_is_better else -1
    means = sign * np.nan_to_num(values).mean(2)  # A frame is unreadable in all samples or none.
    return means.argmax(0)


def summary(scores: Mapping[str, np.ndarray], whole: Collection[str] = ()) -> dict[str, dict]:
    """Averages scores [N, T], by name, over videos and over frames, ignoring NaN.

    Args:
      scores: The scores of a predictor.
      whole: The names of those that were computed for every frame.
    """
    found = {}
    for metric, values in scores.items():
        # Where only some frames are scored, every frame soon after the context is. In the mean over
        # all frames these would weigh more than the evenly spaced ones.
        spread = values if metric in whole else values[:, :: stride(values.shape[1])]
        found[metric] = {
            "mean": _mean(spread),
            "mean_soon": _mean(values[:, :SOON]),
            "soon": min(SOON, values.shape[1]),
            "standard_error": _standard_error(spread),
            "interval": _interval(spread),
            "interval_soon": _interval(values[:, :SOON]),
            "per_frame": [_mean(frame, 5) for frame in values.T],
        }
    return found


def _mean(values: np.ndarray, digits: int | None = None) -> float | None:
    """Returns the mean of all values that are not NaN; None if there are none."""
    there = values[~np.isnan(values)]
    if there.size == 0:
        return None
    mean = float(there.mean(dtype=np.float64))
    return mean if digits is None else round(mean, digits)


def _standard_error(values: np.ndarray) -> float | None:
    """Returns the standard error of the mean over videos [N, T]; None for a single video."""
    means = [mean for mean in map(_mean, values) if mean is not None]
    return float(np.std(means, ddof=1) / np.sqrt(len(means))) if len(means) > 1 else None


def _interval(values: np.ndarray) -> list[float] | None:
    """Returns the 95% interval of the mean over videos [N, T] by Student's t; None for one video.

    It describes how the mean varies with the choice of videos, not with the seed of a training.
    """
    count = int((~np.isnan(values)).any(1).sum())
    if count < 2:
        return None
    mean, half = _mean(values), float(stdtrit(count - 1, 0.975)) * _standard_error(values)
    return [mean - half, mean + half]
