"""The recurrence of a level's ticks, with its own gradient.

    state, belief = run(weights, state, inputs)

computes, tick by tick, from the state (z, h) and the products c and e that do not depend on it:

    u = relu(z W + c)                                  transition
    x = u K + b,  r = h R + b'                         GRU; its thirds are update, reset, candidate
    update, reset = sigmoid(x + r)
    candidate = tanh(x + reset r)
    h = candidate + update (h - candidate)
    p = relu(h P + e),  q = relu(p Q + d)              belief; without a second layer q = p
    mean, s = q M + m,  stddev = softplus(s) + minimum
    z = mean + stddev noise

TensorFlow's gradient of a loop adds to the weights' gradients at every tick. Here only what depends
on the next tick is computed tick by tick: five products, and elementwise factors that are the
activations' derivatives. These follow beforehand from the states, for all ticks at once. So do the
weights' gradients afterwards. Only the outputs are kept for the gradient.
`tests/cwvae/fast/test_recurrence.py` compares outputs and gradients with those of a plain loop.

Symbols: N ticks, B batch, S stochastic size, D deterministic size, E hidden size.
"""

from typing import NamedTuple

import tensorflow as tf

from cwvae.cell import State
from cwvae.compiled import custom_gradient
from cwvae.distributions import DiagGaussian


class Weights(NamedTuple):
    """The weights of a recurrence.

    Attributes:
      transition: W, [S, E].
      kernel: K, [E, 3 D].
      recurrent_kernel: R, [D, 3 D].
      bias: b and b', [2, 3 D].
      first: P, [D, E].
      second: (Q, d), [E, E] and [E]; () without a second layer.
      heads: (M, m), [E, 2 S] and [2 S].
    """

    transition: tf.Tensor
    kernel: tf.Tensor
    recurrent_kernel: tf.Tensor
    bias: tf.Tensor
    first: tf.Tensor
    second: tuple[tf.Tensor, tf.Tensor] | tuple[()]
    heads: tuple[tf.Tensor, tf.Tensor]


class Inputs(NamedTuple):
    """The inputs of the ticks.

    Attributes:
      transition: c, [N, B, E].
      first: e, [N, B, E].
      noise: [N, B, S].
    """

    transition: tf.Tensor
    first: tf.Tensor
    noise: tf.Tensor


class _Hidden(NamedTuple):
    """The layers of all ticks, [N B, ...], which the gradient needs in addition to the outputs."""

    u: tf.Tensor
    update: tf.Tensor
    reset: tf.Tensor
    candidate: tf.Tensor
    recurrent: tf.Tensor  # The third of r for the candidate.
    p: tf.Tensor
    q: tf.Tensor
    s: tf.Tensor


def run(
    weights: Weights, state: State, inputs: Inputs, min_stddev: float
) -> tuple[State, DiagGaussian]:
    """Returns the states and the beliefs of all ticks, each part [N, B, ...].

    Args:
      weights: The weights.
      state: The state before the first tick, [B, ...].
      inputs: The inputs of all ticks, N >= 1.
      min_stddev: The minimum of the standard deviation.
    """
    structure = (weights, state, inputs)

    @custom_gradient
    def differentiable(*flat: tf.Tensor):
        weights, state, inputs = tf.nest.pack_sequence_as(structure, flat)
        z, h, mean, stddev = _outputs(weights, state, inputs, min_stddev)
        before = State(
            *(tf.concat([a[None], b[:-1]], 0) for a, b in zip(state, (z, h), strict=True))
        )

        def gradient(*upstream: tf.Tensor) -> list[tf.Tensor]:
            return tf.nest.flatten(_gradients(weights, before, h, stddev, inputs, upstream))

        return (z, h, mean, stddev), gradient

    z, h, mean, stddev = differentiable(*tf.nest.flatten(structure))
    return State(z, h), DiagGaussian(mean, stddev)


def _outputs(
    weights: Weights, state: State, inputs: Inputs, min_stddev: float
) -> tuple[tf.Tensor, ...]:
    """Returns z, h, mean and stddev of all ticks."""
    # h meets R at the next tick and P at this one: one product.
    joined = tf.concat([weights.recurrent_kernel, weights.first], 1)
    size = weights.recurrent_kernel.shape[1]
    bias, recurrent_bias = tf.unstack(weights.bias)  # Once, not at every tick.

    def tick(previous: tuple, now: Inputs) -> tuple:
        z, h, r, *_ = previous
        _, update, _, candidate = _transition(weights, bias, z, now.transition, r)
        h = candidate + update * (h - candidate)
        product = tf.linalg.matmul(h, joined)
        mean, s = _belief(weights, tf.nn.relu(product[:, size:] + now.first))[1:]
        stddev = tf.nn.softplus(s) + min_stddev
        return mean + stddev * now.noise, h, product[:, :size] + recurrent_bias, mean, stddev

    first = tf.linalg.matmul(state.deterministic, weights.recurrent_kernel) + recurrent_bias
    z = tf.zeros_like(state.stochastic)
    z, h, _, mean, stddev = tf.scan(tick, inputs, (*state, first, z, z))
    return z, h, mean, stddev


def _transition(
    weights: Weights, bias: tf.Tensor, z: tf.Tensor, c: tf.Tensor, r: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
    """Returns u [B, E], and the update gate, the reset gate and the candidate, [B, D] each."""
    u = tf.nn.relu(tf.linalg.matmul(z, weights.transition) + c)
    x = tf.linalg.matmul(u, weights.kernel) + bias
    size = x.shape[1] // 3
    gates = tf.sigmoid(x[:, : 2 * size] + r[:, : 2 * size])
    update, reset = gates[:, :size], gates[:, size:]
    return u, update, reset, tf.tanh(_third(x) + reset * _third(r))


def _third(x: tf.Tensor) -> tf.Tensor:
    return x[:, 2 * (x.shape[1] // 3) :]


def _belief(weights: Weights, p: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Returns q [B, E], the mean [B, S], and s [B, S]."""
    q = p
    if weights.second:
        kernel, bias = weights.second
        q = tf.nn.relu(tf.linalg.matmul(p, kernel) + bias)
    kernel, bias = weights.heads
    return q, *tf.split(tf.linalg.matmul(q, kernel) + bias, 2, -1)


def _hidden(weights: Weights, before: State, h: tf.Tensor, inputs: Inputs) -> _Hidden:
    """Computes the layers of all ticks from the states before (z, h) and after them (h)."""
    z, h_before, h, c, e = map(_rows, (*before, h, *inputs[:2]))
    bias, recurrent_bias = tf.unstack(weights.bias)
    r = tf.linalg.matmul(h_before, weights.recurrent_kernel) + recurrent_bias
    u, update, reset, candidate = _transition(weights, bias, z, c, r)
    p = tf.nn.relu(tf.linalg.matmul(h, weights.first) + e)
    q, _, s = _belief(weights, p)
    return _Hidden(u, update, reset, candidate, _third(r), p, q, s)


def _gradients(
    weights: Weights,
    before: State,
    h: tf.Tensor,
    stddev: tf.Tensor,
    inputs: Inputs,
    upstream: tuple,
) -> tuple[Weights, State, Inputs]:
    """Returns the gradients of all arguments, for those of z, h, mean and stddev."""
    ticks, batch, size = h.shape
    by_z, by_h, by_mean, by_stddev = upstream
    hidden = _hidden(weights, before, h, inputs)

    def stacked(*parts: tf.Tensor) -> tf.Tensor:
        """Returns factors [N B, F] as [N, B, parts, F]."""
        return tf.reshape(tf.stack(parts, 1), (ticks, batch, len(parts), -1))

    def active(layer: tf.Tensor) -> tf.Tensor:
        return tf.cast(tf.reshape(layer, (ticks, batch, -1)) > 0, tf.float32)

    slope = tf.reshape(tf.sigmoid(hidden.s), inputs.noise.shape)  # Of softplus.
    update, reset, candidate = hidden.update, hidden.reset, hidden.candidate
    by_candidate = (1 - update) * (1 - tf.square(candidate))
    by_update = (_rows(before.deterministic) - candidate) * update * (1 - update)
    by_reset = by_candidate * hidden.recurrent * reset * (1 - reset)
    # Factors from z to (mean, s), and from h to x and r: update, reset, x and r of the candidate.
    heads = tf.stack([tf.ones_like(slope), inputs.noise * slope], 2)
    gates = stacked(by_update, by_reset, by_candidate, by_candidate * reset)
    now = (
        heads,
        tf.concat([by_mean + by_z, slope * (by_stddev + by_z * inputs.noise)], -1),
        by_h,
        active(hidden.q) if weights.second else (),
        active(hidden.p),
        gates,
        tf.reshape(update, (ticks, batch, size)),
        active(hidden.u),
    )
    # From gradients of update, reset, x and r of the candidate to those of u and of the last h.
    kernel, recurrent = (
        tf.split(tf.transpose(k), 3) for k in (weights.kernel, weights.recurrent_kernel)
    )
    zeros = [tf.zeros_like(kernel[2]), tf.zeros_like(recurrent[2])]
    back = tf.concat(
        [tf.concat([*kernel, zeros[0]], 0), tf.concat([*recurrent[:2], zeros[1], recurrent[2]], 0)],
        1,
    )
    width = kernel[0].shape[1]
    transition, first = tf.transpose(weights.transition), tf.transpose(weights.first)
    heads_kernel = tf.transpose(weights.heads[0])
    second = tf.transpose(weights.second[0]) if weights.second else None

    def tick(later: tuple, now: tuple) -> tuple:
        z, h, *_ = later
        heads, direct, by_h, q_active, p_active, gates, update, u_active = now
        heads = tf.reshape(z[:, None] * heads, direct.shape) + direct
        q = tf.linalg.matmul(heads, heads_kernel)
        if weights.second:
            q = q * q_active
            p = tf.linalg.matmul(q, second) * p_active
        else:
            p = q * p_active
        h = h + by_h + tf.linalg.matmul(p, first)
        parts = tf.reshape(h[:, None] * gates, (batch, -1))
        product = tf.linalg.matmul(parts, back)
        u = product[:, :width] * u_active
        h = h * update + product[:, width:]
        outputs = (tf.linalg.matmul(u, transition), h, heads, p, parts, u)
        return (*outputs, q) if weights.second else outputs

    widths = [by_z.shape[2], size, 2 * by_z.shape[2], width, 4 * size, width]
    start = tuple(tf.zeros((batch, n)) for n in ([*widths, width] if weights.second else widths))
    z, before_h, heads, p, parts, u, *q = tf.scan(tick, now, start, reverse=True)

    def product(layer: tf.Tensor, gradient: tf.Tensor) -> tf.Tensor:
        return tf.linalg.matmul(_rows(layer), _rows(gradient), transpose_a=True)

    def total(gradient: tf.Tensor) -> tf.Tensor:
        return tf.reduce_sum(gradient, [0, 1])

    x = parts[..., : 3 * size]
    r = tf.concat([parts[..., : 2 * size], parts[..., 3 * size :]], -1)
    by_weights = Weights(
        product(before.stochastic, u),
        product(hidden.u, x),
        product(before.deterministic, r),
        tf.stack([total(x), total(r)]),
        product(h, p),
        (product(hidden.p, q[0]), total(q[0])) if weights.second else (),
        (product(hidden.q, heads), total(heads)),
    )
    later_z = tf.concat([z[1:], tf.zeros_like(z[:1])], 0)
    by_inputs = Inputs(u, p, (by_z + later_z) * stddev)
    return by_weights, State(z[0], before_h[0]), by_inputs


def _rows(x: tf.Tensor) -> tf.Tensor:
    """Returns [N B, F] for [N, B, F]."""
    return tf.reshape(x, (-1, x.shape[-1]))
