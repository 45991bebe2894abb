"""Batch normalization (Ioffe & Szegedy 2015) without side effects.

Layers do not update their moving statistics. In training they report the batch's statistics, which
the model returns with its loss. The training step then moves the weights towards them, identically
on all devices, and not at all when it skips an update (`cwvae.training.step`).

Every `statistics` argument of the baselines is a dict that collects the batch's statistics by the
paths of the moving ones, or None to normalize by the moving statistics.
"""

from collections.abc import Mapping

import keras
import tensorflow as tf


class BatchNorm(keras.layers.Layer):
    """Normalizes each channel, then scales and shifts it.

    Use `normalize`, not a call: Keras would pass a copy of the dict to fill.
    """

    def __init__(
        self, filters: int, *, gamma_stddev: float = 0.0, epsilon: float = 1e-5, name: str
    ):
        """Builds all weights.

        Args:
          filters: Number of channels.
          gamma_stddev: Standard deviation of the initial scales around 1.
          epsilon: Number added to variances.
          name: Keras name.
        """
        super().__init__(name=name, dtype="float32", autocast=False)
        self.epsilon = epsilon
        gamma = keras.initializers.RandomNormal(1.0, gamma_stddev) if gamma_stddev else "ones"
        self.gamma = self.add_weight((filters,), gamma, name="gamma")
        self.beta = self.add_weight((filters,), "zeros", name="beta")
        self.moving_mean, self.moving_variance = (
            self.add_weight((filters,), start, trainable=False, name=f"moving_{name}")
            for name, start in (("mean", "zeros"), ("variance", "ones"))
        )
        self.built = True

    def normalize(self, x: tf.Tensor, statistics: dict[str, tf.Tensor] | None = None) -> tf.Tensor:
        """Returns normalized x, [..., C], in its dtype.

        Args:
          x: [..., C].
          statistics: Dict to normalize by the batch's statistics, over all axes but the last, and
            to enter them in; None to normalize by the moving ones.
        """
        if statistics is None:
            scale = self.gamma * tf.math.rsqrt(self.moving_variance + self.epsilon)
            shift = self.beta - self.moving_mean * scale
            # In float32, because the terms nearly cancel where a channel's mean is large.
            return tf.cast(tf.cast(x, tf.float32) * scale + shift, x.dtype)
        # The returned variance is the unbiased one, which PyTorch averages too.
        y, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=tf.reshape(x, (-1, 1, 1, x.shape[-1])) if x.shape.rank != 4 else x,
            scale=tf.convert_to_tensor(self.gamma),
            offset=tf.convert_to_tensor(self.beta),
            mean=tf.zeros((0,)),
            variance=tf.zeros((0,)),
            epsilon=self.epsilon,
        )
        statistics[self.moving_mean.path] = tf.stop_gradient(mean)
        statistics[self.moving_variance.path] = tf.stop_gradient(variance)
        return tf.reshape(y, x.shape)


def targets(model: keras.Model, statistics: Mapping[str, tf.Tensor] | None) -> tuple:
    """Returns a batch's statistics in the order of the non-trainable weights; none for None."""
    weights = () if statistics is None else model.non_trainable_weights
    return tuple(statistics[weight.path] for weight in weights)
