"""Tables and a figure of `level_content.Content`."""

import csv
import io
import math
from typing import TYPE_CHECKING

from cwvae import visualize
from cwvae.evaluation.level_content import ALL, CHANCE, Content, Score
from cwvae.evaluation.level_targets import CLASSES

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MISSING = "–"  # noqa: RUF001 - a dash, as in the tables of compare.py
_GRAYS = {ALL: "--", CHANCE: ":"}  # Line styles of what is not a level.


def markdown(content: Content, title: str) -> str:
    """Returns a table for each attribute as Markdown, with notes below."""
    lines = [f"# {title}", ""]
    lines.append(
        f"Linear readouts of the states, fitted to {content.training_clips:,} training clips and"
        f" scored on {content.held_out_clips:,} held-out clips: frames {content.context + 1} to"
        f" {content.context + content.bands[-1][1]} of each, observed; and predicted open loop from"
        f" the {content.context} frames before them."
    )
    for name in dict.fromkeys(score.attribute for score in content.scores):
        scores = [score for score in content.scores if score.attribute == name]
        lines += ["", f"## {_heading(scores[0])}", "", *_table(content, scores)]
    lines += [
        "",
        "- Columns with numbers: distances from the context, in predicted frames.",
        "- A level is read at its ticks, against the attribute of the frame at which the tick"
        " begins. All levels together are read at every frame.",
        "- h is computed before the frames of its tick are observed, z afterwards, from all frames"
        " until the next tick.",
        f"- chance: the most common answer, or R² = 0 for numbers. {_MISSING}: no tick in these"
        " frames.",
    ]
    return "\n".join(lines) + "\n"


def csv_text(content: Content) -> str:
    """Returns all scores as CSV: a row for each readout, empty where a score is missing."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    about = ["attribute", "score", "level", "part", "ticks_every", "strength"]
    writer.writerow([*about, *_columns(content)])
    for score in content.scores:
        unit = "percent right" if score.kind == CLASSES else "R2"
        values = ["" if math.isnan(value) else value for value in _values(score)]
        writer.writerow([score.attribute, unit, *score.source, score.strength, *values])
    return buffer.getvalue()


def figure(content: Content) -> "Figure":
    """Draws the scores against the distance: a panel for each attribute and part of the states."""
    parts = dict.fromkeys(s.source.part for s in content.scores if s.source.name not in _GRAYS)
    panels, places = [], range(len(content.bands) + 1)
    attributes = dict.fromkeys(score.attribute for score in content.scores)
    for part in parts:
        for name in attributes:
            scores = [
                score
                for score in content.scores
                if score.attribute == name
                and (score.source.part == part or score.source.name in _GRAYS)
            ]
            curves = {score.source.name: (places, _values(score)) for score in scores}
            title = f"{_heading(scores[0])}, from {part}"
            panels.append(visualize.Panel(curves, "frames predicted", title=title))
    names = [score.source.name for score in content.scores]
    levels = [name for name in dict.fromkeys(names) if name not in _GRAYS]
    colors = [color for color in visualize.CURVE_COLORS if color != "#666666"]
    styles = {
        name: {"color": colors[i % len(colors)], "linestyle": "-", "marker": "o"}
        for i, name in enumerate(levels)
    }
    styles |= {
        name: {"color": "#666666", "linestyle": style, "marker": None, "zorder": 1}
        for name, style in _GRAYS.items()
    }
    drawn = visualize.draw_curves(panels, styles)
    for axes in drawn.axes:
        axes.set_xticks(places, _columns(content), rotation=30, ha="right", fontsize=8)
    return drawn


def _table(content: Content, scores: list[Score]) -> list[str]:
    """Returns the lines of a table, whose columns are aligned."""
    rows = [["level", "part", "ticks every", *_columns(content)]]
    for score in scores:
        decimals = 1 if score.kind == CLASSES else 2
        name, part, period = score.source
        every = "" if period is None else f"{period} frame{'s' * (period > 1)}"
        values = [
            # No "-0.00" for numbers that are rounded to 0.
            _MISSING if math.isnan(v) else f"{round(v, decimals) + 0.0:.{decimals}f}"
            for v in _values(score)
        ]
        rows.append([name, part, every, *values])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rule = ["-" * width if i < 2 else "-" * (width - 1) + ":" for i, width in enumerate(widths)]
    lines = []
    for row in [rows[0], rule, *rows[1:]]:
        cells = zip(row, widths, strict=True)
        aligned = [c.ljust(w) if i < 2 else c.rjust(w) for i, (c, w) in enumerate(cells)]
        lines.append(f"| {' | '.join(aligned)} |")
    return lines


def _heading(score: Score) -> str:
    return f"{score.attribute.replace('_', ' ')} {'right [%]' if score.kind == CLASSES else '[R²]'}"


def _columns(content: Content) -> list[str]:
    return ["observing", *(f"{first}-{last}" for first, last in content.bands)]


def _values(score: Score) -> list[float]:
    return [score.observing, *score.open_loop]
