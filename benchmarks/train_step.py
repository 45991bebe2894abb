"""Times the training step of the paper's small model, and measures its memory.

    python benchmarks/train_step.py [--precision bfloat16] [--batch 8] [--length 100]
    python benchmarks/train_step.py --levels 4 --factor 4       another hierarchy
    python benchmarks/train_step.py --config configs/baselines/moving_mnist_svg.yml    another model
    python benchmarks/train_step.py --jit 1                     the step compiled by XLA
    python benchmarks/train_step.py --yardstick OTHER.py        compares with another script

Prints one JSON line. `share_of_products` is the step's rate of arithmetic divided by that of
products of 2048x2048 matrices in the same precision, measured right afterwards. --length is the
number of frames per clip; --checkpointing FRAMES sets training.gradient_checkpointing. OTHER.py
takes --batch, --length and --repeats, and prints a JSON line with `train_frames_per_second`. Both
take --rounds turns.
"""

import argparse

import timing

from cwvae import config as configuration
from cwvae.startup import quiet_tensorflow


def measure(options: argparse.Namespace) -> dict:
    """Returns frames per second and peak memory of training, on this machine."""
    with quiet_tensorflow():
        import numpy as np
        import tensorflow as tf

        from cwvae import factory
        from cwvae.training import loop, memory
        from cwvae.training import step as training_step

    hierarchy = [f"model.levels={options.levels}", f"model.factor={options.factor}"]
    config = configuration.load(
        options.config or None,
        [
            f"training.precision={options.precision}",
            f"training.kernels={options.kernels}",
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
    operations = memory.cost(steps.get_concrete_function(batches, *arguments).graph).operations
    seconds = timing.seconds(lambda: steps(batches, *arguments)["loss"].numpy(), options.repeats)
    # Afterwards, in the memory that the step has left, so that the peak is the step's.
    matrix = tf.cast(tf.random.normal((2048, 2048)), options.precision)
    of_product = timing.seconds(lambda: tf.linalg.matmul(matrix, matrix)[0, 0].numpy(), 16)
    return {
        "device": timing.device_name(),
        "precision": options.precision,
        "kernels": options.kernels,
        "batch": options.batch,
        "length": options.length,
        **(
            {"config": options.config}
            if options.config
            else {"levels": options.levels, "factor": options.factor}
        ),
        "parameters": model.count_trainable(),
        "frames_per_second": round(options.batch * options.length / seconds, 1),
        "share_of_products": round(operations / seconds / (2 * 2048**3 / of_product), 3),
        "peak_rss_mib": round(timing.peak_memory()),
    }


if __name__ == "__main__":
    timing.main(
        __doc__,
        measure,
        precision="float32",
        kernels="auto",
        config="",
        levels=3,
        factor=6,
        accumulate=1,
        checkpointing=0,
        jit=0,
    )
