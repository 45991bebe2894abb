"""Printed numbers: which are the best, and how models rank.

All is computed from the numbers as printed, as in the paper, so that a reader can check it. Numbers
are decimals: in binary, 5% of a number is inexact.
"""

from collections.abc import Iterable, Sequence
from decimal import Decimal
from fractions import Fraction

WITHIN = Decimal("0.05")


def competition_ranks(values: Sequence[Decimal], better: str) -> list[int]:
    """Returns ranks from 1; equal values share the better one, as in 1, 2, 2, 4.

    `better` is "higher" or "lower", here and below.
    """
    sign = 1 if better == "higher" else -1
    return [1 + sum(sign * other > sign * value for other in values) for value in values]


def highlighted(values: Sequence[Decimal | None], better: str) -> list[bool]:
    """Returns for each value whether it is the best or within 5% of it; None is not."""
    known = [value for value in values if value is not None]
    if not known:
        return [False] * len(values)
    best = max(known) if better == "higher" else min(known)
    return [v is not None and abs(v - best) <= WITHIN * abs(best) for v in values]


def mean_ranks(
    columns: Iterable[tuple[Sequence[Decimal | None], str]],
) -> tuple[list[Fraction], int]:
    """Averages ranks over the columns (numbers of all models, better) without missing numbers.

    Returns the mean rank of each model, and the number of columns used. If it is 0, there are no
    ranks.
    """
    ranks = [competition_ranks(values, better) for values, better in columns if None not in values]
    return [Fraction(sum(r), len(ranks)) for r in zip(*ranks, strict=True)], len(ranks)


def printed(value: float | None, decimals: int) -> Decimal | None:
    """Returns a number as it is printed."""
    return None if value is None else Decimal(f"{value:.{decimals}f}") + 0  # never -0
