"""`UserError`, the exception that users see: a mistake that they can fix, in one message."""

import contextlib
import difflib
import os
import re
import sys
from collections.abc import Iterable, Iterator


class UserError(Exception):
    """A mistake that a user can fix. The message says where, what is wrong, and what to do."""

    exit_code = 2


class MissingWeights(UserError):
    """Raised if weights that a metric needs are missing. The message says how to get them."""


class TrainingStopped(UserError):
    """Raised if training cannot continue, although the user's settings are valid."""

    exit_code = 1


def closest(name: object, options: Iterable[str]) -> str | None:
    """Returns the option that a misspelt name probably stands for; None if none is close.

    Args:
      name: The name that the user wrote: an option in other letter case, with a typo, its initials
        (`lr` for `learning_rate`), or the beginning of a word of only one option.
      options: The valid names.
    """
    lower = {option.lower(): option for option in options}
    name = str(name).lower()
    if name in lower:
        return lower[name]
    beginning = [option for option in lower if len(name) > 2 and f"_{name}" in f"_{option}"]
    if len(beginning) == 1:
        return lower[beginning[0]]
    # With a lower cutoff, `iterations` would be close to `test_fraction`.
    near = difflib.get_close_matches(name, lower, n=1, cutoff=0.75)
    initials = [
        option
        for option in lower
        if len(name) > 1 and name == "".join(word[:1] for word in option.split("_"))
    ]
    return next((lower[option] for option in (*near, *initials)), None)


def unknown_name(
    kind: str, name: object, options: Iterable[str], meant: Iterable[str] | None = None
) -> str:
    """Returns a message about a name that does not exist, with the closest one that does.

    Args:
      kind: The kind of thing that the name stands for, such as "data set".
      name: The name that the user wrote.
      options: The valid names.
      meant: The names to suggest instead of the closest option.
    """
    options = list(options)
    meant = meant or filter(None, [closest(name, options)])
    words = " or ".join(map(repr, meant))
    hint = f"; did you mean {words}?" if words else "."
    return f"unknown {kind} {name!r}{hint} Valid: {', '.join(options)}."


@contextlib.contextmanager
def exit_on_user_error() -> Iterator[None]:
    """Ends a script with one message and an exit code if the block fails for a known reason.

    The reasons are a `UserError`, a file that cannot be read or written, too little memory, and
    Ctrl-C.
    """
    try:
        yield
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except BrokenPipeError:  # The reader of stdout, such as `head`, has ended.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        print(f"error: {error.filename or 'a file'}: {error.strerror or error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        tf = sys.modules.get("tensorflow")  # Its errors can only occur if it has started.
        exhausted = tf is not None and isinstance(error, tf.errors.ResourceExhaustedError)
        if not (exhausted or isinstance(error, MemoryError)):
            raise
        print(f"error: {_out_of_memory(error)}", file=sys.stderr)
        sys.exit(2)


def _out_of_memory(error: Exception) -> str:
    """Returns a message about an error of Python, NumPy or TensorFlow, which adds long names."""
    found = re.search(r"(?:allocating|Unable to allocate) (.+?)(?: on /job\S+|\n|$)", str(error))
    return (
        f"out of memory{f' for {found[1]}' if found else ''}. Lower the sizes in the section model,"
        " training.batch_size or training.seq_len; for an evaluation, evaluation.batch_size,"
        " evaluation.num_videos or evaluation.horizon."
    )
