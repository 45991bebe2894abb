"""Checkpoints: one .npz file each, in the run's folder `checkpoints/`.

A file holds the model's weights under `model/<name>`; the optimizer's variables, for going on with
training, under `optimizer/<name>`; and under `meta`, as JSON, the step and what else belongs to it.
The archive's comment, which is the end of the file, holds the SHA-256 of all bytes before it.

A file is written aside, read back and renamed, so that a crash leaves whole checkpoints only; one
that was damaged later is told by its checksum.
"""

import contextlib
import errno
import hashlib
import importlib.metadata
import json
import os
import pathlib
import platform
import re
import shlex
import sys
import zipfile
from collections.abc import Callable, Iterable, Iterator
from typing import BinaryIO

import numpy as np

from cwvae.errors import UserError
from cwvae.run import renamed

_CHECKSUM = b"sha256:"
_CHECKSUM_LENGTH = len(_CHECKSUM) + 64
_CHUNK = 1 << 20


class DamagedCheckpoint(UserError):
    """A checkpoint that is not as it was written.

    Attributes:
      path: The file.
      reason: What is wrong with it.
    """

    def __init__(self, path: str | pathlib.Path, reason: str):
        super().__init__(
            f"{path}: this checkpoint is damaged ({reason}). Use another step of the run, or copy"
            " the file again from where it came."
        )
        self.path, self.reason = pathlib.Path(path), reason


def save(
    logdir: str | pathlib.Path,
    step: int,
    model,
    optimizer=None,
    *,
    keep: int = 1,
    keep_every: int | None = None,
    meta: dict | None = None,
) -> pathlib.Path:
    """Writes a checkpoint, and once it is on the disk removes older ones.

    Args:
      logdir: The run's folder.
      step: Updates done.
      model: Its `weights` are saved, each under its `path`.
      optimizer: Its `state`, variables by name, is saved, if given.
      keep: How many of the last checkpoints to keep.
      keep_every: Of the others, those whose step is a multiple of it are kept, too; None for none.
      meta: What `restore` shall return beside the step: anything that JSON can write.

    Returns:
      The file.

    Raises:
      OSError: It could not be written, as on a full disk; the other checkpoints are as they were.
    """
    folder = pathlib.Path(logdir) / "checkpoints"
    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.glob(".step_*.tmp"):  # by a save that was killed
        left.unlink()
    path = folder / f"step_{step:09d}.npz"
    aside = folder / f".step_{step:09d}.tmp"
    meta = (meta or {}) | {"step": step, "versions": _versions()}
    variables = _variables(model, optimizer)
    try:
        with _naming(path), open(aside, "w+b") as file:
            _write(file, json.dumps(meta), variables.items())
            _read_back(file)
        os.replace(aside, path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    sync(folder)
    sync(logdir)
    found = steps(logdir)
    for number in [*found][:-keep]:
        if number != step and not (keep_every and number % keep_every == 0):
            found[number].unlink()
    return path


def steps(logdir: str | pathlib.Path) -> dict[int, pathlib.Path]:
    """Returns the checkpoints of a run by their step, the oldest first."""
    found = {}
    for path in pathlib.Path(logdir).glob("checkpoints/step_*.npz"):
        if match := re.fullmatch(r"step_(\d+)\.npz", path.name):
            found[int(match[1])] = path
    return dict(sorted(found.items()))


def find(logdir: str | pathlib.Path, step: int | None = None) -> pathlib.Path:
    """Returns the file of a checkpoint, the newest if `step` is None, without looking into it.

    Raises:
      UserError: There is none.
    """
    found = steps(logdir)
    if not found:
        raise UserError(
            f"{logdir}: this run has no checkpoint yet; go on with it:"
            f" python train.py --logdir {shlex.quote(str(logdir))}"
        )
    if step is not None and step not in found:
        raise UserError(
            f"{logdir}: no checkpoint of step {step}; there are {', '.join(map(str, found))}."
        )
    return found[max(found) if step is None else step]


def restore(path: str | pathlib.Path, model, optimizer=None) -> dict:
    """Sets a model's weights, and an optimizer's variables if given.

    Args:
      path: A checkpoint.
      model: A model of the configuration that the checkpoint was trained with.
      optimizer: An optimizer that was built for the model's weights, as in `save`.

    Returns:
      What was saved as `meta`, and `step` and `versions`.

    Raises:
      DamagedCheckpoint: The file is not as it was written.
      UserError: It does not fit the model. In both cases nothing was set.
    """
    arrays, meta = read(path)
    _assign(path, arrays, model, optimizer)
    return meta


def _tell(message: str) -> None:
    print(message, file=sys.stderr)


def restore_newest(
    logdir: str | pathlib.Path, model, optimizer=None, *, tell: Callable[[str], None] = _tell
) -> dict:
    """Restores the newest checkpoint that is whole; see `restore` and `read_newest`."""
    path, arrays, meta = read_newest(logdir, tell=tell)
    _assign(path, arrays, model, optimizer)
    return meta


def restore_step(logdir: str | pathlib.Path, step: int | None, model) -> dict:
    """Restores the checkpoint of a step, the newest whole one if None; see `restore`."""
    if step is None:
        return restore_newest(logdir, model)
    return restore(find(logdir, step), model)


def read(path: str | pathlib.Path) -> tuple[dict[str, np.ndarray], dict]:
    """Returns a checkpoint's arrays by name, and its meta; see `restore`.

    Raises:
      DamagedCheckpoint: The file is not as it was written.
    """
    with _naming(path), open(path, "rb") as file:
        if reason := _damage(file):
            raise DamagedCheckpoint(path, reason)
        file.seek(0)
        try:
            with np.load(file, allow_pickle=False) as content:
                arrays = {renamed.in_checkpoint(name): array for name, array in content.items()}
            meta = json.loads(str(arrays.pop("meta")))
            meta["step"] = int(meta["step"])
        except (ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
            raise DamagedCheckpoint(path, f"not a checkpoint's content: {error}") from None
    return arrays, meta


def read_newest(
    logdir: str | pathlib.Path, *, tell: Callable[[str], None] = _tell
) -> tuple[pathlib.Path, dict[str, np.ndarray], dict]:
    """Reads the newest checkpoint of a run that is whole.

    Newer ones that are damaged are set aside, under their name with `.damaged` at its end.

    Args:
      logdir: The run's folder.
      tell: Is given a message for each that is set aside.

    Returns:
      The file, and what `read` returns of it.

    Raises:
      UserError: There is no checkpoint, or none is whole; then all stay where they are, lest the
        run be taken for one that has not begun.
    """
    find(logdir)
    damaged = []
    for step, path in reversed(steps(logdir).items()):
        try:
            arrays, meta = read(path)
        except DamagedCheckpoint as error:
            damaged.append(error)
            continue
        for error in damaged:
            tell(
                f"warning: {error.path}: this checkpoint is damaged ({error.reason});"
                f" {_set_aside(error.path)}. Step {step} is used in its place."
            )
        return path, arrays, meta
    files = "; ".join(f"{error.path.name} ({error.reason})" for error in damaged)
    raise UserError(
        f"{logdir}: none of its checkpoints is whole: {files}. Copy a whole one to"
        f" {pathlib.Path(logdir) / 'checkpoints'}, or start anew with another --logdir."
    )


def misfit(have: dict[str, tuple[int, ...]], want: dict[str, tuple[int, ...]]) -> str | None:
    """Returns in words where the arrays of a file first differ from those of a model, if they do.

    Args:
      have: Shapes in the file, by name.
      want: The model's.
    """
    for name, shape in want.items():
        if name not in have:
            return f"{name} is missing and should have the shape {list(shape)}"
        if have[name] != shape:
            return f"{name} has the shape {list(have[name])} and should have {list(shape)}"
    for name, shape in have.items():
        if name not in want:
            return f"it holds {name} {list(shape)}, which the model lacks"
    return None


def seal(file: BinaryIO, end: int) -> None:
    """Writes the checksum of a file's first `end` bytes behind them, open to read and write."""
    checksum = _checksum(file, end)
    file.seek(end)
    file.write(checksum)


def is_as_sealed(file: BinaryIO) -> bool | None:
    """Returns whether a file is as it was when `seal` ended it; None if no checksum ends it."""
    size = file.seek(0, os.SEEK_END)
    end = file.seek(max(size - _CHECKSUM_LENGTH, 0))
    stored = file.read()
    return stored == _checksum(file, end) if stored.startswith(_CHECKSUM) else None


def _checksum(file: BinaryIO, length: int) -> bytes:
    sha = hashlib.sha256()
    file.seek(0)
    for start in range(0, length, _CHUNK):
        sha.update(file.read(min(_CHUNK, length - start)))
    return _CHECKSUM + sha.hexdigest().encode()


def sync(path: str | pathlib.Path) -> None:
    """Waits until a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _assign(path, arrays: dict[str, np.ndarray], model, optimizer) -> None:
    """Sets variables to a checkpoint's arrays, if all of them fit."""
    sections = ("model/",) if optimizer is None else ("model/", "optimizer/")
    arrays = {name: array for name, array in arrays.items() if name.startswith(sections)}
    variables = _variables(model, optimizer)
    difference = misfit(
        {name: array.shape for name, array in arrays.items()},
        {name: tuple(variable.shape) for name, variable in variables.items()},
    )
    if difference:
        raise UserError(
            f"{path}: does not fit the configuration beside it: {difference}. Was config.yml"
            " changed, or the file taken from another run?"
        )
    for name, variable in variables.items():
        variable.assign(arrays[name])


def _variables(model, optimizer) -> dict:
    variables = {f"model/{weight.path}": weight for weight in model.weights}
    if optimizer is not None:
        variables |= {f"optimizer/{name}": v for name, v in optimizer.state.items()}
    return variables


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for name in ("cwvae", "tensorflow", "keras", "numpy"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions


@contextlib.contextmanager
def _naming(path: str | pathlib.Path) -> Iterator[None]:
    """Gives an OSError the name of the file: one from a read or a write has none."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


# The file: what np.savez writes, one array at a time, with a comment.


def _write(file: BinaryIO, meta: str, variables: Iterable[tuple]) -> None:
    with zipfile.ZipFile(file, "w") as archive:
        # Room for the checksum: it covers the length of the comment, so that has to stand first.
        archive.comment = bytes(_CHECKSUM_LENGTH)
        _write_array(archive, "meta", np.array(meta))
        for name, variable in variables:
            _write_array(archive, name, np.asarray(variable.numpy()))
    seal(file, file.seek(-_CHECKSUM_LENGTH, os.SEEK_END))


def _write_array(archive: zipfile.ZipFile, name: str, array: np.ndarray) -> None:
    with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
        np.lib.format.write_array(member, array, allow_pickle=False)


def _read_back(file: BinaryIO) -> None:
    """Sees that a file is on the disk as it was written."""
    file.flush()
    os.fsync(file.fileno())
    if hasattr(os, "posix_fadvise"):  # Linux: read it from the disk, not from memory.
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    if reason := _damage(file):
        raise OSError(errno.EIO, f"not on the disk as it was written: {reason}")


def _damage(file: BinaryIO) -> str | None:
    """Returns what is wrong with a file; None if its checksum is right."""
    if not file.seek(0, os.SEEK_END):
        return "it is empty"
    match is_as_sealed(file):
        case None:
            return "it does not end in a checksum: cut short, or no checkpoint at all"
        case False:
            return "its checksum is that of another content"
    return None


def _set_aside(path: pathlib.Path) -> str:
    """Renames a damaged checkpoint, and returns what became of it."""
    aside, number = path.with_name(f"{path.name}.damaged"), 1
    while aside.exists():
        number += 1
        aside = path.with_name(f"{path.name}.damaged{number}")
    try:
        path.rename(aside)
    except OSError as error:  # In a folder of someone else's it can still be passed over.
        return f"it stays there, since it cannot be renamed ({error.strerror})"
    return f"it is kept as {aside.name}"
