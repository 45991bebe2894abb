"""An exponential moving average of a model's weights (`training.ema`)."""

import contextlib
from collections.abc import Iterator, Sequence

import tensorflow as tf


class WeightAverage:
    """The average of a model's weights over its updates, the latest with the highest weight.

    After t updates with decay b, the average of a weight w is that of Kingma & Ba (2015), Section
    7.2, with the correction of the bias towards its start:

        average = (1 - b) * sum of b ** (t - i) * w_i over i = 1, ..., t, divided by (1 - b ** t)

    Weights that hold moving statistics of batch normalization are averaged, too, so that they match
    the averaged weights of their layers. Each device updates its own copies, as in
    `cwvae.training.optimizer`.

    Attributes:
      state: All variables by name: `updates`, which counts t, and one per weight.
    """

    def __init__(self, weights: Sequence, decay: float):
        """Makes the variables, which start from the weights.

        Args:
          weights: Keras variables.
          decay: The decay b, above 0 and below 1.
        """
        self._weights, self._decay = list(weights), decay
        self._updates = tf.Variable(0, dtype=tf.int64, trainable=False)
        self._averages = [
            tf.Variable(weight.numpy(), dtype=tf.float32, trainable=False)
            for weight in self._weights
        ]
        paths = [weight.path for weight in self._weights]
        self.state = {"updates": self._updates, **dict(zip(paths, self._averages, strict=True))}

    def update(self, finite: tf.Tensor) -> None:
        """Takes in the weights after an update; does nothing unless it was `finite`."""
        tf.cond(finite, self._update, lambda: None)

    def _update(self) -> None:
        number = self._updates.read_value() + 1
        tf.raw_ops.AssignVariableOp(resource=self._updates.handle, value=number)
        # float64: with a decay close to 1, both differences are close to 0.
        decay = tf.constant(self._decay, tf.float64)
        share = tf.cast((1 - decay) / (1 - decay ** tf.cast(number, tf.float64)), tf.float32)
        for weight, average in zip(self._weights, self._averages, strict=True):
            before = average.read_value()
            moved = before + share * (weight.value.read_value() - before)
            tf.raw_ops.AssignVariableOp(resource=average.handle, value=moved)

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Gives the model the averaged weights within a `with` block."""
        own = [weight.numpy() for weight in self._weights]
        try:
            for weight, average in zip(self._weights, self._averages, strict=True):
                weight.assign(average.numpy())
            yield
        finally:
            for weight, value in zip(self._weights, own, strict=True):
                weight.assign(value)
