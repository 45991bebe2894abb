"""The Frechet distance of two sets of features, and its uncertainty.

It is the distance of two Gaussians with the sets' moments,

    |m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)),

biased upwards, more so with fewer videos: compare values only at equal N. Everything is float64.

N: videos, D: features.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

REPLICATES = 100
CONFIDENCE = 0.95


class Moments:
    """The `count` of videos so far, and their features' `mean` [D] and `covariance`, in float64."""

    def __init__(self, size: int):
        self.count = 0
        self.mean = np.zeros(size)
        self._scatter = np.zeros((size, size))  # sum of outer products about the mean

    def add(self, features: ArrayLike) -> None:
        """Adds features [N, D]; raises ValueError if they have another shape or are not finite.

        Source: Chan, Golub, LeVeque, Updating Formulae and a Pairwise Algorithm for Computing
          Sample Variances, 1979: it avoids differences of large numbers.
        """
        features = np.asarray(features, np.float64)
        if features.shape[1:] != self.mean.shape:
            raise ValueError(f"expected [N, {len(self.mean)}], got {list(features.shape)}.")
        if not np.isfinite(features).all():
            raise ValueError("features must be finite.")
        if len(features) == 0:
            return
        total = self.count + len(features)
        mean = features.mean(0)
        deviations = features - mean
        shift = mean - self.mean
        self._scatter += deviations.T @ deviations
        self._scatter += np.outer(shift, shift) * (self.count * len(features) / total)
        self.mean = self.mean + shift * (len(features) / total)
        self.count = total

    @property
    def covariance(self) -> np.ndarray:
        """Unbiased covariance [D, D]; raises ValueError for fewer than 2 videos."""
        if self.count < 2:
            raise ValueError(f"a covariance needs at least 2 videos, got {self.count}.")
        return self._scatter / (self.count - 1)


def moments(chunks: Iterable[ArrayLike], size: int) -> Moments:
    """Returns the moments of features in chunks [n, D]; `size` is D."""
    result = Moments(size)
    for features in chunks:
        result.add(features)
    return result


def frechet_distance(a: Moments, b: Moments) -> float:
    """Returns the Frechet distance of two sets, with TensorFlow GAN's matrix root.

    Equals `frechet_classifier_distance_from_activations` on the features, in float64.

    Raises:
      ValueError: The sets differ in D, a set has fewer than 2 videos, or the distance is not
        finite.
    """
    if a.mean.shape != b.mean.shape:
        raise ValueError(f"cannot compare sets of {len(a.mean)} and {len(b.mean)} features.")
    from cwvae.metrics import tfgan  # Late: it starts TensorFlow.

    trace_root = tfgan.classifier_metrics.trace_sqrt_product(a.covariance, b.covariance)
    means = np.sum(np.square(a.mean - b.mean))
    traces = np.trace(a.covariance) + np.trace(b.covariance)
    distance = float(means + traces - 2 * trace_root)
    if not np.isfinite(distance):
        raise ValueError(f"the Frechet distance is {distance}: its matrix root was not found.")
    return max(0.0, distance)  # Rounding may make it negative.


# Each call yields the features of all videos in chunks [n, D], from the first video on.
Chunks = Callable[[], Iterable[np.ndarray]]


def bootstrap_intervals(
    values: Mapping[str, float],
    truth: Chunks,
    predictions: Mapping[str, Chunks],
    count: int,
    size: int,
    seed: int,
    replicates: int = REPLICATES,
) -> dict[str, list[float]]:
    """Returns 95% intervals of distances between true videos and predictions of them.

    The bootstrap resamples clips with replacement, each with its prediction. A resampled set has
    fewer distinct videos, so its distance is biased further upwards, and percentiles of replicates
    often exclude the value. Only their spread is used: the interval is the value plus percentiles
    of the replicates' deviations from their own mean. It covers the mean distance over other sets
    of N clips, including the bias at N. It says nothing about the limit of many videos.

    Takes each predictor's distance, the features [N, D] of `count` true videos, and each
    predictor's features, whose video n predicts true video n. `size` is D. All predictors share the
    draws of `replicates` resampled sets. Returns [low, high] of each predictor, at least 0.
    """
    rng = np.random.default_rng(seed)
    distances = {name: [] for name in predictions}
    for _ in range(replicates):
        times = np.bincount(rng.integers(count, size=count), minlength=count)
        real = _drawn(truth(), times, size)
        for name, chunks in predictions.items():
            distances[name].append(_quick_distance(real, _drawn(chunks(), times, size)))
    tail = 50 * (1 - CONFIDENCE)
    intervals = {}
    for name, drawn in distances.items():
        ends = values[name] + np.percentile(drawn, [tail, 100 - tail]) - np.mean(drawn)
        intervals[name] = np.maximum(ends, 0).tolist()
    return intervals


class _Drawn(NamedTuple):
    """Moments of a resampled set: F'F is its unbiased covariance, F has min(N, D) rows."""

    mean: np.ndarray
    factor: np.ndarray


def _drawn(chunks: Iterable[np.ndarray], times: np.ndarray, size: int) -> _Drawn:
    """Returns the moments of a set that holds each video `times` times."""
    count = times.sum()
    if len(times) <= size:  # The features are smaller than a covariance.
        features = np.concatenate(list(chunks)).astype(np.float64)[times > 0]
        weights = times[times > 0, None]
        mean = np.sum(weights * features, 0) / count
        return _Drawn(mean, np.sqrt(weights / (count - 1)) * (features - mean))
    found, start = Moments(size), 0
    for features in chunks:
        found.add(np.repeat(features, times[start : start + len(features)], axis=0))
        start += len(features)
    values, vectors = np.linalg.eigh(found.covariance)
    return _Drawn(found.mean, (vectors * np.sqrt(np.maximum(values, 0))).T)


def _quick_distance(a: _Drawn, b: _Drawn) -> float:
    """Returns the Frechet distance, faster than `frechet_distance`, for many replicates.

    The trace of (S1 S2)^(1/2), with S = F'F, is the sum of the singular values of F1 F2'.
    """
    product = a.factor @ b.factor.T
    squares = np.linalg.eigvalsh(product @ product.T)
    trace_root = np.sum(np.sqrt(np.maximum(squares, 0)))
    traces = np.sum(np.square(a.factor)) + np.sum(np.square(b.factor))
    return float(np.sum(np.square(a.mean - b.mean)) + traces - 2 * trace_root)
