"""Downloads files: resumes interrupted downloads and checks files before anything reads them.

During a download the file is called `NAME.part`, and `NAME.part.json` identifies the version of the
file on the server. It is renamed to `NAME` when it is complete and has the expected checksum.
"""

import contextlib
import errno
import functools
import hashlib
import json
import os
import pathlib
import re
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import requests
import tqdm

from cwvae.errors import UserError
from cwvae.run.files import locked

ARCHIVE_ORG = "https://archive.org"

CONNECT_SECONDS = 5.0
STALL_SECONDS = 60.0
RETRY_SECONDS = (1.0, 2.0, 4.0, 8.0, 16.0)  # Waits after interrupted connections.

_CHUNK = 2**14  # Bytes. At most one chunk is downloaded twice after an interruption.

_progress = functools.partial(tqdm.tqdm, unit="B", unit_scale=True, dynamic_ncols=True)


class Checksum(NamedTuple):
    """A file's checksum by 'md5', 'sha1' or 'sha256', and its size in bytes."""

    algorithm: str
    digest: str
    size: int | None = None


class _Failed(Exception):
    """A request that failed; the message gives the reason."""

    def __init__(self, reason: str, temporary: bool = False):
        """Stores the reason, and whether the same request may succeed a little later."""
        super().__init__(reason)
        self.temporary = temporary


def default_data_dir() -> pathlib.Path:
    """Returns the default folder of `tensorflow_datasets`."""
    return pathlib.Path(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()


def data_folder(data_dir: str | None) -> pathlib.Path:
    """Returns the folder of data sets.

    Args:
      data_dir: The option `data.data_dir`; None for the folder of tensorflow-datasets.

    Raises:
      UserError: A given folder does not exist: probably a typo, so it is not created.
    """
    if data_dir is None:
        return default_data_dir()
    folder = pathlib.Path(data_dir).expanduser()
    if not folder.is_dir():
        make = "" if folder.exists() else f", or create it: mkdir -p {folder}"
        raise UserError(f"data.data_dir: {data_dir} is not a folder. Correct it{make}.")
    return folder


def archive_org_checksum(item: str, file_name: str) -> Checksum | None:
    """Asks archive.org for the checksum and size of a file of an item.

    Returns:
      The checksum, or None after a note on stderr if the request fails.
    """
    url = f"{ARCHIVE_ORG}/metadata/{item}/files"
    try:
        response = requests.get(url, timeout=(CONNECT_SECONDS, STALL_SECONDS))
        response.raise_for_status()
        entry = {entry["name"]: entry for entry in response.json()["result"]}[file_name]
        algorithm = "sha1" if "sha1" in entry else "md5"
        return Checksum(algorithm, entry[algorithm].lower(), int(entry["size"]))
    except (requests.RequestException, ValueError, KeyError, TypeError, AttributeError) as error:
        failed = requests.ConnectionError, requests.Timeout, requests.HTTPError
        reason = _reason(error) if isinstance(error, failed) else f"unexpected response: {error!r}"
        print(
            f"Note: no checksum for {file_name} ({url}: {reason}). Only the checksums inside the"
            " archive will be checked.",
            file=sys.stderr,
        )
        return None


def download(urls: Sequence[str], path: pathlib.Path, checksum: Checksum | None = None) -> None:
    """Downloads a file unless it exists; resumes an earlier download.

    If two processes need the same file, one downloads it and the other waits.

    Args:
      urls: Addresses of the file, http or https, tried in order.
      path: The file to write. Missing folders are created.
      checksum: The expected checksum.

    Raises:
      UserError: No URL works, the checksum differs, or the disk is full or cannot be written. The
        next call resumes with the bytes received so far.
    """
    if path.is_file():
        return
    with contextlib.ExitStack() as stack:
        with _disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = locked(path.with_name(f"{path.name}.lock"), f"downloading {path.name}")
            stack.enter_context(lock)
            if path.is_file():
                return
            part = stack.enter_context(_Part(path))
        failures = []
        for url in urls:
            try:
                _fetch(url, part, checksum)
                part.finish(checksum)
                return
            except _Failed as failure:
                failures.append(f"{url}: {failure}")
        kept = f" and resumes after {_size(part.size)}" if part.size else ""
        raise UserError(
            f"{path.name} could not be downloaded. {'; '.join(failures)}. The same command tries"
            f" again{kept}. Or get the file in another way, and put it at {path}."
        )


def _fetch(url: str, part: "_Part", checksum: Checksum | None) -> None:
    """Completes a part from one URL, with as many connections as needed."""
    waits, longest, began = iter(RETRY_SECONDS), part.size, False
    while not part.is_whole():
        try:
            _request(url, part, checksum)
        except _Failed as failure:
            # Only progress beyond the longest part resets the waits. Otherwise a server that cannot
            # resume, and always fails at the same byte, would be asked forever.
            if part.size > longest:
                waits, longest, began = iter(RETRY_SECONDS), part.size, True
            # If nothing was ever received, there is no network or no such server.
            wait = next(waits, None) if failure.temporary and began else None
            if wait is None:
                raise
            print(f"{part.path.name}: {failure}. Trying again in {wait:g} s.", file=sys.stderr)
            time.sleep(wait)
        else:
            return


def _request(url: str, part: "_Part", checksum: Checksum | None) -> None:
    """Appends the bytes of one connection; raises _Failed unless the part is complete then."""
    headers = {"Accept-Encoding": "identity"}  # Lengths must count uncompressed bytes.
    if part.size and part.validator:
        headers |= {"Range": f"bytes={part.size}-", "If-Range": part.validator}
    try:
        with requests.get(
            url, headers=headers, stream=True, timeout=(CONNECT_SECONDS, STALL_SECONDS)
        ) as response:
            _accept(response, part, checksum)
            with _progress(desc=part.path.name, total=part.total, initial=part.size) as progress:
                for chunk in response.iter_content(_CHUNK):
                    part.append(chunk)
                    progress.update(len(chunk))
    except requests.RequestException as error:
        raise _Failed(_reason(error), temporary=True) from None
    if part.total is not None and part.size != part.total:
        raise _Failed(f"cut after {_size(part.size)} of {_size(part.total)}", temporary=True)


def _accept(response: requests.Response, part: "_Part", checksum: Checksum | None) -> None:
    """Checks the headers of a response, and prepares the part for its content."""
    status = response.status_code
    if status == 206:
        sent = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", response.headers.get("Content-Range", ""))
        if not sent or (int(sent[1]), int(sent[2])) != (part.size, part.total):
            part.begin(None, None)
            raise _Failed("the server sent another part than requested", temporary=True)
    elif status == 200:
        length = response.headers.get("Content-Length", "")
        total = int(length) if length.isdecimal() else None
        if checksum and checksum.size and total and total != checksum.size:
            raise _Failed(f"has {total} bytes; expected {checksum.size}")
        validator = response.headers.get("ETag")
        if validator is None or validator.startswith("W/"):  # Weak: does not imply equal bytes.
            validator = response.headers.get("Last-Modified")
        part.begin(validator, total)
    else:
        if status == 416:  # The server's file is shorter than the part.
            part.begin(None, None)
        temporary = status in (408, 429) or status >= 500
        raise _Failed(f"HTTP {status} {response.reason or ''}".rstrip(), temporary)
    part.check_room()


class _Part(contextlib.AbstractContextManager):
    """The beginning of a file, on the disk."""

    def __init__(self, path: pathlib.Path):
        """Opens the existing part of the file that will be at `path`, or an empty one."""
        self.path = path
        self._part = path.with_name(f"{path.name}.part")
        self._state = path.with_name(f"{path.name}.part.json")
        # Unbuffered, so nothing received is lost to a full disk, a kill or Ctrl-C.
        self._file = open(self._part, "ab", buffering=0)  # noqa: SIM115
        self.validator, self.total = self._read_state()

    def __exit__(self, *_) -> None:
        """Closes the part, and removes an empty one."""
        self._file.close()
        with contextlib.suppress(FileNotFoundError):
            if self._part.stat().st_size == 0:
                self._forget()

    @property
    def size(self) -> int:
        """The number of bytes received so far."""
        return os.fstat(self._file.fileno()).st_size

    def is_whole(self) -> bool:
        """Returns whether nothing is missing, for example after a kill right at the end."""
        return self.total is not None and self.size == self.total

    def begin(self, validator: str | None, total: int | None) -> None:
        """Starts from byte 0, for a file of `total` bytes with the server's `validator`."""
        with _disk_errors(self.path):
            self._file.truncate(0)
            # Written before the first byte, so a part never passes for one of another version.
            self._state.write_text(json.dumps({"validator": validator, "total": total}))
        self.validator, self.total = self._read_state()

    def append(self, data: bytes) -> None:
        """Adds bytes to the end."""
        with _disk_errors(self.path):
            while data:
                data = data[self._file.write(data) :]

    def check_room(self) -> None:
        """Raises a UserError if the disk has no room for the rest, if its size is known."""
        need = (self.total or 0) - self.size
        free = shutil.disk_usage(self.path.parent).free
        if need > free:
            raise UserError(
                f"{self.path.name} needs {_size(need)} more in {self.path.parent}, where"
                f" {_size(free)} are free. Make room, or set data.data_dir to a folder on a larger"
                " disk."
            )

    def finish(self, checksum: Checksum | None) -> None:
        """Renames a complete file; renames a damaged one to NAME.damaged and raises a UserError."""
        with _disk_errors(self.path):
            if checksum:
                self._check(checksum)
            os.fsync(self._file.fileno())
            os.replace(self._part, self.path)
            self._forget()

    def _check(self, checksum: Checksum) -> None:
        algorithm, expected, size = checksum
        found = _digest(self._part, algorithm)
        if found == expected and size in (None, self.size):
            return
        damaged = self.path.with_name(f"{self.path.name}.damaged")
        sizes = f"{self.size} bytes" + (f" instead of {size}" if size else "")
        os.replace(self._part, damaged)
        self._forget()
        raise UserError(
            f"{self.path.name}: checksum mismatch: its {algorithm} is {found}, expected {expected};"
            f" it has {sizes}. It was renamed to {damaged}, which can be deleted. The same command"
            " downloads it again from the start."
        )

    def _forget(self) -> None:
        self._part.unlink(missing_ok=True)
        self._state.unlink(missing_ok=True)

    def _read_state(self) -> tuple[str | None, int | None]:
        """Returns (validator, total); a part with unknown total is not resumed."""
        try:
            state = json.loads(self._state.read_text())
            validator, total = state["validator"], state["total"]
        except (OSError, ValueError, KeyError, TypeError):
            return None, None
        known = isinstance(validator, str) and isinstance(total, int) and self.size <= total
        return (validator, total) if known else (None, None)


@contextlib.contextmanager
def _disk_errors(path: pathlib.Path) -> Iterator[None]:
    """Turns an error of the disk into a UserError about the download of `path`."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        advice = "Make room" if full else "Make the folder writable"
        raise UserError(
            f"{path.name} cannot be written to {path.parent} ({error.strerror}). {advice}, or set"
            " data.data_dir to another folder. The same command resumes the download."
        ) from None


def _digest(path: pathlib.Path, algorithm: str) -> str:
    digest, size = hashlib.new(algorithm), path.stat().st_size
    progress = _progress(desc=f"checking {path.stem}", total=size, delay=1, leave=False)
    with open(path, "rb") as file, progress:
        while block := file.read(2**20):
            digest.update(block)
            progress.update(len(block))
    return digest.hexdigest()


def _reason(error: requests.RequestException) -> str:
    """Returns a short reason for a failed request."""
    if isinstance(error, requests.HTTPError):
        return f"HTTP {error.response.status_code} {error.response.reason or ''}".rstrip()
    if isinstance(error, requests.ConnectTimeout):
        return f"no connection within {CONNECT_SECONDS:g} s"
    # Libraries wrap the cause several times, with ever longer messages.
    cause = error
    while cause.__cause__ or cause.__context__:
        cause = cause.__cause__ or cause.__context__
    if isinstance(cause, TimeoutError) and cause.errno is None:
        return f"nothing received for {STALL_SECONDS:g} s"
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return "the connection was cut"
    return getattr(cause, "strerror", None) or str(cause)


def _size(count: int) -> str:
    return tqdm.tqdm.format_sizeof(count, "B")
