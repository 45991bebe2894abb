"""The costs of each run: weights, frames and time, as in the paper's Tables D.1 and D.2.

A run's folder has its times in seconds.json: `training`, the sum over all sessions, and the last
session of `evaluation` and of other evaluations, by the names of their folders.
"""

import json
import math
import pathlib

from cwvae.comparison import formats, paper
from cwvae.comparison.runs import Entry, Groups, entries
from cwvae.comparison.seeds import over_seeds
from cwvae.comparison.tables import Cell, Row, Table, cell, with_seeds
from cwvae.errors import UserError
from cwvae.run import files

_COLUMNS = [
    ("Model", "Weights [millions]"),
    ("Training", "Steps"),
    ("Training", "Frames per step"),
    ("Training", "Frames seen [millions]"),
    ("Wall time", "Training [min]"),
    ("Wall time", "Evaluation [min]"),
]
_NOTES = [
    "Frames per step: clips per update, times frames per clip.",
    "Wall times include the start of each process. The time of a resumed training is the sum over"
    " its sessions. Runs that were trained side by side shared the machine.",
]


def texts(groups: Groups) -> dict[str, str]:
    """Returns the table of runs as training.md, .csv and .tex: {file name: content}."""
    rows = []
    for entry in entries(groups):
        label = entry.label if len(groups) == 1 else f"{entry.label} on {paper.label(entry.data)}"
        rows.append(Row(label, _cells(entry)))
    shown = [i for i in range(len(_COLUMNS)) if any(row.cells[i] for row in rows)]
    rows = [Row(row.label, [row.cells[i] for i in shown]) for row in rows]
    title, columns = (
        with_seeds("Training cost of each model.", groups),
        [_COLUMNS[i] for i in shown],
    )
    return formats.texts([Table("training", title, columns, rows, [], _NOTES)])


def read_seconds(folder: pathlib.Path) -> dict[str, float]:
    """Returns a run's seconds by part, if measured; raises a UserError if the file is damaged."""
    path = folder / "seconds.json"
    try:
        seconds = json.loads(path.read_text())
        # By type, because True is an int, and JSON can hold an infinity.
        if not all(type(s) in (int, float) and 0 <= s < math.inf for s in seconds.values()):
            raise ValueError
        return seconds
    except FileNotFoundError:
        return {}
    except (ValueError, AttributeError, RecursionError):
        raise UserError(
            f"{path}: damaged. Delete it; the times of this run are then counted from zero."
        ) from None


def write_seconds(folder: pathlib.Path, part: str, seconds: float) -> None:
    """Writes the seconds of a part of a run; a failure leaves the file as it was."""
    content = json.dumps(read_seconds(folder) | {part: round(seconds, 1)})
    files.write(folder / "seconds.json", f"{content}\n")


def duration(seconds: float) -> str:
    """Returns a time in words, such as 7 min 42 s."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {seconds} s" if minutes else f"{seconds} s"


def _cells(entry: Entry) -> list[Cell | None]:
    results = entry.first.results
    training, steps = results["settings"]["training"], results["step"]
    frames = training["batch_size"] * training["seq_len"]
    texts = [_millions(results["weights"]), str(steps), str(frames), _millions(steps * frames)]
    cells = [Cell(text, by_seed=dict.fromkeys(entry.seeds, text)) for text in texts]
    seconds = {run.seed: read_seconds(run.folder) for run in entry.runs}
    for part in ("training", "evaluation"):
        known = {seed: times[part] / 60 for seed, times in seconds.items() if part in times}
        is_known = len(known) == len(seconds)
        cells.append(cell(over_seeds(known), "{:.1f}".format) if is_known else None)
    return cells


def _millions(number: int) -> str:
    return f"{number / 1e6:.2f}"
