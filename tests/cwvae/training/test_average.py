import keras
import numpy as np
import pytest
import tensorflow as tf

from cwvae.training.average import WeightAverage

RNG = np.random.default_rng(0)
START = RNG.normal(size=(3, 4)).astype(np.float32)
VALUES = RNG.normal(size=(5, 3, 4)).astype(np.float32)


def make(decay=0.9):
    weight = keras.Variable(START)
    return weight, WeightAverage([weight], decay)


def value(average, weight):
    return average.state[weight.path].numpy()


@pytest.mark.parametrize("decay", [0.5, 0.9, 0.9999])
@pytest.mark.parametrize("compiled", ["eager", "function", "XLA"])
def test_it_is_the_corrected_average_of_kingma_and_ba(compiled, decay):
    weight, average = make(decay)
    update = average.update
    if compiled != "eager":
        update = tf.function(update, jit_compile=compiled == "XLA", autograph=False)
    total = np.zeros(START.shape)
    for count, new in enumerate(VALUES, 1):
        weight.assign(new)
        update(tf.constant(True))
        total = decay * total + (1 - decay) * new
        want = total / (1 - decay**count)
        np.testing.assert_allclose(value(average, weight), want, rtol=1e-4, atol=1e-6)
    assert average.state["updates"].numpy() == 5


def test_the_average_of_equal_weights_is_the_weight():
    weight, average = make(0.99)
    for _ in range(9):
        average.update(tf.constant(True))
    np.testing.assert_array_equal(value(average, weight), START)


def test_a_skipped_update_does_not_move_it():
    weight, average = make()
    weight.assign(VALUES[0])
    average.update(tf.constant(True))
    before = value(average, weight)
    weight.assign(VALUES[1])
    average.update(tf.constant(False))
    np.testing.assert_array_equal(value(average, weight), before)
    assert average.state["updates"].numpy() == 1


def test_the_model_has_it_within_the_block_and_its_own_weights_after_it():
    weight, average = make()
    average.update(tf.constant(True))
    weight.assign(VALUES[0])
    with average.applied():
        np.testing.assert_array_equal(weight.numpy(), START)
    np.testing.assert_array_equal(weight.numpy(), VALUES[0])

    with pytest.raises(KeyError), average.applied():
        raise KeyError
    np.testing.assert_array_equal(weight.numpy(), VALUES[0])
