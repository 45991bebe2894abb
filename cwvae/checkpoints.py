"""Checkpoints: one .npz file each, in the run's folder `checkpoints/`.

A file holds `step`, the model's weights under `model/<name>` and, for going on with training, the
optimizer's variables under `optimizer/<number>`. It is written aside and renamed, so that a file
with a checkpoint's name is a whole one.
"""

import os
import pathlib
import re
import shlex
import zipfile

import numpy as np

from cwvae.errors import UserError


def save(
    logdir: str | pathlib.Path, step: int, model, optimizer=None, keep: int = 1
) -> pathlib.Path:
    """Writes a checkpoint and removes all but the newest.

    Args:
      logdir: The run's folder.
      step: Updates done.
      model: Its weights are saved.
      optimizer: Its variables are saved, if given.
      keep: How many checkpoints to keep.

    Returns:
      The file.
    """
    folder = pathlib.Path(logdir) / "checkpoints"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"step_{step:09d}.npz"
    aside = folder / f".step_{step:09d}.tmp"
    arrays = {key: variable.numpy() for key, variable in _variables(model, optimizer).items()}
    with open(aside, "wb") as file:
        np.savez(file, step=np.int64(step), **arrays)
        file.flush()
        os.fsync(file.fileno())
    os.replace(aside, path)
    for old in [*steps(logdir).values()][:-keep]:
        old.unlink()
    return path


def steps(logdir: str | pathlib.Path) -> dict[int, pathlib.Path]:
    """Returns the checkpoints of a run by their step, the oldest first."""
    found = {}
    for path in pathlib.Path(logdir).glob("checkpoints/step_*.npz"):
        if match := re.fullmatch(r"step_(\d+)\.npz", path.name):
            found[int(match[1])] = path
    return dict(sorted(found.items()))


def find(logdir: str | pathlib.Path, step: int | None = None) -> pathlib.Path:
    """Returns the file of a checkpoint, the newest if `step` is None.

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


def restore(path: str | pathlib.Path, model, optimizer=None) -> int:
    """Sets a model's weights, and an optimizer's variables if given.

    Args:
      path: A checkpoint.
      model: A model of the configuration that the checkpoint was trained with.
      optimizer: An optimizer that was built for the model's weights.

    Returns:
      The step.

    Raises:
      UserError: The file is damaged, or does not fit the model.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(
            f"{path}: not a readable checkpoint ({error}). Remove it, and the one before is used."
        ) from None
    variables = _variables(model, optimizer)
    for key, variable in variables.items():
        have = list(arrays[key].shape) if key in arrays else None
        if have != list(variable.shape):
            kept = "is missing" if have is None else f"has the shape {have}"
            raise UserError(
                f"{path}: does not fit the configuration beside it: {key} {kept} and should have"
                f" {list(variable.shape)}. Was config.yml changed, or the file taken from"
                " another run?"
            )
    unknown = [k for k in arrays if k.startswith("model/") and k not in variables]
    if unknown:
        raise UserError(
            f"{path}: does not fit the configuration beside it: it holds {unknown[0]}, which the"
            " model lacks. Was config.yml changed, or the file taken from another run?"
        )
    for key, variable in variables.items():
        variable.assign(arrays[key])
    return int(arrays["step"])


def _variables(model, optimizer) -> dict:
    variables = {f"model/{weight.path}": weight for weight in model.weights}
    if optimizer is not None:
        # Numbered, since Keras renames an optimizer's variables from version to version.
        variables |= {f"optimizer/{i:04d}": v for i, v in enumerate(optimizer.variables)}
    return variables
