"""The networks of SVG: each linear map against plain NumPy, skips, statistics, sizes."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from cwvae.baselines import svg_networks
from cwvae.baselines.svg_networks import Decoder, Encoder, RecurrentNet

RNG = np.random.default_rng(0)


def array(*shape):
    return tf.constant(RNG.normal(size=shape), tf.float32)


def pair(network="dcgan", size=32, channels=1, multiplier=0.125, **options):
    keras.utils.set_random_seed(0)
    options |= dict(network=network, frame_size=size, channels=channels, feature_size=5)
    rng = np.random.default_rng(1)
    made = [kind(channel_multiplier=multiplier, **options) for kind in (Encoder, Decoder)]
    # Larger than the initial kernels and scales.
    for weight in (weight for each in made for weight in each.weights):
        name, shape = weight.path.split("/")[-1], weight.shape
        if name.endswith("kernel"):
            weight.assign(rng.normal(0, 1.4 / np.sqrt(np.prod(shape[:-1])), shape))
        elif name.startswith("moving"):
            weight.assign(rng.uniform(0.5, 1.5, shape) - (name == "moving_mean"))
    return made


# Linear maps.


def convolution(x, kernel, stride):
    """Convolves with a padding of 1."""
    x = np.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)])
    size = kernel.shape[0]
    count = (x.shape[1] - size) // stride + 1
    y = np.zeros((len(x), count, count, kernel.shape[3]))
    for i in range(count):
        for j in range(count):
            window = x[:, stride * i : stride * i + size, stride * j : stride * j + size]
            y[:, i, j] = np.tensordot(window, kernel, 3)
    return y


def transposed(x, kernel):
    """Convolves transposed, with stride 2, and cuts off a padding of 1."""
    count = x.shape[1]
    y = np.zeros((len(x), 2 * count + 2, 2 * count + 2, kernel.shape[2]))
    for i in range(count):
        for j in range(count):
            part = np.einsum("ni,aboi->nabo", x[:, i, j], kernel)
            y[:, 2 * i : 2 * i + 4, 2 * j : 2 * j + 4] += part
    return y[:, 1:-1, 1:-1]


def test_linear_maps_against_numpy():
    x, kernel3, kernel4 = array(2, 6, 6, 3), array(3, 3, 3, 5), array(4, 4, 3, 5)
    back4 = array(4, 4, 5, 3)
    repeated = x.numpy().repeat(2, 1).repeat(2, 2)
    cases = [
        (svg_networks._convolve(x, kernel3), convolution(x, kernel3, 1)),
        (svg_networks._halve(x, kernel4), convolution(x, kernel4, 2)),
        (svg_networks._double(x, back4), transposed(x, back4)),
        (svg_networks._upsample_convolve(x, kernel3), convolution(repeated, kernel3, 1)),
    ]
    for got, want in cases:
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


def test_maps_from_and_to_a_point_against_numpy():
    x, kernel = array(2, 4, 4, 3), array(4, 4, 3, 5)
    want = np.tensordot(x, kernel, 3)[:, None, None]
    np.testing.assert_allclose(svg_networks._to_point(x, kernel), want, rtol=1e-4, atol=1e-5)
    point = array(2, 1, 1, 5)
    want = np.einsum("ni,aboi->nabo", point[:, 0, 0], kernel)
    np.testing.assert_allclose(svg_networks._from_point(point, kernel), want, rtol=1e-4, atol=1e-5)


def test_the_leaky_relu_and_its_gradient():
    x, upstream = array(50), array(50)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = svg_networks._leaky_relu(x)
    slope = np.where(x > 0, 1, 0.2)
    np.testing.assert_allclose(y, x * slope, rtol=1e-6)
    np.testing.assert_allclose(tape.gradient(y, x, upstream), upstream * slope, rtol=1e-6)


# Encoder and decoder.


@pytest.mark.parametrize(
    ("network", "size", "skips"),
    [
        ("dcgan", 32, [(16, 64), (8, 128), (4, 256)]),
        ("dcgan", 64, [(32, 64), (16, 128), (8, 256), (4, 512)]),
        ("dcgan", 128, [(64, 64), (32, 128), (16, 256), (8, 512), (4, 512)]),
        ("vgg", 32, [(32, 64), (16, 128), (8, 256)]),
        ("vgg", 64, [(64, 64), (32, 128), (16, 256), (8, 512)]),
        ("vgg", 128, [(128, 64), (64, 128), (32, 256), (16, 512), (8, 512)]),
    ],
)
def test_maps_of_every_stage(network, size, skips):
    encoder, decoder = pair(network, size, channels=3, multiplier=0.125)
    features, got = encoder.encode(tf.random.uniform((3, 2, size, size, 3)))
    assert features.shape == (3, 2, 5)
    assert -1 <= np.min(features) < 0 < np.max(features) <= 1
    assert [skip.shape for skip in got] == [(3, 2, h, h, f // 8) for h, f in skips]
    frames = decoder.decode(features, decoder.shares(got))
    assert frames.shape == (3, 2, size, size, 3)
    assert 0 <= np.min(frames) < np.max(frames) <= 1


@pytest.mark.parametrize("network", ["dcgan", "vgg"])
def test_two_kernels_equal_one_kernel_over_x_and_skip(network):
    encoder, decoder = pair(network)
    features, skips = encoder.encode(array(3, 2, 32, 32, 1))
    x = decoder._head.run(tf.reshape(features, (6, 1, 1, 5)), None)
    for (first, *others), skip in zip(decoder._stages, reversed(skips), strict=True):
        skip, kernels = tf.reshape(skip, (6, *skip.shape[2:])), (first.kernel, first.skip_kernel)
        if network == "dcgan":
            both = tf.concat([x, skip], -1)
            shape = (6, 2 * x.shape[1], 2 * x.shape[2], first.kernel.shape[2])
            x = tf.nn.conv2d_transpose(both, tf.concat(kernels, 3), shape, 2)
        else:
            both = tf.concat([tf.repeat(tf.repeat(x, 2, 1), 2, 2), skip], -1)
            x = tf.nn.conv2d(both, tf.concat(kernels, 2), 1, "SAME")
        x += first.bias
        x = first._activation(x if first.norm is None else first.norm.normalize(x, None))
        for layer in others:
            x = layer.run(x, None)
    got = decoder.decode(features, decoder.shares(skips))
    np.testing.assert_allclose(got, tf.reshape(x, got.shape), atol=1e-5)
    assert np.std(got) > 1e-3


def test_later_frames_read_the_last_skips():
    encoder, decoder = pair()
    features, skips = encoder.encode(array(7, 2, 32, 32, 1))
    got = decoder.decode(features, decoder.shares([skip[:3] for skip in skips]))
    extended = [tf.gather(skip, [0, 1, 2, 2, 2, 2, 2]) for skip in skips]
    np.testing.assert_allclose(got, decoder.decode(features, decoder.shares(extended)), atol=1e-6)
    other = decoder.decode(features, decoder.shares(skips))
    np.testing.assert_allclose(got[:3], other[:3], atol=1e-6)
    assert np.abs(got[3:] - other[3:]).max(axis=(1, 2, 3, 4)).min() > 1e-4


@pytest.mark.parametrize("network", ["dcgan", "vgg"])
def test_moving_statistics_equal_to_the_batchs_give_the_same_result(network):
    made, video = pair(network), array(25, 4, 32, 32, 1)
    encoder, decoder = made

    def run(statistics):
        features, skips = encoder.encode(video, statistics)
        return features, decoder.decode(features, decoder.shares(skips), statistics)

    statistics = {}
    by_batch, before = run(statistics), run(None)
    weights = [weight for each in made for weight in each.non_trainable_weights]
    assert {weight.path for weight in weights} == set(statistics)
    for weight in weights:
        weight.assign(statistics[weight.path])
    for want, got, other in zip(by_batch, run(None), before, strict=True):
        # Moving variances are unbiased, half a percent larger for the 100 features.
        np.testing.assert_allclose(got, want, atol=0.02)
        assert np.abs(other - want).max() > 0.05


@pytest.mark.parametrize("network", ["dcgan", "vgg"])
def test_bfloat16_agrees_with_float32_and_returns_float32(network):
    video = array(3, 2, 32, 32, 1)
    results = []
    for precision in ("float32", "mixed_bfloat16"):
        encoder, decoder = pair(network, precision=precision)
        features, skips = encoder.encode(video, {})
        frames = decoder.decode(features, decoder.shares(skips), {})
        assert features.dtype == frames.dtype == tf.float32
        results.append((features, frames))
    for exact, rough in zip(*results, strict=True):
        np.testing.assert_allclose(rough, exact, atol=0.1)
        assert np.mean(np.abs(rough - exact)) < 0.02


def test_initial_weights_are_the_released_ones():
    keras.utils.set_random_seed(0)
    options = dict(network="dcgan", frame_size=32, channels=3, feature_size=50)
    layers = [Encoder(**options), Decoder(**options)]
    layers.append(RecurrentNet(60, 70, 50, layers=2, name="net"))
    for weight in (weight for layer in layers for weight in layer.weights):
        value, name = weight.numpy(), weight.path.split("/")[-1]
        if name in ("kernel", "skip_kernel") and "lstm" not in weight.path:
            np.testing.assert_allclose([value.mean(), value.std()], [0, 0.02], atol=1e-3)
        elif name == "gamma":
            np.testing.assert_allclose([value.mean(), value.std()], [1, 0.02], atol=8e-3)
        elif name in ("bias", "beta") and "lstm" not in weight.path:
            assert np.all(value == 0)


def test_wrong_input_raises_clear_errors():
    with pytest.raises(ValueError, match=r"unknown\. Choose dcgan or vgg"):
        pair("resnet")
    with pytest.raises(ValueError, match=r"48: the networks fit \[32, 64, 128\]"):
        pair(size=48)


def test_a_recurrent_net_step_by_step_equals_its_run_over_time():
    net, x = RecurrentNet(3, 7, 5, layers=2, name="net"), array(4, 2, 3)
    outputs, states = net.run(x, net.zero_state(2))
    now = net.zero_state(2)
    for t in range(4):
        output, now = net.step(x[t], now)
        np.testing.assert_allclose(output, outputs[t], atol=1e-6)
    for got, want in zip(tf.nest.flatten(now), tf.nest.flatten(states), strict=True):
        np.testing.assert_allclose(got, want, atol=1e-6)
