"""The report's curves, as inline SVG. Their colours and sizes of text are in `page.html`."""

import math
from collections.abc import Iterable

from cwvae import visualize
from cwvae.evaluation.report import text

# A chart's size and the place for its numbers, in units of its view box.
_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _EDGE = 400, 250, 48, 46, 16
_MARKED = 40  # so few points are marked, each


def section(results: dict) -> str:
    """Returns the section's markup for what metrics.json holds."""
    scores, fvd = results["scores"], results["fvd"]
    names = list(dict.fromkeys([*scores, *(fvd["scores"] if fvd else ())]))
    charts = []
    for metric, about in results["metrics"].items():
        lines = {
            name: list(enumerate(row[metric]["per_frame"], 1))
            for name, row in scores.items()
            if metric in row
        }
        charts.append(_chart(text.label(about), "frames predicted", lines, names))
    if fvd:
        kinds = {
            "prefixes": ("of growing prefixes", "frames predicted"),
            "windows": ("of fixed windows", "predicted frame that the window begins at"),
        }
        for kind, (what, axis) in kinds.items():
            lines = {name: score[kind] for name, score in fvd["scores"].items()}
            title = f'FVD <span class="together">{what} ↓</span>'
            charts.append(_chart(title, axis, lines, names))
    legend = "".join(
        f'<li><svg class="swatch" {_style(i)} viewBox="0 0 36 12" aria-hidden="true">'
        f'<line x1="0" y1="6" x2="36" y2="6" class="dash{i % 4}"/></svg>{text.escape(name)}</li>'
        for i, name in enumerate(names)
    )
    return f'<ul class="legend">{legend}</ul>\n<div class="charts">{"".join(charts)}</div>'


def _chart(title: str, axis: str, lines: dict[str, Iterable], names: list[str]) -> str:
    """Returns lines of points (x, y) as a figure, or nothing where there are none.

    Args:
      title: Markup.
      axis: What x is.
      lines: Points by name; those that are None or not finite are left out.
      names: Whose order gives the lines' colours.
    """
    parts = {
        name: [(x, y) for x, y in points if y is not None and math.isfinite(y)]
        for name, points in lines.items()
    }
    points = [point for part in parts.values() for point in part]
    if not points:
        return ""
    x_of, x_ticks = _axis([x for x, _ in points], _LEFT, _WIDTH - _EDGE, whole=True)
    y_of, y_ticks = _axis([y for _, y in points], _HEIGHT - _BOTTOM, _EDGE, whole=False)
    right, bottom = _WIDTH - _EDGE, _HEIGHT - _BOTTOM
    drawn = [
        f'<line class="grid" x1="{_LEFT}" x2="{right}" y1="{y_of(y):.1f}" y2="{y_of(y):.1f}"/>'
        f'<text x="{_LEFT - 6}" y="{y_of(y) + 4:.1f}" text-anchor="end">{y:g}</text>'
        for y in y_ticks
    ]
    drawn += [
        f'<text x="{x_of(x):.1f}" y="{bottom + 17}" text-anchor="middle">{x:g}</text>'
        for x in x_ticks
    ]
    middle = (_LEFT + right) / 2
    drawn.append(f'<text x="{middle}" y="{_HEIGHT - 6}" text-anchor="middle">{axis}</text>')
    drawn += [
        _line(part, x_of, y_of, name, names.index(name)) for name, part in parts.items() if part
    ]
    return (
        f'<figure class="chart"><figcaption>{title}</figcaption>'
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="A line for each of: '
        f'{text.escape("; ".join(parts))}. Across: {axis}.">{"".join(drawn)}</svg></figure>'
    )


def _line(points, x_of, y_of, name: str, index: int) -> str:
    places = [(x_of(x), y_of(y)) for x, y in points]
    title = f"<title>{text.escape(name)}</title>"
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    line = f'<polyline class="series dash{index % 4}" {_style(index)} points="{path}">'
    line += f"{title}</polyline>"
    if len(places) <= _MARKED:
        line += "".join(
            f'<circle class="series" {_style(index)} cx="{x:.1f}" cy="{y:.1f}" r="2.5"/>'
            for x, y in places
        )
    return line


def _axis(values: list[float], start: float, stop: float, whole: bool):
    """Returns where a value is drawn, a function, and the round numbers to write at an axis.

    Args:
      values: All that are drawn.
      start: Place of the axis' lower end.
      stop: And of its upper end.
      whole: For whole numbers, which reach from end to end; others keep a distance.
    """
    low, high = min(values), max(values)
    pad = 0 if whole else (high - low) / 25
    if low == high:
        pad = abs(low) / 10 or 1
    low, high = low - pad, high + pad
    size = 10 ** math.floor(math.log10((high - low) / 5))
    step = next(size * m for m in (1, 2, 5, 10) if (high - low) / (size * m) <= 6)
    step = max(step, 1) if whole else step
    first, last = math.ceil(low / step), math.floor(high / step)
    ticks = [round(n * step, 12) for n in range(first, last + 1)]
    return lambda value: start + (stop - start) * (value - low) / (high - low), ticks


def _style(index: int) -> str:
    colors = visualize.CURVE_COLORS
    return f'style="--color:{colors[index % len(colors)]}"'
