"""Clockwork Variational Autoencoders for long-term video prediction."""

from __future__ import annotations

import pathlib
import typing

if typing.TYPE_CHECKING:
    from cwvae.video_model import VideoModel


def load(logdir: str | pathlib.Path, step: int | None = None) -> VideoModel:
    """Returns the trained model of a run or an export.

    Args:
      logdir: The folder of the run or the export.
      step: The step of a checkpoint of the run; None for the newest whole one.

    Raises:
      TypeError: `step` is not an integer.
      cwvae.errors.UserError: The folder holds no run, or no checkpoint that fits it.
    """
    # Imported here, so that reading a configuration does not start TensorFlow.
    from cwvae import arguments, config, errors, export, factory
    from cwvae.run import checkpoints

    if step is not None:
        step = arguments.as_integer(step, "step", 0)
    settings = config.load_run(logdir)
    if export.is_export(logdir):
        if step is not None:
            raise errors.UserError(f"{logdir}: an export holds one step. Load it without `step`.")
        model = factory.build(settings)
        export.load_weights(model, logdir)
        return model
    checkpoints.find(logdir, step)  # Reports a missing one before the model is built.
    model = factory.build(settings)
    checkpoints.restore_step(logdir, step, model)
    return model
