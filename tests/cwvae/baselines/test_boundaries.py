"""VTA's boundary variables against closed forms and hand-written sequences."""

import math

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

from cwvae.baselines import boundaries

tfd = tfp.distributions
READ, COPY = [6.90675, -6.90675], [-6.90675, 6.90675]


def logits_and_noise(size=2, shape=(5, 3), seed=0):
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, (*shape, size)).astype(np.float32)
    return logits, rng.uniform(1e-3, 1, (*shape, size)).astype(np.float32)


def log_density(logits, log_sample, temperature):
    return tfd.ExpRelaxedOneHotCategorical(temperature, logits).log_prob(log_sample)


def test_temperature_falls_from_one_to_a_tenth():
    def temperature(step, *decay_steps):
        return float(boundaries.temperature(tf.constant(step, tf.int64), *decay_steps))

    assert temperature(0) == pytest.approx(1.0)
    assert temperature(100) == pytest.approx(0.9991)
    assert temperature(250) == pytest.approx(0.9 * 0.999**2.5 + 0.1)
    assert temperature(7, 1) == pytest.approx(0.9 * 0.999**7 + 0.1)
    assert temperature(10**8) == pytest.approx(0.1)


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("temperature", [1.0, 0.3])
def test_samples_are_one_hot_and_relaxed_by_a_gumbel_softmax(size, temperature):
    logits, noise = logits_and_noise(size)
    sample, log_sample = boundaries.straight_through(logits, noise, tf.constant(temperature))
    scores = np.exp((logits - np.log(-np.log(noise))) / temperature)
    relaxed = scores / scores.sum(-1, keepdims=True)
    np.testing.assert_allclose(np.exp(log_sample), relaxed, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(sample, np.eye(size)[relaxed.argmax(-1)])  # exactly 0 and 1


def test_a_sample_has_the_gradient_of_its_relaxation():
    logits, noise = logits_and_noise()
    weights = np.random.default_rng(1).normal(size=logits.shape).astype(np.float32)
    logits, temperature = tf.constant(logits), tf.constant(0.7)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(logits)
        sample, _ = boundaries.straight_through(logits, noise, temperature)
        gumbel = -tf.math.log(-tf.math.log(noise))
        relaxed = tf.nn.softmax((logits + gumbel) / temperature)
        hard, soft = tf.reduce_sum(weights * sample), tf.reduce_sum(weights * relaxed)
    want = tape.gradient(soft, logits)
    assert np.abs(want).max() > 0.1
    np.testing.assert_allclose(tape.gradient(hard, logits), want, rtol=1e-4, atol=1e-6)


def test_samples_follow_the_categorical_distribution():
    # The largest class of a concrete variable is categorical at any temperature.
    logits = np.log(np.array([0.15, 0.85], np.float32))
    noise = np.random.default_rng(0).uniform(1e-7, 1, (20000, 2)).astype(np.float32)
    sample, _ = boundaries.straight_through(
        np.broadcast_to(logits, noise.shape), noise, tf.constant(0.2)
    )
    assert np.mean(sample[:, boundaries.READ]) == pytest.approx(0.15, abs=0.01)


def test_extreme_logits_and_noise_stay_finite():
    logits = tf.constant([[60.0, -60.0], [-60.0, 60.0], [0.0, 0.0]])
    noise = tf.constant([[2.0**-24, 1 - 2.0**-24], [2.0**-24, 0.5], [1 - 2.0**-24, 2.0**-24]])
    temperature = tf.constant(0.1)
    with tf.GradientTape() as tape:
        tape.watch(logits)
        sample, log_sample = boundaries.straight_through(logits, noise, temperature)
        density = log_density(logits, log_sample, temperature)
        total = tf.reduce_sum(sample[:, 0]) + tf.reduce_sum(density)
    assert np.isfinite(density).all()
    assert np.isfinite(tape.gradient(total, logits)).all()


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("temperature", [1.0, 0.37, 0.1])
def test_the_density_of_samples_in_closed_form(size, temperature):
    logits, noise = logits_and_noise(size)
    other, _ = logits_and_noise(size, seed=1)
    _, log_sample = boundaries.straight_through(logits, noise, tf.constant(temperature))
    for parameters in (logits, other):
        # The density of the logarithm of a concrete variable (Maddison, Mnih & Teh 2017).
        scores = parameters.astype(np.float64) - temperature * log_sample.numpy()
        want = math.lgamma(size) + (size - 1) * math.log(temperature)
        want = want + scores.sum(-1) - size * np.log(np.exp(scores).sum(-1))
        got = log_density(parameters, log_sample, temperature)
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)
    # The density of the variable itself, where it is not too close to a corner for float32.
    relaxed = tf.exp(log_sample)
    inside = np.min(relaxed, -1) > 1e-3
    assert inside.any()
    want = tfd.RelaxedOneHotCategorical(temperature, logits).log_prob(relaxed)[inside]
    got = log_density(logits, log_sample, temperature) - tf.reduce_sum(log_sample, -1)
    np.testing.assert_allclose(got[inside], want, rtol=1e-3, atol=1e-3)


def test_the_density_integrates_to_one():
    # Over u = log(x / (1 - x)), with dx / x = (1 - x) du.
    u = np.linspace(-40, 40, 8001)
    log_sample = np.stack([-np.logaddexp(0, -u), -np.logaddexp(0, u)], -1)
    for temperature in (1.0, 0.4):
        density = log_density(
            np.broadcast_to([0.3, -1.1], log_sample.shape), log_sample, np.float64(temperature)
        )
        # TFP's base measure treats all K logarithms as free, hence the sum.
        of_variable = np.exp(density - log_sample.sum(-1))
        x = np.exp(log_sample)
        assert np.trapezoid(of_variable * x[:, 0] * x[:, 1], u) == pytest.approx(1, rel=1e-4)


def limited(reads, max_segments, max_segment_length):
    """Returns one sign per frame: "r" if it limits the next frame to a read, "c" copy, "." none."""
    reads = np.array([int(read) for read in reads], np.float32)[:, None]
    logits = np.random.default_rng(0).normal(size=(len(reads), 1, 2)).astype(np.float32)
    after = boundaries.limited(logits, reads, max_segments, max_segment_length).numpy()[:, 0]
    signs = ""
    for new, old in zip(after, logits[:, 0], strict=True):
        if np.array_equal(new, old):
            signs += "."
        else:
            read = new[0] > 0
            np.testing.assert_allclose(new, READ if read else COPY, rtol=1e-5)
            signs += "r" if read else "c"
    return signs


@pytest.mark.parametrize(
    ("reads", "max_segments", "max_length", "want"),
    [
        ("1000000", 9, 3, "..rrrrr"),  # from the third frame of the segment on
        ("1001010", 9, 3, "..r...."),  # a read restarts the count
        ("1001000", 9, 3, "..r..rr"),
        ("0000", 9, 3, "..rr"),  # the first frame always starts a segment
        ("1010100", 2, 9, "..ccccc"),  # from the start of the second segment on
        ("1010100", 3, 9, "....ccc"),
        ("1010100", 4, 9, "......."),
        ("1111", 1, 9, "cccc"),
        ("1010000", 1, 2, "crcrrrr"),  # "too long" takes precedence over "too many"
        ("1000100", 2, 3, "..rrccr"),
        ("111", 9, 1, "rrr"),
        ("111", 1, 1, "rrr"),
        ("1", 1, 1, "r"),
    ],
)
def test_segment_limits_by_hand(reads, max_segments, max_length, want):
    assert limited(reads, max_segments, max_length) == want


def released(logits, reads, max_segments, max_segment_length):
    """Returns the limited logits of one clip [N, 2], frame by frame as in the released code."""
    segments, length, limited = 0, 0, []
    for now, read in zip(logits, reads, strict=True):
        segments, length = (segments + 1, 1) if read else (segments, length + 1)
        if segments >= max_segments:
            now = COPY
        if length >= max_segment_length:
            now = READ
        limited.append(now)
    return np.array(limited)


@pytest.mark.parametrize(("max_segments", "max_length"), [(5, 8), (3, 4), (2, 9)])
def test_segment_limits_are_those_of_the_released_code(max_segments, max_length):
    rng = np.random.default_rng(0)
    reads, logits = rng.random((20, 50)) < 0.2, rng.normal(size=(20, 50, 2)).astype(np.float32)
    reads[0] = True
    got = boundaries.limited(logits, reads.astype(np.float32), max_segments, max_length).numpy()
    for clip in range(50):
        want = released(logits[:, clip], reads[:, clip], max_segments, max_length)
        np.testing.assert_allclose(got[:, clip], want, rtol=1e-5)
    # The clips reach both limits, also at once.
    assert np.any(got[..., 0] > 6)
    assert np.any(got[..., 1] > 6)


def test_limits_count_each_clip_separately_and_stop_gradients():
    logits = tf.constant(logits_and_noise(shape=(4, 2))[0])
    reads = np.array([[1, 1], [0, 1], [0, 0], [0, 1]], np.float32)
    with tf.GradientTape() as tape:
        tape.watch(logits)
        total = tf.reduce_sum(boundaries.limited(logits, reads, 2, 3))
    want = np.ones((4, 2, 2))
    want[2:, 0] = 0  # too long
    want[1:, 1] = 0  # too many
    np.testing.assert_array_equal(tape.gradient(total, logits), want)
