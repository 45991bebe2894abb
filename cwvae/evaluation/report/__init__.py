"""report.html: the results of an evaluation in one file that opens without a network.

Pictures are data: URIs and curves inline SVG. There is no script, and a content security policy
blocks all loading. The layout is in `page.html`.
"""

import base64
import json
import pathlib
import string
from typing import TYPE_CHECKING

from cwvae import visualize
from cwvae.evaluation.report import charts, scores, text
from cwvae.levels import label
from cwvae.run import files

if TYPE_CHECKING:
    from cwvae.evaluation.pictures import Levels, Samples, Segments

_TEMPLATE = pathlib.Path(__file__).with_name("page.html")


def write(
    folder: pathlib.Path,
    results: dict,
    samples: "Samples | None" = None,
    levels: "Levels | None" = None,
    segments: "Segments | None" = None,
    run: str = "",
) -> pathlib.Path:
    """Writes the page `html` into a folder and returns the path."""
    path = folder / "report.html"
    files.write(path, html(results, samples, levels, segments, run))
    return path


def html(
    results: dict,
    samples: "Samples | None" = None,
    levels: "Levels | None" = None,
    segments: "Segments | None" = None,
    run: str = "",
) -> str:
    """Returns the report of a run as a page.

    It shows the content of metrics.json and the pictures that `cwvae.evaluation.pictures` returned.
    """
    name = f"{results['model']} on {results['data']}"
    terms = {about["label"]: about["protocol"] for about in results["metrics"].values()}
    fvd = results["fvd"]
    if fvd:
        terms["FVD"] = f"{fvd['protocol']}. I3D module: {fvd['module']}"
    sections = [
        ("scores", "Scores", scores.section(results)),
        ("curves", "Curves", charts.section(results)),
        ("videos", "Videos", samples and _videos(samples)),
        ("levels", "Content of each level", levels and _levels(levels)),
        ("segments", "Segment boundaries", segments and _segments(segments)),
        ("kl", "KL and ELBO", _kl(results["elbo"])),
        ("definitions", "How scores are measured", text.terms(terms, ' class="terms"')),
        ("configuration", "Configuration", _configuration(results)),
    ]
    sections = [section for section in sections if section[2]]
    step = f"step {results['step']:,}"
    versions = (f"{name} {version}" for name, version in results["versions"].items())
    page = string.Template(_TEMPLATE.read_text(encoding="utf-8"))
    return page.substitute(
        title=text.escape(f"{name}, {run or step}"),
        heading=text.escape(name),
        subtitle=" · ".join(text.escape(part) for part in (run and f"run {run}", step) if part),
        navigation=" ".join(f'<a href="#{key}">{title}</a>' for key, title, _ in sections),
        sections="\n".join(
            f'<section id="{key}">\n<h2>{title}</h2>\n{body}\n</section>'
            for key, title, body in sections
        ),
        footer=text.escape(", ".join(versions)),
        context_color=f"rgb{visualize.CONTEXT_COLOR}",
        prediction_color=f"rgb{visualize.PREDICTION_COLOR}",
        segment_color=f"rgb{visualize.SEGMENT_COLORS[0]}",
        next_segment_color=f"rgb{visualize.SEGMENT_COLORS[1]}",
        curve_colors=charts.colors("light"),
        dark_curve_colors=charts.colors("dark"),
    )


def _videos(samples: "Samples") -> str:
    frames = _span(samples.frames)
    heads = ["truth", *(f"sample {i + 1}" for i in range(samples.count))]
    width = f"{97 / len(heads):.2f}%"
    clips = "".join(
        f'<figure class="clip"><figcaption>Clip {number} <span>{frames}</span></figcaption>'
        f'<div class="heads" aria-hidden="true">{"".join(f"<span>{h}</span>" for h in heads)}</div>'
        f'<div class="frame"><img src="{_uri(clip)}" alt="Clip {number}, {frames}, playing: the'
        f" truth and {samples.count} predictions side by side, with the absolute error below each"
        f' prediction."><span class="empty" style="width:{width}" aria-hidden="true">absolute'
        " error</span></div></figure>"
        for number, clip in enumerate(samples.clips, 1)
    )
    tracks = (
        "\n<p>The track below each cell shows its latest frames. Its colour alternates between"
        f" {_color('segment')} purple and {_color('next-segment')} yellow: a new colour is a new"
        " segment.</p>"
    )
    return (
        f"<p>{_color('context')} Blue border: context, which the model sees."
        f" {_color('prediction')} Orange border: predictions, for which it sees no more frames. The"
        " bar at the bottom fills as the clip plays. Errors are black where the prediction is"
        f' right.</p>{tracks if samples.segments else ""}\n<div class="clips">{clips}</div>\n'
        "<h3>One clip to the last frame</h3>\n"
        + _strip(samples.strip, "Film strip of the first clip: the truth and its predictions.")
    )


def _levels(levels: "Levels") -> str:
    rows = "".join(f"<li>{text.escape(row)}</li>" for row in levels.rows)
    return (
        "<p>Below the truth and a prediction, each level in turn samples from its prior, while the"
        " other levels see the context (Figure 7 of the paper). What still matches the truth is"
        " stored in the levels that see the context. What differs from the truth, and between"
        " samples, is stored in the level that does not.</p>\n"
        + _strip(levels.strip, "Film strip: truth, prediction, and each level from its prior.")
        + f'\n<figure class="clip rows"><ol aria-hidden="true">{rows}</ol>'
        f'<img src="{_uri(levels.video)}" alt="The same clip playing. Rows: '
        f'{text.escape("; ".join(levels.rows))}."></figure>'
    )


def _segments(segments: "Segments") -> str:
    frames = _span(segments.frames)
    return (
        f"<p>The first clip, {frames}: the truth above a prediction. A purple corner"
        f" {_color('segment')} marks a frame that begins a segment. In the truth and in the context"
        " the posterior decides, which sees the frames; in predictions the prior does.</p>\n"
        + _strip(segments.strip, f"Film strip of {frames}: truth and prediction, segments marked.")
    )


def _span(frames: range) -> str:
    return f"frames {frames.start} to {frames.stop - 1}"


def _strip(png: bytes, alt: str) -> str:
    return f'<div class="strip"><img src="{_uri(png)}" alt="{alt}"></div>'


def _color(name: str) -> str:
    return f'<span class="key" style="background:var(--{name})"></span>'


def _uri(data: bytes) -> str:
    kind = "png" if data.startswith(b"\x89PNG") else "avif"
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def _kl(elbo: dict) -> str:
    steps, sums, frames = elbo["kl_per_step"], elbo["kl_sum"], elbo["frames"]
    rows = "".join(
        f'<tr><th scope="row">{text.escape(label(name, len(sums)))}</th>'
        f"<td>{text.significant(step)}</td><td>{text.significant(total)}</td></tr>"
        for name, step, total in zip(elbo["kl_names"], steps, sums, strict=True)
    )
    nll = elbo["nll_per_frame"]
    bound = -(nll * frames + sum(sums))
    table = (
        f'<thead><tr><th class="corner">Term</th><th>per step</th><th>sum over {frames}'
        f" frames</th></tr></thead><tbody>{rows}</tbody>"
    )
    return (
        "<p>KL(posterior, prior) in nats, averaged over clips: how much information the latents"
        " take from the frames (Table 2 of the paper).</p>\n"
        f'<div class="scroll"><table>{table}</table></div>\n'
        f"<p>ELBO: {text.significant(bound)} nats over {frames} frames, with"
        f" -ln p(x | s) = {text.significant(nll)} nats per frame.</p>"
    )


def _configuration(results: dict) -> str:
    tables = ""
    for section, values in results["settings"].items():
        rows = "".join(
            f'<tr><th scope="row">{text.escape(key)}</th>'
            f"<td>{text.escape(json.dumps(value, ensure_ascii=False))}</td></tr>"
            for key, value in values.items()
        )
        tables += f"<table><caption>{text.escape(section)}</caption><tbody>{rows}</tbody></table>"
    return f'<details><summary>All settings</summary><div class="settings">{tables}</div></details>'
