"""Trains a model.

    python train.py --config configs/quickstart.yml [--logdir DIR] [--set section.key=value ...]
    python train.py --logdir DIR        goes on with a run

Without --logdir the run goes to logs/<name of the configuration>.
"""

import argparse
import pathlib
import shlex
import sys

import data_loaders
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
    "data.data_dir:",
    "data.digits_dir:",
    "data.test_length:",
    "evaluation.",
)


def train(config: Config, logdir: str | pathlib.Path) -> bool:
    """Trains the model of a configuration, from the newest checkpoint in `logdir` on.

    Returns:
      Whether training is complete; False if Ctrl-C ended it.

    Raises:
      UserError: A folder or data set that cannot be used; a training that broke.
    """
    data = [data_loaders.load(split=split, **config.data_options()) for split in ("train", "test")]
    prepare_folder(config, logdir)
    # TensorFlow starts here, once all that a user may have got wrong has been looked at.
    with quiet_tensorflow():
        from cwvae import factory, training

    model = factory.build(config, config.training.seed)
    return training.Trainer(config, model, *data, logdir).run()


def prepare_folder(config: Config, logdir: str | pathlib.Path) -> None:
    """Makes a run's folder with its config.yml, or sees that the run there is the same.

    Raises:
      UserError: A folder that cannot be written, or that holds a run of another configuration.
    """
    path = pathlib.Path(logdir) / "config.yml"
    if path.is_file() and any(path.parent.glob("checkpoints/*.npz")):
        changed = configuration.differences(configuration.load(path), config)
        frozen = [line for line in changed if not line.startswith(_CHANGEABLE)]
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
        config = configuration.load(path, arguments.set)
        complete = train(config, logdir)
    folder = shlex.quote(str(logdir))
    if not complete:
        print(f"Stopped and saved. To go on: python train.py --logdir {folder}")
        return 130
    print(f"Trained. To evaluate: python eval.py --logdir {folder}")
    print(f"To look: tensorboard --logdir {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
