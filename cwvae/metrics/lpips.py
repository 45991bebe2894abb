"""LPIPS, a learned perceptual distance: version 0.1 with AlexNet. Lower is better.

    python -m cwvae.metrics.lpips convert alexnet-owt-7be5be79.pth alex.pth [--out FILE]

makes the one file of weights that it needs from the two official ones, with torch; torch is not
needed any more after that, and TensorFlow is not needed before.

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

# The five convolutions: their number in torchvision's `features`, and height, width, inputs and
# outputs of their kernels. A head has a weight for each output.
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

# Height and width of the smallest frame of which the last layers see anything.
MIN_SIZE = 31
# Frames at a time, which bounds the memory.
CHUNK = 32

HOW_TO_GET = f"""\
To make the file of weights, once, here in the project's folder:
  python3 -m venv /tmp/torch
  /tmp/torch/bin/pip install torch==2.13.0 numpy --index-url https://download.pytorch.org/whl/cpu
  curl -Lo /tmp/alexnet.pth {ALEXNET_URL}
  curl -Lo /tmp/heads.pth {HEADS_URL}
  /tmp/torch/bin/python -m cwvae.metrics.lpips convert /tmp/alexnet.pth /tmp/heads.pth"""


@dataclasses.dataclass(frozen=True)
class Weights:
    """What `LPIPS` computes with.

    Attributes:
      arrays: Float32, by the names in `SHAPES`.
      digest: Their sha256: equal weights have equal ones.
    """

    arrays: dict[str, np.ndarray]
    digest: str


class LPIPS:
    """The distance of frames, as features of AlexNet tell them apart.

    It is float32 always, whatever Keras computes in.

    Attributes:
      digest: Of the weights.
    """

    def __init__(self, weights: Weights):
        """Starts TensorFlow.

        Args:
          weights: As `load` returns them.
        """
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
        """Returns the distance of every frame.

        Args:
          truth: Floats in [0, 1], array or tensor [N, T, H, W, C], C 1 (repeated to RGB) or 3, H
            and W at least `MIN_SIZE`.
          prediction: Floats of the same shape, clipped to [0, 1] here.

        Returns:
          float32 [N, T], 0 for identical frames, below about 1 otherwise.

        Raises:
          ValueError: The shapes differ or are none of these, the arguments are not floats, either
            holds a NaN or an infinity, or truth leaves [0, 1].
        """
        from cwvae.metrics import image  # Here: it needs more than the converter's environment has.

        truth, prediction = image.checked(truth, prediction)
        num_videos, num_frames, height, width, channels = truth.shape
        if channels not in (1, 3):
            raise ValueError(f"LPIPS needs frames of 1 or 3 channels, got {channels}.")
        _refuse_small(height, width)
        frames = (num_videos * num_frames, height, width, channels)
        taps = self._in_chunks(truth.reshape(frames), prediction.reshape(frames), True)
        return taps.sum(-1).reshape(num_videos, num_frames)

    def taps(self, truth: ArrayLike, prediction: ArrayLike) -> np.ndarray:
        """Returns the distance of images at each layer, whose sum over layers is LPIPS.

        Args:
          truth: Floats in [-1, 1], not [0, 1] as elsewhere: array or tensor [F, H, W, 3], H and W
            at least `MIN_SIZE`.
          prediction: Floats of the same shape, in [-1, 1].

        Returns:
          float32 [F, 5].

        Raises:
          ValueError: The shapes differ or are not these, the arguments are not floats, or either
            leaves [-1, 1] or holds a NaN.
        """
        truth, prediction = np.asarray(truth), np.asarray(prediction)
        if truth.shape != prediction.shape:
            raise ValueError(
                f"truth and prediction differ in shape: {truth.shape} and {prediction.shape}."
            )
        if truth.ndim != 4 or truth.shape[-1] != 3:
            raise ValueError(f"expected images [F, H, W, 3], got shape {truth.shape}.")
        _refuse_small(*truth.shape[1:3])
        for name, images in (("truth", truth), ("prediction", prediction)):
            if images.dtype.kind in "biu":  # not `!= "f"`: bfloat16 arrays have kind "V"
                raise ValueError(f"{name} must be floats in [-1, 1], got {images.dtype}.")
            if not (np.abs(images) <= 1).all():  # So that NaN counts, too.
                raise ValueError(
                    f"{name} must lie in [-1, 1], got [{images.min():g}, {images.max():g}]:"
                    " scale bytes by 2 x / 255 - 1, and [0, 1] by 2 x - 1."
                )
        return self._in_chunks(truth.astype(np.float32), prediction.astype(np.float32), False)

    def _in_chunks(self, truth, prediction, unit_range):
        """Distances [F, 5] of [F, H, W, C]. The last chunk is filled up, so that shapes stay."""
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
    """Returns the file of weights: the one given, or $CWVAE_LPIPS, or the one in the cache folder.

    Args:
      path: A file that `convert` has written.

    Raises:
      UserError: What was given, here or by the environment, is no file.
      MissingWeights: Nothing was given, and the cache folder has none.
    """
    given = path or os.environ.get(VARIABLE)
    if given:
        found = pathlib.Path(given).expanduser()
        if not found.is_file():
            origin = "" if path else f"${VARIABLE}: "
            raise UserError(f"{origin}{found}: no file of LPIPS weights there. {HOW_TO_GET}")
        return found
    found = files.cache_folder() / NAME
    if not found.is_file():
        raise MissingWeights(f"LPIPS needs weights, and there is no {found}. {HOW_TO_GET}")
    return found


def load(path: str | os.PathLike) -> Weights:
    """Reads a file that `convert` has written.

    Raises:
      UserError: It is damaged, or another file.
    """
    try:
        file = io.BytesIO(pathlib.Path(path).read_bytes())
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}).") from None
    try:
        with np.load(file, allow_pickle=False) as content:
            arrays = {name: content[name] for name in SHAPES}
            written = str(content["sha256"])
    except Exception as error:  # NumPy and zipfile raise nearly anything, depending on the byte.
        raise _unusable(path, f"it cannot be read: {type(error).__name__}") from None
    if flaw := _flaw(arrays):
        raise _unusable(path, flaw)
    if written != digest(arrays):
        raise _unusable(path, "its numbers do not have the checksum that was written with them")
    return Weights(arrays, written)


def _unusable(path, reason):
    return UserError(
        f"{path}: damaged, or not LPIPS weights as `convert` writes them: {reason}. Remove the"
        f" file, or give another. {HOW_TO_GET}"
    )


def digest(arrays: Mapping[str, np.ndarray]) -> str:
    """Returns the sha256 of weights, the same on every machine."""
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
    """Writes the file of weights from the two official ones. Needs torch.

    Args:
      alexnet: torchvision's file.
      heads: That of LPIPS.
      out: The file to write; None for the one in the cache folder.
      hashes: The sha256 that the two have to have, before torch reads them.

    Returns:
      The file written.

    Raises:
      UserError: A file is missing or another than it should be, torch is missing, or `out` cannot
        be written.
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
            "reading .pth files needs torch, this once:"
            " pip install torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu"
            " (in an environment of its own, with numpy; nothing else is needed)."
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
    """Returns the bytes of a file: what is checked is what is read later."""
    try:
        content = pathlib.Path(path).read_bytes()
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read ({error.strerror}). To get it: curl -LO {url}"
        ) from None
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise UserError(
            f"{path}: not the official file, or not all of it: its sha256 is {found} instead of"
            f" {sha256}. To get it: curl -LO {url}"
        )
    return content


def from_state_dicts(
    alexnet: Mapping[str, np.ndarray], heads: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Returns the weights by the names in `SHAPES`, in TensorFlow's layout.

    Args:
      alexnet: What torchvision's file holds; the classifier is left out.
      heads: What the file of LPIPS holds.

    Raises:
      UserError: A name is missing, or a shape or number is not as it should be.
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
        flaw = f"there is no {error.args[0]}"
    except ValueError as error:  # of transpose and squeeze
        flaw = f"layer {layer}: {error}"
    if flaw:
        raise UserError(f"not the weights of AlexNet and LPIPS v0.1: {flaw}.")
    return arrays


def _flaw(arrays):
    """Returns what is wrong with weights, or None."""
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
    """Writes a file of weights, aside first: one that was cut never has its name.

    Args:
      out: The file; its folder is made.
      arrays: The weights.
      alexnet_sha256: Of the official file that they are from.
      heads_sha256: Of the other.

    Raises:
      UserError: It cannot be written; a file that was there is as it was.
    """
    aside = out.with_name(f".{out.name}.tmp")
    texts = {
        "sha256": digest(arrays),
        "alexnet_sha256": alexnet_sha256,
        "heads_sha256": heads_sha256,
    }
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(aside, "wb") as file:
                np.savez(file, **arrays, **texts)
            os.replace(aside, out)
        except BaseException:
            aside.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise UserError(
            f"{out}: cannot be written ({error.strerror}); name a file with --out."
        ) from None


def main() -> None:
    """Runs the command line."""
    layout = {"description": HOW_TO_GET, "formatter_class": argparse.RawDescriptionHelpFormatter}
    parser = argparse.ArgumentParser(prog="python -m cwvae.metrics.lpips", **layout)
    commands = parser.add_subparsers(dest="command", required=True)
    help_line = "make the file of weights from the two official ones, with torch"
    command = commands.add_parser("convert", help=help_line, **layout)
    command.add_argument("alexnet", help="torchvision's file, alexnet-owt-7be5be79.pth")
    command.add_argument("heads", help="that of LPIPS v0.1, alex.pth")
    command.add_argument("--out", help=f"the file to write (default: {NAME} in the cache folder)")
    arguments = parser.parse_args()
    with exit_on_user_error():
        out = convert(arguments.alexnet, arguments.heads, arguments.out)
        print(f"wrote {out}: {load(out).digest}")


if __name__ == "__main__":
    main()
