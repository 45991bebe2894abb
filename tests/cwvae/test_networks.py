"""The networks against plain TensorFlow operations and NumPy."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from cwvae import networks

RNG = np.random.default_rng(0)


def plain_encoder(encoder, frames):
    x = frames
    for layer in encoder.layers[:-1]:
        x = tf.nn.leaky_relu(tf.nn.conv2d(x, layer.kernel, 2, "VALID") + layer.bias, 0.2)
    return tf.reshape(x, (len(frames), -1))


def plain_decoder(decoder, features):
    dense, _, *convolutions, _ = decoder.layers
    x = (features @ dense.kernel + dense.bias)[:, None, None]
    for number, layer in enumerate(convolutions, 1):
        batch, height, width, _ = x.shape
        size, _, outputs, _ = layer.kernel.shape
        shape = (batch, 2 * height + size - 2, 2 * width + size - 2, outputs)
        x = tf.nn.conv2d_transpose(x, layer.kernel, shape, 2, "VALID") + layer.bias
        x = tf.tanh(x) if number == len(convolutions) else tf.nn.leaky_relu(x, 0.2)
    return x


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [32, 64, 128])
def test_encoder_and_decoder_are_the_stacks_of_the_original(size, channels):
    encoder = networks.frame_encoder(size, channels, 0.25)
    decoder = networks.frame_decoder(size, channels, 7, 0.25)
    for weight in [*encoder.weights, *decoder.weights]:
        weight.assign(weight + 0.1 * RNG.normal(size=weight.shape))
    frames = tf.constant(RNG.random((6, size, size, channels)), tf.float32)
    features = tf.constant(RNG.normal(size=(6, 7)), tf.float32)
    for plain, network, inputs in (
        (plain_encoder, encoder, frames),
        (plain_decoder, decoder, features),
    ):
        want = plain(network, inputs)
        np.testing.assert_allclose(network(inputs), want, atol=2e-5 * np.abs(want).max())
    assert encoder(frames).shape == (6, networks.feature_size(size, 0.25))
    assert decoder(features).shape == frames.shape


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (networks.Dense(4, "relu", dtype="mixed_bfloat16"), (5000, 6)),
        (networks.Conv2D(4, 3, dtype="mixed_bfloat16"), (9, 30, 30, 6)),
        (networks.Conv2DTranspose(4, 3, 2, dtype="mixed_bfloat16"), (9, 30, 30, 6)),
    ],
    ids=["dense", "convolution", "transposed convolution"],
)
def test_gradients_of_bfloat16_biases_are_those_of_float32(layer, shape):
    x = tf.constant(RNG.random(shape) - 0.4, tf.float32)
    layer.build(shape)
    with tf.GradientTape() as tape:
        y = layer(x)
        upstream = tf.constant(RNG.random(y.shape) - 0.4, tf.bfloat16)
    positive = 1 if layer.activation is keras.activations.linear else np.asarray(y > 0, float)
    want = np.sum(np.asarray(upstream, float) * positive, tuple(range(len(shape) - 1)))
    got = tape.gradient(y, layer.bias.value, upstream)
    np.testing.assert_allclose(got, want, rtol=0.01)


def test_the_embedding_is_two_relu_layers_and_a_linear_one():
    mlp = networks.embedding_mlp(5, 7, name="mlp")
    x = RNG.normal(size=(3, 5)).astype(np.float32)
    (w0, b0), (w1, b1), (w2, b2) = ([w.numpy() for w in layer.weights] for layer in mlp.layers)
    want = np.maximum(np.maximum(x @ w0 + b0, 0) @ w1 + b1, 0) @ w2 + b2
    np.testing.assert_allclose(mlp(x), want, rtol=1e-4, atol=1e-5)
