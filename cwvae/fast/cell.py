"""A level's ticks: what `cwvae.clockwork.run_level` computes, faster.

    inputs = {"context": ..., "embedding": ..., "noise": ...}, time-major
    ticks = tf.scan(lambda previous, now: cell(previous.state, **now), inputs, start)

The shares of the context and the embedding in their layers, and the prior, do not depend on the
recurrence and are computed for all ticks at once. Within the recurrence layers with split inputs
are sliced and the heads for mean and standard deviation are one product. The gradient is that of
`cwvae.fast.scan`. `tests/cwvae/fast/test_fast_model.py` compares outputs and gradients.

Symbols: N nodes, B batch, S stochastic size, D deterministic size, E hidden size.
"""

from typing import NamedTuple

import keras
import tensorflow as tf

from cwvae.cell import STDDEV_SHIFT, RSSMCell, State, Tick
from cwvae.distributions import DiagGaussian
from cwvae.fast import scan


class _GRUWeights(NamedTuple):
    """The weights of a GRU of inputs [E] and state [D]: [E, 3 D], [D, 3 D], [2, 3 D]."""

    kernel: tf.Tensor
    recurrent_kernel: tf.Tensor
    bias: tf.Tensor


class _Weights(NamedTuple):
    """A cell's weights as the recurrence takes them.

    Made once for all ticks: a slice within the recurrence would cost its gradient the whole kernel
    at every tick.

    Attributes:
      transition: The rows for z of the transition's input layer, [S, E].
      gru: Weights of the GRU.
      prior: (kernel, bias) of the prior's hidden layer, and of its heads [E, 2 S], [2 S].
      posterior_input: The rows for h of the posterior's first layer, [D, E].
      posterior: (kernel, bias) of the posterior's second layer, and of its heads.
    """

    transition: tf.Tensor
    gru: _GRUWeights
    prior: tuple
    posterior_input: tf.Tensor
    posterior: tuple


class _Now(NamedTuple):
    """The inputs of a tick, [B, ...], or of all ticks, [N, B, ...].

    Attributes:
      context: The context's share of the transition's input layer, [..., E].
      embedding: The embedding's share of the posterior's first layer, [..., E]; () without one.
      noise: [..., S]; () without noise.
    """

    context: tf.Tensor
    embedding: tf.Tensor | tuple
    noise: tf.Tensor | tuple


def run_level(
    cell: RSSMCell,
    state: State,
    context: tf.Tensor,
    embeddings: tf.Tensor | None,
    noise: tf.Tensor | None,
) -> Tick:
    """Runs one cell over its nodes; arguments and result as for `clockwork.run_level`."""
    share = ()
    if embeddings is not None:
        share = tf.transpose(_share(cell.posterior_hidden1, embeddings), (1, 0, 2))
    inputs = _Now(_share(cell.prior_input, context), share, () if noise is None else noise)
    observed, sampled = embeddings is not None, noise is not None

    def tick(weights: _Weights, previous: State, now: _Now) -> tuple:
        product = tf.linalg.matmul(previous.stochastic, weights.transition)
        hidden = tf.nn.relu(product + now.context)
        deterministic = _gru(hidden, previous.deterministic, weights.gru)
        if observed:
            product = tf.linalg.matmul(deterministic, weights.posterior_input)
            hidden = tf.nn.relu(product + now.embedding)
            belief = _belief(cell, hidden, *weights.posterior)
        else:
            belief = _belief(cell, deterministic, *weights.prior)
        stochastic = belief.sample(now.noise) if sampled else belief.mean
        return stochastic, deterministic, *belief

    weights = _weights(cell)
    stochastic, deterministic, *belief = scan.run(tick, weights, state, inputs)
    posterior = DiagGaussian(*belief)
    prior = _belief(cell, deterministic, *weights.prior) if observed else posterior
    return Tick(State(stochastic, deterministic), prior, posterior)


def _weights(cell: RSSMCell) -> _Weights:
    gru_weights = cell.gru.kernel, cell.gru.recurrent_kernel, cell.gru.bias
    return _Weights(
        cell.prior_input.kernel[: cell.stochastic_size],
        _GRUWeights(*map(tf.convert_to_tensor, gru_weights)),
        (*_affine(cell.prior_hidden), *_joined(cell.prior_mean, cell.prior_stddev)),
        cell.posterior_hidden1.kernel[: cell.deterministic_size],
        (*_affine(cell.posterior_hidden2), *_joined(cell.posterior_mean, cell.posterior_stddev)),
    )


def _gru(inputs: tf.Tensor, state: tf.Tensor, weights: _GRUWeights) -> tf.Tensor:
    """Returns the next state of a `keras.layers.GRUCell`, [B, D]."""
    x = tf.linalg.matmul(inputs, weights.kernel) + weights.bias[0]
    h = tf.linalg.matmul(state, weights.recurrent_kernel) + weights.bias[1]
    x_update, x_reset, x_candidate = tf.split(x, 3, -1)
    h_update, h_reset, h_candidate = tf.split(h, 3, -1)
    update, reset = tf.sigmoid(x_update + h_update), tf.sigmoid(x_reset + h_reset)
    candidate = tf.tanh(x_candidate + reset * h_candidate)
    return candidate + update * (state - candidate)


def _affine(layer: keras.layers.Dense) -> tuple[tf.Tensor, tf.Tensor]:
    return tf.convert_to_tensor(layer.kernel), tf.convert_to_tensor(layer.bias)


def _joined(mean: keras.layers.Dense, stddev: keras.layers.Dense) -> tuple[tf.Tensor, tf.Tensor]:
    """Joins the heads for mean and standard deviation into one: kernel [E, 2 S], bias [2 S].

    The shift of the hidden features moves into the bias.
    """
    shift = STDDEV_SHIFT * tf.reduce_sum(stddev.kernel, 0)
    kernel = tf.concat([mean.kernel, stddev.kernel], 1)
    return kernel, tf.concat([mean.bias, stddev.bias + shift], 0)


def _share(layer: keras.layers.Dense, x: tf.Tensor) -> tf.Tensor:
    """Returns the share of x, the last of a layer's inputs, with the layer's bias, [..., E]."""
    return _product(x, layer.kernel[-x.shape[-1] :]) + layer.bias


def _belief(cell: RSSMCell, inputs, kernel, bias, heads_kernel, heads_bias) -> DiagGaussian:
    hidden = tf.nn.relu(_product(inputs, kernel) + bias)
    mean, stddev = tf.split(_product(hidden, heads_kernel) + heads_bias, 2, -1)
    return DiagGaussian(mean, tf.nn.softplus(stddev) + cell.min_stddev)


def _product(x: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    """Returns x [..., I] times a kernel [I, O].

    As one matrix product: the gradient of TensorFlow's own for more axes is one product per entry
    of the first axis, and their sum.
    """
    if len(x.shape) == 2:
        return tf.linalg.matmul(x, kernel)
    rows = tf.linalg.matmul(tf.reshape(x, (-1, x.shape[-1])), kernel)
    return tf.reshape(rows, (*x.shape[:-1], kernel.shape[-1]))
