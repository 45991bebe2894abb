"""Every convolution against TensorFlow's plain operations, with all its gradients."""

import numpy as np
import pytest
import tensorflow as tf

from cwvae.fast import convolutions
from cwvae.networks import leaky_relu

RNG = np.random.default_rng(0)


def array(*shape):
    return tf.constant(RNG.normal(size=shape), tf.float32)


def dense(activation):
    return lambda x, kernel, bias: activation(x @ kernel + bias)


def dense_transposed(x, kernel, bias):
    return tf.nn.leaky_relu(x @ tf.transpose(kernel) + bias, 0.2)


def our_dense(activation, transposed=False):
    return lambda *a: convolutions.dense(*a, activation, transposed)


def convolution(stride):
    def plain(x, kernel, bias):
        return tf.nn.leaky_relu(tf.nn.conv2d(x, kernel, stride, "VALID") + bias, 0.2)

    return plain


def transposed(x, kernel, bias):
    batch, height, width, _ = x.shape
    size, _, outputs, _ = kernel.shape
    shape = (batch, 2 * height + size - 2, 2 * width + size - 2, outputs)
    return tf.nn.leaky_relu(tf.nn.conv2d_transpose(x, kernel, shape, 2, "VALID") + bias, 0.2)


def transposed_by_pairs(x, kernel, bias):
    return convolutions.from_blocks(convolutions.transposed_to_pairs(x, kernel, bias), 2)


def frames(x, kernel, bias):
    batch, height, width, _ = x.shape
    shape = (batch, 2 * height + 4, 2 * width + 4, kernel.shape[2])
    return tf.nn.conv2d_transpose(x, kernel, shape, 2, "VALID") + bias


def frames_by_blocks(x, kernel, bias):
    pairs = convolutions.to_blocks(x, 2)
    return convolutions.from_blocks(convolutions.pairs_to_quads(pairs, kernel, bias), 4)


def first(x, kernel, bias):
    """The encoder's first layer, without its last row and column."""
    y = convolution(2)(x, kernel, bias)
    return y[:, :-1, :-1]


def first_by_blocks(x, kernel, bias):
    quads, kernel = convolutions.to_blocks(x, 4), convolutions.kernel_over_blocks(kernel)
    y = convolutions.convolve(quads, kernel, tf.tile(bias, [4]), 1)
    return convolutions.from_blocks(y, 2)


def second_by_blocks(x, kernel, bias):
    pairs, kernel = convolutions.to_blocks(x, 2), convolutions.kernel_over_pairs(kernel)
    return convolutions.convolve(pairs, kernel, bias, 1)


CASES = {
    "dense, linear": (dense(tf.identity), our_dense(None), (3, 5), (5, 7), 7),
    "dense, ReLU": (dense(tf.nn.relu), our_dense(tf.nn.relu), (3, 5), (5, 7), 7),
    "dense, transposed": (dense_transposed, our_dense(leaky_relu, True), (3, 5), (7, 5), 7),
    "stride 1": (
        convolution(1),
        lambda *a: convolutions.convolve(*a, 1),
        (2, 5, 7, 3),
        (2, 2, 3, 4),
        4,
    ),
    "stride 2, small": (
        convolution(2),
        lambda *a: convolutions.convolve(*a, 2),
        (2, 8, 10, 3),
        (4, 4, 3, 5),
        5,
    ),
    "stride 2, large": (
        convolution(2),
        lambda *a: convolutions.convolve(*a, 2),
        (2, 18, 20, 3),
        (4, 4, 3, 5),
        5,
    ),
    "6 to 2": (convolution(2), convolutions.convolve_6_to_2, (3, 6, 6, 4), (4, 4, 4, 5), 5),
    "first": (first, first_by_blocks, (2, 12, 16, 3), (4, 4, 3, 5), 5),
    "second": (convolution(2), second_by_blocks, (2, 10, 14, 3), (4, 4, 3, 5), 5),
    "transposed, 5": (transposed, convolutions.transposed, (2, 3, 5, 4), (5, 5, 3, 4), 3),
    "transposed, 6": (transposed, transposed_by_pairs, (2, 3, 5, 4), (6, 6, 3, 4), 3),
    "frames, gray": (frames, frames_by_blocks, (2, 6, 8, 4), (6, 6, 1, 4), 1),
    "frames, RGB": (frames, frames_by_blocks, (2, 6, 8, 4), (6, 6, 3, 4), 3),
}


def results(function, arguments, upstream=None):
    with tf.GradientTape() as tape:
        tape.watch(arguments)
        y = function(*arguments)
    if upstream is None:
        upstream = array(*y.shape)
    return upstream, (y, *tape.gradient(y, arguments, tf.cast(upstream, y.dtype)))


@pytest.mark.parametrize("compiled", ["eager", "function", "XLA"])
@pytest.mark.parametrize("name", CASES)
def test_it_is_the_plain_operation_with_its_gradients(name, compiled):
    plain, ours, *shapes, size = CASES[name]
    arguments = [*(array(*shape) for shape in shapes), array(size)]
    upstream, want = results(plain, arguments)

    def run(*arguments):
        return results(ours, list(arguments), upstream)[1]

    if compiled != "eager":
        run = tf.function(run, jit_compile=compiled == "XLA")
    for expected, got in zip(want, run(*arguments), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", CASES)
def test_in_bfloat16_it_agrees_within_its_rounding(name):
    plain, ours, *shapes, size = CASES[name]
    arguments = [*(array(*shape) for shape in shapes), array(size)]
    # What bfloat16 holds exactly, so that only the arithmetic rounds.
    arguments = [tf.cast(tf.cast(x, tf.bfloat16), tf.float32) for x in arguments]
    y = plain(*arguments)
    # Not where rounding may change the sign before the activation, and so the gradient.
    clear = np.abs(y) > 0.02 * np.abs(y).max()
    upstream, want = results(plain, arguments, tf.where(clear, array(*y.shape), 0.0))
    rounded = [tf.cast(x, tf.bfloat16) for x in arguments]
    run = tf.function(lambda *a: results(ours, list(a), upstream)[1])
    # Without units for bfloat16, processors round sums, too: the plain operation shows how far.
    theirs = results(plain, rounded, upstream)[1]
    for expected, other, got in zip(want, theirs, run(*rounded), strict=True):
        assert got.dtype == tf.bfloat16
        error, allowed = (
            np.abs(np.asarray(tf.cast(x, tf.float32)) - expected).max() for x in (got, other)
        )
        assert error < max(0.02 * np.abs(expected).max(), 3 * allowed)


def test_blocks_are_tensorflows_and_go_back():
    x = array(2, 8, 12, 3)
    for size in (2, 4):
        blocks = convolutions.to_blocks(x, size)
        np.testing.assert_array_equal(blocks, tf.nn.space_to_depth(x, size))
        np.testing.assert_array_equal(convolutions.from_blocks(blocks, size), x)
