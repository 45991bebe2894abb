"""Layers for sequences: LSTM, GRU, linear; and the plain loop that runs a recurrence over time.

Everything is float32. A layer multiplies the inputs of all steps by its kernel at once; only the
state goes through the loop. The initial weights of LSTM and GRU are PyTorch's, as in the published
code of the models that use them. Symbols: N steps, B batch, I input size, H state size.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import tensorflow as tf


def over_time(
    tick: Callable[[Any, tuple, Any], tuple],
    weights: Any,
    state: tuple,
    inputs: Any,
) -> tuple[tf.Tensor, ...]:
    """Runs a tick over time.

    Args:
      tick: Function of (weights, previous state, inputs of the tick). It returns outputs [B, ...],
        the first of which are the parts of the next state.
      weights: Nest of tensors that `tick` reads.
      state: Tuple or named tuple of tensors [B, ...], the state before the first tick.
      inputs: Nest of tensors [N, B, ...], N >= 1.

    Returns:
      The outputs of all ticks, each [N, B, ...].
    """

    def step(before, now):
        return tuple(tick(weights, tf.nest.pack_sequence_as(state, before[: len(state)]), now))

    first = tf.nest.map_structure(lambda part: part[0], inputs)
    others = tick(weights, state, first)[len(state) :]
    return tf.scan(step, inputs, (*state, *map(tf.zeros_like, others)))


class LSTMState(NamedTuple):
    """The state of an LSTM.

    Attributes:
      output: [..., H].
      cell: [..., H].
    """

    output: tf.Tensor
    cell: tf.Tensor


class GRUWeights(NamedTuple):
    """The weights of a GRU.

    Attributes:
      kernel: [I, 3 H].
      recurrent_kernel: [H, 3 H].
      bias: Biases of the inputs and of the state, [2, 3 H].
    """

    kernel: tf.Tensor
    recurrent_kernel: tf.Tensor
    bias: tf.Tensor


def gru(inputs: tf.Tensor, state: tf.Tensor, weights: GRUWeights) -> tf.Tensor:
    """Returns a GRU's next state [B, H] for inputs [B, I]; see `gru_gates`."""
    return gru_gates(tf.linalg.matmul(inputs, weights.kernel) + weights.bias[0], state, weights)


def gru_gates(projected: tf.Tensor, state: tf.Tensor, weights: GRUWeights) -> tf.Tensor:
    """Returns a GRU's next state [B, H]. The reset gate acts after the recurrent product.

    Args:
      projected: Inputs times the kernel plus the inputs' bias, [B, 3 H]: update, reset, candidate.
      state: Previous state, [B, H].
      weights: Weights; the kernel is not read.
    """
    h = tf.linalg.matmul(state, weights.recurrent_kernel) + weights.bias[1]
    x_update, x_reset, x_candidate = tf.split(projected, 3, -1)
    h_update, h_reset, h_candidate = tf.split(h, 3, -1)
    update, reset = tf.sigmoid(x_update + h_update), tf.sigmoid(x_reset + h_reset)
    candidate = tf.tanh(x_candidate + reset * h_candidate)
    return candidate + update * (state - candidate)


def lstm_gates(recurrent_kernel: tf.Tensor, state: LSTMState, inputs) -> LSTMState:
    """Returns an LSTM's next state. `inputs[0]` is the inputs times the kernel plus the bias."""
    gates = inputs[0] + tf.linalg.matmul(state.output, recurrent_kernel)
    enter, forget, candidate, leave = tf.split(gates, 4, -1)
    cell = tf.sigmoid(forget) * state.cell + tf.sigmoid(enter) * tf.tanh(candidate)
    return LSTMState(tf.sigmoid(leave) * tf.tanh(cell), cell)


class _Recurrent(keras.layers.Layer):
    """The weights of a recurrent layer, with the names and shapes of Keras' cells."""

    gates: int
    biases: int

    def __init__(self, input_size: int, size: int, *, name: str):
        """Builds all weights.

        Args:
          input_size: I.
          size: H.
          name: Keras name.
        """
        super().__init__(name=name, dtype="float32")
        self.size = size
        columns = self.gates * size
        self.kernel, self.recurrent_kernel, self.bias = (
            self.add_weight(shape, uniform(size), name=weight)
            for weight, shape in (
                ("kernel", (input_size, columns)),
                ("recurrent_kernel", (size, columns)),
                ("bias", (self.biases, columns) if self.biases > 1 else (columns,)),
            )
        )
        self.built = True


class LSTM(_Recurrent):
    """Long short-term memory with one bias. Gates are in the order input, forget, cell, output."""

    gates, biases = 4, 1

    def zero_state(self, batch: int) -> LSTMState:
        """Returns the initial state, zeros [B, H]."""
        return LSTMState(tf.zeros((batch, self.size)), tf.zeros((batch, self.size)))

    def step(self, x: tf.Tensor, state: LSTMState) -> tuple[tf.Tensor, LSTMState]:
        """Returns the output [B, H] for inputs [B, I], and the next state."""
        projected = tf.linalg.matmul(x, self.kernel) + self.bias
        state = lstm_gates(tf.convert_to_tensor(self.recurrent_kernel), state, [projected])
        return state.output, state

    def run(self, x: tf.Tensor, state: LSTMState) -> tuple[tf.Tensor, LSTMState]:
        """Returns the outputs [N, B, H] for inputs [N, B, I], N >= 1, and the last state."""
        projected = as_rows(x, self.kernel) + self.bias
        weights = tf.convert_to_tensor(self.recurrent_kernel)
        outputs, cells = over_time(lstm_gates, weights, state, [projected])
        return outputs, LSTMState(outputs[-1], cells[-1])


class GRU(_Recurrent):
    """Gated recurrent unit with separate biases for the inputs and the state."""

    gates, biases = 3, 2

    def tick_weights(self) -> GRUWeights:
        """Returns the weights as `gru` and the tick of a recurrence take them."""
        parts = self.kernel, self.recurrent_kernel, self.bias
        return GRUWeights(*map(tf.convert_to_tensor, parts))

    def run(
        self,
        x: tf.Tensor,
        state: tf.Tensor,
        keep: tf.Tensor | None = None,
        reverse: bool = False,
    ) -> tf.Tensor:
        """Runs over time.

        Args:
          x: Inputs, [N, B, I], N >= 1.
          state: Initial state, [B, H].
          keep: Factors that multiply the state before each step, [N, B, 1]; None for 1.
          reverse: Whether to start with the last step.

        Returns:
          The state after each step, [N, B, H], in the order of the inputs.
        """
        weights = self.tick_weights()
        inputs = [as_rows(x, weights.kernel) + weights.bias[0]]
        if keep is not None:
            inputs.append(keep)
        if reverse:
            inputs = [part[::-1] for part in inputs]

        def tick(weights, state, now):
            before = state[0] if keep is None else state[0] * now[1]
            return (gru_gates(now[0], before, weights),)

        (states,) = over_time(tick, weights, (state,), inputs)
        return states[::-1] if reverse else states


class Linear(keras.layers.Layer):
    """A linear layer that reads the concatenation of its inputs."""

    def __init__(self, input_size: int, size: int, initializer=None, *, name: str):
        """Builds all weights.

        Args:
          input_size: Total length of the inputs.
          size: Length of the outputs.
          initializer: Keras initializer of the kernel; None for PyTorch's. The bias starts at zero.
          name: Keras name.
        """
        super().__init__(name=name, dtype="float32")
        kernel = uniform(input_size) if initializer is None else initializer
        self.kernel = self.add_weight((input_size, size), kernel, name="kernel")
        self.bias = self.add_weight((size,), "zeros", name="bias")
        self.built = True

    def of(self, *parts: tf.Tensor) -> tf.Tensor:
        """Returns outputs [..., size] for parts [..., I_i]."""
        return as_rows(tf.concat(parts, -1), self.kernel) + self.bias


def uniform(fan_in: int) -> keras.initializers.Initializer:
    """Returns PyTorch's default initializer, U(-1 / sqrt(fan in), 1 / sqrt(fan in))."""
    limit = 1 / math.sqrt(fan_in)
    return keras.initializers.RandomUniform(-limit, limit)


def as_rows(x: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    """Returns x [..., I] times a kernel [I, O], [..., O].

    It is one product of two matrices: with more axes the gradient would be many small products.
    """
    product = tf.linalg.matmul(tf.reshape(x, (-1, x.shape[-1])), kernel)
    return tf.reshape(product, (*x.shape[:-1], kernel.shape[-1]))


def swap(x: tf.Tensor) -> tf.Tensor:
    """Swaps the first two axes, batch and time."""
    return tf.transpose(x, (1, 0, *range(2, x.shape.rank)))
