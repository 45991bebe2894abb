"""Times open-loop prediction with the paper's small model.

    python benchmarks/rollout.py [--precision bfloat16] [--batch 8] [--horizon 964]
    python benchmarks/rollout.py --yardstick OTHER.py     beside another script's TRAINING, in turn

Prints one JSON line. OTHER.py takes --batch, --length and --repeats, and prints a JSON line with
`train_frames_per_second`.
"""

import argparse
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))

import timing

from cwvae import config as configuration
from cwvae.startup import quiet_tensorflow

CONTEXT = 36


def measure(options: argparse.Namespace) -> dict:
    """Returns frames per second of open-loop prediction, on this machine."""
    with quiet_tensorflow():
        import numpy as np
        import tensorflow as tf

        from cwvae import factory

    config = configuration.load(None, [f"training.precision={options.precision}"])
    model = factory.build(config, seed=0)
    shape = (options.batch, CONTEXT, 64, 64, 1)
    context = tf.constant(np.random.default_rng(0).integers(0, 256, shape, np.uint8))

    def predict() -> None:
        for chunk in model.predict_chunks(context, options.horizon, 0):
            chunk.frames.numpy()

    seconds = timing.seconds(predict, options.repeats)
    return {
        "device": timing.device_name(),
        "precision": options.precision,
        "batch": options.batch,
        "horizon": options.horizon,
        "frames_per_second": round(options.batch * options.horizon / seconds, 1),
        "peak_rss_mib": round(timing.peak_memory()),
    }


def main() -> None:
    """Runs the command line."""
    parser = timing.arguments(__doc__)
    parser.add_argument("--horizon", type=int, default=964, help="frames predicted")
    timing.main(__file__, parser, measure, "frames_per_second", ["precision", "horizon"])


if __name__ == "__main__":
    main()
