"""The network that reads attributes off single frames: its layers, losses and answers.

Four convolutions turn a frame into features of 8x8 places. Each readable has a linear head:

- Points: one distribution over 16x16 cells. The target splits each of the K points between the
  four cells around it, so that the mean of a point's mass is the point. To answer, the network
  takes K points out of the distribution, one after the other, each with its share of the mass.
- Classes at points: scores at each place, interpolated at the points.
- The class of the whole frame: scores from the features' mean and maximum.
- Numbers: a linear function of the features of all places. Its outputs are in standard deviations
  of the training frames' numbers from their mean, and its loss is the absolute error, which is the
  score but for the unit.

No loss depends on the order of the points, and no head is tied to one of the K things, except for
numbers.

Symbols: F frames, H, W, C their height, width and channels, K things to read in each, D features,
G cells along an edge.
"""

from collections.abc import Mapping, Sequence

import keras
import numpy as np
import tensorflow as tf

from cwvae.frame_sizes import HALVINGS

_PLACES = 8  # Along an edge of the feature map.
_FINER = 2  # Cells per place and axis.
_FILTERS = (32, 64, 64, 96)
_STEM = 6  # Size of the first kernel, of stride 4; the others are 3x3.
_MOMENTUM = 0.95  # Of the statistics that batch normalization uses after training.
_MOST_POINTS = 4  # Scores compare all orders of them.

Tensors = dict[str, tf.Tensor]


class Network(keras.Model):
    """A small convolutional network with a linear head per readable, float32 under any policy."""

    def __init__(self, readables: Sequence, frame_shape: tuple[int, int, int], seed: int = 0):
        """Builds all weights for a data set's `data_loaders.attributes.Readable`s.

        Raises:
          ValueError: This network cannot read them, or frames of this shape, (H, W, C).
        """
        super().__init__(dtype="float32")
        self.readables = {readable.name: readable for readable in readables}
        self.frame_shape = tuple(frame_shape)
        height, width, _ = self.frame_shape
        if height != width or height not in HALVINGS:
            raise ValueError(f"the readout fits frames of {list(HALVINGS)}, not {frame_shape}.")
        for readable in readables:
            self._check(readable)

        draws = keras.random.SeedGenerator(seed)
        halved = HALVINGS[height] - 3  # The features of frames of any size are 8x8.
        strides = [4] + [2] * halved + [1] * (3 - halved)
        body = []
        for size, filters, stride in zip((_STEM, 3, 3, 3), _FILTERS, strides, strict=True):
            options = {"use_bias": False, "kernel_initializer": _he(draws), "dtype": "float32"}
            body += [
                keras.layers.Conv2D(filters, size, stride, "same", **options),
                keras.layers.BatchNormalization(momentum=_MOMENTUM, dtype="float32"),
                keras.layers.ReLU(dtype="float32"),
            ]
        self.body = keras.Sequential(body)
        self.heads = {
            name: keras.layers.Dense(
                {"points": _FINER**2, "classes": readable.size, "numbers": readable.count}[
                    readable.kind
                ],
                kernel_initializer=_he(draws, 0.1),  # At first all answers are about as likely.
                dtype="float32",
            )
            for name, readable in self.readables.items()
        }
        # The scale of numbers: their mean and standard deviation [K] in training frames.
        self.scales = {
            name: [
                self.add_weight(
                    shape=(readable.count,), initializer=initializer, trainable=False, name=name
                )
                for initializer in ("zeros", "ones")
            ]
            for name, readable in self.readables.items()
            if readable.kind == "numbers"
        }
        self(tf.zeros((1, *self.frame_shape)))

    def _check(self, readable) -> None:
        name, count = readable.name, readable.count
        if readable.kind == "points":
            if not 1 <= count <= _MOST_POINTS:
                raise ValueError(f"{name}: {count} points; the readout takes 1 to {_MOST_POINTS}.")
        elif readable.kind == "numbers":
            if readable.places is not None:
                raise ValueError(f"{name}: numbers are read from the whole frame, not at points.")
        elif readable.kind != "classes":
            raise ValueError(f"{name}: unknown kind {readable.kind!r}.")
        elif readable.places is None:
            if count != 1:
                raise ValueError(f"{name}: {count} classes of a whole frame; there can be one.")
        elif getattr(self.readables.get(readable.places), "count", None) != count:
            raise ValueError(f"{name}: {readable.places!r} are not {count} points.")

    def set_scales(self, readings: Mapping[str, np.ndarray]) -> None:
        """Sets the scale of the numbers in training frames.

        Args:
          readings: float32 [F, K] numbers by name, NaN where unreadable; other kinds are ignored.
        """
        for name, (mean, spread) in self.scales.items():
            known = np.ma.masked_invalid(np.asarray(readings[name], np.float64))
            mean.assign(known.mean(0).filled(0))
            deviation = known.std(0).filled(0)
            spread.assign(np.where(deviation > 0, deviation, 1))

    def call(self, frames: tf.Tensor, training: bool = False) -> Tensors:
        """Returns the outputs of the heads for float32 frames [F, H, W, C] in [0, 1], by name.

        They are float32: for points [F, G, G], for classes at points [F, 8, 8, size], for the class
        of the whole frame [F, size], for numbers [F, K].
        """
        x = self.body(frames, training=training)
        pooled = tf.concat([tf.reduce_mean(x, (1, 2)), tf.reduce_max(x, (1, 2))], -1)
        results = {}
        for name, readable in self.readables.items():
            whole_frame = readable.kind == "classes" and not readable.places
            inputs = pooled if whole_frame else x
            if readable.kind == "numbers":
                inputs = tf.reshape(x, (-1, _PLACES**2 * _FILTERS[-1]))
            results[name] = self.heads[name](inputs)
            if readable.kind == "points":
                results[name] = tf.nn.depth_to_space(results[name], _FINER)[..., 0]
        return results

    def losses(self, outputs: Tensors, readings: Tensors) -> Tensors:
        """Returns the loss of each readable, a float32 scalar by its name.

        It is a mean cross-entropy or, for numbers, a mean absolute error in standard deviations.

        `readings` are by name int64 [F, K] classes, negative where unreadable; float32 [F, K, 2]
        points in pixels; or float32 [F, K] numbers, NaN where unreadable. Classes at points are in
        the points' order.
        """
        results = {}
        for name, readable in self.readables.items():
            given, output = readings[name], outputs[name]
            if readable.kind == "points":
                target = tf.reduce_mean(self._spread(given, output.shape[1]), 1)
                target, logits = (tf.reshape(x, (x.shape[0], -1)) for x in (target, output))
                values = tf.nn.softmax_cross_entropy_with_logits(target, logits)
                results[name] = tf.reduce_mean(values)
                continue
            if readable.kind == "numbers":
                mean, spread = self.scales[name]
                known = tf.math.is_finite(given)
                target = (tf.where(known, given, 0.0) - mean) / spread
                results[name] = _mean_of(known, tf.abs(target - output))
                continue
            scores = self._class_scores(readable, output, readings)
            values = tf.nn.sparse_softmax_cross_entropy_with_logits(tf.maximum(given, 0), scores)
            results[name] = _mean_of(given >= 0, values)
        return results

    def answers(self, outputs: Tensors) -> Tensors:
        """Returns what was read, by name.

        It is int64 [F, K] classes, float32 [F, K, 2] points, or float32 [F, K] numbers.
        """
        results = {}
        for name, readable in self.readables.items():
            if readable.kind == "points":
                results[name] = self._find(outputs[name], readable.count)
            elif readable.kind == "numbers":
                mean, spread = self.scales[name]
                results[name] = mean + spread * outputs[name]
        for name, readable in self.readables.items():  # Some classes are read at the points.
            if readable.kind == "classes":
                scores = self._class_scores(readable, outputs[name], results)
                results[name] = tf.argmax(scores, -1)
        return results

    def _class_scores(self, readable, output: tf.Tensor, points: Tensors) -> tf.Tensor:
        """Returns scores [F, K, size]: of the frame, or at points."""
        if readable.places is None:
            return output[:, None]
        spread = self._spread(points[readable.places], _PLACES)
        return tf.einsum("fkij,fijc->fkc", spread, output)

    def _spread(self, points: tf.Tensor, cells: int) -> tf.Tensor:
        """Returns the weights of cells that interpolate at points, [F, K, G, G]; their sum is 1."""
        # In cells from the center of the first cell; points outside all centers move to the edge.
        places = tf.clip_by_value(points * (cells / self.frame_shape[0]) - 0.5, 0.0, cells - 1.0)
        distance = tf.abs(places[..., None] - tf.range(cells, dtype=tf.float32))
        near = tf.nn.relu(1 - distance)  # [F, K, 2, G]
        return near[..., 0, :, None] * near[..., 1, None, :]

    def _find(self, logits: tf.Tensor, count: int) -> tf.Tensor:
        """Returns the K points [F, K, 2] where most mass of a distribution over cells lies."""
        cells = logits.shape[1]
        mass = tf.reshape(tf.nn.softmax(tf.reshape(logits, (-1, cells**2))), (-1, cells, cells))
        found = []
        for _ in range(count):
            corners = [mass[:, :-1, :-1], mass[:, :-1, 1:], mass[:, 1:, :-1], mass[:, 1:, 1:]]
            blocks = tf.reshape(tf.stack(corners, -1), (-1, (cells - 1) ** 2, 4))
            best = tf.argmax(tf.reduce_sum(blocks, -1), -1)
            block = tf.gather(blocks, best, batch_dims=1)  # [F, 4]
            share = block / tf.reduce_sum(block, -1, keepdims=True)
            within = tf.stack([share[:, 2] + share[:, 3], share[:, 1] + share[:, 3]], -1)
            corner = tf.stack([best // (cells - 1), best % (cells - 1)], -1)
            place = tf.cast(corner, tf.float32) + within + 0.5
            found.append(place * (self.frame_shape[0] / cells))
            # Remove only this point's share of the mass: two points may lie in the same cells.
            mass = tf.nn.relu(mass - self._spread(found[-1][:, None], cells)[:, 0] / count)
        return tf.stack(found, 1)


def _mean_of(known: tf.Tensor, values: tf.Tensor) -> tf.Tensor:
    """Returns the mean of the values that are known; 0 if none is."""
    known = tf.cast(known, tf.float32)
    return tf.reduce_sum(known * values) / tf.maximum(tf.reduce_sum(known), 1)


def _he(draws, factor: float = 1) -> keras.initializers.Initializer:
    """Returns He's initializer with its standard deviation multiplied by `factor`."""
    scale = 2 * factor**2
    return keras.initializers.VarianceScaling(scale, "fan_in", "untruncated_normal", draws)


def warped(frames: tf.Tensor, readings: Tensors, points: Sequence[str], strength: float, seed):
    """Returns frames turned, sheared and scaled at random, and readings that match them.

    Args:
      frames: float32 [F, H, H, C].
      readings: Readings by name.
      points: The names of those that are points.
      strength: The largest difference of a matrix from the identity, in each of its four entries.
      seed: int [2].
    """
    count, size = frames.shape[0], frames.shape[1]
    shift = tf.random.stateless_uniform((count, 2, 2), seed, -strength, strength)
    matrix = tf.eye(2) + shift  # Maps (row, column) about the center.
    inverse = tf.linalg.inv(matrix)[:, ::-1, ::-1]  # (x, y) of each pixel's source.
    center = tf.fill((2, 1), (size - 1) / 2)
    offset = center - tf.linalg.matmul(inverse, tf.broadcast_to(center, (count, 2, 1)))
    rows = tf.reshape(tf.concat([inverse, offset], -1), (count, 6))
    transforms = tf.concat([rows, tf.zeros((count, 2))], -1)
    frames = keras.ops.image.affine_transform(frames, transforms, fill_mode="nearest")
    moved = {
        name: tf.einsum("fij,fkj->fki", matrix, readings[name] - size / 2) + size / 2
        for name in points
    }
    return frames, {**readings, **moved}
