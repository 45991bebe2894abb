"""Trains a model.

    python train.py --config configs/quickstart.yml [--logdir DIR] [--set section.key=value ...]
    python train.py --logdir DIR        goes on with a run
    python train.py --config FILE --init-from RUN       starts from another run's weights

Without --logdir the run goes to logs/<name of the configuration>.
"""

import argparse
import contextlib
import json
import pathlib
import shlex
import signal
import sys

import data_loaders
from cwvae import config as configuration
from cwvae import export
from cwvae.config import Config
from cwvae.errors import exit_on_user_error
from cwvae.run import checkpoints
from cwvae.run import folder as run_folder
from cwvae.startup import quiet_tensorflow
from cwvae.training import strategies


def train(config: Config, logdir: str | pathlib.Path) -> signal.Signals | None:
    """Trains the model of a configuration, from the newest checkpoint in `logdir` on.

    Returns:
      The signal that ended it (Ctrl-C is SIGINT), after it saved; None where training is complete.

    Raises:
      UserError: A folder or data set that cannot be used; a training that broke.
    """
    strategies.check(config.training.strategy)
    (number, count), chief = strategies.workers(), strategies.is_chief()
    # Before the data, which may take hours to prepare.
    run_folder.check(config, logdir)
    if config.training.init_from and not checkpoints.steps(logdir):
        export.check_source(config.training.init_from, config)
    data = [data_loaders.load(split=split, **config.data_options()) for split in ("train", "test")]
    left_out = run_folder.check_lengths(config, *data)
    with run_folder.locked(logdir) if chief else contextlib.nullcontext():
        source = None if checkpoints.steps(logdir) else config.training.init_from
        if chief:
            run_folder.prepare(config, logdir, data[0].fingerprint)
            run_folder.tell_left_out(left_out, config, logdir)
        if count > 1:
            print(f"Worker {number} of TF_CONFIG's {count}: waiting for all.", file=sys.stderr)
        # TensorFlow starts here, once all that a user may have got wrong has been looked at.
        with quiet_tensorflow():
            from cwvae import factory
            from cwvae.training import loop

            strategy = strategies.build(config.training.strategy)
        with strategies.telling_of_lost_workers():
            strategies.check_same(strategy, json.dumps(configuration.as_plain(config)))
            with strategy.scope():
                model = factory.build(config, config.training.seed)
                if source:
                    export.load_weights(model, source)
            trainer = loop.Trainer(config, model, *data, logdir, strategy)
            return None if trainer.run() else trainer.stopped_by


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", help="an experiment's YAML file, as in configs/")
    parser.add_argument("--logdir", help="the run's folder")
    parser.add_argument(
        "--init-from",
        metavar="PATH",
        help="start from the weights of a run, an export or a checkpoint",
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="section.key=value", help="may be repeated"
    )
    arguments = parser.parse_args()
    if not arguments.config and not arguments.logdir:
        parser.error("give --config for a new run, or --logdir to go on with one")
    return arguments


def main() -> int:
    """Runs the command line; returns the exit code."""
    arguments = _arguments()
    with exit_on_user_error():
        logdir = arguments.logdir or f"logs/{pathlib.Path(arguments.config).stem}"
        path = arguments.config or configuration.run_path(logdir)
        changes = list(arguments.set)
        if arguments.init_from:
            # Absolute, so that the run's folder may be gone on with from anywhere.
            source = str(pathlib.Path(arguments.init_from).resolve())
            changes.append(f"training.init_from={json.dumps(source)}")
        config = configuration.with_absolute_paths(configuration.load(path, changes))
        stopped_by = train(config, logdir)
    folder = shlex.quote(str(logdir))
    if stopped_by:
        print(f"Stopped and saved. To go on: python train.py --logdir {folder}")
        return 128 + stopped_by
    print(f"Trained. To evaluate: python eval.py --logdir {folder}")
    print(f"To look: tensorboard --logdir {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
