"""CWVAE with faster kernels, from the same layers' weights.

Three of its methods are overridden; `CWVAE` holds the plain expressions that they equal.
"""

import math
from collections.abc import Callable, Sequence

import keras
import numpy as np
import tensorflow as tf

from cwvae import clockwork
from cwvae.cell import State, Tick
from cwvae.distributions import Noise
from cwvae.fast import networks, recomputation
from cwvae.fast.cell import run_level
from cwvae.model import CWVAE, per_frame


class FastCWVAE(CWVAE):
    """CWVAE, faster on CPUs; `tests/cwvae/fast/test_fast_model.py` shows that it equals CWVAE."""

    def __init__(self, *, gradient_checkpointing: int | None = None, **options):
        """Builds all weights.

        Args:
          gradient_checkpointing: Frames whose convolutions are kept for the gradient at a time;
            None for all.
          **options: As for `CWVAE`.
        """
        super().__init__(**options)
        self.gradient_checkpointing = gradient_checkpointing

    def embed(self, video: tf.Tensor) -> list[tf.Tensor]:
        """Returns what `CWVAE.embed` returns."""
        features = self._per_frame(networks.encode, self.encoder, video)
        embeddings = [features]
        for mlp, period in zip(self.mlps, clockwork.periods(self.factors)[1:], strict=True):
            if mlp is self.mlps[-1]:  # No level above reads its frames.
                embeddings.append(networks.embed_pooled(mlp, features, period))
            else:
                features = networks.embed(mlp, features)
                embeddings.append(clockwork.pool(features, period))
        return embeddings

    def unroll(self, start, stop, states, embeddings, noise) -> tuple[list[Tick], list[State]]:
        """Returns what `CWVAE.unroll` returns."""
        return clockwork.unroll(
            self.cells, self.factors, start, stop, states, embeddings, noise, run_level
        )

    def decode(self, state: State) -> tf.Tensor:
        """Returns what `CWVAE.decode` returns."""
        features = tf.transpose(state.features(), (1, 0, 2))
        return self._per_frame(networks.decode, self.decoder, features)

    def _per_frame(self, function: Callable, network: keras.Sequential, x: tf.Tensor) -> tf.Tensor:
        """Returns function(network, x), [B, T, ...], keeping for the gradient what it may."""
        if self.gradient_checkpointing is None:
            return per_frame(lambda frames: function(network, frames), x)

        def on_frames(weights: Sequence[tf.Tensor], frames: tf.Tensor) -> tf.Tensor:
            mapping = zip(network.trainable_weights, weights, strict=True)
            with keras.StatelessScope(mapping):
                return function(network, frames)

        weights = [tf.convert_to_tensor(weight) for weight in network.trainable_weights]
        size = self.gradient_checkpointing
        return per_frame(lambda frames: recomputation.run(on_frames, weights, frames, size), x)

    def uncovered(self) -> list[str]:
        """Returns which of the three methods differ from the plain ones, on small random inputs.

        They do once somebody changes the architecture, which is done in the plain definition alone.
        The model must compute in float32: rounding to bfloat16 would hide or feign a difference.
        """
        rng = np.random.default_rng(0)

        def random(like) -> tf.Tensor:
            return tf.constant(rng.normal(size=like.shape), tf.float32)

        # Not the initial weights: zero biases, for one, could hide a difference.
        weights = [
            (weight, weight.value + random(weight) / math.sqrt(max(weight.shape[-2:])))
            for weight in self.trainable_weights
        ]
        states = [State(*map(random, cell.initial_state(1))) for cell in self.cells]
        with keras.StatelessScope(weights):
            video = tf.sigmoid(random(tf.zeros((1, 2, *self.frame_shape))))
            embeddings = CWVAE.embed(self, video)
            noise = self._used(Noise(tf.constant([0, 0], tf.int64)))
            calls = {
                "embed": [(video,)],
                "unroll": [(0, 2, states, x, noise) for x in (embeddings, [None] * self.levels)],
                "decode": [(State(*(part[None] for part in states[0])),)],
            }
            return [
                name
                for name, arguments in calls.items()
                if not all(self._equals_plain(name, each) for each in arguments)
            ]

    def _equals_plain(self, name: str, arguments: tuple) -> bool:
        plain = tf.nest.flatten(getattr(CWVAE, name)(self, *arguments))
        try:
            fast = tf.nest.flatten(getattr(FastCWVAE, name)(self, *arguments))
        except (AttributeError, TypeError, ValueError, tf.errors.OpError):  # Other weights, shapes.
            return False
        return all(
            one.shape == other.shape and _size(one - other) <= 1e-4 * _size(one)
            for one, other in zip(plain, fast, strict=True)
        )

    def use_plain(self, name: str) -> None:
        """Computes a method as `CWVAE` does."""
        object.__setattr__(self, name, getattr(super(), name))  # Keras would track it.


def _size(x: tf.Tensor) -> float:
    """Returns the root mean square."""
    return float(np.sqrt(np.mean(np.square(x, dtype=np.float64))))
