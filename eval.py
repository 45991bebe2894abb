"""Evaluates a trained model on held-out clips.

python eval.py --logdir DIR [--step N] [--set evaluation.key=value ...] [--out NAME]

The results are in DIR/eval. With another step or other settings they have their own folder, such as
DIR/eval-horizon_300, or DIR/NAME. The last line of the output names the folder.

LPIPS and FVD need weights that cannot be part of this project: --fetch-weights, once, downloads
them. Without them everything else is computed.
"""

import argparse
import pathlib
import sys

try:
    import data_loaders
    from cwvae import config as configuration
    from cwvae import export
    from cwvae.config import Config
    from cwvae.errors import UserError, exit_on_user_error
    from cwvae.evaluation import results, video_distance
    from cwvae.metrics import weights
    from cwvae.run import checkpoints
    from cwvae.run import folder as run_folder
    from cwvae.startup import quiet_tensorflow
except KeyboardInterrupt:  # These imports take a moment.
    print("interrupted", file=sys.stderr)
    sys.exit(130)


def evaluate(
    config: Config,
    logdir: str | pathlib.Path,
    step: int | None = None,
    out: str | pathlib.Path | None = None,
    fetch_weights: bool = False,
) -> dict:
    """Evaluates the checkpoint of a step; by default the newest intact one.

    See `cwvae.evaluation.evaluator.evaluate`. `fetch_weights` first downloads the weights of LPIPS
    and FVD that are missing.
    """
    data = [data_loaders.load(split=split, **config.data_options()) for split in ("train", "test")]
    run_folder.warn_of_other_data(logdir, data[0])
    export.find(logdir, step)
    if out is not None:
        results.check_folder(pathlib.Path(out))
    if fetch_weights:
        weights.fetch(names=[n for n in weights.SOURCES if getattr(config.evaluation, n)])
    _check_required(config)
    # TensorFlow starts slowly: first check everything that a user may have got wrong.
    with quiet_tensorflow():
        from cwvae import factory
        from cwvae.evaluation import evaluator

    model = factory.build(config)
    step = export.restore(logdir, step, model)
    return evaluator.evaluate(config, model, step, *data, logdir, out)


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
    parser.add_argument("--logdir", help="the run's folder (required)")
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
    arguments = configuration.parse_arguments(parser)
    if not arguments.logdir:
        parser.error("the following arguments are required: --logdir")
    with exit_on_user_error():
        config = run_folder.load_config(arguments.logdir, arguments.set)
        out = _folder(arguments, config)
        scores = evaluate(config, arguments.logdir, arguments.step, out, arguments.fetch_weights)
        print(results.table(scores))
        print(f"\nWritten to {out}.")


def _folder(arguments: argparse.Namespace, config: Config) -> pathlib.Path:
    """Returns the folder to write: the one that was given, or the one of the settings."""
    if arguments.out is not None:
        return results.folder_at(arguments.logdir, arguments.out)
    own = configuration.load(configuration.run_path(arguments.logdir), purpose="data")
    newest = arguments.step == max(checkpoints.steps(arguments.logdir), default=None)
    changed = results.changes(*map(configuration.as_plain, (own, config)))
    name = results.folder_name(changed, None if newest else arguments.step)
    return pathlib.Path(arguments.logdir) / name


if __name__ == "__main__":
    sys.exit(main())
