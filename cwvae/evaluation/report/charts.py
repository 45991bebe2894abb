"""The report's curves, as inline SVG with the page's colours and font."""

import re
from collections.abc import Mapping, Sequence

from cwvae import visualize
from cwvae.evaluation.report import text

# Line styles in the legend, as SVG writes them.
_DASHES = {"-": "none", "--": "7 3", ":": "2 3", "-.": "8 3 2 3"}


def section(results: dict) -> str:
    """Returns the section's markup for the content of metrics.json."""
    scores, fvd = results["scores"], results["fvd"]
    names = list(dict.fromkeys([*scores, *(fvd["scores"] if fvd else ())]))
    styles = {name: visualize.curve_style(i) for i, name in enumerate(names)}
    panels = []
    for metric, about in results["metrics"].items():
        curves = of_metric(results, metric)
        panels.append(visualize.Panel(curves, "frames predicted", title=text.label(about)))
    for kind, what, axis in (
        ("prefixes", "of growing prefixes", "frames predicted"),
        ("windows", "of fixed windows", "first predicted frame of the window"),
    ):
        pairs = {name: score[kind] for name, score in (fvd["scores"] if fvd else {}).items()}
        curves = {
            name: tuple(zip(*points, strict=True)) for name, points in pairs.items() if points
        }
        panels.append(
            visualize.Panel(curves, axis, title=f'FVD <span class="together">{what} ↓</span>')
        )
    return figures(panels, styles, "c")


def figures(panels: Sequence[visualize.Panel], styles: Mapping[str, Mapping], prefix: str) -> str:
    """Returns a legend of {name: style}, and a figure for each panel whose curves have points.

    Titles of panels are markup. `prefix` keeps the ids of sections apart.
    """
    legend = "".join(
        f'<li><svg class="swatch" viewBox="0 0 36 12" aria-hidden="true"><path d="M0 6H36"'
        f' style="stroke:{_variable(style["color"])};stroke-dasharray:{_DASHES[style["linestyle"]]}'
        f'"/></svg>{text.escape(name)}</li>'
        for name, style in styles.items()
    )
    charts = "".join(_chart(panel, styles, f"{prefix}{i}") for i, panel in enumerate(panels))
    return f'<ul class="legend">{legend}</ul>\n<div class="charts">{charts}</div>'


def of_metric(results: dict, metric: str) -> dict[str, tuple]:
    """Returns {predictor: (frames predicted, values)} of a metric, without missing values."""
    return {
        name: visualize.by_frame(row[metric]["per_frame"])
        for name, row in results["scores"].items()
        if metric in row
    }


def colors(darkness: str) -> dict[str, str]:
    """Returns the curves' colours by CSS variable, for a "light" or "dark" page.

    They are those of `visualize`, darker or lighter, because lines need a contrast of 3.
    """
    share, other = {"light": (0.7, 0), "dark": (0.62, 255)}[darkness]
    found = {}
    for i, color in enumerate(visualize.CURVE_COLORS):
        channels = (int(color[place : place + 2], 16) for place in (1, 3, 5))
        mixed = (round(share * channel + (1 - share) * other) for channel in channels)
        found[f"--curve{i}"] = "#{:02x}{:02x}{:02x}".format(*mixed)
    return found


def _variable(color: str) -> str:
    return f"var(--curve{visualize.CURVE_COLORS.index(color)})"


def _chart(panel: visualize.Panel, styles: Mapping[str, Mapping], prefix: str) -> str:
    """Returns a panel as a figure, or nothing if its curves have no points."""
    curves = {name: points for name, points in panel.curves.items() if len(points[0])}
    if not curves:
        return ""
    drawn = visualize.draw_curves([panel._replace(curves=curves, title="")], styles, legend=False)
    svg = visualize.figure_bytes(drawn, "svg").decode()
    box = re.search(r'viewBox="[^"]*"', svg)[0]
    names = text.escape("; ".join(curves))
    return (
        f'<figure class="chart"><figcaption>{panel.title}</figcaption>'
        f'<svg {box} role="img" aria-label="A line for each of: {names}. Horizontal axis: '
        f'{panel.xlabel}.">{_inline(svg, prefix)}</figure>'
    )


def _inline(svg: str, prefix: str) -> str:
    """Returns the content of an SVG file, up to and including its end tag, for use in the page."""
    svg = re.sub(r"(?s)^.*?</metadata>|<defs>\s*<style.*?</defs>", "", svg)
    svg = re.sub(r'<g id="curve ([^"]*)">', r"<g><title>\1</title>", svg)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    # All charts are in one page, where the ids of their markers must differ.
    svg = re.sub(r'( id="|href="#)', rf"\g<1>{prefix}", svg)
    svg = re.sub(rf"font-family: [^;\"]*;? ?|fill: {visualize.AXIS_COLOR};? ?", "", svg)
    svg = re.sub(r' transform="rotate\(-0[^"]*"', "", svg)
    svg = svg.replace(visualize.GRID_COLOR, "var(--line)")
    for color in visualize.CURVE_COLORS:
        svg = svg.replace(color.lower(), _variable(color))
    return svg
