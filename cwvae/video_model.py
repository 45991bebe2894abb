"""The interface between models and the rest: `VideoModel`, `Elbo`, `Rollout`, one reducer."""

import abc
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

# Frames that a prediction computes at a time, about: more would only cost memory.
CHUNK = 64


class Elbo(NamedTuple):
    """The terms of Equation 5, unreduced, in nats, float32.

    Attributes:
      nll: -ln p(x_t | s_t), [B, T]; T are the frames that the model explains, which for some
        models are fewer than they were given.
      kl: KL(q || p) of every active step, one [B, T_l] per level (or per kind of latent). Where
        the active steps are the model's own choice (VTA), of every frame, 0 where it is none.
      diagnostics: What else is worth logging, by name, each [B, ...].
      statistics: In training, what each of the model's non-trainable weights is to move towards:
        the batch's mean or variance (`cwvae.baselines.normalization`).
    """

    nll: tf.Tensor
    kl: tuple[tf.Tensor, ...]
    diagnostics: dict[str, tf.Tensor]
    statistics: tuple[tf.Tensor, ...] = ()


class Rollout(NamedTuple):
    """A stretch of an open-loop prediction.

    Attributes:
      frames: The decoder's means, [B, N, H, W, C].
      boundaries: Which frames begin a segment, bool [B, N]; None for models without segments.
    """

    frames: tf.Tensor
    boundaries: tf.Tensor | None = None


def training_loss(elbo: Elbo, beta: Sequence[float], free_nats: float = 0.0) -> tf.Tensor:
    """Reduces the terms of Equation 5 to the loss: their sum over time, batch mean, divided by T.

    Args:
      elbo: The terms.
      beta: Weight of each entry of `elbo.kl`.
      free_nats: Each active step's KL counts as at least this.
    """
    per_clip = tf.reduce_sum(elbo.nll, 1)
    for weight, kl in zip(beta, elbo.kl, strict=True):
        # Without a threshold an estimate of a KL may be negative.
        per_clip += weight * tf.reduce_sum(tf.maximum(kl, free_nats) if free_nats else kl, 1)
    return tf.reduce_mean(per_clip) / elbo.nll.shape[1]


class VideoModel(keras.Model, abc.ABC):
    """What training and evaluation know of a model.

    Videos are [B, T, H, W, C], float in [0, 1] or uint8. Seeds are a whole number or an int
    tensor [2]: the same seed gives the same bits on the same device.

    Attributes:
      kl_names: What the entries of `Elbo.kl` are called.
    """

    kl_names: tuple[str, ...]

    @abc.abstractmethod
    def elbo(self, video, seed, rows: tuple | None = None, step=None) -> Elbo:
        """Returns the terms of the ELBO of a video.

        Args:
          video: [B, T, H, W, C].
          seed: Of the latents.
          rows: (first, total): the clips are rows `first`, `first` + 1, ... of a batch of `total`,
            and draw the latents that they draw there. None: they are the batch.
          step: Number of the training step, for what is otherwise in training: batch statistics,
            temperatures. None: this is no training.
        """

    @abc.abstractmethod
    def reconstruct(self, video, seed) -> tf.Tensor:
        """Returns the decoder's means under the posterior, [B, T, H, W, C]."""

    @abc.abstractmethod
    def predict_chunks(self, context, horizon: int, seed, **options) -> Iterator[Rollout]:
        """Yields what `predict` returns, stretch by stretch, in memory that `horizon` leaves be."""

    def count_trainable(self) -> int:
        """Returns how many numbers training sets."""
        return sum(math.prod(weight.shape) for weight in self.trainable_weights)

    def boundaries(self, video, seed) -> tf.Tensor | None:
        """Returns where segments begin in a video that is seen, bool [B, T].

        None for models that know no segments.
        """
        return None

    def predict(self, context, horizon: int, seed, **options) -> tf.Tensor:
        """Predicts open loop.

        Args:
          context: The frames seen, [B, T, H, W, C] with T from 1.
          horizon: Frames to predict, from 1.
          seed: Of the latents.
          **options: The model's own; see its `predict_chunks`.

        Returns:
          The decoder's means of the frames after the context, [B, horizon, H, W, C].
        """
        stretches = self.predict_chunks(context, horizon, seed, **options)
        return tf.concat([stretch.frames for stretch in stretches], 1)


def as_frames(video, shape: tuple[int, int, int] | None = None) -> tf.Tensor:
    """Returns float32 frames; uint8 ones are scaled from 0..255 to [0, 1].

    Args:
      video: [B, T, H, W, C].
      shape: (H, W, C) of the frames that a model takes; None for any.

    Raises:
      ValueError: Not [B, T, H, W, C] with T from 1, frames of another shape, or whole numbers other
        than uint8.
    """
    video = tf.convert_to_tensor(video)
    if video.dtype != tf.uint8 and not video.dtype.is_floating:
        raise ValueError(f"frames must be floats in [0, 1] or uint8, not {video.dtype.name}.")
    if video.shape.rank != 5 or video.shape[1] == 0:
        raise ValueError(f"a video must be [B, T, H, W, C] with T from 1, not {video.shape}.")
    if shape is not None and tuple(video.shape[2:]) != shape:
        raise ValueError(f"this model takes frames of {shape}, not {tuple(video.shape[2:])}.")
    scale = 255.0 if video.dtype == tf.uint8 else 1.0
    return tf.cast(video, tf.float32) / scale


def as_seed(seed) -> tf.Tensor:
    """Returns a seed as the int tensor [2] that TensorFlow's stateless sampling takes."""
    if isinstance(seed, int | np.integer):
        return tf.constant([seed, 0], tf.int64)
    return tf.convert_to_tensor(seed)
