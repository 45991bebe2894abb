"""The tables: scores and mean ranks as in Table 1, other measures, KL per level as in Table 2."""

import dataclasses
import re
from collections.abc import Mapping
from fractions import Fraction

from cwvae.comparison import paper
from cwvae.comparison.ranks import highlighted, mean_ranks, printed
from cwvae.comparison.runs import FVD, PAPER, Run, labels

# Table 1: metric, decimals, which is better.
_TABLE_1 = (("ssim", 2, "higher"), ("psnr", 2, "higher"), ("lpips", 2, "lower"), (FVD, 0, "lower"))
ARROWS = {"higher": "↑", "lower": "↓"}


@dataclasses.dataclass(frozen=True)
class Cell:
    """A printed number, which may be highlighted."""

    text: str
    bold: bool = False


@dataclasses.dataclass(frozen=True)
class Row:
    """A name and its cells; None where a score is missing."""

    label: str
    cells: list[Cell | None]


@dataclasses.dataclass(frozen=True)
class Table:
    """A table as all formats write it.

    Attributes:
      name: Of its files.
      title: One sentence.
      columns: (group, name): neighbours of the same group share a heading.
      rows: Models.
      baselines: Rows below a line.
      notes: Sentences below the table.
    """

    name: str
    title: str
    columns: list[tuple[str, str]]
    rows: list[Row]
    baselines: list[Row]
    notes: list[str]


@dataclasses.dataclass(frozen=True)
class _Column:
    """A measure on a data set."""

    data: str
    metric: str
    name: str
    decimals: int
    better: str


def metric_name(metric: str, protocol: str) -> str:
    """Returns what metrics.json calls a metric of Table 1 under a protocol."""
    return (
        f"{metric}_{protocol}" if metric in ("ssim", "psnr") and protocol != "standard" else metric
    )


def heading(about: Mapping) -> str:
    """Returns a measure's label with its unit."""
    return about["label"] + (f" [{about['unit']}]" if about["unit"] else "")


def table_1(
    groups: Mapping[str, list[Run]], columns_of_paper: Mapping[str, str], protocol: str
) -> tuple[Table, dict[str, Fraction]]:
    """Makes the table of scores and mean ranks.

    Args:
      groups: The runs of each data set.
      columns_of_paper: The data sets for which the paper's scores are added, as `paper.columns`.
      protocol: Of PSNR and SSIM.

    Returns:
      The table, and the mean rank of each model, without any where nothing can be ranked.
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
    numbers = [
        [printed(scores[m].get((c.data, c.metric)), c.decimals) for m in scores] for c in columns
    ]
    means, count = mean_ranks((n, c.better) for n, c in zip(numbers, columns, strict=True))
    ranks = dict(zip(scores, means, strict=True)) if means else {}
    rows, baselines = _rows(groups, columns, scores, numbers)
    for row in (*rows, *baselines):
        rank = ranks.get(row.label)
        # Halves to even, as in the paper: 2.625 is 2.62.
        row.cells.append(Cell(f"{float(rank):.2f}") if rank else Cell(""))
    table = Table(
        "table",
        "Open-loop video prediction: means over the predicted frames of all test videos.",
        [*_headings(columns), ("Mean", "Rank ↓")],
        rows,
        baselines,
        _notes_on_ranks(columns, numbers, list(scores), count),
    )
    return table, ranks


def other_measures(groups: Mapping[str, list[Run]], protocol: str) -> Table | None:
    """Makes the table of the measures that Table 1 has not, where all runs of a data set have them.

    Args:
      groups: The runs of each data set.
      protocol: That of Table 1; here is the other one.

    Returns:
      The table, None if there is no such measure.
    """
    shown = {metric_name(metric, protocol) for metric, _, _ in _TABLE_1}
    columns = []
    for data, runs in groups.items():
        for metric, about in runs[0].metrics.items():
            if metric not in shown and all(r.mean(r.model, metric) is not None for r in runs):
                columns.append(_Column(data, metric, heading(about), 2, about["better"]))
    if not columns:
        return None
    scores = _scores_of_runs(groups)
    numbers = [
        [printed(scores[m].get((c.data, c.metric)), c.decimals) for m in scores] for c in columns
    ]
    rows, baselines = _rows(groups, columns, scores, numbers)
    about = [groups[c.data][0].metrics[c.metric] for c in columns]
    protocols = dict.fromkeys(f"{measure['label']}: {measure['protocol']}." for measure in about)
    title = "Further measures of the same predictions, which enter no rank."
    return Table("measures", title, _headings(columns), rows, baselines, list(protocols))


def kl_table(groups: Mapping[str, list[Run]], columns_of_paper: Mapping[str, str]) -> Table | None:
    """Makes the table of KL per level, summed over a window: Table 2 of the paper.

    Args:
      groups: The runs of each data set.
      columns_of_paper: As for `table_1`.

    Returns:
      The table, with the terms of models without levels in its notes; None if no model has levels.
    """
    sums = {label: {} for label in labels(groups)}  # {model: {data: (nats by level, frames)}}
    others = []
    for data, runs in groups.items():
        for run in runs:
            elbo = run.results["elbo"]
            terms = dict(zip(elbo["kl_names"], elbo["kl_sum"], strict=True))
            if all(re.fullmatch(r"level\d+", name) for name in terms):
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
    datas = [
        d for d in (groups or columns_of_paper) if any(d in by_data for by_data in sums.values())
    ]
    if not datas:
        return None
    columns, rows = [], {model: [] for model in sums}
    for data in datas:
        depth = max(len(by_data[data][0]) for by_data in sums.values() if data in by_data)
        group = paper.label(data)
        columns += [(group, f"Level {i + 1}") for i in range(depth)] + [(group, "Frames")]
        for model, by_data in sums.items():
            levels, frames = by_data.get(data, ([], None))
            cells = [Cell(_nats(value)) for value in levels]
            cells += [None] * (depth - len(cells))
            rows[model] += [*cells, Cell(str(frames)) if frames else None]
    notes = ["Level 1 is the fastest, called level0 in logs and in metrics.json.", *others]
    windows = {frames for by_data in sums.values() for _, frames in by_data.values()}
    if len(windows) > 1:
        notes.append("Sums over windows of different lengths (Frames) do not compare.")
    title = "KL divergence of each level in nats, summed over the time steps of a window of frames."
    return Table("kl", title, columns, [Row(m, cells) for m, cells in rows.items()], [], notes)


def _headings(columns):
    return [(paper.label(c.data), f"{c.name} {ARROWS[c.better]}") for c in columns]


def _scores_of_runs(groups):
    """Returns {label: {(data, metric): mean}} of the models."""
    scores = {label: {} for label in labels(groups)}
    for data, runs in groups.items():
        for run in runs:
            for metric in (*run.metrics, FVD):
                scores[run.label][data, metric] = run.mean(run.model, metric)
    return scores


def _rows(groups, columns, scores, numbers):
    """Returns the rows of models, each followed by its best samples, and those of baselines."""
    bold = [highlighted(n, c.better) for n, c in zip(numbers, columns, strict=True)]
    extra = _best_of(groups)
    rows = []
    for i, model in enumerate(scores):
        cells = [
            None if n[i] is None else Cell(str(n[i]), b[i])
            for n, b in zip(numbers, bold, strict=True)
        ]
        rows.append(Row(model, cells))
        rows += [
            _plain_row(label, columns, by_key) for label, by_key in extra.get(model, {}).items()
        ]
    baselines = {}
    for data, runs in groups.items():
        for run in runs:
            for name in run.baselines:
                by_key = baselines.setdefault(name, {})
                for metric in (*run.metrics, FVD):
                    value = run.mean(name, metric)
                    if value is not None:
                        by_key.setdefault((data, metric), value)  # the first run's
    below = [_plain_row(name, columns, by_key) for name, by_key in baselines.items()]
    return rows, [row for row in below if any(row.cells)]


def _best_of(groups):
    """Returns {model: {label of its best samples: {(data, metric): mean}}}."""
    extra = {}
    for data, runs in groups.items():
        for run in runs:
            for name in run.best_of:
                label = run.label + name.removeprefix(run.model)
                by_key = extra.setdefault(run.label, {}).setdefault(label, {})
                by_key |= {(data, m): run.mean(name, m) for m in (*run.metrics, FVD)}
    return extra


def _plain_row(label, columns, by_key):
    numbers = [printed(by_key.get((c.data, c.metric)), c.decimals) for c in columns]
    return Row(label, [None if n is None else Cell(str(n)) for n in numbers])


def _notes_on_ranks(columns, numbers, models, count):
    notes = [
        "Bold: the best model and those within 5% of it. Rank: the mean of a model's ranks among"
        f" the models, equal scores sharing the better one (1, 2, 2, 4), over {count} of"
        f" {len(columns)} columns; lower is better. Both are computed from the numbers as printed."
    ]
    left_out = {}  # {(data, who is missing): metrics}
    for column, values in zip(columns, numbers, strict=True):
        missing = tuple(m for m, value in zip(models, values, strict=True) if value is None)
        if missing:
            left_out.setdefault((column.data, missing), []).append(column.name)
    notes += [
        f"Not ranked, for want of a score of {', '.join(missing)}: {', '.join(metrics)} on"
        f" {paper.label(data)}."
        for (data, missing), metrics in left_out.items()
    ]
    return notes


def _nats(value):
    """Two decimals, as in the paper; one digit of what would be 0.00."""
    return f"{value:.2f}" if value == 0 or abs(value) >= 0.005 else f"{value:.1g}"
