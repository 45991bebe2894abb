"""The boundary variables of VTA (Kim, Ahn & Bengio 2019): temperature, samples, segment limits.

A boundary m_t has two classes: read (0), which starts a segment at frame t, and copy (1), which
continues the current one. In training it is a concrete (Gumbel-softmax) variable (Maddison, Mnih &
Teh 2017; Jang, Gu & Poole 2017) with straight-through gradients: its value is one-hot, its gradient
that of the relaxed sample. Its density is `tfp.distributions.ExpRelaxedOneHotCategorical`. Symbols:
N frames, B batch, K classes (2 in VTA).
"""

import math

import tensorflow as tf

READ = 0
# Logit of a class with probability 0.999, for the limits.
_CERTAIN = math.log(0.999 / 0.001)


def temperature(step, decay_steps: float = 100) -> tf.Tensor:
    """Returns the temperature of a training step, which decays from 1 towards 0.1.

    Args:
      step: Number of the step, from 0.
      decay_steps: Steps in which the excess over 0.1 decays by a factor of 0.999.
    """
    return 0.9 * 0.999 ** (tf.cast(step, tf.float32) / decay_steps) + 0.1


def reads(*shape: int) -> tf.Tensor:
    """Returns reads as one-hot vectors, [*shape, 2]."""
    return tf.one_hot(tf.fill(shape, READ), 2)


def most_likely(logits: tf.Tensor) -> tf.Tensor:
    """Returns the most likely class of logits [..., K] as a one-hot vector."""
    return tf.one_hot(tf.argmax(logits, -1), logits.shape[-1], dtype=logits.dtype)


def straight_through(
    logits: tf.Tensor, noise: tf.Tensor, temperature: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Samples a concrete variable and makes it one-hot.

    The noise is an argument, unlike in TFP, so that samples are a function of seed and step.

    Args:
      logits: [..., K], up to a constant.
      noise: Uniform on the open interval (0, 1), [..., K].
      temperature: Temperature of the relaxation.

    Returns:
      The sample, [..., K], one-hot, with the gradient of the relaxed sample; and the logarithm of
      the relaxed sample, [..., K].
    """
    gumbel = -tf.math.log(-tf.math.log(noise))
    log_sample = tf.nn.log_softmax((logits + gumbel) / temperature)
    relaxed = tf.exp(log_sample)
    # In this order the sum is exactly one-hot.
    return most_likely(log_sample) + (relaxed - tf.stop_gradient(relaxed)), log_sample


def limited(
    logits: tf.Tensor, reads: tf.Tensor, max_segments: int, max_segment_length: int
) -> tf.Tensor:
    """Replaces the prior's logits where a clip has too many segments or a segment is too long.

    From frame `max_segment_length` of a segment on, the next frame is a read. Elsewhere, once
    `max_segments` segments have started, the next frame is a copy. Either has probability 0.999.
    These are the rules of the released code: long segments may exceed `max_segments`.

    Args:
      logits: Logits of each frame's prior for the boundary of the next frame, [N, B, 2].
      reads: Nonzero where a frame starts a segment, [N, B]. The first frame always does.
      max_segments: Number of segments after which no other is expected.
      max_segment_length: Number of frames after which a segment is expected to end.

    Returns:
      [N, B, 2], without a gradient where the logits were replaced.
    """
    frames = tf.range(logits.shape[0])[:, None]
    reads = (reads > 0) | (frames == 0)
    count = tf.cumsum(tf.cast(reads, tf.int32), 0)
    # The frame at which each frame's segment started: the latest read up to it.
    upto = (frames >= tf.transpose(frames))[:, :, None]  # [N, N, 1]
    start = tf.reduce_max(tf.where(upto & reads[None], frames[None], 0), 1)
    length = frames - start + 1
    to_read = tf.constant([_CERTAIN, -_CERTAIN], logits.dtype)
    logits = tf.where((count >= max_segments)[..., None], -to_read, logits)
    return tf.where((length >= max_segment_length)[..., None], to_read, logits)
