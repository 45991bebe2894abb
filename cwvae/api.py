"""The functions of `import cwvae`: `train`, `evaluate`, `predict` and `load`.

They do what the commands do, and raise `cwvae.errors.UserError` where a command prints a message.
TensorFlow starts, quietly, when a model is built.
"""

from __future__ import annotations

import contextlib
import io
import json
import pathlib
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cwvae.errors import UserError
from cwvae.installation import PRETRAINED
from cwvae.startup import quiet_tensorflow, silent

if TYPE_CHECKING:
    from cwvae.config import Config
    from cwvae.prediction import Prediction
    from cwvae.video_model import VideoModel

# `data.name` of runs whose clips Python passes. `data_loaders.arrays` has the same name.
_DATA_NAME = "arrays"


def train(
    config: str | pathlib.Path | None = None,
    data=None,
    logdir: str | pathlib.Path | None = None,
    settings: Mapping[str, Any] | None = None,
    *,
    show_progress: bool = True,
) -> VideoModel:
    """Trains a model, or resumes a run, and returns the trained model.

    The same call resumes a run that was interrupted, and returns the model of a complete one. With
    `data`, the section `data` of the configuration is not used, and `model.frame_size` and
    `model.channels` follow the frames.

    Args:
      config: The name of a configuration, such as "quickstart", or the path of a YAML file. None:
        that of the run in `logdir`.
      data: The training and the test data set, as `data_loaders.from_arrays` returns them. None:
        the data set that the configuration names.
      logdir: The run's folder; by default logs/ and the name of the configuration.
      settings: Settings that differ from the configuration, such as {"training.steps": 1000}.
      show_progress: Whether to tell on stderr what is done, with a progress bar or lines.

    Returns:
      The model of the newest checkpoint.

    Raises:
      cwvae.errors.UserError: A setting, the data or the folder cannot be used, or training failed.
      KeyboardInterrupt: Ctrl-C, or a notebook's stop button, after the current step was saved.
    """
    from cwvae import config as configuration
    from cwvae.commands import train as command
    from cwvae.run import folder

    if config is None and logdir is None:
        raise UserError("cwvae.train: give a configuration, or the logdir of a run to resume.")
    logdir = f"logs/{pathlib.Path(config).stem}" if logdir is None else logdir
    path = folder.config_path(logdir) if config is None else config
    given = dict(_checked(settings))
    if data is not None:
        height, _, channels = _frame_shape(data)
        frames = {"model.frame_size": height, "model.channels": channels}
        given = frames | given | {"data.name": _DATA_NAME}
    if source := given.get("training.init_from"):
        # Absolute, so that the run can be resumed from another working directory.
        given["training.init_from"] = pathlib.Path(source).resolve()
    loaded = configuration.with_absolute_paths(configuration.load(path, _overrides(given)))
    _check_frames(loaded, data)
    if data is not None:
        folder.check_data(logdir, data[0])  # Also of a run that is complete.
    with _to_stderr(show_progress):
        stopped_by = command.train(loaded, logdir, data, show_progress)
    if stopped_by == signal.SIGINT:
        raise KeyboardInterrupt(f"stopped and saved in {logdir}; the same call resumes")
    if stopped_by:
        sys.exit(128 + stopped_by)
    return load(logdir)


def evaluate(
    logdir: str | pathlib.Path,
    data=None,
    settings: Mapping[str, Any] | None = None,
    *,
    step: int | None = None,
    out: str | pathlib.Path | None = None,
) -> dict:
    """Evaluates a model on held-out clips, and returns the content of the metrics.json it writes.

    Args:
      logdir: The folder of a run or an export.
      data: The training and the test data set. None: the data set of the configuration.
      settings: Settings of the sections `evaluation` and `data` that differ from the run's, such as
        {"evaluation.num_videos": 20}.
      step: The step of a checkpoint; None for the newest intact one.
      out: The folder to write: a name in `logdir`, or a path; by default `eval` in `logdir`, with a
        longer name for other settings or another step.

    Raises:
      cwvae.errors.UserError: There is no such model, or it cannot be evaluated on these clips.
    """
    from cwvae.commands import evaluate as command
    from cwvae.run import folder

    given = dict(_checked(settings))
    if data is not None:
        given["data.name"] = _DATA_NAME
    config = folder.load_config(logdir, _overrides(given))
    _check_frames(config, data)
    out = command.folder_for(config, logdir, step, None if out is None else str(out))
    with _to_stderr():
        return command.evaluate(config, logdir, step, out, data=data)


def predict(
    run: str | pathlib.Path | None = None,
    videos: Sequence[str | pathlib.Path] = (),
    horizon: int = 100,
    samples: int = 3,
    *,
    context: int | None = None,
    start: int | None = None,
    step: int | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Prediction:
    """Predicts how videos in files continue; for arrays there is the method of the model.

    Args:
      run: The folder of a run or an export; None for the small model of this package.
      videos: Files of videos, arrays, or folders of pictures. None: the first held-out clips of the
        run's data set, from their first frame.
      horizon: Predicted frames, T.
      samples: Predictions of each video, S.
      context: Frames that the model sees; None for `evaluation.context` of the run.
      start: The first of these frames. None: they are the last of each video.
      step: The step of the run's checkpoint; None for the newest.
      settings: Settings of the sections `data` and `evaluation` that differ from the run's.

    Returns:
      Its `frames` are float32 in [0, 1], [N, S, T, H, W, C], its `context` what the model saw.

    Raises:
      cwvae.errors.UserError: The run or a video cannot be used, or an argument is out of range.
    """
    from cwvae.commands import predict as command

    given = _overrides(_checked(settings))
    frames = {"context": context, "start": start}
    return command.predict(run, videos, horizon, samples, **frames, step=step, settings=given)


def load(source: str | pathlib.Path | None = None, step: int | None = None) -> VideoModel:
    """Returns a trained model.

    Args:
      source: The folder of a run or an export; or an export on the Hugging Face Hub, such as
        hf://user/name or hf://user/name@revision. None: the small model of this package.
      step: The step of a checkpoint of the run; None for the newest whole one.

    Raises:
      TypeError: `step` is not an integer.
      cwvae.errors.UserError: There is no run or export, or no checkpoint that fits it.
    """
    from cwvae import export, hub
    from cwvae.run import folder

    if source is None:
        source = PRETRAINED
    elif hub.is_address(source):
        source = hub.download(source, export.FILES)
    # Imported here, so that reading a configuration does not start TensorFlow.
    with quiet_tensorflow():
        from cwvae import arguments, factory

    if step is not None:
        step = arguments.as_integer(step, "step", 0)
    settings = folder.load_config(source)
    export.find(source, step)  # Reports a missing one before the model is built.
    model = factory.build(settings)
    export.restore(source, step, model)
    return model


@contextlib.contextmanager
def _to_stderr(show_progress: bool = True) -> Iterator[None]:
    """Keeps what the commands print about their progress out of stdout, or drops it."""
    with contextlib.ExitStack() as stack:
        if not show_progress:
            stack.enter_context(silent())
        stream = sys.stderr if show_progress else io.StringIO()
        stack.enter_context(contextlib.redirect_stdout(stream))
        yield


def _checked(settings: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """Returns the settings, or none; raises a UserError for anything but a dict by name."""
    if settings is None:
        return {}
    if not isinstance(settings, Mapping) or not all(isinstance(key, str) for key in settings):
        raise UserError('settings: give a dict such as {"training.steps": 1000}.')
    return settings


def _overrides(settings: Mapping[str, Any]) -> list[str]:
    """Returns settings as the words after `--set`."""

    def plain(value: Any) -> Any:  # Numbers and arrays of NumPy, and paths.
        return value.tolist() if hasattr(value, "tolist") else str(value)

    return [
        f"{name}={json.dumps(value, ensure_ascii=False, default=plain)}"
        for name, value in settings.items()
    ]


def _frame_shape(data) -> tuple[int, int, int]:
    """Returns (H, W, C) of both data sets.

    Raises:
      UserError: It is not a pair of data sets with frames of one size.
    """
    pair = data if isinstance(data, list | tuple) else ()
    shapes = [getattr(split, "frame_shape", None) for split in pair]
    if len(shapes) != 2 or None in shapes:
        raise UserError(
            "data: give the training and the test data set, such as"
            " data_loaders.from_arrays(train, test) returns from arrays."
        )
    if shapes[0] != shapes[1]:
        raise UserError(
            f"data: the training frames are {_size(shapes[0])}, but the test frames"
            f" {_size(shapes[1])}. Give both one size."
        )
    return shapes[0]


def _check_frames(config: Config, data) -> None:
    """Raises a UserError unless the frames of data, if there are any, are those of the model."""
    model = config.model
    wanted = (model.frame_size, model.frame_size, model.channels)
    if data is not None and (found := _frame_shape(data)) != wanted:
        raise UserError(
            f"data: frames of {_size(found)}, but the model is for {_size(wanted)}: height, width"
            " and channels (model.frame_size and model.channels). Give the data such frames, or"
            " train another model."
        )


def _size(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
