"""Evaluates a trained model: scores, FVD, ELBO, pictures and a report, in one folder.

`cwvae.evaluation.scoring` holds the loop over predictions. Symbols: N videos, T predicted frames.
"""

import concurrent.futures
import contextlib
import csv
import functools
import json
import pathlib
from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from cwvae import visualize
from cwvae.baselines import trivial
from cwvae.config import Config, as_plain
from cwvae.errors import MissingWeights, UserError
from cwvae.evaluation import (
    clip_scores,
    frame_scores,
    pictures,
    predictions,
    readout,
    report,
    rollouts,
    scoring,
    video_distance,
)
from cwvae.evaluation.report import charts
from cwvae.evaluation.results import (
    COPY,
    FOLDER,
    FORMAT,
    PREDICTIONS,
    check_folder,
    digest,
    heading,
)
from cwvae.evaluation.stopwatch import Stopwatch
from cwvae.metrics import fvd, protocols
from cwvae.run import files, versions
from cwvae.run.logs import write_scores
from cwvae.startup import many_traces, say
from cwvae.video_model import VideoModel

# Training clips that the mean frame averages. The random guess draws from one frame of each.
_TRAINING_CLIPS = 500


def evaluate(
    config: Config,
    model: VideoModel,
    step: int,
    train_data,
    test_data,
    logdir: str | pathlib.Path,
    out: str | pathlib.Path | None = None,
    save_predictions: bool = False,
) -> dict:
    """Scores a model, writes everything into a folder, and returns metrics.json's content.

    The folder appears, or replaces an earlier one, when all its files are complete.

    Args:
      config: The run's configuration.
      model: The trained model.
      step: Number of updates it was trained for.
      train_data: The training data set, for the guesses without a model and the readout.
      test_data: The held-out data set; the first clips that are long enough are scored.
      logdir: The run's folder.
      out: The folder to write; `eval` in the run's folder if None.
      save_predictions: Whether to write the predictions, too; see `predictions`.

    Raises:
      UserError: Clips are too short or too few, the folder cannot be written or another process is
        writing it, weights are damaged, required weights are missing, or predictions are not
        finite.
    """
    out = pathlib.Path(logdir) / FOLDER if out is None else pathlib.Path(out)
    about = {
        "step": step,
        "model": config.model.name,
        "weights": model.count_trainable(),
        "settings": as_plain(config),
    }
    where, data = f"{logdir}, step {step}", (train_data, test_data)
    return _evaluate(config, model, about, where, *data, out, logdir, save_predictions)


def evaluate_predictions(
    config: Config,
    saved: predictions.Predictions,
    name: str,
    file: str,
    train_data,
    test_data,
    out: str | pathlib.Path,
) -> dict:
    """Scores predictions from a file as `evaluate` scores those of a model.

    Args:
      config: The configuration of the data and the evaluation. Nothing else of it is used, except
        for the number of training frames behind the guesses without a model.
      saved: The predictions.
      name: The name of the model that made them.
      file: The name of the file.
      train_data: As for `evaluate`.
      test_data: As for `evaluate`.
      out: The folder to write.

    Raises:
      UserError: As for `evaluate`, or the predictions are of other clips.
    """
    plain = as_plain(config)
    settings = {
        "model": {key: plain["model"][key] for key in ("frame_size", "channels")},
        "data": plain["data"],
        "training": {"seq_len": plain["training"]["seq_len"]},
        "evaluation": plain["evaluation"],
    }
    about = {"step": None, "model": name, "weights": None, "settings": settings}
    about["predictions"] = file
    return _evaluate(config, saved, about, file, train_data, test_data, pathlib.Path(out))


def _evaluate(
    config: Config,
    model: VideoModel | predictions.Predictions,
    about: dict,
    where: str,
    train_data,
    test_data,
    out: pathlib.Path,
    logdir: str | pathlib.Path | None = None,
    save_predictions: bool = False,
) -> dict:
    """Scores a model or a file; `about` and `where` describe it in metrics.json and in messages."""
    watch = Stopwatch()
    held_out = rollouts.held_out(config.evaluation, test_data)
    if isinstance(model, predictions.Predictions):
        model.check_context(held_out, config.evaluation.context)
    check_folder(out)
    advice = "Wait until it ends, or give another folder with --out."
    with (
        files.whole_folder(out, f"evaluating into {out.name}", advice) as folder,
        _drawn(folder, config.evaluation, model, held_out, watch) as drawn,
    ):
        keep = contextlib.nullcontext()
        if save_predictions:
            keep = predictions.written(folder / PREDICTIONS, config.evaluation, held_out)
        with keep as writer:
            results, scores = _scores(
                config, model, about, where, train_data, test_data, held_out, watch, writer
            )
        text = json.dumps(results, indent=1, allow_nan=False) + "\n"
        files.write(folder / "metrics.json", text)
        clip_scores.write(folder, results, scores)
        _write_curves(folder, results)
        say("Writing pictures and the report ...")
        with watch.on("pictures"):
            samples, levels, segments = (picture.result() for picture in drawn)
            report.write(folder, results, samples, levels, segments, logdir)
    # An evaluation elsewhere leaves the run's folder as it is, which may be read-only.
    if logdir is not None and out.resolve().parent == pathlib.Path(logdir).resolve():
        write_scores(logdir, out.name, results)
    print(watch)
    return results


@contextlib.contextmanager
def _drawn(
    folder: pathlib.Path, options, model: VideoModel | predictions.Predictions, held_out, watch
) -> Iterator[list[concurrent.futures.Future]]:
    """Predicts what pictures show; yields their futures, drawn in a thread during a `with` block.

    The thread ends with the block: if that fails, pictures that are not drawn yet are dropped.
    """
    say("Predicting for pictures ...")
    # A thread suffices: encoders, NumPy, TensorFlow and the loops of metrics release Python's lock.
    thread, drawn = concurrent.futures.ThreadPoolExecutor(1, "pictures"), []
    try:
        with many_traces(), watch.on("model"):
            for predict in (pictures.samples, pictures.levels, pictures.boundaries):
                # The thread alone keeps the frames, until they are drawn.
                drawn.append(thread.submit(predict(folder, options, model, held_out)))
        yield drawn
    finally:
        thread.shutdown(cancel_futures=True)


def _scores(
    config: Config,
    model: VideoModel | predictions.Predictions,
    about: dict,
    where: str,
    train_data,
    test_data,
    held_out,
    watch: Stopwatch,
    writer: predictions.Writer | None,
) -> tuple[dict, clip_scores.Scores]:
    """Returns the content of metrics.json, and scores of clips. Arguments as for `_evaluate`."""
    options, name, not_computed = config.evaluation, about["model"], {}

    def optional(measure, make, *arguments, unless=MissingWeights):
        """Returns what `make` returns; if it raises `unless`, None, and notes why."""
        if getattr(options, measure) is False:
            not_computed[measure] = f"evaluation.{measure} is false."
            return None
        try:
            return make(*arguments)
        except unless as error:
            if getattr(options, measure) is True and unless is MissingWeights:
                raise UserError(f"evaluation.{measure}=true, but: {error}") from None
            not_computed[measure] = str(error)

    used = frame_scores.image_scores(protocols.names(options.protocol))
    used |= optional("lpips", frame_scores.lpips_score) or {}
    with watch.on("FVD"):
        distances = optional("fvd", _distances, options, name, held_out, train_data, test_data)
    # The attributes of mazes come from a package, which may be missing although frames are stored.
    reader = None
    if options.readout:
        # With one seed, so that all runs on this data share the readout.
        with watch.on("readout"):
            reader = optional("readout", readout.fit, train_data, unless=UserError)
    guesses = scoring.guesses(*_training_frames(config, train_data), options.seed)
    try:
        scores = scoring.score(
            options, name, model, held_out, used, guesses, reader, distances, watch, writer
        )
        distance_scores = watch.call("FVD", distances.results) if distances else None
    except ValueError as error:
        raise UserError(f"{where}: cannot be scored: {error}") from None
    elbo = None  # Predictions alone have none.
    if not isinstance(model, predictions.Predictions):
        elbo = watch.call("model", elbo_terms, config, model, held_out)
    whole = [metric for metric, one in used.items() if one.every_frame]
    results = {
        "format": FORMAT,
        **about,
        "data": config.data.name,
        "protocols": protocols.names(options.protocol),
        "context": options.context,
        "horizon": options.horizon,
        "num_videos": options.num_videos,
        "num_samples": options.num_samples,
        "observe_levels": options.observe_levels,
        "frames": "{}x{}x{}, values in [0, 1]".format(*held_out.frame_shape),
        "versions": versions.installed(),
        "metrics": scoring.metrics(used, reader, options.horizon),
        "not_computed": not_computed,
        "scores": {
            who: scoring.summary(values, () if who in guesses else whole)
            for who, values in scores.items()
        },
        "fvd": distance_scores,
        "elbo": elbo,
    }
    return results | {"sha256": digest(results)}, scores


def elbo_terms(config: Config, model: VideoModel, data) -> dict:
    """Computes the terms of Equation 5, in nats, on windows of `training.seq_len` held-out frames.

    Returns:
      `frames`: Frames of a window that the model explains. `nll_per_frame`. For each KL term, in
      the order of `kl_names`: `kl_per_step`, and `kl_sum` over the window (Table 2 of the paper).
    """
    options = config.evaluation
    shortest = min(data.length(i) for i in range(options.num_videos))
    length = min(config.training.seq_len, shortest)
    chosen = rollouts.observed_levels(options)

    @tf.function(autograph=False)
    def elbo(video, row):
        return model.elbo(video, options.seed, row=row, **chosen)[:2]

    nll, kl = [], []
    for videos in rollouts.batches(options):
        video = tf.constant(rollouts.clips(data, videos, 0, length))
        terms = elbo(video, tf.constant(videos.start))
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


def _distances(
    options, name: str, held_out, train_data, test_data
) -> video_distance.VideoDistances:
    """Raises MissingWeights also if there are too few frames or videos."""
    if why := video_distance.impossible(options.horizon, options.num_videos):
        raise MissingWeights(why)
    other, source = _other_real(options, train_data, test_data)

    def copies(number: int) -> np.ndarray:
        return np.repeat(held_out.clip(number, options.context - 1, 1), options.horizon, 0)

    return video_distance.VideoDistances(
        fvd.I3D(),
        name=name,
        horizon=options.horizon,
        num_videos=options.num_videos,
        truth=_continuations(held_out, options),
        others={COPY: copies},
        other_real=other,
        other_source=source,
        seed=options.seed,
    )


def _continuations(data, options) -> video_distance.Source:
    return functools.partial(data.clip, start=options.context, length=options.horizon)


def _other_real(options, train_data, test_data):
    """Returns N real videos that are not evaluated, and their source; or None and why not."""
    count, needed = options.num_videos, options.context + options.horizon
    for data, skip, name in ((test_data, count, "other held-out"), (train_data, 0, "training")):
        if data.clips.longest < needed:
            continue
        others = data.at_least(needed)[skip : skip + count]
        if len(others) == count:
            clips = data.select(others)
            return _continuations(clips, options), f"{count} {name} clips"
    return None, f"not computed: it takes {count} other real clips of {needed} frames"


def _training_frames(config: Config, data) -> tuple[np.ndarray, np.ndarray]:
    """Returns the mean training frame [H, W, C], and training frames to draw from [P, H, W, C]."""
    count = min(_TRAINING_CLIPS, len(data))
    longest = config.training.seq_len
    mean = trivial.mean_frame(data.clip(i, 0, min(longest, data.length(i))) for i in range(count))
    rng = np.random.default_rng(config.evaluation.seed)
    times = [rng.integers(data.length(i)) for i in range(count)]
    pool = np.concatenate([data.clip(i, int(time), 1) for i, time in enumerate(times)])
    return mean, pool.astype(np.float32) / 255


def _write_curves(folder: pathlib.Path, results: dict) -> None:
    """Writes curves.csv, a row per predicted frame, and curves.png, a panel per score."""
    columns = {
        f"{metric} {name}": summary["per_frame"]
        for name, summaries in results["scores"].items()
        for metric, summary in summaries.items()
    }
    with open(folder / "curves.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["predicted_frame", *columns])
        writer.writerows([t, *row] for t, row in enumerate(zip(*columns.values(), strict=True), 1))
    panels = [
        visualize.Panel(charts.of_metric(results, metric), "frames predicted", heading(about))
        for metric, about in results["metrics"].items()
    ]
    figure = visualize.draw_curves(panels)
    files.write(folder / "curves.png", visualize.figure_bytes(figure, "png"))
