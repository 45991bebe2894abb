"""VTA's networks: frames to features and back, the boundary detector, Gaussian beliefs.

Convolutions of frames have kernel 4 and stride 2. All but the last layer of a network are followed
by batch normalization and ELU, and have no bias. The encoder ends in maps of 4x4. A convolution
without padding reduces these to a vector, and the decoder starts with its transpose: both are
written as matrix products. Initial weights are PyTorch's defaults, but biases are zero.

With `precision="mixed_bfloat16"` the layers of frames compute in bfloat16 on float32 weights. All
outputs are float32. For `statistics` see `normalization`. Symbols: B batch, T frames, F features.
"""

import functools

import keras
import tensorflow as tf

from cwvae.baselines.normalization import BatchNorm
from cwvae.baselines.recurrent import Linear, uniform
from cwvae.distributions import DiagGaussian
from cwvae.frame_sizes import halvings

_POINT = 4  # Height and width of the smallest map.
_WINDOW = {"kernel_size": 4, "strides": 2, "padding": "same"}


def _layer(kind, inputs: int, outputs: int, fan_in: int, *, use_bias: bool = False, **options):
    """Returns a built layer of Keras with PyTorch's initial kernel."""
    layer = kind(outputs, use_bias=use_bias, kernel_initializer=uniform(fan_in), **options)
    # The batch, the axes that a convolution slides over, the channels.
    layer.build((None,) * (getattr(layer, "rank", 0) + 1) + (inputs,))
    return layer


def _activate(norm: BatchNorm, x: tf.Tensor, statistics: dict | None) -> tf.Tensor:
    return tf.nn.elu(norm.normalize(x, statistics))


def _norms(filters: int, count: int) -> list[BatchNorm]:
    return [BatchNorm(filters, name=f"norm{i}") for i in range(count)]


class FrameEncoder(keras.layers.Layer):
    """Encodes single frames as vectors."""

    def __init__(
        self, *, frame_size: int, channels: int, feature_size: int, precision: str = "float32"
    ):
        super().__init__(name="encoder", dtype=precision, autocast=False)
        self.frame_shape = (frame_size, frame_size, channels)
        count, rows = halvings(frame_size), _POINT**2 * feature_size
        dense = functools.partial(_layer, keras.layers.Dense, dtype=precision)
        convolution = functools.partial(_layer, keras.layers.Conv2D, **_WINDOW, dtype=precision)
        with keras.name_scope(self.name):
            self.convolutions = [
                convolution(inputs, feature_size, 16 * inputs, name=f"conv{i}")
                for i, inputs in enumerate([channels] + [feature_size] * (count - 1))
            ]
            self.dense = dense(rows, feature_size, rows, name="dense")
            self.norms = _norms(feature_size, count + 1)
        self.built = True

    def features(self, video: tf.Tensor, statistics: dict | None) -> tf.Tensor:
        """Returns features [B, T, F] of a video [B, T, H, W, C] in [0, 1]."""
        x = 2 * tf.reshape(video, (-1, *self.frame_shape)) - 1
        x = tf.cast(x, self.compute_dtype)
        for convolution, norm in zip(self.convolutions, self.norms, strict=False):
            x = _activate(norm, convolution(x), statistics)
        x = self.dense(tf.reshape(x, (x.shape[0], -1)))
        x = tf.cast(_activate(self.norms[-1], x, statistics), tf.float32)
        return tf.reshape(x, (*video.shape[:2], -1))


class FrameDecoder(keras.layers.Layer):
    """Decodes vectors to the means of frames: the encoder reversed, with tanh at the end."""

    def __init__(
        self, *, frame_size: int, channels: int, feature_size: int, precision: str = "float32"
    ):
        super().__init__(name="decoder", dtype=precision, autocast=False)
        self.frame_shape = (frame_size, frame_size, channels)
        self.point_shape = (_POINT, _POINT, feature_size)
        count, rows = halvings(frame_size), _POINT**2 * feature_size
        dense = functools.partial(_layer, keras.layers.Dense, dtype=precision)
        convolution = functools.partial(
            _layer, keras.layers.Conv2DTranspose, **_WINDOW, dtype=precision
        )
        with keras.name_scope(self.name):
            # PyTorch computes the fan in of a transposed convolution from its outputs.
            self.dense = dense(feature_size, rows, rows, name="dense")
            self.convolutions = [
                convolution(
                    feature_size, outputs, 16 * outputs, use_bias=i == count - 1, name=f"conv{i}"
                )
                for i, outputs in enumerate([feature_size] * (count - 1) + [channels])
            ]
            self.norms = _norms(feature_size, count)
        self.built = True

    def frames(self, features: tf.Tensor, statistics: dict | None) -> tf.Tensor:
        """Returns the means of the frames [B, T, H, W, C] in [0, 1] for features [B, T, F]."""
        x = tf.cast(tf.reshape(features, (-1, features.shape[-1])), self.compute_dtype)
        x = tf.reshape(self.dense(x), (-1, *self.point_shape))
        for norm, convolution in zip(self.norms, self.convolutions, strict=True):
            x = convolution(_activate(norm, x, statistics))
        x = tf.tanh(tf.cast(x, tf.float32))
        return tf.reshape((x + 1) / 2, (*features.shape[:2], *self.frame_shape))


class BoundaryDetector(keras.layers.Layer):
    """The posterior of boundaries: convolutions over time, which read later frames too."""

    def __init__(self, feature_size: int, *, name: str):
        super().__init__(name=name, dtype="float32")
        convolution = functools.partial(
            _layer, keras.layers.Conv1D, kernel_size=3, padding="same", dtype="float32"
        )
        with keras.name_scope(name):
            self.convolutions = [
                convolution(
                    feature_size, outputs, 3 * feature_size, use_bias=i == 3, name=f"conv{i}"
                )
                for i, outputs in enumerate([feature_size] * 3 + [2])
            ]
            self.norms = _norms(feature_size, 3)
        self.built = True

    def logits(self, features: tf.Tensor, statistics: dict | None) -> tf.Tensor:
        """Returns every frame's logits of (read, copy), [B, T, 2], for features [B, T, F]."""
        x = features
        for convolution, norm in zip(self.convolutions, self.norms, strict=False):
            x = _activate(norm, convolution(x), statistics)
        return self.convolutions[-1](x)


class Belief(Linear):
    """A Gaussian with linear mean and with the sigmoid of a linear layer as standard deviation."""

    def __init__(self, input_size: int, size: int, *, name: str):
        super().__init__(input_size, 2 * size, name=name)

    def of(self, *parts: tf.Tensor) -> DiagGaussian:
        """Returns a Gaussian [..., size] for parts [..., I_i]."""
        mean, stddev = tf.split(super().of(*parts), 2, -1)
        return DiagGaussian(mean, tf.sigmoid(stddev))
