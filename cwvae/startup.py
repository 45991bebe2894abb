"""Starts TensorFlow: says so, and silences the messages that it prints."""

import contextlib
import faulthandler
import logging
import os
import sys
import tempfile
from collections.abc import Iterator

from cwvae.errors import UserError

_silent = False


def say(message: str) -> None:
    """Prints what a script is doing, a plain line on stderr: results alone go to stdout."""
    if not _silent:
        print(message, file=sys.stderr, flush=True)


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """Makes `say` print nothing in the block."""
    global _silent
    before, _silent = _silent, True
    try:
        yield
    finally:
        _silent = before


@contextlib.contextmanager
def starting_tensorflow() -> Iterator[None]:
    """Says that a script imports TensorFlow in the block, which takes seconds; and silences it."""
    if "tensorflow" not in sys.modules:
        say("Starting TensorFlow ...")
    with quiet_tensorflow():
        yield


@contextlib.contextmanager
def quiet_tensorflow() -> Iterator[None]:
    """Suppresses stderr, also of native code, while TensorFlow is imported in the block.

    TensorFlow 2.21 reports its build and missing GPUs before it reads TF_CPP_MIN_LOG_LEVEL
    (https://github.com/tensorflow/tensorflow/issues/100442). If the block fails, the output is
    shown, except with a `UserError` or Ctrl-C, which need no more details.
    """
    # Silences later messages too, also of processes that this one starts.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    sys.stderr.flush()
    stderr = os.dup(2)
    faulthandler.enable(stderr)  # Still shows the place of a crash in native code.
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        except (UserError, KeyboardInterrupt):
            raise
        except BaseException:
            held.seek(0)
            os.write(stderr, held.read())
            raise
        finally:
            faulthandler.disable()
            os.dup2(stderr, 2)
            os.close(stderr)


@contextlib.contextmanager
def many_traces() -> Iterator[None]:
    """Suppresses TensorFlow's warning that a function is traced many times.

    For blocks where this is intended: a prediction is traced for each choice of levels that see
    the context, and for each number of clips.
    """

    def other(record: logging.LogRecord) -> bool:
        return "triggered tf.function retracing" not in record.getMessage()

    logger = logging.getLogger("tensorflow")
    logger.addFilter(other)
    try:
        yield
    finally:
        logger.removeFilter(other)
