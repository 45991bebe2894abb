"""Features of whole videos for the Frechet video distance, FVD (Unterthiner et al. 2018).

I3D (`cwvae.metrics.i3d`) turns each video into 400 logits, averaged over time.
`cwvae.metrics.frechet` computes the distance between two sets of these features. In a notebook:

    from cwvae.metrics import frechet, fvd
    i3d = fvd.I3D()
    sets = [frechet.moments([i3d.features(videos)], i3d.size) for videos in (truth, predictions)]
    frechet.frechet_distance(*sets)

N: videos, T: frames, H, W: height and width, C: channels, D: features.
"""

import pathlib

import numpy as np
from numpy.typing import ArrayLike

from cwvae.metrics import i3d, weights
from cwvae.startup import many_traces

# The computation before the network. A new number invalidates cached features.
PREPROCESSING = "1: TF1 bilinear resize to 224x224 without crop, 2 x / 255 - 1"

# The network reduces time by 8 and then pools 2 steps: fewer frames leave nothing.
MIN_FRAMES = 9
# With fewer videos than features a covariance cannot have full rank.
FULL_RANK = i3d.FEATURES

# Limits of one call of the network, at least one video: they bound its memory.
_MAX_VIDEOS, _MAX_FRAMES = 16, 256


def find() -> pathlib.Path:
    """Returns the file of I3D's weights; raises MissingWeights, which says how to get it."""
    return weights.find("fvd")


class I3D:
    """The network with its weights from the cache folder.

    Attributes:
      size: D, the number of features.
      digest: SHA-256, in hexadecimal, of the weights.
    """

    size = i3d.FEATURES

    def __init__(self, given: weights.Weights | None = None):
        """Takes weights, by default those of the cache folder, and starts TensorFlow.

        Raises:
          MissingWeights: There are none.
          UserError: They are damaged.
          TypeError: The argument is not what `weights.load("fvd")` returns.
        """
        import tensorflow as tf  # Late: scripts check everything before TensorFlow starts.

        given = weights.checked("fvd", weights.load("fvd") if given is None else given)
        self.digest = given.digest
        constants = {name: tf.constant(part) for name, part in i3d.fold(given.arrays).items()}

        def features(videos):
            return tf.reduce_mean(i3d.logits(constants, preprocess(videos)), 1)

        self._features = tf.function(features, autograph=False)

    def features(self, videos: ArrayLike) -> np.ndarray:
        """Returns the features of videos, float32 [N, D].

        Args:
          videos: Floats in [0, 1], rounded to 8 bits here, or uint8; [N, T, H, W, C], gray or RGB,
            T at least `MIN_FRAMES`.

        Raises:
          ValueError: The videos have another type, range or shape.
        """
        videos = _as_bytes(np.asarray(videos))
        count, length = videos.shape[:2]
        if length < MIN_FRAMES:
            raise ValueError(f"FVD needs videos of at least {MIN_FRAMES} frames, got {length}.")
        features = np.empty((count, self.size), np.float32)
        step = max(1, min(_MAX_VIDEOS, _MAX_FRAMES // length))
        for start in range(0, count, step):
            rows = slice(start, start + step)
            with many_traces():  # One for each length of the pieces of a video.
                features[rows] = self._features(videos[rows]).numpy()
        return features


def _as_bytes(videos: np.ndarray) -> np.ndarray:
    """Returns videos as uint8; raises a ValueError if they are something else."""
    if videos.ndim != 5 or videos.shape[-1] not in (1, 3) or not all(videos.shape[2:]):
        raise ValueError(f"videos must be [N, T, H, W, 1 or 3], got {list(videos.shape)}.")
    if videos.dtype == np.uint8:
        return videos
    if not np.issubdtype(videos.dtype, np.floating):
        raise ValueError(f"videos must be floats in [0, 1] or uint8, got {videos.dtype}.")
    videos = videos.astype(np.result_type(videos, np.float32), copy=False)  # Not half precision.
    if videos.size and not (videos.min() >= 0 and videos.max() <= 1):  # So that NaN fails, too.
        raise ValueError(
            f"videos must lie in [0, 1], got [{videos.min()!s}, {videos.max()!s}]: pass bytes as"
            " uint8, and clip predictions."
        )
    return np.rint(255 * videos).astype(np.uint8)


def preprocess(videos):
    """Maps uint8 [N, T, H, W, C] to the network's input, float32 [N, T, 224, 224, C] in [-1, 1].

    Resizes as TensorFlow 1, without half-pixel centres: pixel i is sampled at i * H / 224.
    """
    import tensorflow as tf

    count, length, height, width, channels = videos.shape
    frames = tf.reshape(videos, (count * length, height, width, channels))
    # tf.compat.v1.image.resize_bilinear calls this, but warns that it is deprecated.
    frames = tf.raw_ops.ResizeBilinear(
        images=frames, size=(i3d.SIZE, i3d.SIZE), align_corners=False, half_pixel_centers=False
    )
    return tf.reshape(2 * frames / 255 - 1, (count, length, i3d.SIZE, i3d.SIZE, channels))
