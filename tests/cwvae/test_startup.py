"""Starting where Keras, memory or the keyboard get in the way."""

import json
import platform

import numpy as np
import pytest
import tensorflow as tf
from helpers.scripts import ENVIRONMENT, run

from cwvae.errors import exit_on_user_error

BUILD = """
import cwvae  # As in the scripts, before TensorFlow.
from helpers import tiny
import sys
from cwvae import factory
for name in sys.argv[1:]:
    model = factory.build(tiny.settings(model=name), 0)
    print([w.shape for w in model.weights], {w.dtype for w in model.weights})
"""


def build(home=None, **variables):
    """Returns what a process prints that builds the models."""
    env = ENVIRONMENT | {"PYTHONPATH": "tests"} | variables
    if home is not None:
        env["KERAS_HOME"] = str(home)
    result = run("-c", BUILD, "cwvae", "svg", "vta", env=env)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.slow
def test_the_settings_of_a_users_keras_do_not_matter(tmp_path):
    settings = {"image_data_format": "channels_first", "floatx": "float64", "backend": "torch"}
    (tmp_path / "keras.json").write_text(json.dumps(settings | {"epsilon": 1e-7}))
    assert build(tmp_path, KERAS_BACKEND="jax") == build()


@pytest.mark.skipif(
    (platform.system(), platform.machine()) != ("Linux", "x86_64"), reason="another TensorFlow"
)
@pytest.mark.parametrize(("given", "used"), [({}, True), ({"TF_ENABLE_ONEDNN_OPTS": "0"}, False)])
def test_convolutions_are_those_of_onednn_unless_they_are_switched_off(given, used):
    code = """
import cwvae  # As in the scripts, before TensorFlow.
import tensorflow as tf
with tf.device("CPU"):
    tf.nn.conv2d(tf.ones((1, 8, 8, 1)), tf.ones((3, 3, 1, 1)), 1, "SAME")
"""
    own = {k: v for k, v in ENVIRONMENT.items() if k != "TF_ENABLE_ONEDNN_OPTS"}
    result = run("-c", code, env=own | {"ONEDNN_VERBOSE": "1"} | given)
    assert result.returncode == 0, result.stderr
    assert (",convolution," in result.stdout) == used


def test_a_process_with_another_keras_gets_one_sentence():
    code = """
import keras
keras.config.backend = lambda: "jax"
import cwvae.video_model
"""
    result = run("-c", code)
    assert result.stderr.splitlines()[-1].startswith(
        "ImportError: cwvae needs Keras with TensorFlow, but this process imported Keras with jax."
    )


@pytest.mark.parametrize(
    ("fail", "words"),
    [
        (
            lambda: np.zeros((2**20, 2**30)),
            "8.00 PiB for an array with shape",
        ),
        (lambda: tf.random.uniform((2**20, 2**24)), "tensor with shape[1048576,16777216] and type"),
        (lambda: [0] * 2**60, "out of memory. Lower"),
    ],
    ids=["NumPy", "TensorFlow", "Python"],
)
def test_too_little_memory_gives_one_sentence(capsys, fail, words):
    with pytest.raises(SystemExit) as caught, exit_on_user_error():
        fail()
    assert caught.value.code == 2
    message = capsys.readouterr().err
    assert message.startswith("error: out of memory")
    assert message.count("\n") == 1
    assert words in message
    assert "training.batch_size" in message


MODULES = ["cwvae.export", "cwvae.run.restore_config", "cwvae.original", "data_loaders"]


@pytest.mark.parametrize(
    "script", ["train.py", "eval.py", "compare.py", *(f"-m {name}" for name in MODULES)]
)
def test_ctrl_c_during_the_imports_prints_no_traceback(tmp_path, script):
    (tmp_path / "numpy.py").write_text("raise KeyboardInterrupt\n")
    result = run(*script.split(), env=ENVIRONMENT | {"PYTHONPATH": str(tmp_path)})
    assert (result.returncode, result.stdout, result.stderr) == (130, "", "interrupted\n")
