"""Gradient checkpointing (Chen et al. 2016) over the frames of a batch.

    run(function, weights, frames, size) == function(weights, frames)

The encoder and decoder treat frames independently, and nearly all memory of training is what their
convolutions keep for the gradient. Here frames pass through them in pieces, and the backward pass
recomputes each piece, so that memory is needed for one piece.
"""

from collections.abc import Callable, Sequence

import tensorflow as tf

from cwvae.compiled import custom_gradient


def run(
    function: Callable[[Sequence[tf.Tensor], tf.Tensor], tf.Tensor],
    weights: Sequence[tf.Tensor],
    frames: tf.Tensor,
    size: int,
) -> tf.Tensor:
    """Returns `function(weights, frames)`, computed in pieces, with its gradients.

    Args:
      function: Maps weights and frames [P, ...] to [P, ...], frame by frame, for any P.
      weights: The weights that gradients reach.
      frames: [N, ...].
      size: Frames in a piece, P.
    """
    count = frames.shape[0]
    pieces = -(-count // size)

    def cut(x: tf.Tensor) -> tf.Tensor:
        """Returns [pieces, P, ...], the last piece padded with zeros."""
        padded = tf.pad(x, [[0, pieces * size - count], *[[0, 0]] * (len(x.shape) - 1)])
        return tf.reshape(padded, (pieces, size, *x.shape[1:]))

    def joined(x: tf.Tensor) -> tf.Tensor:
        return tf.reshape(x, (pieces * size, *x.shape[2:]))[:count]

    @custom_gradient
    def differentiable(frames, *weights):
        outputs = tf.map_fn(
            lambda piece: function(weights, piece), cut(frames), parallel_iterations=1
        )

        def gradient(upstream):
            pieces_in, pieces_up = cut(frames), cut(upstream)

            def add_piece(i, sums, by_frames):
                piece = pieces_in[i]
                with tf.GradientTape() as tape:
                    tape.watch((weights, piece))
                    y = function(weights, piece)
                by_weights, by_piece = tape.gradient(y, (weights, piece), pieces_up[i])
                sums = [a + b for a, b in zip(sums, by_weights, strict=True)]
                return i + 1, sums, by_frames.write(i, by_piece)

            _, sums, by_frames = tf.while_loop(
                lambda i, *_: i < pieces,
                add_piece,
                (
                    tf.constant(0),
                    [tf.zeros_like(weight) for weight in weights],
                    tf.TensorArray(frames.dtype, pieces),
                ),
                parallel_iterations=1,
                maximum_iterations=pieces,
            )
            return (joined(by_frames.stack()), *sums)

        return joined(outputs), gradient

    return differentiable(frames, *weights)
