import numpy as np
import pytest
import tensorflow as tf

from cwvae.distributions import DiagGaussian, Noise

RNG = np.random.default_rng(0)
MEAN_Q, MEAN_P = RNG.normal(size=(2, 3, 5)).astype(np.float32)
STD_Q, STD_P = RNG.uniform(0.2, 2.0, size=(2, 3, 5)).astype(np.float32)


def test_kl_equals_the_closed_form_summed_over_the_event():
    want = np.log(STD_P / STD_Q) + (STD_Q**2 + (MEAN_Q - MEAN_P) ** 2) / (2 * STD_P**2) - 0.5
    got = DiagGaussian(MEAN_Q, STD_Q).kl(DiagGaussian(MEAN_P, STD_P))
    np.testing.assert_allclose(got, want.sum(-1), rtol=1e-5)


def test_kl_of_equals_is_zero():
    belief = DiagGaussian(MEAN_Q, STD_Q)
    np.testing.assert_array_equal(belief.kl(belief), np.zeros(3))


def test_log_prob_includes_the_normalization_and_sums_over_the_event_rank():
    value = RNG.normal(size=(2, 3, 5)).astype(np.float32)
    want = -0.5 * ((value - MEAN_Q) / 0.3) ** 2 - np.log(0.3) - 0.5 * np.log(2 * np.pi)
    got = DiagGaussian(MEAN_Q, 0.3).log_prob(value, event_rank=2)
    np.testing.assert_allclose(got, want.sum((1, 2)), rtol=1e-5)


def test_entropy_equals_the_closed_form():
    want = np.sum(np.log(STD_Q) + 0.5 * np.log(2 * np.pi * np.e), -1)
    np.testing.assert_allclose(DiagGaussian(MEAN_Q, STD_Q).entropy(), want, rtol=1e-5)


def test_sample_has_the_moments_and_is_reparameterized():
    noise = tf.random.stateless_normal((20_000, 3, 5), seed=(1, 2))
    mean = tf.constant(MEAN_Q)
    with tf.GradientTape() as tape:
        tape.watch(mean)
        samples = DiagGaussian(mean, STD_Q).sample(noise)
        total = tf.reduce_sum(samples)
    np.testing.assert_allclose(tf.reduce_mean(samples, 0), MEAN_Q, atol=0.06)
    np.testing.assert_allclose(tf.math.reduce_std(samples, 0), STD_Q, rtol=0.05)
    np.testing.assert_allclose(tape.gradient(total, mean), np.full((3, 5), 20_000.0))


def test_stop_gradient_keeps_the_values_and_blocks_gradients():
    mean = tf.constant(MEAN_Q)
    other = DiagGaussian(MEAN_P, STD_P)
    with tf.GradientTape() as tape:
        tape.watch(mean)
        belief = DiagGaussian(mean, STD_Q)
        kl = belief.stop_gradient().kl(other)
    np.testing.assert_array_equal(kl, belief.kl(other))
    assert tape.gradient(kl, mean) is None


def noise(seed=3, row=0):
    return Noise(tf.constant([seed, 0], tf.int64), row)


@pytest.mark.parametrize("kind", ["normal", "uniform"])
def test_noise_of_a_row_and_step_does_not_depend_on_the_others(kind):
    whole = getattr(noise(), kind)(1, 130, 50, 3).numpy()  # Several blocks of each.
    for row, steps, batch in ((0, 130, 1), (15, 64, 2), (16, 65, 34), (17, 1, 20), (49, 129, 1)):
        want = whole[:steps, row : row + batch]
        np.testing.assert_array_equal(getattr(noise(row=row), kind)(1, steps, batch, 3), want)
        # The same where only the graph knows the row.
        drawn = tf.function(lambda row: getattr(noise(row=row), kind)(1, steps, batch, 3))  # noqa: B023
        np.testing.assert_array_equal(drawn(tf.constant(row)), want)


def test_noise_is_standard_and_independent():
    drawn = noise().normal(0, 200, 100, 5).numpy()
    np.testing.assert_allclose([drawn.mean(), drawn.std()], [0, 1], atol=0.01)
    assert len(np.unique(drawn)) > 0.99 * drawn.size  # No block is drawn twice.
    others = [noise(seed=4).normal(0, 200, 100, 5), noise().normal(1, 200, 100, 5)]
    others += [noise().fold_in(0).normal(0, 200, 100, 5), noise().fold_in(1).normal(0, 200, 100, 5)]
    for other in (*others, np.roll(drawn, 1, 0), np.roll(drawn, 64, 0), np.roll(drawn, 16, 1)):
        assert abs(np.corrcoef(drawn.ravel(), np.ravel(other))[0, 1]) < 0.02
    between = noise().uniform(0, 200, 100, 5).numpy()
    assert 0 < between.min() < 1e-4
    assert 1 - 1e-4 < between.max() < 1
