"""One process at a time at what several may begin: preparing a store, fetching an archive."""

import contextlib
import errno
import fcntl
import json
import os
import pathlib
import socket
import sys
from collections.abc import Iterator

# What flock says where a file system has no locks: then nothing is held.
_UNSUPPORTED = (errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.ENOSYS, errno.EINVAL)


@contextlib.contextmanager
def locked(path: pathlib.Path, doing: str) -> Iterator[None]:
    """Holds a lock file within a `with`; waits while another process does, after saying so.

    Args:
      path: The lock file; it stays there, since to remove it would let two others in at once. The
        lock itself ends with the process, however that ends.
      doing: What the other one is doing, as in "preparing gqn_mazes".
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"Waiting: {_holder(descriptor)} is {doing}.", file=sys.stderr, flush=True)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                raise
            print(
                f"warning: {path.parent}: this file system has no locks ({error.strerror}). See to"
                f" it yourself that no other process is {doing}.",
                file=sys.stderr,
            )
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps([os.getpid(), socket.gethostname()]).encode(), 0)
        yield
    finally:
        os.close(descriptor)


def _holder(descriptor: int) -> str:
    try:
        pid, host = json.loads(os.pread(descriptor, 4096, 0))
        return f"process {pid} on {host}"
    except ValueError:  # It has the lock, and has not written yet.
        return "another process"
