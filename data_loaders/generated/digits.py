"""Images of handwritten digits for `moving_digits`, from one of three sources.

  digits='sklearn'   the 1797 UCI digits that scikit-learn ships, 8x8, redrawn. No download.
  digits='mnist'     MNIST through `tensorflow_datasets`, which downloads it.
  digits_dir=...     MNIST, or any data set in its format, from a folder of IDX files.

All images have the layout of MNIST: white ink on black, in the middle 20/28 of a square picture. N
is the number of images.
"""

import gzip
import hashlib
import math
import struct
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import requests

from cwvae.errors import UserError
from data_loaders.sources import SPLITS, check_choice, require

SOURCES = ("sklearn", "mnist")

_IDX_PREFIX = {"train": "train", "test": "t10k"}  # The splits in the names of MNIST's files.
_UBYTE = 0x08  # The IDX type code of unsigned bytes, the only one in MNIST.
_MNIST_HOST = "https://storage.googleapis.com"  # tensorflow-datasets downloads MNIST from here.
_OTHER_SOURCES = (
    "set data.digits_dir to a folder of MNIST's IDX files, or data.digits=sklearn, which needs no"
    " download"
)


class Digits(NamedTuple):
    """The digit images of a split.

    Attributes:
      images: uint8 [N, size, size], from 0 (paper) to 255 (ink).
      labels: int64 [N].
      sha256: The SHA-256 of the labels and of the images before they were resized, since resizing
        may round differently on another machine.
    """

    images: np.ndarray
    labels: np.ndarray
    sha256: str


def load_digits(
    split: str,
    size: int,
    digits: str = "sklearn",
    digits_dir: str | None = None,
    data_dir: str | None = None,
) -> Digits:
    """Loads the digit images of one split. No image is in both splits.

    Args:
      split: 'train' or 'test'. MNIST is split as published; the last 20% of scikit-learn's digits
        are the test split.
      size: Height and width of the images, in pixels.
      digits: 'sklearn' or 'mnist'. Ignored if `digits_dir` is given.
      digits_dir: A folder with `train-images-idx3-ubyte`, `train-labels-idx1-ubyte` and the two
        `t10k-...` files, each plain or with `.gz`, or named like `train-images.idx3-ubyte`. They
        may also be in `raw/` or `MNIST/raw/`, as torchvision has them, or each in a folder of its
        own name, as Kaggle has them.
      data_dir: The folder of `tensorflow_datasets`; None for the default.

    Raises:
      UserError: An unknown split or source, or digits that are missing or damaged.
    """
    check_choice("split", split, SPLITS)
    if digits_dir is not None:
        images, labels = _from_idx_files(Path(digits_dir).expanduser(), split)
    else:
        check_choice("data.digits", digits, SOURCES)
        images, labels = (
            _from_sklearn(split) if digits == "sklearn" else _from_tfds(split, data_dir)
        )
    labels = labels.astype(np.int64)
    digest = _sha256(images, labels)
    if digits_dir is None and digits == "sklearn":
        images = _redraw(images)
    return Digits(_resize(images, size), labels, digest)


def _sha256(images: np.ndarray, labels: np.ndarray) -> str:
    digest = hashlib.sha256(str(images.shape).encode())
    for array, dtype in ((images, "u1"), (labels, "<i8")):
        digest.update(np.ascontiguousarray(array, dtype))
    return digest.hexdigest()


def _from_sklearn(split: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns the UCI digits, uint8 [N, 8, 8] from 0 to 16, and their labels [N]."""
    other = "set data.digits_dir to a folder of MNIST's IDX files"
    sklearn = require("sklearn.datasets", "data.digits=sklearn", "scikit-learn", other)
    bundle = sklearn.datasets.load_digits()
    num_train = len(bundle.images) * 8 // 10
    part = slice(num_train) if split == "train" else slice(num_train, None)
    return bundle.images[part].astype(np.uint8), bundle.target[part]


def _redraw(images: np.ndarray) -> np.ndarray:
    """Redraws [N, 8, 8] images in 0..16 as strokes with sharp edges, uint8 [N, 112, 112].

    A value is the share of ink in a 4x4 block of a black and white scan. Smooth interpolation and a
    steep contrast curve recover a plausible outline.
    """
    # MNIST's layout at four times its size: 80 pixels of digit in the middle of 112.
    framed = np.pad(images / 16, ((0, 0), (2, 2), (2, 2)))
    fine = _interpolate(framed, 120)[:, 4:-4, 4:-4]
    # From 0.4 to 0.6: lower, loops fill with ink; higher, thin strokes break.
    ramp = np.clip((fine - 0.4) / 0.2, 0, 1)
    return _to_uint8(ramp * ramp * (3 - 2 * ramp) * 255)


def _from_tfds(split: str, data_dir: str | None) -> tuple[np.ndarray, np.ndarray]:
    """Returns MNIST from `tensorflow_datasets`, [N, 28, 28], downloading it if needed."""
    tfds = require(
        "tensorflow_datasets", "data.digits=mnist", "tensorflow-datasets", _OTHER_SOURCES
    )
    try:
        if not tfds.builder("mnist", data_dir=data_dir).is_prepared():
            # Without a network, tensorflow-datasets itself retries for minutes.
            requests.head(_MNIST_HOST, timeout=10)
        data = tfds.as_numpy(tfds.load("mnist", split=split, data_dir=data_dir, batch_size=-1))
    except Exception as error:  # Network, disk and checksum failures have no common base class.
        where = data_dir or "the default folder of tensorflow-datasets (~/tensorflow_datasets)"
        raise UserError(
            f"MNIST was not found in {where} and could not be downloaded there "
            f"({type(error).__name__}: {error}). Try again, or {_OTHER_SOURCES}."
        ) from error
    return data["image"][..., 0], data["label"]


def _from_idx_files(folder: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns the images [N, H, H] and labels [N] of a folder in MNIST's format."""
    prefix = _IDX_PREFIX[split]
    images_file, images = _read_idx(folder, f"{prefix}-images-idx3-ubyte", num_dims=3)
    labels_file, labels = _read_idx(folder, f"{prefix}-labels-idx1-ubyte", num_dims=1)
    if images.size == 0 or images.shape[1] != images.shape[2]:
        raise UserError(
            f"{images_file}: holds images of shape {images.shape}; expected [N, H, H] with N > 0 "
            "square images. Point data.digits_dir at a folder of MNIST's files."
        )
    if len(images) != len(labels):
        raise UserError(
            f"{images_file} holds {len(images)} images, but {labels_file} holds {len(labels)} "
            "labels. The two files do not belong together: download both again."
        )
    return images, labels


def _read_idx(folder: Path, name: str, num_dims: int) -> tuple[Path, np.ndarray]:
    """Reads an IDX file of unsigned bytes: magic number, sizes (big-endian uint32), values."""
    paths = _find_idx(folder, name)
    if not paths:
        problem = "has no file" if folder.is_dir() else "is not a folder; expected there:"
        raise UserError(
            f"data.digits_dir: {folder} {problem} {' or '.join(_names(name))}, with or without .gz,"
            " directly in it or in raw/ or MNIST/raw/. Put MNIST's four IDX files into that folder,"
            " or unset data.digits_dir and set data.digits=sklearn, which needs no download."
        )
    contents = {path: _unpacked(path) for path in paths}
    path, data = next(iter(contents.items()))
    for other, content in contents.items():
        if content != data:
            raise UserError(
                f"data.digits_dir: {path} and {other} both have a name of the same file of MNIST,"
                " but differ. Delete or move the wrong one."
            )
    header = 4 * (1 + num_dims)
    if len(data) < header:
        raise UserError(
            f"{path}: is cut short: {len(data)} bytes, not even a header. Download it again."
        )
    magic, *shape = struct.unpack(f">{1 + num_dims}I", data[:header])
    expected_magic = _UBYTE << 8 | num_dims
    if magic != expected_magic:
        raise UserError(
            f"{path}: is not an IDX file of bytes with {num_dims} dimensions: it begins with "
            f"{magic:#010x}, expected {expected_magic:#010x}. Replace it with MNIST's file."
        )
    # math.prod: Python's integers do not overflow on the sizes of a damaged header.
    expected = header + math.prod(shape)
    if len(data) != expected:
        problem = "is cut short" if len(data) < expected else "is too long"
        raise UserError(
            f"{path}: {problem}: the header announces {expected} bytes, found {len(data)}. "
            "Download it again."
        )
    return path, np.frombuffer(data, np.uint8, offset=header).reshape(shape)


def _names(name: str) -> tuple[str, str]:
    """Returns the names that a file of MNIST is distributed under."""
    return name, name.replace("-idx", ".idx")


def _find_idx(folder: Path, name: str) -> list[Path]:
    """Returns the files in the known places that have one of the names of a file of MNIST."""
    names = [f"{stem}{end}" for stem in _names(name) for end in ("", ".gz")]
    # Kaggle has each file in a folder of its name; torchvision has all below MNIST/raw.
    places = ["", *names, "raw", "MNIST/raw"]
    paths = [folder / place / name for place in places for name in names]
    return [path for path in paths if path.is_file()]


def _unpacked(path: Path) -> bytes:
    """Returns a file's content, decompressed if it is a gzip file."""
    try:
        data = path.read_bytes()
        if data.startswith(b"\x1f\x8b"):  # Browsers may decompress a .gz file and keep its name.
            data = gzip.decompress(data)
        return data
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(
            f"{path}: cannot be read ({error}). It may be damaged: download it again."
        ) from error


def _resize(images: np.ndarray, size: int) -> np.ndarray:
    """Resizes uint8 [N, H, H] to uint8 [N, size, size], smoothly and without aliasing."""
    if size == images.shape[1]:
        return images
    resized = np.empty((len(images), size, size), np.uint8)
    for first in range(0, len(images), 1024):  # All of MNIST in float32 would take 188 MB.
        piece = slice(first, first + 1024)
        resized[piece] = _to_uint8(_interpolate(images[piece], size))
    return resized


def _interpolate(images: np.ndarray, size: int) -> np.ndarray:
    """Resamples [N, H, H] to float32 [N, size, size] with the Catmull-Rom cubic kernel.

    If the picture shrinks, the kernel is widened to the output's pixels, which prevents aliasing.
    """
    num_inputs = images.shape[1]
    scale = num_inputs / size  # Input pixels per output pixel.
    centers = (np.arange(size) + 0.5) * scale - 0.5  # Output pixels' centers, in input pixels.
    x = np.abs(centers[:, None] - np.arange(num_inputs)) / max(1, scale)  # [size, H]
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    weights = np.where(x < 1, near, np.where(x < 2, far, 0))
    weights = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
    return weights @ images.astype(np.float32) @ weights.T


def _to_uint8(values: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)
