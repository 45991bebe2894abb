"""Features of whole videos for the Frechet video distance, FVD (Unterthiner et al. 2018).

An I3D network, trained on Kinetics-400, turns each video into 400 logits, averaged over time.
`cwvae.metrics.frechet` computes the distance between two sets of these features.

N: videos, T: frames, H, W: height and width, C: channels, D: features.
"""

import contextlib
import hashlib
import importlib.util
import logging
import os
import pathlib
import tempfile
from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike

from cwvae.errors import MissingWeights, UserError

# The computation before the network. A new number invalidates cached features.
PREPROCESSING = "1: TF1 bilinear resize to 224x224 without crop, 2 x / 255 - 1"

# The network reduces time by 8 and then pools 2 steps: fewer frames leave nothing.
MIN_FRAMES = 9
# With fewer videos than features a covariance cannot have full rank.
FULL_RANK = 400

_HANDLE = "https://tfhub.dev/deepmind/i3d-kinetics-400/1"
_HUB_FOLDER = hashlib.sha1(_HANDLE.encode()).hexdigest()  # as TensorFlow Hub names it
_KAGGLE = "deepmind/i3d-kinetics/tensorFlow1/400/1"
_INPUT, _OUTPUT = "input_frames:0", "RGB/inception_i3d/Mean:0"
_SIZE = 224

# Limits of one call of the network, at least one video: they bound its memory.
_MAX_VIDEOS, _MAX_FRAMES = 16, 256


def find_module(path: str | os.PathLike | None = None) -> pathlib.Path:
    """Returns the folder of the I3D module, without starting TensorFlow.

    Args:
      path: The folder, as given with --i3d. None looks into TensorFlow Hub's cache
        ($TFHUB_CACHE_DIR) and then asks kagglehub, if it is installed, which downloads the module.

    Raises:
      UserError: `path` is not the folder of an I3D module.
      MissingWeights: The module is in none of these places.
    """
    if path is not None:
        folder = pathlib.Path(path).expanduser()
        try:
            _check_folder(folder)
        except UserError as error:
            raise UserError(f"--i3d {error}") from None
        return folder
    reasons = []
    for place in (_tensorflow_hub, _kagglehub):
        try:
            folder = place()
            _check_folder(folder)
            return folder
        except UserError as error:
            reasons.append(str(error))
    raise MissingWeights(
        f"the I3D network is not here: {' '.join(reasons)} Three ways to provide it: pass --i3d"
        f" FOLDER, the unpacked TensorFlow 1 module of https://www.kaggle.com/models/{_KAGGLE};"
        f" or put that folder into TensorFlow Hub's cache, as $TFHUB_CACHE_DIR/{_HUB_FOLDER};"
        " or pip install kagglehub, which then downloads it."
    )


def _tensorflow_hub() -> pathlib.Path:
    cache = os.environ.get("TFHUB_CACHE_DIR") or pathlib.Path(
        tempfile.gettempdir(), "tfhub_modules"
    )
    return pathlib.Path(cache, _HUB_FOLDER).expanduser()


def _kagglehub() -> pathlib.Path:
    if importlib.util.find_spec("kagglehub") is None:
        raise UserError("kagglehub is not installed.")
    try:
        import kagglehub

        return pathlib.Path(kagglehub.model_download(_KAGGLE))
    except Exception as error:  # Many types: no network, no account, licence not accepted.
        raise UserError(f"kagglehub: {_in_a_line(error)}.") from None


def _check_folder(folder: pathlib.Path) -> None:
    if folder.is_file():
        raise UserError(f"{folder}: a file, but the I3D module is a folder: unpack it.")
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder.")
    if not (folder / "saved_model.pb").is_file():
        raise UserError(f"{folder}: not an I3D module: it has no saved_model.pb.")


def _in_a_line(error: Exception) -> str:
    text = " ".join(str(error).split()).rstrip(".")
    return (text[:200] + "..." if len(text) > 200 else text) or type(error).__name__


class I3D:
    """The network, from a folder in TensorFlow Hub's format 1.

    Attributes:
      size: D, the number of features.
      digest: SHA-256, in hexadecimal, of the graph and the variables.
    """

    def __init__(self, folder: str | os.PathLike):
        """Loads the network; raises a UserError if the folder holds no intact I3D module."""
        self._folder = pathlib.Path(folder)
        _check_folder(self._folder)
        # The module must stay alive: the function alone does not hold the variables.
        with _quiet():
            self._module, self._network = _load(self._folder)
        self.size = self._network.outputs[0].shape[-1]
        self.digest = _digest(self._folder)

    def features(self, videos: ArrayLike) -> np.ndarray:
        """Returns the features of videos, float32 [N, D].

        Args:
          videos: uint8 [N, T, H, W, C], gray or RGB, T at least `MIN_FRAMES`.

        Raises:
          ValueError: The videos have another type or shape.
          UserError: The network's features are not finite.
        """
        videos = np.asarray(videos)
        if videos.dtype != np.uint8 or videos.ndim != 5 or videos.shape[-1] not in (1, 3):
            raise ValueError(
                "videos must be uint8 [N, T, H, W, 1 or 3],"
                f" got {videos.dtype} {list(videos.shape)}."
            )
        count, length = videos.shape[:2]
        if length < MIN_FRAMES:
            raise ValueError(f"FVD needs videos of at least {MIN_FRAMES} frames, got {length}.")
        features = np.empty((count, self.size), np.float32)
        step = max(1, min(_MAX_VIDEOS, _MAX_FRAMES // length))
        for start in range(0, count, step):
            rows = slice(start, start + step)
            features[rows] = self._network(preprocess(videos[rows])).numpy()
        if not np.isfinite(features).all():
            raise UserError(f"{self._folder}: this I3D module's features are not finite.")
        return features


def preprocess(videos: np.ndarray):
    """Maps uint8 [N, T, H, W, C] to the network's input, float32 [N, T, 224, 224, 3] in [-1, 1].

    Resizes as TensorFlow 1, without half-pixel centres: pixel i is sampled at i * H / 224.
    """
    import tensorflow as tf

    count, length, height, width, channels = videos.shape
    frames = videos.reshape(count * length, height, width, channels)
    # tf.compat.v1.image.resize_bilinear calls this, but warns that it is deprecated.
    frames = tf.raw_ops.ResizeBilinear(
        images=frames, size=(_SIZE, _SIZE), align_corners=False, half_pixel_centers=False
    )
    frames = 2 * frames / 255 - 1
    frames = tf.reshape(frames, [count, length, _SIZE, _SIZE, channels])
    return frames if channels == 3 else tf.repeat(frames, 3, axis=-1)


def _load(folder: pathlib.Path):
    """Returns a module and its function from frames to features."""
    # Imported late: scripts check everything before TensorFlow starts.
    import tensorflow as tf

    try:
        module = tf.saved_model.load(str(folder), tags=[])
    except Exception as error:  # TensorFlow raises many types here.
        if "with tags" in str(error) or "argument tags" in str(error):
            reason = "its graphs have tags, but a module of TensorFlow Hub's format 1 has none"
        else:
            reason = f"damaged or incomplete ({type(error).__name__}); unpack it again"
        raise UserError(f"{folder}: cannot be loaded as an I3D module: {reason}.") from None
    for name in (_INPUT, _OUTPUT):
        try:
            module.graph.get_tensor_by_name(name)
        except KeyError:
            raise UserError(f"{folder}: not an I3D module: it has no tensor {name}.") from None
    network = module.prune(_INPUT, _OUTPUT)
    shape = network.outputs[0].shape
    if shape.rank != 2 or shape[-1] is None:
        raise UserError(
            f"{folder}: not an I3D module: {_OUTPUT} should be [N, D], but its shape is {shape}."
        )
    return module, network


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hides TensorFlow's many warnings that the module's variables cannot be trained."""
    logger = logging.getLogger("tensorflow")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _digest(folder: pathlib.Path) -> str:
    """Returns the SHA-256 of the graph and the variables, and ignores other files."""
    whole = hashlib.sha256()
    for path in [folder / "saved_model.pb", *sorted((folder / "variables").glob("*"))]:
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        whole.update(f"{path.relative_to(folder).as_posix()} {content}\n".encode())
    return whole.hexdigest()
