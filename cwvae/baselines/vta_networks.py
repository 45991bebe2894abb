"""VTA's networks: frames to features and back, the boundary detector, linear beliefs.

Convolutions have kernels of 4 and stride 2, then batch normalization and ELU; what is normalized
has no bias. Frames of 32x32 take three, 64x64 four, 128x128 five, to maps of 4x4, which a
convolution without padding makes one vector of: a matrix product, and written as one. Initial
weights are PyTorch's default U(-1 / sqrt(fan in), 1 / sqrt(fan in)), biases zero.

`statistics` is that of `normalization.BatchNorm`: None normalizes by the moving statistics. With
`precision="mixed_bfloat16"` the layers of frames compute in bfloat16 on float32 weights; all else,
and what they return, is float32. Symbols: B batch, T frames, N steps of time, F features.
"""

import math

import keras
import tensorflow as tf

from cwvae.baselines.normalization import BatchNorm
from cwvae.distributions import DiagGaussian

_NUM_LAYERS = {32: 3, 64: 4, 128: 5}
_POINT = 4  # Height and width of the smallest map.


def _num_layers(frame_size: int) -> int:
    if frame_size not in _NUM_LAYERS:
        raise ValueError(f"frame_size = {frame_size}: the networks fit {list(_NUM_LAYERS)}.")
    return _NUM_LAYERS[frame_size]


def _uniform(fan_in: int) -> keras.initializers.Initializer:
    limit = 1 / math.sqrt(fan_in)
    return keras.initializers.RandomUniform(-limit, limit)


def _built(layer: keras.layers.Layer, *input_shape: int) -> keras.layers.Layer:
    layer.build((None, *input_shape))
    return layer


def _activate(norm: BatchNorm, x: tf.Tensor, statistics: dict | None) -> tf.Tensor:
    return tf.nn.elu(norm.normalize(x, statistics))


class FrameEncoder(keras.layers.Layer):
    """Single frames to vectors."""

    def __init__(
        self,
        *,
        frame_size: int,
        channels: int,
        feature_size: int,
        precision: str = "float32",
        name: str = "encoder",
    ):
        super().__init__(name=name, dtype=precision, autocast=False)
        self.frame_shape = (frame_size, frame_size, channels)
        count, rows = _num_layers(frame_size), _POINT**2 * feature_size
        with keras.name_scope(name):
            self.convolutions = [
                _built(
                    keras.layers.Conv2D(
                        feature_size,
                        4,
                        strides=2,
                        padding="same",
                        use_bias=False,
                        kernel_initializer=_uniform(16 * inputs),
                        dtype=precision,
                        name=f"conv{i}",
                    ),
                    *(None, None, inputs),
                )
                for i, inputs in enumerate([channels] + [feature_size] * (count - 1))
            ]
            self.dense = _built(
                keras.layers.Dense(
                    feature_size,
                    use_bias=False,
                    kernel_initializer=_uniform(rows),
                    dtype=precision,
                    name="dense",
                ),
                rows,
            )
            self.norms = [BatchNorm(feature_size, name=f"norm{i}") for i in range(count + 1)]
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
    """Vectors to the means of frames: the encoder turned round, tanh at the end."""

    def __init__(
        self,
        *,
        frame_size: int,
        channels: int,
        feature_size: int,
        precision: str = "float32",
        name: str = "decoder",
    ):
        super().__init__(name=name, dtype=precision, autocast=False)
        self.frame_shape = (frame_size, frame_size, channels)
        self.point_shape = (_POINT, _POINT, feature_size)
        count, rows = _num_layers(frame_size), _POINT**2 * feature_size
        with keras.name_scope(name):
            # PyTorch takes a transposed convolution's outputs for its fan in.
            self.dense = _built(
                keras.layers.Dense(
                    rows,
                    use_bias=False,
                    kernel_initializer=_uniform(rows),
                    dtype=precision,
                    name="dense",
                ),
                feature_size,
            )
            self.convolutions = [
                _built(
                    keras.layers.Conv2DTranspose(
                        outputs,
                        4,
                        strides=2,
                        padding="same",
                        use_bias=i == count - 1,
                        kernel_initializer=_uniform(16 * outputs),
                        dtype=precision,
                        name=f"conv{i}",
                    ),
                    *(None, None, feature_size),
                )
                for i, outputs in enumerate([feature_size] * (count - 1) + [channels])
            ]
            self.norms = [BatchNorm(feature_size, name=f"norm{i}") for i in range(count)]
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
    """Where the posterior begins segments: convolutions over time, which see later frames too."""

    def __init__(self, feature_size: int, *, name: str):
        super().__init__(name=name, dtype="float32")
        widths = [feature_size] * 3 + [2]
        with keras.name_scope(name):
            self.convolutions = [
                _built(
                    keras.layers.Conv1D(
                        outputs,
                        3,
                        padding="same",
                        use_bias=i == len(widths) - 1,
                        kernel_initializer=_uniform(3 * feature_size),
                        dtype="float32",
                        name=f"conv{i}",
                    ),
                    *(None, feature_size),
                )
                for i, outputs in enumerate(widths)
            ]
            self.norms = [BatchNorm(feature_size, name=f"norm{i}") for i in range(3)]
        self.built = True

    def logits(self, features: tf.Tensor, statistics: dict | None) -> tf.Tensor:
        """Returns the logits of (read, copy) of every frame [B, T, 2] for features [B, T, F]."""
        x = features
        for convolution, norm in zip(self.convolutions, self.norms, strict=False):
            x = _activate(norm, convolution(x), statistics)
        return self.convolutions[-1](x)


class Linear(keras.layers.Layer):
    """A linear layer of the concatenation of its inputs."""

    def __init__(self, input_size: int, size: int, *, name: str):
        super().__init__(name=name, dtype="float32")
        self.kernel = self.add_weight((input_size, size), _uniform(input_size), name="kernel")
        self.bias = self.add_weight((size,), "zeros", name="bias")
        self.built = True

    def of(self, *parts: tf.Tensor) -> tf.Tensor:
        """Returns [..., size] for parts [..., I_i]."""
        x = tf.concat(parts, -1)
        # As rows: the gradient of a product with more axes is many small products.
        y = tf.linalg.matmul(tf.reshape(x, (-1, x.shape[-1])), self.kernel) + self.bias
        return tf.reshape(y, (*x.shape[:-1], y.shape[-1]))


class Belief(Linear):
    """A Gaussian whose mean, and standard deviation before a sigmoid, are linear."""

    def __init__(self, input_size: int, size: int, *, name: str):
        super().__init__(input_size, 2 * size, name=name)

    def of(self, *parts: tf.Tensor) -> DiagGaussian:
        """Returns a Gaussian [..., size] for parts [..., I_i]."""
        mean, stddev = tf.split(super().of(*parts), 2, -1)
        return DiagGaussian(mean, tf.sigmoid(stddev))
