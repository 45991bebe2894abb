"""Clockwork Variational Autoencoders for long-term video prediction."""

from __future__ import annotations

import os
import pathlib
import sys
import typing

from cwvae.installation import VERSION as __version__  # noqa: F401

# Keras reads this when it is first imported. The models need TensorFlow.
os.environ["KERAS_BACKEND"] = "tensorflow"

if sys.argv[:1] == ["-m"]:  # `python -m` is still importing, which takes a moment.

    def _report(kind, error, trace):
        """Ends the process with one line on Ctrl-C."""
        if not issubclass(kind, KeyboardInterrupt):
            sys.__excepthook__(kind, error, trace)
            return
        print("interrupted", file=sys.stderr)
        sys.exit(130)

    sys.excepthook = _report

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
    from cwvae import export
    from cwvae.run import folder
    from cwvae.startup import quiet_tensorflow

    # Imported here, so that reading a configuration does not start TensorFlow.
    with quiet_tensorflow():
        from cwvae import arguments, factory

    if step is not None:
        step = arguments.as_integer(step, "step", 0)
    settings = folder.load_config(logdir)
    export.find(logdir, step)  # Reports a missing one before the model is built.
    model = factory.build(settings)
    export.restore(logdir, step, model)
    return model
