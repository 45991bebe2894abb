"""Checkpoints: one .npz file each, in the run's folder `checkpoints/`.

A file holds the model's weights under `model/<name>`; the optimizer's variables, which resuming
needs, under `optimizer/<name>`; with `training.ema`, the averages of the weights under `ema/<name>`
and their number of updates under `ema/updates`; and under `meta`, as JSON, the step and other
values. The archive's comment, which ends the file, holds the SHA-256 of all bytes before it.

The first checkpoint leaves a file `.saved` in the run's folder. It distinguishes a run that lost
its checkpoints from one that has none yet.

A file is written under a temporary name, read back and renamed, so that a crash leaves only whole
checkpoints. The checksum reveals later damage.
"""

import contextlib
import errno
import hashlib
import json
import os
import pathlib
import re
import shlex
import sys
import zipfile
from collections.abc import Iterable, Iterator
from typing import BinaryIO

import numpy as np

from cwvae.errors import UserError
from cwvae.installation import command
from cwvae.run import files, renamed, versions

_SAVED = ".saved"
_CHECKSUM = b"sha256:"
_CHECKSUM_LENGTH = len(_CHECKSUM) + 64
_CHUNK = 1 << 20
_UPDATES = "ema/updates"


class DamagedCheckpoint(UserError):
    """Raised for a checkpoint whose content changed after it was written.

    Attributes:
      path: The file.
      reason: What is wrong with it.
    """

    def __init__(self, path: str | pathlib.Path, reason: str):
        super().__init__(
            f"{path}: this checkpoint is damaged ({reason}). Use another step of the run, or copy"
            " the file again."
        )
        self.path, self.reason = pathlib.Path(path), reason


def save(
    logdir: str | pathlib.Path,
    step: int,
    model,
    optimizer=None,
    average=None,
    *,
    keep: int = 1,
    keep_every: int | None = None,
    meta: dict | None = None,
) -> pathlib.Path:
    """Writes a checkpoint, then removes older ones. No other process may save in the same run.

    Args:
      logdir: The run's folder.
      step: Number of updates done.
      model: A model; its `weights` are saved under their `path`.
      optimizer: An optimizer, whose `state` (variables by name) is saved; None for none.
      average: An average of the weights, whose `state` is saved; None for none.
      keep: Number of newest checkpoints to keep.
      keep_every: Older checkpoints are kept if their step is a multiple of this; None for none.
      meta: More values for `restore` to return with the step: anything that JSON can write.

    Returns:
      The file.

    Raises:
      OSError: The file cannot be written, for example on a full disk. Other checkpoints stay.
    """
    folder = pathlib.Path(logdir) / "checkpoints"
    folder.mkdir(parents=True, exist_ok=True)
    files.remove_leftovers(folder, "step_")
    path = folder / f"step_{step:09d}.npz"
    meta = (meta or {}) | {"step": step, "versions": versions.packages()}
    variables = _variables(model, optimizer, average)
    with files.whole(path) as aside, open(aside, "w+b") as file:
        _write(file, json.dumps(meta), variables.items())
        _read_back(file)
    with contextlib.suppress(OSError):  # The disk may be full now; the next save tries again.
        (pathlib.Path(logdir) / _SAVED).touch()
    files.sync(logdir)
    found = steps(logdir)
    for number in [*found][:-keep]:
        if number != step and not (keep_every and number % keep_every == 0):
            found[number].unlink()
    return path


def steps(logdir: str | pathlib.Path) -> dict[int, pathlib.Path]:
    """Returns the checkpoints of a run by step, the oldest first."""
    found = {}
    for path in pathlib.Path(logdir).glob("checkpoints/step_*.npz"):
        if match := re.fullmatch(r"step_(\d+)\.npz", path.name):
            found[int(match[1])] = path
    return dict(sorted(found.items()))


def check_kept(logdir: str | pathlib.Path) -> None:
    """Checks that a run did not lose all its checkpoints.

    Raises:
      UserError: It had at least one, and has none.
    """
    if (pathlib.Path(logdir) / _SAVED).exists() and not steps(logdir):
        raise UserError(
            f"{logdir}: the checkpoints of this run are gone, so training would start again at step"
            f" 0 and overwrite its logs. Copy them back to {pathlib.Path(logdir) / 'checkpoints'};"
            f" or train a new run: give another --logdir, or delete {logdir}."
        )


def find(logdir: str | pathlib.Path, step: int | None = None) -> pathlib.Path:
    """Returns the file of a checkpoint without reading it; the newest if `step` is None.

    Raises:
      UserError: There is none.
    """
    check_kept(logdir)
    found = steps(logdir)
    if not found:
        raise UserError(
            f"{logdir}: this run has no checkpoint yet. Resume it:"
            f" {command('train')} --logdir {shlex.quote(str(logdir))}"
        )
    if step is not None and step not in found:
        raise UserError(
            f"{logdir}: no checkpoint of step {step}; there are {', '.join(map(str, found))}."
        )
    return found[max(found) if step is None else step]


def restore(path: str | pathlib.Path, model, optimizer=None, average=None, averaged=True) -> dict:
    """Sets a model's weights, to use the model; or with an optimizer, to resume its training.

    Args:
      path: A checkpoint.
      model: A model of the configuration that the checkpoint was trained with.
      optimizer: To resume: an optimizer that was built for the model's weights, as in `save`.
      average: To resume: an average of the model's weights, as in `save`. It starts from the
        weights if the checkpoint has none.
      averaged: To use the model: whether to take the averages of the weights, if the checkpoint has
        them. Training always resumes from the weights themselves.

    Returns:
      The `meta` that was saved, with `step` and `versions`.

    Raises:
      DamagedCheckpoint: The file's content changed after it was written. Nothing was set.
      UserError: The checkpoint does not fit the model. Nothing was set.
    """
    arrays, meta = read(path)
    _assign(path, arrays, model, optimizer, average, averaged)
    return meta


def restore_newest(
    logdir: str | pathlib.Path, model, optimizer=None, average=None, averaged=True
) -> dict:
    """Restores the newest checkpoint that is whole; see `restore` and `read_newest`."""
    path, arrays, meta = read_newest(logdir)
    _assign(path, arrays, model, optimizer, average, averaged)
    return meta


def restore_step(logdir: str | pathlib.Path, step: int | None, model, averaged=True) -> dict:
    """Restores the checkpoint of a step, the newest whole one if None; see `restore`."""
    if step is None:
        return restore_newest(logdir, model, averaged=averaged)
    return restore(find(logdir, step), model, averaged=averaged)


def model_weights(arrays: dict[str, np.ndarray], averaged: bool = True) -> dict[str, np.ndarray]:
    """Returns the weights in a checkpoint's arrays, to use the model: `model/<name>` by name.

    Args:
      arrays: As `read` returns them.
      averaged: Whether to take the averages of the weights, if there are any.
    """
    prefix = "ema/" if averaged and _UPDATES in arrays else "model/"
    return {
        f"model/{name.removeprefix(prefix)}": array
        for name, array in arrays.items()
        if name.startswith(prefix) and name != _UPDATES
    }


def read(path: str | pathlib.Path) -> tuple[dict[str, np.ndarray], dict]:
    """Returns a checkpoint's arrays by name, and its meta; see `restore`.

    Raises:
      DamagedCheckpoint: The file's content changed after it was written, or is of another step than
        its name.
    """
    with _whole(path) as content:
        arrays = {renamed.in_checkpoint(name): content[name] for name in content if name != "meta"}
        return arrays, _meta(path, content)


def is_whole(path: str | pathlib.Path) -> bool:
    """Returns whether `read` would read a checkpoint. Needs no memory for its arrays."""
    try:
        with _whole(path) as content:
            _meta(path, content)
    except DamagedCheckpoint:
        return False
    return True


def settings_of(path: str | pathlib.Path) -> dict[str, dict] | None:
    """Returns the `config` in a checkpoint's meta; None if it has none or cannot be read.

    This reads only the meta, whose own checksum in the archive reveals damage.
    """
    with contextlib.suppress(DamagedCheckpoint), _whole(path, checked=False) as content:
        return _meta(path, content).get("config")
    return None


def settings_of_newest(logdir: str | pathlib.Path) -> dict[str, dict] | None:
    """Returns the `config` in the newest checkpoint of a run that has one; None if none has."""
    every = (settings_of(path) for path in reversed(steps(logdir).values()))
    return next(filter(None, every), None)


@contextlib.contextmanager
def _whole(path: str | pathlib.Path, checked: bool = True) -> Iterator[np.lib.npyio.NpzFile]:
    """Opens a checkpoint, after a look at its checksum if `checked`.

    Raises:
      DamagedCheckpoint: Its content changed after it was written.
    """
    try:
        with open(path, "rb") as file:
            if checked and (reason := _damage(file)):
                raise DamagedCheckpoint(path, reason)
            file.seek(0)
            with np.load(file, allow_pickle=False) as content:
                yield content
    except OSError as error:
        error.filename = error.filename or str(path)  # An error while reading has none.
        raise
    except (ValueError, KeyError, TypeError, EOFError, AttributeError, zipfile.BadZipFile) as error:
        raise DamagedCheckpoint(path, f"not a checkpoint's content: {error}") from None


def _meta(path: str | pathlib.Path, content: np.lib.npyio.NpzFile) -> dict:
    meta = json.loads(str(content["meta"]))
    meta["step"] = int(meta["step"])
    named = re.fullmatch(r"step_(\d+)\.npz", pathlib.Path(path).name)
    if named and int(named[1]) != meta["step"]:
        raise DamagedCheckpoint(path, f"it holds step {meta['step']}, unlike its name")
    return meta


def read_newest(logdir: str | pathlib.Path) -> tuple[pathlib.Path, dict[str, np.ndarray], dict]:
    """Reads the newest whole checkpoint of a run.

    Damaged newer ones are renamed to end in `.damaged`, with a warning on stderr.

    Returns:
      The file, and the result of `read`.

    Raises:
      UserError: There is no checkpoint, or none is whole. Then none is renamed, so that the run
        does not look like a new one.
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
            print(
                f"warning: {error.path}: this checkpoint is damaged ({error.reason});"
                f" {_set_aside(error.path)}. Step {step} is used instead.",
                file=sys.stderr,
            )
        return path, arrays, meta
    files = "; ".join(f"{error.path.name} ({error.reason})" for error in damaged)
    raise UserError(
        f"{logdir}: none of its checkpoints is whole: {files}. Copy a whole one to"
        f" {pathlib.Path(logdir) / 'checkpoints'}, or start a new run with another --logdir."
    )


def misfit(have: dict[str, tuple[int, ...]], want: dict[str, tuple[int, ...]]) -> str | None:
    """Describes the first difference between the arrays of a file and of a model; None for none.

    Args:
      have: The shapes in the file, by name.
      want: The shapes in the model, by name.
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
    """Writes the checksum of a file's first `end` bytes after them.

    Args:
      file: A file that is open for reading and writing.
      end: Number of bytes.
    """
    checksum = _checksum(file, end)
    file.seek(end)
    file.write(checksum)


def is_as_sealed(file: BinaryIO) -> bool | None:
    """Returns whether the checksum that `seal` wrote is right; None if the file ends in none."""
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


def _assign(path, arrays: dict[str, np.ndarray], model, optimizer, average, averaged: bool) -> None:
    """Sets variables to a checkpoint's arrays, if all of them fit."""
    if optimizer is None:
        arrays = model_weights(arrays, averaged)
    else:
        if average is not None and _UPDATES not in arrays:
            weights = model_weights(arrays).items()
            arrays |= {f"ema/{name.removeprefix('model/')}": array for name, array in weights}
            arrays[_UPDATES] = np.zeros((), np.int64)
        sections = ("model/", "optimizer/") if average is None else ("model/", "optimizer/", "ema/")
        arrays = {name: array for name, array in arrays.items() if name.startswith(sections)}
    variables = _variables(model, optimizer, average)
    difference = misfit(
        {name: array.shape for name, array in arrays.items()},
        {name: tuple(variable.shape) for name, variable in variables.items()},
    )
    if difference:
        raise UserError(
            f"{path}: does not fit the run's config.yml: {difference}. Restore config.yml if it was"
            " changed, or use a checkpoint of this run."
        )
    for name, variable in variables.items():
        variable.assign(arrays[name])


def _variables(model, optimizer, average) -> dict:
    variables = {f"model/{weight.path}": weight for weight in model.weights}
    for section, owner in (("optimizer", optimizer), ("ema", average)):
        if owner is not None:
            variables |= {f"{section}/{name}": v for name, v in owner.state.items()}
    return variables


# The file format: the one of np.savez, written one array at a time, with a comment.


def _write(file: BinaryIO, meta: str, variables: Iterable[tuple]) -> None:
    with zipfile.ZipFile(file, "w") as archive:
        # Room for the checksum, which covers the length of the comment too.
        archive.comment = bytes(_CHECKSUM_LENGTH)
        _write_array(archive, "meta", np.array(meta))
        for name, variable in variables:
            _write_array(archive, name, np.asarray(variable.numpy()))
    seal(file, file.seek(-_CHECKSUM_LENGTH, os.SEEK_END))


def _write_array(archive: zipfile.ZipFile, name: str, array: np.ndarray) -> None:
    with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
        np.lib.format.write_array(member, array, allow_pickle=False)


def _read_back(file: BinaryIO) -> None:
    """Checks that the disk holds a file as it was written."""
    file.flush()
    os.fsync(file.fileno())
    if hasattr(os, "posix_fadvise"):  # On Linux: read from the disk, not from memory.
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    if reason := _damage(file):
        raise OSError(errno.EIO, f"the disk does not hold what was written: {reason}")


def _damage(file: BinaryIO) -> str | None:
    """Describes the damage to a file; None if its checksum is right."""
    if not file.seek(0, os.SEEK_END):
        return "it is empty"
    match is_as_sealed(file):
        case None:
            return "it does not end in a checksum: cut short, or not a checkpoint"
        case False:
            return "checksum mismatch"
    return None


def _set_aside(path: pathlib.Path) -> str:
    """Renames a damaged checkpoint, and returns a clause that says so."""
    aside, number = path.with_name(f"{path.name}.damaged"), 1
    while aside.exists():
        number += 1
        aside = path.with_name(f"{path.name}.damaged{number}")
    try:
        path.rename(aside)
    except OSError as error:  # The folder may belong to someone else.
        return f"it keeps its name, since it cannot be renamed ({error.strerror})"
    return f"it is kept as {aside.name}"
