"""The tables: scores and mean ranks (Table 1), other measures, KL per level (Table 2)."""

import dataclasses
import re
from collections.abc import Mapping
from fractions import Fraction

from cwvae.comparison import paper
from cwvae.comparison.ranks import highlighted, mean_ranks, printed
from cwvae.comparison.runs import FVD, PAPER, Groups, labels
from cwvae.evaluation.results import ARROWS, heading, metric_name

# Table 1: metric, decimals, which is better.
_TABLE_1 = (("ssim", 2, "higher"), ("psnr", 2, "higher"), ("lpips", 2, "lower"), (FVD, 0, "lower"))


@dataclasses.dataclass(frozen=True)
class Cell:
    """A printed number, which may be bold."""

    text: str
    bold: bool = False


@dataclasses.dataclass(frozen=True)
class Row:
    """A name and its cells; None where a score is missing."""

    label: str
    cells: list[Cell | None]


@dataclasses.dataclass(frozen=True)
class Table:
    """A table, before it is written in a format."""

    name: str  # of its files, without suffix
    title: str  # one sentence
    columns: list[tuple[str, str]]  # (group, name): adjacent columns of a group share a heading
    rows: list[Row]  # models
    baselines: list[Row]  # rows below a line
    notes: list[str]  # sentences below the table


@dataclasses.dataclass(frozen=True)
class _Column:
    """A measure on a data set."""

    data: str
    metric: str
    name: str
    decimals: int
    better: str

    def printed(self, scores: Mapping[tuple[str, str], float | None]):
        """Returns a predictor's number in this column; `scores` is {(data, metric): mean}."""
        return printed(scores.get((self.data, self.metric)), self.decimals)


def table_1(
    groups: Groups, columns_of_paper: Mapping[str, str], protocol: str
) -> tuple[Table, dict[str, Fraction]]:
    """Makes the table of scores, with the paper's in `columns_of_paper` (`paper.columns`).

    Also returns the mean rank of each model, which is empty if nothing can be ranked.
    """
    columns = [
        _Column(data, metric_name(metric, protocol), metric.upper(), decimals, better)
        for data in (groups or columns_of_paper)
        for metric, decimals, better in _TABLE_1
    ]
    scores = _scores_of_runs(groups)
    for model, by_data in paper.published()["scores"].items() if columns_of_paper else ():
        scores[f"{model} {PAPER}"] = {
            (data, metric_name(metric, protocol)): value
            for data, name in columns_of_paper.items()
            for metric, value in by_data[name].items()
        }
    numbers = [[column.printed(scores[model]) for model in scores] for column in columns]
    means, count = mean_ranks((n, c.better) for n, c in zip(numbers, columns, strict=True))
    ranks = dict(zip(scores, means, strict=True)) if means else {}
    rows, baselines = _rows(groups, columns, scores)
    for row in (*rows, *baselines):
        rank = ranks.get(row.label)
        # Round half to even, as in the paper: 2.625 is 2.62.
        row.cells.append(Cell(f"{float(rank):.2f}") if rank else Cell(""))
    title = "Open-loop video prediction: means over the predicted frames of all test videos."
    notes = _notes_on_ranks(columns, numbers, list(scores), count)
    headings = [*_headings(columns), ("Mean", "Rank ↓")]
    return Table("table", title, headings, rows, baselines, notes), ranks


def other_measures(groups: Groups, protocol: str) -> Table | None:
    """Makes the table of measures that Table 1 lacks and all runs on a data set have.

    Returns None without such measures. `protocol` is the one in Table 1.
    """
    shown = {metric_name(metric, protocol) for metric, _, _ in _TABLE_1}
    columns, protocols = [], []
    for data, runs in groups.items():
        for metric, about in runs[0].metrics.items():
            if metric not in shown and all(r.mean(r.model, metric) is not None for r in runs):
                columns.append(_Column(data, metric, heading(about), 2, about["better"]))
                protocols.append(f"{about['label']}: {about['protocol']}.")
    if not columns:
        return None
    title = "Further measures of the same predictions, without ranks."
    rows, baselines = _rows(groups, columns, _scores_of_runs(groups))
    notes = list(dict.fromkeys(protocols))
    return Table("measures", title, _headings(columns), rows, baselines, notes)


def kl_table(groups: Groups, columns_of_paper: Mapping[str, str]) -> Table | None:
    """Makes the table of KL per level, summed over a window (Table 2 of the paper).

    The terms of models without levels are in its notes. Returns None if no model has levels.
    """
    sums = {label: {} for label in labels(groups)}  # {model: {data: (nats by level, frames)}}
    others = []
    for data, runs in groups.items():
        for run in runs:
            elbo = run.results["elbo"]
            terms = dict(zip(elbo["kl_names"], elbo["kl_sum"], strict=True))
            if all(re.fullmatch(r"level_?\d+", name) for name in terms):
                sums[run.label][data] = (elbo["kl_sum"], elbo["frames"])
            else:
                values = ", ".join(f"{name} {_nats(value)}" for name, value in terms.items())
                where = f"{run.label} on {paper.label(data)}"
                others.append(f"{where} has no levels: {values} over {elbo['frames']} frames.")
    sums = {label: by_data for label, by_data in sums.items() if by_data}
    kl = paper.published()["kl"]
    for data, name in columns_of_paper.items():
        if name == kl["dataset"]:
            for model, levels in kl["sums"].items():
                sums[f"{model} {PAPER}"] = {data: (levels, kl["frames"])}
    columns, rows = [], {model: [] for model in sums}
    for data in groups or columns_of_paper:
        depth = max((len(d[data][0]) for d in sums.values() if data in d), default=0)
        if not depth:
            continue
        names = [*(f"Level {i + 1}" for i in range(depth)), "Frames"]
        columns += [(paper.label(data), name) for name in names]
        for model, by_data in sums.items():
            levels, frames = by_data.get(data, ([], None))
            cells = [Cell(_nats(value)) for value in levels]
            cells += [None] * (depth - len(cells))
            rows[model] += [*cells, Cell(str(frames)) if frames else None]
    if not columns:
        return None
    notes = ["Level 1 is the fastest.", *others]
    windows = {frames for by_data in sums.values() for _, frames in by_data.values()}
    if len(windows) > 1:
        notes.append("Sums over windows of different lengths (Frames) cannot be compared.")
    title = "KL divergence of each level in nats, summed over the time steps of a window of frames."
    return Table("kl", title, columns, [Row(m, cells) for m, cells in rows.items()], [], notes)


def _headings(columns):
    return [(paper.label(c.data), f"{c.name} {ARROWS[c.better]}") for c in columns]


def _scores_of(run, predictor):
    """Returns {(data, metric): mean} of a predictor."""
    return {(run.data, metric): run.mean(predictor, metric) for metric in (*run.metrics, FVD)}


def _scores_of_runs(groups):
    """Returns {label: {(data, metric): mean}} of the models."""
    scores = {label: {} for label in labels(groups)}
    for runs in groups.values():
        for run in runs:
            scores[run.label] |= _scores_of(run, run.model)
    return scores


def _rows(groups, columns, scores):
    """Returns the rows of models, each followed by its best samples, and those of baselines."""
    best_of = {label: {} for label in scores}  # {label: {label of its best samples: scores}}
    baselines = {}
    for run in (run for runs in groups.values() for run in runs):
        for name in run.best_of:
            label = run.label + name.removeprefix(run.model)
            best_of[run.label].setdefault(label, {}).update(_scores_of(run, name))
        for name in run.baselines:
            known = baselines.setdefault(name, {})
            for key, value in _scores_of(run, name).items():
                if value is not None:
                    known.setdefault(key, value)  # the first run's
    numbers = [[column.printed(scores[model]) for model in scores] for column in columns]
    bold = [highlighted(n, c.better) for n, c in zip(numbers, columns, strict=True)]
    rows = []
    for model, flags in zip(scores, zip(*bold, strict=True), strict=True):
        rows.append(_row(model, columns, scores[model], flags))
        rows += [_row(label, columns, by_key) for label, by_key in best_of[model].items()]
    below = [_row(name, columns, by_key) for name, by_key in baselines.items()]
    return rows, [row for row in below if any(row.cells)]


def _row(label, columns, scores, bold=None):
    numbers = [column.printed(scores) for column in columns]
    flags = bold or [False] * len(columns)
    cells = [None if n is None else Cell(str(n), b) for n, b in zip(numbers, flags, strict=True)]
    return Row(label, cells)


def _notes_on_ranks(columns, numbers, models, count):
    notes = [
        "Bold: the best model and those within 5% of it. Rank: the mean of a model's ranks among"
        f" the models, equal scores sharing the better one (1, 2, 2, 4), over {count} of"
        f" {len(columns)} columns; lower is better. Both are computed from the numbers as printed."
    ]
    unranked = {}  # {(data, models without a score): metrics}
    for column, values in zip(columns, numbers, strict=True):
        missing = tuple(m for m, value in zip(models, values, strict=True) if value is None)
        if missing:
            unranked.setdefault((column.data, missing), []).append(column.name)
    notes += [
        f"Not ranked, because {', '.join(missing)} {'has' if len(missing) == 1 else 'have'} no"
        f" score: {', '.join(metrics)} on {paper.label(data)}."
        for (data, missing), metrics in unranked.items()
    ]
    return notes


def _nats(value):
    """Formats with two decimals, as in the paper, or one significant digit below 0.005."""
    return f"{value:.2f}" if value == 0 or abs(value) >= 0.005 else f"{value:.1g}"
