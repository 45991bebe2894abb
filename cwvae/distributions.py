"""Diagonal Gaussians, built on TensorFlow Probability, and the noise that samples them."""

from typing import NamedTuple

import tensorflow as tf
import tensorflow_probability as tfp

tfd = tfp.distributions


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
    """Noise that depends only on a seed and the row of a clip in its batch.

    Attributes:
      seed: int [2].
      first: Row of the first clip in the whole batch.
      total: Clips of the whole batch, whose noise is drawn at once, so that a batch in parts has
        the latents that it has in one piece. None: the clips at hand are the whole batch.
    """

    seed: tf.Tensor
    first: tf.Tensor | int = 0
    total: int | None = None

    def normal(self, number: int, nodes: int, batch: int, size: int) -> tf.Tensor:
        """Returns standard normal noise [N, B, S]; each kind of latent has its own `number`."""
        return self._rows(tf.random.stateless_normal, number, nodes, batch, size)

    def uniform(self, number: int, nodes: int, batch: int, size: int) -> tf.Tensor:
        """Returns noise [N, B, S], uniform on the open interval (0, 1)."""

        def draw(shape, seed):
            # TensorFlow draws from [0, 1) on a grid of 2^-23: half a step excludes 0 and 1.
            return tf.random.stateless_uniform(shape, seed) + 2.0**-24

        return self._rows(draw, number, nodes, batch, size)

    def _rows(self, draw, number, nodes, batch, size) -> tf.Tensor:
        total = self.total or batch
        noise = draw((nodes, total, size), tf.random.fold_in(self.seed, number))
        if total == batch:
            return noise
        return tf.slice(noise, [0, self.first, 0], [nodes, batch, size])
