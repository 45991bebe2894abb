"""The report's section of scores: protocol, table, and notes on it."""

from cwvae.evaluation.report import text
from cwvae.evaluation.results import TRUTH, is_best_of


def section(results: dict) -> str:
    """Returns the section's markup for the content of metrics.json."""
    levels = results.get("observe_levels")
    facts = {
        "Held-out clips": f"{results['num_videos']:,}",
        "Context frames": f"{results['context']:,}",
        "Predicted frames": f"{results['horizon']:,}",
        "Samples per clip": f"{results['num_samples']:,}",
        "Frames": results["frames"],
        "Protocols": ", ".join(results["protocols"]),
    }
    if levels:
        facts["Levels that see the context"] = f"{levels} (fastest first)"
    facts = "".join(f"<div><dt>{k}</dt><dd>{text.escape(v)}</dd></div>" for k, v in facts.items())
    warnings = "".join(
        f'<p class="callout"><b>FVD:</b> {text.escape(warning)}</p>'
        for warning in (results["fvd"] or {}).get("warnings", ())
    )
    facts = f'<dl class="facts">{facts}</dl>'
    return "\n".join([facts, _table(results), _notes(results), warnings])


def _table(results: dict) -> str:
    """Returns a table with a row per predictor. Each metric has the first frames, then all."""
    scores, metrics, fvd = results["scores"], results["metrics"], results["fvd"]
    soon = next(summary["soon"] for row in scores.values() for summary in row.values())
    head = "".join(
        f'<th colspan="2" scope="colgroup" class="first">{text.label(metric)}</th>'
        for metric in metrics.values()
    )
    columns = f'<th scope="col" class="first">first {soon}</th>'
    columns += f'<th scope="col">all {results["horizon"]}</th>'
    columns *= len(metrics)
    names = list(scores)
    if fvd:
        head += '<th scope="colgroup" class="first">FVD ↓</th>'
        columns += f'<th scope="col" class="first">{fvd["frames"]} frames</th>'
        names += [name for name in fvd["scores"] if name not in scores]
    cells = [_metric_cells(results, metric, names) for metric in metrics]
    cells += [_fvd_cells(results, names)] if fvd else []
    rows = "".join(
        f'<tr class="{"own" if name == results["model"] else "other"}">'
        f'<th scope="row">{text.escape(name)}</th>{"".join(of_row)}</tr>'
        for name, *of_row in zip(names, *cells, strict=True)
    )
    table = (
        '<table class="scores"><caption>Scores of predicted frames, with 95% intervals</caption>'
        f'<thead><tr><th scope="col" class="corner" rowspan="2">Predictor</th>{head}</tr>'
        f"<tr>{columns}</tr></thead><tbody>{rows}</tbody></table>"
    )
    return text.scrollable(table, "Scores of predicted frames")


def _metric_cells(results: dict, metric: str, names: list[str]) -> list[str]:
    """Returns the two cells of a metric for each predictor."""
    about = results["metrics"][metric]
    summaries = [results["scores"].get(name, {}).get(metric, {}) for name in names]

    def printed(key):
        return [text.decimal(summary.get(key), about.get("unit")) for summary in summaries]

    columns = []
    for mean, interval in (("mean_soon", "interval_soon"), ("mean", "interval")):
        values = _best_in_bold(results, names, printed(mean), about["better"])
        halves = [_half(summary.get(interval), about.get("unit")) for summary in summaries]
        columns.append([value + half for value, half in zip(values, halves, strict=True)])
    return [
        f'<td class="first">{soon}</td><td>{every}</td>'
        for soon, every in zip(*columns, strict=True)
    ]


def _half(interval: list[float] | None, unit: str | None) -> str:
    """Returns half the width of an interval, as markup; nothing without one."""
    if interval is None:
        return ""
    half = text.decimal((interval[1] - interval[0]) / 2, unit)
    return f'<span class="error">± {half}</span>'


def _fvd_cells(results: dict, names: list[str]) -> list[str]:
    """Returns the FVD cell of each predictor."""
    scores = [results["fvd"]["scores"].get(name, {}) for name in names]
    printed = [text.decimal(score.get("value"), "FVD") for score in scores]
    cells = []
    for score, value in zip(scores, _best_in_bold(results, names, printed, "lower"), strict=True):
        interval = ""
        if score.get("interval"):
            low, high = (text.decimal(end, "FVD") for end in score["interval"])
            interval = f'<span class="error">[{low}, {high}]</span>'
        cells.append(f'<td class="first">{value}{interval}</td>')
    return cells


def _best_in_bold(results: dict, names: list[str], printed: list[str], better: str) -> list[str]:
    """Marks the best printed number of the predictors that do not use the truth."""
    values = [
        None
        if number == text.DASH or name == TRUTH or is_best_of(name, results["model"])
        else float(number.replace(",", ""))
        for name, number in zip(names, printed, strict=True)
    ]
    known = [value for value in values if value is not None]
    if len(known) < 2:
        return printed
    best = max(known) if better == "higher" else min(known)
    return [
        f"<b>{number}</b>" if value == best else number
        for number, value in zip(printed, values, strict=True)
    ]


def _notes(results: dict) -> str:
    """Returns notes that explain the table."""
    names, fvd = results["scores"], results["fvd"]
    notes = [
        "Each score is a mean over the first predicted frames, then over all of them.",
        "↑ higher is better, ↓ lower is better; bold: the best predictor that does not use the"
        " truth.",
    ]
    if any(score.get("interval") for row in names.values() for score in row.values()):
        notes.append(
            "±: half the 95% interval of the mean over clips (standard error times Student's t)."
            " It tells how the choice of clips changes the mean, not how another training does."
        )
    if any(is_best_of(name, results["model"]) for name in names):
        notes.append(
            "Best of several: for each clip and metric, the sample with the best mean over its"
            " frames. The choice uses the truth, so compare these scores only with each other."
        )
    if TRUTH in names:
        notes.append(
            "True frames: the scores of a readout on the truth, an upper limit for predictions."
        )
    if fvd:
        notes.append(f"FVD: {fvd['num_videos']:,} videos, with its 95% bootstrap interval.")
        floor = fvd["floor"]
        value = text.decimal(floor["value"], "FVD")
        notes.append(f"Floor of FVD, between true videos: {value} ({floor['source']}).")
    labels = {"lpips": "LPIPS", "fvd": "FVD"}
    for measure, why in results["not_computed"].items():
        notes.append(f"Not computed: {labels.get(measure, measure)}. {why}")
    return f'<ul class="notes">{"".join(f"<li>{text.escape(note)}</li>" for note in notes)}</ul>'
