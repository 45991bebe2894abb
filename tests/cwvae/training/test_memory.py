"""The estimate of memory and time, compared with counts by hand."""

import pytest
import tensorflow as tf
from helpers import tiny

from cwvae import factory
from cwvae.errors import UserError
from cwvae.training import loop, memory

MEGA = 2**20  # bytes of a float32 [512, 512]


def cost(function, *shapes):
    specs = [tf.TensorSpec(shape) for shape in shapes]
    return memory.cost(tf.function(function).get_concrete_function(*specs).graph)


def test_a_product_is_counted():
    assert cost(lambda a, b: a @ b, (3, 5), (5, 7)).operations == 2 * 3 * 5 * 7
    transposed = cost(lambda a, b: tf.linalg.matmul(a, b, transpose_a=True), (5, 3), (5, 7))
    assert transposed.operations == 2 * 3 * 5 * 7


def test_a_convolution_and_its_gradients_are_counted():
    def run(x, kernel):
        with tf.GradientTape() as tape:
            tape.watch((x, kernel))
            y = tf.nn.conv2d(x, kernel, 2, "VALID")
        return tape.gradient(y, (x, kernel))

    forward = 2 * (2 * 3 * 4 * 5) * (4 * 4 * 3)
    one = cost(lambda x, k: tf.nn.conv2d(x, k, 2, "VALID"), (2, 8, 10, 3), (4, 4, 3, 5))
    assert one.operations == forward
    # The gradients need no forward pass here: the layer is linear.
    assert cost(run, (2, 8, 10, 3), (4, 4, 3, 5)).operations == 2 * forward


def test_memory_is_the_most_that_is_alive_at_once():
    def chain(x):  # One is alive while the next is computed.
        for _ in range(5):
            x = tf.linalg.matmul(x, x)
        return x

    assert cost(chain, (512, 512)).memory == 2 * MEGA

    def kept(x):  # All are needed at the end.
        products = [tf.linalg.matmul(x, x + float(i)) for i in range(5)]
        return tf.concat(products, 0)

    assert 10 * MEGA <= cost(kept, (512, 512)).memory <= 12 * MEGA


def test_a_loop_takes_the_memory_of_one_round_and_the_time_of_all():
    def loop(x):
        return tf.while_loop(
            lambda i, y: i < 7,
            lambda i, y: (i + 1, tf.linalg.matmul(y, y)),
            (0, x),
            maximum_iterations=7,
        )[1]

    found = cost(loop, (512, 512))
    assert found.memory <= 3 * MEGA
    assert found.operations == 7 * 2 * 512**3


def test_unused_operations_are_not_counted():
    def run(x):
        tf.linalg.matmul(x, x)
        return x + 1.0

    assert cost(run, (512, 512)).operations == 0


def test_the_machine_is_measured():
    machine = memory.measure(tf.float32)
    assert 1e8 < machine.operations < 1e15
    assert 1e8 < machine.bandwidth < 1e14
    assert 2**20 < memory.available_memory() < 2**60


@pytest.mark.slow
def test_pieces_and_recomputation_need_less_memory():
    def needed(*overrides):
        settings = tiny.settings("training.batch_size=8", *overrides)
        model = factory.build(settings, 0)
        data = tiny.Squares()
        trainer = loop.Trainer(settings, model, data, data, "/nonexistent")
        arguments = tf.constant(0, tf.int64), tf.constant(1), tf.constant(0.0)
        steps = trainer._train_steps.get_concrete_function(trainer._batches(), *arguments)
        return memory.cost(steps.graph).memory

    whole = needed()
    assert needed("training.accumulate=4") < 0.5 * whole
    assert needed("training.gradient_checkpointing=7") < 0.75 * whole


@pytest.mark.slow
def test_a_step_that_does_not_fit_is_refused_with_settings_that_would(tmp_path, capsys):
    def trainer(*overrides):
        settings = tiny.settings("training.batch_size=8", *overrides)
        model = factory.build(settings, 0)
        data = tiny.Squares(20)
        return loop.Trainer(settings, model, data, data, tmp_path)

    assert trainer("training.steps=1", "training.video_every=100").run()
    assert "weights. A step of 8 clips of 7 frames will take about" in capsys.readouterr().err
    # A process counts as 0.2 GiB plus 1.3 times the tensors.
    with pytest.raises(UserError, match=r"--set training\.accumulate=2 computes the same") as error:
        trainer("training.memory=0.2024").run()
    assert "gradient_checkpointing" in str(error.value)
    with pytest.raises(UserError, match=r"accumulate=2 computes the same") as error:
        trainer("training.memory=0.2024", "training.kernels=plain").run()
    assert "gradient_checkpointing" not in str(error.value)
    with pytest.raises(UserError, match="Even one clip"):
        trainer("training.memory=0.001").run()


def test_cached_files_do_not_count_as_used_memory_of_a_container(tmp_path):
    (tmp_path / "memory.max").write_text("8000\n")
    (tmp_path / "memory.current").write_text("7900\n")
    (tmp_path / "memory.stat").write_text(
        "anon 400\nfile 7500\ninactive_file 7000\nactive_file 400\n"
    )
    assert memory._free_in_group(tmp_path) == 8000 - 500
    (tmp_path / "memory.max").write_text("max\n")
    assert memory._free_in_group(tmp_path) == float("inf")


@pytest.mark.parametrize("size", [10**6, 10**8, 10**11])
def test_a_batch_that_is_far_too_large_is_refused_before_it_is_traced(size):
    config = tiny.settings(f"training.batch_size={size}", "training.memory=1")
    with pytest.raises(UserError, match=rf"training\.batch_size = {size} clips .* only 1 GiB"):
        memory.check_batch(config)
    memory.check_batch(tiny.settings("training.memory=1"))
