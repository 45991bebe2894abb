"""Evaluation: open-loop predictions of held-out clips, scored frame by frame.

Predictions are made, scored and dropped stretch by stretch, so that memory depends on neither the
horizon nor the number of videos or samples. Symbols: N videos, T predicted frames.
"""

import csv
import json
import pathlib
import tempfile
from collections.abc import Callable

import numpy as np
import tensorflow as tf
import tqdm

from cwvae import rollouts, visualize
from cwvae.baselines import trivial
from cwvae.config import Config, as_plain
from cwvae.errors import UserError
from cwvae.metrics import image
from cwvae.model import VideoModel, as_frames, as_seed

METRICS: dict[str, Callable] = {"psnr": image.psnr, "ssim": image.ssim}
LABELS = {"psnr": "PSNR [dB]", "ssim": "SSIM"}
COPY, MEAN = "copy last frame", "mean training frame"

# Frames "soon" after the context, whose mean is given beside that of the whole horizon.
SOON = 10
# Clips whose mean is the mean training frame.
_MEAN_CLIPS = 500
# What samples.gif and samples.png show.
_SHOWN_CLIPS, _SHOWN_SAMPLES, _SHOWN_SIZE = 4, 3, 96
_SHOWN_CONTEXT, _SHOWN_FRAMES, _STRIP_COLUMNS = 50, 300, 12


def evaluate(config: Config, model: VideoModel, step: int, train_data, test_data, logdir) -> dict:
    """Scores a model and writes everything into `logdir`/eval.

    Args:
      config: Of the run.
      model: The trained model.
      step: Updates it was trained for.
      train_data: A data set: the mean training frame is made from it.
      test_data: A data set: of the held-out clips, the first that are long enough are scored.
      logdir: The run's folder.

    Returns:
      What metrics.json holds.

    Raises:
      UserError: Clips too short or too few, a folder that cannot be written, or a model that
        predicts what is not finite.
    """
    options = config.evaluation
    test_data = rollouts.held_out(options, test_data)
    folder = pathlib.Path(logdir) / "eval"
    try:
        folder.mkdir(exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise UserError(f"{folder}: cannot write there ({error.strerror}).") from None
    mean = _mean_training_frame(config, train_data)
    try:
        scores = score(config, model, test_data, mean)
    except ValueError as error:
        raise UserError(f"{logdir}, step {step}: cannot be scored: {error}") from None
    results = {
        "step": step,
        "model": config.model.name,
        "data": config.data.name,
        "protocol": options.protocol,
        "context": options.context,
        "horizon": options.horizon,
        "num_videos": options.num_videos,
        "num_samples": options.num_samples,
        "observe_levels": options.observe_levels,
        "settings": {key: as_plain(config)[key] for key in ("data", "evaluation")},
        "scores": {name: _summary(values) for name, values in scores.items()},
        "elbo": elbo_terms(config, model, test_data),
    }
    (folder / "metrics.json").write_text(json.dumps(results, indent=1) + "\n")
    _write_curves(folder, results["scores"])
    _write_samples(folder, config, model, test_data)
    return results


def score(config: Config, model: VideoModel, data, mean_frame: np.ndarray) -> dict:
    """Scores a model's predictions, and those of the baselines, on held-out clips.

    Args:
      config: Of the run.
      model: The trained model.
      data: Held-out clips.
      mean_frame: The mean training frame, [H, W, C] in [0, 1].

    Returns:
      {predictor: {metric: [N, T]}}, each a mean over samples.
    """
    options = config.evaluation
    shape = (options.num_videos, options.horizon)
    names = (config.model.name, COPY, MEAN)
    scores = {name: {metric: np.zeros(shape, np.float32) for metric in METRICS} for name in names}
    progress = tqdm.tqdm(total=options.num_videos * options.num_samples, unit="video")
    for first in range(0, options.num_videos, options.batch_size):
        videos = range(first, min(first + options.batch_size, options.num_videos))
        rows = slice(videos.start, videos.stop)
        context = rollouts.clips(data, videos, 0, options.context)
        last = as_frames(context[:, -1:]).numpy()
        for sample in range(options.num_samples):
            for start, frames in rollouts.predict(model, context, options, sample, first):
                stop = start + frames.shape[1]
                truth = rollouts.clips(data, videos, options.context + start, stop - start)
                truth = as_frames(truth).numpy()
                predictions = {config.model.name: frames}
                if sample == 0:
                    predictions[COPY] = trivial.copy_last_frame(last, stop - start)
                    predictions[MEAN] = trivial.repeat_frame(mean_frame, len(videos), stop - start)
                for name, prediction in predictions.items():
                    weight = options.num_samples if name == config.model.name else 1
                    for metric, function in METRICS.items():
                        values = function(truth, prediction) / weight
                        scores[name][metric][rows, start:stop] += values
            progress.update(len(videos))
    progress.close()
    return scores


def elbo_terms(config: Config, model: VideoModel, data) -> dict:
    """Returns the terms of Equation 5 on windows of `training.seq_len` frames of held-out clips.

    Returns:
      `frames` per window, `nll` per frame, and by level `kl_per_step` and `kl_sum` over the window
      (Table 2 of the paper), all in nats.
    """
    options = config.evaluation
    shortest = min(data.length(i) for i in range(options.num_videos))
    length = min(config.training.seq_len, shortest)
    chosen = rollouts.model_options(options)
    elbo = tf.function(lambda video, seed: model.elbo(video, seed, **chosen)[:2], autograph=False)
    nll, kl = [], []
    for first in range(0, options.num_videos, options.batch_size):
        videos = range(first, min(first + options.batch_size, options.num_videos))
        video = tf.constant(rollouts.clips(data, videos, 0, length))
        terms = elbo(video, tf.random.fold_in(as_seed(options.seed), first))
        nll.append(terms[0].numpy())
        kl.append([level.numpy() for level in terms[1]])
    kl = [np.concatenate(level) for level in zip(*kl, strict=True)]
    return {
        "frames": length,
        "nll_per_frame": float(np.mean(np.concatenate(nll))),
        "kl_per_step": [float(np.mean(level)) for level in kl],
        "kl_sum": [float(np.mean(np.sum(level, 1))) for level in kl],
    }


def table(results: dict) -> str:
    """Returns the scores of `evaluate` as text."""
    soon = min(SOON, results["horizon"])
    lines = [
        f"step {results['step']}, protocol {results['protocol']}: {results['num_videos']} held-out"
        f" clips, {results['context']} context frames, {results['horizon']} predicted,"
        f" samples per clip: {results['num_samples']}",
        "",
        f"{'':22}" + "".join(f"{LABELS[metric]:>22}" for metric in METRICS),
        f"{'predicted frames':22}" + f"{f'first {soon}':>14}{'all':>8}" * len(METRICS),
    ]
    for name, scores in results["scores"].items():
        cells = (f"{s['mean_soon']:>14.3f}{s['mean']:>8.3f}" for s in scores.values())
        lines.append(f"{name:22}" + "".join(cells))
    elbo = results["elbo"]
    over = f"sum over {elbo['frames']} frames"
    lines += ["", f"{'KL [nats]':22}{'per active step':>22}{over:>22}"]
    for level, (step, total) in enumerate(zip(elbo["kl_per_step"], elbo["kl_sum"], strict=True)):
        name = f"level {level}" + (", the fastest" if level == 0 else "")
        lines.append(f"{name:22}{step:>22.4g}{total:>22.4g}")
    return "\n".join(lines)


def _mean_training_frame(config: Config, data) -> np.ndarray:
    longest = config.training.seq_len
    count = min(_MEAN_CLIPS, len(data))
    return trivial.mean_frame(data.clip(i, 0, min(longest, data.length(i))) for i in range(count))


def _summary(scores: dict[str, np.ndarray]) -> dict:
    """Averages [N, T] over videos, and over frames."""
    return {
        metric: {
            "mean": float(values.mean()),
            "mean_soon": float(values[:, :SOON].mean()),
            "soon": min(SOON, values.shape[1]),
            "standard_error": _standard_error(values.mean(1)),
            "per_frame": [round(float(v), 5) for v in values.mean(0)],
        }
        for metric, values in scores.items()
    }


def _standard_error(values: np.ndarray) -> float | None:
    """Of the mean of independent values; None for a single one, which says nothing of it."""
    return float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else None


def _write_curves(folder: pathlib.Path, scores: dict) -> None:
    columns = {
        f"{metric} {name}": by_metric[metric]["per_frame"]
        for name, by_metric in scores.items()
        for metric in METRICS
    }
    with open(folder / "curves.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["predicted_frame", *columns])
        for frame, row in enumerate(zip(*columns.values(), strict=True), 1):
            writer.writerow([frame, *row])
    curves = {
        LABELS[metric]: {name: scores[name][metric]["per_frame"] for name in scores}
        for metric in METRICS
    }
    visualize.save_curves(folder / "curves.png", curves)


def _write_samples(folder: pathlib.Path, config: Config, model: VideoModel, data) -> None:
    """Writes samples.gif, truth above predictions, and samples.png, one clip to the last frame.

    These pictures are the one thing that keeps frames: no more than a person looks at.
    """
    options = config.evaluation
    videos = range(min(_SHOWN_CLIPS, options.num_videos))
    context = rollouts.clips(data, videos, 0, options.context)
    begin = max(0, options.context - _SHOWN_CONTEXT)
    end = min(options.context + options.horizon, begin + _SHOWN_FRAMES)
    times = _strip_times(options.context, options.horizon)
    rows = [list(rollouts.clips(data, videos, begin, end - begin))]
    strips = [np.concatenate([data.clip(0, int(time), 1) for time in times])]
    for sample in range(_SHOWN_SAMPLES):
        video, strip = [context[:, begin:]], [context[0][times[times < options.context]]]
        for start, frames in rollouts.predict(model, context, options, sample, 0):
            frames, first = visualize.to_uint8(frames), options.context + start
            if first < end:
                video.append(frames[:, : end - first])
            within = (times >= first) & (times < first + frames.shape[1])
            strip.append(frames[0][times[within] - first])  # A copy: it keeps no other frame.
        rows.append(list(np.concatenate(video, 1)))
        strips.append(np.concatenate(strip))
    labels = ["truth", *(f"sample {i + 1}" for i in range(_SHOWN_SAMPLES))]
    scale = max(1, _SHOWN_SIZE // context.shape[2])
    grid = visualize.mark_context(visualize.grid(rows, scale=scale), options.context - begin)
    visualize.save_gif(folder / "samples.gif", visualize.label_rows(grid, labels))
    picture = visualize.filmstrip(strips, times.tolist(), labels, options.context)
    visualize.save_png(folder / "samples.png", picture)


def _strip_times(context: int, horizon: int) -> np.ndarray:
    """Which frames a film strip shows: the context's, then ever longer strides to the last."""
    seen = np.linspace(0, context - 1, min(3, context))
    predicted = context - 1 + np.geomspace(1, horizon, min(_STRIP_COLUMNS - 3, horizon))
    return np.unique(np.rint(np.concatenate([seen, predicted])).astype(int))
