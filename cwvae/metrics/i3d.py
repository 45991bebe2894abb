"""The network behind FVD: I3D on RGB frames, trained on Kinetics-400.

An Inception network whose filters also span time. Its features are the 400 logits, averaged over
time. `LAYERS` is the whole architecture; `logits` computes it.

N: videos, T: frames, C: channels.

Source: Carreira, Zisserman, Quo Vadis, Action Recognition? A New Model and the Kinetics Dataset,
2017, Figure 3; the released weights.
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np

SIZE = 224  # Height and width of the frames that it was trained on.
FEATURES = 400
EPSILON = 1e-3  # Of batch normalization, which has no scale.


class Convolution(NamedTuple):
    """A convolution with as many filters, cubic kernel and stride; its name, too."""

    name: str
    filters: int
    kernel: int
    stride: int = 1


class Pool(NamedTuple):
    """A maximum over [time, height, width]."""

    window: tuple[int, int, int]
    stride: tuple[int, int, int]


class Mixed(NamedTuple):
    """Four branches side by side: 1x1x1; 1x1x1, then 3x3x3, twice; pooling, then 1x1x1.

    Attributes:
      name: Of the block.
      filters: Of its six convolutions, in this order.
    """

    name: str
    filters: tuple[int, int, int, int, int, int]

    def branches(self) -> list[list[Convolution | Pool]]:
        """Returns the layers of each branch. Their outputs are joined along the channels."""
        a, b, c, d, e, f = self.filters

        def layer(branch: int, place: str, filters: int, kernel: int) -> Convolution:
            name = f"{self.name}/Branch_{branch}/Conv3d_{place}_{kernel}x{kernel}"
            return Convolution(name, filters, kernel)

        return [
            [layer(0, "0a", a, 1)],
            [layer(1, "0a", b, 1), layer(1, "0b", c, 3)],
            [layer(2, "0a", d, 1), layer(2, "0b", e, 3)],
            [Pool((3, 3, 3), (1, 1, 1)), layer(3, "0b", f, 1)],
        ]


LAYERS = (
    Convolution("Conv3d_1a_7x7", 64, 7, 2),
    Pool((1, 3, 3), (1, 2, 2)),
    Convolution("Conv3d_2b_1x1", 64, 1),
    Convolution("Conv3d_2c_3x3", 192, 3),
    Pool((1, 3, 3), (1, 2, 2)),
    Mixed("Mixed_3b", (64, 96, 128, 16, 32, 32)),
    Mixed("Mixed_3c", (128, 128, 192, 32, 96, 64)),
    Pool((3, 3, 3), (2, 2, 2)),
    Mixed("Mixed_4b", (192, 96, 208, 16, 48, 64)),
    Mixed("Mixed_4c", (160, 112, 224, 24, 64, 64)),
    Mixed("Mixed_4d", (128, 128, 256, 24, 64, 64)),
    Mixed("Mixed_4e", (112, 144, 288, 32, 64, 64)),
    Mixed("Mixed_4f", (256, 160, 320, 32, 128, 128)),
    Pool((2, 2, 2), (2, 2, 2)),
    Mixed("Mixed_5b", (256, 160, 320, 32, 128, 128)),
    Mixed("Mixed_5c", (384, 192, 384, 48, 128, 128)),
)
# Before the last layer: a mean over 2 steps of time and all of space, each step of time.
LOGITS = "Logits/Conv3d_0c_1x1"


def shapes() -> dict[str, tuple[int, ...]]:
    """Returns the shapes of all weights by name; kernels are [time, height, width, in, out]."""
    found = {}
    for layer, channels in _convolutions():
        found[f"{layer.name}/kernel"] = (layer.kernel,) * 3 + (channels, layer.filters)
        found |= {f"{layer.name}/{part}": (layer.filters,) for part in ("beta", "mean", "variance")}
    found[f"{LOGITS}/kernel"] = (1, 1, 1, 1024, FEATURES)
    return found | {f"{LOGITS}/bias": (FEATURES,)}


def _convolutions() -> Iterator[tuple[Convolution, int]]:
    """Yields each convolution but the last with the number of its input channels."""
    channels = 3
    for layer in LAYERS:
        if isinstance(layer, Convolution):
            yield layer, channels
            channels = layer.filters
        elif isinstance(layer, Mixed):
            given, channels = channels, 0
            for branch in layer.branches():
                inner = given
                for part in branch:
                    if isinstance(part, Convolution):
                        yield part, inner
                        inner = part.filters
                channels += inner


def fold(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns kernels and biases, float32, with the constant batch normalization in them."""
    folded = {f"{LOGITS}/{part}": arrays[f"{LOGITS}/{part}"] for part in ("kernel", "bias")}
    for layer, _ in _convolutions():
        beta, mean, variance, kernel = (
            arrays[f"{layer.name}/{part}"].astype(np.float64)
            for part in ("beta", "mean", "variance", "kernel")
        )
        scale = 1 / np.sqrt(variance + EPSILON)
        folded[f"{layer.name}/kernel"] = (kernel * scale).astype(np.float32)
        folded[f"{layer.name}/bias"] = (beta - mean * scale).astype(np.float32)
    return folded


def logits(weights: Mapping, videos):
    """Returns the logits of each step of 8 frames but the last, float32 [N, ceil(T / 8) - 1, 400].

    Args:
      weights: Tensors by name, as `fold` returns them.
      videos: Frames in [-1, 1], float32 [N, T, 224, 224, C], T from 9. A single channel stands for
        three equal ones.
    """
    import tensorflow as tf  # Late: `shapes` does not need it.

    def run(x, layer):
        if isinstance(layer, Pool):
            return tf.nn.max_pool3d(x, layer.window, layer.stride, "SAME")
        if isinstance(layer, Mixed):
            return tf.concat([run_all(x, branch) for branch in layer.branches()], -1)
        kernel = weights[f"{layer.name}/kernel"]
        if x.shape[-1] == 1:  # Equal channels: the sum of their kernels does the same.
            kernel = tf.reduce_sum(kernel, 3, keepdims=True)
        x = tf.nn.conv3d(x, kernel, (1, *(layer.stride,) * 3, 1), "SAME")
        return tf.nn.relu(x + weights[f"{layer.name}/bias"])

    def run_all(x, layers):
        for layer in layers:
            x = run(x, layer)
        return x

    x = tf.reduce_mean(run_all(videos, LAYERS), (2, 3))  # [N, ceil(T / 8), 1024]
    # The logits are linear, so the mean over two steps may come first.
    x = (x[:, 1:] + x[:, :-1]) / 2
    return tf.linalg.matmul(x, weights[f"{LOGITS}/kernel"][0, 0, 0]) + weights[f"{LOGITS}/bias"]
