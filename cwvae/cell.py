"""One tick of one level: the recurrent state-space model's cell (Hafner et al. 2019), Figure 3.

Nothing here knows about time, levels or clocks: `cwvae.clockwork` unrolls cells. Symbols:
B batch, S stochastic size, D deterministic size, E hidden size.
"""

from typing import NamedTuple

import keras
import tensorflow as tf

from cwvae.baselines.recurrent import GRUWeights, gru
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


class TickWeights(NamedTuple):
    """A cell's weights as the recurrence takes them: layers with split inputs sliced, heads joined.

    Made once for all ticks: a slice within the recurrence would cost its gradient the whole kernel
    at every tick.

    Attributes:
      input_kernel: The transition's input layer, its rows for z, [S, E].
      gru: The GRU's, of inputs [E] and state [D].
      prior: (kernel, bias) of the prior's hidden layer, and of its heads [E, 2 S], [2 S].
      posterior_kernel: The posterior's first layer, its rows for h, [D, E].
      posterior: (kernel, bias) of the posterior's second layer, and of its heads.
    """

    input_kernel: tf.Tensor
    gru: GRUWeights
    prior: tuple
    posterior_kernel: tf.Tensor
    posterior: tuple


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

    def tick_weights(self) -> TickWeights:
        """Returns what `transition`, `prior` and `posterior` take."""
        gru_weights = self.gru_kernel, self.gru_recurrent_kernel, self.gru_bias
        return TickWeights(
            self.prior_input[0][: self.stochastic_size],
            GRUWeights(*map(tf.convert_to_tensor, gru_weights)),
            (*map(tf.convert_to_tensor, self.prior_hidden), *_joined(self.prior_heads)),
            self.posterior_hidden1[0][: self.deterministic_size],
            (*map(tf.convert_to_tensor, self.posterior_hidden2), *_joined(self.posterior_heads)),
        )

    def context_input(self, context: tf.Tensor) -> tf.Tensor:
        """Returns the context's share of the transition's input layer.

        Args:
          context: Features of the level above, [..., context_size].

        Returns:
          [..., E].
        """
        kernel, bias = self.prior_input
        return _product(context, kernel[self.stochastic_size :]) + bias

    def embedding_input(self, embedding: tf.Tensor) -> tf.Tensor:
        """Returns the embedding's share of the posterior's first layer.

        Args:
          embedding: [..., embedding_size].

        Returns:
          [..., E].
        """
        kernel, bias = self.posterior_hidden1
        return _product(embedding, kernel[self.deterministic_size :]) + bias

    def transition(self, state: State, context_input: tf.Tensor, weights: TickWeights) -> tf.Tensor:
        """Returns the next deterministic state h, [B, D].

        Args:
          state: The level's state at its previous tick.
          context_input: From `context_input`, [B, E].
          weights: From `tick_weights`.
        """
        share = tf.linalg.matmul(state.stochastic, weights.input_kernel)
        return gru(tf.nn.relu(share + context_input), state.deterministic, weights.gru)

    def prior(self, deterministic: tf.Tensor, weights: TickWeights) -> DiagGaussian:
        """Returns p(z | h).

        Args:
          deterministic: h, [..., D].
          weights: From `tick_weights`.
        """
        return self._belief(deterministic, *weights.prior)

    def posterior(
        self, deterministic: tf.Tensor, embedding_input: tf.Tensor, weights: TickWeights
    ) -> DiagGaussian:
        """Returns q(z | h, embedding).

        Args:
          deterministic: h, [..., D].
          embedding_input: From `embedding_input`, [..., E].
          weights: From `tick_weights`.
        """
        share = tf.linalg.matmul(deterministic, weights.posterior_kernel)
        return self._belief(tf.nn.relu(share + embedding_input), *weights.posterior)

    def _belief(self, inputs, hidden_kernel, hidden_bias, heads_kernel, heads_bias):
        hidden = tf.nn.relu(_product(inputs, hidden_kernel) + hidden_bias)
        mean, stddev = tf.split(_product(hidden, heads_kernel) + heads_bias, 2, -1)
        return DiagGaussian(mean, tf.nn.softplus(stddev) + self.min_stddev)


def _product(x: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    """Returns x [..., I] times a kernel [I, O].

    As one matrix product: TensorFlow's own for more axes makes its gradient one product per entry
    of the first axis, and adds them up.
    """
    if len(x.shape) == 2:
        return tf.linalg.matmul(x, kernel)
    rows = tf.linalg.matmul(tf.reshape(x, (-1, x.shape[-1])), kernel)
    return tf.reshape(rows, (*x.shape[:-1], kernel.shape[-1]))


def _joined(heads: tuple) -> tuple[tf.Tensor, tf.Tensor]:
    """Joins the layers for mean and standard deviation into one: kernel [E, 2 S], bias [2 S].

    The shift of the hidden features moves into the bias.
    """
    (mean_kernel, mean_bias), (stddev_kernel, stddev_bias) = heads
    shift = _STDDEV_SHIFT * tf.reduce_sum(stddev_kernel, 0)
    kernel = tf.concat([mean_kernel, stddev_kernel], 1)
    return kernel, tf.concat([mean_bias, stddev_bias + shift], 0)
