"""Evaluates a trained model on held-out clips and writes DIR/eval.

python eval.py --logdir DIR [--step N] [--set evaluation.key=value ...]

LPIPS and FVD need weights that cannot be part of this project. Without them everything else is
computed, and the output says how to get them.
"""

import argparse
import pathlib
import sys
from collections.abc import Collection, Mapping

import data_loaders
from cwvae import export
from cwvae.config import Config
from cwvae.errors import UserError, exit_on_user_error, unknown_name
from cwvae.evaluation import results
from cwvae.metrics import fvd, lpips
from cwvae.run import folder as run_folder
from cwvae.startup import quiet_tensorflow


def evaluate(
    config: Config,
    logdir: str | pathlib.Path,
    step: int | None = None,
    weights: Mapping[str, str | None] | None = None,
    required: Collection[str] = (),
) -> dict:
    """Evaluates the checkpoint of a step; by default the newest intact one.

    See `cwvae.evaluation.evaluator.evaluate`.
    """
    data = [data_loaders.load(split=split, **config.data_options()) for split in ("train", "test")]
    run_folder.warn_of_other_data(logdir, data[0])
    export.find(logdir, step)
    for name, find in (("lpips", lpips.find), ("fvd", fvd.find_module)):
        given = (weights or {}).get(name)
        if given is not None or name in required:
            find(given)
    # TensorFlow starts slowly: first check everything that a user may have got wrong.
    with quiet_tensorflow():
        from cwvae import factory
        from cwvae.evaluation import evaluator

    model = factory.build(config)
    step = export.restore(logdir, step, model)
    return evaluator.evaluate(config, model, step, *data, logdir, weights, required)


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
    parser.add_argument("--lpips", metavar="FILE", help="the weights that LPIPS needs")
    parser.add_argument("--i3d", metavar="DIR", help="the TF-Hub module that FVD needs")
    parser.add_argument(
        "--require", default="", metavar="fvd,lpips", help="fail if these cannot be computed"
    )
    arguments = parser.parse_args()
    with exit_on_user_error():
        config = run_folder.load_config(arguments.logdir, arguments.set)
        weights = {"lpips": arguments.lpips, "fvd": arguments.i3d}
        required = [name.strip() for name in arguments.require.split(",") if name.strip()]
        for name in required:
            if name not in weights:
                raise UserError(f"--require: {unknown_name('measure', name, weights)}")
        scores = evaluate(config, arguments.logdir, arguments.step, weights, required)
        print(results.table(scores))
        print(f"\nWritten to {pathlib.Path(arguments.logdir) / 'eval'}.")


if __name__ == "__main__":
    sys.exit(main())
