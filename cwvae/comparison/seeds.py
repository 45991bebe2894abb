"""Scores over training seeds: their mean, and the 95% confidence interval of this mean.

The interval is Student's: mean +- t * s / sqrt(n), with the standard deviation s of n seeds
(n - 1 in its denominator) and the 97.5% quantile t of the t distribution with n - 1 degrees of
freedom. It covers what the seed changes (initial weights, order of the data, samples), not the
choice of test videos, which all seeds share.
"""

import dataclasses
import math
from collections.abc import Collection, Mapping

import numpy as np
from scipy import special

CONFIDENCE = 0.95


@dataclasses.dataclass(frozen=True)
class Score:
    """A score of a model."""

    mean: float
    margin: float | None = None  # half the width of the interval; None with fewer than two seeds
    by_seed: Mapping[int, float] = dataclasses.field(default_factory=dict)


def over_seeds(values: Mapping[int, float]) -> Score:
    """Returns the score of {training seed: value}."""
    array = np.array(list(values.values()), float)
    margin = None if len(array) < 2 else float(half_width(array))
    return Score(float(array.mean()), margin, dict(values))


def half_width(values: np.ndarray) -> np.ndarray:
    """Returns half the width of the confidence interval of a mean.

    Args:
      values: [n, ...], the n values of each mean, from 2.

    Returns:
      [...].
    """
    n = len(values)
    quantile = special.stdtrit(n - 1, (1 + CONFIDENCE) / 2)
    return quantile * values.std(axis=0, ddof=1) / math.sqrt(n)


def caption(counts: Collection[int]) -> str:
    """Returns a sentence on the intervals in a table, or "" if there are none.

    Args:
      counts: The number of seeds of each row on each data set.
    """
    least, most = min(counts, default=1), max(counts, default=1)
    if most < 2:
        return ""
    number = f"{most}" if least == most else f"{least} to {most}"
    return (
        f"Numbers are means over {number} training seeds ± half the width of the mean's"
        f" {CONFIDENCE:.0%} confidence interval (Student's t)."
    )
