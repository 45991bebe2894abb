"""Adam (Kingma & Ba 2015), behind a guard; and its variant AMSGrad (Reddi et al. 2018)."""

from collections.abc import Sequence

import tensorflow as tf

_BETA_1, _BETA_2 = 0.9, 0.999


class Adam:
    """Adam that leaves out updates which are not finite, and counts them.

    Each device updates its own copies of the variables: devices that are given the same gradients
    stay the same, without a word between them.

    Attributes:
      state: All variables that belong to training and not to the model, by name.
      skipped: Updates left out so far.
      skipped_in_a_row: Those since the last one that was applied.
    """

    def __init__(
        self, weights: Sequence, learning_rate: float, epsilon: float, amsgrad: bool = False
    ):
        """Makes the variables.

        Args:
          weights: Keras variables to train.
          learning_rate: The step size.
          epsilon: Added to the root of the second moment.
          amsgrad: Divide by the root of the largest second moment there has been, instead of the
            last.
        """
        self._weights, self._learning_rate, self._epsilon = list(weights), learning_rate, epsilon
        self._iterations, self.skipped, self.skipped_in_a_row = (
            tf.Variable(0, dtype=tf.int64, trainable=False, name=name)
            for name in ("iterations", "skipped", "skipped_in_a_row")
        )
        self._moments = [
            [tf.Variable(tf.zeros(weight.shape), trainable=False) for weight in self._weights]
            for _ in range(3 if amsgrad else 2)
        ]
        self.state = {
            "iterations": self._iterations,
            "skipped": self.skipped,
            "skipped_in_a_row": self.skipped_in_a_row,
        }
        names = ("momentum", "velocity", "largest_velocity")
        for name, variables in zip(names, self._moments, strict=False):
            for weight, variable in zip(self._weights, variables, strict=True):
                self.state[f"{name}/{weight.path}"] = variable

    def apply(self, gradients: Sequence[tf.Tensor], finite: tf.Tensor) -> None:
        """Updates the weights if `finite`, or else counts an update that was left out."""
        tf.cond(finite, lambda: self._update(gradients), self._skip)

    def _update(self, gradients: Sequence[tf.Tensor]) -> None:
        _add(self._iterations, 1)
        number = tf.cast(self._iterations.read_value(), tf.float32)
        for weight, *moments, gradient in zip(
            self._weights, *self._moments, gradients, strict=True
        ):
            # One fused operation; the one for AMSGrad XLA lacks on some devices.
            update = _adam if len(moments) == 2 else _amsgrad
            update(weight.value, *moments, gradient, number, self._learning_rate, self._epsilon)
        _set(self.skipped_in_a_row, 0)

    def _skip(self) -> None:
        _add(self.skipped, 1)
        _add(self.skipped_in_a_row, 1)


def _adam(weight, m, v, gradient, number, learning_rate, epsilon) -> None:
    tf.raw_ops.ResourceApplyAdam(
        var=weight.handle,
        m=m.handle,
        v=v.handle,
        beta1_power=_BETA_1**number,
        beta2_power=_BETA_2**number,
        lr=learning_rate,
        beta1=_BETA_1,
        beta2=_BETA_2,
        epsilon=epsilon,
        grad=gradient,
    )


def _amsgrad(weight, m, v, largest, gradient, number, learning_rate, epsilon) -> None:
    new_m = m.read_value() + (1 - _BETA_1) * (gradient - m.read_value())
    new_v = v.read_value() + (1 - _BETA_2) * (tf.square(gradient) - v.read_value())
    new_largest = tf.maximum(largest.read_value(), new_v)
    rate = learning_rate * tf.sqrt(1 - _BETA_2**number) / (1 - _BETA_1**number)
    change = rate * new_m / (tf.sqrt(new_largest) + epsilon)
    for variable, value in (
        (m, new_m),
        (v, new_v),
        (largest, new_largest),
        (weight, weight.read_value() - change),
    ):
        tf.raw_ops.AssignVariableOp(resource=variable.handle, value=value)


# Of a device's own copy: a distributed variable's methods would bring all devices together, which
# cannot be done within a condition.


def _add(counter: tf.Variable, number: int) -> None:
    tf.raw_ops.AssignAddVariableOp(resource=counter.handle, value=tf.constant(number, tf.int64))


def _set(counter: tf.Variable, number: int) -> None:
    tf.raw_ops.AssignVariableOp(resource=counter.handle, value=tf.constant(number, tf.int64))
