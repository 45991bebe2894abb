"""Recurrent layers: LSTM and GRU over time, and a linear layer. Everything is float32.

The initial weights of LSTM and GRU are PyTorch's, as in the published code of the models that use
them. Symbols: N steps, B batch, I input size, H state size.
"""

import math

import keras
import tensorflow as tf


class LSTM(keras.layers.LSTMCell):
    """Long short-term memory with one bias. A state is the output and the cell, each [B, H]."""

    def __init__(self, input_size: int, size: int, *, name: str):
        """Builds all weights for inputs of length I and a state of length H."""
        super().__init__(size, unit_forget_bias=False, **_options(size), name=name)
        self.build((None, input_size))

    def run(self, x: tf.Tensor, state: tuple) -> tuple[tf.Tensor, tuple]:
        """Returns the outputs [N, B, H] for inputs [N, B, I], N >= 1, and the last state."""
        outputs, cells = tf.scan(lambda state, now: tuple(self(now, state)[1]), x, state)
        return outputs, (outputs[-1], cells[-1])


class GRU(keras.layers.GRUCell):
    """Gated recurrent unit with separate biases for the inputs and the state."""

    def __init__(self, input_size: int, size: int, *, name: str):
        """Builds all weights for inputs of length I and a state of length H."""
        super().__init__(size, **_options(size), name=name)
        self.build((None, input_size))

    def step(self, x: tf.Tensor, state: tf.Tensor) -> tf.Tensor:
        """Returns the next state [B, H] for inputs [B, I]."""
        return self(x, [state])[0]

    def run(
        self, x: tf.Tensor, state: tf.Tensor, keep: tf.Tensor | None = None, reverse: bool = False
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
        keep = tf.ones((*x.shape[:2], 1)) if keep is None else keep

        def tick(state, now):
            inputs, kept = now
            return self.step(inputs, state * kept)

        return tf.scan(tick, (x, keep), state, reverse=reverse)


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


def _options(size: int) -> dict:
    names = ("kernel_initializer", "recurrent_initializer", "bias_initializer")
    return {"dtype": "float32"} | {name: uniform(size) for name in names}


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
