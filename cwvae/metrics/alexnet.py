"""AlexNet's convolutions and the linear heads of LPIPS, in TensorFlow. `lpips` checks arguments.

F: frames, H, W: height and width, D: channels of a tap.

Sources: Krizhevsky, One weird trick for parallelizing convolutional neural networks, 2014, as in
torchvision's `alexnet`; Zhang, Isola, Efros, Shechtman, Wang, The Unreasonable Effectiveness of
Deep Features as a Perceptual Metric, 2018, equation 1.
"""

from collections.abc import Mapping

import tensorflow as tf

# Mean and standard deviation of the inputs, in [-1, 1], that the trunk was trained on.
SHIFT = (-0.030, -0.088, -0.188)
SCALE = (0.458, 0.448, 0.450)

STRIDES = (4, 1, 1, 1, 1)
PADDINGS = (2, 2, 1, 1, 1)
POOLED = (False, True, True, False, False)  # Whether 3x3 pooling of stride 2 comes first.

EPSILON = 1e-10


def tap_distances(
    arrays: Mapping[str, tf.Tensor], truth: tf.Tensor, prediction: tf.Tensor
) -> tf.Tensor:
    """Returns the distances [F, 5] of images [F, H, W, 3] in [-1, 1] at the five taps.

    `arrays` are weights by the names in `lpips.SHAPES`. The sum over taps is LPIPS.
    """
    num_frames = tf.shape(truth)[0]
    distances = []
    for i, tap in enumerate(taps(arrays, tf.concat([truth, prediction], 0))):  # [2 F, h, w, D]
        norm = tf.sqrt(tf.reduce_sum(tf.square(tap), -1, keepdims=True))
        unit = tap / (norm + EPSILON)
        difference = tf.square(unit[:num_frames] - unit[num_frames:])
        # The head is linear, so the mean over places may come first.
        mean = tf.reduce_mean(difference, (1, 2))  # [F, D]
        distances.append(tf.linalg.matvec(mean, arrays[f"head{i}"]))
    return tf.stack(distances, -1)


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
