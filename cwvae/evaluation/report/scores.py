"""The report's section of scores: protocol, table, notes on the table, and missing measures."""

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
        text.callout(f"<p><b>FVD:</b> {text.escape(warning)}</p>")
        for warning in (results["fvd"] or {}).get("warnings", ())
    )
    facts = f'<dl class="facts">{facts}</dl>'
    return "\n".join([facts, _table(results), _notes(results), warnings, _not_computed(results)])


def _table(results: dict) -> str:
    """Returns a table with a row per predictor. Each metric has the first frames, then all."""
    scores, metrics, fvd = results["scores"], results["metrics"], results["fvd"]
    soon = next(summary["soon"] for row in scores.values() for summary in row.values())
    head = "".join(
        f'<th colspan="2" scope="colgroup" class="first">{text.label(metric)}</th>'
        for metric in metrics.values()
    )
    columns = f'<th class="first">first {soon}</th><th>all {results["horizon"]}</th>'
    columns *= len(metrics)
    names = list(scores)
    if fvd:
        head += '<th class="first">FVD ↓</th>'
        columns += f'<th class="first">{fvd["frames"]} frames</th>'
        names += [name for name in fvd["scores"] if name not in scores]
    cells = [_metric_cells(results, metric, names) for metric in metrics]
    cells += [_fvd_cells(results, names)] if fvd else []
    rows = "".join(
        f'<tr class="{"own" if name == results["model"] else "other"}">'
        f'<th scope="row">{text.escape(name)}</th>{"".join(of_row)}</tr>'
        for name, *of_row in zip(names, *cells, strict=True)
    )
    return (
        '<div class="scroll"><table class="scores"><thead>'
        f'<tr><th class="corner" rowspan="2">Predictor</th>{head}</tr><tr>{columns}</tr>'
        f"</thead><tbody>{rows}</tbody></table></div>"
    )


def _metric_cells(results: dict, metric: str, names: list[str]) -> list[str]:
    """Returns the two cells of a metric for each predictor."""
    about = results["metrics"][metric]
    summaries = [results["scores"].get(name, {}).get(metric, {}) for name in names]

    def printed(key):
        return [text.decimal(summary.get(key), about.get("unit")) for summary in summaries]

    soon = _best_in_bold(results, names, printed("mean_soon"), about["better"])
    mean = _best_in_bold(results, names, printed("mean"), about["better"])
    return [
        f'<td class="first">{first}</td><td>{every}'
        + ("" if error == text.DASH else f'<span class="error">± {error}</span>')
        + "</td>"
        for first, every, error in zip(soon, mean, printed("standard_error"), strict=True)
    ]


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
    if any(s.get("standard_error") is not None for row in names.values() for s in row.values()):
        notes.append("±: standard error of the mean over clips.")
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
    return f'<ul class="notes">{"".join(f"<li>{text.escape(note)}</li>" for note in notes)}</ul>'


def _not_computed(results: dict) -> str:
    labels = {"lpips": "LPIPS", "fvd": "FVD"}
    reasons = {labels.get(key, key): why for key, why in results["not_computed"].items()}
    return text.callout(f"<h3>Not computed</h3>{text.terms(reasons)}") if reasons else ""
