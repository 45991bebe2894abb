"""The interface of models: `VideoModel`, `Elbo`, `Rollout`, and the loss, `training_loss`."""

import abc
import math
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from cwvae.arguments import as_flag, as_frames, as_integer, as_noise, as_step
from cwvae.distributions import Noise

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
      frames: The decoder's means, [B, N, H, W, C], not clipped to [0, 1].
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

    Videos are [B, T, H, W, C], floats in [0, 1] or uint8. A seed is an integer, or an int32 or
    int64 tensor [2]. The same seed gives the same bits on the same device. Clip i of a batch gets
    the latents of row `row` + i, which do not depend on the number of clips or frames: clips[i:]
    with row=i gives what clips gives, without its first i entries.

    The public methods check their arguments, raise a TypeError or a ValueError, and call the method
    with an underscore that a model defines. It gets float32 frames, noise for the seed and the
    row, and every option.

    Attributes:
      kl_names: Names of the entries of `Elbo.kl`.
      frame_shape: (H, W, C).
      posterior_options: Options of `elbo` and `reconstruct`, with defaults.
      prediction_options: Options of `predict` and `predict_chunks`, with defaults.
    """

    kl_names: tuple[str, ...]
    frame_shape: tuple[int, int, int]
    posterior_options: Mapping[str, Any] = MappingProxyType({})
    prediction_options: Mapping[str, Any] = MappingProxyType({})

    def elbo(self, video, seed, *, row=0, step=None, **options) -> Elbo:
        """Returns the terms of the ELBO of a video.

        Args:
          video: [B, T, H, W, C], floats in [0, 1] or uint8. SVG-LP needs 2 frames, VTA
            2 init_size + 1, also in `reconstruct`.
          seed: Seed of the latents.
          row: Row of the first clip, from 0.
          step: Number of the training step, which some models need for batch statistics or
            temperatures. None outside training.
          **options: For CW-VAE `observe_levels`, the levels that infer from the video: a string
            such as "TTF", or a sequence of booleans, the fastest level first. The others follow
            their priors, with a KL of zero. Other models have none.
        """
        video = as_frames(video, self.frame_shape)
        options = self._checked(options, self.posterior_options, video)
        return self._elbo(video, as_noise(seed, row), as_step(step), **options)

    def reconstruct(self, video, seed, *, row=0, clip: bool = True, **options) -> tf.Tensor:
        """Returns a video decoded from the posterior, float32 [B, T, H, W, C].

        Frames that a model does not explain are returned as given: the first one of SVG-LP, and
        `init_size` frames at either end of VTA.

        Args:
          video: [B, T, H, W, C], floats in [0, 1] or uint8.
          seed: Seed of the latents.
          row: Row of the first clip, from 0.
          clip: Whether to clip to [0, 1]. False gives the decoder's means. Those of CW-VAE lie in
            [-1, 1] and are often negative where frames are black.
          **options: As for `elbo`.
        """
        clip = as_flag(clip, "clip")
        video = as_frames(video, self.frame_shape)
        options = self._checked(options, self.posterior_options, video)
        frames = self._reconstruct(video, as_noise(seed, row), **options)
        return tf.clip_by_value(frames, 0.0, 1.0) if clip else frames

    def predict(
        self, context, horizon: int, seed, *, row=0, clip: bool = True, **options
    ) -> tf.Tensor:
        """Predicts open loop.

        Args:
          context: The frames seen, [B, T, H, W, C] with T from 1, floats in [0, 1] or uint8.
          horizon: Frames to predict, from 1.
          seed: Seed of the latents.
          row: Row of the first clip, from 0.
          clip: Whether to clip to [0, 1]. False gives the decoder's means, as in `predict_chunks`.
          **options: As for `predict_chunks`.

        Returns:
          The frames after the context, float32 [B, horizon, H, W, C] in [0, 1].
        """
        clip = as_flag(clip, "clip")
        stretches = self.predict_chunks(context, horizon, seed, row=row, **options)
        frames = tf.concat([stretch.frames for stretch in stretches], 1)
        return tf.clip_by_value(frames, 0.0, 1.0) if clip else frames

    def predict_chunks(self, context, horizon: int, seed, *, row=0, **options) -> Iterator[Rollout]:
        """Predicts open loop in stretches of about 64 frames.

        Memory does not depend on `horizon`. Frames are the decoder's means, not clipped to [0, 1]:
        those of CW-VAE lie in [-1, 1] and are often negative where frames are black.

        Args:
          context: The frames seen, [B, T, H, W, C] with T from 1, floats in [0, 1] or uint8.
          horizon: Frames to predict, from 1.
          seed: Seed of the latents.
          row: Row of the first clip, from 0.
          **options: For CW-VAE `observe_levels`, as for `elbo`. For SVG-LP and VTA
            `batch_statistics`: whether to normalize by the statistics of the given clips, at least
            2, instead of moving ones. A clip's prediction then depends on the others.

        Returns:
          The stretches, `horizon` frames in all.
        """
        horizon = as_integer(horizon, "horizon", 1)
        context = as_frames(context, self.frame_shape, "context")
        options = self._checked(options, self.prediction_options, context)
        return self._predict_chunks(context, horizon, as_noise(seed, row), **options)

    def boundaries(self, video, seed) -> tf.Tensor | None:
        """Returns where segments begin in a video, bool [B, T]; None for models without any.

        Args:
          video: [B, T, H, W, C], floats in [0, 1] or uint8.
          seed: Seed of the latents.
        """
        video = as_frames(video, self.frame_shape)
        return self._boundaries(video, as_noise(seed, 0))

    def count_trainable(self) -> int:
        """Returns the number of trainable parameters."""
        return sum(math.prod(weight.shape) for weight in self.trainable_weights)

    @abc.abstractmethod
    def _elbo(self, video, noise: Noise, step, **options) -> Elbo:
        """Returns the terms of the ELBO."""

    @abc.abstractmethod
    def _reconstruct(self, video, noise: Noise, **options) -> tf.Tensor:
        """Returns the decoder's means under the posterior, [B, T, H, W, C]."""

    @abc.abstractmethod
    def _predict_chunks(self, context, horizon: int, noise: Noise, **options) -> Iterator[Rollout]:
        """Yields the prediction in stretches."""

    def _boundaries(self, video, noise: Noise) -> tf.Tensor | None:
        """Returns where segments begin, bool [B, T]."""
        return None

    def _option(self, name: str, value: Any, clips: int) -> Any:
        """Returns a checked option for a batch of `clips` clips, in a form that can be hashed."""
        raise NotImplementedError

    def _checked(self, options: dict, known: Mapping[str, Any], video: tf.Tensor) -> dict:
        """Returns the known options, checked; raises a TypeError if there are others."""
        for name in options:
            if name not in known:
                others = f"It takes {', '.join(known)}." if known else "It takes none here."
                raise TypeError(f"{name} is not an option of the model {self.name}. {others}")
        values = {**known, **options}
        return {k: self._option(k, value, video.shape[0]) for k, value in values.items()}
