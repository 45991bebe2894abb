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
