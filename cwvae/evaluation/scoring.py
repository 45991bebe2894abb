"""Scores of predicted frames: every predictor by every measure, stretch by stretch.

Memory depends on neither the horizon nor the number of videos or samples, but for the scores.

Symbols: N videos, B of a batch, S samples, T predicted frames.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import tqdm

from cwvae.baselines import trivial
from cwvae.evaluation import rollouts
from cwvae.evaluation.measures import Measures
from cwvae.evaluation.results import COPY, MEAN, RANDOM, TRUTH, best_of
from cwvae.video_model import VideoModel, as_frames

# A predictor without a model: (last frame of the context, videos, start, stop) -> [B, T, H, W, C].
Guess = Callable[[np.ndarray, range, int, int], np.ndarray]


def guesses(mean: np.ndarray, pool: np.ndarray, seed: int) -> dict[str, Guess]:
    """Returns the predictors without a model, by name.

    Args:
      mean: The mean training frame, [H, W, C] in [0, 1].
      pool: Training frames to draw from, [P, H, W, C] in [0, 1].
      seed: Of the draws.
    """
    return {
        COPY: lambda last, videos, start, stop: trivial.copy_last_frame(last, stop - start),
        MEAN: lambda last, videos, start, stop: trivial.repeat_frame(
            mean, len(videos), stop - start
        ),
        RANDOM: lambda last, videos, start, stop: trivial.random_frames(
            pool, videos, start, stop, seed
        ),
    }


# Frames "soon" after the context, whose mean is given beside that of the whole horizon.
SOON = 10
# So many frames of a clip are read by the readout, evenly spread, beside those soon after the
# context: more would take longer than to predict them, and neighbours tell the same.
_READ = 100


def metrics(used: Sequence[Measures], reader, horizon: int) -> dict[str, dict[str, str]]:
    """Returns label, unit, which values are better, and protocol of all that `score` measures.

    Args:
      used: The measures.
      reader: `cwvae.evaluation.readout.Readout`, or None.
      horizon: Predicted frames, T.
    """
    found = {name: about for one in used for name, about in one.metrics().items()}
    for name, about in reader.metrics().items() if reader else ():
        every = read_every(horizon)
        which = f"; of the predicted frames the first {SOON} and 1 of {every} are read"
        which = which if every > 1 else ""
        found[name] = about | {"protocol": about["protocol"] + which}
    return found


def read_every(horizon: int) -> int:
    """Returns how far the predicted frames are apart that the readout reads: 1 for all of them."""
    return -(-horizon // _READ)


def score(
    options,
    name: str,
    model: VideoModel,
    data,
    used: Sequence[Measures],
    others: Mapping[str, Guess],
    reader=None,
    distances=None,
) -> dict[str, dict[str, np.ndarray]]:
    """Scores a model's predictions, and guesses without a model, on held-out clips.

    Args:
      options: The section `evaluation` of a configuration.
      name: The model's.
      model: The model.
      data: Held-out clips.
      used: The measures.
      others: Predictors without a model, by name.
      reader: A `Readout`, to score how well the data's attributes can be read, too.
      distances: A `VideoDistances`, which gets the first sample of each clip, and `COPY`.

    Returns:
      {predictor: {measure: float32 [N, T]}}: under the model's name the mean over samples, and
      where there are several, beside it of each clip and measure the sample with the best mean over
      its frames. NaN where the readout reads nothing.

    Raises:
      ValueError: Predictions that are not finite.
    """
    measured = _Measured(used, reader, options.horizon)
    scores = _Table(options.num_videos, options.horizon)
    progress = tqdm.tqdm(total=options.num_videos * options.num_samples, unit="video")
    for first in range(0, options.num_videos, options.batch_size):
        videos = range(first, min(first + options.batch_size, options.num_videos))
        rows = slice(videos.start, videos.stop)
        context = rollouts.clips(data, videos, 0, options.context)
        last = as_frames(context[:, -1:]).numpy()
        samples = [_Table(len(videos), options.horizon) for _ in range(options.num_samples)]
        for sample, table in enumerate(samples):
            for start, rollout in rollouts.predict(model, context, options, sample, first):
                frames = rollout.frames
                stop = start + frames.shape[1]
                truth = rollouts.clips(data, videos, options.context + start, stop - start)
                truth = as_frames(truth).numpy()
                measured.see(data, videos, options.context, start, truth)
                table.put(name, start, measured(frames))
                if sample > 0:
                    continue
                if distances:
                    distances.add(name, start, frames)
                for other, guess in others.items():
                    guessed = guess(last, videos, start, stop)
                    scores.put(other, start, measured(guessed), rows)
                    if distances and other == COPY:
                        distances.add(other, start, guessed)
                scores.put(TRUTH, start, measured.read(truth), rows)
            if stop != options.horizon:
                raise ValueError(f"{stop} frames were predicted instead of {options.horizon}.")
            progress.update(len(videos))
        for metric in samples[0].of(name):
            values = np.stack([table.of(name)[metric] for table in samples])
            scores.put(name, 0, {metric: values.mean(0)}, rows)
            if options.num_samples > 1:
                best = _best(values, measured.higher_is_better[metric])
                scores.put(best_of(name, options.num_samples), 0, {metric: best}, rows)
    progress.close()
    order = [name, best_of(name, options.num_samples), *others, TRUTH]
    return {predictor: scores.of(predictor) for predictor in order if scores.of(predictor)}


class _Measured:
    """All measures of a stretch: first it sees what is true, then it measures predictions."""

    def __init__(self, used: Sequence[Measures], reader, horizon: int):
        self._used, self._reader = used, reader
        self._every = read_every(horizon)
        about = metrics(used, reader, horizon)
        self.higher_is_better = {name: one["better"] == "higher" for name, one in about.items()}

    def see(self, data, videos: range, context: int, start: int, truth: np.ndarray) -> None:
        """Takes the true frames [B, stretch, H, W, C] from predicted frame `start` on."""
        self._truth = truth
        if self._reader is None:
            return
        soon = max(0, min(SOON - start, truth.shape[1]))
        later = slice(soon + -(start + soon) % self._every, None, self._every)
        # Slices keep it visible that a guess repeats a frame, which is then read once.
        self._read = [part for part in (slice(soon), later) if truth[0, part].size]
        each = [data.readings(i, context + start, truth.shape[1]) for i in videos]
        self._readings = [
            {name: np.stack([clip[name][part] for clip in each]) for name in each[0]}
            for part in self._read
        ]

    def __call__(self, prediction: np.ndarray) -> dict[str, np.ndarray]:
        values = {}
        for measures in self._used:
            values |= measures.scores(self._truth, prediction)
        return values | self.read(prediction)

    def read(self, frames: np.ndarray) -> dict[str, np.ndarray]:
        """Returns how well some of the frames can be read; NaN for the others."""
        if self._reader is None:
            return {}
        results = {name: np.full(frames.shape[:2], np.nan) for name in self._reader.metrics()}
        for part, readings in zip(self._read, self._readings, strict=True):
            for name, values in self._reader.scores(frames[:, part], readings).items():
                results[name][:, part] = values
        return results


class _Table:
    """Values by predictor and measure, filled stretch by stretch."""

    def __init__(self, num_videos: int, horizon: int):
        self._shape = num_videos, horizon
        self._values: dict[str, dict[str, np.ndarray]] = {}

    def of(self, predictor: str) -> dict[str, np.ndarray]:
        return self._values.get(predictor, {})

    def put(self, predictor: str, start: int, values: dict, rows: slice = slice(None)) -> None:
        metrics = self._values.setdefault(predictor, {})
        for metric, stretch in values.items():
            if metric not in metrics:
                metrics[metric] = np.full(self._shape, np.nan, np.float32)
            metrics[metric][rows, start : start + stretch.shape[1]] = stretch


def _best(values: np.ndarray, higher_is_better: bool) -> np.ndarray:
    """Of values [S, B, T] returns [B, T], of each clip the sample that is the best on average."""
    sign = 1 if higher_is_better else -1
    means = sign * np.nan_to_num(values).mean(2)  # What cannot be read, cannot in every sample.
    chosen = means.argmax(0)
    return values[chosen, np.arange(values.shape[1])]
