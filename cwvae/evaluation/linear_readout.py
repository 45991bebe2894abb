"""A linear readout: ridge regression in closed form, of numbers or of classes.

With features X [R, F], standardised, and targets Y [R, O] minus their mean, of the fitted rows,

    W = (X^T X / R + strength I)^-1 X^T Y / R

A class is a one-hot target. Several classes at once, in arbitrary order, are a target of counts:
how often each class occurs. The answer is the classes with the highest values.

Symbols: R rows, F features, O outputs: numbers, or classes.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

# Features have variance 1, so a strength of 1 halves the weight of a feature that is independent of
# the others.
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)


class LinearReadout(NamedTuple):
    """A fitted readout.

    Attributes:
      mean: Mean of the features, [F].
      weights: W, divided by the standard deviation of the features, [F, O].
      offset: Mean of the targets, [O].
      strength: The strength that was chosen.
    """

    mean: np.ndarray
    weights: np.ndarray
    offset: np.ndarray
    strength: float

    def predict(self, features: np.ndarray) -> np.ndarray:
        """Returns float32 outputs [..., O] for features [..., F]."""
        return ((features - self.mean) @ self.weights + self.offset).astype(np.float32)


def fit(
    features: np.ndarray,
    targets: np.ndarray,
    validation: np.ndarray,
    score: Callable[[np.ndarray, np.ndarray], float],
) -> LinearReadout:
    """Fits a readout; rows of a validation split choose the strength, then all rows are fitted.

    Args:
      features: Floats [R, F].
      targets: Floats [R, O].
      validation: Which rows belong to the validation split, bool [R]: some, but not all.
      score: A function from targets and outputs, [R, O] each, to a number; higher is better.
    """
    solve = _solver(features[~validation], targets[~validation])
    scores = [
        score(targets[validation], solve(strength).predict(features[validation]))
        for strength in STRENGTHS
    ]
    return _solver(features, targets)(STRENGTHS[int(np.argmax(np.nan_to_num(scores, nan=-np.inf)))])


def _solver(features: np.ndarray, targets: np.ndarray) -> Callable[[float], LinearReadout]:
    """Returns a function from a strength to the readout that is fitted to all rows."""
    mean, offset = features.mean(0, dtype=np.float64), targets.mean(0, dtype=np.float64)
    scale = features.std(0, dtype=np.float64)
    scale[scale < 1e-6] = 1  # A constant feature gets no weight.
    x = (features - mean) / scale
    values, vectors = np.linalg.eigh(x.T @ x / len(x))
    projected = vectors.T @ (x.T @ (targets - offset)) / len(x)

    def solve(strength: float) -> LinearReadout:
        # Rounding may make an eigenvalue of 0 negative.
        weights = vectors @ (projected / (np.maximum(values, 0) + strength)[:, None])
        return LinearReadout(mean, weights / scale[:, None], offset, strength)

    return solve


def r_squared(truth: np.ndarray, predicted: np.ndarray) -> float:
    """Returns R^2, the share of the variance that is explained; the mean over outputs.

    It is 1 for perfect predictions, 0 for the mean of the truth, and negative for worse ones.

    Args:
      truth: Floats [R, O].
      predicted: Floats [R, O].

    Returns:
      NaN without rows, or if all outputs are constant. Constant outputs are skipped.
    """
    if not len(truth):
        return np.nan
    truth = np.asarray(truth, np.float64)
    variance, error = truth.var(0), np.square(truth - predicted).mean(0)
    varies = variance > 0
    return float(np.mean(1 - error[varies] / variance[varies])) if varies.any() else np.nan


def percent_right(counts: np.ndarray, predicted: np.ndarray) -> float:
    """Returns the percentage of labels that are right, whatever their order.

    Args:
      counts: How often each class occurs, [R, O], with the same sum K in all rows.
      predicted: A value for each class, [R, O]. The answer is K labels: K times the class with the
        highest value, which is then lowered by 1.

    Returns:
      NaN without rows.
    """
    if not len(counts):
        return np.nan
    labels = round(float(counts[0].sum()))
    left, found = np.array(predicted, np.float64), np.zeros(counts.shape)
    rows = np.arange(len(counts))
    for _ in range(labels):
        best = left.argmax(-1)
        found[rows, best] += 1
        left[rows, best] -= 1
    return float(100 * np.minimum(found, counts).sum(-1).mean() / labels)
