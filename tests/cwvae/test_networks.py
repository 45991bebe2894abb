"""The networks against plain TensorFlow operations and NumPy."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from cwvae import networks

RNG = np.random.default_rng(0)


def plain_encoder(encoder, video):
    x = tf.reshape(video, (-1, *video.shape[2:]))
    for layer in encoder.convolutions:
        x = tf.nn.leaky_relu(tf.nn.conv2d(x, layer.kernel, 2, "VALID") + layer.bias, 0.2)
    return tf.reshape(x, (*video.shape[:2], -1))


def plain_decoder(decoder, features):
    x = tf.reshape(features, (-1, features.shape[-1])) @ decoder.dense.kernel + decoder.dense.bias
    x = x[:, None, None]
    for number, layer in enumerate(decoder.convolutions, 1):
        batch, height, width, _ = x.shape
        size, _, outputs, _ = layer.kernel.shape
        shape = (batch, 2 * height + size - 2, 2 * width + size - 2, outputs)
        x = tf.nn.conv2d_transpose(x, layer.kernel, shape, 2, "VALID") + layer.bias
        x = tf.tanh(x) if number == len(decoder.convolutions) else tf.nn.leaky_relu(x, 0.2)
    return tf.reshape(x, (*features.shape[:2], *x.shape[1:]))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [32, 64, 128])
def test_encoder_and_decoder_are_the_plain_stacks_with_their_gradients(size, channels):
    options = dict(frame_size=size, channels=channels, channel_multiplier=0.25)
    encoder = networks.FrameEncoder(**options)
    decoder = networks.FrameDecoder(input_size=7, **options)
    for layer in [*encoder.convolutions, *decoder.convolutions]:
        layer.bias.assign(RNG.normal(size=layer.bias.shape) * 0.1)
    video = tf.constant(RNG.random((2, 3, size, size, channels)), tf.float32)
    features = tf.constant(RNG.normal(size=(2, 3, 7)), tf.float32)
    for plain, layer, inputs in (
        (plain_encoder, encoder, video),
        (plain_decoder, decoder, features),
    ):
        results = []
        for function in (lambda x, plain=plain, layer=layer: plain(layer, x), layer):
            with tf.GradientTape() as tape:
                tape.watch(inputs)
                outputs = function(inputs)
                loss = tf.reduce_sum(outputs**2)
            sources = [inputs, *(weight.value for weight in layer.trainable_weights)]
            results.append([outputs, *tape.gradient(loss, sources)])
        for want, got in zip(*results, strict=True):
            scale = np.abs(want).max()
            np.testing.assert_allclose(got / scale, want / scale, atol=2e-5)
    assert encoder(video).shape == (2, 3, networks.feature_size(size, 0.25))
    assert decoder(features).shape == video.shape


def test_frames_are_encoded_and_decoded_one_by_one():
    encoder = networks.FrameEncoder(frame_size=32, channels=1, channel_multiplier=0.25)
    video = RNG.random((2, 5, 32, 32, 1)).astype(np.float32)
    np.testing.assert_allclose(encoder(video)[:, 3:4], encoder(video[:, 3:4]), rtol=1e-4, atol=1e-6)
    decoder = networks.FrameDecoder(
        frame_size=32, channels=1, input_size=7, channel_multiplier=0.25
    )
    features = RNG.normal(size=(2, 5, 7)).astype(np.float32)
    frames = decoder(features)
    assert frames.shape == video.shape
    assert np.abs(frames).max() <= 1
    np.testing.assert_allclose(frames[:, 3:4], decoder(features[:, 3:4]), rtol=1e-4, atol=1e-5)


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
    mlp = networks.EmbeddingMLP(feature_size=5, hidden_size=7, name="mlp")
    x = RNG.normal(size=(2, 3, 5)).astype(np.float32)
    (w0, b0), (w1, b1), (w2, b2) = ([w.numpy() for w in layer.weights] for layer in mlp.layers)
    want = np.maximum(np.maximum(x @ w0 + b0, 0) @ w1 + b1, 0) @ w2 + b2
    np.testing.assert_allclose(mlp(x), want, rtol=1e-4, atol=1e-5)
