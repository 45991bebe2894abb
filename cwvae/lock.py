"""One training per run: a lock on a file in the run's folder."""

import contextlib
import datetime
import errno
import fcntl
import json
import os
import pathlib
import socket
import sys

from cwvae.errors import UserError

# What flock says where a file system has no locks.
_UNSUPPORTED = (errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.ENOSYS, errno.EINVAL)


class RunLock(contextlib.AbstractContextManager):
    """Holds a run's folder against a second training, within a `with`.

    The lock ends with the process, however that ends. The file `.lock` says who holds it; it stays
    there, since to remove it would let two others in at once.
    """

    def __init__(self, logdir: str | pathlib.Path, option: str = "--logdir"):
        """Takes no lock yet.

        Args:
          logdir: The run's folder; made if it is missing.
          option: By which a user gave it.
        """
        self._logdir, self._option, self._descriptor = pathlib.Path(logdir), option, None

    def __enter__(self):
        """Takes the lock, without waiting for it.

        Raises:
          UserError: Another training holds it, or the folder cannot be written.
        """
        try:
            self._logdir.mkdir(parents=True, exist_ok=True)
            self._descriptor = os.open(self._logdir / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
            self._lock()
        except OSError as error:
            self.__exit__()
            raise UserError(
                f"{self._option} {self._logdir}: cannot write there ({error.strerror}); give"
                " another folder."
            ) from None
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_) -> None:
        """Gives the lock back."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _lock(self) -> None:
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"{self._logdir}: {self._holder()} is at work in this folder. Stop it, or give"
                f" another {self._option}."
            ) from None
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                raise
            print(
                f"warning: {self._logdir}: this file system has no locks ({error.strerror}). See to"
                " it yourself that no second training writes there.",
                file=sys.stderr,
            )
        now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
        holder = {"pid": os.getpid(), "host": socket.gethostname(), "since": now}
        os.ftruncate(self._descriptor, 0)
        os.write(self._descriptor, json.dumps(holder).encode())

    def _holder(self) -> str:
        """Says who holds the lock."""
        try:
            holder = json.loads(os.pread(self._descriptor, 4096, 0))
            return "process {pid} on {host}, since {since},".format(**holder)
        except (ValueError, KeyError, TypeError):  # It has the lock, and has not written yet.
            return "another process"
