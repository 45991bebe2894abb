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
      cwvae.errors.UserError: The folder holds no run, or no checkpoint that fits it.
    """
    from cwvae import config, errors, export
    from cwvae.run import checkpoints
    from cwvae.startup import quiet_tensorflow

    # Imported here, so that reading a configuration does not start TensorFlow.
    with quiet_tensorflow():
        from cwvae import factory

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
