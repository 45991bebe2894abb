"""The interface of models: `VideoModel`, `Elbo`, `Rollout`, and the loss, `training_loss`."""

import abc
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

if keras.config.backend() != "tensorflow":
    raise ImportError(
        "cwvae needs Keras with TensorFlow, but this process imported Keras with"
        f" {keras.config.backend()}. Import cwvae before keras, or set KERAS_BACKEND=tensorflow."
    )
# A user's keras.json may have other defaults.
keras.config.set_image_data_format("channels_last")
keras.config.set_floatx("float32")

# A prediction computes about this many frames at a time: more would only cost memory.
CHUNK = 64


class Elbo(NamedTuple):
    """The terms of Equation 5, unreduced, in nats, float32.

    Attributes:
      nll: -ln p(x_t | s_t), [B, T]. Some models score fewer frames than they receive.
      kl: KL(q || p) of every active step, one [B, T_l] per level or kind of latent. A model that
        chooses its active steps (VTA) gives every frame, with 0 for steps that are not active.
      diagnostics: Other values to log, by name, each [B, ...].
      statistics: In training, the batch's value for each non-trainable weight: the mean or variance
        that the weight moves towards (`cwvae.baselines.normalization`).
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
    """Returns the negative ELBO per frame: sum over time, batch mean, divided by T.

    Args:
      elbo: The terms.
      beta: Weight of each entry of `elbo.kl`.
      free_nats: Lower bound of each active step's KL.
    """
    per_clip = tf.reduce_sum(elbo.nll, 1)
    for weight, kl in zip(beta, elbo.kl, strict=True):
        # No maximum with 0: a sampled estimate of a KL may be negative, and clamping would bias it.
        per_clip += weight * tf.reduce_sum(tf.maximum(kl, free_nats) if free_nats else kl, 1)
    return tf.reduce_mean(per_clip) / elbo.nll.shape[1]


class VideoModel(keras.Model, abc.ABC):
    """The interface through which training and evaluation use a model.

    Videos are [B, T, H, W, C], floats in [0, 1] or uint8. A seed is an integer or an int tensor
    [2]. The same seed gives the same bits on the same device.

    Attributes:
      kl_names: Names of the entries of `Elbo.kl`.
    """

    kl_names: tuple[str, ...]

    @abc.abstractmethod
    def elbo(self, video, seed, rows: tuple | None = None, step=None) -> Elbo:
        """Returns the terms of the ELBO of a video.

        Args:
          video: [B, T, H, W, C].
          seed: Seed of the latents.
          rows: (first, total): the clips are rows `first`, `first` + 1, ... of a batch of `total`
            clips and get the latents of those rows. None: they are the whole batch.
          step: Number of the training step, which some models need for batch statistics or
            temperatures. None outside training.
        """

    @abc.abstractmethod
    def reconstruct(self, video, seed) -> tf.Tensor:
        """Returns the decoder's means under the posterior, [B, T, H, W, C]."""

    @abc.abstractmethod
    def predict_chunks(self, context, horizon: int, seed, **options) -> Iterator[Rollout]:
        """Yields the result of `predict` in stretches; memory does not depend on `horizon`."""

    def count_trainable(self) -> int:
        """Returns the number of trainable parameters."""
        return sum(math.prod(weight.shape) for weight in self.trainable_weights)

    def boundaries(self, video, seed) -> tf.Tensor | None:
        """Returns where segments begin in a video, bool [B, T]; None for models without any."""
        return None

    def predict(self, context, horizon: int, seed, **options) -> tf.Tensor:
        """Predicts open loop.

        Args:
          context: The frames seen, [B, T, H, W, C] with T from 1.
          horizon: Frames to predict, from 1.
          seed: Seed of the latents.
          **options: Options of the model's `predict_chunks`.

        Returns:
          The decoder's means of the frames after the context, [B, horizon, H, W, C].
        """
        stretches = self.predict_chunks(context, horizon, seed, **options)
        return tf.concat([stretch.frames for stretch in stretches], 1)


def as_frames(video, shape: tuple[int, int, int] | None = None) -> tf.Tensor:
    """Returns float32 frames; uint8 frames are scaled from 0..255 to [0, 1].

    Args:
      video: [B, T, H, W, C].
      shape: (H, W, C) that the frames must have; None for any.

    Raises:
      ValueError: Not [B, T, H, W, C] with T >= 1, another shape, or integers other than uint8.
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
    """Returns a seed as the int tensor [2] of TensorFlow's stateless sampling."""
    if isinstance(seed, int | np.integer):
        return tf.constant([seed, 0], tf.int64)
    return tf.convert_to_tensor(seed)
