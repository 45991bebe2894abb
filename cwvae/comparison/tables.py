"""The tables: scores and mean ranks (Table 1), other measures, KL per level (Table 2)."""

import dataclasses
import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from fractions import Fraction

from cwvae.comparison import paper, seeds
from cwvae.comparison.ranks import highlighted, mean_ranks, printed
from cwvae.comparison.runs import FVD, PAPER, Entry, Groups, labels
from cwvae.comparison.seeds import Score, over_seeds
from cwvae.evaluation.results import ARROWS, heading, metric_name

# Table 1: metric, decimals, which is better.
_TABLE_1 = (("ssim", 2, "higher"), ("psnr", 2, "higher"), ("lpips", 2, "lower"), (FVD, 0, "lower"))


@dataclasses.dataclass(frozen=True)
class Cell:
    """A printed number, which may be bold, and may be a mean over training seeds."""

    text: str
    bold: bool = False
    margin: str = ""  # half the width of the mean's confidence interval
    by_seed: Mapping[int, str] = dataclasses.field(default_factory=dict)


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
    # Sentences with commands, settings or files. They are in the Markdown file only.
    hints: list[str] = dataclasses.field(default_factory=list)
    file: "Table | None" = None  # what the CSV file has instead, for cells with several numbers


@dataclasses.dataclass(frozen=True)
class _Column:
    """A measure on a data set."""

    data: str
    metric: str
    name: str
    decimals: int
    better: str

    def printed(self, scores: Mapping[tuple[str, str], Score | None]) -> Decimal | None:
        """Returns a predictor's number in this column; `scores` is {(data, metric): score}."""
        score = scores.get((self.data, self.metric))
        return None if score is None else printed(score.mean, self.decimals)

    def cell(self, scores: Mapping[tuple[str, str], Score | None], bold: bool) -> Cell | None:
        """Returns a predictor's cell in this column."""
        score = scores.get((self.data, self.metric))
        return score and cell(score, lambda value: str(printed(value, self.decimals)), bold)


def cell(score: Score, text: Callable[[float], str], bold: bool = False) -> Cell:
    """Returns the cell of a score; `text` formats a number."""
    margin = "" if score.margin is None else text(score.margin)
    by_seed = {seed: text(value) for seed, value in score.by_seed.items()}
    return Cell(text(score.mean), bold, margin, by_seed)


def table_1(
    groups: Groups, columns_of_paper: Mapping[str, str], protocol: str
) -> tuple[Table, dict[str, Fraction]]:
    """Makes the table of scores, with the paper's in `columns_of_paper` (`paper.columns`).

    Also returns the mean rank of each model, which is empty if nothing can be ranked.
    """
    scores = _scores_of_runs(groups)
    for model, by_data in paper.published()["scores"].items() if columns_of_paper else ():
        scores[f"{model} {PAPER}"] = {
            (data, metric_name(metric, protocol)): Score(value)
            for data, name in columns_of_paper.items()
            for metric, value in by_data[name].items()
        }
    columns = [
        _Column(data, metric_name(metric, protocol), metric.upper(), decimals, better)
        for data in (groups or columns_of_paper)
        for metric, decimals, better in _TABLE_1
    ]
    # A measure that nobody computed has no column.
    columns = [c for c in columns if any(c.printed(scores[model]) is not None for model in scores)]
    numbers = [[column.printed(scores[model]) for model in scores] for column in columns]
    means, count = mean_ranks((n, c.better) for n, c in zip(numbers, columns, strict=True))
    ranks = dict(zip(scores, means, strict=True)) if means else {}
    rows, baselines = _rows(groups, columns, scores)
    headings = _headings(columns)
    if ranks:
        headings.append(("Mean", "Rank ↓"))
        for row in (*rows, *baselines):
            rank = ranks.get(row.label)
            # Round half to even, as in the paper: 2.625 is 2.62.
            row.cells.append(Cell(f"{float(rank):.2f}") if rank else Cell(""))
    title = "Open-loop video prediction: means over the predicted frames of all test videos."
    notes = _notes_on_ranks(columns, numbers, list(scores), count)
    return Table("table", with_seeds(title, groups), headings, rows, baselines, notes), ranks


def with_seeds(title: str, groups: Groups) -> str:
    """Returns a title, with a sentence on the intervals over training seeds if there are any."""
    counts = [len(entry.runs) for entries in groups.values() for entry in entries]
    return f"{title} {seeds.caption(counts)}".strip()


def other_measures(groups: Groups, protocol: str) -> Table | None:
    """Makes the table of measures that Table 1 lacks and all runs on a data set have.

    Returns None without such measures. `protocol` is the one in Table 1.
    """
    shown = {metric_name(metric, protocol) for metric, _, _ in _TABLE_1}
    columns, protocols = [], []
    for data, entries in groups.items():
        for metric, about in entries[0].metrics.items():
            if metric not in shown and all(e.score(e.model, metric) for e in entries):
                columns.append(_Column(data, metric, heading(about), 2, about["better"]))
                protocols.append(f"{about['label']}: {about['protocol']}.")
    if not columns:
        return None
    title = "Further measures of the same predictions, without ranks."
    rows, baselines = _rows(groups, columns, _scores_of_runs(groups))
    notes = list(dict.fromkeys(protocols))
    title = with_seeds(title, groups)
    return Table("measures", title, _headings(columns), rows, baselines, notes)


def kl_table(groups: Groups, columns_of_paper: Mapping[str, str]) -> Table | None:
    """Makes the table of KL per level, summed over a window (Table 2 of the paper).

    The terms of models without levels are in its notes. Returns None if no model has levels.
    """
    sums = {label: {} for label in labels(groups)}  # {model: {data: (cell by level, frames)}}
    others = []
    for data, entries in groups.items():
        for entry in entries:
            terms = {name: cell(score, _nats) for name, score in _kl_terms(entry).items()}
            if not terms:
                continue
            frames = str(entry.first.results["elbo"]["frames"])
            if _are_levels(terms):
                count = Cell(frames, by_seed=dict.fromkeys(entry.seeds, frames))
                sums[entry.label][data] = ([*terms.values()], count)
            else:
                values = ", ".join(
                    f"{name} {c.text}" + f" ± {c.margin}" * bool(c.margin)
                    for name, c in terms.items()
                )
                where = f"{entry.label} on {paper.label(data)}"
                others.append(f"{where} has no levels: {values} over {frames} frames.")
    sums = {label: by_data for label, by_data in sums.items() if by_data}
    kl = paper.published()["kl"]
    for data, name in columns_of_paper.items():
        if name == kl["dataset"]:
            for model, levels in kl["sums"].items():
                cells = [Cell(_nats(value)) for value in levels]
                sums[f"{model} {PAPER}"] = {data: (cells, Cell(str(kl["frames"])))}
    columns, rows = [], {model: [] for model in sums}
    for data in groups or columns_of_paper:
        depth = max((len(d[data][0]) for d in sums.values() if data in d), default=0)
        if not depth:
            continue
        names = [*(f"Level {i + 1}" for i in range(depth)), "Frames"]
        columns += [(paper.label(data), name) for name in names]
        for model, by_data in sums.items():
            cells, frames = by_data.get(data, ([], None))
            rows[model] += [*cells, *[None] * (depth - len(cells)), frames]
    if not columns:
        return None
    notes = ["Level 1 is the fastest.", *others]
    windows = {frames.text for by_data in sums.values() for _, frames in by_data.values()}
    if len(windows) > 1:
        notes.append("Sums over windows of different lengths (Frames) cannot be compared.")
    title = "KL divergence of each level in nats, summed over the time steps of a window of frames."
    title, rows = with_seeds(title, groups), [Row(m, cells) for m, cells in rows.items()]
    return Table("kl", title, columns, rows, [], notes)


def kl_levels(entry: Entry) -> list[Score]:
    """Returns the KL of each level of a row, summed over a window; empty without levels."""
    terms = _kl_terms(entry)
    return [*terms.values()] if _are_levels(terms) else []


def _kl_terms(entry):
    """Returns {name: KL} of the terms of a row's ELBO; empty for predictions from a file."""
    elbos = [run.results["elbo"] for run in entry.runs]
    if None in elbos:
        return {}
    by_term = zip(*(elbo["kl_sum"] for elbo in elbos), strict=True)
    scores = [over_seeds(dict(zip(entry.seeds, values, strict=True))) for values in by_term]
    return dict(zip(elbos[0]["kl_names"], scores, strict=True))


def _are_levels(terms):
    return all(re.fullmatch(r"level_?\d+", name) for name in terms)


def _headings(columns):
    return [(paper.label(c.data), f"{c.name} {ARROWS[c.better]}") for c in columns]


def _scores_of(entry, predictor):
    """Returns {(data, metric): score} of a predictor."""
    metrics = (*entry.metrics, FVD)
    return {(entry.data, metric): entry.score(predictor, metric) for metric in metrics}


def _scores_of_runs(groups):
    """Returns {label: {(data, metric): score}} of the models."""
    scores = {label: {} for label in labels(groups)}
    for entries in groups.values():
        for entry in entries:
            scores[entry.label] |= _scores_of(entry, entry.model)
    return scores


def _scores_of_baselines(groups):
    """Returns {baseline: {(data, metric): score}}, each from the first run that has it."""
    scores = {}
    for run in (run for group in groups.values() for entry in group for run in entry.runs):
        for name in run.baselines:
            known = scores.setdefault(name, {})
            for metric in (*run.metrics, FVD):
                value = run.mean(name, metric)
                if value is not None:
                    known.setdefault((run.data, metric), Score(value))
    return scores


def _rows(groups, columns, scores):
    """Returns the rows of models, each followed by its best samples, and those of baselines."""
    best_of = {label: {} for label in scores}  # {label: {label of its best samples: scores}}
    for entry in (entry for entries in groups.values() for entry in entries):
        for name in entry.best_of:
            label = entry.label + name.removeprefix(entry.model)
            best_of[entry.label].setdefault(label, {}).update(_scores_of(entry, name))
    baselines = _scores_of_baselines(groups)
    numbers = [[column.printed(scores[model]) for model in scores] for column in columns]
    bold = [highlighted(n, c.better) for n, c in zip(numbers, columns, strict=True)]
    rows = []
    for model, flags in zip(scores, zip(*bold, strict=True), strict=True):
        rows.append(_row(model, columns, scores[model], flags))
        rows += [_row(label, columns, by_key) for label, by_key in best_of[model].items()]
    below = [_row(name, columns, by_key) for name, by_key in baselines.items()]
    return rows, [row for row in below if any(row.cells)]


def _row(label, columns, scores, bold=None):
    flags = bold or [False] * len(columns)
    return Row(label, [c.cell(scores, flag) for c, flag in zip(columns, flags, strict=True)])


def _notes_on_ranks(columns, numbers, models, count):
    ranked = [column.name for column, n in zip(columns, numbers, strict=True) if None not in n]
    rank = "No ranks: no column has a score of every model. Bold is"
    if ranked:
        rank = (
            "Rank: the mean of a model's ranks among the models, equal scores sharing the better"
            f" one (1, 2, 2, 4), over {count} of {len(columns)} columns"
            f" ({', '.join(dict.fromkeys(ranked))}); lower is better. Both are"
        )
    notes = [
        f"Bold: the best model and those within 5% of it. {rank} computed from the numbers as"
        " printed."
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
