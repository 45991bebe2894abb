"""Convolutions with a bias and a leaky ReLU, each one operation with its own gradient.

    convolve(x, kernel, bias, stride) == leaky_relu(conv2d(x, kernel, stride, "VALID") + bias)
    transposed(x, kernel, bias) == leaky_relu(conv2d_transpose(x, kernel, stride 2) + bias)

and likewise for the others, which are for certain sizes and layouts. They are faster and take less
memory because of three things:

- The gradient needs only the layer's output, since a leaky ReLU keeps the sign. So nothing between
  the layers is kept, and TensorFlow runs product, bias and activation as one kernel.
- Large maps with few channels are slow on every machine. Next to the frames, maps are therefore
  held as blocks: [N, H, W, C] as [N, H/2, W/2, 4 C], and frames in blocks of 4x4. A convolution of
  stride 2 between two such layouts is one of stride 1 with a kernel of 2x2.
- On maps as small as 2x2, a convolution is a matrix product of its windows.

Convolutions are not padded. `tests/cwvae/fast/test_convolutions.py` compares outputs and gradients.

Symbols: N frames, H, W height and width, I and O channels in and out. Kernels are [h, w, I, O],
those of transposed convolutions [h, w, O, I].
"""

from collections.abc import Callable

import tensorflow as tf

from cwvae.compiled import custom_gradient
from cwvae.networks import leaky_relu

_SLOPE = 0.2  # Of `leaky_relu`.
# Below this height and width oneDNN is slow at the gradients of bfloat16 kernels.
_SMALL = 8


def to_blocks(maps: tf.Tensor, size: int) -> tf.Tensor:
    """Returns [N, H/s, W/s, s s C] for [N, H, W, C]; `tf.nn.space_to_depth` is much slower."""
    _, height, width, channels = maps.shape
    x = tf.reshape(maps, (-1, size, width // size, size * channels))
    x = tf.transpose(x, (0, 2, 1, 3))
    return tf.reshape(x, (-1, height // size, width // size, size * size * channels))


def from_blocks(blocks: tf.Tensor, size: int) -> tf.Tensor:
    """Returns [N, s H, s W, C] for [N, H, W, s s C]: the inverse of `to_blocks`."""
    _, height, width, channels = blocks.shape
    x = tf.reshape(blocks, (-1, width, size, channels // size))
    x = tf.transpose(x, (0, 2, 1, 3))
    return tf.reshape(x, (-1, size * height, size * width, channels // size**2))


def dense(
    x: tf.Tensor,
    kernel: tf.Tensor,
    bias: tf.Tensor,
    activation: Callable[[tf.Tensor], tf.Tensor] | None = None,
    transposed: bool = False,
) -> tf.Tensor:
    """A linear layer, [N, O] for x [N, I].

    Args:
      x: [N, I].
      kernel: [I, O], or [O, I] if `transposed`.
      bias: [O].
      activation: `leaky_relu`, `tf.nn.relu` or None.
      transposed: Whether the kernel is.
    """

    @custom_gradient
    def run(x, kernel, bias):
        y = tf.nn.bias_add(tf.linalg.matmul(x, kernel, transpose_b=transposed), bias)
        y = activation(y) if activation else y

        def gradient(upstream):
            dz = upstream
            if activation is leaky_relu:
                dz = _before_activation(upstream, y)
            elif activation:
                dz = tf.raw_ops.ReluGrad(gradients=upstream, features=y)
            by_x = tf.linalg.matmul(dz, kernel, transpose_b=not transposed)
            one, other = (dz, x) if transposed else (x, dz)
            by_kernel = tf.linalg.matmul(one, other, transpose_a=True)
            return by_x, by_kernel, _bias_gradient(dz)

        return y, gradient

    return run(x, kernel, bias)


def convolve(x: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor, stride: int) -> tf.Tensor:
    """Returns a convolution, [N, (H - h) / stride + 1, ..., O] for x [N, H, W, I]."""

    @custom_gradient
    def run(x, kernel, bias):
        y = leaky_relu(tf.nn.bias_add(tf.nn.conv2d(x, kernel, stride, "VALID"), bias))

        def gradient(upstream):
            dz = _before_activation(upstream, y)
            by_x = _input_gradient(x, kernel, dz, stride)
            if stride == 2 and dz.dtype == tf.bfloat16 and max(dz.shape[1:3]) < _SMALL:
                by_kernel = _kernel_gradient_by_products(x, dz)
            else:
                by_kernel = _kernel_gradient(x, kernel, dz, stride)
            return by_x, by_kernel, _bias_gradient(dz)

        return y, gradient

    return run(x, kernel, bias)


def convolve_6_to_2(x: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor) -> tf.Tensor:
    """Returns a convolution of stride 2, [N, 2, 2, O] for [N, 6, 6, I] and [4, 4, I, O]."""
    inputs, outputs = kernel.shape[2:]

    @custom_gradient
    def run(x, kernel, bias):
        windows = tf.reshape(tf.concat(_windows(x, 2, 2), -1), (-1, 16 * inputs))
        flat = tf.reshape(kernel_over_pairs(kernel), (-1, outputs))
        y = leaky_relu(tf.nn.bias_add(tf.linalg.matmul(windows, flat), bias))
        y = tf.reshape(y, (-1, 2, 2, outputs))

        def gradient(upstream):
            dz = _before_activation(upstream, y)
            by_x = _input_gradient(x, kernel, dz, 2)
            by_kernel = _kernel_gradient_by_products(x, dz)
            return by_x, by_kernel, _bias_gradient(dz)

        return y, gradient

    return run(x, kernel, bias)


def transposed(x: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor) -> tf.Tensor:
    """Returns a transposed convolution of stride 2, [N, 2 H + h - 2, 2 W + w - 2, O]."""
    batch, height, width, _ = x.shape
    size, _, outputs, _ = kernel.shape
    shape = (batch, 2 * height + size - 2, 2 * width + size - 2, outputs)

    @custom_gradient
    def run(x, kernel, bias):
        y = tf.nn.conv2d_transpose(x, kernel, shape, 2, "VALID")
        y = _biased_leaky_relu(y, bias)

        def gradient(upstream):
            dz = _before_activation(upstream, y)
            return (*_transposed_gradients(x, kernel, dz), _bias_gradient(dz))

        return y, gradient

    return run(x, kernel, bias)


def transposed_to_pairs(x: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor) -> tf.Tensor:
    """Returns a transposed convolution of stride 2, in blocks of 2x2.

    Args:
      x: [N, H, W, I].
      kernel: [2 M, 2 M, O, I].
      bias: [O].

    Returns:
      [N, H + M - 1, W + M - 1, 4 O]; `from_blocks` turns it into the map.
    """
    size, _, outputs, inputs = kernel.shape
    half = size // 2
    border = [half - 1, half - 1]

    @custom_gradient
    def run(x, kernel, bias):
        # Pixel 2 j + p sums x[j - m] kernel[2 m + p] over m: a convolution, the taps reversed.
        taps = tf.reverse(tf.reshape(kernel, (half, 2, half, 2, outputs, inputs)), [0, 2])
        taps = tf.transpose(taps, (0, 2, 5, 1, 3, 4))
        taps = tf.reshape(taps, (half, half, inputs, 4 * outputs))
        padded = tf.pad(x, [[0, 0], border, border, [0, 0]])
        y = tf.nn.bias_add(tf.nn.conv2d(padded, taps, 1, "VALID"), tf.tile(bias, [4]))
        y = leaky_relu(y)

        def gradient(upstream):
            # The unpadded map takes a quarter less arithmetic than the padded one.
            dz = from_blocks(_before_activation(upstream, y), 2)
            return (*_transposed_gradients(x, kernel, dz), _bias_gradient(dz))

        return y, gradient

    return run(x, kernel, bias)


def pairs_to_quads(x: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor) -> tf.Tensor:
    """Returns a transposed convolution of stride 2 without activation, in blocks of 4x4.

    Args:
      x: [N, H, W, 4 I], a map in blocks of 2x2.
      kernel: [6, 6, O, I].
      bias: [O].

    Returns:
      [N, H + 1, W + 1, 16 O], in blocks of 4x4.
    """
    batch, height, width, _ = x.shape
    outputs = kernel.shape[2]
    shape = (batch, height + 1, width + 1, 16 * outputs)
    x = tf.nn.conv2d_transpose(x, kernel_over_blocks(kernel), shape, 1, "VALID")
    return x + tf.tile(bias, [16])


def kernel_over_pairs(kernel: tf.Tensor) -> tf.Tensor:
    """Returns a kernel of stride 2 for maps in blocks of 2x2, [2, 2, 4 I, O] for [4, 4, I, O]."""
    _, _, inputs, outputs = kernel.shape
    taps = tf.reshape(kernel, (2, 2, 2, 2, inputs, outputs))
    return tf.reshape(tf.transpose(taps, (0, 2, 1, 3, 4, 5)), (2, 2, 4 * inputs, outputs))


def kernel_over_blocks(kernel: tf.Tensor) -> tf.Tensor:
    """Returns a kernel of stride 2 between blocks of 4x4 and blocks of 2x2.

    Along either axis, pixel q of a pair reads (or, transposed, writes) the pixels 2 q, 2 q + 1, ...
    of its quad and the next: the kernel, shifted by 2 q within 8 places.

    Args:
      kernel: [h, w, A, B], h and w up to 6, where A channels belong to the map in blocks of 4x4.

    Returns:
      [2, 2, 16 A, 4 B].
    """
    height, width, quads, pairs = kernel.shape
    shifted = [
        tf.pad(kernel, [[2 * i, 8 - height - 2 * i], [2 * j, 8 - width - 2 * j], [0, 0], [0, 0]])
        for i in (0, 1)
        for j in (0, 1)
    ]
    taps = tf.reshape(tf.stack(shifted, 3), (2, 4, 2, 4, quads, 4 * pairs))
    return tf.reshape(tf.transpose(taps, (0, 2, 1, 3, 4, 5)), (2, 2, 16 * quads, 4 * pairs))


def _before_activation(upstream: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
    """Returns the gradient with respect to the leaky ReLU's input, from its output."""
    if upstream.dtype == tf.bfloat16:
        return _leaky_gradient(upstream, y)
    return tf.raw_ops.LeakyReluGrad(gradients=upstream, features=y, alpha=_SLOPE)


def _biased_leaky_relu(x: tf.Tensor, bias: tf.Tensor) -> tf.Tensor:
    """Returns leaky_relu(x + bias), where no product can include it."""
    if x.dtype == tf.bfloat16:
        return _compiled_leaky_relu(x, bias)
    return leaky_relu(x + bias)


# In bfloat16 TensorFlow's elementwise kernels take twice as long as compiled ones.


@tf.function(jit_compile=True, autograph=False)
def _compiled_leaky_relu(x: tf.Tensor, bias: tf.Tensor) -> tf.Tensor:
    y = tf.cast(x, tf.float32) + tf.cast(bias, tf.float32)
    return tf.cast(tf.where(y > 0, y, _SLOPE * y), x.dtype)


@tf.function(jit_compile=True, autograph=False)
def _leaky_gradient(upstream: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
    slope = tf.where(tf.cast(y, tf.float32) > 0, 1.0, _SLOPE)
    return tf.cast(slope * tf.cast(upstream, tf.float32), upstream.dtype)


def _windows(x: tf.Tensor, height: int, width: int) -> list[tf.Tensor]:
    """Returns the four parts that a kernel of 4x4 reads, each [N, height, width, 4 I]."""
    pairs = to_blocks(x, 2)
    return [pairs[:, i : i + height, j : j + width] for i in (0, 1) for j in (0, 1)]


def _kernel_gradient_by_products(x: tf.Tensor, dz: tf.Tensor) -> tf.Tensor:
    """Returns the gradient of a kernel of 4x4 and stride 2, as four matrix products."""
    _, height, width, outputs = dz.shape
    rows = tf.reshape(dz, (-1, outputs))
    taps = [
        tf.linalg.matmul(tf.reshape(window, (-1, window.shape[-1])), rows, transpose_a=True)
        for window in _windows(x, height, width)
    ]
    taps = tf.reshape(tf.stack(taps), (2, 2, 2, 2, x.shape[-1], outputs))
    return tf.reshape(tf.transpose(taps, (0, 2, 1, 3, 4, 5)), (4, 4, x.shape[-1], outputs))


def _kernel_gradient_by_convolution(
    x: tf.Tensor, kernel: tf.Tensor, dz: tf.Tensor, stride: int
) -> tf.Tensor:
    """Returns what `_kernel_gradient` returns, as a convolution whose channels are the frames."""
    maps, taps = tf.transpose(x, (3, 1, 2, 0)), tf.transpose(dz, (1, 2, 0, 3))
    gradient = tf.nn.conv2d(maps, taps, 1, "VALID", dilations=stride)
    height, width = kernel.shape[:2]
    return tf.transpose(gradient, (1, 2, 0, 3))[:height, :width]


def _input_gradient(x: tf.Tensor, kernel: tf.Tensor, dz: tf.Tensor, stride: int) -> tf.Tensor:
    """Returns the gradient of a convolution with respect to x."""
    return tf.raw_ops.Conv2DBackpropInput(
        input_sizes=tf.shape(x),
        filter=kernel,
        out_backprop=dz,
        strides=[1, stride, stride, 1],
        padding="VALID",
    )


def _kernel_gradient(x: tf.Tensor, kernel: tf.Tensor, dz: tf.Tensor, stride: int) -> tf.Tensor:
    """Returns the gradient of a convolution with respect to its kernel."""
    return tf.raw_ops.Conv2DBackpropFilter(
        input=x,
        filter_sizes=kernel.shape,
        out_backprop=dz,
        strides=[1, stride, stride, 1],
        padding="VALID",
    )


def _transposed_gradients(x, kernel, dz) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the gradients of a transposed convolution of stride 2, for x and kernel."""
    # It is the gradient of a convolution that maps dz to x.
    small = dz.dtype == tf.bfloat16 and max(x.shape[1:3]) < _SMALL
    kernel_gradient = _kernel_gradient_by_convolution if small else _kernel_gradient
    return tf.nn.conv2d(dz, kernel, 2, "VALID"), kernel_gradient(dz, kernel, x, 2)


def _bias_gradient(dz: tf.Tensor) -> tf.Tensor:
    """Returns the sum over all axes but the last, as a product with ones: the fastest way."""
    rows = tf.reshape(dz, (-1, dz.shape[-1]))
    return tf.linalg.matmul(tf.ones((1, tf.shape(rows)[0]), dz.dtype), rows)[0]
