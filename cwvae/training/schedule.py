"""The learning rate as a function of the step (`training.schedule`, `training.warmup`).

With S = `training.steps` and a warm-up of W = `training.warmup` steps, the learning rate of step n
= 0, 1, ..., S - 1 is

    training.learning_rate * min(1, (n + 1) / W) * decay(n)

where decay(n) is 1 for a constant schedule and, for a cosine schedule (Loshchilov & Hutter 2017,
without restarts), falls from 1 at step W to 0 at step S:

    decay(n) = (1 + cos(pi * p)) / 2    with    p = clip((n - W) / (S - W), 0, 1)

A run that ends within its warm-up, such as a short trial, has decay(n) = 1. The learning rate
depends on nothing else, so a resumed run has the learning rates of an uninterrupted one.
"""

import math

import tensorflow as tf

from cwvae.config import TrainingConfig


def factor(options: TrainingConfig, number: tf.Tensor) -> tf.Tensor:
    """Returns the factor for `training.learning_rate` at a step, float64.

    Args:
      options: The settings of training.
      number: The number n of the step, int64: how many there were before it.
    """
    n = tf.cast(number, tf.float64)  # float32 has no whole numbers above 17 million.
    warmup = tf.minimum((n + 1) / max(options.warmup, 1), 1)
    if options.schedule == "constant":
        return warmup
    part = (n - options.warmup) / max(options.steps - options.warmup, 1)
    return warmup * (1 + tf.cos(math.pi * tf.clip_by_value(part, 0, 1))) / 2


def learning_rate(options: TrainingConfig, number: int) -> float:
    """Returns the learning rate of a step; arguments as for `factor`."""
    return options.learning_rate * float(factor(options, tf.constant(number, tf.int64)))
