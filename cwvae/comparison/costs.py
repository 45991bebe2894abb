"""The costs of each run: weights, frames and time, as in the paper's Tables D.1 and D.2.

A run's folder has its times in seconds.json: `training`, the sum over all sessions, and
`evaluation`, the last one.
"""

import json
import math
import pathlib
from collections.abc import Sequence

from cwvae.comparison import formats
from cwvae.comparison.runs import Run
from cwvae.comparison.tables import Cell, Row, Table
from cwvae.errors import UserError
from cwvae.run import files

_COLUMNS = [
    ("Model", "Weights [millions]"),
    ("Training", "Steps"),
    ("Training", "Frames per step"),
    ("Training", "Frames seen [millions]"),
    ("Wall time", "train.py [min]"),
    ("Wall time", "eval.py [min]"),
]
_NOTES = [
    "Frames per step: clips per update, times frames per clip.",
    "Wall times include the start of each script. The time of a resumed training is the sum over"
    " its sessions.",
]


def texts(every: Sequence[Run]) -> dict[str, str]:
    """Returns the table of runs as training.md, .csv and .tex: {file name: content}."""
    rows = [Row(run.label, _cells(run)) for run in every]
    table = Table("training", "Training cost of each model.", _COLUMNS, rows, [], _NOTES)
    return formats.texts([table])


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
    """Writes the seconds of `training` or `evaluation`; a failure leaves the file as it was."""
    content = json.dumps(read_seconds(folder) | {part: round(seconds, 1)})
    files.write(folder / "seconds.json", f"{content}\n")


def duration(seconds: float) -> str:
    """Returns a time in words, such as 7 min 42 s."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {seconds} s" if minutes else f"{seconds} s"


def _cells(run: Run) -> list[Cell | None]:
    training, seconds = run.results["settings"]["training"], read_seconds(run.folder)
    steps, frames = run.results["step"], training["batch_size"] * training["seq_len"]
    texts = [_millions(run.results["weights"]), str(steps), str(frames), _millions(steps * frames)]
    cells = [Cell(text) for text in texts]
    for part in ("training", "evaluation"):
        cells.append(Cell(f"{seconds[part] / 60:.1f}") if part in seconds else None)
    return cells


def _millions(number: int) -> str:
    return f"{number / 1e6:.2f}"
