"""Figures: measures against the frames predicted (Figures 1 and E.1), mean ranks (Figure 5)."""

import math
from collections.abc import Mapping
from fractions import Fraction

from cwvae import visualize
from cwvae.comparison import paper
from cwvae.comparison.runs import PAPER, Groups, labels
from cwvae.evaluation.results import ARROWS, heading, metric_name

# Gray is for baselines.
_COLORS = [color for color in visualize.CURVE_COLORS if color != "#666666"]
_GRAYS = (("#888888", "--"), ("#6b6b6b", ":"), ("#555555", "-."), ("#333333", (0, (6, 2))))


def curves(groups: Groups, protocol: str) -> dict[str, bytes]:
    """Draws a figure per measure, with a panel per data set; returns {file name: content}."""
    every = [run for runs in groups.values() for run in runs]
    styles = _styles(labels(groups), [name for run in every for name in run.baselines])

    def figure(name, xlabel, ylabel, points_of):
        panels = [
            visualize.Panel(series, xlabel, ylabel, title=paper.label(data))
            for data, runs in groups.items()
            if (series := _series(runs, points_of))
        ]
        return _saved(name, visualize.draw_curves(panels, styles)) if panels else {}

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
            lambda run, name, kind=kind: list(zip(*run.fvd_curve(name, kind), strict=True)),
        )
    return files


def ranks(means: Mapping[str, Fraction]) -> dict[str, bytes]:
    """Draws mean ranks as bars from 1, the best possible rank; returns {file name: content}."""
    if not means:
        return {}
    from matplotlib.figure import Figure

    order = sorted(means, key=means.get, reverse=True)
    # Runs have the colours of their curves. The paper's rows are gray, unless they stand alone.
    own = [name for name in means if not name.endswith(PAPER)] or list(means)
    styles = _styles(own, [])
    figure = Figure(figsize=(4.2, 0.7 + 0.32 * len(order)), dpi=150, layout="constrained")
    panel = figure.subplots()
    values = [float(means[name]) for name in order]
    colors = [styles[name]["color"] if name in own else _GRAYS[0][0] for name in order]
    names = list(map(visualize.plain_text, order))
    bars = panel.barh(names, [value - 1 for value in values], left=1, color=colors, height=0.7)
    panel.bar_label(bars, [f"{value:.2f}" for value in values], padding=3)
    worst = max(2, len(order))
    panel.set_xlim(1, worst + 0.1 * (worst - 1))  # space for the number after the longest bar
    panel.set_xticks(range(1, worst + 1, math.ceil(worst / 10)))
    panel.set_xlabel(f"mean rank {ARROWS['lower']}")
    panel.spines[["top", "right"]].set_visible(False)
    return _saved("ranks", figure)


def _shown_metrics(runs, protocol):
    """Returns {metric: its description}, without PSNR and SSIM of other protocols."""
    protocols = {p for run in runs for p in run.results["protocols"]}
    others = {metric_name(m, p) for m in ("psnr", "ssim") for p in protocols - {protocol}}
    return {m: about for run in runs for m, about in run.metrics.items() if m not in others}


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


def _series(runs, points_of):
    """Returns {name: (x, y)} for the runs on a data set, and for each baseline once."""
    series = {run.label: points_of(run, run.model) for run in runs}
    for run in runs:
        for name in run.baselines:
            if not any(map(len, series.get(name, ()))):
                series[name] = points_of(run, name)
    return {name: points for name, points in series.items() if any(map(len, points))}


def _saved(name, figure):
    return {f"{name}.{kind}": visualize.figure_bytes(figure, kind) for kind in ("png", "pdf")}
