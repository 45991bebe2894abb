import datetime
import errno
import fcntl
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys

import pytest

from cwvae.errors import UserError
from cwvae.run.folder import locked

ROOT = pathlib.Path(__file__).parents[3]

HOLD = """
import sys, time
from cwvae.run.folder import locked
with locked(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the lock of `tmp_path`."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def refused(logdir):
    with pytest.raises(UserError) as caught, locked(logdir):
        pass
    return str(caught.value)


def test_a_second_process_is_refused_and_the_message_names_the_holder(tmp_path, holder):
    before = (tmp_path / ".lock").read_bytes()
    message = refused(tmp_path)
    assert message.startswith(f"{tmp_path}: process {holder.pid} on {socket.gethostname()}, since ")
    since = datetime.datetime.fromisoformat(message.partition("since ")[2].partition(",")[0])
    age = datetime.datetime.now(datetime.timezone.utc) - since
    assert datetime.timedelta(seconds=-1) < age < datetime.timedelta(minutes=1)
    assert message.endswith("Stop it, or give another --logdir.")
    assert (tmp_path / ".lock").read_bytes() == before
    assert refused(tmp_path) == message  # A refusal does not release the lock.


def test_kill_9_releases_it(tmp_path, holder):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    left = json.loads((tmp_path / ".lock").read_text())
    assert left["pid"] == holder.pid
    with locked(tmp_path):
        now = json.loads((tmp_path / ".lock").read_text())
        assert now["pid"] == os.getpid()
        assert now["host"] == socket.gethostname()
        refused(tmp_path)


def test_it_can_be_taken_again_and_its_file_stays(tmp_path):
    for _ in range(2):
        with locked(tmp_path):
            refused(tmp_path)
        assert (tmp_path / ".lock").exists()


def test_an_error_in_the_block_releases_it(tmp_path):
    with pytest.raises(KeyError), locked(tmp_path):
        raise KeyError
    with locked(tmp_path):
        pass


def test_runs_in_other_folders_do_not_matter(tmp_path, holder):
    with locked(tmp_path / "runs" / "other"):
        assert holder.poll() is None


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", "a" * 10_000])
def test_a_lock_file_with_unusable_content_still_locks(tmp_path, holder, content):
    (tmp_path / ".lock").write_text(content)
    assert refused(tmp_path).startswith(f"{tmp_path}: another process is at work")


def test_a_longer_old_lock_file_is_overwritten(tmp_path):
    (tmp_path / ".lock").write_text("x" * 10_000)
    with locked(tmp_path):
        assert json.loads((tmp_path / ".lock").read_text())["pid"] == os.getpid()


@pytest.mark.parametrize("number", [errno.EOPNOTSUPP, errno.ENOLCK, errno.ENOSYS])
def test_a_file_system_without_locks_gives_one_warning(tmp_path, monkeypatch, capsys, number):
    def flock(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    with locked(tmp_path):
        pass
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"warning: {tmp_path}: this file system has no locks (")
    assert os.strerror(number) in line


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    assert refused(tmp_path / "file" / "run").startswith(f"--logdir {tmp_path / 'file' / 'run'}: ")


def test_no_descriptor_is_left_open(tmp_path):
    before = len(os.listdir("/proc/self/fd"))
    with locked(tmp_path):
        for _ in range(3):
            refused(tmp_path)
    assert len(os.listdir("/proc/self/fd")) == before
