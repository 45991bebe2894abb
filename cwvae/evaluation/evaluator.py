"""Evaluation of a trained model: what there is to measure, the measuring, and what is written.

`cwvae.evaluation.scoring` holds the loop over predictions. Symbols: N videos, T predicted frames.
"""

import csv
import functools
import json
import pathlib
import tempfile
from collections.abc import Collection, Mapping

import numpy as np
import tensorflow as tf

from cwvae import visualize
from cwvae.baselines import trivial
from cwvae.config import Config, as_plain
from cwvae.errors import MissingWeights, UserError
from cwvae.evaluation import (
    measures,
    pictures,
    readout,
    report,
    rollouts,
    scoring,
    video_distance,
)
from cwvae.evaluation.results import FORMAT
from cwvae.metrics import fvd
from cwvae.run import files, versions
from cwvae.startup import many_traces
from cwvae.video_model import VideoModel, as_seed

_FILES = ("metrics.json", "curves.csv", "curves.png", "samples.gif", "samples.png")
_FILES += ("levels.png", "boundaries.png", "report.html")

# Training clips that the mean frame is made from, and of each of which the random guess has a
# frame to draw.
_TRAINING_CLIPS = 500


def evaluate(
    config: Config,
    model: VideoModel,
    step: int,
    train_data,
    test_data,
    logdir: str | pathlib.Path,
    weights: Mapping[str, str | None] | None = None,
    required: Collection[str] = (),
) -> dict:
    """Scores a model and writes everything into `logdir`/eval.

    Args:
      config: Of the run.
      model: The trained model.
      step: Updates it was trained for.
      train_data: A data set, for the guesses without a model and the readout.
      test_data: A data set: of the held-out clips, the first that are long enough are scored.
      logdir: The run's folder.
      weights: Where the weights for `lpips` and `fvd` are; the usual places are looked into where
        it does not say.
      required: Which of `lpips` and `fvd` must be computed.

    Returns:
      What metrics.json holds.

    Raises:
      UserError: Clips too short or too few, a folder that cannot be written, weights that are
        damaged, or required and missing, or a model that predicts what is not finite.
    """
    options, weights = config.evaluation, weights or {}
    held_out = rollouts.held_out(options, test_data)
    folder = _writable(pathlib.Path(logdir) / "eval")
    protocols, not_computed = measures.protocols(options.protocol), {}
    used = [measures.ImageMeasures(protocol) for protocol in protocols]
    try:
        used.append(measures.PerceptualMeasure(weights.get("lpips")))
    except MissingWeights as error:
        not_computed["lpips"] = str(error)
    distances, why = _distances(options, weights.get("fvd"), held_out, train_data, test_data)
    if distances is None:
        not_computed["fvd"] = why
    missing = [
        f"--require {name}: {not_computed[name]}" for name in required if name in not_computed
    ]
    if missing:
        raise UserError("\n".join(missing))
    try:
        reader = _reader(config, train_data)
    except UserError as error:  # Mazes are read from their store; what they show, from a package.
        reader, not_computed["readout"] = None, str(error)
    mean, pool = _training_frames(config, train_data)
    guesses = scoring.guesses(mean, pool, options.seed)
    try:
        scores = scoring.score(
            options, config.model.name, model, held_out, used, guesses, reader, distances
        )
        distance_scores = distances.results() if distances else None
    except ValueError as error:
        raise UserError(f"{logdir}, step {step}: cannot be scored: {error}") from None
    results = {
        "format": FORMAT,
        "step": step,
        "model": config.model.name,
        "weights": model.count_trainable(),
        "data": config.data.name,
        "protocols": protocols,
        "context": options.context,
        "horizon": options.horizon,
        "num_videos": options.num_videos,
        "num_samples": options.num_samples,
        "observe_levels": options.observe_levels,
        "frames": "{}x{}x{}, values in [0, 1]".format(*held_out.frame_shape),
        "settings": as_plain(config),
        "versions": versions.installed(),
        "metrics": scoring.metrics(used, reader, options.horizon),
        "not_computed": not_computed,
        "scores": {name: _summary(values) for name, values in scores.items()},
        "fvd": distance_scores,
        "elbo": elbo_terms(config, model, held_out),
    }
    for name in _FILES:  # Cut short, it leaves no files of two evaluations.
        (folder / name).unlink(missing_ok=True)
    text = json.dumps(results, indent=1, allow_nan=False) + "\n"
    files.write(folder / "metrics.json", text)
    _write_curves(folder, results)
    with many_traces():
        samples = pictures.write_samples(folder, options, model, held_out)
        levels = pictures.write_levels(folder, options, model, held_out)
        segments = pictures.write_boundaries(folder, options, model, held_out)
    report.write(folder, results, samples, levels, segments)
    return results


def elbo_terms(config: Config, model: VideoModel, data) -> dict:
    """Returns the terms of Equation 5 on windows of `training.seq_len` frames of held-out clips.

    Returns:
      `frames` per window that the model explains, `nll` per frame, and by KL term, called
      `kl_names`, `kl_per_step` and `kl_sum` over the window (Table 2 of the paper), all in nats.
    """
    options = config.evaluation
    shortest = min(data.length(i) for i in range(options.num_videos))
    length = min(config.training.seq_len, shortest)
    chosen = rollouts.observed_levels(options)
    elbo = tf.function(lambda video, seed: model.elbo(video, seed, **chosen)[:2], autograph=False)
    nll, kl = [], []
    for first in range(0, options.num_videos, options.batch_size):
        videos = range(first, min(first + options.batch_size, options.num_videos))
        video = tf.constant(rollouts.clips(data, videos, 0, length))
        terms = elbo(video, tf.random.fold_in(as_seed(options.seed), first))
        nll.append(terms[0].numpy())
        kl.append([level.numpy() for level in terms[1]])
    kl = [np.concatenate(level) for level in zip(*kl, strict=True)]
    nll = np.concatenate(nll)
    return {
        "frames": nll.shape[1],
        "nll_per_frame": float(np.mean(nll)),
        "kl_names": list(model.kl_names),
        "kl_per_step": [float(np.mean(level)) for level in kl],
        "kl_sum": [float(np.mean(np.sum(level, 1))) for level in kl],
    }


def table(results: dict) -> str:
    """Returns the scores of `evaluate` as text."""
    metrics = results["metrics"]
    lines = [
        f"step {results['step']}: {results['num_videos']} held-out clips, {results['context']}"
        f" context frames, {results['horizon']} predicted, samples per clip:"
        f" {results['num_samples']}"
    ]
    headings = [_heading(about) for about in metrics.values()]
    widths = [max(11, len(heading) + 3) for heading in headings]
    soon = min(scoring.SOON, results["horizon"])
    for key, title in (("mean_soon", f"first {soon} frames"), ("mean", "all frames")):
        row = "".join(f"{text:>{width}}" for text, width in zip(headings, widths, strict=True))
        lines += ["", f"{title:26}{row}"]
        for name, scores in results["scores"].items():
            cells = (scores.get(metric, {}).get(key) for metric in metrics)
            row = (
                f"{'-' if value is None else format(value, '.3f'):>{width}}"
                for value, width in zip(cells, widths, strict=True)
            )
            lines.append(f"{name:26}" + "".join(row))
    lines += _distance_lines(results["fvd"])
    elbo = results["elbo"]
    over = f"sum over {elbo['frames']} frames"
    lines += ["", f"{'KL [nats]':26}{'per step':>18}{over:>24}"]
    rows = zip(elbo["kl_names"], elbo["kl_per_step"], elbo["kl_sum"], strict=True)
    lines += [f"{name:26}{step:>18.4g}{total:>24.4g}" for name, step, total in rows]
    for name, why in results["not_computed"].items():
        lines += ["", f"{name} was not computed: {why}"]
    return "\n".join(lines)


def _heading(about: dict) -> str:
    return f"{about['label']} [{about['unit']}]" if about["unit"] else about["label"]


def _distance_lines(distances: dict | None) -> list[str]:
    if distances is None:
        return []
    lines = ["", f"{'FVD':26}{'all frames':>11}{'95% interval':>24}"]
    for name, scores in distances["scores"].items():
        low, high = scores["interval"]
        lines.append(f"{name:26}{scores['value']:>11.1f}{f'{low:.1f} to {high:.1f}':>24}")
    floor = distances["floor"]
    value = "-" if floor["value"] is None else f"{floor['value']:.1f}"
    lines.append(f"{'other real videos':26}{value:>11}  ({floor['source']})")
    return lines + [f"warning: {warning}" for warning in distances["warnings"]]


def _writable(folder: pathlib.Path) -> pathlib.Path:
    try:
        folder.mkdir(exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise UserError(f"{folder}: cannot write there ({error.strerror}).") from None
    return folder


def _distances(options, path, held_out, train_data, test_data):
    """Returns what measures FVD and None, or None and why FVD cannot be measured."""
    why = video_distance.too_short(options.horizon) or video_distance.too_few(options.num_videos)
    if why:
        return None, why
    try:
        module = fvd.find_module(path)
    except MissingWeights as error:
        return None, str(error)
    other, source = _other_real(options, train_data, test_data)
    distances = video_distance.VideoDistances(
        fvd.I3D(module),
        horizon=options.horizon,
        num_videos=options.num_videos,
        truth=lambda i: held_out.clip(i, options.context, options.horizon),
        other_real=other,
        other_source=source,
        seed=options.seed,
    )
    return distances, None


def _other_real(options, train_data, test_data):
    """Finds as many real clips as are evaluated, none of them among these, and says which."""
    count, context, horizon = options.num_videos, options.context, options.horizon
    needed = context + horizon
    for data, skip, name in ((test_data, count, "other held-out"), (train_data, 0, "training")):
        if data.clips.longest < needed:
            continue
        others = data.at_least(needed)[skip : skip + count]
        if len(others) == count:
            clips = data.select(others)  # The same stretch of time as of the truth.
            return functools.partial(_stretch, clips, context, horizon), f"{count} {name} clips"
    return None, f"not computed: it takes {count} other real clips of {needed} frames"


def _stretch(clips, start: int, length: int, i: int) -> np.ndarray:
    return clips.clip(i, start, length)


def _reader(config: Config, train_data) -> readout.Readout | None:
    """Returns a readout of what is known of the data, where anything is."""
    if not config.evaluation.readout or not train_data.readable():
        return None
    return readout.fit(train_data)  # One for all runs on this data, whatever their seeds.


def _training_frames(config: Config, data) -> tuple[np.ndarray, np.ndarray]:
    """Returns the mean of training frames [H, W, C], and some to draw from [P, H, W, C]."""
    count = min(_TRAINING_CLIPS, len(data))
    longest = config.training.seq_len
    mean = trivial.mean_frame(data.clip(i, 0, min(longest, data.length(i))) for i in range(count))
    rng = np.random.default_rng(config.evaluation.seed)
    times = [rng.integers(data.length(i)) for i in range(count)]
    pool = np.concatenate([data.clip(i, int(time), 1) for i, time in enumerate(times)])
    return mean, pool.astype(np.float32) / 255


def _summary(scores: dict[str, np.ndarray]) -> dict:
    """Averages [N, T] over videos, and over frames; NaN is what has no value."""
    summary = {}
    for metric, values in scores.items():
        # What is read soon after the context, beside the frames that are evenly spread, would
        # count more than the others.
        reads = metric.startswith("readout_")
        spread = values[:, :: scoring.read_every(values.shape[1])] if reads else values
        summary[metric] = {
            "mean": _mean(spread),
            "mean_soon": _mean(values[:, : scoring.SOON]),
            "soon": min(scoring.SOON, values.shape[1]),
            "standard_error": _standard_error(spread),
            "per_frame": [_mean(frame, 5) for frame in values.T],
        }
    return summary


def _mean(values: np.ndarray, digits: int | None = None) -> float | None:
    """The mean of those values that there are; None if there is none."""
    there = values[~np.isnan(values)]
    if there.size == 0:
        return None
    mean = float(there.mean(dtype=np.float64))
    return mean if digits is None else round(mean, digits)


def _standard_error(values: np.ndarray) -> float | None:
    """Of the mean over videos [N, T]; None for a single one, which says nothing of it."""
    means = [mean for mean in map(_mean, values) if mean is not None]
    return float(np.std(means, ddof=1) / np.sqrt(len(means))) if len(means) > 1 else None


def _write_curves(folder: pathlib.Path, results: dict) -> None:
    """Writes curves.csv, a row per predicted frame, and curves.png, a panel per measure."""
    scores = results["scores"]
    columns = {
        f"{metric} {name}": scores[name][metric]["per_frame"]
        for name in scores
        for metric in scores[name]
    }
    with open(folder / "curves.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["predicted_frame", *columns])
        for frame, row in enumerate(zip(*columns.values(), strict=True), 1):
            writer.writerow([frame, *row])
    curves = {
        _heading(about): {
            name: np.array(scores[name][metric]["per_frame"], float)
            for name in scores
            if metric in scores[name]
        }
        for metric, about in results["metrics"].items()
    }
    visualize.save_curves(folder / "curves.png", curves)
