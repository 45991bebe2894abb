"""LPIPS, a learned perceptual distance: version 0.1 with AlexNet. Lower is better.

N: videos, T: frames, F: frames of all videos, H, W: height and width, C: channels.

Source: Zhang, Isola, Efros, Shechtman, Wang, The Unreasonable Effectiveness of Deep Features as a
Perceptual Metric, 2018; https://github.com/richzhang/PerceptualSimilarity.
"""

import os
import pathlib
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import ArrayLike

from cwvae.metrics import image, weights
from cwvae.metrics.weights import Weights, checked

PROTOCOL = "v0.1, AlexNet; predictions clipped to [0, 1], gray repeated to RGB, no resize"

TAPS = 5
# Smallest height and width that leave a pixel for the last layers.
MIN_SIZE = 31
# Pixels and frames at a time, to bound memory use.
_PIXELS, _FRAMES = 2**19, 256


def find() -> pathlib.Path:
    """Returns the file of LPIPS' weights; raises MissingWeights, which says how to get it."""
    return weights.find("lpips")


def load(path: str | os.PathLike | None = None) -> Weights:
    """Reads the weights of `find`, or another file of them. Errors are those of `weights.load`."""
    return weights.load("lpips", path)


class LPIPS:
    """The distance of frames in AlexNet's features, in float32 whatever Keras' policy.

    Attributes:
      digest: SHA-256 of the weights.
    """

    def __init__(self, weights: Weights):
        """Takes weights from `load`, and starts TensorFlow; raises a TypeError for others."""
        import tensorflow as tf

        from cwvae.metrics import alexnet

        self.digest = checked("lpips", weights).digest
        arrays = {name: tf.constant(array) for name, array in weights.arrays.items()}
        heads = [arrays[f"head{i}"] for i in range(TAPS)]
        # One trace serves any number of frames of any size.
        images, numbers = tf.TensorSpec((None, None, None, 3)), tf.TensorSpec((None,), tf.int32)
        taps = [tf.TensorSpec((None, None, None, head.shape[0])) for head in heads]

        def distances(truth, prediction, rows, others):
            pair = (
                [tf.gather(tap, rows) for tap in truth],
                [tf.gather(tap, others) for tap in prediction],
            )
            return alexnet.distances(heads, *pair)

        self._unit_taps = tf.function(
            lambda images: alexnet.unit_taps(arrays, images), [images], autograph=False
        )
        self._distances = tf.function(distances, [taps, taps, numbers, numbers], autograph=False)

    def __call__(self, truth: ArrayLike, prediction: ArrayLike) -> np.ndarray:
        """Returns the distance of every frame, float32 [N, T]: 0 for identical frames.

        Args:
          truth: Floats in [0, 1], array or tensor [N, T, H, W, C], C 1 (repeated to RGB) or 3, H
            and W at least `MIN_SIZE`.
          prediction: Floats of the same shape, clipped to [0, 1] here.

        Raises:
          ValueError: The shapes differ or do not fit, the arguments are not floats or not finite,
            or truth leaves [0, 1].
        """
        return self.against(truth)(prediction)

    def against(self, truth: ArrayLike) -> Callable[[ArrayLike], np.ndarray]:
        """Returns a function from predictions to distances, for one truth, as `__call__`.

        It computes AlexNet's features of the truth once, and keeps them: .12 MB for a frame of
        64x64 pixels. Those of a frame that a prediction repeats by a stride of 0 it computes once.
        Of predictions it keeps the features of a few frames at a time.
        """
        truth, _ = image.checked(truth, truth)
        if truth.shape[-1] not in (1, 3):
            raise ValueError(f"LPIPS needs frames of 1 or 3 channels, got {truth.shape[-1]}.")
        _refuse_small(*truth.shape[2:4])
        known = self._features(_signed(truth))

        def distances(prediction: ArrayLike) -> np.ndarray:
            given = np.asarray(prediction)
            image.checked(truth, given)
            still = tuple(slice(1) if stride == 0 else slice(None) for stride in given.strides[:2])
            different = given[still]
            rows = np.arange(different.shape[0] * different.shape[1]).reshape(different.shape[:2])
            rows = np.broadcast_to(rows, given.shape[:2]).ravel()
            found = self._compare(known, _signed(different), rows)
            return found.sum(-1).reshape(given.shape[:2])

        return distances

    def taps(self, truth: ArrayLike, prediction: ArrayLike) -> np.ndarray:
        """Returns the distance of images at each layer, float32 [F, 5]. Their sum is LPIPS.

        Args:
          truth: Floats in [-1, 1], unlike elsewhere: array or tensor [F, H, W, 3], H and W at
            least `MIN_SIZE`.
          prediction: Floats of the same shape, in [-1, 1].

        Raises:
          ValueError: The shapes differ or do not fit, the arguments are not floats, or either
            leaves [-1, 1] or holds a NaN.
        """
        truth, prediction = image.floats(truth, prediction, "[-1, 1]")
        if truth.ndim != 4 or truth.shape[-1] != 3:
            raise ValueError(f"expected images [F, H, W, 3], got shape {truth.shape}.")
        _refuse_small(*truth.shape[1:3])
        for name, images in (("truth", truth), ("prediction", prediction)):
            if not (np.abs(images) <= 1).all():  # Written so that NaN fails, too.
                raise ValueError(
                    f"{name} must lie in [-1, 1], got [{images.min()!s}, {images.max()!s}]:"
                    " scale bytes by 2 x / 255 - 1, and [0, 1] by 2 x - 1."
                )
        return self._compare(self._features(truth), prediction, np.arange(len(truth)))

    def _features(self, images: np.ndarray) -> list:
        """Returns the taps of images [F, H, W, 3] in [-1, 1], each [F, h, w, D] of unit length."""
        import tensorflow as tf

        parts = [self._unit_taps(images[part]) for part in _parts(images)]
        return [tf.concat(tap, 0) for tap in zip(*parts, strict=True)]

    def _compare(self, truth: list, images: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Returns the distances [F, 5] of true frames, by their taps, to the rows [F] of images."""
        found = np.empty((len(rows), TAPS), np.float32)
        for part in _parts(images):
            taps = self._unit_taps(images[part])
            (inside,) = np.nonzero((part.start <= rows) & (rows < part.stop))
            for i in range(0, len(inside), _FRAMES):
                which = inside[i : i + _FRAMES]
                found[which] = self._distances(truth, taps, which, rows[which] - part.start)
        return found


def _parts(images: np.ndarray) -> Iterator[slice]:
    """Yields slices of images [F, H, W, 3] that fit into the memory."""
    size = max(1, _PIXELS // (images.shape[1] * images.shape[2]))
    for start in range(0, len(images), size):
        yield slice(start, min(start + size, len(images)))


def _signed(videos: np.ndarray) -> np.ndarray:
    """Maps [N, T, H, W, 1 or 3] in [0, 1], clipped, to images [F, H, W, 3] in [-1, 1]."""
    images = 2 * np.clip(videos, 0, 1).astype(np.float32).reshape(-1, *videos.shape[2:]) - 1
    return images if images.shape[-1] == 3 else np.repeat(images, 3, -1)


def _refuse_small(height: int, width: int) -> None:
    if min(height, width) < MIN_SIZE:
        raise ValueError(
            f"LPIPS needs frames of at least {MIN_SIZE}x{MIN_SIZE} pixels, got {height}x{width}."
        )
