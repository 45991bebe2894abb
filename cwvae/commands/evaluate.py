"""Evaluates a trained model on held-out clips.

cwvae eval --logdir DIR [--step N] [--set evaluation.key=value ...] [--out NAME]

The results are in DIR/eval. With another step or other settings they have their own folder, such as
DIR/eval-horizon_300, or DIR/NAME. The last line of the output names the folder.

LPIPS and FVD need weights that cannot be part of this project: --fetch-weights, once, downloads
them. Without them everything else is computed.
"""

import argparse
import pathlib

import data_loaders
from cwvae import config as configuration
from cwvae import export
from cwvae.config import Config
from cwvae.errors import exit_on_user_error
from cwvae.evaluation import results
from cwvae.metrics import weights
from cwvae.run import checkpoints
from cwvae.run import folder as run_folder
from cwvae.startup import quiet_tensorflow


def evaluate(
    config: Config,
    logdir: str | pathlib.Path,
    step: int | None = None,
    out: str | pathlib.Path | None = None,
    data=None,
) -> dict:
    """Evaluates the checkpoint of a step; by default the newest intact one.

    `data` holds the training and the test data set; by default they are those of the
    configuration. See `cwvae.evaluation.evaluator.evaluate`.
    """
    data = data or [
        data_loaders.load(split=split, **config.data_options()) for split in ("train", "test")
    ]
    run_folder.warn_of_other_data(logdir, data[0])
    export.find(logdir, step)
    if out is not None:
        results.check_folder(pathlib.Path(out))
    for name in weights.SOURCES:
        if getattr(config.evaluation, name) is True:
            weights.find(name)
    # TensorFlow starts slowly: first check everything that a user may have got wrong.
    with quiet_tensorflow():
        from cwvae import factory
        from cwvae.evaluation import evaluator

    model = factory.build(config)
    step = export.restore(logdir, step, model)
    return evaluator.evaluate(config, model, step, *data, logdir, out)


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
        out = folder_for(config, arguments.logdir, arguments.step, arguments.out)
        if arguments.fetch_weights:
            weights.fetch()
        scores = evaluate(config, arguments.logdir, arguments.step, out)
        print(results.table(scores))
        print(f"\nWritten to {out}.")


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
