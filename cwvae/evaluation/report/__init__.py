"""report.html: what an evaluation found, in one file that opens without a network.

Pictures are data: URIs and curves inline SVG; there is no script, and a content security policy
lets nothing be loaded. The layout is in `page.html` beside this file.
"""

import base64
import json
import pathlib
import string
from typing import TYPE_CHECKING

from cwvae import visualize
from cwvae.evaluation.report import charts, scores, text
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
) -> pathlib.Path:
    """Writes report.html.

    Args:
      folder: `eval` in a run's folder; the run's name heads the report.
      results: What metrics.json holds.
      samples: From `cwvae.evaluation.pictures.write_samples`.
      levels: From `cwvae.evaluation.pictures.write_levels`.
      segments: From `cwvae.evaluation.pictures.write_boundaries`.

    Returns:
      The file.
    """
    path = folder / "report.html"
    page = html(results, samples, levels, segments, run=folder.resolve().parent.name)
    files.write(path, page)
    return path


def html(
    results: dict,
    samples: "Samples | None" = None,
    levels: "Levels | None" = None,
    segments: "Segments | None" = None,
    run: str = "",
) -> str:
    """Returns the report as a page.

    Args:
      results: What metrics.json holds.
      samples: From `cwvae.evaluation.pictures.write_samples`.
      levels: From `cwvae.evaluation.pictures.write_levels`.
      segments: From `cwvae.evaluation.pictures.write_boundaries`.
      run: The run's name.
    """
    name = f"{results['model']} on {results['data']}"
    sections = [
        ("scores", "Scores", scores.section(results)),
        ("curves", "Curves", charts.section(results)),
        ("videos", "Videos", _videos(samples)),
        ("levels", "What each level holds", _levels(levels)),
        ("segments", "Where segments begin", _segments(segments)),
        ("kl", "KL and ELBO", _kl(results["elbo"])),
        ("definitions", "How it was measured", _definitions(results)),
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


def _videos(samples: "Samples | None") -> str:
    if samples is None:
        return ""
    frames = f"frames {samples.frames.start} to {samples.frames.stop - 1}"
    heads = ["truth", *(f"sample {i + 1}" for i in range(samples.count))]
    width = f"{97 / len(heads):.2f}%"
    clips = "".join(
        f'<figure class="clip"><figcaption>Clip {number} <span>{frames}</span></figcaption>'
        f'<div class="heads" aria-hidden="true">{"".join(f"<span>{h}</span>" for h in heads)}</div>'
        f'<div class="frame"><img src="{_uri(clip)}" alt="Clip {number}, {frames}, playing: the'
        f" truth and {samples.count} predictions of it side by side, and below each prediction its"
        f' absolute error."><span class="empty" style="width:{width}" aria-hidden="true">absolute'
        " error</span></div></figure>"
        for number, clip in enumerate(samples.clips, 1)
    )
    tracks = (
        f"\n<p>Below each cell its latest frames pass by, {_color('segment')} purple and"
        f" {_color('next-segment')} yellow by turns: a new colour is a new segment.</p>"
    )
    return (
        f"<p>{_key()} The bar below fills as the clip plays. Errors are black where the prediction"
        f' is right.</p>{tracks if samples.segments else ""}\n<div class="clips">{clips}</div>\n'
        "<h3>One clip to the last frame</h3>\n"
        + _strip(samples.strip, "Film strip of the first clip: the truth, and predictions of it.")
    )


def _levels(levels: "Levels | None") -> str:
    if levels is None:
        return ""
    rows = "".join(f"<li>{text.escape(row)}</li>" for row in levels.rows)
    return (
        "<p>Below the truth and a prediction of it, one level in turn is left to its prior while"
        " the others see the context (Figure 7 of the paper). What still follows the truth is held"
        " by the levels that see; what differs from it, and from sample to sample, is held by the"
        " level that does not.</p>\n"
        + _strip(levels.strip, "Film strip: truth, prediction, and each level left to its prior.")
        + f'\n<figure class="clip rows"><ol aria-hidden="true">{rows}</ol>'
        f'<img src="{_uri(levels.video)}" alt="The same clip playing. Rows: '
        f'{text.escape("; ".join(levels.rows))}."></figure>'
    )


def _segments(segments: "Segments | None") -> str:
    if segments is None:
        return ""
    frames = f"frames {segments.frames.start} to {segments.frames.stop - 1}"
    return (
        f"<p>The first clip, {frames}: the truth above a prediction of it. A purple corner"
        f" {_color('segment')} marks a frame that begins a segment: in the truth, and in the"
        " context, where the posterior says so, which sees the frames; in what is predicted, where"
        " the prior does.</p>\n"
        + _strip(segments.strip, f"Film strip of {frames}: truth and prediction, segments marked.")
    )


def _strip(png: bytes, alt: str) -> str:
    return f'<div class="strip"><img src="{_uri(png)}" alt="{alt}"></div>'


def _key() -> str:
    return (
        f"{_color('context')} Framed in blue: context, which the model sees."
        f" {_color('prediction')} In orange: what it predicts without seeing any more."
    )


def _color(name: str) -> str:
    return f'<span class="key" style="background:var(--{name})"></span>'


def _uri(data: bytes) -> str:
    kind = "png" if data.startswith(b"\x89PNG") else "avif"
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def _kl(elbo: dict) -> str:
    steps, sums, frames = elbo["kl_per_step"], elbo["kl_sum"], elbo["frames"]
    rows = "".join(
        f'<tr><th scope="row">{text.escape(name)}</th>'
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
        "<p>KL(posterior, prior) in nats, the mean over clips: what latents take from the frames"
        " (Table 2 of the paper; level0 is the fastest).</p>\n"
        f'<div class="scroll"><table>{table}</table></div>\n'
        f"<p>ELBO: {text.significant(bound)} nats over {frames} frames, with"
        f" -ln p(x | s) = {text.significant(nll)} nats per frame.</p>"
    )


def _definitions(results: dict) -> str:
    terms = {about["label"]: about["protocol"] for about in results["metrics"].values()}
    fvd = results["fvd"]
    if fvd:
        terms["FVD"] = f"{fvd['protocol']}. I3D module: {fvd['module']}"
    items = "".join(f"<dt>{text.escape(k)}</dt><dd>{text.escape(v)}</dd>" for k, v in terms.items())
    return f'<dl class="terms">{items}</dl>'


def _configuration(results: dict) -> str:
    tables = "".join(
        f"<table><caption>{text.escape(section)}</caption><tbody>{_settings(values)}</tbody></table>"
        for section, values in results["settings"].items()
    )
    return f'<details><summary>All settings</summary><div class="settings">{tables}</div></details>'


def _settings(values: dict) -> str:
    return "".join(
        f'<tr><th scope="row">{text.escape(key)}</th>'
        f"<td>{text.escape(json.dumps(value, ensure_ascii=False))}</td></tr>"
        for key, value in values.items()
    )
