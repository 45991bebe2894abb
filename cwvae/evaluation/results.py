"""Folders of evaluations, and the meaning of metrics.json in them. No TensorFlow.

A run's folder holds the evaluation of its own settings and newest checkpoint in `eval/`, and others
in folders whose names say what differs.
"""

import hashlib
import json
import os
import pathlib
import re
import tempfile
from collections.abc import Mapping

from cwvae.errors import UserError
from cwvae.levels import label

ARROWS = {"higher": "↑", "lower": "↓"}  # by the direction of better values

# The format of metrics.json. Raise it when a reader of the old format would misread the new one.
# Format 5 holds LPIPS, the readout and predictors without a model for some frames of long horizons.
FORMAT = 5

# Names of predictors without a model.
COPY, MEAN, RANDOM = "copy last frame", "mean training frame", "random training frame"
# The readout's scores on true frames are the ceiling of its scores on predicted ones.
TRUTH = "true frames"

FOLDER, PREDICTIONS, CLIP_SCORES = "eval", "predictions.npz", "clip_scores.npz"
FILES = ("metrics.json", CLIP_SCORES, "curves.csv", "curves.png", "samples.gif", "samples.png")
FILES += ("levels.png", "boundaries.png", "report.html", PREDICTIONS)

# Settings on which no score depends.
_UNSCORED = ("data.data_dir", "data.archives_dir", "evaluation.batch_size")
# Settings that only say whether scores are computed.
_OPTIONAL = ("evaluation.lpips", "evaluation.fvd")
_LONGEST = 80  # characters of a derived name


def digest(results: Mapping) -> str:
    """Returns the SHA-256 of the content of a metrics.json, without its entry `sha256`."""
    content = {key: value for key, value in results.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def changes(own: Mapping, settings: Mapping) -> dict[str, object]:
    """Returns {section.key: value} of the scored settings that differ from the run's own.

    Args:
      own: The settings of the run, as `config.as_plain` returns them.
      settings: The settings of the evaluation.
    """
    found = {
        f"{section}.{key}": value
        for section in ("data", "evaluation")
        for key, value in settings[section].items()
        if value != own[section].get(key)
    }
    unscored = {*_UNSCORED, *(key for key in _OPTIONAL if found.get(key) is not False)}
    if settings["evaluation"]["batch_statistics"]:  # Of the clips that are predicted together.
        unscored.remove("evaluation.batch_size")
    return {key: value for key, value in found.items() if key not in unscored}


def folder_name(changed: Mapping[str, object], step: int | None = None) -> str:
    """Returns the name of the folder for an evaluation, such as eval-step_000002000,horizon_200.

    Args:
      changed: What `changes` returned.
      step: The step of the checkpoint; None for the newest.
    """
    parts = [] if step is None else [f"step_{step:09d}"]
    for key, value in changed.items():
        values = value if isinstance(value, list) else [value]
        words = [word if isinstance(word, str) else json.dumps(word) for word in values]
        parts.append(f"{key.removeprefix('evaluation.')}_{','.join(words)}")
    if not parts:
        return FOLDER
    full = f"{FOLDER}-{','.join(parts)}"
    name = re.sub(r"[^\w.,+-]", "-", full)[:_LONGEST]
    # A shortened name must not be that of another evaluation.
    return name if name == full else f"{name}-{hashlib.sha256(full.encode()).hexdigest()[:8]}"


def folder_at(logdir: str | pathlib.Path, out: str) -> pathlib.Path:
    """Returns the folder that `--out` names: a name is in the run's folder, a path anywhere."""
    path = pathlib.Path(out).expanduser()
    return path if os.sep in out or out in (".", "..") else pathlib.Path(logdir) / path


def check_folder(folder: pathlib.Path) -> None:
    """Checks that an evaluation can replace a folder, and makes the folder around it.

    Raises:
      UserError: It holds other files, or cannot be written.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder.resolve().parent).close()
        names = sorted(path.name for path in folder.iterdir()) if folder.exists() else []
    except OSError as error:
        raise UserError(
            f"{folder}: cannot write there ({error.strerror}). Check its permissions and the disk,"
            " or give another folder with --out."
        ) from None
    if os.path.ismount(folder):
        raise UserError(
            f"{folder}: an evaluation replaces its folder, and a mounted disk cannot be replaced."
            f" Give a folder in it: --out {folder / FOLDER}"
        )
    # Earlier versions left files such as .metrics.json.12.ab.tmp when they were killed.
    others = [name for name in names if name not in FILES and not re.fullmatch(r"\..*\.tmp", name)]
    if others:
        raise UserError(
            f"{folder}: an evaluation replaces this folder, but it holds {others[0]}, which eval.py"
            " did not write. Move that away, or give another folder with --out."
        )


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
    what = results["model"] if results["step"] is None else f"step {results['step']}"
    lines = [
        f"{what}: {results['num_videos']} held-out clips, {results['context']}"
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
    if elbo := results["elbo"]:
        over = f"sum over {elbo['frames']} frames"
        lines += ["", f"{'KL [nats]':26}{'per step':>18}{over:>24}"]
        rows = zip(elbo["kl_names"], elbo["kl_per_step"], elbo["kl_sum"], strict=True)
        lines += [
            f"{label(name, len(elbo['kl_names'])):26}{each:>18.4g}{total:>24.4g}"
            for name, each, total in rows
        ]
    for name, why in results["not_computed"].items():
        lines += ["", f"{name} was not computed: {why}"]
    return "\n".join(lines)
