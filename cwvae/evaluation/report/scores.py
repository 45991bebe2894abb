"""The report's scores: facts of the protocol, the table, what its marks mean, what is missing."""

from collections.abc import Callable

from cwvae.evaluation.report import text
from cwvae.evaluation.results import TRUTH


def section(results: dict) -> str:
    """Returns the section's markup for what metrics.json holds."""
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
    """The scores: a row per predictor, and per metric a column for the first frames and for all."""
    scores, metrics, fvd = results["scores"], results["metrics"], results["fvd"]
    soon = next(summary["soon"] for row in scores.values() for summary in row.values())
    head = "".join(
        f'<th colspan="2" scope="colgroup" class="first">{text.label(metric)}</th>'
        for metric in metrics.values()
    )
    columns = f'<th class="first">first {soon}</th><th>all {results["horizon"]}</th>'
    columns *= len(metrics)
    cells = [_metric_cells(results, metric) for metric in metrics]
    names = list(scores)
    if fvd:
        head += '<th class="first">FVD ↓</th>'
        columns += f'<th class="first">{fvd["frames"]} frames</th>'
        cells.append(_fvd_cells(results))
        names += [name for name in fvd["scores"] if name not in scores]
    rows = "".join(
        f'<tr class="{"own" if name == results["model"] else "other"}">'
        f'<th scope="row">{text.escape(name)}</th>'
        + "".join(cell(name) for cell in cells)
        + "</tr>"
        for name in names
    )
    return (
        '<div class="scroll"><table class="scores"><thead>'
        f'<tr><th class="corner" rowspan="2">Predictor</th>{head}</tr><tr>{columns}</tr>'
        f"</thead><tbody>{rows}</tbody></table></div>"
    )


def _metric_cells(results: dict, metric: str) -> Callable[[str], str]:
    """Returns a function from a predictor's name to its two cells of a metric."""
    about = results["metrics"][metric]
    summaries = {name: row[metric] for name, row in results["scores"].items() if metric in row}

    def printed(key):
        return {name: text.decimal(s.get(key), about.get("unit")) for name, s in summaries.items()}

    soon, mean, error = printed("mean_soon"), printed("mean"), printed("standard_error")
    best_soon = _best(results, soon, about["better"])
    best_mean = _best(results, mean, about["better"])

    def cells(name):
        spread = error.get(name, text.DASH)
        spread = "" if spread == text.DASH else f'<span class="error">± {spread}</span>'
        return (
            f'<td class="first">{text.bold(soon.get(name, text.DASH), name in best_soon)}</td>'
            f"<td>{text.bold(mean.get(name, text.DASH), name in best_mean)}{spread}</td>"
        )

    return cells


def _fvd_cells(results: dict) -> Callable[[str], str]:
    scores = results["fvd"]["scores"]
    values = {name: text.decimal(score.get("value"), "FVD") for name, score in scores.items()}
    best = _best(results, values, "lower")

    def cell(name):
        interval = scores.get(name, {}).get("interval")
        if interval:
            low, high = (text.decimal(end, "FVD") for end in interval)
            interval = f'<span class="error">[{low}, {high}]</span>'
        value = text.bold(values.get(name, text.DASH), name in best)
        return f'<td class="first">{value}{interval or ""}</td>'

    return cell


def _best(results: dict, printed: dict[str, str], better: str) -> set[str]:
    """The predictors whose printed number is the best, of those that do not know the truth."""
    values = {
        name: float(number.replace(",", ""))
        for name, number in printed.items()
        if number != text.DASH and not _knows_truth(results, name)
    }
    if len(values) < 2:
        return set()
    best = max(values.values()) if better == "higher" else min(values.values())
    return {name for name, value in values.items() if value == best}


def _knows_truth(results: dict, name: str) -> bool:
    return name == TRUTH or name.startswith(f"{results['model']}, best of ")


def _notes(results: dict) -> str:
    """What the table's marks mean, as far as it has them."""
    names = results["scores"]
    notes = [
        "Means over the first predicted frames, and over all of them.",
        "↑ higher is better, ↓ lower is better; bold: the best of the predictors that do not use"
        " the truth.",
    ]
    if any(s.get("standard_error") is not None for row in names.values() for s in row.values()):
        notes.append("±: standard error of the mean over clips.")
    if any(", best of " in name for name in names):
        notes.append(
            "Best of several: for each clip and metric the sample with the best mean over its"
            " frames. It is chosen by the truth: compare it with nothing but its like."
        )
    if TRUTH in names:
        notes.append("True frames: what a readout scores on the truth itself, its ceiling.")
    fvd = results["fvd"]
    if fvd:
        notes.append(f"FVD of {fvd['num_videos']:,} videos, and its 95% bootstrap interval.")
        floor = fvd["floor"]
        value = text.decimal(floor["value"], "FVD")
        notes.append(f"FVD's floor, true videos against true ones: {value} ({floor['source']}).")
    return f'<ul class="notes">{"".join(f"<li>{text.escape(note)}</li>" for note in notes)}</ul>'


def _not_computed(results: dict) -> str:
    labels = {"lpips": "LPIPS", "fvd": "FVD"}
    items = "".join(
        f"<dt>{text.escape(labels.get(metric, metric))}</dt><dd>{text.escape(why)}</dd>"
        for metric, why in results["not_computed"].items()
    )
    return items and text.callout(f"<h3>Not computed</h3><dl>{items}</dl>")
