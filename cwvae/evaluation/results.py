"""The meaning of metrics.json, for its writer and readers; its scores as text. No TensorFlow."""

ARROWS = {"higher": "↑", "lower": "↓"}  # by the direction of better values

# The format of metrics.json. Raise it when a reader of the old format would misread the new one.
FORMAT = 3

# Names of predictors without a model.
COPY, MEAN, RANDOM = "copy last frame", "mean training frame", "random training frame"
# The readout's scores on true frames are the ceiling of its scores on predicted ones.
TRUTH = "true frames"


def metric_name(metric: str, protocol: str) -> str:
    """Returns the name of a metric; that of PSNR and SSIM depends on the protocol."""
    plain = metric not in ("ssim", "psnr") or protocol == "standard"
    return metric if plain else f"{metric}_{protocol}"


def best_of(model: str, num_samples: int) -> str:
    """Returns the name of the best of a model's samples."""
    return f"{model}, best of {num_samples}"


def is_best_of(name: str, model: str) -> bool:
    """Returns whether a predictor is the best of a model's samples."""
    return name.startswith(f"{model}, best of ")


def heading(about: dict) -> str:
    """Returns the label of an entry of `metrics` with its unit."""
    return f"{about['label']} [{about['unit']}]" if about["unit"] else about["label"]


def table(results: dict) -> str:
    """Returns the scores in a metrics.json as text."""
    metrics, scores = results["metrics"], results["scores"]
    lines = [
        f"step {results['step']}: {results['num_videos']} held-out clips, {results['context']}"
        f" context frames, {results['horizon']} predicted, samples per clip:"
        f" {results['num_samples']}"
    ]
    soon = next(summary["soon"] for row in scores.values() for summary in row.values())
    headings = [heading(about) for about in metrics.values()]
    widths = [max(11, len(text) + 3) for text in headings]

    def row(title: str, cells) -> str:
        cells = zip(cells, widths, strict=True)
        return f"{title:26}" + "".join(f"{text:>{width}}" for text, width in cells)

    for key, title in (("mean_soon", f"first {soon} frames"), ("mean", "all frames")):
        lines += ["", row(title, headings)]
        for name, summaries in scores.items():
            values = (summaries.get(metric, {}).get(key) for metric in metrics)
            lines.append(row(name, ("-" if v is None else f"{v:.3f}" for v in values)))
    if fvd := results["fvd"]:
        lines += ["", f"{'FVD':26}{'all frames':>11}{'95% interval':>24}"]
        for name, distance in fvd["scores"].items():
            interval = "{:.1f} to {:.1f}".format(*distance["interval"])
            lines.append(f"{name:26}{distance['value']:>11.1f}{interval:>24}")
        floor = fvd["floor"]
        value = "-" if floor["value"] is None else f"{floor['value']:.1f}"
        lines.append(f"{'other real videos':26}{value:>11}  ({floor['source']})")
        lines += [f"warning: {warning}" for warning in fvd["warnings"]]
    elbo = results["elbo"]
    over = f"sum over {elbo['frames']} frames"
    lines += ["", f"{'KL [nats]':26}{'per step':>18}{over:>24}"]
    rows = zip(elbo["kl_names"], elbo["kl_per_step"], elbo["kl_sum"], strict=True)
    lines += [f"{name:26}{step:>18.4g}{total:>24.4g}" for name, step, total in rows]
    for name, why in results["not_computed"].items():
        lines += ["", f"{name} was not computed: {why}"]
    return "\n".join(lines)
