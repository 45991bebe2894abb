"""The network that reads attributes off single frames: its layers, its losses and its answers.

Convolutions give features of 8x8 places of a frame. Each readable has a linear head on them:

- Points: one distribution over 16x16 cells. Its target splits each of the K points between the
  four cells around it, so that the mean of a point's mass is the point; and the answer takes K
  points out of it, one after the other, each with its share of the mass.
- Classes at points: scores of each place, interpolated at the points.
- The class of the whole frame: scores from the features' mean and maximum.

So no loss depends on the order of points, and no head has a digit of its own.

Symbols: F frames, H, W, C their height, width and channels, K things to read in each, D features,
G cells along an edge.
"""

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow as tf

_PLACES = 8  # Along an edge: where features are.
_FINER = 2  # Cells per place and axis.
_FILTERS = (32, 64, 64, 96)
_STEM = 6  # The first kernel, of stride 4; the others are 3x3.
_HALVINGS = {32: 0, 64: 1, 128: 2}  # Of the layers after the first, those of stride 2.
_BATCH_NORM_EPSILON = 1e-3
_MOST_POINTS = 4  # Scores compare all orders of them.

Tensors = dict[str, tf.Tensor]


class Network:
    """What is computed, for weights that are passed in."""

    def __init__(self, readables: Sequence, frame_shape: tuple[int, int, int]):
        """Checks what there is to read.

        Args:
          readables: As `data_loaders.attributes.Readable`.
          frame_shape: (H, W, C).

        Raises:
          ValueError: It cannot be read by this network.
        """
        self.readables = {readable.name: readable for readable in readables}
        self.frame_shape = tuple(frame_shape)
        height, width, channels = self.frame_shape
        if height != width or height not in _HALVINGS:
            raise ValueError(f"the readout fits frames of {list(_HALVINGS)}, not {frame_shape}.")
        for readable in readables:
            self._check(readable)
        strides = [4] + [2] * _HALVINGS[height] + [1] * (3 - _HALVINGS[height])
        self._layers = [(f"layer{i}", stride) for i, stride in enumerate(strides)]
        sizes = [_STEM, 3, 3, 3]
        pairs = itertools.pairwise([channels, *_FILTERS])
        self._kernels = {
            f"layer{i}": (size, size, *pair)
            for i, (size, pair) in enumerate(zip(sizes, pairs, strict=True))
        }
        for name, readable in self.readables.items():
            if readable.kind == "points":
                self._kernels[name] = (1, 1, _FILTERS[-1], _FINER**2)
            else:
                features = _FILTERS[-1] * (1 if readable.places else 2)
                self._kernels[name] = (1, 1, features, readable.size)

    def _check(self, readable) -> None:
        name, count = readable.name, readable.count
        if readable.kind == "points":
            if not 1 <= count <= _MOST_POINTS:
                raise ValueError(f"{name}: {count} points; the readout takes 1 to {_MOST_POINTS}.")
        elif readable.kind != "classes":
            raise ValueError(f"{name}: unknown kind {readable.kind!r}.")
        elif readable.places is None:
            if count != 1:
                raise ValueError(f"{name}: {count} classes of a whole frame; there can be one.")
        elif getattr(self.readables.get(readable.places), "count", None) != count:
            raise ValueError(f"{name}: {readable.places!r} are not {count} points.")

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Returns the shapes of the weights that `outputs` takes, by name."""
        shapes = {}
        for name, shape in self._kernels.items():
            shapes |= {f"{name}_kernel": shape, f"{name}_bias": shape[-1:]}
        return shapes

    def initial(self, seed: int) -> dict[str, np.ndarray]:
        """Returns weights to begin training with, by name; those of `shapes`, and gains."""
        rng = np.random.default_rng(seed)
        weights = {}
        for name, shape in self._kernels.items():
            # He's initialisation; heads begin small, with all answers equally likely.
            scale = np.sqrt(2 / np.prod(shape[:3])) * (0.1 if name in self.readables else 1)
            weights[f"{name}_kernel"] = (scale * rng.standard_normal(shape)).astype(np.float32)
            weights[f"{name}_bias"] = np.zeros(shape[-1], np.float32)
            if name not in self.readables:
                weights[f"{name}_gain"] = np.ones(shape[-1], np.float32)
        return weights

    def folded(self, weights: Mapping[str, np.ndarray], moments: Mapping) -> dict[str, np.ndarray]:
        """Returns the weights of `shapes`: those of training with the normalisation taken in.

        Args:
          weights: As trained, by name.
          moments: (mean, variance) of what each layer's convolution gives, by the layer's name.
        """
        result = {name: np.array(weights[name]) for name in self.shapes()}
        for name, _ in self._layers:
            mean, variance = moments[name]
            scale = weights[f"{name}_gain"] / np.sqrt(variance + _BATCH_NORM_EPSILON)
            result[f"{name}_kernel"] *= scale
            result[f"{name}_bias"] -= mean * scale
        return result

    def outputs(
        self, weights: Mapping, frames: tf.Tensor, moments: dict[str, Sequence] | None = None
    ) -> Tensors:
        """Returns what the heads give, by the readable's name.

        Args:
          weights: Those of `folded`; or with `moments` as trained.
          frames: float32 [F, H, W, C] in [0, 1].
          moments: In training: layers are normalised over the batch, and the (mean, variance) that
            this takes are put into it by the layer's name.

        Returns:
          float32: of points [F, G, G], of classes at points [F, 8, 8, size], of the class of the
          whole frame [F, size].
        """
        x = frames
        for name, stride in self._layers:
            x = tf.nn.conv2d(x, weights[f"{name}_kernel"], stride, "SAME")
            bias = weights[f"{name}_bias"]
            if moments is None:
                x = tf.nn.bias_add(x, bias)
            else:
                x, *moments[name] = _normalised(x, weights[f"{name}_gain"], bias)
            x = tf.nn.relu(x)
        pooled = tf.concat([tf.reduce_mean(x, (1, 2)), tf.reduce_max(x, (1, 2))], -1)
        results = {}
        for name, readable in self.readables.items():
            kernel, bias = weights[f"{name}_kernel"], weights[f"{name}_bias"]
            if readable.kind == "classes" and not readable.places:
                results[name] = tf.linalg.matmul(pooled, kernel[0, 0]) + bias
                continue
            results[name] = tf.nn.bias_add(tf.nn.conv2d(x, kernel, 1, "SAME"), bias)
            if readable.kind == "points":
                results[name] = tf.nn.depth_to_space(results[name], _FINER)[..., 0]
        return results

    def losses(self, outputs: Tensors, readings: Tensors) -> Tensors:
        """Returns the mean cross-entropy of each readable, a float32 scalar by its name.

        Args:
          outputs: Those of `outputs`.
          readings: By name int64 [F, K] classes, negative where there is none to read, or float32
            [F, K, 2] points in pixels. Classes at points are in the points' order.
        """
        results = {}
        for name, readable in self.readables.items():
            given, output = readings[name], outputs[name]
            if readable.kind == "points":
                cells = output.shape[1] ** 2
                target = tf.reduce_mean(self._spread(given, output.shape[1]), 1)
                results[name] = tf.reduce_mean(
                    tf.nn.softmax_cross_entropy_with_logits(
                        tf.reshape(target, (-1, cells)), tf.reshape(output, (-1, cells))
                    )
                )
                continue
            scores = self._class_scores(readable, output, readings)
            known = tf.cast(given >= 0, tf.float32)
            values = tf.nn.sparse_softmax_cross_entropy_with_logits(tf.maximum(given, 0), scores)
            results[name] = tf.reduce_sum(known * values) / tf.maximum(tf.reduce_sum(known), 1)
        return results

    def answers(self, outputs: Tensors) -> Tensors:
        """Returns what was read, by name: int64 [F, K] classes, or float32 [F, K, 2] points."""
        results = {
            name: self._find(outputs[name], readable.count)
            for name, readable in self.readables.items()
            if readable.kind == "points"
        }
        for name, readable in self.readables.items():
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
        # In cells from the center of the first; what lies outside of all centers moves there.
        places = tf.clip_by_value(points * (cells / self.frame_shape[0]) - 0.5, 0.0, cells - 1.0)
        distance = tf.abs(places[..., None] - tf.range(cells, dtype=tf.float32))
        near = tf.nn.relu(1 - distance)  # [F, K, 2, G]
        return near[..., 0, :, None] * near[..., 1, None, :]

    def _find(self, logits: tf.Tensor, count: int) -> tf.Tensor:
        """Returns K points [F, K, 2] of a distribution over cells: where most of its mass lies."""
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
            # Its share of the mass is taken away: two points may lie in the same cells.
            mass = tf.nn.relu(mass - self._spread(found[-1][:, None], cells)[:, 0] / count)
        return tf.stack(found, 1)


def warped(frames: tf.Tensor, readings: Tensors, points: Sequence[str], strength, seed):
    """Returns frames that are turned, sheared and scaled at random, and readings that fit them.

    Args:
      frames: float32 [F, H, H, C].
      readings: By name; those named in `points` are places.
      points: The names of points.
      strength: How far a matrix may differ from the identity, in each of its four entries.
      seed: int [2].
    """
    count, size = frames.shape[0], frames.shape[1]
    shift = tf.random.stateless_uniform((count, 2, 2), seed, -strength, strength)
    matrix = tf.eye(2) + shift  # Of (row, column), about the frame's center.
    inverse = tf.linalg.inv(matrix)[:, ::-1, ::-1]  # Of (x, y): where each pixel comes from.
    center = tf.fill((2, 1), (size - 1) / 2)
    offset = center - tf.linalg.matmul(inverse, tf.broadcast_to(center, (count, 2, 1)))
    rows = tf.reshape(tf.concat([inverse, offset], -1), (count, 6))
    frames = tf.raw_ops.ImageProjectiveTransformV3(
        images=frames,
        transforms=tf.concat([rows, tf.zeros((count, 2))], -1),
        output_shape=(size, size),
        fill_value=0.0,
        interpolation="BILINEAR",
        fill_mode="NEAREST",
    )
    moved = {
        name: tf.einsum("fij,fkj->fki", matrix, readings[name] - size / 2) + size / 2
        for name in points
    }
    return frames, {**readings, **moved}


def _normalised(x: tf.Tensor, gain, bias) -> Sequence[tf.Tensor]:
    """Returns batch-normalised x, and the mean and the variance over the batch."""
    return tf.raw_ops.FusedBatchNormV3(
        x=x,
        scale=gain,
        offset=bias,
        mean=tf.zeros(0),
        variance=tf.zeros(0),
        epsilon=_BATCH_NORM_EPSILON,
        is_training=True,
    )[:3]
