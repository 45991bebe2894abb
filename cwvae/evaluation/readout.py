"""The readout: does a predicted frame still show the right things in the right places?

For data sets that say what their frames show (`readable`), a small network learns to read it from
true frames. What it reads in predicted frames is compared with the truth, frame by frame; what it
reads in true frames that it was not trained on is the ceiling. Trained once, it is kept in
`files.cache_folder()`.

Symbols: N videos, T frames, H, W, C height, width and channels, K things to read in each frame, F
frames of a batch.
"""

import concurrent.futures
import hashlib
import itertools
import json
import os
import pathlib
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Iterator

import keras
import numpy as np
import tensorflow as tf
import tqdm

from cwvae.evaluation.readout_network import Network, warped
from cwvae.run import files
from cwvae.training.optimizer import Adam

VERSION = 1  # Raised whenever the same training frames come to give other weights.
STEPS = 1500
BATCH = 128  # Frames.
_WINDOW = 4  # Frames of a batch that come from one clip, in a row.
_LEARNING_RATE, _WARM_UP = 0.005, 50
_WARP = 0.2
_AVERAGING = 0.05  # The newest batch's share in the averages that normalise layers later on.
_CHUNK = 256  # Frames read at a time.


class Readout:
    """Reads frames, and says how well that agrees with the truth."""

    def __init__(self, network: Network, weights: dict[str, np.ndarray], trained_on: int):
        """Takes a trained network.

        Args:
          network: The network.
          weights: Of `network.shapes()`.
          trained_on: How many frames it was trained on.
        """
        self.weights = weights
        self._network, self._trained_on = network, trained_on
        constants = {name: tf.constant(array) for name, array in weights.items()}
        shape = (None, *network.frame_shape)

        @tf.function(input_signature=[tf.TensorSpec(shape, tf.float32)], autograph=False)
        def answer(frames):
            frames = tf.clip_by_value(frames, 0.0, 1.0)
            return network.answers(network.outputs(constants, frames))

        self._answer = answer

    def metrics(self) -> dict[str, dict[str, str]]:
        """Returns label, unit, which is better, and protocol of each score, by its name."""
        found = {}
        for name, readable in self._network.readables.items():
            if readable.kind == "points":
                about = {"unit": "pixels", "better": "lower"}
                what = "mean distance under the best assignment"
            else:
                about = {"unit": "%", "better": "higher"}
                what = "share of the labels that are right, whatever their order"
            protocol = (
                f"{what}, {readable.count} per frame, as read from predictions clipped to [0, 1] by"
                f" a small network that was trained on {self._trained_on:,} true frames of the"
                " training split; its score on true held-out frames is the ceiling"
            )
            found[f"readout_{name}"] = {"label": readable.label, **about, "protocol": protocol}
        return found

    def scores(self, frames, readings: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Returns how well what is read in frames agrees with what there is to read.

        Args:
          frames: Floats in the units of [0, 1], [N, T, H, W, C], clipped to [0, 1] here.
          readings: By name int64 [N, T, K] classes or float32 [N, T, K, 2] points in pixels, as
            `readings` of the data set gives them.

        Returns:
          float32 [N, T] by the names of `metrics`: percent of the classes, and pixels. NaN where a
          frame has a class that cannot be read in it (a negative one).

        Raises:
          ValueError: frames are no floats, not finite, or do not fit the readings or the network.
        """
        frames = np.asarray(frames)
        self._check(frames, readings)
        # A view that repeats a frame, as of a still prediction, is read once.
        still = tuple(slice(1) if stride == 0 else slice(None) for stride in frames.strides[:2])
        distinct = frames[still]
        found = self._read(distinct.reshape(-1, *frames.shape[2:]), distinct.shape[1])
        results = {}
        for name, readable in self._network.readables.items():
            values = found[name].reshape(*distinct.shape[:2], *found[name].shape[1:])
            compare = distance if readable.kind == "points" else overlap
            results[f"readout_{name}"] = compare(np.asarray(readings[name]), values)
        return results

    def _check(self, frames: np.ndarray, readings: dict[str, np.ndarray]) -> None:
        shape = self._network.frame_shape
        if frames.ndim != 5 or frames.shape[2:] != shape or 0 in frames.shape:
            raise ValueError(f"expected videos [N, T, {shape}], got shape {frames.shape}.")
        if frames.dtype.kind in "biu":  # not `!= "f"`: bfloat16 arrays have kind "V"
            raise ValueError(f"frames must be floats in [0, 1], got {frames.dtype}.")
        for name, readable in self._network.readables.items():
            each = (readable.count, 2) if readable.kind == "points" else (readable.count,)
            expected = (*frames.shape[:2], *each)
            if np.shape(readings[name]) != expected:
                raise ValueError(
                    f"{name} must be {list(expected)}, got {list(np.shape(readings[name]))}."
                )

    def _read(self, frames: np.ndarray, length: int) -> dict[str, np.ndarray]:
        """Returns the answers [F, K...] for frames [F, H, W, C] of videos of `length` frames."""
        pieces = []
        for start in range(0, len(frames), _CHUNK):
            chunk = np.asarray(frames[start : start + _CHUNK], np.float32)
            finite = np.isfinite(chunk).all(axis=(1, 2, 3))
            if not finite.all():
                n, t = divmod(start + int(np.argmin(finite)), length)
                raise ValueError(f"frames hold a NaN or an infinity, first at [n, t] = [{n}, {t}].")
            answers = self._answer(tf.constant(chunk))
            pieces.append({name: value.numpy() for name, value in answers.items()})
        return {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}


def overlap(truth: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Returns the percentage of labels that were found, in any order: as multisets.

    Args:
      truth: int [..., K]; where one is negative, the result is NaN.
      found: int [..., K], which broadcasts with it.
    """
    truth, found = np.broadcast_arrays(truth, found)
    right = np.zeros(truth.shape[:-1], np.int64)
    taken = np.zeros(truth.shape, bool)
    for k in range(truth.shape[-1]):  # Each true label takes one of those found, if any is left.
        same = (found == truth[..., k, None]) & ~taken
        first = same & (np.cumsum(same, -1) == 1)
        taken |= first
        right += first.any(-1)
    percent = 100 * right / truth.shape[-1]
    return np.where((truth < 0).any(-1), np.nan, percent).astype(np.float32)


def distance(truth: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Returns the mean distance between points and those found, in the order that makes it least.

    Args:
      truth: float [..., K, 2].
      found: float [..., K, 2], which broadcasts with it.
    """
    truth, found = np.broadcast_arrays(truth, found)
    count = truth.shape[-2]
    apart = np.linalg.norm(truth[..., :, None, :] - found[..., None, :, :], axis=-1)
    orders = [
        apart[..., np.arange(count), order].mean(-1)
        for order in itertools.permutations(range(count))
    ]
    return np.min(orders, axis=0).astype(np.float32)


def fit(data, seed: int = 0, *, steps: int = STEPS) -> Readout | None:
    """Returns a readout of a data set: a kept one, or else it is trained, which takes a minute.

    Args:
      data: The training split of a data set, with `readable` and `readings`.
      seed: Of initial weights, drawn frames and their random warps.
      steps: Updates.

    Returns:
      The readout; None where nothing can be read in this data set's frames. On one CPU device it is
      a function of the arguments.

    Raises:
      UserError: Frames or attributes that cannot be had.
      ValueError: Attributes or frames that the network does not fit.
    """
    readables = data.readable()
    if not readables:
        return None
    network = Network(readables, data.frame_shape)
    path = files.cache_folder() / "readouts" / f"{_key(network, data, seed, steps)}.npz"
    weights = _kept(path, network)
    if weights is None:
        weights = _train(network, data, seed, steps)
        _keep(path, weights)
    return Readout(network, weights, steps * len(_draw(data, seed, 0)[0]))


def _draw(data, seed: int, step: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Returns a batch of frames, uint8 [F, H, W, C], and their readings [F, ...]."""
    rng = np.random.default_rng(np.random.SeedSequence([seed, step]))
    length = min(_WINDOW, data.clips.longest)
    windows = list(zip(*data.clips.draw(rng, BATCH // length, length), strict=True))
    frames = [data.clip(int(i), int(start), length) for i, start in windows]
    each = [data.readings(int(i), int(start), length) for i, start in windows]
    readings = {name: np.concatenate([window[name] for window in each]) for name in each[0]}
    return np.concatenate(frames), readings


def _batches(data, seed: int, steps: int) -> Iterator[tuple]:
    """Yields what `_draw` gives for each step, drawn while the one before is used."""
    with concurrent.futures.ThreadPoolExecutor(1) as executor:
        following = executor.submit(_draw, data, seed, 0)
        for step in range(1, steps + 1):
            current = following.result()
            if step < steps:
                following = executor.submit(_draw, data, seed, step)
            yield current


def _train(network: Network, data, seed: int, steps: int) -> dict[str, np.ndarray]:
    """Returns the weights of `network.shapes()`, trained."""
    weights = {
        name: keras.Variable(array, dtype="float32", name=name)
        for name, array in network.initial(seed).items()
    }
    averages: dict[str, list[tf.Variable]] = {}
    rate = tf.Variable(0.0)
    optimizer = Adam(list(weights.values()), rate, epsilon=1e-7)
    points = [name for name, readable in network.readables.items() if readable.kind == "points"]

    @tf.function(autograph=False)
    def update(frames, readings, step):
        frames, readings = warped(
            tf.cast(frames, tf.float32) / 255, readings, points, _WARP, tf.stack([seed, step])
        )
        moments = {}
        with tf.GradientTape() as tape:
            outputs = network.outputs(weights, frames, moments)
            loss = tf.add_n(list(network.losses(outputs, readings).values()))
        gradients = tape.gradient(loss, [weight.value for weight in weights.values()])
        optimizer.apply(gradients, tf.math.is_finite(loss))
        for name, values in moments.items():
            if name not in averages:  # When it is traced.
                with tf.init_scope():
                    averages[name] = [
                        tf.Variable(start(value.shape))
                        for start, value in zip((tf.zeros, tf.ones), values, strict=True)
                    ]
            for average, value in zip(averages[name], values, strict=True):
                average.assign_add(_AVERAGING * (value - average))

    names = ", ".join(readable.name for readable in network.readables.values())
    progress = tqdm.tqdm(
        _batches(data, seed, steps), f"learning to read {names}", steps, unit="step"
    )
    for step, (frames, readings) in enumerate(progress):
        warm = min(1.0, (step + 1) / _WARM_UP)
        rate.assign(_LEARNING_RATE * warm * (1 + np.cos(np.pi * step / steps)) / 2)
        update(tf.constant(frames), _as_tensors(readings), tf.constant(step))
    arrays = {name: weight.numpy() for name, weight in weights.items()}
    moments = {name: [value.numpy() for value in pair] for name, pair in averages.items()}
    return network.folded(arrays, moments)


def _as_tensors(readings: dict[str, np.ndarray]) -> dict[str, tf.Tensor]:
    return {name: tf.constant(values) for name, values in readings.items()}


# What is kept.


def _key(network: Network, data, seed: int, steps: int) -> str:
    """Returns a digest of all that the weights depend on; of the data, of the first batch."""
    readables = [
        (readable.name, readable.kind, readable.count, readable.size, readable.places)
        for readable in network.readables.values()
    ]
    about = [VERSION, readables, network.frame_shape, data.fingerprint, seed, steps]
    frames, readings = _draw(data, seed, 0)
    return _digest({"about": np.array(json.dumps(about)), "frames": frames, **readings})


def _digest(arrays: dict[str, np.ndarray]) -> str:
    sha = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        sha.update(f"{name} {array.dtype} {array.shape}\n".encode())
        sha.update(array.tobytes())
    return sha.hexdigest()


def _kept(path: pathlib.Path, network: Network) -> dict[str, np.ndarray] | None:
    """Returns the weights in a file; None where there is none, or where it is damaged."""
    try:
        with np.load(path, allow_pickle=False) as content:
            weights = dict(content)
        written = str(weights.pop("sha256"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        problem = f"cannot be read ({type(error).__name__})"
    else:
        if written == _digest(weights):
            return weights
        problem = "is not what was written: its checksum differs"
    print(f"warning: {path}: {problem}. The readout is trained again.", file=sys.stderr)
    return None


def _keep(path: pathlib.Path, weights: dict[str, np.ndarray]) -> None:
    """Writes weights to a file: all of it, or nothing."""
    aside = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, aside = tempfile.mkstemp(suffix=".tmp", dir=path.parent)
        with open(descriptor, "wb") as file:
            np.savez(file, sha256=np.array(_digest(weights)), **weights)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    except OSError as error:
        if aside:
            pathlib.Path(aside).unlink(missing_ok=True)
        print(
            f"warning: {path}: cannot be written ({error.strerror}). The next evaluation trains"
            " the readout again.",
            file=sys.stderr,
        )
