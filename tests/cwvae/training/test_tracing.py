"""No function is traced again and again, no memory grows, and XLA's step is one executable."""

import json
import os
import re
import subprocess
import sys

import pytest
import tensorflow as tf
from helpers import tiny
from helpers.scripts import ROOT
from tensorflow.python.framework import func_graph

import data_loaders
from cwvae import factory
from cwvae.compiled import TRACES
from cwvae.evaluation import evaluator
from cwvae.training import loop
from cwvae.training import step as training_step
from cwvae.training.average import WeightAverage


@pytest.fixture
def graphs(monkeypatch):
    """The names of the graphs that TensorFlow has made since the test began, also of loops."""
    made, make = [], func_graph.func_graph_from_py_func

    def counted(name, *arguments, **options):
        made.append(name)
        return make(name, *arguments, **options)

    monkeypatch.setattr(func_graph, "func_graph_from_py_func", counted)
    return made


class Watched(loop.Trainer):
    """A trainer that notes how many graphs there are after each step's logging and saving."""

    def _log_and_save(self, *arguments):
        super()._log_and_save(*arguments)
        self.after[self.step] = len(self.graphs)


def trained(logdir, graphs, *overrides):
    """Trains with logs, videos and checkpoints; returns the trainer, its settings and its data."""
    settings = tiny.settings(
        "training.steps=6",
        "training.steps_per_call=2",
        "training.video_every=2",
        "training.save_every=2",
        "training.ema=0.9",
        "evaluation.lpips=false",
        "evaluation.fvd=false",
        *overrides,
    )
    options = settings.data_options()
    data = [data_loaders.load(split=split, **options) for split in ("train", "test")]
    model = factory.build(settings, 0)
    trainer = Watched(settings, model, *data, logdir)
    trainer.graphs, trainer.after = graphs, {}
    assert trainer.run()
    return trainer, settings, data


def test_a_training_is_traced_once(graphs, tmp_path):
    trainer, *_ = trained(tmp_path, graphs, "model.levels=1")
    # The first videos and scalars of held-out clips are traced after step 2, and nothing later.
    assert trainer.after[2] == trainer.after[6] > trainer.after[1]
    assert trainer._train_steps.experimental_get_tracing_count() == 1
    assert trainer._held_out._scalars.experimental_get_tracing_count() == 1
    assert trainer.model._observe.count() == (1, 1)
    assert trainer.model._roll.count() == (1, 1)


@pytest.mark.slow
def test_evaluations_after_a_training_trace_little_more(graphs, tmp_path):
    trainer, settings, data = trained(tmp_path, graphs)
    counts = []
    for number in range(3):
        out = tmp_path / f"eval{number}"
        evaluator.evaluate(settings, trainer.model, 6, *data, tmp_path, out)
        names = ("_observe", "_roll", "_reconstruct")
        traces = [getattr(trainer.model, name).count() for name in names]
        counts.append((len(graphs), traces))
    assert counts[1][1] == counts[2][1]
    assert sum(made for made, _ in counts[2][1]) <= TRACES
    # Each evaluation traces the terms of the ELBO: for whole batches, and for the last clips.
    assert counts[2][0] - counts[1][0] == counts[1][0] - counts[0][0]
    assert graphs[counts[1][0] :].count("elbo") == 2
    assert trainer._train_steps.experimental_get_tracing_count() == 1


# In a separate process: the memory of other tests would be counted, too.
_MANY_LENGTHS = """
import gc, json
import numpy as np
import psutil
from cwvae import factory
from helpers import tiny

model, rng = factory.build(tiny.settings(), 0), np.random.default_rng(0)
video = rng.integers(0, 256, (1, 60, 32, 32, 1), np.uint8)

def memory(contexts):
    for context in contexts:
        model.predict(video[:, :context], 3 * context, seed=0)
    gc.collect()
    return psutil.Process().memory_info().rss / 2**20

found = [memory(range(1, 31)), memory(range(31, 61)), memory([60] * 30)]
print(json.dumps([found, model._observe.count(), model._roll.count()]))
"""


@pytest.mark.slow
def test_predictions_of_many_lengths_keep_few_traces_and_no_memory():
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    env = os.environ | {"PYTHONPATH": path, "CUDA_VISIBLE_DEVICES": "-1"}
    command = [sys.executable, "-c", _MANY_LENGTHS]
    printed = subprocess.run(command, env=env, check=True, capture_output=True, text=True).stdout
    (before, after, again), *counts = json.loads(printed)
    # `before` is more than the traces that are kept. Measured: 8 MiB. If all traces were kept, it
    # would be 490.
    assert after - before < 100
    assert again - after < 50
    for made, kept in counts:
        assert kept <= TRACES < made


@pytest.mark.slow
@pytest.mark.parametrize("kernels", ["plain", "fast"])
def test_the_step_that_xla_compiles_is_one_executable_without_the_host(kernels):
    changes = f"training.kernels={kernels}", "training.ema=0.9", "training.warmup=2"
    settings = tiny.settings(*changes)
    model = factory.build(settings, 0)
    optimizer = loop.build_optimizer(settings.training, model)
    average = WeightAverage(model.weights, settings.training.ema)
    step = training_step.build_step(settings, model, optimizer, jit=True, average=average)
    video = tf.constant(tiny.Squares().batch(2, 7, 0, 0))
    arguments = video, tf.constant(0, tf.int64), tf.constant(0.0)
    program = step.experimental_get_compiler_ir(*arguments)(stage="hlo")
    assert program.count("HloModule") == 1
    operations = set(re.findall(r" = .*? ([a-z][\w-]*)\(", program))
    assert {"convolution", "dot", "add"} <= operations
    host = {"infeed", "outfeed", "send", "recv", "custom-call"}
    assert not {name for name in operations if name.removesuffix("-done") in host}
    # Its arguments are the batch and the variables; it returns scalars and new variables.
    for number in range(2):
        step(video, tf.constant(number, tf.int64), tf.constant(0.0))
    assert step.experimental_get_tracing_count() == 1


@pytest.mark.slow
def test_a_training_with_xla_is_traced_once(graphs, tmp_path, monkeypatch):
    made, build = [], training_step.build_step

    def watched(*arguments):
        made.append(build(*arguments))
        return made[0]

    monkeypatch.setattr(training_step, "build_step", watched)
    trainer, *_ = trained(tmp_path, graphs, "training.jit=true")
    (step,) = made
    assert step.experimental_get_tracing_count() == 1
    assert trainer._train_steps.experimental_get_tracing_count() == 1
    assert trainer.after[2] == trainer.after[6]
