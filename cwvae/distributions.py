"""Diagonal Gaussians, built on TensorFlow Probability, and the noise that samples them."""

import math
from typing import NamedTuple

import tensorflow as tf
import tensorflow_probability as tfp

tfd = tfp.distributions

# Steps and rows of the blocks in which noise is drawn.
_STEPS, _ROWS = 64, 16


class DiagGaussian(NamedTuple):
    """A Gaussian with independent dimensions, in float32.

    Attributes:
      mean: [..., event].
      stddev: Broadcasts against `mean`.
    """

    mean: tf.Tensor
    stddev: tf.Tensor

    def _distribution(self, event_rank: int = 1) -> tfd.Distribution:
        return tfd.Independent(tfd.Normal(self.mean, self.stddev), event_rank)

    def sample(self, noise: tf.Tensor) -> tf.Tensor:
        """Returns the reparameterized sample for standard normal `noise` [..., event].

        The noise is an argument so that a recurrence need not draw it step by step.
        """
        return self.mean + self.stddev * noise

    def log_prob(self, value: tf.Tensor, event_rank: int = 1) -> tf.Tensor:
        """Returns log p(value) in nats, summed over the last `event_rank` axes."""
        return self._distribution(event_rank).log_prob(value)

    def kl(self, other: "DiagGaussian") -> tf.Tensor:
        """Returns KL(self || other) in nats, [...]."""
        return self._distribution().kl_divergence(other._distribution())

    def entropy(self) -> tf.Tensor:
        """Returns the differential entropy in nats, [...]."""
        return self._distribution().entropy()

    def stop_gradient(self) -> "DiagGaussian":
        """Returns the same Gaussian as a constant."""
        return DiagGaussian(tf.stop_gradient(self.mean), tf.stop_gradient(self.stddev))


class Noise(NamedTuple):
    """Noise that is a function of a seed, a clip's row in its batch, a kind of latent, and a step.

    It does not depend on how many rows and steps are drawn. So a batch in parts has the latents
    that it has in one piece, and a longer prediction begins like a shorter one.

    Attributes:
      seed: int [2].
      row: Row of the first clip, int [].
    """

    seed: tf.Tensor
    row: tf.Tensor | int = 0

    def fold_in(self, number: tf.Tensor | int) -> "Noise":
        """Returns other noise for each number."""
        return Noise(_fold_in(self.seed, number), self.row)

    def normal(self, number: int, steps: int, batch: int, size: int) -> tf.Tensor:
        """Returns standard normal noise [N, B, S]; each kind of latent has its own `number`."""
        return self._blocks(tf.random.stateless_normal, number, steps, batch, size)

    def uniform(self, number: int, steps: int, batch: int, size: int) -> tf.Tensor:
        """Returns noise [N, B, S], uniform on the open interval (0, 1)."""

        def draw(shape, seed):
            # TensorFlow draws from [0, 1) on a grid of 2^-23: half a step excludes 0 and 1.
            return tf.random.stateless_uniform(shape, seed) + 2.0**-24

        return self._blocks(draw, number, steps, batch, size)

    def _blocks(self, draw, number, steps, batch, size) -> tf.Tensor:
        """Draws whole blocks of 64 steps and 16 rows, each with its own seed, and cuts."""
        seed, row = _fold_in(self.seed, number), tf.cast(self.row, tf.int64)
        place = tf.get_static_value(row % _ROWS)  # None: known only when the graph runs.
        columns = math.ceil(((_ROWS - 1 if place is None else place) + batch) / _ROWS)

        def stretch(block: int) -> tf.Tensor:
            seeds = [_fold_in(_fold_in(seed, block), row // _ROWS + i) for i in range(columns)]
            return tf.concat([draw((_STEPS, _ROWS, size), seed) for seed in seeds], 1)

        noise = tf.concat([stretch(block) for block in range(math.ceil(steps / _STEPS))], 0)
        return tf.slice(noise, [0, row % _ROWS, 0], [steps, batch, size])


def _fold_in(seed: tf.Tensor, number: tf.Tensor | int) -> tf.Tensor:
    """Returns a seed for each number, with 64 bits of the first one."""
    return tf.random.fold_in(seed, tf.cast(number, tf.int64))
