"""One tick of one level: the recurrent state-space model's cell (Hafner et al. 2019), Figure 3.

Nothing here knows about time, levels or clocks: `cwvae.clockwork` unrolls cells. Symbols:
B batch, S stochastic size, D deterministic size. Here `context` is the features of the level above.
"""

from typing import NamedTuple

import keras
import tensorflow as tf

from cwvae.distributions import DiagGaussian

# The authors' code adds this to the inputs of the layer for the standard deviation.
STDDEV_SHIFT = 0.54


class State(NamedTuple):
    """A level's state s = (z, h).

    Attributes:
      stochastic: z, [..., S].
      deterministic: h, [..., D].
    """

    stochastic: tf.Tensor
    deterministic: tf.Tensor

    def features(self) -> tf.Tensor:
        """Returns [z, h], [..., S + D]: the input of the level below, or of the decoder."""
        return tf.concat([self.stochastic, self.deterministic], -1)


class Tick(NamedTuple):
    """The result of one tick, or of N ticks stacked on a leading axis.

    Attributes:
      state: The level's new state.
      prior: p(z), before the tick's embedding is seen.
      posterior: q(z), after it; the prior itself without an embedding.
    """

    state: State
    prior: DiagGaussian
    posterior: DiagGaussian


class RSSMCell(keras.layers.Layer):
    """The transition of one level, and prior and posterior over z, in float32.

    h = GRU(relu(W [z_prev, context]), h_prev)     deterministic transition
    p(z) = N(f(h))                                 prior
    q(z) = N(g([h, embedding]))                    posterior
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
          hidden_size: Width of every hidden layer.
          embedding_size: Length of the embeddings that the posterior reads.
          context_size: Length of the features of the level above.
          min_stddev: Added to every standard deviation.
          name: The Keras name.
        """
        super().__init__(name=name, dtype="float32", autocast=False)
        self.stochastic_size, self.deterministic_size = stochastic_size, deterministic_size
        self.context_size, self.min_stddev = context_size, min_stddev

        def built(layer: keras.layers.Layer, inputs: int) -> keras.layers.Layer:
            with keras.name_scope(name):
                layer.build((None, inputs))
            return layer

        def dense(part: str, inputs: int, outputs: int, activation=None) -> keras.layers.Dense:
            return built(keras.layers.Dense(outputs, activation, name=part), inputs)

        hidden, z, h = hidden_size, stochastic_size, deterministic_size
        self.prior_input = dense("prior_input", z + context_size, hidden, "relu")
        # GRUCell draws a seed for dropout, which is not used; a fixed one leaves the others alone.
        self.gru = built(keras.layers.GRUCell(h, seed=0, name="gru"), hidden)
        self.prior_hidden = dense("prior_hidden", h, hidden, "relu")
        self.prior_mean = dense("prior_mean", hidden, z)
        self.prior_stddev = dense("prior_stddev", hidden, z)
        self.posterior_hidden1 = dense("posterior_hidden1", h + embedding_size, hidden, "relu")
        self.posterior_hidden2 = dense("posterior_hidden2", hidden, hidden, "relu")
        self.posterior_mean = dense("posterior_mean", hidden, z)
        self.posterior_stddev = dense("posterior_stddev", hidden, z)
        self.built = True

    def initial_state(self, batch: int) -> State:
        """Returns the zero state of a `batch`."""
        sizes = (self.stochastic_size, self.deterministic_size)
        return State(*(tf.zeros((batch, size)) for size in sizes))

    def call(self, state: State, context, embedding=None, noise=None) -> Tick:
        """Advances the state by one tick.

        Args:
          state: The level's state at its previous tick.
          context: Features of the level above, [B, context_size].
          embedding: The tick's embedding, [B, embedding_size]. None: z follows the prior.
          noise: Standard normal, [B, S]. None: z is the mean of its belief.
        """
        hidden = self.prior_input(tf.concat([state.stochastic, context], -1))
        deterministic, _ = self.gru(hidden, [state.deterministic])
        prior = posterior = self.prior(deterministic)
        if embedding is not None:
            posterior = self.posterior(deterministic, embedding)
        stochastic = posterior.mean if noise is None else posterior.sample(noise)
        return Tick(State(stochastic, deterministic), prior, posterior)

    def prior(self, deterministic: tf.Tensor) -> DiagGaussian:
        """Returns p(z | h) for h [B, D]."""
        hidden = self.prior_hidden(deterministic)
        return self._belief(hidden, self.prior_mean, self.prior_stddev)

    def posterior(self, deterministic: tf.Tensor, embedding: tf.Tensor) -> DiagGaussian:
        """Returns q(z | h, embedding) for h [B, D] and embedding [B, embedding_size]."""
        hidden = self.posterior_hidden1(tf.concat([deterministic, embedding], -1))
        hidden = self.posterior_hidden2(hidden)
        return self._belief(hidden, self.posterior_mean, self.posterior_stddev)

    def _belief(self, hidden, mean, stddev) -> DiagGaussian:
        spread = tf.nn.softplus(stddev(hidden + STDDEV_SHIFT)) + self.min_stddev
        return DiagGaussian(mean(hidden), spread)
