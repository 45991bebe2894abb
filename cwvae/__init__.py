"""Clockwork Variational Autoencoders for long-term video prediction."""

from __future__ import annotations

import pathlib
import typing

if typing.TYPE_CHECKING:
    from cwvae.model import VideoModel


def load(logdir: str | pathlib.Path, step: int | None = None) -> VideoModel:
    """Returns the trained model of a run.

    Args:
      logdir: The run's folder.
      step: Which checkpoint; None for the newest.

    Raises:
      cwvae.errors.UserError: No run in the folder, or no checkpoint that fits it.
    """
    # Imported here, so that a configuration can be read without starting TensorFlow.
    from cwvae import checkpoints, config, factory

    settings = config.load_run(logdir)
    path = checkpoints.find(logdir, step)
    model = factory.build(settings)
    checkpoints.restore(path, model)
    return model
