"""Training that is killed, stopped, out of disk space or diverging: what remains, and resuming.

These tests run the real train.py. After every interruption the final run must equal, bit for bit,
the run that was never interrupted, which is trained once.
"""

import dataclasses
import pathlib
import shutil
import signal
import socket
import subprocess

import numpy as np
import pytest
from helpers.runs import arrays_of, assert_same_run
from helpers.scripts import (
    ENVIRONMENT,
    Training,
    error_of,
    metrics_of,
    refused,
    run,
    sets,
    steps_of,
    succeed,
)

from cwvae.run import checkpoints

STEPS = 60
# One device on any machine. Only one checkpoint is kept, so there is none to fall back on.
CPU = ENVIRONMENT | {"CUDA_VISIBLE_DEVICES": "-1"}
SETTINGS = {
    "model__levels": 1,
    "training__steps": STEPS,
    "training__save_every": 2,
    "training__keep": 1,
    "training__log_every": 3,
    "training__strategy": "single",
}


def command(logdir, *arguments, **changes):
    settings = sets(**SETTINGS | changes)
    return (
        "train.py",
        "--config",
        "configs/quickstart.yml",
        "--logdir",
        logdir,
        *settings,
        *arguments,
    )


def training(logdir, *arguments, **changes):
    return Training(logdir, command(logdir, *arguments, **changes), CPU)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The run that was never interrupted."""
    logdir = tmp_path_factory.mktemp("whole") / "run"
    result = run(*command(logdir), env=CPU)
    assert result.returncode == 0, result.stderr
    return logdir


@dataclasses.dataclass
class Interrupted:
    """A run after several interruptions, and the observations on the way."""

    logdir: pathlib.Path
    first: int  # process id
    second: subprocess.CompletedProcess = None  # started while the first was training
    killed_during_save: bool = False
    terminated: int = None  # exit code of the one that got SIGTERM
    said: str = ""
    stopped_at: int = 0
    finished: int = None


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory):
    """Starts a second train.py, kills the first during a save and again, stops it, finishes it."""
    logdir = tmp_path_factory.mktemp("interrupted") / "run"
    running = training(logdir)
    seen = Interrupted(logdir, running.pid)
    running.wait_for_step(4)
    running.send(signal.SIGSTOP)  # Otherwise it may end before the second has started.
    seen.second = run(*command(logdir), env=CPU)
    running.send(signal.SIGCONT)
    running.wait_for_save(12)
    assert running.kill() == -signal.SIGKILL
    seen.killed_during_save = bool(running.saving())

    running = training(logdir)
    running.wait_for_step(max(steps_of(logdir)) + 4)
    assert running.kill() == -signal.SIGKILL

    running = training(logdir)
    running.wait_for_step(max(steps_of(logdir)) + 4)
    running.send(signal.SIGTERM)
    seen.terminated, seen.said = running.wait(), running.out() + running.err()
    seen.stopped_at = max(steps_of(logdir))

    seen.finished = training(logdir).wait()
    return seen


@pytest.mark.slow
def test_a_second_training_in_the_same_folder_is_refused(interrupted):
    message = refused(interrupted.second)
    holder = f"process {interrupted.first} on {socket.gethostname()}"
    assert message.startswith(f"{interrupted.logdir}: {holder}, since ")
    assert message.endswith("Stop it, or give another --logdir.")


@pytest.mark.slow
def test_sigterm_saves_the_current_step_and_says_how_to_resume(interrupted):
    assert interrupted.terminated == 143
    assert "Stopping after this step: SIGTERM." in interrupted.said
    again = f"Stopped and saved. To resume: python train.py --logdir {interrupted.logdir}\n"
    assert again in interrupted.said
    assert "Traceback" not in interrupted.said
    assert 0 < interrupted.stopped_at < STEPS


@pytest.mark.slow
def test_kills_and_a_stop_leave_no_trace(whole, interrupted):
    assert interrupted.killed_during_save
    assert interrupted.finished == 0
    assert_same_run(whole, interrupted.logdir)


@pytest.mark.slow
def test_a_full_disk(whole, small_disk, fill):
    """Training continues and ends with the last good checkpoint; with room it completes."""
    logdir, filler = small_disk / "run", small_disk / "filler"
    size = checkpoints.find(whole).stat().st_size
    fill(filler, leave=int(1.7 * size))  # Room for one checkpoint, not for two.
    full = run(*command(logdir), env=CPU)
    assert full.returncode == 1
    # Reported at each save, while training continued.
    assert "warning: the checkpoint of step 4 could not be written" in full.stderr
    assert "warning: the checkpoint of step 58 could not be written" in full.stderr
    message = error_of(full.stderr)
    assert f"the checkpoint of step {STEPS} could not be written" in message
    assert "No space left on device" in message
    (good,) = checkpoints.steps(logdir).values()
    assert f"The newest whole one is {good}." in message
    assert checkpoints.read(good)[1]["step"] == 2
    config = (logdir / "config.yml").read_bytes()

    fill(small_disk / "rest")  # Completely: not even the configuration fits.
    changed = command(logdir, training__steps=STEPS + 2)
    assert "No space left on device" in refused(run(*changed, env=CPU))
    assert (logdir / "config.yml").read_bytes() == config

    (small_disk / "rest").unlink()
    filler.unlink()
    assert run(*command(logdir), env=CPU).returncode == 0
    assert_same_run(whole, logdir)


# --init-from


@pytest.fixture(scope="module")
def sources(whole, tmp_path_factory):
    """Sources with the same weights, by kind."""
    folder = tmp_path_factory.mktemp("sources")
    succeed("-m", "cwvae.export", "--logdir", whole, "--out", folder / "export")
    checkpoint = shutil.copy(checkpoints.find(whole), folder)
    return {"run": whole, "export": folder / "export", "checkpoint": pathlib.Path(checkpoint)}


# Other initial weights, and a learning rate that hardly changes any.
ONWARDS = {"training__seed": 1, "training__learning_rate": 1e-9, "training__steps": 3}


@pytest.mark.slow
def test_init_from_starts_at_step_0_with_the_weights(sources, tmp_path):
    runs = [
        training(tmp_path / kind, "--init-from", source, **ONWARDS)
        for kind, source in sources.items()
    ]
    assert [running.wait() for running in runs] == [0, 0, 0], runs[0].err()
    want = arrays_of(sources["run"])
    for running in runs:
        got = arrays_of(running.logdir)
        assert want.keys() == got.keys()
        for name in got:
            if name.startswith("model/"):
                np.testing.assert_allclose(got[name], want[name], atol=1e-7, err_msg=name)
        assert got["optimizer/iterations"] == 3
        assert [line["step"] for line in metrics_of(running.logdir) if "loss" in line] == [3]

    # The same command resumes the run, from its own weights, without the source.
    running = runs[-1]
    before = {path: path.read_bytes() for path in running.logdir.rglob("*") if path.is_file()}
    sources["checkpoint"].unlink()
    again = training(running.logdir, "--init-from", sources["checkpoint"], **ONWARDS)
    assert again.wait() == 0, again.err()
    del before[running.logdir / ".lock"]
    for path, content in before.items():
        assert path.read_bytes() == content


@pytest.mark.parametrize("kind", ["run", "export", "checkpoint of a run", "nothing"])
def test_init_from_a_source_that_does_not_fit_is_refused_before_a_folder_is_made(
    whole, tmp_path, kind
):
    logdir, source, changes = tmp_path / "run", whole, {"model__hidden_size": 9}
    if kind == "checkpoint of a run":
        source = checkpoints.find(whole)
    if kind == "export":
        source = tmp_path / "export"
        source.mkdir()
        (source / "model.weights.h5").touch()
        shutil.copy(whole / "config.yml", source)
    if kind == "nothing":
        source, changes = tmp_path / "run0", {}
    words = command(logdir, "--init-from", source, **changes)
    message = refused(run(*words, env=CPU))
    if kind == "nothing":
        assert message.startswith(f"{source}: no weights there.")
    else:
        assert message.startswith(f"{source}: does not fit the model: model.hidden_size: 8 -> 9.")
    assert not logdir.exists()


def test_a_bare_checkpoint_that_does_not_fit_is_refused(whole, tmp_path):
    """It holds its own settings."""
    source = shutil.copy(checkpoints.find(whole), tmp_path)
    words = command(tmp_path / "run", "--init-from", source, model__hidden_size=9)
    message = refused(run(*words, env=CPU))
    assert message.startswith(f"{source}: does not fit the model: model.hidden_size: 8 -> 9.")
    assert not (tmp_path / "run").exists()


def test_training_that_diverges_ends_with_step_term_and_checkpoint(tmp_path):
    logdir = tmp_path / "run"
    words = command(logdir, model__levels=2, training__learning_rate=1e30)
    result = run(*words, env=CPU)
    assert result.returncode == 1
    assert result.stdout == ""
    message = error_of(result.stderr)
    # Only the first update is applied; it makes the weights huge.
    assert message.startswith("step 2: kl/level_2_sum is ")
    (newest,) = checkpoints.steps(logdir).values()
    assert f"{newest} holds the weights of step 1" in message
    assert checkpoints.read(newest)[1]["step"] == 1
    assert f"--init-from {logdir}" in message
