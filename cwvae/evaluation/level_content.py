"""Which attribute of a video lives in which level: linear readouts of the states of CW-VAE.

The states of training clips are inferred from all frames, and linear readouts of them are fitted:
one for each attribute, level and part of the state, h or z. Others read all levels together. They
are scored on held-out clips, on the states inferred from all frames, and on those of an open-loop
prediction, by the distance from the context. Both kinds of states cover the same frames.

A level is read at its ticks, against the attribute of the frame at which the tick begins. All
levels together are read at every frame, with the states that they hold there.

Symbols: B clips, N ticks, T frames, F features, O outputs of a readout, K things of one kind in a
frame, such as digits.
"""

import itertools
from typing import NamedTuple

import numpy as np
import tensorflow as tf
import tqdm

from cwvae import clockwork
from cwvae.arguments import as_seed
from cwvae.cell import State
from cwvae.errors import UserError
from cwvae.evaluation import rollouts
from cwvae.evaluation.level_targets import CLASSES, NUMBERS, targets, values_of
from cwvae.evaluation.linear_readout import LinearReadout, fit, percent_right, r_squared
from cwvae.levels import label
from cwvae.model import CWVAE
from cwvae.startup import many_traces, say

ALL, CHANCE = "all levels", "chance"

# The last distances of the bands over which scores are computed, in predicted frames.
_BANDS = (10, 40, 100, 200, 300, 600, 1000)
_SPLITS = 5  # Every fifth training clip chooses the strength of the ridge.
_ROWS = 20_000  # At most this many ticks are fitted: those of one clip are similar.


class Source(NamedTuple):
    """The part of the states that a readout reads.

    Attributes:
      name: The level's label, `ALL`, or `CHANCE`: the best answer that is always the same.
      part: The part of the state: "h", "z" or "h, z"; "" for `CHANCE`.
      period: How many frames the ticks that are read are apart; None for `CHANCE`.
    """

    name: str
    part: str
    period: int | None


class Score(NamedTuple):
    """The scores of one readout.

    Attributes:
      attribute: The name of the attribute.
      kind: `CLASSES`, whose score is the percentage of labels that are right, or `NUMBERS`: R^2.
      source: What is read.
      strength: The strength of the ridge; None for `CHANCE`.
      observing: The score while frames are observed.
      open_loop: The score for each band. Any score is NaN without a tick to read.
    """

    attribute: str
    kind: str
    source: Source
    strength: float | None
    observing: float
    open_loop: tuple[float, ...]


class Content(NamedTuple):
    """The scores of all readouts.

    Attributes:
      scores: By attribute, then by source; `CHANCE` is the last of each attribute.
      bands: The first and last distance of each band, in predicted frames from 1.
      context: Frames that are observed before the prediction.
      training_clips: Number of clips that the readouts are fitted to.
      held_out_clips: Number of clips that they are scored on.
    """

    scores: tuple[Score, ...]
    bands: tuple[tuple[int, int], ...]
    context: int
    training_clips: int
    held_out_clips: int


class _Ticks(NamedTuple):
    """Ticks with what a readout reads there, or with its answers.

    Attributes:
      frames: The frame at which each tick begins, [N].
      values: Floats [B, N, F] or [B, N, O].
    """

    frames: np.ndarray
    values: np.ndarray

    def between(self, first: int, stop: int) -> "_Ticks":
        """Returns the ticks that begin in the frames [first, stop)."""
        chosen = (self.frames >= first) & (self.frames < stop)
        return _Ticks(self.frames[chosen], self.values[:, chosen])


def bands(horizon: int) -> tuple[tuple[int, int], ...]:
    """Returns the first and last distance of each band, of which the last ends at `horizon`."""
    ends = [*(end for end in _BANDS if end < horizon), horizon]
    return tuple((first + 1, last) for first, last in itertools.pairwise([0, *ends]))


def measure(
    options, model: CWVAE, seq_len: int, train_data, test_data, training_clips: int
) -> Content:
    """Fits the readouts of a model and scores them.

    Args:
      options: The settings of the evaluation; `num_videos` held-out clips are scored.
      model: The trained model.
      seq_len: Frames of a training window.
      train_data: The training data set.
      test_data: The held-out data set.
      training_clips: How many training clips to fit the readouts to, if there are as many.

    Raises:
      UserError: No attribute is known, or clips are too few or too short.
    """
    kinds = targets(train_data)
    held_out = rollouts.held_out(options, test_data)
    windows = _windows(options, model, seq_len, train_data, training_clips)
    with many_traces():
        say(f"Observing {len(windows)} training clips ...")
        rows = _training_rows(options, model, train_data, windows)
        readouts, common = _fit(rows, kinds)
        say(f"Observing and predicting {options.num_videos} held-out clips ...")
        truth, observing, open_loop = _read(options, model, held_out, readouts)
    begin, stop = options.context, options.context + options.horizon
    spans = [(begin + first - 1, begin + last) for first, last in bands(options.horizon)]

    def score(kind: str, values: np.ndarray, answers: _Ticks, first: int, stop: int) -> float:
        chosen = answers.between(first, stop)
        return _score(kind, values[:, chosen.frames], chosen.values)

    scores = []
    for name, kind in kinds.items():
        for source, by_name in readouts.items():
            seen, predicted = observing[source][name], open_loop[source][name]
            scores.append(
                Score(
                    name,
                    kind,
                    source,
                    by_name[name].strength,
                    score(kind, truth[name], seen, begin, stop),
                    tuple(score(kind, truth[name], predicted, *span) for span in spans),
                )
            )
        values = truth[name]
        same = _Ticks(np.arange(stop), np.broadcast_to(common[name], values.shape))
        # For numbers the best constant is the mean of the frames that are scored: R^2 = 0.
        first, *others = (
            score(kind, values, same, *span) if kind == CLASSES else 0.0
            for span in [(begin, stop), *spans]
        )
        scores.append(Score(name, kind, Source(CHANCE, "", None), None, first, tuple(others)))
    about = (options.context, len(windows), options.num_videos)
    return Content(tuple(scores), bands(options.horizon), *about)


def _windows(options, model: CWVAE, seq_len: int, data, count: int) -> list[tuple[int, int, int]]:
    """Returns clip, first frame and length of the training windows.

    A window has a context, so that the states that are fitted know as much as the held-out ones,
    and then as many frames as the model was trained on.
    """
    slowest = clockwork.periods(model.factors)[-1]
    length = min(options.context + max(seq_len, slowest), data.clips.longest)
    clips = data.at_least(length)[:count]
    if len(clips) < _SPLITS:
        raise UserError(
            f"the readouts need at least {_SPLITS} training clips of {length} frames, but there are"
            f" {len(clips)}. Raise --training-clips, or take a run with more training clips."
        )
    rng = np.random.default_rng(options.seed)
    return [(int(i), int(rng.integers(data.length(i) - length + 1)), length) for i in clips]


def _ticks(model: CWVAE, states: tuple[State, ...], first: int, stop: int) -> dict[Source, _Ticks]:
    """Returns what each source reads, for the states at all ticks in the frames [first, stop)."""
    periods, found, held = clockwork.periods(model.factors), {}, []
    # From the first tick of the slowest level on, the states that all levels hold are known.
    frames = np.arange(-(-first // periods[-1]) * periods[-1], stop)
    for name, period, state in zip(model.kl_names, periods, states, strict=True):
        nodes = clockwork.active_nodes(first, stop, period)
        for part, values in (("h", state.deterministic), ("z", state.stochastic)):
            source = Source(label(name, model.levels), part, period)
            found[source] = _Ticks(np.array(nodes, int) * period, values.numpy())
            held.append(found[source].values[:, frames // period - nodes.start])
    if model.levels > 1:
        found[Source(ALL, "h, z", 1)] = _Ticks(frames, np.concatenate(held, -1))
    return found


class _Rows(NamedTuple):
    """Ticks of some clips as rows.

    Attributes:
      features: [R, F].
      targets: [R, O] by attribute.
      validation: Which rows belong to the validation split, [R].
    """

    features: np.ndarray
    targets: dict[str, np.ndarray]
    validation: np.ndarray


def _training_rows(options, model: CWVAE, data, windows) -> dict[Source, list[_Rows]]:
    """Returns ticks of training clips by source, one entry for each batch of clips."""
    rng, per_clip = np.random.default_rng(options.seed), -(-_ROWS // len(windows))
    rows: dict[Source, list[_Rows]] = {}
    size = options.batch_size
    for first in tqdm.trange(0, len(windows), size, desc="training clips", unit="batch"):
        batch = windows[first : first + size]
        video = np.stack([data.clip(*window) for window in batch])
        truth = _stacked([values_of(data, *window) for window in batch])
        validation = np.arange(first, first + len(batch)) % _SPLITS == 0
        length = video.shape[1]
        states = model.observed_states(video, options.seed, row=first)
        for source, ticks in _ticks(model, states, 0, length).items():
            after = ticks.between(options.context, length)
            # A level that ticks rarely may have its only tick at the start.
            frames, values = after if len(after.frames) else ticks
            count = min(per_clip, len(frames))
            # Evenly spaced ticks could all be at ticks of another level, too.
            chosen = np.sort(rng.choice(len(frames), count, replace=False))
            piece = _Rows(
                _flat(values[:, chosen]),
                {name: _flat(values[:, frames[chosen]]) for name, values in truth.items()},
                np.repeat(validation, count),
            )
            rows.setdefault(source, []).append(piece)
    return rows


def _fit(
    rows: dict[Source, list[_Rows]], kinds: dict[str, str]
) -> tuple[dict[Source, dict[str, LinearReadout]], dict[str, np.ndarray]]:
    """Returns the readouts by source and attribute, and the mean target [O] of each attribute."""
    readouts, mean = {}, {}
    for source, pieces in tqdm.tqdm(rows.items(), desc="fitting readouts", unit="source"):
        readouts[source] = {}
        features = np.concatenate([piece.features for piece in pieces])
        validation = np.concatenate([piece.validation for piece in pieces])
        for name, kind in kinds.items():
            values = np.concatenate([piece.targets[name] for piece in pieces])
            known = np.isfinite(values).all(-1)
            held = validation[known]
            if not held.any() or held.all():
                raise UserError(
                    f"too few training clips show {name}. Read more: raise --training-clips."
                )
            readouts[source][name] = fit(features[known], values[known], held, _SCORES[kind])
            mean.setdefault(name, values[known].mean(0))
    return readouts, mean


def _read(
    options, model: CWVAE, data, readouts: dict[Source, dict[str, LinearReadout]]
) -> tuple[dict[str, np.ndarray], dict, dict]:
    """Reads the held-out clips.

    Returns:
      The truth by attribute, [clips, T, O]; and the answers, `_Ticks` of all clips by source and
      attribute, while observing and in the open loop.
    """
    context, stop = options.context, options.context + options.horizon
    truth, answers = [], ([], [])
    for videos in tqdm.tqdm(list(rollouts.batches(options)), desc="held-out clips", unit="batch"):
        truth += [values_of(data, i, 0, stop) for i in videos]
        observed, predicted = _states(options, model, data, videos)
        for kept, states, first in zip(answers, (observed, predicted), (0, context), strict=True):
            ticks = _ticks(model, states, first, stop)
            kept.append(
                {
                    source: {
                        name: _Ticks(ticks[source].frames, readout.predict(ticks[source].values))
                        for name, readout in by_name.items()
                    }
                    for source, by_name in readouts.items()
                }
            )
    return _stacked(truth), *(
        {
            source: {
                name: _Ticks(
                    batches[0][source][name].frames,
                    np.concatenate([batch[source][name].values for batch in batches]),
                )
                for name in by_name
            }
            for source, by_name in readouts.items()
        }
        for batches in answers
    )


def _states(
    options, model: CWVAE, data, videos: range
) -> tuple[tuple[State, ...], tuple[State, ...]]:
    """Returns the states of clips, observed; and predicted, as `rollouts.predict` does."""
    video = rollouts.clips(data, videos, 0, options.context + options.horizon)
    seed = tf.random.fold_in(as_seed(options.seed), 0)
    chosen = {"row": videos.start} | rollouts.observed_levels(options)
    return (
        model.observed_states(video, options.seed, row=videos.start),
        model.predicted_states(video[:, : options.context], options.horizon, seed, **chosen),
    )


def _stacked(clips: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.stack([values[name] for values in clips]) for name in clips[0]}


def _flat(values: np.ndarray) -> np.ndarray:
    return values.reshape(-1, values.shape[-1])


_SCORES = {CLASSES: percent_right, NUMBERS: r_squared}


def _score(kind: str, truth: np.ndarray, answers: np.ndarray) -> float:
    """Returns the score of answers [clips, N, O], where the truth is known."""
    known = np.isfinite(truth).all(-1)
    return _SCORES[kind](truth[known], answers[known])
