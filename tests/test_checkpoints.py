import keras
import numpy as np
import pytest
import tiny

from cwvae import checkpoints, factory
from cwvae.errors import UserError


def model(*overrides):
    settings = tiny.settings(*overrides)
    return factory.build(settings, settings.training.seed)


def adam(for_model):
    optimizer = keras.optimizers.Adam(0.1)
    optimizer.build(for_model.trainable_variables)
    return optimizer


def test_a_checkpoint_restores_weights_optimizer_and_step(tmp_path):
    saved = model()
    optimizer = adam(saved)
    rng = np.random.default_rng(0)
    for variable in [*saved.weights, *optimizer.variables]:
        variable.assign(rng.normal(size=variable.shape) * 10)
    path = checkpoints.save(tmp_path, 41, saved, optimizer)
    assert path == checkpoints.find(tmp_path)
    fresh = model("training.seed=1")
    other = adam(fresh)
    assert checkpoints.restore(path, fresh, other) == 41
    for one, two in zip(saved.weights, fresh.weights, strict=True):
        np.testing.assert_array_equal(one, two)
    for one, two in zip(optimizer.variables, other.variables, strict=True):
        np.testing.assert_array_equal(one, two)


def test_the_newest_are_kept_in_order_and_nothing_is_left_aside(tmp_path):
    weights = model()
    for step in (5, 9, 10, 100):
        checkpoints.save(tmp_path, step, weights, keep=2)
    assert list(checkpoints.steps(tmp_path)) == [10, 100]
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == [
        "step_000000010.npz",
        "step_000000100.npz",
    ]
    assert checkpoints.find(tmp_path).name == "step_000000100.npz"
    assert checkpoints.find(tmp_path, 10).name == "step_000000010.npz"


def test_a_missing_step_lists_those_there_are(tmp_path):
    checkpoints.save(tmp_path, 3, model())
    with pytest.raises(UserError, match="no checkpoint of step 4; there are 3"):
        checkpoints.find(tmp_path, 4)


def test_no_checkpoint_says_how_to_make_one(tmp_path):
    with pytest.raises(UserError, match=r"python train\.py --logdir"):
        checkpoints.find(tmp_path)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.hidden_size=6", r"prior_input_kernel has the shape \[14, 7\].*\[14, 6\]"),
        ("model.levels=3", "is missing"),
        ("model.levels=1", "which the model lacks"),
    ],
)
def test_a_checkpoint_that_does_not_fit_changes_nothing(tmp_path, override, message):
    path = checkpoints.save(tmp_path, 1, model())
    other = model(override)
    before = [weight.numpy() for weight in other.weights]
    with pytest.raises(UserError, match=message):
        checkpoints.restore(path, other)
    for old, weight in zip(before, other.weights, strict=True):
        np.testing.assert_array_equal(old, weight)


@pytest.mark.parametrize("damage", ["empty", "truncated", "text", "flipped"])
def test_a_damaged_file_is_named(tmp_path, damage):
    path = checkpoints.save(tmp_path, 1, model())
    data = bytearray(path.read_bytes())
    if damage == "flipped":
        data[len(data) // 2] ^= 0xFF
    contents = {
        "empty": b"",
        "truncated": data[: len(data) // 2],
        "text": b"hello",
        "flipped": data,
    }
    path.write_bytes(contents[damage])
    with pytest.raises(UserError, match=r"step_000000001\.npz: not a readable checkpoint"):
        checkpoints.restore(path, model())


def test_objects_are_not_unpickled(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    path = tmp_path / "checkpoints" / "step_000000001.npz"
    np.savez(path, step=np.array([{"a": 1}], dtype=object))
    with pytest.raises(UserError, match="not a readable checkpoint"):
        checkpoints.restore(path, model())
