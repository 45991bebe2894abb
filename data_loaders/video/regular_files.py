"""Opens the files of videos: only regular ones, and with the system's errors as bad videos."""

import contextlib
import hashlib
import os
import stat
from collections.abc import Iterator
from typing import BinaryIO

from data_loaders.sources import BadVideo, UnreadableVideo


def check_regular(path: str | os.PathLike) -> None:
    """Raises a `BadVideo` unless a path leads to a regular file.

    Opening a named pipe waits until something writes to it, and opening a device can change it.

    Raises:
      UnreadableVideo: The system cannot say what it is.
      BadVideo: It is a pipe, a device, or a folder.
    """
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        raise _unreadable(error) from error
    if not stat.S_ISREG(mode):
        raise BadVideo("is not a regular file")


@contextlib.contextmanager
def opened(file: str | os.PathLike | BinaryIO) -> Iterator[BinaryIO]:
    """Opens a regular file for reading bytes; a file that is open already is not closed.

    Raises:
      UnreadableVideo: It cannot be opened, or reading it fails within the context.
      BadVideo: It is not a regular file.
    """
    try:
        if not isinstance(file, str | os.PathLike):
            yield file
            return
        check_regular(file)
        with open(file, "rb") as stream:
            yield stream
    except OSError as error:
        raise _unreadable(error) from error


def sha256(path: str | os.PathLike) -> "hashlib._Hash":
    """Returns the SHA-256 of a regular file's content; raises the errors of `opened`."""
    result = hashlib.sha256()
    with opened(path) as file:
        while data := file.read(2**20):
            result.update(data)
    return result


def _unreadable(error: OSError) -> UnreadableVideo:
    return UnreadableVideo(f"cannot be read: {error.strerror or error}")
