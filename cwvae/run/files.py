"""Files on disk: written whole or not at all, locked against other processes, cached.

This module does not depend on the content of the files. `data_loaders` uses it too.
"""

import contextlib
import datetime
import errno
import json
import os
import pathlib
import re
import secrets
import shlex
import shutil
import socket
import sys
import time
from collections.abc import Iterator

import filelock

from cwvae.errors import UserError

_DAY = 86400  # seconds

# What flock reports on a file system without locks.
_UNSUPPORTED = (errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.ENOSYS, errno.EINVAL)


@contextlib.contextmanager
def whole(path: str | pathlib.Path) -> Iterator[pathlib.Path]:
    """Makes a file appear under its name only when it is complete and on the disk.

    Args:
      path: The file. Its folder must exist.

    Yields:
      A temporary name in the same folder to write to. It is renamed to `path` when the block
      succeeds. When the block fails it is removed, and an existing file stays as it was.

    Raises:
      OSError: The file cannot be written; `filename` is `path`.
    """
    path = pathlib.Path(path)
    # Unique, so that two processes that write the same file do not mix their halves.
    aside = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        yield aside
        sync(aside)
        os.replace(aside, path)
        sync(path.parent)
    except OSError as error:
        if error.filename in (None, str(aside)):
            error.filename, error.filename2 = str(path), None
        raise
    finally:
        aside.unlink(missing_ok=True)


@contextlib.contextmanager
def cached(path: str | pathlib.Path) -> Iterator[pathlib.Path]:
    """Makes a file in a cache as `whole`, and its folder. Other processes may do the same.

    It removes what processes that were killed a day ago or earlier left of the file.
    """
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.glob(f".{path.name}.*.tmp"):
        with contextlib.suppress(OSError):  # Another process may have removed it.
            if time.time() - left.stat().st_mtime > _DAY:
                left.unlink()
    with whole(path) as aside:
        yield aside


def write(path: str | pathlib.Path, content: str | bytes) -> None:
    """Writes a file as `whole` does; text as UTF-8. No other process may be writing it."""
    path = pathlib.Path(path)
    remove_leftovers(path.parent, f"{path.name}.")
    with whole(path) as aside:
        aside.write_bytes(content.encode() if isinstance(content, str) else content)


@contextlib.contextmanager
def whole_folder(path: str | pathlib.Path, doing: str, advice: str) -> Iterator[pathlib.Path]:
    """Makes a folder appear under its name only when it is complete and on the disk.

    A crash at the worst moment, after the old folder is out of the way and before the new one has
    its name, leaves no folder. The next call restores the old one.

    Args:
      path: The folder, which is replaced if it exists. The folder around it must exist.
      doing: As for `locked`. The lock file `.NAME.lock` is next to the folder.
      advice: What a user can do if another process is writing the folder.

    Yields:
      A new folder next to it to write to. It is renamed to `path` when the block succeeds. When
      the block fails it is removed, and an existing folder stays as it was.

    Raises:
      UserError: Another process is writing the folder.
      OSError: Something cannot be written; `filename` lies in `path`.
    """
    with locked_beside(path, doing, advice) as path:
        aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
        _clean(path)
        try:
            aside.mkdir()
            yield aside
            for inner in (*aside.iterdir(), aside):
                sync(inner)
            if path.exists():
                path.rename(_old(path))
            aside.rename(path)
            sync(path.parent)
        except OSError as error:
            inner = pathlib.Path(error.filename or "")
            if aside in inner.parents:
                error.filename, error.filename2 = str(path / inner.relative_to(aside)), None
            raise
        finally:
            _clean(path)


def remove_folder(path: str | pathlib.Path, doing: str, advice: str) -> None:
    """Removes a folder that `whole_folder` wrote, at once, if it exists. Arguments as there."""
    with locked_beside(path, doing, advice) as path:
        _clean(path)
        if path.exists():
            path.rename(path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp"))
        _clean(path)


def _old(path: pathlib.Path) -> pathlib.Path:
    """Returns the name of a folder while a new one takes its place."""
    return path.with_name(f".{path.name}.old.tmp")


def _clean(path: pathlib.Path) -> None:
    """Ends or undoes an interrupted switch of a folder, and removes what killed processes left."""
    if _old(path).exists() and not path.exists():
        _old(path).rename(path)
    pattern = re.compile(rf"\.{re.escape(path.name)}\.([0-9a-f]{{8}}|old)\.tmp")
    for other in path.parent.iterdir():
        if pattern.fullmatch(other.name):
            shutil.rmtree(other, ignore_errors=True)


def remove_leftovers(folder: str | pathlib.Path, name: str) -> None:
    """Removes the temporary files that killed processes left. No other may be writing there.

    Args:
      folder: The folder that was written to.
      name: Start of the names of the files.
    """
    for path in pathlib.Path(folder).glob(f".{name}*.tmp"):
        path.unlink()


def sync(path: str | pathlib.Path) -> None:
    """Waits until a file's content, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def locked(path: str | pathlib.Path, doing: str, advice: str | None = None) -> Iterator[None]:
    """Holds a lock file within a `with` block.

    The lock ends with the process, even if it is killed. The file names the holder and stays:
    removing it would let two other processes in at once. A file system without locks gives a
    warning.

    Args:
      path: The lock file. Its folder must exist.
      doing: What the holder does, for the message, as in "preparing gqn_mazes".
      advice: What a user can do if another process holds the lock. None: wait for it.

    Raises:
      UserError: Another process holds the lock, and there is `advice`.
      OSError: The lock file cannot be written.
    """
    path = pathlib.Path(path)
    lock = filelock.FileLock(path, timeout=0, fallback_to_soft=False)
    try:
        lock.acquire()
    except filelock.Timeout:
        if advice is not None:
            raise UserError(f"{path.parent}: {_holder(path)} is {doing}. {advice}") from None
        print(f"Waiting: {_holder(path)} is {doing}.", file=sys.stderr, flush=True)
        lock.acquire(timeout=-1)
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
        print(
            f"warning: {path.parent}: this file system has no locks ({error.strerror}). Make sure"
            f" yourself that no other process is {doing}.",
            file=sys.stderr,
        )
    try:
        now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
        holder = {"pid": os.getpid(), "host": socket.gethostname(), "since": now}
        path.write_text(json.dumps(holder))
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def locked_beside(path: str | pathlib.Path, doing: str, advice: str) -> Iterator[pathlib.Path]:
    """Holds the lock file `.NAME.lock` next to a folder NAME; arguments and errors as for `locked`.

    Yields:
      The folder's own path if `path` is a link to it: a link stays a link.
    """
    path = pathlib.Path(path).resolve()
    with locked(path.with_name(f".{path.name}.lock"), doing, advice):
        yield path


def _holder(path: pathlib.Path) -> str:
    """Returns who holds a lock file, in words."""
    try:
        return "process {pid} on {host}, since {since},".format(**json.loads(path.read_text()))
    except (OSError, ValueError, KeyError, TypeError):  # It has not written its name yet.
        return "another process"


def runs_in(folder: str | pathlib.Path) -> str:
    """Returns the runs directly in a folder, as words of a command; at most 20."""
    runs = sorted(path.parent for path in pathlib.Path(folder).glob("*/config.yml"))
    return shlex.join(map(str, runs[:20])) + (" ..." if runs[20:] else "")


def cache_folder() -> pathlib.Path:
    """Returns the folder for files kept between runs, which need not exist.

    It is $CWVAE_CACHE, or `cwvae` in $XDG_CACHE_HOME or ~/.cache. It holds the weights of metrics,
    their statistics, trained readouts, and what was measured on this machine.

    Raises:
      UserError: The user has no home folder.
    """
    given = os.environ.get("CWVAE_CACHE")
    if given:
        return pathlib.Path(given).expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    try:
        return pathlib.Path(base).expanduser() / "cwvae"
    except RuntimeError:  # A container's user may have none.
        raise UserError(
            "this user has no home folder for files that are kept between runs. Set the environment"
            " variable CWVAE_CACHE to a folder for them."
        ) from None
