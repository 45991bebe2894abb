"""Figures: a measure against the frames predicted (Figures 1 and E.1), and ranks (Figure 5)."""

import io
import math
from collections.abc import Mapping, Sequence
from fractions import Fraction

from cwvae import visualize
from cwvae.comparison import paper
from cwvae.comparison.runs import PAPER, Run, labels
from cwvae.comparison.tables import ARROWS, metric_name

# Gray is for baselines.
_COLORS = [color for color in visualize.CURVE_COLORS if color != "#666666"]
_GRAYS = (("#999999", "--"), ("#777777", ":"), ("#555555", "-."), ("#333333", (0, (6, 2))))
_PANELS_PER_ROW = 3
_FORMATS = ("png", "pdf")
# Characters of the legend that fit beside each other on one inch.
_CHARACTERS_PER_INCH = 13


def curves(groups: Mapping[str, list[Run]], protocol: str) -> dict[str, bytes]:
    """Draws one figure for each measure: a panel for each data set, a curve for each run.

    Args:
      groups: The runs of each data set.
      protocol: Of PSNR and SSIM.

    Returns:
      {name of a file: content}, each figure as PNG and PDF.
    """
    every = [run for runs in groups.values() for run in runs]
    styles = _styles(labels(groups), [n for run in every for n in run.baselines])
    files = {}
    for metric, about in _shown_metrics(every, protocol).items():
        panels = {
            paper.label(data): _series(runs, lambda r, n, m=metric: _steps(r.curve(n, m)))
            for data, runs in groups.items()
        }
        unit = f" [{about['unit']}]" if about["unit"] else ""
        label = f"{about['label']}{unit} {ARROWS[about['better']]}"
        name = metric.removesuffix(f"_{protocol}")
        files |= _figure(name, panels, styles, "frames predicted", label)
    for kind, xlabel in (
        ("prefixes", "frames predicted and compared"),
        ("windows", "frames predicted before the 16 compared"),
    ):
        panels = {
            paper.label(data): _series(runs, lambda r, n, k=kind: _pairs(r.fvd_curve(n, k)))
            for data, runs in groups.items()
        }
        files |= _figure(f"fvd_{kind}", panels, styles, xlabel, f"FVD {ARROWS['lower']}")
    return files


def ranks(means: Mapping[str, Fraction]) -> dict[str, bytes]:
    """Draws mean ranks as bars from 1, the best possible one; the best model is on top.

    Returns:
      {name of a file: content}; nothing where there are no ranks.
    """
    if not means:
        return {}
    from matplotlib.figure import Figure

    order = sorted(means, key=means.get, reverse=True)
    # The colours of the curves: the paper's rows are gray beside runs, which have none of theirs.
    own = [name for name in means if not name.endswith(PAPER)] or list(means)
    styles = _styles(own, [])
    figure = Figure(figsize=(4.2, 0.7 + 0.32 * len(order)), dpi=150, layout="constrained")
    panel = figure.subplots()
    values = [float(means[name]) for name in order]
    colors = [styles[name]["color"] if name in own else _GRAYS[0][0] for name in order]
    bars = panel.barh(order, [value - 1 for value in values], left=1, color=colors, height=0.7)
    panel.bar_label(bars, [f"{value:.2f}" for value in values], padding=3)
    worst = max(2, len(order))
    panel.set_xlim(1, worst + 0.1 * (worst - 1))  # room for the number beside the longest bar
    panel.set_xticks(range(1, worst + 1, math.ceil(worst / 10)))
    panel.set_xlabel(f"mean rank {ARROWS['lower']}")
    panel.spines[["top", "right"]].set_visible(False)
    return _saved("ranks", figure)


def _shown_metrics(runs, protocol):
    """Returns {metric: what is known of it}, PSNR and SSIM of the protocol only."""
    protocols = {p for run in runs for p in run.results["protocols"]}
    others = {metric_name(m, p) for m in ("psnr", "ssim") for p in protocols - {protocol}}
    metrics = {}
    for run in runs:
        metrics |= {m: about for m, about in run.metrics.items() if m not in others}
    return metrics


def _styles(models, baselines):
    """Returns {name: how its curve is drawn}: colours for models, grays for baselines."""
    styles = {}
    for i, name in enumerate(models):
        style = visualize.CURVE_STYLES[i // len(_COLORS) % len(visualize.CURVE_STYLES)]
        styles[name] = {"color": _COLORS[i % len(_COLORS)], "linestyle": style, "linewidth": 1.6}
    for i, name in enumerate(dict.fromkeys(baselines)):
        color, style = _GRAYS[i % len(_GRAYS)]
        own = {"color": color, "linestyle": style, "linewidth": 1.2, "zorder": 1}
        styles.setdefault(name, own)
    return styles


def _series(runs, points_of):
    """Returns {name: (x, y)} of a data set's runs, and once of each baseline."""
    series = {run.label: points_of(run, run.model) for run in runs}
    for run in runs:
        for name in run.baselines:
            if not series.get(name):
                series[name] = points_of(run, name)
    return {name: points for name, points in series.items() if points}


def _steps(values: Sequence[float] | None):
    """The values that there are, by frame: the readout may read some frames only."""
    there = [(step, value) for step, value in enumerate(values or (), 1) if value is not None]
    return tuple(zip(*there, strict=True)) if there else None


def _pairs(pairs: Sequence[Sequence[float]] | None):
    return pairs and tuple(zip(*pairs, strict=True))


def _figure(name, panels, styles, xlabel, ylabel):
    """Draws {title: {name: (x, y)}}, panels without series left out."""
    panels = {title: series for title, series in panels.items() if series}
    if not panels:
        return {}
    # Imported here, because it takes longer than all else; without pyplot: no display, no state.
    from matplotlib.figure import Figure

    columns = min(len(panels), _PANELS_PER_ROW)
    rows = math.ceil(len(panels) / columns)
    width = max(5.2, 3.6 * columns)
    shown = {label for series in panels.values() for label in series}
    names = [name for name in styles if name in shown]
    longest = max(len(name) for name in names) + 6  # and the piece of line before it
    beside = max(1, min(len(names), int(width * _CHARACTERS_PER_INCH / longest)))
    height = 2.8 * rows + 0.22 * math.ceil(len(names) / beside)
    figure = Figure(figsize=(width, height), dpi=150, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    lines = {}
    for panel, (title, series) in zip(axes, panels.items(), strict=False):
        for label, (x, y) in series.items():
            marker = "o" if len(x) == 1 else None  # A line of one point is invisible.
            lines[label] = panel.plot(x, y, marker=marker, **styles[label])[0]
        panel.set_title(title)
        panel.set_xlabel(xlabel)
        panel.spines[["top", "right"]].set_visible(False)
        panel.margins(x=0.01)
    for panel in axes[::columns]:
        panel.set_ylabel(ylabel)
    for panel in axes[len(panels) :]:
        panel.set_visible(False)
    figure.legend(
        [lines[name] for name in names],
        names,
        loc="outside lower center",
        ncols=beside,
        frameon=False,
    )
    return _saved(name, figure)


def _saved(name, figure):
    from matplotlib import rc_context

    files = {}
    for kind in _FORMATS:
        buffer = io.BytesIO()
        # Fonts of type 42: journals refuse type 3. No date: the same figure is the same file.
        with rc_context({"pdf.fonttype": 42}):
            metadata = {"CreationDate": None} if kind == "pdf" else None
            figure.savefig(buffer, format=kind, metadata=metadata)
        files[f"{name}.{kind}"] = buffer.getvalue()
    return files
