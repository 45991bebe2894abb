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
from cwvae import checkpoints, export, lock, strategies
from cwvae import config as configuration
from cwvae.config import Config
from cwvae.errors import UserError, exit_on_user_error
from cwvae.startup import quiet_tensorflow

# What may change between a run's start and its going on: nothing that its weights depend on.
_CHANGEABLE = (
    "training.steps:",
    "training.log_every:",
    "training.video_every:",
    "training.video_length:",
    "training.save_every:",
    "training.keep:",
    "training.keep_every:",
    "training.strategy:",
    "training.accumulate:",
    "training.gradient_checkpointing:",
    "training.jit:",
    "training.steps_per_call:",
    "training.memory:",
    "training.skip_limit:",
    "data.data_dir:",
    "data.archives_dir:",
    "data.store:",
    "data.digits_dir:",
    "data.test_length:",
    "evaluation.",
)


def train(config: Config, logdir: str | pathlib.Path) -> signal.Signals | None:
    """Trains the model of a configuration, from the newest checkpoint in `logdir` on.

    Returns:
      The signal that ended it (Ctrl-C is SIGINT), after it saved; None where training is complete.

    Raises:
      UserError: A folder or data set that cannot be used; a training that broke.
    """
    strategies.check(config.training.strategy)
    (number, count), chief = strategies.workers(), strategies.is_chief()
    data = [data_loaders.load(split=split, **config.data_options()) for split in ("train", "test")]
    left_out = check_lengths(config, *data)
    if config.training.init_from and not checkpoints.steps(logdir):
        export.check_source(config.training.init_from, config)
    with lock.RunLock(logdir) if chief else contextlib.nullcontext():
        source = None if checkpoints.steps(logdir) else config.training.init_from
        if chief:
            prepare_folder(config, logdir)
            tell_left_out(left_out, config, pathlib.Path(logdir) / "left_out.txt")
        if count > 1:
            print(f"Worker {number} of TF_CONFIG's {count}: waiting for all.", file=sys.stderr)
        # TensorFlow starts here, once all that a user may have got wrong has been looked at.
        with quiet_tensorflow():
            from cwvae import factory, training

            strategy = strategies.build(config.training.strategy)
        with strategies.telling_of_lost_workers():
            strategies.check_same(strategy, json.dumps(configuration.as_plain(config)))
            with strategy.scope():
                model = factory.build(config, config.training.seed)
                if source:
                    export.load_weights(model, source)
            trainer = training.Trainer(config, model, *data, logdir, strategy)
            return None if trainer.run() else trainer.stopped_by


def check_lengths(config: Config, train_data, test_data) -> list[str]:
    """Returns the training clips that are too short, after checking that there are others.

    Raises:
      UserError: All clips of a split are too short for what is to be done with them.
    """
    for data in (train_data, test_data):
        data.at_least(config.evaluation.context + 1)
    return train_data.shorter_than(config.training.seq_len)


def tell_left_out(left_out: list[str], config: Config, path: pathlib.Path) -> None:
    """Says which clips are too short to be trained on, and lists them in a file."""
    if not left_out:
        return
    path.write_text("".join(f"{line}\n" for line in left_out))
    print(
        f"warning: {len(left_out)} training videos are shorter than training.seq_len ="
        f" {config.training.seq_len} and are left out; {path} lists them. The first: {left_out[0]}",
        file=sys.stderr,
    )


def prepare_folder(config: Config, logdir: str | pathlib.Path) -> None:
    """Makes a run's folder with its config.yml, or sees that the run there is the same.

    Raises:
      UserError: A folder that cannot be written, or that holds a run of another configuration.
    """
    path = pathlib.Path(logdir) / "config.yml"
    if path.is_file() and any(path.parent.glob("checkpoints/*.npz")):
        changed = configuration.differences(configuration.load(path), config)
        frozen = [
            line
            for line in changed
            # A folder of digits may move; with one in place of none the digits are others.
            if not line.startswith(_CHANGEABLE) or line.startswith("data.digits_dir: None")
        ]
        if frozen:
            lines, folder = "\n  ".join(frozen), shlex.quote(str(logdir))
            raise UserError(
                f"{logdir} holds a run of another configuration:\n  {lines}\nGive another --logdir,"
                f" or go on with that run as it is: python train.py --logdir {folder}"
            )
    configuration.save_run(config, logdir)


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
        config = configuration.load(path, changes)
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
