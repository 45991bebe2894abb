"""Evaluates a trained model on held-out clips and writes DIR/eval.

python eval.py --logdir DIR [--step N] [--set evaluation.key=value ...]
"""

import argparse
import pathlib
import sys

import data_loaders
from cwvae import checkpoints
from cwvae import config as configuration
from cwvae.config import Config
from cwvae.errors import exit_on_user_error
from cwvae.startup import quiet_tensorflow


def evaluate(config: Config, logdir: str | pathlib.Path, step: int | None = None) -> dict:
    """Evaluates the checkpoint of a step, the newest whole one if None.

    See `cwvae.evaluation.evaluate`.
    """
    data = [data_loaders.load(split=split, **config.data_options()) for split in ("train", "test")]
    checkpoints.find(logdir, step)
    # TensorFlow starts here, once all that a user may have got wrong has been looked at.
    with quiet_tensorflow():
        from cwvae import evaluation, factory

    model = factory.build(config)
    step = checkpoints.restore_step(logdir, step, model)["step"]
    return evaluation.evaluate(config, model, step, *data, logdir)


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--logdir", required=True, help="the run's folder")
    parser.add_argument("--step", type=int, help="the checkpoint; the newest by default")
    parser.add_argument(
        "--set", action="append", default=[], metavar="section.key=value", help="may be repeated"
    )
    arguments = parser.parse_args()
    with exit_on_user_error():
        config = configuration.load_run(arguments.logdir, arguments.set)
        results = evaluate(config, arguments.logdir, arguments.step)

        from cwvae import evaluation

        print(evaluation.table(results))
        print(f"\nWritten to {pathlib.Path(arguments.logdir) / 'eval'}.")


if __name__ == "__main__":
    sys.exit(main())
