"""Reads videos from zip archives without unpacking them to the disk.

Archives are untrusted. One with names that lead out of its folder, links, encrypted files or names
that occur twice is rejected as a whole: no published archive has these.
"""

import errno
import functools
import os
import pathlib
import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Sequence

from cwvae.errors import UserError
from data_loaders.sources import BadVideo, UnreadableVideo

MAX_BYTES = 2**30  # No video of these data sets is larger.

# Python unpacks bzip2 and LZMA without a limit on the size of the output.
_COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)

# The exceptions of Python's zipfile for damaged archives.
_DAMAGE = (zipfile.BadZipFile, zlib.error, struct.error)
_DAMAGE += (EOFError, ValueError, OverflowError, RuntimeError)

_Archive = tuple[zipfile.ZipFile, dict[str, zipfile.ZipInfo]]
_REPLACE = (
    "Delete it and run the same command again, which downloads it again; in a data.archives_dir,"
    " replace it with a complete copy."
)


def members(path: str | os.PathLike, suffixes: Sequence[str] = (".mp4", ".avi")) -> list[str]:
    """Lists an archive's files.

    Args:
      path: The archive.
      suffixes: Extensions in lower case, with the dot. Case does not matter in the archive.

    Returns:
      The sorted names, with their folders, of the files with one of the extensions, without hidden
      files and the resource forks of macOS.

    Raises:
      UserError: The file is missing, truncated or not a zip archive, or it contains names that lead
        out of a folder, symbolic links, encrypted files, a name twice, or an unknown compression.
    """
    _, names = _open(path)
    return sorted(name for name in names if name.lower().endswith(tuple(suffixes)))


def stamps(path: str | os.PathLike) -> dict[str, str]:
    """Returns the CRC-32 and the size in bytes of each file, by name, from the archive's index.

    They do not depend on the archive's place and time.

    Raises:
      UserError: The archive cannot be used, as for `members`.
    """
    files = _open(path)[1].items()
    return {name: f"{member.CRC:08x} {member.file_size}" for name, member in files}


def read_member(path: str | os.PathLike, name: str) -> bytes:
    """Returns the content of a file in an archive.

    Args:
      path: The archive.
      name: The file, as in the result of `members`.

    Raises:
      BadVideo: The file is damaged, missing or too large.
      UnreadableVideo: The system cannot read it.
      UserError: The archive cannot be used, as for `members`.
    """
    archive, found = _open(path)
    member = found.get(name)
    if member is None:
        raise BadVideo(f"is not in {path}")
    if member.file_size > MAX_BYTES:
        raise BadVideo(f"has {member.file_size} bytes in {path}, more than {MAX_BYTES}")
    try:
        with archive.open(member) as file:
            # The output may be far larger than the announced size.
            data = file.read(member.file_size)
    except (OSError, *_DAMAGE) as error:
        # A damaged index may lead to an impossible place in the file, which is EINVAL.
        if isinstance(error, OSError) and error.errno != errno.EINVAL:
            problem = f"cannot be read from {path}: {error.strerror or error}"
            raise UnreadableVideo(problem) from None
        raise BadVideo(f"is damaged in {path} ({error})") from None
    if len(data) != member.file_size:
        raise BadVideo(f"is cut short in {path}: {len(data)} of {member.file_size} bytes")
    return data


def _open(path: str | os.PathLike) -> _Archive:
    """Opens an archive, once per process and version of the file.

    Returns:
      The archive, and its files by name, without folders and hidden files.
    """
    try:
        found = os.stat(path)
        # The process is part of the key: a forked one shares the file's position with its parent.
        return _index(pathlib.Path(path), found.st_mtime_ns, found.st_size, os.getpid())
    except OSError as error:
        problem = error.strerror or error
        raise UserError(f"{path}: cannot be read ({problem}). {_REPLACE}") from None


@functools.lru_cache(maxsize=16)
def _index(path: pathlib.Path, *_: int) -> _Archive:
    """Opens an archive and reads its index, in 0.2 s for 30,000 members."""
    try:
        file = zipfile.ZipFile(path)
    except _DAMAGE as error:
        raise UserError(
            f"{path}: is not a zip archive, or is cut short or damaged ({error}). {_REPLACE}"
        ) from None
    names, found = set(), {}
    for member in file.infolist():
        parts = pathlib.PurePosixPath(member.filename).parts
        problem = "is there twice" if parts in names else _problem(member)
        if problem:
            raise UserError(
                f"{path}: its member {member.orig_filename!r} {problem}, so nothing of the archive"
                f" was used. It is not the published archive. {_REPLACE}"
            )
        names.add(parts)
        hidden = any(part.startswith(".") or part == "__MACOSX" for part in parts)
        if not member.is_dir() and not hidden:
            found[member.filename] = member
    return file, found


def _problem(member: zipfile.ZipInfo) -> str | None:
    """Returns the reason to reject a member, or None."""
    name = member.orig_filename
    if name.startswith("/") or re.match(r"[A-Za-z]:", name):
        return "has an absolute name"
    if ".." in name.split("/") or "\\" in name or "\0" in name:
        return "has a name that may lead out of a folder"
    if stat.S_ISLNK(member.external_attr >> 16):
        return "is a symbolic link"
    if member.flag_bits & 1:
        return "is encrypted"
    if member.compress_type not in _COMPRESSIONS:
        return f"is compressed by method {member.compress_type}, which is not supported"
    return None
