"""Helpers for tests that start train.py and eval.py as a user does, with a tiny model."""

import atexit
import contextlib
import json
import multiprocessing
import os
import pathlib
import re
import runpy
import subprocess
import sys
import threading
import time

ROOT = pathlib.Path(__file__).parents[2]

# With levels 2 and factor 3, the six frames of an update are two ticks of the slower level.
TINY = {
    "model.levels": 2,
    "model.factor": 3,
    "model.channel_multiplier": 0.125,
    "model.deterministic_size": 8,
    "model.hidden_size": 8,
    "model.stochastic_size": 2,
    "model.mlp_size": 8,
    "data.digit_size": 14,
    "data.train_length": 20,
    "data.test_length": 20,
    "training.steps": 2,
    "training.batch_size": 2,
    "training.seq_len": 6,
    "training.precision": "float32",  # On every machine.
    "training.kernels": "fast",
    "training.log_every": 1,
    "training.video_every": 100000,
    "training.save_every": 100000,
    "training.video_length": 10,
    "evaluation.context": 3,
    "evaluation.horizon": 5,
    "evaluation.num_videos": 3,
    "evaluation.num_samples": 2,
    "evaluation.batch_size": 2,
    "evaluation.readout": False,
}

# Words in the messages that TensorFlow 2.21 prints unless they are suppressed.
NOISE = ["oneDNN", "absl::InitializeLog", "cpu_feature_guard", "cuda", "WARNING", "Warning"]

# The environment of a user; tests/conftest.py silences TensorFlow in this process.
ENVIRONMENT = {k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"}


def sets(**changes):
    """Returns TINY as arguments; `model__levels=3` changes model.levels."""
    values = TINY | {name.replace("__", "."): value for name, value in changes.items()}
    return [word for name, value in values.items() for word in ("--set", f"{name}={value}")]


def start(*arguments, env=ENVIRONMENT, **options):
    """Starts a script in the folder of the project."""
    words = [sys.executable, *map(str, arguments)]
    return subprocess.Popen(words, cwd=ROOT, env=env, text=True, **options)


def run(*arguments, **options):
    """Runs a script to its end; returns exit code, stdout and stderr."""
    process = start(*arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)
    out, err = process.communicate(timeout=300)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def succeed(*arguments):
    result = run(*arguments)
    assert result.returncode == 0, result.stderr
    assert "Traceback" not in result.stderr
    for word in NOISE:
        assert word not in result.stdout + result.stderr
    return result


def refused(result):
    """Checks that a script ended with exit code 2 and only one message, and returns it."""
    assert result.returncode == 2, result.stderr
    assert result.stdout == ""
    said = re.sub(r"^(.* \.\.\.\n)*", "", result.stderr)  # What the script was doing.
    assert said.startswith("error: ")
    assert len(re.findall(r"^error: ", said, re.MULTILINE)) == 1
    assert "Traceback" not in said
    return said.removeprefix("error: ").rstrip("\n")


def steps_of(logdir):
    names = [path.stem for path in (logdir / "checkpoints").glob("step_*.npz")]
    return [int(name.removeprefix("step_")) for name in names]


def metrics_of(logdir):
    return [json.loads(line) for line in (logdir / "metrics.jsonl").read_text().splitlines()]


def error_of(text):
    """Returns the one error message in a script's stderr."""
    assert "Traceback" not in text
    (message,) = re.findall(r"^error: (.*)", text, re.MULTILINE)
    return message


class Training:
    """A running train.py. Its output goes to files next to the run's folder."""

    def __init__(self, logdir, words, env, name="train"):
        self.logdir = logdir
        self._files = [logdir.with_name(f"{logdir.name}.{name}.{end}") for end in ("out", "err")]
        self._began = time.time()
        with open(self._files[0], "w") as out, open(self._files[1], "w") as err:
            self._process = start(*words, env=env, stdout=out, stderr=err)
        atexit.register(self._process.kill)  # A failed test may leave it running.

    @property
    def pid(self):
        return self._process.pid

    def poll(self):
        return self._process.poll()

    def send(self, number):
        self._process.send_signal(number)

    def out(self):
        return self._files[0].read_text()

    def err(self):
        return self._files[1].read_text()

    def wait_for(self, condition):
        """Waits until a condition holds. Checks many times within the milliseconds of a save."""
        deadline = time.monotonic() + 120
        while not condition():
            assert self.poll() is None, self.err()
            assert time.monotonic() < deadline, self.err()
            time.sleep(0.0002)

    def wait_for_step(self, step):
        """Waits until there is a checkpoint of a step or a later one."""
        self.wait_for(lambda: max(steps_of(self.logdir), default=-1) >= step)

    def wait_for_save(self, step):
        """Waits until it is writing the checkpoint of a step or a later one."""
        self.wait_for(lambda: max(self.saving(), default=-1) >= step)

    def saving(self):
        """Returns the steps of the checkpoints that it is writing, or was when it was killed."""
        steps = []
        for path in (self.logdir / "checkpoints").glob(".step_*.tmp"):
            with contextlib.suppress(FileNotFoundError):
                if path.stat().st_mtime >= self._began:  # Not a leftover of an earlier process.
                    steps.append(int(path.name.split(".")[1].removeprefix("step_")))
        return steps

    def kill(self):
        self._process.kill()
        return self.wait()

    def wait(self):
        return self._process.wait(timeout=120)


class Forked:
    """A script in a fork of a process that has imported everything, which saves seconds.

    That process needs PYTHONPATH to find the project. Variables that are read at import are those
    of the first fork. The methods are those of `subprocess.Popen`.
    """

    _lock = threading.Lock()  # multiprocessing would read an exit code in two threads.

    def __init__(self, *arguments, env, log):
        """Starts a script, or -m and a module, with its arguments. The output goes to a file."""
        forks = multiprocessing.get_context("forkserver")
        forks.set_forkserver_preload(["helpers.preloaded"])
        words = [*map(str, arguments)]
        self._process = forks.Process(target=_run_forked, args=[words, env, log], daemon=True)
        with self._lock:
            self._process.start()

    def poll(self):
        with self._lock:
            return self._process.exitcode

    def kill(self):
        self._process.kill()

    def wait(self, timeout=60):
        deadline = time.monotonic() + timeout
        while self.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.001)
        return self.poll()


def _run_forked(words, env, log):
    with open(log, "w") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    os.environ.update(env)
    os.chdir(ROOT)
    module = words[0] == "-m"
    sys.argv = words[module:]
    (runpy.run_module if module else runpy.run_path)(sys.argv[0], run_name="__main__")
