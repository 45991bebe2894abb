"""AlexNet's convolutions and the linear heads of LPIPS, in TensorFlow. `lpips` checks arguments.

F: frames, H, W: height and width, D: channels of a tap.

Sources: Krizhevsky, One weird trick for parallelizing convolutional neural networks, 2014, as in
torchvision's `alexnet`; Zhang, Isola, Efros, Shechtman, Wang, The Unreasonable Effectiveness of
Deep Features as a Perceptual Metric, 2018, equation 1.
"""

from collections.abc import Mapping, Sequence

import tensorflow as tf

# Mean and standard deviation of the inputs, in [-1, 1], that the trunk was trained on.
SHIFT = (-0.030, -0.088, -0.188)
SCALE = (0.458, 0.448, 0.450)

STRIDES = (4, 1, 1, 1, 1)
PADDINGS = (2, 2, 1, 1, 1)
POOLED = (False, True, True, False, False)  # Whether 3x3 pooling of stride 2 comes first.

EPSILON = 1e-10


def unit_taps(arrays: Mapping[str, tf.Tensor], images: tf.Tensor) -> list[tf.Tensor]:
    """Returns the five taps of images, each [F, h, w, D], divided by their lengths over D.

    Args:
      arrays: Weights by name, as `weights.load` returns those of LPIPS.
      images: [F, H, W, 3] in [-1, 1].
    """
    found = []
    for tap in taps(arrays, images):
        norm = tf.sqrt(tf.reduce_sum(tf.square(tap), -1, keepdims=True))
        found.append(tap / (norm + EPSILON))
    return found


def distances(
    heads: Sequence[tf.Tensor], truth: Sequence[tf.Tensor], prediction: Sequence[tf.Tensor]
) -> tf.Tensor:
    """Returns the distances [F, 5] of images at the five taps. The sum over taps is LPIPS.

    Args:
      heads: Weights of the channels of each tap, [D].
      truth: `unit_taps` of the true images.
      prediction: Those of others.
    """
    found = []
    for head, one, other in zip(heads, truth, prediction, strict=True):
        # The head is linear, so the mean over places may come first.
        mean = tf.reduce_mean(tf.math.squared_difference(one, other), (1, 2))  # [F, D]
        found.append(tf.linalg.matvec(mean, head))
    return tf.stack(found, -1)


def taps(arrays: Mapping[str, tf.Tensor], images: tf.Tensor) -> list[tf.Tensor]:
    """Returns the outputs of the five ReLUs, before any pooling; arguments as above."""
    x = (images - SHIFT) / SCALE
    found = []
    for i, (stride, pad, pooled) in enumerate(zip(STRIDES, PADDINGS, POOLED, strict=True)):
        if pooled:
            x = tf.nn.max_pool2d(x, 3, 2, "VALID")
        # Not "SAME": it pads the first layer by another amount, and unevenly.
        x = tf.pad(x, [[0, 0], [pad, pad], [pad, pad], [0, 0]])
        x = tf.nn.conv2d(x, arrays[f"kernel{i}"], stride, "VALID")
        x = tf.nn.relu(tf.nn.bias_add(x, arrays[f"bias{i}"]))
        found.append(x)
    return found
