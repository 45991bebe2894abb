"""Times the training step of the paper's small model, and measures its memory.

    python benchmarks/train_step.py [--precision bfloat16] [--batch 8] [--length 100]
    python benchmarks/train_step.py --levels 4 --factor 4       another hierarchy
    python benchmarks/train_step.py --config configs/baselines/moving_mnist_svg.yml    another model
    python benchmarks/train_step.py --yardstick OTHER.py        times another script in turn

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


def measure(options: argparse.Namespace) -> dict:
    """Returns frames per second and peak memory of training, on this machine."""
    with quiet_tensorflow():
        import numpy as np
        import tensorflow as tf

        from cwvae import factory
        from cwvae.training import loop
        from cwvae.training import step as training_step

    hierarchy = [f"model.levels={options.levels}", f"model.factor={options.factor}"]
    config = configuration.load(
        options.config or None,
        [
            f"training.precision={options.precision}",
            f"training.batch_size={options.batch}",
            f"training.accumulate={options.accumulate}",
            f"training.gradient_checkpointing={options.checkpointing or 'null'}",
            f"training.seq_len={options.length}",
            f"data.train_length={options.length}",
            *([] if options.config else hierarchy),
        ],
    )
    model = factory.build(config, seed=0)
    optimizer = loop.build_optimizer(config.training, model)
    # As the training script does: the step within the loop over several steps.
    step = training_step.build_step(config, model, optimizer, jit=bool(options.jit))
    steps = training_step.build_steps(config, step, optimizer, tf.distribute.get_strategy())
    size, channels = config.model.frame_size, config.model.channels
    shape = (options.batch, options.length, size, size, channels)
    video = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    batches = iter(tf.data.Dataset.from_tensors(video).repeat())
    arguments = tf.constant(0, tf.int64), tf.constant(1), tf.constant(0.0)
    seconds = timing.seconds(lambda: steps(batches, *arguments)["loss"].numpy(), options.repeats)
    return {
        "device": timing.device_name(),
        "precision": options.precision,
        "batch": options.batch,
        "length": options.length,
        **(
            {"config": options.config}
            if options.config
            else {"levels": options.levels, "factor": options.factor}
        ),
        "parameters": model.count_trainable(),
        "frames_per_second": round(options.batch * options.length / seconds, 1),
        "peak_rss_mib": round(timing.peak_memory()),
    }


def main() -> None:
    """Runs the command line."""
    parser = timing.arguments(__doc__)
    parser.add_argument("--config", default="", metavar="FILE", help="an experiment's")
    parser.add_argument("--levels", type=int, default=3)
    parser.add_argument("--factor", type=int, default=6)
    parser.add_argument("--accumulate", type=int, default=1)
    parser.add_argument("--checkpointing", type=int, default=0, metavar="FRAMES")
    parser.add_argument("--jit", type=int, default=0, help="1: compile the step with XLA")
    own = ["precision", "config", "levels", "factor", "accumulate", "checkpointing", "jit"]
    timing.main(__file__, parser, measure, "frames_per_second", own)


if __name__ == "__main__":
    main()
