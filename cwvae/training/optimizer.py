"""Adam (Kingma & Ba 2015) and AMSGrad (Reddi et al. 2018), without updates that are not finite."""

from collections.abc import Sequence

import tensorflow as tf

_BETA_1, _BETA_2 = 0.9, 0.999


class Adam:
    """Adam that skips updates which are not finite, and counts them.

    Each device updates its own copies of the variables. Given the same gradients, the copies stay
    equal without communicating.

    Attributes:
      state: All variables of training that do not belong to the model, by name.
      skipped: Number of updates skipped.
      skipped_in_a_row: Number of updates skipped since the last one that was applied.
    """

    def __init__(
        self, weights: Sequence, learning_rate: float, epsilon: float, amsgrad: bool = False
    ):
        """Makes the variables.

        Args:
          weights: Keras variables to train.
          learning_rate: The step size.
          epsilon: Term added to the root of the second moment.
          amsgrad: Whether to use AMSGrad.
        """
        self._weights, self._learning_rate, self._epsilon = list(weights), learning_rate, epsilon
        counters = ("iterations", "skipped", "skipped_in_a_row")
        self.state = {
            name: tf.Variable(0, dtype=tf.int64, trainable=False, name=name) for name in counters
        }
        self._iterations, self.skipped, self.skipped_in_a_row = self.state.values()
        self._moments = [
            [tf.Variable(tf.zeros(weight.shape), trainable=False) for weight in self._weights]
            for _ in range(3 if amsgrad else 2)
        ]
        names = ("momentum", "velocity", "largest_velocity")
        for name, variables in zip(names, self._moments, strict=False):
            for weight, variable in zip(self._weights, variables, strict=True):
                self.state[f"{name}/{weight.path}"] = variable

    def apply(
        self, gradients: Sequence[tf.Tensor], finite: tf.Tensor, factor: float | tf.Tensor = 1.0
    ) -> None:
        """Updates the weights if `finite`; otherwise counts a skipped update.

        Args:
          gradients: One per weight.
          finite: Whether all of them are finite, a bool.
          factor: Factor for the learning rate, float32.
        """
        rate = self._learning_rate * factor
        tf.cond(finite, lambda: self._update(gradients, rate), self._skip)

    def _update(self, gradients: Sequence[tf.Tensor], rate: float | tf.Tensor) -> None:
        _add(self._iterations, 1)
        number = tf.cast(self._iterations.read_value(), tf.float32)
        for weight, *moments, gradient in zip(
            self._weights, *self._moments, gradients, strict=True
        ):
            # XLA lacks the fused operation for AMSGrad on some devices.
            update = _adam if len(moments) == 2 else _amsgrad
            update(weight.value, *moments, gradient, number, rate, self._epsilon)
        _set(self.skipped_in_a_row, 0)

    def _skip(self) -> None:
        _add(self.skipped, 1)
        _add(self.skipped_in_a_row, 1)


def _adam(weight, m, v, gradient, number, learning_rate, epsilon) -> None:
    # One fused operation, which computes:
    #     m = beta_1 * m + (1 - beta_1) * gradient
    #     v = beta_2 * v + (1 - beta_2) * gradient ** 2
    #     m_hat = m / (1 - beta_1 ** number)
    #     rate = learning_rate * sqrt(1 - beta_2 ** number)
    #     weight = weight - rate * m_hat / (sqrt(v) + epsilon)
    # number counts updates from 1. Kingma & Ba add epsilon to sqrt(v / (1 - beta_2 ** number)).
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


# These change a device's own copy. The methods of a distributed variable would synchronize all
# devices, which is not possible within a condition.


def _add(counter: tf.Variable, number: int) -> None:
    tf.raw_ops.AssignAddVariableOp(resource=counter.handle, value=tf.constant(number, tf.int64))


def _set(counter: tf.Variable, number: int) -> None:
    tf.raw_ops.AssignVariableOp(resource=counter.handle, value=tf.constant(number, tf.int64))
