"""Frames to features and back: the encoder and decoder of Equation 4, and the embedding MLPs.

The convolutions are the DCGAN-like stacks of the original (Appendix C of the paper), for 64x64
frames: 64 -> 31 -> 14 -> 6 -> 2 and 1 -> 5 -> 13 -> 30 -> 64. Frames of 32x32 take one layer less,
frames of 128x128 one more. With `precision="mixed_bfloat16"` the layers compute in bfloat16 on
float32 weights; what they return is float32.
"""

import keras
import tensorflow as tf

from cwvae.fast import convolutions

_NUM_LAYERS = {32: 3, 64: 4, 128: 5}


def feature_size(frame_size: int, channel_multiplier: float) -> int:
    """Returns the length of the encoder's features: 1024 for 64x64 frames."""
    return 4 * _filters(frame_size, channel_multiplier)[-1]


def _filters(frame_size: int, channel_multiplier: float) -> list[int]:
    """Filters of the encoder's convolutions, the first layer first."""
    if frame_size not in _NUM_LAYERS:
        raise ValueError(f"frame_size = {frame_size}: the networks fit {list(_NUM_LAYERS)}.")
    return [int(32 * channel_multiplier * 2**i) for i in range(_NUM_LAYERS[frame_size])]


class _Weights(keras.layers.Layer):
    """Kernel and bias of a convolution; `cwvae.fast.convolutions` computes with them."""

    def __init__(self, kernel_shape: tuple[int, ...], filters: int, *, precision: str, name: str):
        super().__init__(name=name, dtype=precision)
        self.kernel = self.add_weight(kernel_shape, "glorot_uniform", name="kernel")
        self.bias = self.add_weight((filters,), "zeros", name="bias")
        self.built = True

    def cast(self) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns kernel and bias in the dtype to compute in."""
        return tf.cast(self.kernel, self.compute_dtype), tf.cast(self.bias, self.compute_dtype)


class FrameEncoder(keras.layers.Layer):
    """Convolutions, kernel 4 and stride 2 without padding, over single frames."""

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
        self.feature_size = feature_size(frame_size, channel_multiplier)
        with keras.name_scope(name):
            self.convolutions = [
                _Weights((4, 4, inputs, outputs), outputs, precision=precision, name=f"conv{i}")
                for i, (inputs, outputs) in enumerate(
                    zip([channels, *filters], filters, strict=False)
                )
            ]
        self.built = True

    def call(self, video: tf.Tensor) -> tf.Tensor:
        """Returns features [B, T, F] of a video [B, T, H, W, C] in [0, 1]."""
        batch, length = video.shape[0], video.shape[1]
        first, second, *middle, last = (layer.cast() for layer in self.convolutions)
        x = tf.cast(tf.reshape(video, (-1, *self.frame_shape)), self.compute_dtype)
        x = convolutions.to_blocks(x, 4)
        # The first map in blocks of 2x2, without the last row and column: the next reads them not.
        kernel = convolutions.kernel_over_blocks(first[0])
        x = convolutions.convolve(x, kernel, tf.tile(first[1], [4]), 1)
        x = convolutions.convolve(x, convolutions.kernel_over_pairs(second[0]), second[1], 1)
        for kernel, bias in middle:
            x = convolutions.convolve(x, kernel, bias, 2)
        x = convolutions.convolve_6_to_2(x, *last)
        return tf.cast(tf.reshape(x, (batch, length, self.feature_size)), tf.float32)


class EmbeddingMLP(keras.layers.Layer):
    """Maps the features of the level below to those of a level, frame by frame, before pooling."""

    def __init__(
        self, *, feature_size: int, hidden_size: int, precision: str = "float32", name: str
    ):
        super().__init__(name=name, dtype=precision, autocast=False)
        self.layers = [
            keras.layers.Dense(size, activation, dtype=precision, name=f"dense{i}")
            for i, (size, activation) in enumerate(
                [(hidden_size, "relu"), (hidden_size, "relu"), (feature_size, None)]
            )
        ]
        with keras.name_scope(name):
            for layer, inputs in zip(
                self.layers, (feature_size, hidden_size, hidden_size), strict=True
            ):
                layer.build((None, inputs))
        self.built = True

    def call(self, features: tf.Tensor) -> tf.Tensor:
        """Returns [B, T, F] for [B, T, F]."""
        return self.linear(self.hidden(features))

    def hidden(self, features: tf.Tensor) -> tf.Tensor:
        """Returns what the last layer, which is linear, takes: [B, T, H] for [B, T, F]."""
        # As rows: the gradient of a product with more axes is many small products.
        x = tf.reshape(features, (-1, features.shape[-1]))
        for layer in self.layers[:-1]:
            x = layer(x)
        return tf.cast(tf.reshape(x, (*features.shape[:-1], x.shape[-1])), tf.float32)

    def linear(self, hidden: tf.Tensor, frames: tf.Tensor | float = 1.0) -> tf.Tensor:
        """Returns the last layer's output [B, N, F] for sums over frames of its inputs.

        Args:
          hidden: [B, N, H].
          frames: How many frames each is the sum of, [N, 1].
        """
        layer = self.layers[-1]
        x = tf.reshape(tf.cast(hidden, layer.compute_dtype), (-1, hidden.shape[-1]))
        x = tf.linalg.matmul(x, tf.cast(layer.kernel, layer.compute_dtype))
        x = tf.cast(tf.reshape(x, (*hidden.shape[:-1], x.shape[-1])), tf.float32)
        return x + frames * layer.bias


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
        sizes = [5] * (len(filters) - 2) + [6, 6]
        width = feature_size(frame_size, channel_multiplier)
        self.frame_shape = (frame_size, frame_size, channels)
        self.input_size = input_size
        with keras.name_scope(name):
            self.dense = keras.layers.Dense(width, dtype=precision, name="dense")
            self.dense.build((None, input_size))
            self.convolutions = [
                _Weights(
                    (size, size, outputs, inputs), outputs, precision=precision, name=f"conv{i}"
                )
                for i, (size, inputs, outputs) in enumerate(
                    zip(sizes, [width, *filters], filters, strict=False)
                )
            ]
        self.built = True

    def call(self, features: tf.Tensor) -> tf.Tensor:
        """Returns the means of the frames [B, T, H, W, C] for features [B, T, input_size]."""
        batch, length = features.shape[0], features.shape[1]
        point, *middle, wide, last = (layer.cast() for layer in self.convolutions)
        x = self.dense(tf.reshape(features, (-1, self.input_size)))
        # Of a 1x1 map a transposed convolution is a matrix product.
        kernel, bias = point
        size, _, filters, inputs = kernel.shape
        flat = tf.reshape(kernel, (-1, inputs))
        x = convolutions.dense(x, flat, tf.tile(bias, [size * size]))
        x = tf.reshape(x, (batch * length, size, size, filters))
        for kernel, bias in middle:
            x = convolutions.transposed(x, kernel, bias)
        x = convolutions.transposed_to_pairs(x, *wide)
        x = convolutions.from_blocks(convolutions.pairs_to_quads(x, *last), 4)
        return tf.tanh(tf.cast(tf.reshape(x, (batch, length, *self.frame_shape)), tf.float32))
