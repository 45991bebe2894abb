"""What runs on one data set must agree in, before their scores may stand side by side.

They must agree in what is scored and how: context, horizon, number of videos and of samples, which
levels see the context, the size of frames, all settings of the data that change the test videos,
the protocol of every measure, and what went into FVD. They may differ in what is judged: the model,
its training and the training data; in the seed and the batch size of the evaluation, which draw
other samples from the same distribution; and in what batch normalization uses, which is noted. Data
sets may differ from one another in all of this.
"""

import itertools
import json
import math
from collections.abc import Sequence

from cwvae.comparison.runs import Run, eval_command
from cwvae.config import DataConfig, properties
from cwvae.errors import UserError
from cwvae.evaluation.results import COPY

# The scores of the baselines show whether the files themselves differ.
_SCORED = {key for key, its in properties(DataConfig).items() if its.changes_test_videos}

_COUNTS = ("context", "horizon", "num_videos", "num_samples")


def check(runs: Sequence[Run], protocol: str) -> list[str]:
    """Compares runs on one data set, each with every other.

    Args:
      runs: At least one.
      protocol: Of PSNR and SSIM: each run must have it.

    Returns:
      Notes on differences that are no reason to refuse.

    Raises:
      UserError: Runs that must not be compared; it names what differs, and what to do.
    """
    for run in runs:
        if protocol not in run.results["protocols"]:
            both = eval_command(run.folder, ["evaluation.protocol=both"])
            raise UserError(
                f"{run.folder}: not evaluated with --protocol {protocol}, but with"
                f" {' and '.join(run.results['protocols'])}: {both}"
            )
    notes = [
        f"{run.label} on {run.data} normalizes by the clips that are predicted together"
        " (evaluation.batch_statistics), so that a prediction depends on the others."
        for run in runs
        if run.results["settings"]["evaluation"].get("batch_statistics")
    ]
    # All pairs: a measure that the first run lacks may differ between two others.
    for first, other in itertools.combinations(runs, 2):
        _check_settings(first, other)
        _check_measures(first, other)
        notes += _check_baselines(first, other)
    return list(dict.fromkeys(notes))


def scored_settings(run: Run) -> dict:
    """Returns all settings that decide what is scored, by the name that eval.py's --set takes."""
    results = run.results
    settings = {f"evaluation.{key}": results[key] for key in _COUNTS}
    levels = results["observe_levels"]
    # All levels named, as in TTT, is what null means.
    settings["evaluation.observe_levels"] = levels if levels and "F" in levels else None
    for key, value in results["settings"]["data"].items():
        if key in _SCORED:
            settings[f"data.{key}"] = value
    if results["settings"]["data"].get("digits_dir"):
        settings["data.digits"] = "mnist"  # A folder with MNIST's files is taken instead.
    return settings


def _check_settings(first, other):
    lines, mending = [], []
    wanted, given = scored_settings(first), scored_settings(other)
    for key in dict.fromkeys([*wanted, *given]):
        if wanted.get(key) != given.get(key):
            values = json.dumps(wanted.get(key)), json.dumps(given.get(key))
            lines.append(f"  {key}: {values[0]} in {first.folder}, {values[1]} in {other.folder}")
            mending.append(f"{key}={values[0]}")
            if key == "data.digits" and other.results["settings"]["data"].get("digits_dir"):
                mending.append("data.digits_dir=null")
    what = f"{first.folder} and {other.folder} are both on {first.data}, but differ in what is"
    frames = first.results["frames"], other.results["frames"]
    if frames[0] != frames[1]:
        lines.append(f"  frames: {frames[0]} in {first.folder}, {frames[1]} in {other.folder}")
        raise UserError(
            f"{what} scored:\n" + "\n".join(lines) + "\nModels of frames that differ cannot be"
            " compared: leave one out, or train it with the other's model.frame_size and channels."
        )
    if lines:
        raise UserError(
            f"{what} scored:\n" + "\n".join(lines) + f"\nTo make {other.folder} as {first.folder}:"
            f" {eval_command(other.folder, mending)}"
        )


def _check_measures(first, other):
    """Refuses scores that two versions of a measure gave."""
    pairs = [
        (f"protocol of {measure['label']}", measure["protocol"], other.metrics[name]["protocol"])
        for name, measure in first.metrics.items()
        if name in other.metrics
    ]
    fvds = first.results["fvd"], other.results["fvd"]
    if all(fvds):
        keys = {"protocol": "protocol of FVD", "frames": "frames of FVD"}
        keys |= {"num_videos": "videos of FVD", "module": "I3D module of FVD"}
        pairs += [(name, fvds[0][key], fvds[1][key]) for key, name in keys.items()]
    lines = [
        f"  {name}: {wanted} in {first.folder}, {given} in {other.folder}"
        for name, wanted, given in pairs
        if wanted != given
    ]
    if lines:
        raise UserError(
            f"{first.folder} and {other.folder} are both on {first.data}, but were measured in"
            " different ways:\n" + "\n".join(lines) + "\nEvaluate both with the same version of"
            " eval.py and the same weights: " + eval_command(other.folder)
        )


def _check_baselines(first, other):
    """Baselines score the same on the same data; a note where training explains a difference."""
    notes = []
    for name in first.baselines:
        for metric in first.metrics:  # Not FVD: small errors of rounding grow in it.
            if metric.startswith("readout_"):
                continue  # Trained on another machine it differs a little.
            scores = first.mean(name, metric), other.mean(name, metric)
            if None in scores or math.isclose(*scores, rel_tol=1e-3, abs_tol=1e-3):
                continue
            label = first.metrics[metric]["label"]
            seen = f"{label} of {name!r} is {scores[0]:.4g} in {first.folder} and {scores[1]:.4g}"
            if name == COPY or not _trained_on_other_clips(first, other):
                raise UserError(
                    f"{first.data}: the {seen} in {other.folder}. It does not depend on the model,"
                    " so the videos differ, although the settings agree. Evaluate both on the same"
                    " files."
                )
            notes.append(f"{first.data}: the {seen} in {other.folder}: the first one is shown.")
            break
    return notes


def _trained_on_other_clips(first, other):
    """Whether the clips that the training baselines are made of may differ."""
    keys = [("training", "seq_len"), ("evaluation", "seed")]
    keys += [("data", "train_length"), ("data", "train_videos")]
    settings = first.results["settings"], other.results["settings"]
    return any(settings[0][s].get(key) != settings[1][s].get(key) for s, key in keys)
