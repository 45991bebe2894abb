"""Clockwork Variational Autoencoders for long-term video prediction."""

from __future__ import annotations

import pathlib
import typing

if typing.TYPE_CHECKING:
    from cwvae.video_model import VideoModel


def load(logdir: str | pathlib.Path, step: int | None = None) -> VideoModel:
    """Returns the trained model of a run, or of an export of one.

    Args:
      logdir: The run's folder, or the export's.
      step: Which checkpoint of the run; None for the newest that is whole.

    Raises:
      cwvae.errors.UserError: No run in the folder, or no checkpoint that fits it.
    """
    # Imported here, so that a configuration can be read without starting TensorFlow.
    from cwvae import config, errors, export, factory
    from cwvae.run import checkpoints

    settings = config.load_run(logdir)
    if export.is_export(logdir):
        if step is not None:
            raise errors.UserError(f"{logdir}: an export, of one step: load it without a step.")
        model = factory.build(settings)
        export.load_weights(model, logdir)
        return model
    checkpoints.find(logdir, step)  # Refused before the model is built.
    model = factory.build(settings)
    checkpoints.restore_step(logdir, step, model)
    return model
