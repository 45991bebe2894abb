"""Diagonal Gaussians over TensorFlow Probability."""

from typing import NamedTuple

import tensorflow as tf
import tensorflow_probability as tfp

tfd = tfp.distributions


class DiagGaussian(NamedTuple):
    """A Gaussian with independent dimensions, in float32; never mutated.

    Attributes:
      mean: [..., event].
      stddev: Broadcasts against `mean`.
      event_rank: How many trailing axes make one event; results have the shape of the others.
    """

    mean: tf.Tensor
    stddev: tf.Tensor
    event_rank: int = 1

    @property
    def _distribution(self) -> tfd.Distribution:
        return tfd.Independent(tfd.Normal(self.mean, self.stddev), self.event_rank)

    def sample(self, noise: tf.Tensor) -> tf.Tensor:
        """Returns the reparameterized sample that standard normal `noise` [..., event] gives.

        The noise comes from outside, so that a recurrence need not draw it step by step.
        """
        return self.mean + self.stddev * noise

    def log_prob(self, value: tf.Tensor) -> tf.Tensor:
        """Returns log p(value) in nats, the normalization constant included."""
        return self._distribution.log_prob(value)

    def kl(self, other: "DiagGaussian") -> tf.Tensor:
        """Returns KL(self || other) in nats."""
        return self._distribution.kl_divergence(other._distribution)

    def entropy(self) -> tf.Tensor:
        """Returns the differential entropy in nats."""
        return self._distribution.entropy()

    def stop_gradient(self) -> "DiagGaussian":
        """Returns the same Gaussian as a constant."""
        return self._replace(mean=tf.stop_gradient(self.mean), stddev=tf.stop_gradient(self.stddev))


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
