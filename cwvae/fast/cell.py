"""A level's ticks: what `cwvae.clockwork.run_level` computes, faster.

    inputs = {"context": ..., "embedding": ..., "noise": ...}, time-major
    ticks = tf.scan(lambda previous, now: cell(previous.state, **now), inputs, start)

The shares of the context and the embedding in their layers, and the prior, do not depend on the
recurrence and are computed for all ticks at once; the rest is `cwvae.fast.recurrence`. The heads
for mean and standard deviation are one product. `tests/cwvae/fast/test_fast_model.py` compares
outputs and gradients.

Symbols: N nodes, B batch, S stochastic size, D deterministic size, E hidden size.
"""

import keras
import tensorflow as tf

from cwvae.cell import STDDEV_SHIFT, RSSMCell, State, Tick
from cwvae.distributions import DiagGaussian
from cwvae.fast import recurrence


def run_level(
    cell: RSSMCell,
    state: State,
    context: tf.Tensor,
    embeddings: tf.Tensor | None,
    noise: tf.Tensor | None,
) -> Tick:
    """Runs one cell over its nodes; arguments and result as for `clockwork.run_level`."""
    transition = _share(cell.prior_input, context)
    shape = transition.shape[:2]  # Ticks, batch.
    observed = embeddings is not None
    if observed:
        first = tf.transpose(_share(cell.posterior_hidden1, embeddings), (1, 0, 2))
    else:
        first = tf.broadcast_to(cell.prior_hidden.bias, (*shape, cell.prior_hidden.units))
    if noise is None:
        noise = tf.zeros((*shape, cell.stochastic_size))
    inputs = recurrence.Inputs(transition, first, noise)
    states, belief = recurrence.run(_weights(cell, observed), state, inputs, cell.min_stddev)
    prior = belief
    if observed:
        layers = _affine(cell.prior_hidden), _joined(cell.prior_mean, cell.prior_stddev)
        prior = _belief(cell, states.deterministic, *layers)
    return Tick(states, prior, belief)


def _weights(cell: RSSMCell, observed: bool) -> recurrence.Weights:
    """Returns the weights of the recurrence through the posterior or, unobserved, the prior."""
    gru = map(tf.convert_to_tensor, (cell.gru.kernel, cell.gru.recurrent_kernel, cell.gru.bias))
    if observed:
        first = cell.posterior_hidden1.kernel[: cell.deterministic_size]
        second = _affine(cell.posterior_hidden2)
        heads = _joined(cell.posterior_mean, cell.posterior_stddev)
    else:
        first, second = tf.convert_to_tensor(cell.prior_hidden.kernel), ()
        heads = _joined(cell.prior_mean, cell.prior_stddev)
    transition = cell.prior_input.kernel[: cell.stochastic_size]
    return recurrence.Weights(transition, *gru, first, second, heads)


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


def _belief(cell: RSSMCell, inputs: tf.Tensor, hidden: tuple, heads: tuple) -> DiagGaussian:
    (kernel, bias), (heads_kernel, heads_bias) = hidden, heads
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
