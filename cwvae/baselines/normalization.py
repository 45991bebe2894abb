"""Batch normalization (Ioffe & Szegedy 2015) without side effects.

Layers neither update nor average anything: in training they return what the batch's statistics are,
beside the loss, and the training step moves the weights towards them, on all devices alike and not
where an update is left out (`cwvae.training.step`).
"""

from collections.abc import Mapping

import keras
import tensorflow as tf


class BatchNorm(keras.layers.Layer):
    """Normalizes each channel, then scales and shifts it.

    It is not called: Keras would hand on a copy of the dict that is to be filled.
    """

    def __init__(
        self, filters: int, *, gamma_stddev: float = 0.0, epsilon: float = 1e-5, name: str
    ):
        """Builds all weights.

        Args:
          filters: Channels.
          gamma_stddev: The scales are drawn from N(1, gamma_stddev).
          epsilon: Added to variances.
          name: The Keras name.
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
        """Returns normalized x, [..., C] in its dtype.

        Args:
          x: [..., C].
          statistics: None to normalize by the moving statistics; or a dict, to normalize by those
            of x over all axes but the last, which are entered by the paths of the moving ones.
        """
        if statistics is None:
            scale = self.gamma * tf.math.rsqrt(self.moving_variance + self.epsilon)
            shift = self.beta - self.moving_mean * scale
            # In float32: of a channel that is far from zero the terms nearly cancel.
            return tf.cast(tf.cast(x, tf.float32) * scale + shift, x.dtype)
        # The variance that comes back is the unbiased one: what the moving one is made of, as in
        # PyTorch.
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


def of(*, batch: bool) -> dict[str, tf.Tensor] | None:
    """Returns what `BatchNorm.normalize` takes to use the batch's statistics, or moving ones."""
    return {} if batch else None


def targets(model: keras.Model, statistics: Mapping[str, tf.Tensor]) -> tuple[tf.Tensor, ...]:
    """Returns a batch's statistics in the order of the model's non-trainable weights."""
    return tuple(statistics[weight.path] for weight in model.non_trainable_weights)
