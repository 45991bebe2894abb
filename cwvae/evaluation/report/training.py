"""The report's training curves, from the logs of a run."""

import contextlib
import json
import pathlib
import re
from collections.abc import Mapping, Sequence

import numpy as np

from cwvae import visualize
from cwvae.evaluation.report import charts, text
from cwvae.levels import label, renamed

# Curves by the prefix of their names in the logs.
_CURVES = {"": "training batches", "test/": "held-out clips"}


def panels(logdir: pathlib.Path, step: int) -> list[visualize.Panel]:
    """Returns panels of a run's loss and KL terms up to a step; none if it has no logs.

    An export has none, and neither has a run whose logs were moved away.
    """
    rows = _rows(logdir / "metrics.jsonl", step)
    titles = {"loss": "Loss <span>[nats per frame]</span>"}
    matches = [
        re.fullmatch(r"kl/(.+)_sum", name) for name in dict.fromkeys(n for r in rows for n in r)
    ]
    terms = {match[0]: match[1] for match in matches if match}
    for name, term in terms.items():
        words = text.escape(label(term, len(terms)))
        titles[name] = f"KL of {words} <span>[nats per window]</span>"
    found = []
    for name, title in titles.items():
        curves = {words: _points(rows, prefix + name) for prefix, words in _CURVES.items()}
        curves = {words: points for words, points in curves.items() if len(points[0])}
        if curves:
            found.append(visualize.Panel(curves, "training step", title=title))
    return found


def section(panels: Sequence[visualize.Panel]) -> str:
    """Returns the section's markup; empty without panels."""
    if not panels:
        return ""
    styles = {name: visualize.curve_style(i) for i, name in enumerate(_CURVES.values())}
    return (
        "<p>The loss is that of the training, with its weights of the KL terms. Each KL term is"
        " summed over the frames of a training window.</p>\n" + charts.figures(panels, styles, "t")
    )


def _rows(path: pathlib.Path, step: int) -> list[Mapping]:
    if not path.is_file():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        # The last line may be partial while the training runs.
        with contextlib.suppress(ValueError, KeyError, TypeError):
            row = json.loads(line)
            if row["step"] <= step:
                rows.append({renamed(name): value for name, value in row.items()})
    return rows


def _points(rows: Sequence[Mapping], name: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns steps and values of a scalar where it is finite."""
    pairs = [(row["step"], row[name]) for row in rows if isinstance(row.get(name), int | float)]
    steps, values = np.array(pairs, float).reshape(-1, 2).T
    finite = np.isfinite(values)
    return steps[finite], values[finite]
