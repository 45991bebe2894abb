"""A scan over ticks with its own, faster gradient.

    run(tick, weights, state, inputs) == over_time(tick, weights, state, inputs)

TensorFlow's gradient of a scan adds to the weights' gradients at every tick. Here the backward pass
goes through the ticks only for the states and recomputes each tick. The weights' gradients follow
for all ticks at once, as one large batch. On a CPU that takes half the time, and only the outputs
are kept for it. `tests/cwvae/fast/test_scan.py` compares outputs and gradients.

Symbols: N ticks, B batch.
"""

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from cwvae.compiled import custom_gradient


def over_time(
    tick: Callable[[Any, tuple, Any], tuple], weights: Any, state: tuple, inputs: Any
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
        return tuple(tick(weights, _like(state, before), now))

    first = tf.nest.map_structure(lambda part: part[0], inputs)
    others = tick(weights, state, first)[len(state) :]
    return tf.scan(step, inputs, (*state, *map(tf.zeros_like, others)))


def run(
    tick: Callable[[Any, tuple, Any], tuple], weights: Any, state: tuple, inputs: Any
) -> tuple[tf.Tensor, ...]:
    """Runs a tick over time; arguments and result as for `over_time`.

    `tick` must treat the rows of a batch independently, and gradients reach only what it gets as
    arguments.
    """
    structure = (weights, state, inputs)

    @custom_gradient
    def differentiable(*flat: tf.Tensor):
        weights, state, inputs = tf.nest.pack_sequence_as(structure, flat)
        outputs = over_time(tick, weights, state, inputs)

        def gradient(*upstream: tf.Tensor) -> list[tf.Tensor]:
            before = _shifted(state, outputs)
            carried = _backward(tick, weights, before, inputs, upstream)
            # The gradient reaches a tick's outputs directly, and through the next tick's state.
            later = [tf.concat([part[1:], tf.zeros_like(part[:1])], 0) for part in carried]
            totals = _plus(upstream, later)
            by_weights, by_inputs = _batched_gradients(tick, weights, before, inputs, totals)
            by_state = [part[0] for part in carried]
            return tf.nest.flatten((by_weights, by_state, by_inputs))

        return outputs, gradient

    return differentiable(*tf.nest.flatten(structure))


def _like(state: tuple, parts: Sequence[tf.Tensor]) -> tuple:
    """Returns the first parts, packed as a state."""
    return tf.nest.pack_sequence_as(state, parts[: len(state)])


def _plus(outputs: Sequence[tf.Tensor], state: Sequence[tf.Tensor]) -> tuple[tf.Tensor, ...]:
    """Adds the parts of a state to the first outputs."""
    count = len(state)
    return (*(a + b for a, b in zip(outputs[:count], state, strict=True)), *outputs[count:])


def _shifted(state: tuple, outputs: Sequence[tf.Tensor]) -> tuple:
    """Returns the state before every tick, each part [N, B, ...]."""
    parts = zip(state, outputs, strict=False)
    return _like(state, [tf.concat([first[None], after[:-1]], 0) for first, after in parts])


def _backward(tick, weights, before: tuple, inputs, upstream) -> tuple[tf.Tensor, ...]:
    """Returns the gradient with respect to the state before every tick, each part [N, B, ...]."""

    def back(carried: tuple, now: tuple) -> tuple:
        state, inputs, direct = now
        with tf.GradientTape() as tape:
            tape.watch(state)
            outputs = tick(weights, state, inputs)
        return tuple(tape.gradient(outputs, list(state), _plus(direct, carried)))

    start = tuple(tf.zeros_like(part[0]) for part in before)
    return tf.scan(back, (before, inputs, tuple(upstream)), start, reverse=True)


def _batched_gradients(tick, weights, before: tuple, inputs, totals):
    """Returns the gradients with respect to the weights and the inputs, all ticks as one batch."""

    def rows(x: tf.Tensor) -> tf.Tensor:
        return tf.reshape(x, (-1, *x.shape[2:]))

    state = _like(before, [*map(rows, before)])
    flat_inputs = tf.nest.map_structure(rows, inputs)
    with tf.GradientTape() as tape:
        tape.watch((weights, flat_inputs))
        outputs = tick(weights, state, flat_inputs)
    by_weights, by_inputs = tape.gradient(
        outputs,
        (weights, flat_inputs),
        [rows(total) for total in totals],
        unconnected_gradients=tf.UnconnectedGradients.ZERO,
    )
    return by_weights, tf.nest.map_structure(
        lambda gradient, part: tf.reshape(gradient, part.shape), by_inputs, inputs
    )
