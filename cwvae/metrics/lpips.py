"""LPIPS, a learned perceptual distance: version 0.1 with AlexNet. Lower is better.

    python -m cwvae.metrics.lpips convert alexnet-owt-7be5be79.pth alex.pth [--out FILE]

converts the two official files of weights to one. Only this step needs torch, and it does not need
TensorFlow.

N: videos, T: frames, F: frames of all videos, H, W: height and width, C: channels.

Source: Zhang, Isola, Efros, Shechtman, Wang, The Unreasonable Effectiveness of Deep Features as a
Perceptual Metric, 2018; https://github.com/richzhang/PerceptualSimilarity.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import io
import os
import pathlib
from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike

from cwvae.errors import MissingWeights, UserError, exit_on_user_error
from cwvae.run import files

PROTOCOL = "v0.1, AlexNet; predictions clipped to [0, 1], gray repeated to RGB, no resize"

NAME = "lpips_alexnet_v0.1.npz"
VARIABLE = "CWVAE_LPIPS"

ALEXNET_URL = "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth"
HEADS_URL = (
    "https://github.com/richzhang/PerceptualSimilarity/raw/master/lpips/weights/v0.1/alex.pth"
)
ALEXNET_SHA256 = "7be5be791159472b1fbf3c69796f7cb30dca7ad8466c2df70058c37116cdee02"
HEADS_SHA256 = "df73285e35b22355a2df87cdb6b70b343713b667eddbda73e1977e0c860835c0"

# The five convolutions: index in torchvision's `features`, and the kernel's height, width, inputs
# and outputs. A head has one weight per output.
_CONVOLUTIONS = {
    0: (11, 11, 3, 64),
    3: (5, 5, 64, 192),
    6: (3, 3, 192, 384),
    8: (3, 3, 384, 256),
    10: (3, 3, 256, 256),
}
SHAPES: dict[str, tuple[int, ...]] = {}
for _i, _shape in enumerate(_CONVOLUTIONS.values()):
    SHAPES |= {f"kernel{_i}": _shape, f"bias{_i}": _shape[-1:], f"head{_i}": _shape[-1:]}

# Smallest height and width that leave a pixel for the last layers.
MIN_SIZE = 31
# Frames at a time, to bound memory use.
CHUNK = 32

HOW_TO_GET = f"""\
To create the file of weights, once, in the project's folder:
  python3 -m venv /tmp/torch
  /tmp/torch/bin/pip install torch==2.13.0 numpy --index-url https://download.pytorch.org/whl/cpu
  curl -Lo /tmp/alexnet.pth {ALEXNET_URL}
  curl -Lo /tmp/heads.pth {HEADS_URL}
  /tmp/torch/bin/python -m cwvae.metrics.lpips convert /tmp/alexnet.pth /tmp/heads.pth"""


@dataclasses.dataclass(frozen=True)
class Weights:
    """The weights of LPIPS: float32 arrays by the names in `SHAPES`, and their SHA-256."""

    arrays: dict[str, np.ndarray]
    digest: str


class LPIPS:
    """The distance of frames in AlexNet's features, in float32 whatever Keras' policy.

    Attributes:
      digest: SHA-256 of the weights.
    """

    def __init__(self, weights: Weights):
        """Takes weights from `load`, and starts TensorFlow."""
        import tensorflow as tf

        from cwvae.metrics import alexnet

        self.digest = weights.digest
        arrays = {name: tf.constant(array) for name, array in weights.arrays.items()}

        def distances(truth, prediction, unit_range):
            if unit_range:
                gray = truth.shape[-1] == 1
                images = [2 * tf.clip_by_value(x, 0, 1) - 1 for x in (truth, prediction)]
                truth, prediction = map(tf.image.grayscale_to_rgb, images) if gray else images
            return alexnet.tap_distances(arrays, truth, prediction)

        self._distances = tf.function(distances, autograph=False)

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
        from cwvae.metrics import image  # Not at the top: the converter's environment lacks Numba.

        truth, prediction = image.checked(truth, prediction)
        num_videos, num_frames, height, width, channels = truth.shape
        if channels not in (1, 3):
            raise ValueError(f"LPIPS needs frames of 1 or 3 channels, got {channels}.")
        _refuse_small(height, width)
        frames = (num_videos * num_frames, height, width, channels)
        taps = self._in_chunks(truth.reshape(frames), prediction.reshape(frames), True)
        return taps.sum(-1).reshape(num_videos, num_frames)

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
        from cwvae.metrics import image

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
        return self._in_chunks(truth, prediction, False)

    def _in_chunks(self, truth, prediction, unit_range):
        """Returns distances [F, 5] of [F, H, W, C]; pads the last chunk to avoid retracing."""
        values = np.empty((len(truth), len(_CONVOLUTIONS)), np.float32)
        for start in range(0, len(values), CHUNK):
            part = slice(start, start + CHUNK)
            missing = max(0, start + CHUNK - len(values))
            fill = [(0, missing), (0, 0), (0, 0), (0, 0)]
            pair = (np.pad(frames[part], fill) for frames in (truth, prediction))
            found = self._distances(*pair, unit_range=unit_range).numpy()
            values[part] = found[: CHUNK - missing]
        return values


def _refuse_small(height, width):
    if min(height, width) < MIN_SIZE:
        raise ValueError(
            f"LPIPS needs frames of at least {MIN_SIZE}x{MIN_SIZE} pixels, got {height}x{width}."
        )


def find(path: str | os.PathLike | None = None) -> pathlib.Path:
    """Returns the file of weights: `path`, else $CWVAE_LPIPS, else the one in the cache folder.

    Raises:
      UserError: The file at `path` or $CWVAE_LPIPS does not exist.
      MissingWeights: Neither is given, and the cache folder has no file.
    """
    given = path or os.environ.get(VARIABLE)
    if given:
        found = pathlib.Path(given).expanduser()
        if not found.is_file():
            origin = "" if path else f"${VARIABLE}: "
            raise UserError(f"{origin}{found}: no file of LPIPS weights. {HOW_TO_GET}")
        return found
    found = files.cache_folder() / NAME
    if not found.is_file():
        raise MissingWeights(f"LPIPS needs weights: {found} does not exist. {HOW_TO_GET}")
    return found


def load(path: str | os.PathLike) -> Weights:
    """Reads a file of `convert`; raises a UserError if it is damaged or of another kind."""
    try:
        file = io.BytesIO(pathlib.Path(path).read_bytes())
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}).") from None
    try:
        with np.load(file, allow_pickle=False) as content:
            arrays = {name: content[name] for name in SHAPES}
            written = str(content["sha256"])
    except Exception as error:  # NumPy and zipfile raise many types.
        raise _unusable(path, f"it cannot be read: {type(error).__name__}") from None
    if flaw := _flaw(arrays):
        raise _unusable(path, flaw)
    if written != digest(arrays):
        raise _unusable(path, "checksum mismatch")
    return Weights(arrays, written)


def _unusable(path, reason):
    return UserError(
        f"{path}: damaged, or not LPIPS weights written by `convert`: {reason}. Remove the file or"
        f" name another. {HOW_TO_GET}"
    )


def digest(arrays: Mapping[str, np.ndarray]) -> str:
    """Returns the SHA-256 of weights, the same on every machine."""
    total = hashlib.sha256()
    for name in SHAPES:
        total.update(name.encode())
        total.update(np.ascontiguousarray(arrays[name], "<f4").tobytes())
    return total.hexdigest()


def convert(
    alexnet: str | os.PathLike,
    heads: str | os.PathLike,
    out: str | os.PathLike | None = None,
    hashes: tuple[str, str] = (ALEXNET_SHA256, HEADS_SHA256),
) -> pathlib.Path:
    """Writes the file of weights from the two official ones, and returns it. Needs torch.

    Args:
      alexnet: torchvision's file.
      heads: The file of LPIPS.
      out: The file to write; None for the one in the cache folder.
      hashes: The expected SHA-256 of the two files, checked before torch reads them.

    Raises:
      UserError: A file is missing or not the official one, torch is missing, or `out` cannot be
        written.
    """
    contents = [
        _official(path, sha256, url)
        for path, sha256, url in zip(
            (alexnet, heads), hashes, (ALEXNET_URL, HEADS_URL), strict=True
        )
    ]
    try:
        import torch
    except ImportError:
        raise UserError(
            "reading .pth files needs torch, only for this conversion:"
            " pip install torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu"
            " (in a separate environment, with numpy; nothing else is needed)."
        ) from None
    states = []
    for content in contents:
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        states.append({name: tensor.detach().numpy() for name, tensor in state.items()})
    arrays = from_state_dicts(*states)
    out = files.cache_folder() / NAME if out is None else pathlib.Path(out).expanduser()
    save(out, arrays, *hashes)
    return out


def _official(path, sha256, url):
    """Returns the checked bytes of a file, so that the file cannot change before it is parsed."""
    try:
        content = pathlib.Path(path).read_bytes()
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read ({error.strerror}). To get it: curl -LO {url}"
        ) from None
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise UserError(
            f"{path}: not the official file, or incomplete: its SHA-256 is {found} instead of"
            f" {sha256}. To get it: curl -LO {url}"
        )
    return content


def from_state_dicts(
    alexnet: Mapping[str, np.ndarray], heads: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Returns the weights in the two official files by the names in `SHAPES`, for TensorFlow.

    Raises a UserError if a name is missing, or a shape or value is wrong.
    """
    arrays = {}
    try:
        for i, layer in enumerate(_CONVOLUTIONS):
            kernel = alexnet[f"features.{layer}.weight"]
            arrays[f"kernel{i}"] = np.ascontiguousarray(np.transpose(kernel, (2, 3, 1, 0)))
            arrays[f"bias{i}"] = alexnet[f"features.{layer}.bias"]
            arrays[f"head{i}"] = np.squeeze(heads[f"lin{i}.model.1.weight"], (0, 2, 3))
        flaw = _flaw(arrays)
    except KeyError as error:
        flaw = f"{error.args[0]} is missing"
    except ValueError as error:  # From transpose and squeeze.
        flaw = f"layer {layer}: {error}"
    if flaw:
        raise UserError(f"not the weights of AlexNet and LPIPS v0.1: {flaw}.")
    return arrays


def _flaw(arrays):
    """Returns the first problem of some weights, or None."""
    for name, shape in SHAPES.items():
        array = arrays[name]
        if array.shape != shape or array.dtype != np.float32:
            return f"{name} is {array.dtype} {array.shape} instead of float32 {shape}"
        if not np.isfinite(array).all():
            return f"{name} holds a NaN or an infinity"
        if name.startswith("head") and (array < 0).any():
            return f"{name} holds a negative weight"
    return None


def save(
    out: pathlib.Path, arrays: Mapping[str, np.ndarray], alexnet_sha256: str, heads_sha256: str
) -> None:
    """Writes a file of weights and the hashes of its sources, and creates its folder.

    Raises a UserError if it cannot be written. An existing file stays as it was.
    """
    texts = {"alexnet_sha256": alexnet_sha256, "heads_sha256": heads_sha256}
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with files.whole(out) as aside, open(aside, "wb") as file:
            np.savez(file, **arrays, sha256=digest(arrays), **texts)
    except OSError as error:
        raise UserError(
            f"{out}: cannot be written ({error.strerror}). Name a file with --out."
        ) from None


def main() -> None:
    """Runs the command line."""
    layout = {"description": HOW_TO_GET, "formatter_class": argparse.RawDescriptionHelpFormatter}
    parser = argparse.ArgumentParser(prog="python -m cwvae.metrics.lpips", **layout)
    commands = parser.add_subparsers(dest="command", required=True)
    help_line = "convert the two official files of weights to one, with torch"
    command = commands.add_parser("convert", help=help_line, **layout)
    command.add_argument("alexnet", help="torchvision's file, alexnet-owt-7be5be79.pth")
    command.add_argument("heads", help="the file of LPIPS v0.1, alex.pth")
    command.add_argument("--out", help=f"the file to write (default: {NAME} in the cache folder)")
    arguments = parser.parse_args()
    with exit_on_user_error():
        out = convert(arguments.alexnet, arguments.heads, arguments.out)
        print(f"wrote {out}: {load(out).digest}")


if __name__ == "__main__":
    main()
