"""The Frechet distance of two sets of features, and how sure it is.

It is the distance of two Gaussians with the sets' moments,

    |m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)),

biased upwards, the more so the fewer videos there are: numbers compare at equal N alone. All is in
float64.

N: videos, D: features.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from cwvae.metrics import tfgan

REPLICATES = 100
CONFIDENCE = 0.95


class Moments:
    """Mean and covariance of features, of which it keeps none.

    Attributes:
      count: Videos so far.
      mean: float64 [D].
    """

    def __init__(self, size: int):
        self.count = 0
        self.mean = np.zeros(size)
        self._scatter = np.zeros((size, size))  # sum of outer products about the mean

    def add(self, features: ArrayLike) -> None:
        """Adds videos.

        Args:
          features: [N, D], N at least 0.

        Raises:
          ValueError: features are not such, or not finite.

        Source: Chan, Golub, LeVeque, Updating Formulae and a Pairwise Algorithm for Computing
          Sample Variances, 1979: nothing large is subtracted from another large number.
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
        """Unbiased, float64 [D, D].

        Raises:
          ValueError: There are fewer than 2 videos.
        """
        if self.count < 2:
            raise ValueError(f"a covariance needs at least 2 videos, got {self.count}.")
        return self._scatter / (self.count - 1)


def moments(chunks: Iterable[ArrayLike], size: int) -> Moments:
    """Returns the moments of features that come in chunks [n, D]; `size` is D."""
    result = Moments(size)
    for features in chunks:
        result.add(features)
    return result


def frechet_distance(a: Moments, b: Moments) -> float:
    """Returns the Frechet distance of two sets, with TensorFlow GAN's matrix root.

    Equals `frechet_classifier_distance_from_activations` on the features, in float64.

    Args:
      a: Moments of one set.
      b: Of the other, of as many features.

    Raises:
      ValueError: The features differ in number, a set has fewer than 2 videos, or the distance is
        not finite.
    """
    if a.mean.shape != b.mean.shape:
        raise ValueError(f"sets of {len(a.mean)} and {len(b.mean)} features do not compare.")
    trace_root = tfgan.classifier_metrics.trace_sqrt_product(a.covariance, b.covariance)
    means = np.sum(np.square(a.mean - b.mean))
    traces = np.trace(a.covariance) + np.trace(b.covariance)
    distance = float(means + traces - 2 * trace_root)
    if not np.isfinite(distance):
        raise ValueError(f"the Frechet distance is {distance}: its matrix root was not found.")
    return max(0.0, distance)  # Rounding may leave it below 0.


# Features of videos in chunks [n, D], from the first video on, at each call.
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

    Clips are drawn again with replacement, each with its prediction. A drawn set has fewer
    different videos, so that its distance is biased further upwards: replicates lie above the value
    and their percentiles often exclude it. What they tell is the spread. So the percentiles of
    their deviations from their own mean are put around the value: an interval for what the distance
    would be on average over other draws of as many clips, with the bias that this number of clips
    brings, which is what compares between models at equal N. It says nothing of endless videos.

    Args:
      values: Distance of each predictor.
      truth: Features of the true videos.
      predictions: Of each predictor: video n predicts true video n.
      count: N, number of videos.
      size: D, number of features.
      seed: The same one draws the same clips, for all predictors.
      replicates: How often clips are drawn.

    Returns:
      [low, high] of each predictor, not below 0.
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
    """Moments of a set that was drawn: F'F is its unbiased covariance, F has min(N, D) rows."""

    mean: np.ndarray
    factor: np.ndarray


def _drawn(chunks: Iterable[np.ndarray], times: np.ndarray, size: int) -> _Drawn:
    """Takes each video as many times as `times` says of it."""
    count = times.sum()
    if len(times) <= size:  # Their features are smaller than a covariance is.
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
    """The same distance, much faster: there are many replicates.

    The trace of (S1 S2)^(1/2), with S = F'F, is the sum of the singular values of F1 F2'.
    """
    product = a.factor @ b.factor.T
    squares = np.linalg.eigvalsh(product @ product.T)
    trace_root = np.sum(np.sqrt(np.maximum(squares, 0)))
    traces = np.sum(np.square(a.factor)) + np.sum(np.square(b.factor))
    return float(np.sum(np.square(a.mean - b.mean)) + traces - 2 * trace_root)
