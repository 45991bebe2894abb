"""The readout: does a predicted frame still show the right things in the right places?

Some data sets know what their frames show (`readable`). A small network learns to read it from true
frames. Its answers on predicted frames are compared with the truth, frame by frame. Its score on
held-out true frames is the ceiling. A readout is trained once and kept in `files.cache_folder()`.

Symbols: N videos, T frames, H, W, C height, width and channels, K things to read in each frame, F
frames of a batch.
"""

import hashlib
import itertools
import json
import pathlib
import sys
import zipfile
import zlib
from collections.abc import Mapping

import keras
import numpy as np
import tensorflow as tf
import tqdm

from cwvae.evaluation.readout_network import Network, warped
from cwvae.run import files

# Raise it when the same training frames would give other weights. It is part of the protocol, so
# scores of different readouts are never compared.
VERSION = 4
STEPS = 1000  # For each thing in a frame: several that cross are harder to read than one.
BATCH = 64  # Frames.
# Frames that are drawn before training. Each is used several times, warped in another way each
# time unless there are numbers: drawing new frames for each step took a quarter of the time, and
# the answers are as good.
_FRAMES = 8192
_DRAWN = 128  # Frames drawn at a time. The first of these draws stands for the data in the key.
_WINDOW = 4  # Consecutive frames drawn from one clip.
_LEARNING_RATE, _WARM_UP = 0.005, 50
_WARP = 0.2
_CHUNK = 256  # Frames read at a time.


class Readout:
    """Reads frames with a trained `network`, and scores how well answers agree with the truth."""

    def __init__(self, network: Network, trained_on: int):
        """Takes a trained network and the number of frames that it was trained on."""
        self.network, self._trained_on = network, trained_on
        frames = tf.TensorSpec((None, *network.frame_shape), tf.float32)

        @tf.function(input_signature=[frames], autograph=False)
        def answer(frames):
            return network.answers(network(tf.clip_by_value(frames, 0.0, 1.0)))

        self._answer = answer

    def metrics(self) -> dict[str, dict[str, str]]:
        """Returns label, unit, better direction and protocol of each score, by its name."""
        found = {}
        for name, readable in self.network.readables.items():
            if readable.kind == "points":
                about = {"unit": "pixels", "better": "lower"}
                what = "mean distance under the best assignment"
            elif readable.kind == "numbers":
                about = {"unit": readable.unit, "better": "lower"}
                what = "mean absolute error"
            else:
                about = {"unit": "%", "better": "higher"}
                what = "share of the labels that are right, whatever their order"
            protocol = (
                f"{what}, {readable.count} per frame, as read from predictions clipped to [0, 1] by"
                f" a small network (readout version {VERSION}) that was trained on"
                f" {self._trained_on:,} true frames of the training split; its score on true"
                " held-out frames is the ceiling"
            )
            found[f"readout_{name}"] = about | {"label": readable.label, "protocol": protocol}
        return found

    def scores(self, frames, readings: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Reads frames and compares the answers with the truth.

        Args:
          frames: Floats [N, T, H, W, C], clipped to [0, 1] here.
          readings: True answers by name: int64 [N, T, K] classes, float32 [N, T, K, 2] points in
            pixels, or float32 [N, T, K] numbers.

        Returns:
          float32 [N, T] by the names of `metrics`: percent for classes, pixels for points, their
          unit for numbers. NaN where a frame has an unreadable class (a negative one) or number
          (NaN).

        Raises:
          ValueError: The frames are not floats, are not finite, or do not fit the readings or the
            network.
        """
        frames = np.asarray(frames)
        self._check(frames, readings)
        # A view that repeats one frame, such as a still prediction, is read once.
        still = tuple(slice(1) if stride == 0 else slice(None) for stride in frames.strides[:2])
        distinct = frames[still]
        found = self._read(distinct.reshape(-1, *frames.shape[2:]), distinct.shape[1])
        results = {}
        for name, readable in self.network.readables.items():
            values = found[name].reshape(*distinct.shape[:2], *found[name].shape[1:])
            compare = _COMPARE[readable.kind]
            results[f"readout_{name}"] = compare(np.asarray(readings[name]), values)
        return results

    def _check(self, frames: np.ndarray, readings: Mapping[str, np.ndarray]) -> None:
        shape = self.network.frame_shape
        if frames.ndim != 5 or frames.shape[2:] != shape or 0 in frames.shape:
            raise ValueError(f"expected videos [N, T, {shape}], got shape {frames.shape}.")
        if frames.dtype.kind in "biu":  # not `!= "f"`: bfloat16 arrays have kind "V"
            raise ValueError(f"frames must be floats in [0, 1], got {frames.dtype}.")
        for name, readable in self.network.readables.items():
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
    """Returns the percentage [...] of true labels [..., K] that were found, in any order.

    A negative true label makes the result NaN.
    """
    classes = np.arange(1 + max(truth.max(), found.max()))
    counts = [(labels[..., None] == classes).sum(-2) for labels in (truth, found)]
    percent = 100 * np.minimum(*counts).sum(-1) / truth.shape[-1]
    return np.where((truth < 0).any(-1), np.nan, percent).astype(np.float32)


def distance(truth: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Returns the mean distance [...] of points [..., K, 2] under the best assignment."""
    count = truth.shape[-2]
    apart = np.linalg.norm(truth[..., :, None, :] - found[..., None, :, :], axis=-1)
    orders = [
        apart[..., np.arange(count), order].mean(-1)
        for order in itertools.permutations(range(count))
    ]
    return np.min(orders, axis=0).astype(np.float32)


def error(truth: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Returns the mean absolute error [...] of numbers [..., K]; NaN if one of them is NaN."""
    return np.abs(truth - found).mean(-1).astype(np.float32)


_COMPARE = {"classes": overlap, "points": distance, "numbers": error}


def fit(data, seed: int = 0, *, steps: int | None = None) -> Readout | None:
    """Returns a data set's readout, from the cache or trained here, which takes half a minute.

    Args:
      data: The training split of a data set, with `readable` and `readings`.
      seed: Seed of the initial weights, the drawn frames and their random warps.
      steps: Number of updates; by default `STEPS` for each of the K things.

    Returns:
      The readout; None if the data set has nothing to read. Equal arguments give equal readouts on
      one CPU device.

    Raises:
      UserError: Frames or attributes are unavailable.
      ValueError: Attributes or frames do not fit the network.
    """
    readables = data.readable()
    if not readables:
        return None
    network = Network(readables, data.frame_shape, seed)
    steps = steps or STEPS * max(readable.count for readable in readables)
    first = _draw(data, seed, 0)
    path = files.cache_folder() / "readouts" / f"{_key(network, data, first, seed, steps)}.npz"
    if not _restore(path, network):
        _train(network, data, seed, steps)
        _save(path, network)
    return Readout(network, _draws(steps) * len(first[0]))


def _draws(steps: int) -> int:
    """Returns how often frames are drawn: no more than are used."""
    return -(-min(_FRAMES, steps * BATCH) // _DRAWN)


def _draw(data, seed: int, number: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Returns some training frames, uint8 [F, H, W, C], and their readings [F, ...]."""
    rng = np.random.default_rng(np.random.SeedSequence([seed, number]))
    length = min(_WINDOW, data.clips.longest)
    windows = list(zip(*data.clips.draw(rng, _DRAWN // length, length), strict=True))
    frames = [data.clip(int(i), int(start), length) for i, start in windows]
    each = [data.readings(int(i), int(start), length) for i, start in windows]
    readings = {name: np.concatenate([window[name] for window in each]) for name in each[0]}
    return np.concatenate(frames), readings


def _train(network: Network, data, seed: int, steps: int) -> None:
    points = [name for name, readable in network.readables.items() if readable.kind == "points"]
    weights = network.trainable_weights
    optimizer = keras.optimizers.Adam()
    optimizer.build(weights)
    drawn = [_draw(data, seed, number) for number in range(_draws(steps))]
    pool = tf.constant(np.concatenate([frames for frames, _ in drawn]))
    known = {
        name: tf.constant(np.concatenate([readings[name] for _, readings in drawn]))
        for name in network.readables
    }

    del drawn
    network.set_scales(known)

    @tf.function(autograph=False)
    def update(rows, step):
        readings = {name: tf.gather(values, rows) for name, values in known.items()}
        frames = tf.cast(tf.gather(pool, rows), tf.float32) / 255
        # A turned, sheared or scaled picture may show another number, such as a distance.
        if not network.scales:
            frames, readings = warped(frames, readings, points, _WARP, tf.stack([seed, step]))
        with tf.GradientTape() as tape:
            outputs = network(frames, training=True)
            loss = tf.add_n(list(network.losses(outputs, readings).values()))
        optimizer.apply(tape.gradient(loss, weights), weights)

    names = ", ".join(network.readables)
    rng = np.random.default_rng(seed)
    for step in tqdm.trange(steps, desc=f"learning to read {names}", unit="step"):
        warm = min(1.0, (step + 1) / _WARM_UP)
        rate = _LEARNING_RATE * warm * (1 + np.cos(np.pi * step / steps)) / 2
        optimizer.learning_rate.assign(rate)
        update(tf.constant(rng.integers(len(pool), size=BATCH)), tf.constant(step))


def _key(network: Network, data, first, seed: int, steps: int) -> str:
    """Returns a digest of all that determines the weights; the first batch stands for the data."""
    readables = [(r.name, r.kind, r.count, r.size, r.places) for r in network.readables.values()]
    about = [VERSION, readables, network.frame_shape, data.fingerprint, seed, steps]
    frames, readings = first
    return _digest({"about": np.array(json.dumps(about)), "frames": frames, **readings})


def _digest(arrays: Mapping[str, np.ndarray]) -> str:
    sha = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        sha.update(f"{name} {array.dtype} {array.shape}\n".encode())
        sha.update(array.tobytes())
    return sha.hexdigest()


def _restore(path: pathlib.Path, network: Network) -> bool:
    """Loads a file's weights; returns whether there were any. Warns about a damaged file."""
    try:
        with np.load(path, allow_pickle=False) as content:
            arrays = dict(content)
        written = str(arrays.pop("sha256"))
    except FileNotFoundError:
        return False
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        problem = f"cannot be read ({type(error).__name__})"
    else:
        if written == _digest(arrays):
            network.set_weights([arrays[f"weight{i}"] for i in range(len(arrays))])
            return True
        problem = "checksum mismatch"
    print(f"warning: {path}: {problem}. The readout is trained again.", file=sys.stderr)
    return False


def _save(path: pathlib.Path, network: Network) -> None:
    arrays = {f"weight{i}": array for i, array in enumerate(network.get_weights())}
    try:
        with files.cached(path) as aside, open(aside, "wb") as file:
            np.savez(file, sha256=np.array(_digest(arrays)), **arrays)
    except OSError as error:
        print(
            f"warning: {path}: cannot be written ({error.strerror}). The next evaluation trains"
            " the readout again.",
            file=sys.stderr,
        )
