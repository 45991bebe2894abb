import dataclasses

import numpy as np
import pytest
import tensorflow as tf
from helpers import tiny

from cwvae.training import schedule

BASE = tiny.settings().training


def rates(count, **changes):
    options = dataclasses.replace(BASE, learning_rate=0.2, **changes)
    return [schedule.learning_rate(options, number) for number in range(count)]


def test_a_constant_learning_rate_without_a_warm_up_is_the_setting_itself():
    assert rates(3, steps=9) == [0.2, 0.2, 0.2]


def test_a_warm_up_rises_linearly_to_the_learning_rate():
    want = [0.05, 0.1, 0.15, 0.2, 0.2, 0.2]
    np.testing.assert_allclose(rates(6, steps=9, warmup=4), want, rtol=1e-12)


def test_a_cosine_falls_to_zero_at_the_last_step():
    got = rates(9, steps=8, schedule="cosine")
    want = [0.1 * (1 + np.cos(np.pi * n / 8)) for n in range(9)]
    np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-17)
    assert got[0] == 0.2
    np.testing.assert_allclose(got[4], 0.1)
    np.testing.assert_allclose(got[8], 0, atol=1e-17)
    assert (np.diff(got) < 0).all()


def test_a_cosine_begins_after_the_warm_up():
    got = rates(12, steps=12, warmup=4, schedule="cosine")
    want = [0.05, 0.1, 0.15, 0.2, *(0.1 * (1 + np.cos(np.pi * n / 8)) for n in range(8))]
    np.testing.assert_allclose(got, want, rtol=1e-12)


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
@pytest.mark.parametrize("steps", [3, 4])
def test_a_run_may_end_within_its_warm_up(schedule, steps):
    np.testing.assert_allclose(
        rates(3, steps=steps, warmup=4, schedule=schedule), [0.05, 0.1, 0.15]
    )


def test_it_stays_at_zero_after_the_last_step_and_is_exact_at_large_steps():
    assert rates(20, steps=8, schedule="cosine")[19] < 1e-16
    options = dataclasses.replace(BASE, learning_rate=1.0, steps=2**40, warmup=2**30)
    assert schedule.learning_rate(options, 2**29) == (2**29 + 1) / 2**30


@pytest.mark.parametrize("jit", [False, True])
def test_a_compiled_step_computes_the_same_without_another_trace(jit):
    options = dataclasses.replace(BASE, steps=12, warmup=4, schedule="cosine")
    traces = []

    @tf.function(jit_compile=jit, autograph=False)
    def factor(number):
        traces.append(number)
        return tf.cast(schedule.factor(options, number), tf.float32)

    for number in range(13):
        want = np.float32(schedule.factor(options, tf.constant(number, tf.int64)))
        np.testing.assert_allclose(factor(tf.constant(number, tf.int64)), want, atol=1e-7)
    assert len(traces) == 1
