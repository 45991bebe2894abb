"""Recurrent layers: LSTM and GRU, a step at a time or over time.

Float32. What reads only the inputs is computed for all steps at once. Initial weights are
PyTorch's, U(-1 / sqrt(H), 1 / sqrt(H)), as in the published code of the models that use these
layers. Symbols: N steps, B batch, I inputs, H size.
"""

import math
from typing import NamedTuple

import keras
import tensorflow as tf

from cwvae.fast import recurrence


class LSTMState(NamedTuple):
    """Of an LSTM.

    Attributes:
      output: [..., H].
      cell: [..., H].
    """

    output: tf.Tensor
    cell: tf.Tensor


class GRUWeights(NamedTuple):
    """Of a GRU.

    Attributes:
      kernel: [I, 3 H].
      recurrent_kernel: [H, 3 H].
      bias: [2, 3 H], of inputs and of the state.
    """

    kernel: tf.Tensor
    recurrent_kernel: tf.Tensor
    bias: tf.Tensor


def gru(inputs: tf.Tensor, state: tf.Tensor, weights: GRUWeights) -> tf.Tensor:
    """Returns a GRU's next state [B, H] for inputs [B, I]; see `gru_gates`."""
    return gru_gates(tf.linalg.matmul(inputs, weights.kernel) + weights.bias[0], state, weights)


def gru_gates(projected: tf.Tensor, state: tf.Tensor, weights: GRUWeights) -> tf.Tensor:
    """Returns a GRU's next state [B, H]: its reset gate acts after the recurrent product.

    Args:
      projected: The inputs times the kernel plus their bias, [B, 3 H]: update, reset, candidate.
      state: [B, H].
      weights: Of which the recurrent ones are used.
    """
    h = tf.linalg.matmul(state, weights.recurrent_kernel) + weights.bias[1]
    x_update, x_reset, x_candidate = tf.split(projected, 3, -1)
    h_update, h_reset, h_candidate = tf.split(h, 3, -1)
    update, reset = tf.sigmoid(x_update + h_update), tf.sigmoid(x_reset + h_reset)
    candidate = tf.tanh(x_candidate + reset * h_candidate)
    return candidate + update * (state - candidate)


class LSTM(keras.layers.Layer):
    """Long short-term memory, with one bias; gates in the order input, forget, cell, output."""

    def __init__(self, input_size: int, size: int, *, name: str):
        super().__init__(name=name, dtype="float32")
        self.size = size
        self.kernel, self.recurrent_kernel, self.bias = _weights(
            self, input_size, size, gates=4, bias_shape=(4 * size,)
        )
        self.built = True

    def zero_state(self, batch: int) -> LSTMState:
        """Returns the state [B, H] before anything was seen."""
        return LSTMState(tf.zeros((batch, self.size)), tf.zeros((batch, self.size)))

    def step(self, x: tf.Tensor, state: LSTMState) -> LSTMState:
        """Returns the next state for inputs [B, I]."""
        projected = tf.linalg.matmul(x, self.kernel) + self.bias
        return _lstm_gates(tf.convert_to_tensor(self.recurrent_kernel), state, [projected])

    def run(self, x: tf.Tensor, state: LSTMState) -> tuple[tf.Tensor, LSTMState]:
        """Returns the outputs [N, B, H] for inputs [N, B, I], N from 1, and the last state."""
        projected = _rows(x, self.kernel) + self.bias
        weights = tf.convert_to_tensor(self.recurrent_kernel)
        outputs, cells = recurrence.run(_lstm_gates, weights, state, [projected])
        return outputs, LSTMState(outputs[-1], cells[-1])


class GRU(keras.layers.Layer):
    """Gated recurrent unit, with a bias for inputs and one for the state."""

    def __init__(self, input_size: int, size: int, *, name: str):
        super().__init__(name=name, dtype="float32")
        self.size = size
        self.kernel, self.recurrent_kernel, self.bias = _weights(
            self, input_size, size, gates=3, bias_shape=(2, 3 * size)
        )
        self.built = True

    def tick_weights(self) -> GRUWeights:
        """Returns the weights as `step` and a recurrence's tick take them."""
        parts = self.kernel, self.recurrent_kernel, self.bias
        return GRUWeights(*map(tf.convert_to_tensor, parts))

    def step(self, x: tf.Tensor, state: tf.Tensor, weights: GRUWeights | None = None) -> tf.Tensor:
        """Returns the next state [B, H] for inputs [B, I]."""
        return gru(x, state, weights or self.tick_weights())

    def run(
        self,
        x: tf.Tensor,
        state: tf.Tensor,
        keep: tf.Tensor | None = None,
        reverse: bool = False,
    ) -> tf.Tensor:
        """Runs over time.

        Args:
          x: Inputs, [N, B, I], N from 1.
          state: Before the first step that is taken, [B, H].
          keep: By which the state is multiplied before each step, [N, B, 1]; None: by 1.
          reverse: Takes the last step first.

        Returns:
          The state after each step, [N, B, H], in the order of the inputs.
        """
        weights = self.tick_weights()
        inputs = [_rows(x, weights.kernel) + weights.bias[0]]
        if keep is not None:
            inputs.append(keep)
        if reverse:
            inputs = [part[::-1] for part in inputs]

        def tick(weights, state, now):
            before = state[0] if keep is None else state[0] * now[1]
            return (gru_gates(now[0], before, weights),)

        (states,) = recurrence.run(tick, weights, (state,), inputs)
        return states[::-1] if reverse else states


def _lstm_gates(recurrent_kernel: tf.Tensor, state: LSTMState, inputs) -> LSTMState:
    gates = inputs[0] + tf.linalg.matmul(state.output, recurrent_kernel)
    enter, forget, candidate, leave = tf.split(gates, 4, -1)
    cell = tf.sigmoid(forget) * state.cell + tf.sigmoid(enter) * tf.tanh(candidate)
    return LSTMState(tf.sigmoid(leave) * tf.tanh(cell), cell)


def _weights(layer, input_size: int, size: int, *, gates: int, bias_shape: tuple) -> tuple:
    limit = 1 / math.sqrt(size)
    shapes = {
        "kernel": (input_size, gates * size),
        "recurrent_kernel": (size, gates * size),
        "bias": bias_shape,
    }
    return tuple(
        layer.add_weight(shape, keras.initializers.RandomUniform(-limit, limit), name=name)
        for name, shape in shapes.items()
    )


def _rows(x: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    """Returns x [N, B, I] times a kernel [I, O], as one product."""
    product = tf.linalg.matmul(tf.reshape(x, (-1, x.shape[-1])), kernel)
    return tf.reshape(product, (*x.shape[:-1], kernel.shape[-1]))
