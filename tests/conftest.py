"""Settings that TensorFlow reads once when it starts, and fixtures of several test files."""

import atexit
import os
import shutil
import subprocess
import tempfile

import pytest

# A cache for all processes of the tests, which neither reads nor fills that of the user.
if "PYTEST_XDIST_WORKER" not in os.environ:
    os.environ["CWVAE_CACHE"] = tempfile.mkdtemp(prefix="cwvae-tests-")
    atexit.register(shutil.rmtree, os.environ["CWVAE_CACHE"], ignore_errors=True)

from helpers.scripts import ENVIRONMENT  # It takes the environment as it is now.

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


@pytest.fixture
def small_disk(tmp_path):
    """A folder on a file system of one megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("may not mount a file system here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture
def fill():
    """A function that fills a disk with a file, except for some bytes."""

    def fill_disk(path, leave=0):
        with open(path, "wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(4096))
            except OSError:
                file.truncate(max(file.tell() - leave, 0))

    return fill_disk


@pytest.fixture(scope="session")
def no_tensorflow(tmp_path_factory):
    """An environment where importing TensorFlow ends the program."""
    folder = tmp_path_factory.mktemp("no_tensorflow")
    for name in ("tensorflow", "keras", "tensorflow_probability"):
        (folder / f"{name}.py").write_text("raise SystemExit('TensorFlow was started')\n")
    paths = [str(folder), *filter(None, [ENVIRONMENT.get("PYTHONPATH")])]
    return ENVIRONMENT | {"PYTHONPATH": os.pathsep.join(paths)}


import cwvae  # noqa: E402, F401  First: it sets what TensorFlow reads when it starts.

# isort: split
import tensorflow as tf  # noqa: E402

# Two devices, for tests of several replicas. TensorFlow must not have started yet.
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)
