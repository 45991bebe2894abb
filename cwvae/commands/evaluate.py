"""Evaluates a trained model on held-out clips.

    cwvae eval --logdir DIR [--step N] [--set evaluation.key=value ...] [--out NAME]
    cwvae eval --predictions FILE.npz --config FILE --name MODEL --out DIR     any model's

The results are in DIR/eval. With another step or other settings they have their own folder, such as
DIR/eval-horizon_300, or DIR/NAME. The last line of the output names the folder.

With --save-predictions, predictions.npz there holds the predicted frames. With --predictions, the
frames of such a file are scored, which any other program may have written: docs/evaluation.md.

LPIPS and FVD need weights that cannot be part of this project: --fetch-weights, once, downloads
them. Without them everything else is computed.
"""

import argparse
import pathlib
import shlex

import data_loaders
from cwvae import config as configuration
from cwvae import export
from cwvae.comparison.runs import check_label
from cwvae.config import Config
from cwvae.errors import UserError, exit_on_user_error
from cwvae.evaluation import predictions, results, video_distance
from cwvae.installation import command
from cwvae.metrics import weights
from cwvae.run import checkpoints
from cwvae.run import folder as run_folder
from cwvae.startup import starting_tensorflow


def evaluate(
    config: Config,
    logdir: str | pathlib.Path,
    step: int | None = None,
    out: str | pathlib.Path | None = None,
    fetch_weights: bool = False,
    save_predictions: bool = False,
    data=None,
) -> dict:
    """Evaluates the checkpoint of a step; by default the newest intact one.

    See `cwvae.evaluation.evaluator.evaluate`. `fetch_weights` first downloads the weights of LPIPS
    and FVD that are missing. `data` holds the training and the test data set; by default they are
    those of the configuration.
    """
    data = data or [
        data_loaders.load(split=split, **config.data_options()) for split in ("train", "test")
    ]
    run_folder.warn_of_other_data(logdir, data[0])
    export.find(logdir, step)
    if export.is_export(logdir) and config.training.ema and not config.evaluation.ema:
        raise UserError(
            f"evaluation.ema = false: {logdir} is an export, which holds only the averaged weights."
            " Evaluate the run that it was made from, or set it to true."
        )
    folder = pathlib.Path(logdir) / results.FOLDER if out is None else pathlib.Path(out)
    results.check_folder(folder)
    if save_predictions:
        needed = predictions.size(config.evaluation, data[1].frame_shape)
        predictions.check_room(folder.parent, needed)
        print(f"Saving the predictions: {predictions.size_text(needed)}.", flush=True)
    if fetch_weights:
        _fetch_weights(config)
    _check_required(config)
    # TensorFlow starts slowly: first check everything that a user may have got wrong.
    with starting_tensorflow():
        from cwvae import factory
        from cwvae.evaluation import evaluator

    model = factory.build(config)
    step = export.restore(logdir, step, model, config.evaluation.ema)
    return evaluator.evaluate(config, model, step, *data, logdir, out, save_predictions)


def evaluate_predictions(
    config: Config,
    path: str | pathlib.Path,
    name: str,
    out: str | pathlib.Path,
    fetch_weights: bool = False,
) -> dict:
    """Scores predictions from a file, which any model may have made.

    Args:
      config: The configuration of the data and the evaluation.
      path: The file; see `cwvae.evaluation.predictions`.
      name: The model's name, for tables.
      out: The folder to write, as an evaluation of a run does.
      fetch_weights: Whether to download weights first, as for `evaluate`.

    Returns:
      The content of metrics.json.

    Raises:
      UserError: The file is damaged, or does not fit the configuration, or the folder cannot be
        written.
    """
    path, out = pathlib.Path(path), pathlib.Path(out)
    check_label(name, f"--name {name}")
    with predictions.opened(path) as saved:
        if path.resolve().parent == out.resolve():
            raise UserError(
                f"{out}: an evaluation replaces this folder, and with it {path}. Give another"
                " folder with --out."
            )
        results.check_folder(out)
        if fetch_weights:
            _fetch_weights(config)
        _check_required(config)
        size, channels = config.model.frame_size, config.model.channels
        saved.check_fit(config.evaluation, (size, size, channels))
        print(f"Reading {path} ({predictions.size_text(path.stat().st_size)}).", flush=True)
        saved.check_values()
        splits = ("train", "test")
        data = [data_loaders.load(split=split, **config.data_options()) for split in splits]
        with starting_tensorflow():
            from cwvae.evaluation import evaluator

        return evaluator.evaluate_predictions(config, saved, name, path.name, *data, out)


def _fetch_weights(config: Config) -> None:
    """Downloads the weights of the measures that the settings do not leave out."""
    weights.fetch(names=[name for name in weights.SOURCES if getattr(config.evaluation, name)])


def _check_required(config: Config) -> None:
    """Raises a UserError with all that the settings demand and that cannot be computed."""
    options, problems = config.evaluation, []
    for name in weights.SOURCES:
        if getattr(options, name) is not True:
            continue
        try:
            if name == "fvd" and (
                why := video_distance.impossible(options.horizon, options.num_videos)
            ):
                raise UserError(why)
            weights.find(name)
        except UserError as error:
            problems.append(f"evaluation.{name}=true, but: {error}")
    if problems:
        raise UserError("\n".join(problems))


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--logdir", help="the run's folder (required, except with --predictions)")
    parser.add_argument("--step", type=int, help="the checkpoint; the newest by default")
    parser.add_argument(
        "--set", action="append", default=[], metavar="section.key=value", help="may be repeated"
    )
    parser.add_argument(
        "--fetch-weights", action="store_true", help="first download the weights of LPIPS and FVD"
    )
    parser.add_argument(
        "--out",
        metavar="NAME",
        help="the folder to write: a name in the run's folder, or a path such as ./NAME",
    )
    parser.add_argument(
        "--save-predictions", action="store_true", help="also write predictions.npz: all frames"
    )
    parser.add_argument("--predictions", metavar="FILE.npz", help="score the frames in this file")
    parser.add_argument(
        "--config", help="with --predictions: the configuration of the clips, such as quickstart"
    )
    parser.add_argument("--name", help="with --predictions: the model's name, for tables")
    arguments = configuration.parse_arguments(parser)
    _check_arguments(parser, arguments)
    with exit_on_user_error():
        if arguments.predictions:
            config = configuration.load(arguments.config, arguments.set, purpose="evaluation")
            out = pathlib.Path(arguments.out).expanduser()
            scores = evaluate_predictions(
                config, arguments.predictions, arguments.name, out, arguments.fetch_weights
            )
            print(results.table(scores))
            print(f"\nWritten to {out}.")
            return
        config = run_folder.load_config(arguments.logdir, arguments.set)
        out = folder_for(config, arguments.logdir, arguments.step, arguments.out)
        fetch, save = arguments.fetch_weights, arguments.save_predictions
        scores = evaluate(config, arguments.logdir, arguments.step, out, fetch, save)
        print(results.table(scores))
        print(f"\nWritten to {out}.")


def _check_arguments(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
    """Ends the script if options are missing or do not go together."""
    if not arguments.predictions:
        if not arguments.logdir:
            parser.error("the following arguments are required: --logdir")
        if alone := [word for word in ("config", "name") if getattr(arguments, word)]:
            parser.error(f"--{alone[0]} goes with --predictions FILE.npz")
        return
    words = ("config", "name", "out")
    if arguments.logdir:
        file = shlex.quote(str(pathlib.Path(arguments.logdir) / "config.yml"))
        parser.error(
            "give either --logdir or --predictions. To score predictions of this run's clips:"
            f" {command('eval')} --predictions {shlex.quote(arguments.predictions)} --config {file}"
            " --name MODEL --out DIR"
        )
    if arguments.step is not None or arguments.save_predictions:
        parser.error("--step and --save-predictions go with --logdir")
    if missing := [f"--{word}" for word in words if not getattr(arguments, word)]:
        parser.error(f"--predictions also needs {', '.join(missing)}")


def folder_for(
    config: Config, logdir: str | pathlib.Path, step: int | None = None, out: str | None = None
) -> pathlib.Path:
    """Returns the folder to write: the one that was given, or the one of the settings."""
    if out is not None:
        return results.folder_at(logdir, out)
    own = configuration.load(configuration.run_path(logdir), purpose="data")
    newest = step == max(checkpoints.steps(logdir), default=None)
    changed = results.changes(*map(configuration.as_plain, (own, config)))
    name = results.folder_name(changed, None if newest else step)
    return pathlib.Path(logdir) / name
