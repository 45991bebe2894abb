"""The training step: the result does not depend on how it is run."""

import functools

import numpy as np
import pytest
import tensorflow as tf
from helpers import tiny

from cwvae import factory
from cwvae.training import loop
from cwvae.training import step as training_step
from cwvae.training.average import WeightAverage


def results(*overrides, model="cwvae", strategy=None, steps=3, jit=False):
    """Trains some steps; returns the scalars of every step, and the weights."""
    settings = tiny.settings("training.batch_size=4", *overrides, model=model)
    strategy = strategy or tf.distribute.get_strategy()
    replicas = strategy.num_replicas_in_sync
    with strategy.scope():
        model = factory.build(settings, settings.training.seed)
        optimizer = loop.build_optimizer(settings.training, model)
        decay = settings.training.ema
        average = WeightAverage(model.weights, decay) if decay else None
    step = training_step.build_step(settings, model, optimizer, replicas, jit, average)
    run = training_step.build_steps(settings, step, optimizer, strategy)

    def batches(_):
        return tiny.Squares().batches(4, 7, 0, 0, replicas, range(replicas))

    iterator = iter(strategy.distribute_datasets_from_function(batches))
    calls = []
    for first, count in ((0, steps - 1), (steps - 1, 1)):
        number = tf.constant(first, tf.int64)
        columns = run(iterator, number, tf.constant(count), tf.constant(0.0))
        calls.append({name: column.numpy() for name, column in columns.items()})
    scalars = {name: np.concatenate([call[name] for call in calls]) for name in calls[0]}
    weights = [*model.weights, *(average.state.values() if average else ())]
    return scalars, [weight.numpy() for weight in weights]


@pytest.fixture(scope="module")
def plain():
    return results()


def assert_same(one, other, rtol):
    assert one[0].keys() == other[0].keys()
    for name, want in one[0].items():
        np.testing.assert_allclose(other[0][name], want, rtol=rtol, atol=1e-5, err_msg=name)
    for want, got in zip(one[1], other[1], strict=True):
        np.testing.assert_allclose(got, want, rtol=rtol, atol=2e-5)


def test_steps_in_one_call_equal_steps_in_separate_calls(plain):
    other = results(steps=2)
    assert len(other[0]["loss"]) == 2
    np.testing.assert_array_equal(other[0]["loss"], plain[0]["loss"][:2])
    assert len(plain[0]["loss"]) == 3
    assert (plain[0]["finite"] == 1).all()


def test_a_batch_in_pieces_gives_the_same_result(plain):
    assert_same(plain, results("training.accumulate=4"), 1e-4)


@functools.cache  # TensorFlow confuses the collectives of two strategies in one process.
def mirrored():
    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])


def test_two_replicas_with_half_the_batch_each_equal_one(plain):
    assert_same(plain, results(strategy=mirrored()), 1e-4)


@pytest.mark.slow
def test_a_schedule_and_an_average_do_not_depend_on_devices_and_pieces():
    overrides = ["training.ema=0.9", "training.schedule=cosine", "training.warmup=2"]
    one = results(*overrides)
    assert_same(one, results(*overrides, "training.accumulate=4"), 1e-4)
    assert_same(one, results(*overrides, strategy=mirrored()), 1e-4)
    assert one[1][-len(one[1]) // 2].shape == ()  # The number of updates, before the averages.


@pytest.mark.slow
def test_two_replicas_in_pieces_equal_one(plain):
    assert_same(plain, results("training.accumulate=2", strategy=mirrored()), 1e-4)


def test_one_device_of_a_strategy_computes_exactly_the_same(plain):
    other = results(strategy=tf.distribute.OneDeviceStrategy("/cpu:0"))
    for name, want in plain[0].items():
        np.testing.assert_array_equal(other[0][name], want)


@pytest.mark.parametrize("frames", [5, 1000])
def test_recomputing_activations_changes_nothing(plain, frames):
    assert_same(plain, results(f"training.gradient_checkpointing={frames}"), 1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides",
    [
        ["training.ema=0.9", "training.schedule=cosine", "training.warmup=2"],
        ["training.accumulate=2", "training.gradient_checkpointing=5"],
    ],
    ids=["average", "in pieces"],
)
def test_the_whole_step_compiles_under_xla_and_computes_the_same(overrides):
    # XLA's random bits differ from those of TensorFlow's kernels, so no samples are drawn.
    overrides = ["model.mean_only=true", *overrides]
    assert_same(results(*overrides), results(*overrides, jit=True), 1e-3)


# Models with batch normalization, which normalizes each piece or device's share separately.


@pytest.mark.slow
def test_two_replicas_equal_a_batch_in_two_pieces_with_batch_normalization():
    pieces = results("training.accumulate=2", model="svg")
    assert_same(pieces, results(model="svg", strategy=mirrored()), 1e-3)
    assert (pieces[0]["finite"] == 1).all()


@pytest.mark.slow
@pytest.mark.parametrize(("model", "precision"), [("svg", "bfloat16"), ("vta", "float32")])
def test_the_whole_step_of_the_baselines_compiles_under_xla(model, precision):
    scalars, _ = results(f"training.precision={precision}", model=model, jit=True)
    want, _ = results(f"training.precision={precision}", model=model)
    # XLA's random bits differ.
    np.testing.assert_allclose(scalars["nll"], want["nll"], rtol=0.3, atol=20)
    assert np.isfinite(scalars["loss"]).all()


@pytest.mark.parametrize("broken", [False, True])
def test_moving_statistics_move_by_a_tenth_if_the_update_is_applied(broken):
    settings = tiny.settings(model="svg")
    model = factory.build(settings, settings.training.seed)
    optimizer = loop.build_optimizer(settings.training, model)
    step = tf.function(training_step.build_step(settings, model, optimizer))
    video = tf.constant(tiny.Squares().batch(2, 7, 0, 0))
    before = [weight.numpy() for weight in model.non_trainable_weights]
    number = tf.constant(0, tf.int64)
    seed = tf.random.fold_in(tf.constant([settings.training.seed, 0], tf.int64), number)
    wanted = model.elbo(video, seed, step=number).statistics
    assert len(wanted) == len(before) > 0
    if broken:
        weight = model.trainable_weights[-1]
        weight.assign(np.full(weight.shape, np.nan))
    assert float(step(video, number, tf.constant(0.0))["finite"]) == float(not broken)
    for weight, old, target in zip(model.non_trainable_weights, before, wanted, strict=True):
        want = old if broken else 0.9 * old + 0.1 * target
        np.testing.assert_allclose(weight, want, rtol=1e-3, atol=1e-5, err_msg=weight.path)


@pytest.mark.slow
def test_the_whole_step_compiles_under_xla_in_bfloat16():
    scalars, _ = results("training.precision=bfloat16", jit=True)
    want, _ = results("training.precision=bfloat16")
    np.testing.assert_allclose(scalars["nll"], want["nll"], rtol=0.2, atol=10)
    assert np.isfinite(scalars["loss"]).all()


def test_the_gradient_is_clipped_by_its_global_norm():
    settings = tiny.settings("training.clip_norm=0.5")
    model = factory.build(settings, settings.training.seed)
    optimizer = loop.build_optimizer(settings.training, model)
    step = tf.function(training_step.build_step(settings, model, optimizer))
    video = tf.constant(tiny.Squares().batch(2, 7, 0, 0))
    scalars = step(video, tf.constant(0, tf.int64), tf.constant(0.0))
    assert float(scalars["gradient_norm"]) > 0.5  # before clipping
    # After one step, Adam's momentum is a tenth of the gradient.
    momenta = [v for name, v in optimizer.state.items() if name.startswith("momentum/")]
    np.testing.assert_allclose(tf.linalg.global_norm(momenta), 0.1 * 0.5, rtol=1e-3)


def test_beta_and_free_nats_affect_the_loss():
    video = tf.constant(tiny.Squares().batch(2, 7, 0, 0))

    def scalars(*overrides):
        settings = tiny.settings(*overrides)
        model = factory.build(settings, settings.training.seed)
        loss, scalars = training_step.loss_and_scalars(
            settings, model.kl_names, model.elbo(video, 0)
        )
        assert loss == scalars["loss"]
        return {k: float(v) for k, v in scalars.items()}

    plain = scalars()
    weighted = scalars("model.beta=[2.0, 0.0]")
    want = plain["nll"] + 2 * plain["kl/level_1_sum"] / 7
    np.testing.assert_allclose(weighted["loss"], want, rtol=1e-5)
    free = scalars("model.free_nats=100.0")
    np.testing.assert_allclose(free["loss"], plain["nll"] + 100 * (7 + 3) / 7, rtol=1e-5)
