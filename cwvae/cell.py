"""One tick of one level: the recurrent state-space model's cell (Hafner et al. 2019), Figure 3.

Nothing here knows about time, levels or clocks: `cwvae.clockwork` unrolls cells. Symbols:
B batch, S stochastic size, D deterministic size, E hidden size.
"""

from typing import NamedTuple

import keras
import tensorflow as tf

from cwvae.distributions import DiagGaussian

# The original adds this to the hidden features that feed a standard deviation's layer.
_STDDEV_SHIFT = 0.54


class State(NamedTuple):
    """A level's state s = (z, h).

    Attributes:
      stochastic: z, [..., S].
      deterministic: h, [..., D].
    """

    stochastic: tf.Tensor
    deterministic: tf.Tensor

    def features(self) -> tf.Tensor:
        """Returns [z, h], [..., S + D]: what the level below, or the decoder, reads."""
        return tf.concat([self.stochastic, self.deterministic], -1)


class RecurrentKernels(NamedTuple):
    """The rows of the layers with split inputs that belong to the recurrence.

    Attributes:
      stochastic: Of the transition's input layer, for z, [S, E].
      deterministic: Of the posterior's first layer, for h, [D, E].
    """

    stochastic: tf.Tensor
    deterministic: tf.Tensor


class RSSMCell(keras.layers.Layer):
    """The transition of one level and its two beliefs.

        h = GRU(relu(W [z_prev, context]), h_prev)     deterministic transition
        p(z) = N(f(h))                                 prior
        q(z) = N(g([h, embedding]))                    posterior

    What needs no recurrence, the context's and the embedding's share of their layers, is apart
    (`context_input`, `embedding_input`), so that it can be computed for all ticks at once. It
    computes in float32, as do all states and beliefs.
    """

    def __init__(
        self,
        *,
        stochastic_size: int,
        deterministic_size: int,
        hidden_size: int,
        embedding_size: int,
        context_size: int,
        min_stddev: float,
        name: str,
    ):
        """Builds all weights.

        Args:
          stochastic_size: S, length of z.
          deterministic_size: D, length of h.
          hidden_size: E, width of every hidden layer.
          embedding_size: Length of the embeddings that the posterior reads.
          context_size: Length of the features of the level above.
          min_stddev: Added to every standard deviation.
          name: The Keras name.
        """
        super().__init__(name=name, dtype="float32")
        self.stochastic_size = stochastic_size
        self.deterministic_size = deterministic_size
        self.context_size = context_size
        self.min_stddev = min_stddev
        hidden, deter = hidden_size, deterministic_size
        self.prior_input = self._affine("prior_input", stochastic_size + context_size, hidden)
        self.gru_kernel = self.add_weight((hidden, 3 * deter), "glorot_uniform", name="gru_kernel")
        self.gru_recurrent_kernel = self.add_weight(
            (deter, 3 * deter), "orthogonal", name="gru_recurrent_kernel"
        )
        self.gru_bias = self.add_weight((2, 3 * deter), "zeros", name="gru_bias")
        self.prior_hidden = self._affine("prior_hidden", deter, hidden)
        self.prior_heads = self._heads("prior", hidden, stochastic_size)
        self.posterior_hidden1 = self._affine("posterior_hidden1", deter + embedding_size, hidden)
        self.posterior_hidden2 = self._affine("posterior_hidden2", hidden, hidden)
        self.posterior_heads = self._heads("posterior", hidden, stochastic_size)
        self.built = True

    def _affine(self, name: str, inputs: int, outputs: int) -> tuple:
        kernel = self.add_weight((inputs, outputs), "glorot_uniform", name=f"{name}_kernel")
        return kernel, self.add_weight((outputs,), "zeros", name=f"{name}_bias")

    def _heads(self, name: str, inputs: int, outputs: int) -> tuple:
        mean = self._affine(f"{name}_mean", inputs, outputs)
        return mean, self._affine(f"{name}_stddev", inputs, outputs)

    def initial_state(self, batch: int) -> State:
        """Returns the zero state of a `batch`."""
        return State(
            tf.zeros((batch, self.stochastic_size)), tf.zeros((batch, self.deterministic_size))
        )

    def recurrent_kernels(self) -> RecurrentKernels:
        """Returns what `transition` and `posterior` take, sliced once for all ticks.

        A slice within the recurrence would cost its gradient the whole kernel at every tick.
        """
        return RecurrentKernels(
            self.prior_input[0][: self.stochastic_size],
            self.posterior_hidden1[0][: self.deterministic_size],
        )

    def context_input(self, context: tf.Tensor) -> tf.Tensor:
        """Returns the context's share of the transition's input layer.

        Args:
          context: Features of the level above, [..., context_size].

        Returns:
          [..., E].
        """
        kernel, bias = self.prior_input
        return tf.linalg.matmul(context, kernel[self.stochastic_size :]) + bias

    def embedding_input(self, embedding: tf.Tensor) -> tf.Tensor:
        """Returns the embedding's share of the posterior's first layer.

        Args:
          embedding: [..., embedding_size].

        Returns:
          [..., E].
        """
        kernel, bias = self.posterior_hidden1
        return tf.linalg.matmul(embedding, kernel[self.deterministic_size :]) + bias

    def transition(
        self, state: State, context_input: tf.Tensor, kernels: RecurrentKernels
    ) -> tf.Tensor:
        """Returns the next deterministic state h, [B, D].

        Args:
          state: The level's state at its previous tick.
          context_input: From `context_input`, [B, E].
          kernels: From `recurrent_kernels`.
        """
        inputs = tf.nn.relu(tf.linalg.matmul(state.stochastic, kernels.stochastic) + context_input)
        return self._gru(inputs, state.deterministic)

    def _gru(self, inputs: tf.Tensor, state: tf.Tensor) -> tf.Tensor:
        """A GRU whose reset gate acts after the recurrent product (Keras' `reset_after`)."""
        x = tf.linalg.matmul(inputs, self.gru_kernel) + self.gru_bias[0]
        h = tf.linalg.matmul(state, self.gru_recurrent_kernel) + self.gru_bias[1]
        sizes = [2 * self.deterministic_size, self.deterministic_size]
        x_gates, x_candidate = tf.split(x, sizes, -1)
        h_gates, h_candidate = tf.split(h, sizes, -1)
        update, reset = tf.split(tf.sigmoid(x_gates + h_gates), 2, -1)
        candidate = tf.tanh(x_candidate + reset * h_candidate)
        return candidate + update * (state - candidate)

    def prior(self, deterministic: tf.Tensor) -> DiagGaussian:
        """Returns p(z | h) for h [..., D]."""
        kernel, bias = self.prior_hidden
        hidden = tf.nn.relu(tf.linalg.matmul(deterministic, kernel) + bias)
        return self._belief(hidden, self.prior_heads)

    def posterior(
        self, deterministic: tf.Tensor, embedding_input: tf.Tensor, kernels: RecurrentKernels
    ) -> DiagGaussian:
        """Returns q(z | h, embedding).

        Args:
          deterministic: h, [..., D].
          embedding_input: From `embedding_input`, [..., E].
          kernels: From `recurrent_kernels`.
        """
        share = tf.linalg.matmul(deterministic, kernels.deterministic)
        hidden = tf.nn.relu(share + embedding_input)
        kernel, bias = self.posterior_hidden2
        hidden = tf.nn.relu(tf.linalg.matmul(hidden, kernel) + bias)
        return self._belief(hidden, self.posterior_heads)

    def _belief(self, hidden: tf.Tensor, heads: tuple) -> DiagGaussian:
        (mean_kernel, mean_bias), (stddev_kernel, stddev_bias) = heads
        mean = tf.linalg.matmul(hidden, mean_kernel) + mean_bias
        shifted = tf.linalg.matmul(hidden + _STDDEV_SHIFT, stddev_kernel) + stddev_bias
        return DiagGaussian(mean, tf.nn.softplus(shifted) + self.min_stddev)
