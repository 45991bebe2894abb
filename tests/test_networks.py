"""The networks against plain TensorFlow operations and NumPy."""

import numpy as np
import pytest
import tensorflow as tf

from cwvae import networks

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("channels", [1, 3])
def test_the_last_layer_is_a_transposed_convolution_with_its_gradients(channels):
    x = tf.constant(RNG.normal(size=(2, 5, 7, 4)), tf.float32)
    kernel = tf.constant(RNG.normal(size=(6, 6, channels, 4)), tf.float32)
    upstream = tf.constant(RNG.normal(size=(2, 14, 18, channels)), tf.float32)

    def plain(x, kernel):
        return tf.nn.conv2d_transpose(x, kernel, upstream.shape, 2, "VALID")

    results = []
    for function in (plain, networks._transposed_conv_to_frames):
        with tf.GradientTape() as tape:
            tape.watch((x, kernel))
            frames = function(x, kernel)
        results.append((frames, *tape.gradient(frames, (x, kernel), upstream)))
    for want, got in zip(*results, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


def test_the_first_layer_is_a_transposed_convolution_of_a_point():
    layer = networks._PointTransposedConv(
        inputs=6, filters=3, size=5, precision="float32", name="point"
    )
    layer.bias.assign([0.1, -0.2, 0.3])
    x = RNG.normal(size=(2, 6)).astype(np.float32)
    want = tf.nn.conv2d_transpose(
        x[:, None, None], tf.convert_to_tensor(layer.kernel), (2, 5, 5, 3), 2, "VALID"
    )
    want = tf.nn.leaky_relu(want + layer.bias, 0.2)
    np.testing.assert_allclose(layer(x), want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("size", "maps"), [(32, [15, 6, 2]), (64, [31, 14, 6, 2]), (128, [63, 30, 14, 6, 2])]
)
def test_the_encoder_halves_without_padding_and_counts_features(size, maps):
    encoder = networks.FrameEncoder(frame_size=size, channels=3, channel_multiplier=0.25)
    shape = (2, size, size, 3)
    for layer, side in zip(encoder.convolutions, maps, strict=True):
        shape = layer.compute_output_shape(shape)
        assert shape[1:3] == (side, side)
    assert encoder.feature_size == networks.feature_size(size, 0.25)
    video = RNG.random((2, 3, size, size, 3)).astype(np.float32)
    assert encoder(video).shape == (2, 3, encoder.feature_size)


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


def test_the_embedding_is_two_relu_layers_and_a_linear_one():
    mlp = networks.EmbeddingMLP(feature_size=5, hidden_size=7, name="mlp")
    x = RNG.normal(size=(2, 3, 5)).astype(np.float32)
    (w0, b0), (w1, b1), (w2, b2) = ([w.numpy() for w in layer.weights] for layer in mlp.layers)
    want = np.maximum(np.maximum(x @ w0 + b0, 0) @ w1 + b1, 0) @ w2 + b2
    np.testing.assert_allclose(mlp(x), want, rtol=1e-4, atol=1e-5)
