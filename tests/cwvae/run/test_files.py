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
from cwvae.run import files
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


# A file that is replaced in one step.


def test_the_leftovers_of_a_killed_write_are_removed_by_the_next(tmp_path):
    other = ".data.json5.12.0123abcd.tmp"
    for name in (other, ".data.json.12.0123abcd.tmp"):
        (tmp_path / name).write_text("half")
    files.write(tmp_path / "data.json", "{}")
    assert {path.name for path in tmp_path.iterdir()} == {other, "data.json"}


# A folder that is replaced in one step.


def fill(path, word):
    with files.whole_folder(path, "writing", "Wait.") as folder:
        for name in ("a", "b"):
            (folder / name).write_text(word)


def content(path):
    return {inner.name: inner.read_text() for inner in path.iterdir()} if path.exists() else None


OLD, NEW = ({"a": word, "b": word} for word in ("old", "new"))


def test_a_folder_is_replaced_when_it_is_complete(tmp_path):
    path = tmp_path / "out"
    fill(path, "old")
    (path / "c").write_text("a file that the new one lacks")
    with files.whole_folder(path, "writing", "Wait.") as folder:
        (folder / "a").write_text("new")
        assert (path / "a").read_text() == "old"
        assert folder.parent == tmp_path
    assert content(path) == {"a": "new"}
    assert {inner.name for inner in tmp_path.iterdir()} == {"out", ".out.lock"}


def test_a_folder_that_cannot_be_completed_changes_nothing(tmp_path):
    path = tmp_path / "out"
    fill(path, "old")
    with pytest.raises(FileNotFoundError), files.whole_folder(path, "writing", "Wait.") as folder:
        [(folder / name).write_text("new") for name in ("a", "no/b")]
    assert content(path) == OLD
    assert {inner.name for inner in tmp_path.iterdir()} == {"out", ".out.lock"}


def test_an_error_names_the_file_that_the_user_knows(tmp_path):
    path = tmp_path / "out"
    with pytest.raises(FileNotFoundError) as caught, files.whole_folder(path, "", "") as folder:
        (folder / "no" / "file").write_text("")
    assert caught.value.filename == str(path / "no" / "file")


def test_one_process_at_a_time_writes_a_folder(tmp_path):
    with (
        files.whole_folder(tmp_path / "out", "writing it", "Wait."),
        pytest.raises(UserError, match=r"process \d+ .* is writing\. Wait\."),
    ):
        fill(tmp_path / "out", "new")
    fill(tmp_path / "other", "new")


def test_a_link_to_a_folder_stays_a_link(tmp_path):
    (tmp_path / "disk").mkdir()
    fill(tmp_path / "disk" / "real", "old")
    (tmp_path / "out").symlink_to("disk/real")
    fill(tmp_path / "out", "new")
    assert (tmp_path / "out").is_symlink()
    assert content(tmp_path / "disk" / "real") == NEW


KILLED = """
import os, pathlib, signal, sys
from cwvae.run import files
path, renames = sys.argv[1], int(sys.argv[2])
rename = pathlib.Path.rename
def count(*arguments):
    global renames
    if not renames:
        os.kill(os.getpid(), signal.SIGKILL)
    renames -= 1
    return rename(*arguments)
pathlib.Path.rename = count
if renames == 2:
    files.shutil.rmtree = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
with files.whole_folder(path, "writing", "Wait.") as folder:
    for name in ("a", "b"):
        (folder / name).write_text("new")
"""


@pytest.mark.parametrize(("renames", "found"), [(0, OLD), (1, None), (2, NEW)])
def test_kill_9_at_any_moment_leaves_one_whole_folder_or_none(tmp_path, renames, found):
    path = tmp_path / "out"
    fill(path, "old")
    done = subprocess.run([sys.executable, "-c", KILLED, str(path), str(renames)], cwd=ROOT)
    assert done.returncode == -signal.SIGKILL
    assert content(path) == found
    # The next one restores what was there, also if it fails itself, and removes the rest.
    with pytest.raises(KeyError), files.whole_folder(path, "writing", "Wait."):
        raise KeyError
    assert content(path) == (found or OLD)
    assert {inner.name for inner in tmp_path.iterdir()} == {"out", ".out.lock"}


def test_leftovers_of_other_names_are_not_touched(tmp_path):
    names = [".out.x.0123abcd.tmp", ".out.old.old.tmp", ".output.0123abcd.tmp", "out.0123abcd.tmp"]
    for name in (*names, ".out.0123abcd.tmp"):
        (tmp_path / name).mkdir()
    fill(tmp_path / "out", "new")
    assert {inner.name for inner in tmp_path.iterdir()} == {"out", ".out.lock", *names}


def test_a_folder_is_removed_with_its_leftovers(tmp_path):
    path = tmp_path / "out"
    files.remove_folder(path, "writing", "Wait.")
    fill(path, "old")
    path.rename(tmp_path / ".out.old.tmp")  # As after a crash.
    files.remove_folder(path, "writing", "Wait.")
    assert {inner.name for inner in tmp_path.iterdir()} == {".out.lock"}
    fill(path, "new")
    with (
        files.whole_folder(path, "writing", "Wait."),
        pytest.raises(UserError, match="is writing"),
    ):
        files.remove_folder(path, "writing", "Wait.")
