"""Clockwork Variational Autoencoders for long-term video prediction."""

import os
import sys

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

from cwvae.api import evaluate, load, predict, train

__all__ = ["evaluate", "load", "predict", "train"]
