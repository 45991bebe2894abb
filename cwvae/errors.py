"""The one exception that users see: a mistake they can mend, told in one message."""

import contextlib
import difflib
import os
import sys
from collections.abc import Iterable, Iterator


class UserError(Exception):
    """Something a user can mend. The message says what is wrong, where, and what to do."""

    exit_code = 2


class MissingWeights(UserError):
    """Weights that a measure needs are nowhere. The message says why, and how to get them."""


class TrainingStopped(UserError):
    """Training that could not go on, although what the user gave was valid."""

    exit_code = 1


def unknown_name(kind: str, name: object, options: Iterable[str]) -> str:
    """Returns the sentence for a name that does not exist, with the nearest one that does.

    Args:
      kind: What the name stands for, as in "data set".
      name: What the user wrote.
      options: The valid names.
    """
    options = list(options)
    near = difflib.get_close_matches(str(name), options, n=1, cutoff=0.6)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    return f"unknown {kind} {name!r}{hint} Valid: {', '.join(options)}."


@contextlib.contextmanager
def exit_on_user_error() -> Iterator[None]:
    """Ends a script with one message and an exit code where the block fails for a known reason.

    That is a `UserError`, a file that cannot be read or written, or Ctrl-C.
    """
    try:
        yield
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except BrokenPipeError:  # Whoever reads has read enough, as `head` has.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        print(f"error: {error.filename or 'a file'}: {error.strerror or error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
