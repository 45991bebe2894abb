"""Frames to features and back: the encoder and decoder of Equation 4, and the embedding MLPs.

The convolutions are the DCGAN-like stacks of the original (Appendix C of the paper). For frames of
64x64 pixels their maps are 64 -> 31 -> 14 -> 6 -> 2 and 1 -> 5 -> 13 -> 30 -> 64. Frames of 32x32
take one layer fewer, frames of 128x128 one more. With `precision="mixed_bfloat16"` the layers
compute in bfloat16 on float32 weights.

Symbols: N frames, H, W, C their height, width and channels, F features.
"""

import keras
import tensorflow as tf

from cwvae.frame_sizes import halvings


def leaky_relu(x: tf.Tensor) -> tf.Tensor:
    """Returns x where it is positive, else 0.2 x."""
    return tf.nn.leaky_relu(x, 0.2)


# Keras' layers, except for how they add the bias. Keras uses tf.nn.bias_add, whose gradient sums in
# bfloat16 where the bias is bfloat16: on large maps it is off by 70%.


class Dense(keras.layers.Dense):
    """A linear layer and an activation."""

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """Returns [N, O] for [N, I]."""
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


def feature_size(frame_size: int, channel_multiplier: float) -> int:
    """Returns F, the length of the encoder's features: the last map is 2x2 pixels."""
    return 4 * _filters(frame_size, channel_multiplier)[-1]


def _filters(frame_size: int, channel_multiplier: float) -> list[int]:
    """Returns the filters of the encoder's convolutions, the first layer first."""
    return [int(32 * channel_multiplier * 2**i) for i in range(halvings(frame_size))]


def frame_encoder(
    frame_size: int, channels: int, channel_multiplier: float = 1.0, precision: str = "float32"
) -> keras.Sequential:
    """Returns the encoder of single frames: features [N, F] for [N, H, W, C] in [0, 1]."""
    filters = _filters(frame_size, channel_multiplier)
    convolutions = [
        Conv2D(outputs, 4, 2, activation=leaky_relu, dtype=precision, name=f"conv{i}")
        for i, outputs in enumerate(filters)
    ]
    frames = keras.Input((frame_size, frame_size, channels))
    return keras.Sequential([frames, *convolutions, keras.layers.Flatten()], name="encoder")


def embedding_mlp(
    feature_size: int, hidden_size: int, precision: str = "float32", *, name: str
) -> keras.Sequential:
    """Returns the map from the level below's features to a level's, [N, F]; pooling follows."""
    layers = [
        Dense(hidden_size, "relu", dtype=precision, name="dense0"),
        Dense(hidden_size, "relu", dtype=precision, name="dense1"),
        Dense(feature_size, dtype=precision, name="dense2"),
    ]
    return keras.Sequential([keras.Input((feature_size,)), *layers], name=name)


def frame_decoder(
    frame_size: int,
    channels: int,
    input_size: int,
    channel_multiplier: float = 1.0,
    precision: str = "float32",
) -> keras.Sequential:
    """Returns the decoder: the means of frames [N, H, W, C] for [N, input_size].

    It ends in the original's tanh, although frames lie in [0, 1].
    """
    width = feature_size(frame_size, channel_multiplier)
    point = [Dense(width, dtype=precision, name="dense"), keras.layers.Reshape((1, 1, width))]
    filters = [*_filters(frame_size, channel_multiplier)[-2::-1], channels]
    kernels = [5] * (len(filters) - 2) + [6, 6]
    activations = [leaky_relu] * (len(filters) - 1) + [None]
    convolutions = [
        Conv2DTranspose(outputs, kernel, 2, activation=activation, dtype=precision, name=f"conv{i}")
        for i, (outputs, kernel, activation) in enumerate(
            zip(filters, kernels, activations, strict=True)
        )
    ]
    end = keras.layers.Activation("tanh", dtype="float32")
    return keras.Sequential(
        [keras.Input((input_size,)), *point, *convolutions, end], name="decoder"
    )
