"""report.html: the results of an evaluation in one file that opens without a network.

Pictures and videos are data: URIs and curves inline SVG. A content security policy blocks all
loading, and every script but the page's own. The layout is in `page.html`, the videos' controls in
`player.js`.
"""

import base64
import datetime
import hashlib
import json
import pathlib
import string
from collections.abc import Sequence
from typing import TYPE_CHECKING

from cwvae import visualize
from cwvae.evaluation.report import charts, scores, text, training, videos
from cwvae.levels import label
from cwvae.run import files

if TYPE_CHECKING:
    from cwvae.evaluation.pictures import Levels, Samples, Segments

_FOLDER = pathlib.Path(__file__).parent


def write(
    folder: pathlib.Path,
    results: dict,
    samples: "Samples | None" = None,
    levels: "Levels | None" = None,
    segments: "Segments | None" = None,
    logdir: str | pathlib.Path | None = None,
) -> pathlib.Path:
    """Writes the page `html` into a folder and returns the path.

    The run's name and its training curves come from `logdir`, the run's folder.
    """
    path, run, curves = folder / "report.html", "", ()
    if logdir is not None:
        logdir = pathlib.Path(logdir).resolve()
        run, curves = logdir.name, training.panels(logdir, results["step"])
    now = datetime.datetime.now().astimezone()
    files.write(path, html(results, samples, levels, segments, run, curves, now))
    return path


def html(
    results: dict,
    samples: "Samples | None" = None,
    levels: "Levels | None" = None,
    segments: "Segments | None" = None,
    run: str = "",
    curves: Sequence[visualize.Panel] = (),
    date: datetime.datetime | None = None,
) -> str:
    """Returns the report of a run as a page.

    It shows the content of metrics.json, the pictures that `cwvae.evaluation.pictures` returned,
    the training curves that `training.panels` returned, and the date of the evaluation. Results
    without a model of this project have neither step nor ELBO, which are None.
    """
    name = f"{results['model']} on {results['data']}"
    terms = {about["label"]: about["protocol"] for about in results["metrics"].values()}
    fvd = results["fvd"]
    if fvd:
        terms["FVD"] = f"{fvd['protocol']}. I3D module: {fvd['module']}"
    context = results["context"]
    sections = [
        ("scores", "Scores", scores.section(results)),
        ("curves", "Curves", charts.section(results)),
        ("videos", "Videos", samples and videos.of_samples(samples, context)),
        ("levels", "Content of each level", levels and videos.of_levels(levels, context)),
        ("segments", "Segment boundaries", segments and videos.of_segments(segments)),
        ("training", "Training", training.section(curves)),
        ("kl", "KL and ELBO", results["elbo"] and _kl(results["elbo"])),
        ("definitions", "How scores are measured", text.terms(terms, ' class="terms"')),
        ("configuration", "Configuration", _configuration(results)),
    ]
    sections = [section for section in sections if section[2]]
    trained = results["step"]
    step = "predictions from a file" if trained is None else f"step {trained:,}"
    subtitle = [text.escape(part) for part in (run and f"run {run}", step) if part]
    if date:
        stamp = date.isoformat(timespec="seconds")
        subtitle.append(f'evaluated <time datetime="{stamp}">{date:%Y-%m-%d %H:%M %Z}</time>')
    script = (_FOLDER / "player.js").read_text(encoding="utf-8")
    versions = (f"{name} {version}" for name, version in results["versions"].items())
    page = string.Template((_FOLDER / "page.html").read_text(encoding="utf-8"))
    return page.substitute(
        title=text.escape(", ".join(part for part in (name, run or step) if part)),
        heading=text.escape(name),
        subtitle=" · ".join(subtitle),
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
        curve_colors=_style(charts.colors("light")),
        dark_curve_colors=_style(charts.colors("dark")),
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


def _style(values: dict[str, str]) -> str:
    return " ".join(f"{name}: {value};" for name, value in values.items())


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
        "<caption>KL terms [nats]</caption><thead><tr>"
        '<th scope="col" class="corner">Term</th><th scope="col">per step</th>'
        f'<th scope="col">sum over {frames} frames</th></tr></thead><tbody>{rows}</tbody>'
    )
    return (
        "<p>KL(posterior, prior) in nats, averaged over clips: how much information the latents"
        " take from the frames (Table 2 of the paper).</p>\n"
        + text.scrollable(f"<table>{table}</table>", "KL terms")
        + "\n"
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
