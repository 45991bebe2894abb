"""What samples of latents are made of: a function of the seed, whatever the batch is split into."""

from typing import NamedTuple

import tensorflow as tf


class Noise(NamedTuple):
    """Noise by seed and number: each kind of latent takes a number of its own.

    Attributes:
      seed: int [2].
      first: The clips at hand are rows `first`, `first` + 1, ... of a batch ...
      total: ... of this many clips, whose noise is drawn whole: a batch in parts has the latents
        that it has in one piece. None: they are the batch.
    """

    seed: tf.Tensor
    first: tf.Tensor | int = 0
    total: int | None = None

    def normal(self, number: int, nodes: int, batch: int, size: int) -> tf.Tensor:
        """Returns standard normal noise [N, B, S]."""
        return self._rows(tf.random.stateless_normal, number, nodes, batch, size)

    def uniform(self, number: int, nodes: int, batch: int, size: int) -> tf.Tensor:
        """Returns noise [N, B, S], uniform between 0 and 1, of which it is neither."""

        def draw(shape, seed):
            # The largest float32 below 1 is 1 - 2^-24: TensorFlow draws from a grid of 2^-23.
            return tf.random.stateless_uniform(shape, seed) + 2.0**-24

        return self._rows(draw, number, nodes, batch, size)

    def _rows(self, draw, number, nodes, batch, size) -> tf.Tensor:
        total = self.total or batch
        noise = draw((nodes, total, size), tf.random.fold_in(self.seed, number))
        if total == batch:
            return noise
        return tf.slice(noise, [0, self.first, 0], [nodes, batch, size])
