"""Training by two processes on this machine, which TF_CONFIG connects as it would two machines.

These tests run the real train.py. The run must equal that of one process, whatever happens.
"""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import time

import numpy as np
import pytest
from helpers.scripts import (
    ENVIRONMENT,
    ROOT,
    Training,
    error_of,
    metrics_of,
    refused,
    run,
    sets,
    steps_of,
)

from cwvae import config as configuration
from cwvae.run import checkpoints
from cwvae.training import strategies

STEPS = 40
CPU = ENVIRONMENT | {"CUDA_VISIBLE_DEVICES": "-1"}
SETTINGS = {"training__steps": STEPS, "training__save_every": 4, "training__log_every": 5}
SETTINGS |= {"training__ema": 0.9}
EXAMPLE = {"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 0}}


def command(logdir, strategy="multi_worker", **changes):
    words = ("train.py", "--config", "configs/quickstart.yml", "--logdir", logdir)
    return *words, *sets(**SETTINGS | {"training__strategy": strategy} | changes)


def free_port():
    with socket.socket() as one:
        one.bind(("localhost", 0))
        return one.getsockname()[1]


def listens(port):
    with socket.socket() as one:
        return one.connect_ex(("localhost", port)) == 0


def environment(ports, index):
    """Returns the environment of a worker, from the ports of all and its index."""
    content = {
        "cluster": {"worker": [f"localhost:{port}" for port in ports]},
        "task": {"type": "worker", "index": index},
    }
    return CPU | {"TF_CONFIG": json.dumps(content)}


def pair(logdir, other=None, **changes):
    """Starts two workers. `other` is the folder of the second if it differs."""
    ports = [free_port(), free_port()]
    return [
        Training(folder, command(folder, **changes), environment(ports, i), f"worker{i}")
        for i, folder in enumerate([logdir, other or logdir])
    ]


def finish(workers):
    """Waits until all have ended, and checks that they succeeded."""
    for worker in workers:
        assert worker.wait() == 0, worker.err()
        assert worker.out().startswith("Trained.")
        assert "Traceback" not in worker.err()


def assert_same_run(alone, together):
    want, got = metrics_of(alone), metrics_of(together)
    assert [line["step"] for line in want] == [line["step"] for line in got]
    for one, other in zip(want, got, strict=True):
        assert one.keys() == other.keys()
        for name in one.keys() - {"step", "frames_per_second"}:
            assert other[name] == pytest.approx(one[name], rel=1e-4, abs=1e-4), (one["step"], name)
    want, got = (checkpoints.read(checkpoints.find(logdir))[0] for logdir in (alone, together))
    assert want.keys() == got.keys()
    for name, array in want.items():
        np.testing.assert_allclose(got[name], array, atol=1e-4, err_msg=name)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The run of one process."""
    logdir = tmp_path_factory.mktemp("alone") / "run"
    result = run(*command(logdir, "single"), env=CPU)
    assert result.returncode == 0, result.stderr
    return logdir


@pytest.mark.slow
def test_two_workers_train_as_one_process_and_only_the_first_writes(alone, tmp_path):
    logdir, other = tmp_path / "run", tmp_path / "other"
    workers = pair(logdir, other)
    finish(workers)
    assert_same_run(alone, logdir)
    assert not other.exists()
    # Both trained: each waited for the other, and computed half of each batch.
    for worker in workers:
        assert "waiting for the others" in worker.err()
    assert "frames/s" in workers[0].err()
    assert "frames/s" not in workers[1].err()


LOST = {"the first killed": (0, signal.SIGKILL), "the second frozen": (1, signal.SIGSTOP)}


@pytest.mark.slow
@pytest.mark.parametrize(("lost", "number"), LOST.values(), ids=LOST)
def test_if_a_worker_is_lost_the_other_ends_with_a_message(alone, tmp_path, lost, number):
    logdir = tmp_path / "run"
    workers = pair(logdir)
    workers[0].wait_for_step(8)
    workers[lost].send(number)
    began = time.monotonic()
    left = workers[1 - lost]
    assert left.wait() == 1
    print(f"worker {1 - lost} ended {time.monotonic() - began:.1f} s after the other")
    message = error_of(left.err())
    assert message.startswith("another worker is gone (")
    assert "Start all workers again, each with the same command" in message
    workers[lost].kill()
    assert 8 <= max(steps_of(logdir)) < STEPS

    finish(pair(logdir))
    assert_same_run(alone, logdir)


@pytest.mark.slow
def test_sigterm_to_one_worker_stops_both_and_one_resumes(alone, tmp_path):
    logdir = tmp_path / "run"
    workers = pair(logdir)
    workers[0].wait_for_step(8)
    workers[1].send(signal.SIGTERM)
    for worker in workers:
        assert worker.wait() == 143
        assert "Stopped and saved. To resume: python train.py" in worker.out()
        assert "Traceback" not in worker.err()
    assert "Stopping after this step: SIGTERM." in workers[1].err()
    stopped_at = max(steps_of(logdir))
    assert 8 <= stopped_at < STEPS

    finish([Training(logdir, command(logdir, "single"), CPU)])
    assert_same_run(alone, logdir)


@pytest.mark.slow
def test_a_worker_that_does_not_see_the_runs_folder_says_so(alone, tmp_path):
    logdir = shutil.copytree(alone, tmp_path / "run")
    workers = pair(logdir, tmp_path / "other", training__steps=STEPS + 2)
    assert workers[1].wait() == 2
    message = error_of(workers[1].err())
    assert f"the checkpoint of step {STEPS} is not there, but the first worker resumes" in message
    assert workers[0].wait() == 1
    assert error_of(workers[0].err()).startswith("another worker is gone (")


@pytest.mark.slow
def test_workers_agree_on_a_precision(tmp_path):
    logdir = tmp_path / "run"
    workers = pair(logdir, training__precision="auto", training__steps=4)
    finish(workers)
    chosen = configuration.load(logdir / "config.yml").training.precision
    assert chosen in ("float32", "bfloat16")
    words = f"training.precision=auto: {chosen} (bfloat16 is faster on "
    assert words in workers[0].err()
    assert "precision" not in workers[1].err()


@pytest.mark.slow
def test_training_that_diverges_ends_on_both_workers_with_the_reason(tmp_path):
    logdir = tmp_path / "run"
    workers = pair(logdir, training__learning_rate=1e30)
    for worker in workers:
        assert worker.wait() == 1
        assert error_of(worker.err()).startswith("step 2: kl/level_2_sum is ")
    assert checkpoints.read(checkpoints.find(logdir))[1]["step"] == 1


def test_workers_with_different_settings_end(tmp_path):
    ports = [free_port(), free_port()]
    for index, rate in enumerate([0.001, 0.002]):
        words = command(tmp_path / "run", training__learning_rate=rate)
        worker = Training(tmp_path / "run", words, environment(ports, index), f"worker{index}")
        if index == 0:
            first = worker
    for one in (first, worker):
        assert one.wait() == 2, one.err()
        assert "were given different settings or training data" in error_of(one.err())


def test_a_worker_whose_port_is_taken_is_refused(tmp_path):
    with socket.socket() as other:
        other.bind(("", 0))
        other.listen()
        ports = [free_port(), other.getsockname()[1]]
        result = run(*command(tmp_path / "run"), env=environment(ports, 1))
    assert result.returncode == 2
    waiting, starting, error = result.stderr.splitlines()
    assert starting == "Starting TensorFlow ..."
    assert waiting == "Worker 1 of the 2 in TF_CONFIG: waiting for the others."
    assert error.startswith("error: cannot join the workers of TF_CONFIG: ")
    assert "Check that the port of this worker is free" in error


def test_ctrl_c_ends_a_worker_that_waits_for_another(tmp_path):
    port = free_port()
    env = environment([port, free_port()], 0)
    worker = Training(tmp_path / "run", command(tmp_path / "run"), env)
    worker.wait_for(lambda: listens(port))
    time.sleep(1)
    worker.send(signal.SIGINT)
    assert worker.wait() == -signal.SIGINT


@pytest.mark.parametrize(
    ("text", "strategy", "words"),
    [
        (None, "multi_worker", "needs the environment variable TF_CONFIG"),
        ("", "multi_worker", "needs the environment variable TF_CONFIG"),
        ("{cluster", "multi_worker", "TF_CONFIG is not readable"),
        ('{"cluster": {}}', "auto", "TF_CONFIG is not readable (KeyError('worker'))"),
        (json.dumps(EXAMPLE | {"task": {"type": "worker", "index": 2}}), "auto", "name workers"),
        (json.dumps(EXAMPLE | {"task": {"type": "ps", "index": 0}}), "auto", "name workers only"),
        (json.dumps(EXAMPLE).replace("b:1", "b"), "auto", "names a worker 'b', which is not host"),
        (json.dumps(EXAMPLE), "single", "training.strategy = single is for one machine"),
    ],
    ids=["missing", "empty", "torn", "no workers", "index", "no worker", "no port", "single"],
)
def test_a_wrong_tf_config_is_refused_before_tensorflow_starts(
    tmp_path, no_tensorflow, text, strategy, words
):
    env = {name: value for name, value in no_tensorflow.items() if name != "TF_CONFIG"}
    env |= {} if text is None else {"TF_CONFIG": text}
    message = refused(run(*command(tmp_path / "run", strategy), env=env))
    assert words in message
    assert '"task": {"type": "worker", "index": 0}}' in message or strategy == "single"
    assert not (tmp_path / "run").exists()


# Stand-ins for the commands in the Slurm script of the documentation.
SRUN = """
for SLURM_PROCID in 0 1; do export SLURM_PROCID; "$@" || code=$?; done
exit $code
"""
STAND_INS = {
    "srun": SRUN,
    "scontrol": '[ $1 = show ] && printf "node1\\nnode2\\n" || echo "$@" >> log',
    "python": 'echo "$TF_CONFIG" >> log; echo "$@" >> log; exit $CODE',
}


@pytest.mark.parametrize("code", [0, 143, 1])
def test_the_slurm_script_makes_tf_config_and_requeues_a_stopped_job(tmp_path, monkeypatch, code):
    page = (ROOT / "docs" / "several_machines.md").read_text()
    (script,) = re.findall(r"```sh\n(#!/bin/bash\n.*?)```", page, re.DOTALL)
    for name, text in STAND_INS.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{text}\n")
        (tmp_path / name).chmod(0o755)
    env = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "CODE": str(code)}
    env |= {"SLURM_JOB_NODELIST": "node[1-2]", "SLURM_JOB_ID": "7"}
    result = subprocess.run(["bash", "-c", script], cwd=tmp_path, env=env, check=False)
    assert result.returncode == code
    log = (tmp_path / "log").read_text().splitlines()
    for index in range(2):
        monkeypatch.setenv("TF_CONFIG", log[2 * index])
        assert strategies.workers() == (index, 2)
        assert json.loads(log[2 * index])["cluster"]["worker"] == ["node1:23456", "node2:23456"]
        assert log[2 * index + 1].startswith("train.py --config configs/moving_mnist.yml --logdir")
    assert log[4:] == (["requeue 7"] if code == 143 else [])


def test_the_example_of_the_documentation_is_a_tf_config(monkeypatch):
    page = (ROOT / "docs" / "several_machines.md").read_text()
    monkeypatch.setenv("TF_CONFIG", re.search(r"export TF_CONFIG='([^']*)'", page)[1])
    assert strategies.workers() == (0, 2)
