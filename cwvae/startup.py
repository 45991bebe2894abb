"""Starting TensorFlow from a script without the notes it prints about itself."""

import contextlib
import faulthandler
import logging
import os
import sys
import tempfile
from collections.abc import Iterator

from cwvae.errors import UserError


@contextlib.contextmanager
def quiet_tensorflow() -> Iterator[None]:
    """Holds back what native code writes to stderr while TensorFlow is imported in the block.

    TensorFlow 2.21 tells of its build and of missing GPUs before it reads TF_CPP_MIN_LOG_LEVEL
    (https://github.com/tensorflow/tensorflow/issues/100442). Where the block fails, it is shown,
    but not beside a `UserError`, which says all itself.
    """
    # Read by TensorFlow, and by whatever process it starts: no notes later on either.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    sys.stderr.flush()
    stderr = os.dup(2)
    faulthandler.enable(stderr)  # A crash in native code, which ends no block, still shows where.
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        except UserError:
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
    """Holds back TensorFlow's warning of a function that is traced for many kinds of arguments.

    For a block in which that is meant: a prediction is traced for each choice of levels that see
    the context, and each number of clips.
    """

    def other(record: logging.LogRecord) -> bool:
        return "triggered tf.function retracing" not in record.getMessage()

    logger = logging.getLogger("tensorflow")
    logger.addFilter(other)
    try:
        yield
    finally:
        logger.removeFilter(other)
