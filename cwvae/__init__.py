"""Clockwork Variational Autoencoders for long-term video prediction."""

import os
import sys

from cwvae.installation import VERSION as __version__  # noqa: F401

# Keras reads this when it is first imported. The models need TensorFlow.
os.environ["KERAS_BACKEND"] = "tensorflow"

# TensorFlow reads this when it starts. Without it, oneDNN's operations are only used on processors
# with AVX512-VNNI or the like. On one without, an AMD EPYC (Zen 3), training is 2.0 to 2.5 times as
# fast with them (benchmarks/README.md). A value that the user has set stays.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

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
