"""Evaluates a trained model on held-out clips and writes DIR/eval.

python eval.py --logdir DIR [--step N] [--set evaluation.key=value ...]
"""

import argparse
import os
import pathlib
import sys

import data_loaders
from cwvae import config as configuration
from cwvae.config import Config
from cwvae.errors import exit_on_user_error


def evaluate(config: Config, logdir: str | pathlib.Path, step: int | None = None) -> dict:
    """Evaluates the checkpoint of a step, the newest if None; see `cwvae.evaluation.evaluate`."""
    data = [data_loaders.load(split=split, **config.data_options()) for split in ("train", "test")]
    # TensorFlow starts here, once all that a user may have got wrong has been looked at.
    from cwvae import checkpoints, evaluation, factory

    path = checkpoints.find(logdir, step)
    model = factory.build(config)
    step = checkpoints.restore(path, model)
    return evaluation.evaluate(config, model, step, *data, logdir)


def main() -> None:
    """Runs the command line."""
    # Else TensorFlow tells of its build and of missing GPUs before anything else.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
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
