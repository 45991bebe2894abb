"""The table of evaluations in which one level is blind: Figure 7 of the paper in numbers.

A blind level follows its prior during the context, while the other levels see the frames. What it
alone would have kept of them is then missing from the predictions, as the readout shows.
"""

from collections.abc import Sequence
from typing import NamedTuple

from cwvae import levels
from cwvae.comparison import agreement, formats, paper, tables
from cwvae.comparison.ranks import printed
from cwvae.comparison.runs import Entry, Groups, Run, by_data, entries
from cwvae.comparison.seeds import over_seeds
from cwvae.comparison.tables import Cell, Row, Table
from cwvae.evaluation.results import ARROWS, RANDOM, TRUTH, heading

_TITLE = "What predictions still show if one level does not see the context."
_NOTES = [
    "Blind: this level follows its prior during the context, while the others see the frames.",
    f"{TRUTH}: the most that a prediction can reach. {RANDOM}: chance. A score that falls to chance"
    " with a level blind depends on what that level alone keeps of the context.",
]


class _Column(NamedTuple):
    """A mean of a readout score on a data set."""

    data: str
    metric: str
    key: str  # of the mean in metrics.json
    name: str


def texts(groups: Groups, resets: Sequence[Run]) -> dict[str, str]:
    """Returns the table as reset_levels.md, .csv and .tex: {file name: content}.

    Args:
      groups: The runs that are compared, all of whose levels see the context.
      resets: Evaluations of those that have several levels, each with one level blind.

    Returns:
      The files; none if no run has scores of the readout.

    Raises:
      UserError: An evaluation was measured in another way than that of its run.
    """
    blind = {}  # {(label, data): {number of the blind level: row}}
    for number in sorted({_blind(run) for run in resets}):
        for entry in entries(by_data(run for run in resets if _blind(run) == number)):
            blind.setdefault((entry.label, entry.data), {})[number] = entry
    several = [entry for entry in entries(groups) if (entry.label, entry.data) in blind]
    shown = {data: [entry for entry in several if entry.data == data] for data in groups}
    shown = {data: group for data, group in shown.items() if group}
    columns = [column for group in shown.values() for column in _columns(group[0].first)]
    if not columns:
        return {}
    rows = {}  # {name: {column: cell}}
    for entry in several:
        by_level = blind[entry.label, entry.data]
        variants = {"none": entry}
        for number, other in by_level.items():
            variants[levels.short_label(f"level_{number + 1}", len(by_level))] = other
            for ordinary, reset in zip(entry.runs, other.runs, strict=True):
                # In this order, because the message has the command for the second one.
                agreement.check_measures(reset, ordinary)
        for words, variant in variants.items():
            cells = {column: _cell(variant, column) for column in columns}
            rows.setdefault(f"{entry.label}, blind: {words}", {}).update(
                {column: cell for column, cell in cells.items() if column.data == entry.data}
            )
    bounds = {
        name: {column: _bound(shown[column.data], name, column) for column in columns}
        for name in (TRUTH, RANDOM)
    }
    lines, below = (
        [Row(name, [cells.get(column) for column in columns]) for name, cells in part.items()]
        for part in (rows, bounds)
    )
    headings = [(paper.label(column.data), column.name) for column in columns]
    title, notes = tables.with_seeds(_TITLE, shown), [*_NOTES, *_protocols(shown)]
    return formats.texts([Table("reset_levels", title, headings, lines, below, notes)])


def _blind(run: Run) -> int:
    """Returns the number of an evaluation's blind level, 0 for the fastest."""
    return run.results["observe_levels"].index("F")


def _columns(run: Run) -> list[_Column]:
    """Returns the columns of a run's data set: two for each score of the readout."""
    found = []
    for metric, about in _readouts(run).items():
        soon = run.results["scores"][TRUTH][metric]["soon"]
        for key, frames in (("mean_soon", f"first {soon}"), ("mean", "all")):
            name = f"{heading(about)}, {frames} {ARROWS[about['better']]}"
            found.append(_Column(run.data, metric, key, name))
    return found


def _readouts(run: Run) -> dict[str, dict]:
    return {name: about for name, about in run.metrics.items() if name.startswith("readout_")}


def _mean(run: Run, predictor: str, column: _Column) -> float | None:
    return run.results["scores"].get(predictor, {}).get(column.metric, {}).get(column.key)


def _cell(entry: Entry, column: _Column) -> Cell | None:
    """Returns the cell of a model; None if one of its seeds lacks the score."""
    values = {run.seed: _mean(run, run.model, column) for run in entry.runs}
    return None if None in values.values() else tables.cell(over_seeds(values), _text)


def _bound(group: Sequence[Entry], predictor: str, column: _Column) -> Cell | None:
    """Returns the cell of a predictor without a model, from the first run that has it."""
    values = (_mean(run, predictor, column) for entry in group for run in entry.runs)
    value = next((value for value in values if value is not None), None)
    return None if value is None else Cell(_text(value))


def _text(value: float) -> str:
    return str(printed(value, 2))


def _protocols(groups: Groups) -> list[str]:
    abouts = [_readouts(group[0].first).values() for group in groups.values()]
    notes = [f"{about['label']}: {about['protocol']}." for each in abouts for about in each]
    return list(dict.fromkeys(notes))
