"""The boundary variables of VTA (Kim, Ahn & Bengio 2019): samples, their density, their limits.

A boundary m_t has two classes: read (0), a segment begins at frame t, and copy (1), it goes on. In
training it is a concrete (Gumbel-softmax) variable (Maddison, Mnih & Teh 2017; Jang, Gu & Poole
2017) with straight-through gradients: one-hot in value, relaxed in gradient. Symbols: N frames, B
batch, K classes, of which VTA has 2.
"""

import math

import tensorflow as tf

READ = 0
# Logits of a class that is as good as certain, p = 0.999: those of the limits.
_CERTAIN = math.log(0.999 / 0.001)


def temperature(step, decay_steps: float = 100) -> tf.Tensor:
    """Returns the temperature of a training step: from 1 down towards 0.1.

    Args:
      step: Number of the step, from 0.
      decay_steps: Within so many steps what exceeds 0.1 falls by a thousandth.
    """
    return 0.9 * 0.999 ** (tf.cast(step, tf.float32) / decay_steps) + 0.1


def one_hot(classes: tf.Tensor, like: tf.Tensor) -> tf.Tensor:
    """Returns classes [...] as vectors of the length of `like`'s, [..., K]."""
    return tf.one_hot(classes, like.shape[-1], dtype=like.dtype)


def most_likely(logits: tf.Tensor) -> tf.Tensor:
    """Returns the likeliest class of logits [..., K] as a one-hot vector."""
    return one_hot(tf.argmax(logits, -1), logits)


def straight_through(
    logits: tf.Tensor, noise: tf.Tensor, temperature: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Samples a concrete variable, and makes it one-hot.

    Args:
      logits: [..., K], up to a constant.
      noise: Uniform between 0 and 1, neither of them included, [..., K].
      temperature: Of the relaxation.

    Returns:
      The sample, [..., K]: one-hot, with the gradient of the relaxed sample; and the logarithm of
      the relaxed sample, [..., K].
    """
    gumbel = -tf.math.log(-tf.math.log(noise))
    log_sample = tf.nn.log_softmax((logits + gumbel) / temperature)
    relaxed = tf.exp(log_sample)
    # In this order the sum is exactly one-hot.
    return most_likely(log_sample) + (relaxed - tf.stop_gradient(relaxed)), log_sample


def concrete_log_density(
    logits: tf.Tensor, log_sample: tf.Tensor, temperature: tf.Tensor
) -> tf.Tensor:
    """Returns the log density of the logarithm of a concrete variable, in nats.

    That of the variable itself is less by the sum of `log_sample`: ratios are the same.

    Args:
      logits: [..., K], up to a constant.
      log_sample: [..., K]; its exponentials sum to 1.
      temperature: Of the relaxation.
    """
    size = logits.shape[-1]
    scores = logits - temperature * log_sample
    return (
        math.lgamma(size)
        + (size - 1) * tf.math.log(temperature)
        + tf.reduce_sum(scores, -1)
        - size * tf.reduce_logsumexp(scores, -1)
    )


def categorical_kl(q: tf.Tensor, p: tf.Tensor) -> tf.Tensor:
    """Returns KL(q || p) of two categoricals in nats, [...], for their logits [..., K]."""
    log_q, log_p = tf.nn.log_softmax(q), tf.nn.log_softmax(p)
    return tf.reduce_sum(tf.exp(log_q) * (log_q - log_p), -1)


def limited(
    logits: tf.Tensor, reads: tf.Tensor, max_segments: int, max_segment_length: int
) -> tf.Tensor:
    """Replaces a prior's logits where segments have become too many or too long.

    In a clip that has begun more than `max_segments` segments the next frame is a copy; else after
    `max_segment_length` frames of a segment it is a read; both with a probability of 0.999.

    Args:
      logits: Of each frame's belief about the next frame's boundary, [N, B, 2].
      reads: Which frames begin a segment, [N, B], nonzero where they do. The first frame does
        anyway.
      max_segments: Most segments of a clip, but for one.
      max_segment_length: Most frames of a segment.

    Returns:
      [N, B, 2], without gradient where it was replaced.
    """
    frames = tf.range(logits.shape[0])[:, None]
    reads = (reads > 0) | (frames == 0)
    count = tf.cumsum(tf.cast(reads, tf.int32), 0)
    # The frame at which each frame's segment began: the latest read among those up to it.
    upto = (frames >= tf.transpose(frames))[:, :, None]  # [N, N, 1]
    began = tf.reduce_max(tf.where(upto & reads[None], frames[None], 0), 1)
    length = frames - began + 1
    to_read = tf.constant([_CERTAIN, -_CERTAIN], logits.dtype)
    logits = tf.where((length >= max_segment_length)[..., None], to_read, logits)
    return tf.where((count > max_segments)[..., None], -to_read, logits)
