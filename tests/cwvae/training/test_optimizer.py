import keras
import numpy as np
import pytest
import tensorflow as tf

from cwvae.training.optimizer import Adam

RNG = np.random.default_rng(0)
START = RNG.normal(size=(5, 7)).astype(np.float32)
GRADIENTS = RNG.normal(size=(4, 5, 7)).astype(np.float32)
# The second moment falls; otherwise AMSGrad would be Adam.
SCALES = np.array([3, 10, 0.1, 0.1], np.float32)[:, None, None]


@pytest.mark.parametrize("amsgrad", [False, True])
@pytest.mark.parametrize("compiled", ["eager", "function", "XLA"])
def test_it_is_adam(compiled, amsgrad):
    theirs, ours = keras.Variable(START), keras.Variable(START)
    want = keras.optimizers.Adam(0.01, epsilon=1e-4, amsgrad=amsgrad)
    want.build([theirs])
    got = Adam([ours], 0.01, 1e-4, amsgrad)
    apply = got.apply
    if compiled != "eager":
        apply = tf.function(apply, jit_compile=compiled == "XLA")
    for gradient in GRADIENTS * SCALES:
        want.apply([tf.constant(gradient)], [theirs])
        apply([tf.constant(gradient)], tf.constant(True))
    np.testing.assert_allclose(ours.numpy(), theirs.numpy(), rtol=1e-5, atol=1e-7)
    assert np.abs(ours.numpy() - START).max() > 0.01


def test_amsgrad_keeps_the_largest_second_moment():
    changes = []
    for amsgrad in (False, True):
        variable = keras.Variable(START)
        adam = Adam([variable], 0.01, 1e-4, amsgrad)
        for gradient in [*GRADIENTS * SCALES, *[np.zeros_like(START)] * 200]:
            adam.apply([tf.constant(gradient)], tf.constant(True))
        changes.append(adam.state)
    (largest,) = (v for name, v in changes[1].items() if name.startswith("largest_velocity/"))
    (last,) = (v for name, v in changes[0].items() if name.startswith("velocity/"))
    assert np.all(largest.numpy() > 1.2 * last.numpy())


@pytest.mark.parametrize("compiled", [False, True])
def test_an_update_that_is_not_finite_is_skipped_and_counted(compiled):
    whole, holed = keras.Variable(START), keras.Variable(START)
    plain, guarded = Adam([whole], 0.01, 1e-4), Adam([holed], 0.01, 1e-4)
    apply = tf.function(guarded.apply) if compiled else guarded.apply
    for n, gradient in enumerate(GRADIENTS):
        plain.apply([tf.constant(gradient)], tf.constant(True))
        if n in (1, 2):
            for _ in range(n):
                apply([tf.constant(gradient * np.nan)], tf.constant(False))
            assert guarded.skipped_in_a_row.numpy() == n
        apply([tf.constant(gradient)], tf.constant(True))
        assert guarded.skipped_in_a_row.numpy() == 0
    np.testing.assert_array_equal(holed.numpy(), whole.numpy())
    assert guarded.skipped.numpy() == 3


@pytest.mark.parametrize("amsgrad", [False, True])
def test_a_factor_multiplies_the_learning_rate_and_a_factor_of_one_changes_no_bit(amsgrad):
    variables = [keras.Variable(START) for _ in range(4)]
    rates, factors = (0.01, 0.01, 0.02, 0.01), (None, tf.constant(1.0), None, tf.constant(2.0))
    for variable, rate, factor in zip(variables, rates, factors, strict=True):
        apply = Adam([variable], rate, 1e-4, amsgrad).apply
        more = () if factor is None else (factor,)
        for gradient in GRADIENTS:
            apply([tf.constant(gradient)], tf.constant(True), *more)
    np.testing.assert_array_equal(variables[0].numpy(), variables[1].numpy())
    np.testing.assert_allclose(variables[2].numpy(), variables[3].numpy(), rtol=1e-6)


def test_the_state_holds_all_that_resuming_needs():
    variables = [keras.Variable(START) for _ in range(2)]
    whole, other = (Adam([v], 0.01, 1e-4) for v in variables)
    for gradient in GRADIENTS[:2]:
        whole.apply([tf.constant(gradient)], tf.constant(True))
    assert list(whole.state)[:3] == ["iterations", "skipped", "skipped_in_a_row"]
    assert len(whole.state) == 5
    for one, two in zip(whole.state.values(), other.state.values(), strict=True):
        two.assign(one)
    variables[1].assign(variables[0])
    for gradient in GRADIENTS[2:]:
        for optimizer in (whole, other):
            optimizer.apply([tf.constant(gradient)], tf.constant(True))
    np.testing.assert_array_equal(variables[0].numpy(), variables[1].numpy())
