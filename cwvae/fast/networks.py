"""Encoder, decoder and pooled embedding MLPs: what `cwvae.networks` computes, faster.

Each function takes the plain layer and computes `layer(x)` from its weights. See
`cwvae.fast.convolutions` for how. `tests/cwvae/fast/test_model.py` compares outputs and gradients.
"""

import keras
import tensorflow as tf

from cwvae import clockwork
from cwvae.fast import convolutions
from cwvae.networks import EmbeddingMLP, FrameDecoder, FrameEncoder, leaky_relu


def encode(encoder: FrameEncoder, video: tf.Tensor) -> tf.Tensor:
    """Returns `encoder(video)`: features [B, T, F]."""
    first, second, *middle, last = map(_cast, encoder.convolutions)
    x = tf.cast(tf.reshape(video, (-1, *encoder.frame_shape)), encoder.compute_dtype)
    x = convolutions.to_blocks(x, 4)
    # The first map in blocks of 2x2, without the last row and column: the next layer never reads
    # them.
    kernel = convolutions.kernel_over_blocks(first[0])
    x = convolutions.convolve(x, kernel, tf.tile(first[1], [4]), 1)
    x = convolutions.convolve(x, convolutions.kernel_over_pairs(second[0]), second[1], 1)
    for kernel, bias in middle:
        x = convolutions.convolve(x, kernel, bias, 2)
    x = convolutions.convolve_6_to_2(x, *last)
    return tf.cast(tf.reshape(x, (*video.shape[:2], -1)), tf.float32)


def decode(decoder: FrameDecoder, features: tf.Tensor) -> tf.Tensor:
    """Returns `decoder(features)`: the means of the frames, [B, T, H, W, C]."""
    batch, length = features.shape[:2]
    point, *middle, wide, last = map(_cast, decoder.convolutions)
    x = tf.cast(tf.reshape(features, (-1, features.shape[-1])), decoder.compute_dtype)
    x = convolutions.dense(x, *_cast(decoder.dense))
    # A transposed convolution of a 1x1 map is a matrix product.
    kernel, bias = point
    size, _, filters, inputs = kernel.shape
    flat = tf.reshape(kernel, (-1, inputs))
    x = convolutions.dense(x, flat, tf.tile(bias, [size * size]), leaky_relu, transposed=True)
    x = tf.reshape(x, (batch * length, size, size, filters))
    for kernel, bias in middle:
        x = convolutions.transposed(x, kernel, bias)
    x = convolutions.transposed_to_pairs(x, *wide)
    x = convolutions.from_blocks(convolutions.pairs_to_quads(x, *last), 4)
    return tf.tanh(tf.cast(tf.reshape(x, (batch, length, *decoder.frame_shape)), tf.float32))


def embed(mlp: EmbeddingMLP, features: tf.Tensor) -> tf.Tensor:
    """Returns `mlp(features)`, [B, T, F]."""
    return _linear(mlp, _hidden(mlp, features))


def embed_pooled(mlp: EmbeddingMLP, features: tf.Tensor, period: int) -> tf.Tensor:
    """Returns `clockwork.pool(mlp(features), period)`, [B, ceil(T / period), F].

    The last layer is linear, so it may follow the sum over frames, where there are fewer rows.
    """
    frames = clockwork.pool(tf.ones((1, features.shape[1], 1)), period)[0]
    return _linear(mlp, clockwork.pool(_hidden(mlp, features), period), frames)


def _hidden(mlp: EmbeddingMLP, features: tf.Tensor) -> tf.Tensor:
    """Returns the inputs of the last layer, which is linear: [B, T, H] for [B, T, F]."""
    # As rows: the gradient of a product with more axes is many small products.
    x = tf.cast(tf.reshape(features, (-1, features.shape[-1])), mlp.compute_dtype)
    for layer in mlp.layers[:-1]:
        x = convolutions.dense(x, *_cast(layer), tf.nn.relu)
    return tf.cast(tf.reshape(x, (*features.shape[:-1], x.shape[-1])), tf.float32)


def _linear(mlp: EmbeddingMLP, hidden: tf.Tensor, frames: tf.Tensor | float = 1.0) -> tf.Tensor:
    """Returns the last layer's output for inputs [B, N, H] that are sums over `frames` [N, 1]."""
    layer = mlp.layers[-1]
    kernel, _ = _cast(layer)
    x = tf.linalg.matmul(tf.cast(tf.reshape(hidden, (-1, hidden.shape[-1])), kernel.dtype), kernel)
    x = tf.cast(tf.reshape(x, (*hidden.shape[:-1], x.shape[-1])), tf.float32)
    return x + frames * layer.bias


def _cast(layer: keras.layers.Layer) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns kernel and bias of a layer in the dtype to compute in."""
    return tf.cast(layer.kernel, layer.compute_dtype), tf.cast(layer.bias, layer.compute_dtype)
