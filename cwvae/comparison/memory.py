"""Memory horizons: for how many predicted frames a model stays better than a random guess.

The guess is a random training frame. A model's lead over it, averaged over clips and training
seeds, starts high and falls as the model forgets. The memory horizon is the number of predicted
frames at which the lead has lost half of its initial value:

  lead(t) = mean over seeds and clips of model(t) - guess(t), with the opposite sign where lower is
            better, at each scored frame t, counted from 1
  start   = mean of lead(t) over the first 10 scored frames
  fit(t)  = the non-increasing function closest to lead(t) (isotonic regression)
  horizon = the first t, interpolated linearly, where fit(t) = start / 2

The 95% interval is a bootstrap: it draws seeds, then clips, with replacement. All seeds are scored
on the same clips, so a draw has the same clips for each of them.

Symbols: D draws, S seeds, N clips, T scored frames.
"""

import dataclasses
import functools
import math
from collections.abc import Iterator, Mapping

import numpy as np

from cwvae.comparison import paper
from cwvae.comparison.runs import Entry, Groups, eval_command, labels
from cwvae.comparison.seeds import CONFIDENCE
from cwvae.comparison.tables import Cell, Row, Table
from cwvae.evaluation.results import ARROWS, CLIP_SCORES, RANDOM, metric_name

_SOON = 10  # scored frames whose mean lead is the initial one
_DRAWS = 1000
_TAIL = round(_DRAWS * (1 - CONFIDENCE) / 2)  # draws beyond each end of the interval


@dataclasses.dataclass(frozen=True)
class Horizon:
    """A memory horizon in predicted frames."""

    frames: float | None  # inf: not within the scored frames; None: no clear lead to lose
    interval: tuple[float, float] | None  # None for a single clip, and without a horizon
    last: int  # the last scored frame
    by_seed: Mapping[int, "Horizon"] = dataclasses.field(default_factory=dict)

    def text(self) -> str:
        """Returns the horizon and its interval, such as 29 (27-31), > 60 or -."""
        if self.frames is None:
            return "-"
        value = f"> {self.last}" if math.isinf(self.frames) else f"{self.frames:.0f}"
        low, high = self.interval or (math.inf, math.inf)
        if math.isinf(low):
            return value
        return f"{value} (≥ {low:.0f})" if math.isinf(high) else f"{value} ({low:.0f}-{high:.0f})"

    def numbers(self) -> list[str]:
        """Returns the horizon and the ends of its interval; inf, or empty where there is none."""
        values = (self.frames, *(self.interval or (None, None)))
        return ["" if value is None else f"{value:.1f}" for value in values]


# {(data set, label of a metric): {label of a row: its horizon}}
Horizons = Mapping[tuple[str, str], Mapping[str, Horizon]]


def crossings(frames: np.ndarray, leads: np.ndarray) -> np.ndarray:
    """Returns the memory horizons of many leads at once, without intervals.

    Sums of lead(t) - start / 2 over the first k frames are largest at the k frames whose fit is at
    least start / 2. The fits around this k are the slopes of the sums' concave hull there: the
    smallest mean over frames that end at k, and the largest over frames that begin after it.

    Args:
      frames: The scored frames, increasing, [T].
      leads: D leads, [D, T]. A frame with NaN takes the fit of the frame before it.

    Returns:
      Frames, [D]: inf if a lead does not fall as far, 0 if its start is not positive.
    """
    there, size = np.isfinite(leads), len(frames)
    soon = np.where(there, leads, 0)[:, :_SOON].sum(1)
    half = soon / np.maximum(there[:, :_SOON].sum(1), 1) / 2
    over = np.where(there, leads - half[:, None], 0)
    sums, counts = (np.pad(np.cumsum(x, 1), ((0, 0), (1, 0))) for x in (over, there))
    k = size - sums[:, ::-1].argmax(1)[:, None]  # The last maximum.
    with np.errstate(invalid="ignore"):  # 0 / 0 where no frame lies between.
        rise = sums - np.take_along_axis(sums, k, 1)
        slopes = rise / (counts - np.take_along_axis(counts, k, 1))
    earlier = np.arange(size + 1) < k
    high = np.fmin.reduce(np.where(earlier, slopes, np.inf), 1)
    low = np.fmax.reduce(np.where(earlier, -np.inf, slopes), 1)
    k = k[:, 0]
    left, right = frames[k - 1], frames[np.minimum(k, size - 1)]
    with np.errstate(invalid="ignore"):  # No crossing.
        between = left + high / (high - low) * (right - left)
    return np.where(half > 0, np.where(k < size, between, np.inf), 0.0)


def estimate(leads: np.ndarray) -> Horizon | None:
    """Returns the memory horizon of a model and a metric, with its interval.

    Args:
      leads: Leads of single clips, [S, N, horizon]; NaN where a frame is not scored.

    Returns:
      None if no frame is scored.
    """
    scored = np.flatnonzero(np.isfinite(leads).any((0, 1)))
    if not len(scored):
        return None
    leads, frames, last = leads[:, :, scored].astype(float), scored + 1, int(scored[-1]) + 1
    seeds, clips = _counts(*leads.shape[:2])
    known = np.isfinite(leads)
    total, number = (
        np.einsum("ds,dn,snt->dt", seeds, clips, values, optimize=True)
        for values in (np.where(known, leads, 0), known.astype(float))
    )
    means = np.where(number > 0, total / np.maximum(number, 1), np.nan)  # [1 + draws, T]
    value, *drawn = crossings(frames, means).tolist()
    if leads.shape[1] == 1:  # All draws are equal.
        return Horizon(value or None, None, last)
    drawn.sort()  # Not np.quantile, which interpolates and so gives NaN at infinity.
    interval = drawn[_TAIL - 1], drawn[-_TAIL]
    if min(value, interval[0]) == 0:  # The interval of the initial lead does not lie above 0.
        return Horizon(None, None, last)
    return Horizon(value, interval, last)


@functools.cache
def _counts(*sizes: int) -> list[np.ndarray]:
    """Returns how often each of n things is in each draw, floats [1 + draws, n], for some n.

    The first draw is the sample itself. All models have the same draws.
    """
    rng = np.random.default_rng(0)
    drawn = (rng.multinomial(n, np.full(n, 1 / n), _DRAWS) for n in sizes)
    return [np.concatenate([np.ones((1, counts.shape[1])), counts]) for counts in drawn]


def horizons(groups: Groups, protocol: str) -> tuple[Horizons, list[str]]:
    """Returns the horizons of all rows, and hints on runs without the scores of single clips.

    The metrics are the readout's, and PSNR of a protocol.

    Raises:
      UserError: As for `clip_scores.read`.
    """
    found, hints = {}, []
    for data, group in groups.items():
        for entry in group:
            scores = [run.by_clip() for run in entry.runs]
            hints += [
                f"Memory horizon not computed for {entry.name_of(run)} on {paper.label(data)}: its"
                f" evaluation has no {CLIP_SCORES}. To add it: {eval_command(run)}"
                for run, its in zip(entry.runs, scores, strict=True)
                if its is None
            ]
            if None in scores:
                continue
            for label, leads in _leads(entry, scores, protocol):
                if whole := estimate(leads):
                    each = {entry.seeds[0]: whole}
                    if len(leads) > 1:
                        seeds = zip(entry.seeds, leads, strict=True)
                        each = {seed: estimate(lead[None]) for seed, lead in seeds}
                    by_label = found.setdefault((data, label), {})
                    by_label[entry.label] = dataclasses.replace(whole, by_seed=each)
    return found, hints


def _leads(entry: Entry, scores, protocol: str) -> Iterator[tuple[str, np.ndarray]]:
    """Yields label and leads [S, N, T] of each metric that all runs of a row have."""
    metrics = [name for name in entry.metrics if name.startswith("readout_")]
    for metric in (*metrics, metric_name("psnr", protocol)):
        if all(metric in its[who] for its in scores for who in (entry.model, RANDOM)):
            sign = 1 if entry.metrics[metric]["better"] == "higher" else -1
            leads = [sign * (its[entry.model][metric] - its[RANDOM][metric]) for its in scores]
            yield entry.metrics[metric]["label"], np.stack(leads)


def table(groups: Groups, found: Horizons) -> Table | None:
    """Makes the table of memory horizons; None without any."""
    if not found:
        return None
    rows, plain = [], []
    for label in labels(groups):
        its = [by_label.get(label) for by_label in found.values()]
        if any(its):
            rows.append(Row(label, [one and Cell(one.text()) for one in its]))
            plain.append(Row(label, [cell for one in its for cell in _plain(one)]))
    columns = [(paper.label(data), f"{label} {ARROWS['higher']}") for data, label in found]
    ends = ("", " low", " high")
    more = [(paper.label(data), f"{label}{end}") for data, label in found for end in ends]
    over = "clips"
    if any(len(one.by_seed) > 1 for by_label in found.values() for one in by_label.values()):
        over = "training seeds and clips"
    title = f"Memory horizons in predicted frames, with {CONFIDENCE:.0%} intervals over {over}."
    notes = [
        f"Memory horizon: the number of predicted frames at which the lead over {RANDOM!r} has lost"
        f" half of its initial value, the mean over the first {_SOON} scored frames. The lead is"
        f" averaged over {over}, and made non-increasing by isotonic regression.",
        f"Intervals: bootstrap over {over}, {_DRAWS} draws. > T: not within T frames. -: no"
        " horizon, because the interval of the initial lead does not lie above 0.",
    ]
    file = Table("memory", title, more, plain, [], [])
    return Table("memory", title, columns, rows, [], notes, file=file)


def _plain(one: Horizon | None) -> list[Cell | None]:
    """Returns the cells of a horizon in the CSV file: the horizon, and the ends of its interval."""
    if one is None:
        return [None] * 3
    by_seed = {seed: its.numbers() for seed, its in one.by_seed.items()}
    return [
        Cell(text, by_seed={seed: numbers[i] for seed, numbers in by_seed.items()})
        for i, text in enumerate(one.numbers())
    ]
