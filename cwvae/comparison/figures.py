"""Figures: measures against the frames predicted (Figures 1 and E.1), mean ranks (Figure 5).

Others are memory horizons, and KL per level.
"""

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import NamedTuple

import numpy as np

from cwvae import visualize
from cwvae.comparison import paper, seeds, tables
from cwvae.comparison.memory import Horizons
from cwvae.comparison.runs import PAPER, Groups, entries, labels
from cwvae.evaluation.results import ARROWS, heading, metric_name

# Gray is for baselines.
_COLORS = [color for color in visualize.CURVE_COLORS if color != "#666666"]
_GRAYS = (("#888888", "--"), ("#6b6b6b", ":"), ("#555555", "-."), ("#333333", (0, (6, 2))))


class _Curve(NamedTuple):
    """A curve of one run, or the mean over training seeds with a band around it."""

    x: np.ndarray
    y: np.ndarray
    band: tuple[np.ndarray, np.ndarray] | None = None  # its lower and upper edge


def curves(groups: Groups, protocol: str) -> dict[str, bytes]:
    """Draws a figure per measure, with a panel per data set; returns {file name: content}.

    With several training seeds, a line is their mean, and a band the interval that the tables have.
    """
    every = entries(groups)
    styles = _styles(labels(groups), [name for entry in every for name in entry.baselines])

    def figure(name, xlabel, ylabel, points_of):
        panels, shown = [], []
        for data, group in groups.items():
            if found := _curves(group, points_of):
                lines = {label: (curve.x, curve.y) for label, curve in found.items()}
                panels.append(visualize.Panel(lines, xlabel, ylabel, title=paper.label(data)))
                shown.append(found)
        if not panels:
            return {}
        drawn = visualize.draw_curves(panels, styles)
        _draw_bands(drawn, shown, styles)
        return _saved(name, drawn)

    files = {}
    for metric, about in _shown_metrics(every, protocol).items():
        files |= figure(
            metric.removesuffix(f"_{protocol}"),
            "frames predicted",
            f"{heading(about)} {ARROWS[about['better']]}",
            lambda run, name, metric=metric: visualize.by_frame(run.curve(name, metric)),
        )
    for kind, xlabel in (
        ("prefixes", "frames predicted and compared"),
        ("windows", "frames predicted before the 16 compared"),
    ):
        files |= figure(
            f"fvd_{kind}",
            xlabel,
            f"FVD {ARROWS['lower']}",
            lambda run, name, kind=kind: np.reshape(run.fvd_curve(name, kind), (-1, 2)).T,
        )
    return files


def ranks(means: Mapping[str, Fraction]) -> dict[str, bytes]:
    """Draws mean ranks as bars from 1, the best possible rank; returns {file name: content}."""
    if not means:
        return {}
    order = sorted(means, key=means.get, reverse=True)
    # Runs have the colours of their curves. The paper's rows are gray, unless they stand alone.
    own = [name for name in means if not name.endswith(PAPER)] or list(means)
    styles = _styles(own, [])
    figure, (panel,) = _panels_of_rows(1, order, 0.7)
    values = [float(means[name]) for name in order]
    colors = [styles[name]["color"] if name in own else _GRAYS[0][0] for name in order]
    widths = [value - 1 for value in values]
    bars = panel.barh(range(len(order)), widths, left=1, color=colors, height=0.7)
    panel.bar_label(bars, [f"{value:.2f}" for value in values], padding=3)
    worst = max(2, len(order))
    panel.set_xlim(1, worst + 0.1 * (worst - 1))  # space for the number after the longest bar
    panel.set_xticks(range(1, worst + 1, math.ceil(worst / 10)))
    panel.set_xlabel(f"mean rank {ARROWS['lower']}")
    return _saved("ranks", figure)


def memory(groups: Groups, horizons: Horizons) -> dict[str, bytes]:
    """Draws memory horizons with their intervals, a panel per metric; returns {name: content}.

    An arrow at the last scored frame stands for all that lies beyond it.
    """
    if not horizons:
        return {}
    styles = _styles(labels(groups), [])
    rows = _rows_of(groups, horizons.values())
    figure, panels = _panels_of_rows(len(horizons), rows, 1.1)
    for panel, ((data, metric), by_label) in zip(panels, horizons.items(), strict=True):
        for y, label in enumerate(rows):
            one, color = by_label.get(label), styles[label]["color"]
            if one is None or one.frames is None:
                continue
            ends = one.interval or (one.frames, one.frames)
            panel.hlines(y, *(min(end, one.last) for end in ends), color=color, linewidth=2)
            if math.isfinite(one.frames):
                panel.plot(one.frames, y, "o", color=color)
            if math.isinf(ends[1]):
                panel.plot(one.last, y, ">", color=color, clip_on=False)
        panel.set_xlim(0, max(one.last for one in by_label.values()))
        panel.set_title(paper.label(data))
        panel.set_xlabel(f"memory horizon [frames] {ARROWS['higher']}\n{metric}")
    return _saved("memory", figure)


def kl(groups: Groups) -> dict[str, bytes]:
    """Draws the KL of each level, a group of bars per model, a panel per data set.

    A bar is a mean over training seeds, which are points. The axis is logarithmic, because levels
    differ by orders of magnitude. Returns {file name: content}, empty if no model has levels.
    """
    found = {
        data: {entry.label: levels for entry in group if (levels := tables.kl_levels(entry))}
        for data, group in groups.items()
    }
    found = {data: by_label for data, by_label in found.items() if by_label}
    every = [score for rows in found.values() for levels in rows.values() for score in levels]
    if not any(score.mean > 0 for score in every):
        return {}
    from matplotlib.patches import Patch

    depth = max(len(levels) for by_label in found.values() for levels in by_label.values())
    rows = _rows_of(groups, found.values())
    colors = [_COLORS[level % len(_COLORS)] for level in range(depth)]
    shown = [v for s in every for v in (s.mean, *s.by_seed.values()) if v > 0]
    figure, panels = _panels_of_rows(len(found), rows, 1.1, 0.2 + 0.16 * depth)
    for panel, (data, by_label) in zip(panels, found.items(), strict=True):
        for level, color in enumerate(colors):
            there = [y for y, label in enumerate(rows) if level < len(by_label.get(label, ()))]
            scores = [by_label[rows[y]][level] for y in there]
            places = [y + 0.8 * ((depth - 1) / 2 - level) / depth for y in there]
            means = [score.mean for score in scores]
            panel.barh(places, means, height=0.8 / depth, color=color)
            for place, score in zip(places, scores, strict=True):
                if len(score.by_seed) > 1:
                    values = [*score.by_seed.values()]
                    panel.plot(values, [place] * len(values), "k.", markersize=3)
        panel.set_xscale("log")
        panel.set_xlim(min(shown) / 3, max(shown) * 1.5)
        panel.set_title(paper.label(data))
        panel.set_xlabel("KL, sum over a window [nats]")
    handles = [Patch(color=color, label=f"level {i}") for i, color in enumerate(colors, 1)]
    place = {"loc": "outside lower center", "ncols": depth, "frameon": False}
    figure.legend(handles=handles, **place)
    return _saved("kl", figure)


def _rows_of(groups, panels):
    """Returns the labels of rows from the bottom up; panels are mappings by label."""
    return [name for name in reversed(labels(groups)) if any(name in panel for panel in panels)]


def _panels_of_rows(count: int, rows: Sequence[str], around: float, height: float = 0.32):
    """Returns a figure and its panels, which have a row per name, from the bottom up.

    A row has a height in inches, and so has what is around the rows of a panel.
    """
    # Imported late, as in `visualize.draw_curves`.
    from matplotlib.figure import Figure

    across = min(3, count)
    down = -(-count // across)
    size = (4.2 + 3 * (across - 1), down * (around + height * len(rows)))
    figure = Figure(figsize=size, dpi=150, layout="constrained")
    panels = figure.subplots(down, across, squeeze=False, sharey=True).ravel()
    for panel in panels[count:]:
        panel.remove()
    panels[0].set_yticks(range(len(rows)), list(map(visualize.plain_text, rows)))
    panels[0].set_ylim(-0.6, len(rows) - 0.4)
    for panel in panels[:count]:
        panel.spines[["top", "right"]].set_visible(False)
    return figure, panels[:count]


def _shown_metrics(every, protocol):
    """Returns {metric: its description}, without PSNR and SSIM of other protocols."""
    protocols = {p for entry in every for p in entry.first.results["protocols"]}
    others = {metric_name(m, p) for m in ("psnr", "ssim") for p in protocols - {protocol}}
    return {m: about for entry in every for m, about in entry.metrics.items() if m not in others}


def _styles(models, baselines):
    """Returns {name: properties of its curve}: colours for models, grays for baselines."""
    styles = {}
    for i, name in enumerate(models):
        style = visualize.CURVE_STYLES[i // len(_COLORS) % len(visualize.CURVE_STYLES)]
        styles[name] = {"color": _COLORS[i % len(_COLORS)], "linestyle": style}
    for i, name in enumerate(dict.fromkeys(baselines)):
        color, style = _GRAYS[i % len(_GRAYS)]
        behind = {"color": color, "linestyle": style, "linewidth": 1.2, "zorder": 1}
        styles.setdefault(name, behind)
    return styles


def _curves(group, points_of):
    """Returns {name: curve} for the rows of a data set, and for each baseline once."""
    found = {}
    for entry in group:
        found[entry.label] = _over_seeds([points_of(run, run.model) for run in entry.runs])
    for run in (run for entry in group for run in entry.runs):
        for name in run.baselines:
            if name not in found or not len(found[name].x):
                found[name] = _over_seeds([points_of(run, name)])
    return {name: curve for name, curve in found.items() if len(curve.x)}


def _over_seeds(points):
    """Returns the curve of runs that differ in the seed, each (x, y): where all have a value."""
    by_x = [dict(zip(*xy, strict=True)) for xy in points]
    common = [x for x in by_x[0] if all(x in values for values in by_x)]
    values = np.array([[run[x] for x in common] for run in by_x])  # [seeds, points]
    mean, band = values.mean(0), None
    if len(values) > 1:
        half = seeds.half_width(values)
        band = (mean - half, mean + half)
    return _Curve(np.array(common), mean, band)


def _draw_bands(figure, shown, styles):
    """Draws the bands of curves, {name: curve} for each panel, and explains them in the legend."""
    has_bands = False
    for axes, curves in zip(figure.axes, shown, strict=True):
        for name, curve in curves.items():
            if curve.band is None:
                continue
            has_bands, look = True, {"color": styles[name]["color"], "alpha": 0.2}
            if len(curve.x) > 1:
                axes.fill_between(curve.x, *curve.band, linewidth=0, **look)
            else:
                axes.vlines(curve.x, *curve.band, linewidth=3, **look)
    if has_bands:
        title = f"mean over training seeds, with its {seeds.CONFIDENCE:.0%} interval"
        figure.legends[0].set_title(title)
        figure.set_figheight(figure.get_figheight() + 0.22)  # for the title


def _saved(name, figure):
    return {f"{name}.{kind}": visualize.figure_bytes(figure, kind) for kind in ("png", "pdf")}
