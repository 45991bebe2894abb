"""Encoder, decoder and embedding MLPs: what the networks of `cwvae.networks` compute, faster.

Each function takes a plain network and computes `network(x)` from its weights, for single frames.
See `cwvae.fast.convolutions` for how. `tests/cwvae/fast/test_fast_model.py` compares outputs and
gradients. Symbols: N frames, B batch, T frames of a clip, F features.
"""

import keras
import tensorflow as tf

from cwvae import clockwork
from cwvae.fast import convolutions
from cwvae.networks import leaky_relu


def encode(encoder: keras.Sequential, frames: tf.Tensor) -> tf.Tensor:
    """Returns `encoder(frames)`: features [N, F] for [N, H, W, C]."""
    first, second, *middle, last = _weights(encoder)
    x = convolutions.to_blocks(tf.cast(frames, first[0].dtype), 4)
    # The first map in blocks of 2x2, without the last row and column: the next layer never reads
    # them.
    kernel = convolutions.kernel_over_blocks(first[0])
    x = convolutions.convolve(x, kernel, tf.tile(first[1], [4]), 1)
    x = convolutions.convolve(x, convolutions.kernel_over_pairs(second[0]), second[1], 1)
    for kernel, bias in middle:
        x = convolutions.convolve(x, kernel, bias, 2)
    x = convolutions.convolve_6_to_2(x, *last)
    return tf.reshape(x, (frames.shape[0], -1))


def decode(decoder: keras.Sequential, features: tf.Tensor) -> tf.Tensor:
    """Returns `decoder(features)`: the means of frames [N, H, W, C] for [N, input_size]."""
    dense, point, *middle, wide, last = _weights(decoder)
    x = convolutions.dense(tf.cast(features, dense[0].dtype), *dense)
    # A transposed convolution of a 1x1 map is a matrix product.
    kernel, bias = point
    size, _, filters, inputs = kernel.shape
    flat, bias = tf.reshape(kernel, (-1, inputs)), tf.tile(bias, [size * size])
    x = convolutions.dense(x, flat, bias, leaky_relu, transposed=True)
    x = tf.reshape(x, (-1, size, size, filters))
    for kernel, bias in middle:
        x = convolutions.transposed(x, kernel, bias)
    x = convolutions.transposed_to_pairs(x, *wide)
    x = convolutions.from_blocks(convolutions.pairs_to_quads(x, *last), 4)
    return tf.tanh(tf.cast(x, tf.float32))


def embed(mlp: keras.Sequential, features: tf.Tensor) -> tf.Tensor:
    """Returns `per_frame(mlp, features)`, [B, T, F]."""
    return _linear(mlp, _hidden(mlp, features))


def embed_pooled(mlp: keras.Sequential, features: tf.Tensor, period: int) -> tf.Tensor:
    """Returns `clockwork.pool(per_frame(mlp, features), period)`, [B, ceil(T / period), F].

    The last layer is linear, so it may follow the sum over frames, where there are fewer rows.
    """
    frames = clockwork.pool(tf.ones((1, features.shape[1], 1)), period)[0]
    return _linear(mlp, clockwork.pool(_hidden(mlp, features), period), frames)


def _hidden(mlp: keras.Sequential, features: tf.Tensor) -> tf.Tensor:
    """Returns the inputs of the last layer, which is linear: [B, T, H] for [B, T, F]."""
    one, two, _ = _weights(mlp)
    x = tf.cast(tf.reshape(features, (-1, features.shape[-1])), one[0].dtype)
    x = convolutions.dense(convolutions.dense(x, *one, tf.nn.relu), *two, tf.nn.relu)
    return tf.cast(tf.reshape(x, (*features.shape[:-1], x.shape[-1])), tf.float32)


def _linear(mlp: keras.Sequential, hidden: tf.Tensor, frames: tf.Tensor | float = 1.0) -> tf.Tensor:
    """Returns the last layer's output for inputs [B, N, H] that are sums over `frames` [N, 1]."""
    kernel, _ = _weights(mlp)[-1]
    rows = tf.cast(tf.reshape(hidden, (-1, hidden.shape[-1])), kernel.dtype)
    x = tf.cast(tf.linalg.matmul(rows, kernel), tf.float32)
    return tf.reshape(x, (*hidden.shape[:-1], -1)) + frames * mlp.layers[-1].bias


def _weights(network: keras.Sequential) -> list[tuple[tf.Tensor, tf.Tensor]]:
    """Returns kernel and bias of each layer that has them, in the dtype to compute in."""
    return [
        (tf.cast(layer.kernel, layer.compute_dtype), tf.cast(layer.bias, layer.compute_dtype))
        for layer in network.layers
        if layer.weights
    ]
