"""Exports a trained model, to use it elsewhere or to share it.

    python -m cwvae.export --logdir RUN [--step N] --out DIR [--overwrite] [--license ID]
    python -m cwvae.export --logdir RUN --out DIR --saved-model [--context N] [--horizon N]

writes DIR/model.weights.h5, the weights in Keras' own format with the step; DIR/config.yml; and
DIR/README.md, a model card. None of them holds paths of data or of a run: they are private, and
mean nothing on another machine. `cwvae.load(DIR)` and `eval.py` take an export as they take a run.
With --saved-model, DIR/saved_model predicts without this package.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import operator
import os
import pathlib
import shutil
import tempfile
from typing import TYPE_CHECKING, Literal

from cwvae import config as configuration
from cwvae import model_card
from cwvae.config import Config
from cwvae.errors import UserError, exit_on_user_error
from cwvae.installation import program
from cwvae.run import checkpoints, files, renamed
from cwvae.run import folder as run_folder
from cwvae.startup import quiet_tensorflow, starting_tensorflow

if TYPE_CHECKING:
    import h5py

    from cwvae.video_model import VideoModel

WEIGHTS, CONFIG, SAVED_MODEL = "model.weights.h5", "config.yml", "saved_model"
FILES = (WEIGHTS, CONFIG)  # What a model is loaded from.
_ASIDE = ".export.tmp"  # Where all are written first. It remains if that is interrupted.
_STEP = "step"  # The attribute of the file of weights.
# Upper bound of what HDF5 stores for each array in addition to its numbers.
_HDF5_BYTES = 8192


def export(
    logdir: str | pathlib.Path,
    out: str | pathlib.Path,
    step: int | None = None,
    overwrite: bool = False,
    licence: str = model_card.UNKNOWN,
    saved_model: tuple[int | None, int | None] | None = None,
) -> int:
    """Writes the model of a run into another folder.

    Args:
      logdir: The run's folder.
      out: The export's folder, made if it is missing.
      step: The step of the checkpoint; None for the newest whole one.
      overwrite: Whether to replace an existing export.
      licence: The Hugging Face Hub's identifier of the licence of the weights, such as cc-by-4.0.
      saved_model: The numbers of frames that a SavedModel sees and predicts, each None for that
        of the run's evaluation. None: no SavedModel.

    Returns:
      The step.

    Raises:
      UserError: The run or a whole checkpoint is missing, an argument is out of range, or the
        folder cannot be used or another process is exporting into it.
    """
    if is_export(logdir):
        raise UserError(f"--logdir {logdir}: this is an export already. Copy the folder.")
    model_card.check_licence(licence)
    config = run_folder.load_config(logdir)
    if saved_model:
        saved_model = _frames(config, *saved_model)
    checkpoints.find(logdir, step)
    out = pathlib.Path(out)
    _check_out(out, overwrite)
    advice = "Wait until it ends, or give another --out."
    with files.locked_beside(out, f"exporting into {out}", advice):
        _check_out(out, overwrite)  # Once more, now that the folder is locked.
        # TensorFlow is slow to start, so the user's mistakes are reported first.
        with starting_tensorflow():
            from cwvae import factory

        model = factory.build(config)
        step = checkpoints.restore_step(logdir, step, model)["step"]
        shared = _without_paths(config)
        card = model_card.text(
            shared,
            step,
            model.count_trainable(),
            model_card.evaluation(logdir, step),
            pathlib.Path(logdir).resolve().name,
            licence,
        )
        _write(model, step, shared, card, saved_model, out)
    return step


def _frames(config: Config, context: int | None, horizon: int | None) -> tuple[int, int]:
    """Returns the numbers of frames that a SavedModel sees and predicts."""
    own = config.evaluation
    for name, value in (("context", context), ("horizon", horizon)):
        if value is not None and value < 1:
            raise UserError(f"--{name} {value}: give at least 1 frame.")
    return context or own.context, horizon or own.horizon


def _without_paths(config: Config) -> Config:
    """Returns a configuration without its paths of data and of initial weights."""
    paths = configuration.properties(config.data).items()
    data = dataclasses.replace(config.data, **{key: None for key, its in paths if its.is_path})
    training = dataclasses.replace(config.training, init_from=None)
    return dataclasses.replace(config, data=data, training=training)


def _check_out(out: pathlib.Path, overwrite: bool) -> None:
    exported, complete = (out / WEIGHTS).is_file(), (out / CONFIG).exists()
    if (out / "checkpoints").exists() or (complete and not exported):
        raise UserError(f"--out {out}: there is a run. Give another folder.")
    unfinished = (out / _ASIDE).exists() and not complete  # Killed between its files.
    if exported and not overwrite and not unfinished:
        raise UserError(
            f"--out {out}: there is an export already. Give another folder, or --overwrite."
        )
    for name in (model_card.NAME, SAVED_MODEL):
        if (out / name).exists() and not (overwrite or unfinished):
            raise UserError(
                f"--out {out}: {name} is there, which an export may replace. Give another folder,"
                " or --overwrite."
            )
    try:
        out.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=out).close()
    except OSError as error:
        raise UserError(
            f"--out {out}: cannot write there ({error.strerror}). Give another folder."
        ) from None


def _write(
    model: VideoModel,
    step: int,
    config: Config,
    card: str,
    saved_model: tuple[int, int] | None,
    out: pathlib.Path,
) -> None:
    import h5py  # Slow to import.

    # A folder, because Keras writes only to names that end in .weights.h5.
    aside = out / _ASIDE
    if aside.exists():
        shutil.rmtree(aside)
    aside.mkdir()
    try:
        _save_weights(model, aside / WEIGHTS)
        with h5py.File(aside / WEIGHTS, "a") as file:
            file.attrs[_STEP] = step
        # HDF5 has no checksum, and ignores trailing bytes.
        with open(aside / WEIGHTS, "r+b") as file:
            checkpoints.seal(file, file.seek(0, os.SEEK_END))
        configuration.save(config, aside / CONFIG)
        (aside / model_card.NAME).write_text(card, encoding="utf-8")
        if saved_model:
            _save_predictions(model, aside / SAVED_MODEL, *saved_model)
        for path in aside.rglob("*"):
            files.sync(path)
        # New weights must never stand next to an old configuration, not even after a crash.
        (out / CONFIG).unlink(missing_ok=True)
        if (out / SAVED_MODEL).exists():
            shutil.rmtree(out / SAVED_MODEL)
        for name in (WEIGHTS, model_card.NAME, *([SAVED_MODEL] if saved_model else []), CONFIG):
            os.replace(aside / name, out / name)
        files.sync(out)
    except OSError as error:
        if error.filename:  # The message names the file that the user knows.
            error.filename, error.filename2 = str(out / pathlib.Path(error.filename).name), None
        raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _save_predictions(model: VideoModel, path: pathlib.Path, context: int, horizon: int) -> None:
    with quiet_tensorflow():
        import tensorflow as tf

        from cwvae import saved_model

        try:
            saved_model.save(model, path, context, horizon)
        except tf.errors.OpError as error:
            raise UserError(
                f"{path.parent.parent}: the SavedModel cannot be written ({error.message}). Check"
                " that there is room."
            ) from None


def _save_weights(model: VideoModel, path: pathlib.Path) -> None:
    """Calls Keras' `save_weights` if there is room. On a full disk HDF5 would end the process.

    Raises:
      UserError: There is not enough room.
    """
    size = sum(weight.numpy().nbytes + _HDF5_BYTES for weight in model.weights)
    try:
        with tempfile.TemporaryFile(dir=path.parent) as file:
            os.posix_fallocate(file.fileno(), 0, size)
    except OSError as error:
        raise UserError(
            f"{path.parent.parent}: no room for {size / 1e6:.1f} MB of weights ({error.strerror})."
            " Make room."
        ) from None
    model.save_weights(path)


def is_export(folder: str | pathlib.Path) -> bool:
    """Returns whether `export` wrote a folder."""
    return (pathlib.Path(folder) / WEIGHTS).is_file()


def find(folder: str | pathlib.Path, step: int | None = None) -> None:
    """Checks that a folder is an export, or a run with the checkpoint of a step. Reads neither.

    Raises:
      UserError: It is not.
    """
    if not is_export(folder):
        checkpoints.find(folder, step)
    elif step is not None:
        raise UserError(f"{folder}: an export holds one step. Do not give a step.")


def restore(
    folder: str | pathlib.Path, step: int | None, model: VideoModel, averaged: bool = True
) -> int | None:
    """Sets a model's weights to those of an export, or of a run's checkpoint.

    Args:
      folder: The folder of the export or the run.
      step: The step of the run's checkpoint; None for the newest whole one.
      model: The model.
      averaged: Whether to take the averages of a run's weights, if it has them (`training.ema`). An
        export of such a run holds nothing else.

    Returns:
      The step; None for an export of an earlier version, which did not store it.

    Raises:
      UserError: The weights are damaged or do not fit the model. No weight changes.
    """
    if not is_export(folder):
        return checkpoints.restore_step(folder, step, model, averaged)["step"]
    load_weights(model, folder)
    import h5py  # Slow to import.

    with h5py.File(pathlib.Path(folder) / WEIGHTS) as file:
        return int(file.attrs[_STEP]) if _STEP in file.attrs else None


def source_kind(source: str | pathlib.Path) -> Literal["run", "weights", "checkpoint"]:
    """Returns the kind of a source of weights, without starting TensorFlow or reading the source.

    Raises:
      UserError: `load_weights` does not take it.
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


def check_source(source: str | pathlib.Path, config: Config) -> list[str]:
    """Checks that a source has weights that fit a configuration, without starting TensorFlow.

    This looks at the source's own configuration. `load_weights` still rejects weights that
    contradict it.

    Returns:
      A line for each setting of the model that differs although the weights fit.

    Raises:
      UserError: `load_weights` does not take the source, or its model is another one.
    """
    own = _config_of(pathlib.Path(source), source_kind(source))
    if own is None:
        return []
    if changed := configuration.differences(own, config, lambda its: its.shapes_weights):
        raise _misfit(source, ", ".join(changed))
    return _differences_in_meaning(own, config)


def _config_of(source: pathlib.Path, kind: str) -> Config | None:
    """Returns the configuration that a source of weights was trained with; None if unknown."""
    if kind == "run":
        return run_folder.trained_with(source) or run_folder.load_config(source)
    if kind == "checkpoint":
        plain = checkpoints.settings_of(source)
        if own := plain and run_folder.from_plain(plain):
            return own
    # The configuration of the export, or of the run, that a file is in.
    folder = source if source.is_dir() else source.absolute().parent
    folder = folder.parent if kind == "checkpoint" and folder.name == "checkpoints" else folder
    known = source.is_dir() or source.name == WEIGHTS or kind == "checkpoint"
    return configuration.load_run(folder) if known and (folder / CONFIG).is_file() else None


def _differences_in_meaning(old: Config, new: Config) -> list[str]:
    """Returns a line for each setting of the model that differs but shapes no weights."""
    lines = configuration.differences(old, new, lambda its: not its.shapes_weights)
    lines = [line for line in lines if line.startswith("model.")]
    ticks = [_ticks(config.model) for config in (old, new)]
    factor = next((line for line in lines if line.startswith("model.factor:")), None)
    if factor is not None:
        lines.remove(factor)
    if factor and ticks[0] != ticks[1]:
        before, after = (", ".join(map(str, every)) for every in ticks)
        lines.insert(
            0,
            f"{factor} (the levels ticked every {before} frames, and now every {after}: what the"
            " slower levels learned belongs to other time scales)",
        )
    return lines


def _ticks(model: configuration.ModelConfig) -> list[int]:
    """Returns how many frames apart the ticks of each level are; empty for other models."""
    if not isinstance(model, configuration.CWVAEConfig):
        return []
    factors = configuration.per_level(model.factor, model.levels - 1)
    return [*itertools.accumulate((1, *factors), operator.mul)]


def load_weights(model: VideoModel, source: str | pathlib.Path) -> None:
    """Sets a model's weights, for example to train it further on other data.

    Args:
      model: The model.
      source: A run's folder, for its newest whole checkpoint; an export's folder; a file that
        Keras' `save_weights` wrote; a checkpoint's file.

    Raises:
      UserError: The source does not exist, is damaged or does not fit the model. No weight changes.
    """
    kind, source = source_kind(source), pathlib.Path(source)
    if kind == "weights":
        _load_h5(model, source / WEIGHTS if source.is_dir() else source)
        return
    if kind == "run":
        source, arrays, _ = checkpoints.read_newest(source)
    else:
        arrays, _ = checkpoints.read(source)
    arrays = checkpoints.model_weights(arrays)
    have = {name: array.shape for name, array in arrays.items()}
    weights = {f"model/{weight.path}": weight for weight in model.weights}
    _check_fit(source, have, {name: tuple(w.shape) for name, w in weights.items()})
    for name, weight in weights.items():
        weight.assign(arrays[name])


def _load_h5(model: VideoModel, path: pathlib.Path) -> None:
    """Sets a model's weights from a file of Keras' `save_weights`.

    Keras would set all weights up to the first misfit, and ignore arrays that the model lacks. So
    the file is first compared with one written for the model. Neither holds pickles.
    """
    import h5py  # Slow to import.

    with tempfile.TemporaryDirectory() as folder:
        own = pathlib.Path(folder) / WEIGHTS
        _save_weights(model, own)
        with h5py.File(own) as file:
            want = _shapes(file)
    with open(path, "rb") as file:
        if checkpoints.is_as_sealed(file) is False:
            raise _damaged(path, "checksum mismatch")
    before = [weight.numpy() for weight in model.weights]
    try:
        with h5py.File(path) as file, tempfile.TemporaryDirectory() as folder:
            have = _shapes(file)
            # An older name of one model may be today's name of another.
            names = {name: name if name in want else renamed.in_keras_file(name) for name in have}
            _check_fit(path, {names[name]: shape for name, shape in have.items()}, want)
            current = pathlib.Path(folder) / WEIGHTS
            with h5py.File(current, "w") as copy:
                for name, today in names.items():
                    copy[today] = file[name][...]
            model.load_weights(current)
    except (OSError, RuntimeError, KeyError, ValueError) as error:
        for weight, array in zip(model.weights, before, strict=True):
            weight.assign(array)
        raise _damaged(path, str(error).partition("\n")[0]) from None


def _damaged(path: pathlib.Path, reason: str) -> UserError:
    return UserError(
        f"{path}: not a whole file of Keras' weights ({reason}). Export it again, or copy it again."
    )


def _shapes(file: h5py.File) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of the arrays in a file by name. It does not follow links.

    Raises:
      ValueError: A data set is not float32, or refers to another file.
    """
    import h5py

    shapes = {}

    def visit(name, item):
        if isinstance(item, h5py.Dataset):
            if item.dtype != "float32" or item.external or item.is_virtual:
                raise ValueError(f"{name} does not hold float32 numbers itself")
            shapes[name] = item.shape

    file.visititems(visit)
    return shapes


def _check_fit(path: pathlib.Path, have: dict, want: dict) -> None:
    if difference := checkpoints.misfit(have, want):
        raise _misfit(path, difference)


def _misfit(source: str | pathlib.Path, difference: str) -> UserError:
    return UserError(
        f"{source}: does not fit the model: {difference}. Set the model section of the"
        " configuration to the values that these weights were trained with."
    )


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(
        prog=program("cwvae.export"),
        description="Writes a trained model's weights in Keras' format, and its configuration.",
    )
    parser.add_argument("--logdir", required=True, help="the run's folder")
    parser.add_argument("--step", type=int, help="the checkpoint (default: the newest)")
    parser.add_argument("--out", required=True, help="the folder to write into")
    parser.add_argument("--overwrite", action="store_true", help="replace an export there")
    parser.add_argument(
        "--license",
        default=model_card.UNKNOWN,
        metavar="ID",
        help="licence of the weights for the model card, such as mit or cc-by-4.0",
    )
    parser.add_argument(
        "--saved-model", action="store_true", help="also write a SavedModel of the predictions"
    )
    words = "frames that the SavedModel {} (default: evaluation.{} of the run)"
    parser.add_argument("--context", type=int, help=words.format("sees", "context"))
    parser.add_argument("--horizon", type=int, help=words.format("predicts", "horizon"))
    configuration.refuse_settings(parser)
    arguments = parser.parse_args()
    frames = None
    if arguments.saved_model:
        frames = (arguments.context, arguments.horizon)
    elif arguments.context is not None or arguments.horizon is not None:
        parser.error("--context and --horizon are for --saved-model: add it")
    with exit_on_user_error():
        step = export(
            arguments.logdir,
            arguments.out,
            arguments.step,
            arguments.overwrite,
            arguments.license,
            frames,
        )
    print(f"Exported step {step}. To load it in Python: cwvae.load({arguments.out!r})")


if __name__ == "__main__":
    main()
