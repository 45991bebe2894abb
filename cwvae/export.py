"""Exports a trained model: its weights in Keras' own format, beside its configuration.

    python -m cwvae.export --logdir RUN [--step N] --out DIR [--overwrite]

writes DIR/model.weights.h5 and DIR/config.yml. `cwvae.load(DIR)` takes such a folder as it takes a
run's.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import tempfile
from typing import TYPE_CHECKING, Literal

from cwvae import config as configuration
from cwvae.config import Config
from cwvae.errors import UserError, exit_on_user_error
from cwvae.run import checkpoints, renamed
from cwvae.startup import quiet_tensorflow

if TYPE_CHECKING:
    import h5py

    from cwvae.video_model import VideoModel

WEIGHTS, CONFIG = "model.weights.h5", "config.yml"
# What a file of HDF5 takes for each array beside its numbers, at most.
_HDF5_BYTES = 8192
# The settings that give a model's weights their shapes.
_SHAPING = (
    "model.name:",
    "model.levels:",
    "model.frame_size:",
    "model.channels:",
    "model.stochastic_size:",
    "model.deterministic_size:",
    "model.hidden_size:",
    "model.mlp_size:",
    "model.channel_multiplier:",
    "model.network:",
    "model.feature_size:",
    "model.belief_size:",
    "model.state_size:",
)


def export(
    logdir: str | pathlib.Path,
    out: str | pathlib.Path,
    step: int | None = None,
    overwrite: bool = False,
) -> int:
    """Writes a run's model into a folder of its own.

    Args:
      logdir: The run's folder.
      out: The export's folder, made if it is missing.
      step: Which checkpoint; None for the newest that is whole.
      overwrite: Whether an export there may be replaced.

    Returns:
      The step.

    Raises:
      UserError: No run, no checkpoint of it that is whole, or a folder that cannot be used.
    """
    config = configuration.load_run(logdir)
    checkpoints.find(logdir, step)
    out = pathlib.Path(out)
    _check_out(out, overwrite)
    # TensorFlow starts here, once all that a user may have got wrong has been looked at.
    with quiet_tensorflow():
        from cwvae import factory

    model = factory.build(config)
    step = checkpoints.restore_step(logdir, step, model)["step"]
    _write(model, config, out)
    return step


def _check_out(out: pathlib.Path, overwrite: bool) -> None:
    exported = (out / WEIGHTS).is_file()
    if (out / "checkpoints").exists() or ((out / CONFIG).exists() and not exported):
        raise UserError(f"--out {out}: there is a run; give another folder.")
    if exported and not overwrite:
        raise UserError(
            f"--out {out}: there is an export already; give another folder, or --overwrite."
        )
    try:
        out.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=out).close()
    except OSError as error:
        raise UserError(
            f"--out {out}: cannot write there ({error.strerror}); give another folder."
        ) from None


def _write(model: VideoModel, config: Config, out: pathlib.Path) -> None:
    weights, settings = out / f".aside.{WEIGHTS}", out / f".aside.{CONFIG}"
    try:
        _save_weights(model, weights)
        with open(weights, "r+b") as file:  # HDF5 has no checksum, and no eye for what follows it.
            checkpoints.seal(file, file.seek(0, os.SEEK_END))
        configuration.save(config, settings)
        checkpoints.sync(weights)
        checkpoints.sync(settings)
        # New weights never stand beside an old configuration, whatever happens in between.
        (out / CONFIG).unlink(missing_ok=True)
        os.replace(weights, out / WEIGHTS)
        os.replace(settings, out / CONFIG)
        checkpoints.sync(out)
    finally:
        weights.unlink(missing_ok=True)
        settings.unlink(missing_ok=True)


def _save_weights(model: VideoModel, path: pathlib.Path) -> None:
    """Keras' save_weights, where there is room: on a full disk HDF5 ends the process.

    Raises:
      UserError: There is no room.
    """
    size = sum(weight.numpy().nbytes + _HDF5_BYTES for weight in model.weights)
    try:
        with tempfile.TemporaryFile(dir=path.parent) as file:
            os.posix_fallocate(file.fileno(), 0, size)
    except OSError as error:
        raise UserError(
            f"{path.parent}: no room for {size / 1e6:.1f} MB of weights ({error.strerror})."
        ) from None
    model.save_weights(path)


def is_export(folder: str | pathlib.Path) -> bool:
    """Returns whether a folder is one that `export` has written."""
    return (pathlib.Path(folder) / WEIGHTS).is_file()


def source_kind(source: str | pathlib.Path) -> Literal["run", "weights", "checkpoint"]:
    """Returns what `load_weights` would find, without starting TensorFlow or reading it.

    Raises:
      UserError: Nothing that it takes.
    """
    source = pathlib.Path(source)
    if is_export(source) or (source.name.endswith(".weights.h5") and source.is_file()):
        return "weights"
    if source.suffix == ".npz" and source.is_file():
        return "checkpoint"
    if checkpoints.steps(source):
        return "run"
    raise UserError(
        f"{source}: no weights there. Give the folder of a run that has a checkpoint, a folder that"
        " python -m cwvae.export wrote, a file *.weights.h5, or a checkpoint step_*.npz."
    )


def check_source(source: str | pathlib.Path, config: Config) -> None:
    """Sees, without starting TensorFlow, that there are weights of a model like a configuration's.

    What does not fit although the configuration beside it does, `load_weights` refuses.

    Raises:
      UserError: Nothing that it takes, or the weights of another model.
    """
    kind, folder = source_kind(source), pathlib.Path(source)
    if kind == "checkpoint" and folder.absolute().parent.name == "checkpoints":
        folder = folder.absolute().parent.parent
    if (folder / CONFIG).is_file():
        changed = configuration.differences(configuration.load_run(folder), config)
        changed = [line for line in changed if line.startswith(_SHAPING)]
        if changed:
            raise UserError(
                f"{source}: does not fit the model: {', '.join(changed)}. Set the model section of"
                " the configuration to what these weights were trained with."
            )


def load_weights(model: VideoModel, source: str | pathlib.Path) -> None:
    """Sets a model's weights, as to train it further on other data.

    Args:
      model: The model.
      source: A run's folder, whose newest whole checkpoint is taken; an export's folder; a file
        that Keras' `save_weights` wrote; a checkpoint's file.

    Raises:
      UserError: No such source, or one that is damaged or does not fit the model; then nothing was
        set.
    """
    kind, source = source_kind(source), pathlib.Path(source)
    if kind == "weights":
        _load_h5(model, source / WEIGHTS if source.is_dir() else source)
        return
    if kind == "run":
        source, arrays, _ = checkpoints.read_newest(source)
    else:
        arrays, _ = checkpoints.read(source)
    have = {name: array.shape for name, array in arrays.items() if name.startswith("model/")}
    weights = {f"model/{weight.path}": weight for weight in model.weights}
    _refuse_misfit(source, have, {name: tuple(w.shape) for name, w in weights.items()})
    for name, weight in weights.items():
        weight.assign(arrays[name])


def _load_h5(model: VideoModel, path: pathlib.Path) -> None:
    """Sets a model's weights from a file of Keras' `save_weights`.

    Keras itself sets those before the first that does not fit, and passes over what the model
    lacks: the file is compared with one of the model before. Neither holds pickles.
    """
    import h5py  # It takes its time, and comes with Keras.

    with tempfile.TemporaryDirectory() as folder:
        own = pathlib.Path(folder) / WEIGHTS
        _save_weights(model, own)
        with h5py.File(own) as file:
            want = _shapes(file)
    with open(path, "rb") as file:
        if checkpoints.is_as_sealed(file) is False:
            raise _damaged(path, "its checksum is that of another content")
    before = [weight.numpy() for weight in model.weights]
    try:
        with h5py.File(path) as file, tempfile.TemporaryDirectory() as folder:
            have = {renamed.in_keras_file(name): shape for name, shape in _shapes(file).items()}
            _refuse_misfit(path, have, want)
            current = pathlib.Path(folder) / WEIGHTS
            with h5py.File(current, "w") as copy:
                for name in _shapes(file):
                    copy[renamed.in_keras_file(name)] = file[name][...]
            model.load_weights(current)
    except (OSError, RuntimeError, KeyError, ValueError) as error:
        for weight, array in zip(model.weights, before, strict=True):
            weight.assign(array)
        raise _damaged(path, str(error).partition("\n")[0]) from None


def _damaged(path: pathlib.Path, reason: str) -> UserError:
    return UserError(
        f"{path}: no whole file of Keras' weights ({reason}). Export it again, or copy it again"
        " from where it came."
    )


def _shapes(file: h5py.File) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of the arrays in a file by name; links are not followed.

    Raises:
      ValueError: One holds something else, or the numbers of another file.
    """
    import h5py

    shapes = {}

    def visit(name, item):
        if isinstance(item, h5py.Dataset):
            if item.dtype != "float32" or item.external or item.is_virtual:
                raise ValueError(f"{name} holds no float32 numbers of its own")
            shapes[name] = item.shape

    file.visititems(visit)
    return shapes


def _refuse_misfit(path: pathlib.Path, have: dict, want: dict) -> None:
    if difference := checkpoints.misfit(have, want):
        raise UserError(
            f"{path}: does not fit the model: {difference}. Set the model section of the"
            " configuration to what these weights were trained with."
        )


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m cwvae.export",
        description="Writes a trained model's weights in Keras' format, and its configuration.",
    )
    parser.add_argument("--logdir", required=True, help="the run's folder")
    parser.add_argument("--step", type=int, help="the checkpoint; the newest by default")
    parser.add_argument("--out", required=True, help="the folder to write into")
    parser.add_argument("--overwrite", action="store_true", help="replace an export there")
    arguments = parser.parse_args()
    with exit_on_user_error():
        step = export(arguments.logdir, arguments.out, arguments.step, arguments.overwrite)
    print(f"Exported step {step}. To load it in Python: cwvae.load({arguments.out!r})")


if __name__ == "__main__":
    main()
