"""Checks that runs on one data set were scored alike, so that their scores can be compared.

They must agree in what is scored and how: context, horizon, number of videos and of samples, the
levels that see the context, the size of frames, all data settings that change the test videos, the
protocol of every measure, and the inputs of FVD. They may differ in the model, its training and its
training data, in the seed of the evaluation, and in the use of batch statistics, which a note
mentions.
"""

import itertools
import json
import math
from collections.abc import Callable, Mapping, Sequence

from cwvae.comparison.runs import COUNTS, Entry, Run, eval_command
from cwvae.config import FORMER_DEFAULTS, DataConfig, TrainingConfig, properties
from cwvae.errors import UserError
from cwvae.evaluation.results import COPY

# The scores of the baselines show whether the files themselves differ.
_SCORED = {key for key, its in properties(DataConfig).items() if its.changes_test_videos}
# Settings that runs of one row have in common. Data may lie elsewhere on another machine.
_TRAINED = {
    section: {
        key
        for key, its in properties(kind).items()
        if (its.steers_training or not its.resumable) and not its.is_path
    }
    for section, kind in (("training", TrainingConfig), ("data", DataConfig))
}


def check(entries: Sequence[Entry], protocol: str) -> list[str]:
    """Compares runs on one data set, each with every other; all must have the protocol.

    Returns notes on differences that do not prevent a comparison. Raises a UserError if the runs
    cannot be compared.
    """
    names = {run.number: entry.name_of(run) for entry in entries for run in entry.runs}
    runs = [run for entry in entries for run in entry.runs]
    for entry in entries:
        _check_seeds(entry)
    for run in runs:
        if protocol not in run.results["protocols"]:
            both = eval_command(run, {"evaluation.protocol": "both"})
            raise UserError(
                f"{run.folder}: not evaluated with --protocol {protocol}, but with"
                f" {' and '.join(run.results['protocols'])}. Give the folder that this command"
                f" writes: {both}"
            )
    notes = [
        f"{names[run.number]} on {run.data} normalizes with the statistics of the clips that are"
        " predicted together (evaluation.batch_statistics), so a prediction depends on the other"
        " clips."
        for run in runs
        if run.results["settings"]["evaluation"].get("batch_statistics")
    ]
    # All pairs: a measure that the first run lacks may differ between two others.
    for first, other in itertools.combinations(runs, 2):
        _check_settings(first, other)
        check_measures(first, other)
        notes += _check_baselines(first, other, names)
    return list(dict.fromkeys(notes))


def _check_seeds(entry):
    """Raises a UserError unless the runs of a row differ in their training seed, and only there."""
    for first, other in itertools.combinations(entry.runs, 2):
        both = (
            f"{first.folder} and {other.folder} are both called {entry.label!r}, on {entry.data},"
            " so they must be runs of one model with different seeds, but"
        )
        for run in (first, other):
            if run.seed is None:
                raise UserError(
                    f"{both} {run.folder} scores predictions from a file, which has no seed. Give"
                    " it another name."
                )
        if first.seed == other.seed:
            raise UserError(
                f"{both} training.seed is {first.seed} in both. Drop one of them, or give it"
                " another name."
            )
        known, others = _trained_settings(first), _trained_settings(other)
        common = [key for key in known if key in others]  # An older version lacks some settings.
        lines = differences(
            {key: known[key] for key in common},
            {key: others[key] for key in common},
            (first.folder, other.folder),
        )
        if lines:
            raise UserError(
                f"{both} they differ in more than training.seed:{''.join(lines.values())}\nGive"
                " them different names, or train them with the same settings."
            )


def _trained_settings(run):
    """Returns the settings that runs of one row have in common, except the seed."""
    settings, found = run.results["settings"], {"training step": run.results["step"]}
    found |= {".".join(name): value for name, value in FORMER_DEFAULTS.items()}
    found |= {f"model.{key}": value for key, value in settings["model"].items()}
    for section, keys in _TRAINED.items():
        known = settings[section].items()
        found |= {f"{section}.{key}": value for key, value in known if key in keys}
    statistics = settings["evaluation"].get("batch_statistics")
    found["evaluation.batch_statistics"] = statistics
    del found["training.seed"]
    # With another schedule each step depends on their number.
    if found.get("training.schedule", "constant") == "constant":
        found.pop("training.steps", None)
    return found


def scored_settings(run: Run) -> dict:
    """Returns all settings that decide what is scored, by their name in eval.py's --set."""
    results = run.results
    settings = {f"evaluation.{key}": results[key] for key in COUNTS}
    levels = results["observe_levels"]
    # Naming all levels, as in TTT, means the same as null.
    settings["evaluation.observe_levels"] = levels if levels and "F" in levels else None
    for key, value in results["settings"]["data"].items():
        if key in _SCORED:
            settings[f"data.{key}"] = value
    if results["settings"]["data"].get("digits_dir"):
        settings["data.digits"] = "mnist"  # A folder with MNIST's files is taken instead.
    return settings


def differences(
    first: Mapping, other: Mapping, names: Sequence, show: Callable = json.dumps
) -> dict[str, str]:
    """Returns {key: a line with both values} for each key whose values differ.

    A missing value counts as None. `show` turns a value into text.
    """
    return {
        key: f"\n  {key}: {show(first.get(key))} in {names[0]},"
        f" {show(other.get(key))} in {names[1]}"
        for key in dict.fromkeys([*first, *other])
        if first.get(key) != other.get(key)
    }


def _check_settings(first, other):
    folders = first.folder, other.folder
    if first.data_name != other.data_name:
        raise UserError(
            f"{first.folder} and {other.folder} are both on a data set called {first.data}, but"
            f" data.name is {first.data_name} in one and {other.data_name} in the other. Name their"
            " data sets: NAME@DATA=RUN"
        )
    wanted = scored_settings(first)
    lines = differences(wanted, scored_settings(other), folders)
    sizes = [{"frames": run.results["frames"]} for run in (first, other)]
    frames = differences(*sizes, folders, str)
    message = (
        f"{first.folder} and {other.folder} are both on {first.data}, but differ in what is scored:"
        f"{''.join((lines | frames).values())}\n"
    )
    if frames:
        raise UserError(
            f"{message}Models of different frames cannot be compared. Drop one of them, or train it"
            " with the other's model.frame_size and channels."
        )
    if lines:
        settings = {key: wanted.get(key) for key in lines}
        if "data.digits" in lines and other.results["settings"]["data"].get("digits_dir"):
            settings["data.digits_dir"] = None
        raise UserError(
            f"{message}To evaluate {other.folder} like {first.folder}, run this command, and give"
            f" the folder that it writes instead: {eval_command(other, settings)}"
        )


def check_measures(first: Run, other: Run) -> None:
    """Raises a UserError if a measure was computed in different ways."""
    ways = [{}, {}]
    for way, run in zip(ways, (first, other), strict=True):
        for name in first.metrics:
            if name in other.metrics:
                way[f"protocol of {first.metrics[name]['label']}"] = run.metrics[name]["protocol"]
        if first.results["fvd"] and other.results["fvd"]:
            keys = {"protocol": "protocol of FVD", "frames": "frames of FVD"}
            keys |= {"num_videos": "videos of FVD", "module": "I3D module of FVD"}
            way |= {name: run.results["fvd"][key] for key, name in keys.items()}
    lines = differences(*ways, (first.folder, other.folder), str)
    if lines:
        raise UserError(
            f"{first.folder} and {other.folder} are both on {first.data}, but were measured in"
            f" different ways:{''.join(lines.values())}\nEvaluate both with the same version of"
            f" eval.py and the same weights: {eval_command(other)}"
        )


def _check_baselines(first, other, names):
    """Compares baselines, and returns notes on differences that the training data explain."""
    notes = []
    for name in first.baselines:
        for metric in first.metrics:  # Not FVD: small rounding errors grow in it.
            if metric.startswith("readout_"):
                continue  # A readout trained on another machine differs a little.
            scores = first.mean(name, metric), other.mean(name, metric)
            if None in scores or math.isclose(*scores, rel_tol=1e-3, abs_tol=1e-3):
                continue
            seen = f"{first.data}: the {first.metrics[metric]['label']} of {name!r} is"
            if name == COPY or not _trained_on_other_clips(first, other):
                raise UserError(
                    f"{seen} {scores[0]:.4g} in {first.folder} and {scores[1]:.4g} in"
                    f" {other.folder}. It does not depend on the model, so the videos differ,"
                    " although the settings agree. Evaluate both on the same files. If they are two"
                    " data sets, name one of them: NAME@DATA=RUN"
                )
            pair = [
                f"{score:.4g} in {names[run.number]}"
                for score, run in zip(scores, (first, other), strict=True)
            ]
            notes.append(f"{seen} {' and '.join(pair)}: the first one is shown.")
            break
    return notes


def _trained_on_other_clips(first, other):
    """Returns whether the clips behind the training baselines may differ."""
    keys = [("training", "seq_len"), ("evaluation", "seed")]
    keys += [("data", "train_length"), ("data", "train_videos")]
    settings = first.results["settings"], other.results["settings"]
    return any(settings[0][s].get(key) != settings[1][s].get(key) for s, key in keys)
