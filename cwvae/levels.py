"""Names of the levels of the hierarchy, as users see them: level 1 is the fastest, as in the paper.

Logs and metrics.json have names such as `level_1`. Until November 2026 they counted from 0, as the
code and the names of weights still do, and wrote `level0`.
"""

import re


def names(count: int) -> tuple[str, ...]:
    """Returns the names of the levels, the fastest first: `level_1`, `level_2`, ..."""
    return tuple(f"level_{number}" for number in range(1, count + 1))


def renamed(name: str) -> str:
    """Returns today's name of a scalar in the logs: `kl/level_1_sum` for `kl/level0_sum`."""
    return re.sub(r"\blevel(\d+)", lambda match: f"level_{int(match[1]) + 1}", name)


def label(name: str, count: int) -> str:
    """Returns the words for a KL term: `level 1 (fastest)` for `level_1` or the old `level0`.

    Args:
      name: The term's name. Names that are not of a level stay as they are.
      count: Number of KL terms of the model.
    """
    match = re.fullmatch(r"level_(\d+)", renamed(name))
    if not match:
        return name
    number = int(match[1])
    if count == 1:
        return f"level {number}"
    return f"level {number}" + {1: " (fastest)", count: " (slowest)"}.get(number, "")


def short_label(name: str, count: int) -> str:
    """Returns `fastest`, `level 2`, ..., `slowest`; arguments as for `label`. "" for the only one.

    Names that are not of a level stay as they are.
    """
    words = label(name, count)
    match = re.fullmatch(r"level \d+ \((\w+)\)", words)
    return match[1] if match else "" if words == "level 1" else words
