"""Frames to features and back: the encoder and decoder of Equation 4, and the embedding MLPs.

The convolutions are the DCGAN-like stacks of the original (Appendix C of the paper). For frames of
64x64 pixels their maps are 64 -> 31 -> 14 -> 6 -> 2 and 1 -> 5 -> 13 -> 30 -> 64. Frames of 32x32
take one layer fewer, frames of 128x128 one more. With `precision="mixed_bfloat16"` the layers
compute in bfloat16 on float32 weights. Their outputs are float32.

Symbols: B batch, T frames, H, W, C height, width and channels of frames, F features.
"""

import keras
import tensorflow as tf

from cwvae.frame_sizes import halvings


def feature_size(frame_size: int, channel_multiplier: float) -> int:
    """Returns the length of the encoder's features: 1024 for 64x64 frames."""
    return 4 * _filters(frame_size, channel_multiplier)[-1]


def _filters(frame_size: int, channel_multiplier: float) -> list[int]:
    """Returns the filters of the encoder's convolutions, the first layer first."""
    return [int(32 * channel_multiplier * 2**i) for i in range(halvings(frame_size))]


def leaky_relu(x: tf.Tensor) -> tf.Tensor:
    """Returns x where it is positive, else 0.2 x."""
    return tf.nn.leaky_relu(x, 0.2)


# Keras' layers, except for how they add the bias. Keras uses tf.nn.bias_add, whose gradient sums in
# bfloat16 where the bias is bfloat16: on large maps it is off by 70%.


class Dense(keras.layers.Dense):
    """A linear layer and an activation."""

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """Returns [..., O] for [..., I]."""
        return self.activation(keras.ops.matmul(x, self.kernel) + self.bias)


class Conv2D(keras.layers.Conv2D):
    """A convolution and an activation."""

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """Returns [N, h, w, O] for [N, H, W, I]."""
        return self.activation(self.convolution_op(x, self.kernel) + self.bias)


class Conv2DTranspose(keras.layers.Conv2DTranspose):
    """A transposed convolution and an activation."""

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """Returns [N, h, w, O] for [N, H, W, I]."""
        x = keras.ops.conv_transpose(x, self.kernel, self.strides, self.padding)
        return self.activation(x + self.bias)


class FrameEncoder(keras.layers.Layer):
    """Convolutions over single frames, kernel 4 and stride 2 without padding."""

    def __init__(
        self,
        *,
        frame_size: int,
        channels: int,
        channel_multiplier: float = 1.0,
        precision: str = "float32",
        name: str = "encoder",
    ):
        super().__init__(name=name, dtype=precision, autocast=False)
        filters = _filters(frame_size, channel_multiplier)
        self.frame_shape = (frame_size, frame_size, channels)
        self.convolutions = [
            Conv2D(outputs, 4, 2, activation=leaky_relu, dtype=precision, name=f"conv{i}")
            for i, outputs in enumerate(filters)
        ]
        with keras.name_scope(name):
            for layer, inputs in zip(self.convolutions, [channels, *filters], strict=False):
                layer.build((None, None, None, inputs))
        self.built = True

    def call(self, video: tf.Tensor) -> tf.Tensor:
        """Returns features [B, T, F] of a video [B, T, H, W, C] in [0, 1]."""
        x = tf.reshape(video, (-1, *self.frame_shape))
        for convolution in self.convolutions:
            x = convolution(x)
        return tf.cast(tf.reshape(x, (*video.shape[:2], -1)), tf.float32)


class EmbeddingMLP(keras.layers.Layer):
    """Maps the features of the level below to those of a level, frame by frame, before pooling."""

    def __init__(
        self, *, feature_size: int, hidden_size: int, precision: str = "float32", name: str
    ):
        super().__init__(name=name, dtype=precision, autocast=False)
        sizes = (hidden_size, hidden_size, feature_size)
        self.layers = [
            Dense(size, activation, dtype=precision, name=f"dense{i}")
            for i, (size, activation) in enumerate(zip(sizes, ("relu", "relu", None), strict=True))
        ]
        with keras.name_scope(name):
            for layer, inputs in zip(self.layers, (feature_size, *sizes), strict=False):
                layer.build((None, inputs))
        self.built = True

    def call(self, features: tf.Tensor) -> tf.Tensor:
        """Returns [B, T, F] for [B, T, F]."""
        x = features
        for layer in self.layers:
            x = layer(x)
        return tf.cast(x, tf.float32)


class FrameDecoder(keras.layers.Layer):
    """A linear layer, then transposed convolutions of stride 2 without padding, then tanh.

    The tanh is the original's, although frames lie in [0, 1].
    """

    def __init__(
        self,
        *,
        frame_size: int,
        channels: int,
        input_size: int,
        channel_multiplier: float = 1.0,
        precision: str = "float32",
        name: str = "decoder",
    ):
        super().__init__(name=name, dtype=precision, autocast=False)
        filters = [*_filters(frame_size, channel_multiplier)[-2::-1], channels]
        kernels = [5] * (len(filters) - 2) + [6, 6]
        width = feature_size(frame_size, channel_multiplier)
        self.frame_shape = (frame_size, frame_size, channels)
        self.dense = Dense(width, dtype=precision, name="dense")
        self.convolutions = [
            Conv2DTranspose(outputs, kernel, 2, dtype=precision, name=f"conv{i}")
            for i, (outputs, kernel) in enumerate(zip(filters, kernels, strict=True))
        ]
        with keras.name_scope(name):
            self.dense.build((None, input_size))
            for layer, inputs in zip(self.convolutions, [width, *filters], strict=False):
                layer.build((None, None, None, inputs))
        self.built = True

    def call(self, features: tf.Tensor) -> tf.Tensor:
        """Returns the means of the frames [B, T, H, W, C] for features [B, T, input_size]."""
        *hidden, last = self.convolutions
        x = self.dense(tf.reshape(features, (-1, features.shape[-1])))[:, None, None]
        for convolution in hidden:
            x = leaky_relu(convolution(x))
        frames = tf.tanh(tf.cast(last(x), tf.float32))
        return tf.reshape(frames, (*features.shape[:2], *self.frame_shape))
