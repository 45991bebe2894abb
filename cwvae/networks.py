"""Frames to features and back: the encoder and decoder of Equation 4, and the embedding MLPs.

The convolutions are the DCGAN-like stacks of the original (Appendix C of the paper), for 64x64
frames: 64 -> 31 -> 14 -> 6 -> 2 and 1 -> 5 -> 13 -> 30 -> 64. Frames of 32x32 take one layer less,
frames of 128x128 one more. With `precision="mixed_bfloat16"` the layers compute in bfloat16 on
float32 weights; what they return is float32.
"""

import keras
import tensorflow as tf

_NUM_LAYERS = {32: 3, 64: 4, 128: 5}


def _leaky_relu(x: tf.Tensor) -> tf.Tensor:
    return tf.nn.leaky_relu(x, 0.2)


def feature_size(frame_size: int, channel_multiplier: float) -> int:
    """Returns the length of the encoder's features: 1024 for 64x64 frames."""
    return 4 * _filters(frame_size, channel_multiplier)[-1]


def _filters(frame_size: int, channel_multiplier: float) -> list[int]:
    """Filters of the encoder's convolutions, the first layer first."""
    if frame_size not in _NUM_LAYERS:
        raise ValueError(f"frame_size = {frame_size}: the networks fit {list(_NUM_LAYERS)}.")
    return [int(32 * channel_multiplier * 2**i) for i in range(_NUM_LAYERS[frame_size])]


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
        self.convolutions = [
            keras.layers.Conv2D(
                filters, 4, 2, activation=_leaky_relu, dtype=precision, name=f"conv{i}"
            )
            for i, filters in enumerate(_filters(frame_size, channel_multiplier))
        ]
        self.frame_shape = (frame_size, frame_size, channels)
        shape = (None, *self.frame_shape)
        with keras.name_scope(name):
            for layer in self.convolutions:
                layer.build(shape)
                shape = layer.compute_output_shape(shape)
        self.feature_size = shape[1] * shape[2] * shape[3]
        self.built = True

    def call(self, video: tf.Tensor) -> tf.Tensor:
        """Returns features [B, T, F] of a video [B, T, H, W, C] in [0, 1]."""
        batch, length = video.shape[0], video.shape[1]
        x = tf.reshape(video, (-1, *self.frame_shape))
        for layer in self.convolutions:
            x = layer(x)
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
        for layer in self.layers:
            features = layer(features)
        return tf.cast(features, tf.float32)


class _PointTransposedConv(keras.layers.Layer):
    """A transposed convolution of a 1x1 input, which is a matrix product.

    The kernel keeps the shape [size, size, filters, inputs] that a transposed convolution has.
    """

    def __init__(self, *, inputs: int, filters: int, size: int, precision: str, name: str):
        super().__init__(name=name, dtype=precision)
        self.output_map = (size, size, filters)
        self.kernel = self.add_weight(
            (size, size, filters, inputs), "glorot_uniform", name="kernel"
        )
        self.bias = self.add_weight((filters,), "zeros", name="bias")
        self.built = True

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """Returns [N, size, size, filters] for [N, inputs]."""
        kernel = tf.cast(self.kernel, self.compute_dtype)
        flat = tf.reshape(kernel, (-1, kernel.shape[-1]))
        maps = tf.reshape(tf.linalg.matmul(x, flat, transpose_b=True), (-1, *self.output_map))
        return _leaky_relu(maps + tf.cast(self.bias, self.compute_dtype))


@tf.custom_gradient
def _transposed_conv_to_frames(x: tf.Tensor, kernel: tf.Tensor):
    """A transposed convolution of stride 2 without padding, fast where it has few outputs.

    Each of the four pixels that share a position of `x` is a plain convolution of `x`: all four
    are computed as channels of one, then interleaved. That is 2.5 times as fast as the transposed
    convolution for one channel on a CPU; its gradient is fast as it is.

    Args:
      x: [N, H, W, I].
      kernel: [2M, 2M, O, I].

    Returns:
      [N, 2H + 2M - 2, 2W + 2M - 2, O].
    """
    size, _, outputs, inputs = kernel.shape
    half = size // 2
    # Output 2j + p sums x[j - m] kernel[2m + p] over m: a convolution with the taps reversed.
    taps = tf.reverse(tf.reshape(kernel, (half, 2, half, 2, outputs, inputs)), [0, 2])
    taps = tf.reshape(tf.transpose(taps, (0, 2, 5, 1, 3, 4)), (half, half, inputs, 4 * outputs))
    border = [half - 1, half - 1]
    pixels = tf.nn.conv2d(tf.pad(x, [[0, 0], border, border, [0, 0]]), taps, 1, "VALID")

    def gradient(upstream: tf.Tensor):
        return tf.nn.conv2d(upstream, kernel, 2, "VALID"), tf.raw_ops.Conv2DBackpropFilter(
            input=upstream,
            filter_sizes=kernel.shape,
            out_backprop=x,
            strides=[1, 2, 2, 1],
            padding="VALID",
        )

    return tf.nn.depth_to_space(pixels, 2), gradient


class _FrameTransposedConv(keras.layers.Layer):
    """The decoder's last layer: a transposed convolution, kernel 6 and stride 2, no activation."""

    def __init__(self, *, inputs: int, channels: int, precision: str, name: str):
        super().__init__(name=name, dtype=precision)
        self.kernel = self.add_weight((6, 6, channels, inputs), "glorot_uniform", name="kernel")
        self.bias = self.add_weight((channels,), "zeros", name="bias")
        self.built = True

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """Returns [N, 2H + 4, 2W + 4, channels] for [N, H, W, inputs]."""
        kernel = tf.cast(self.kernel, self.compute_dtype)
        return _transposed_conv_to_frames(x, kernel) + tf.cast(self.bias, self.compute_dtype)


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
        self.dense = keras.layers.Dense(width, dtype=precision, name="dense")
        self.convolutions = []
        with keras.name_scope(name):
            self.dense.build((None, input_size))
            self.point = _PointTransposedConv(
                inputs=width, filters=filters[0], size=sizes[0], precision=precision, name="conv0"
            )
            shape = (None, *self.point.output_map)
            for i in range(1, len(filters) - 1):
                layer = keras.layers.Conv2DTranspose(
                    filters[i],
                    sizes[i],
                    2,
                    activation=_leaky_relu,
                    dtype=precision,
                    name=f"conv{i}",
                )
                layer.build(shape)
                shape = layer.compute_output_shape(shape)
                self.convolutions.append(layer)
            self.last = _FrameTransposedConv(
                inputs=shape[-1],
                channels=channels,
                precision=precision,
                name=f"conv{len(filters) - 1}",
            )
        self.built = True

    def call(self, features: tf.Tensor) -> tf.Tensor:
        """Returns the means of the frames [B, T, H, W, C] for features [B, T, input_size]."""
        batch, length = features.shape[0], features.shape[1]
        x = self.point(self.dense(tf.reshape(features, (-1, self.input_size))))
        for layer in self.convolutions:
            x = layer(x)
        x = self.last(x)
        return tf.tanh(tf.cast(tf.reshape(x, (batch, length, *self.frame_shape)), tf.float32))
