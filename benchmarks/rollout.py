"""Times open-loop prediction with the paper's small model.

    python benchmarks/rollout.py [--precision bfloat16] [--batch 8] [--horizon 964]
    python benchmarks/rollout.py --yardstick OTHER.py     compares with another script's TRAINING

Prints one JSON line. OTHER.py takes --batch, --length (frames per clip in training) and --repeats,
and prints a JSON line with `train_frames_per_second`. Both take --rounds turns.
"""

import argparse

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


if __name__ == "__main__":
    timing.main(__doc__, measure, precision="float32", horizon=964)
