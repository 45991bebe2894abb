"""FVD of predictions, which arrive one stretch of frames at a time.

Besides the distance over the whole horizon there are two curves: growing prefixes (Figure E.1 of
the paper) and windows of 16 frames, whose values compare with each other. Memory holds a batch of
predicted videos as bytes; features lie on the disk.

N: videos, B: videos of a batch, T: frames, H, W: height and width, C: channels, D: features.
"""

import dataclasses
import functools
import hashlib
import json
import math
import pathlib
from collections.abc import Callable

import numpy as np
import tqdm

from cwvae.metrics import frechet, fvd
from cwvae.metrics.features import Features, Piece
from cwvae.run import files
from cwvae.visualize import to_uint8

# Frames of a window, and of the shortest prefix.
WINDOW = 16

_BATCH = 16  # True videos at a time.

# Frames of one video, uint8 [T, H, W, C], by the video's number.
Source = Callable[[int], np.ndarray]


def impossible(horizon: int, num_videos: int) -> str | None:
    """Returns why FVD cannot be computed of so few frames or videos; None if it can."""
    if horizon < fvd.MIN_FRAMES:
        return (
            f"FVD needs at least {fvd.MIN_FRAMES} predicted frames, and evaluation.horizon ="
            f" {horizon}."
        )
    if num_videos < 2:
        return f"FVD needs at least 2 videos, and evaluation.num_videos = {num_videos}."
    return None


def prefixes(horizon: int) -> list[Piece]:
    """Returns the first 16, 32, 64, ... frames, and last the whole horizon."""
    doublings = math.ceil(math.log2(max(1, horizon / WINDOW)))
    return [(0, WINDOW * 2**k) for k in range(doublings)] + [(0, horizon)]


def windows(horizon: int) -> list[Piece]:
    """Returns consecutive windows of 16 frames; the last overlaps if needed to end at the end."""
    starts = list(range(0, horizon - WINDOW + 1, WINDOW))
    if starts and starts[-1] + WINDOW < horizon:
        starts.append(horizon - WINDOW)
    return [(start, start + WINDOW) for start in starts]


@dataclasses.dataclass
class _Predictor:
    features: Features  # of complete videos
    batch: np.ndarray | None = None  # uint8 [B, T, H, W, C], or None between batches
    filled: int = 0  # number of frames in `batch` that have arrived


class VideoDistances:
    """Collects predictions, and measures each predictor's distance from the truth."""

    def __init__(
        self,
        i3d,
        *,
        horizon: int,
        num_videos: int,
        truth: Source,
        other_real: Source | None,
        other_source: str,
        seed: int,
    ):
        """Checks the arguments and reads one true video.

        Args:
          i3d: `fvd.I3D`, or an object with its `features`, `size` and `digest`.
          horizon: Predicted frames, T.
          num_videos: N.
          truth: The true continuation of each video.
          other_real: N other real videos, or None. Their distance from the true ones is the floor:
            the distance between two real sets of this size.
          other_source: The origin of these, or why there are none.
          seed: Seed of the bootstrap.

        Raises:
          ValueError: FVD is `impossible`, or a true video has another shape or type.
        """
        if why := impossible(horizon, num_videos):
            raise ValueError(why)
        self._i3d, self._seed = i3d, seed
        self._horizon, self._count = horizon, num_videos
        self._truth, self._other_real, self._other_source = truth, other_real, other_source
        first = truth(0)
        self._frame = np.shape(first)[1:]
        self._checked(first, 0)
        self._whole = (0, horizon)
        # A set: the first window is also a prefix.
        self._pieces = sorted({*prefixes(horizon), *windows(horizon)})
        self._predictors: dict[str, _Predictor] = {}

    def add(self, predictor: str, start: int, frames: np.ndarray) -> None:
        """Takes predicted frames of a batch, from number `start` on.

        Batches arrive in the order of the videos, and their frames in order of time. Predictors may
        alternate.

        Args:
          predictor: The predictor's name.
          start: Number of the first of these frames; the first predicted frame is 0.
          frames: Floats [B, t, H, W, C], clipped to [0, 1] and rounded to 8 bits here, as a saved
            video would be.

        Raises:
          ValueError: They are out of order, not finite, or of another shape than the truth.
        """
        if predictor not in self._predictors:
            features = Features(self._pieces, self._count, self._i3d.size)
            self._predictors[predictor] = _Predictor(features)
        state = self._predictors[predictor]
        frames = np.asarray(frames)
        self._check_stretch(predictor, state, start, frames)
        stop = start + frames.shape[1]
        if state.batch is None:
            state.batch = np.empty((len(frames), self._horizon, *self._frame), np.uint8)
        state.batch[:, start:stop] = to_uint8(frames)
        state.filled = stop
        if stop == self._horizon:
            self._extract(state.batch, state.features)
            state.batch, state.filled = None, 0

    def _check_stretch(self, name: str, state: _Predictor, start: int, frames: np.ndarray):
        left = self._count - state.features.written
        videos = range(1, left + 1) if state.batch is None else [len(state.batch)]
        length = range(1, self._horizon - state.filled + 1)
        fits = frames.ndim == 5 and frames.shape[0] in videos and frames.shape[1] in length
        if start != state.filled or not fits or frames.shape[2:] != self._frame:
            shown = f"1 to {left}" if state.batch is None else len(state.batch)
            raise ValueError(
                f"{name}: expected frames [{shown}, 1 to {len(length)},"
                f" {', '.join(map(str, self._frame))}] from number {state.filled} on, got"
                f" {list(frames.shape)} from {start} on."
            )
        if not np.isfinite(frames).all():
            raise ValueError(f"{name}: predictions hold a NaN or an infinity.")

    def results(self) -> dict:
        """Returns the entry "fvd" of metrics.json.

        Raises:
          ValueError: A predictor has not predicted all videos to the end, or a true video has
            another shape or type.
        """
        for name, state in self._predictors.items():
            if state.features.written < self._count or state.batch is not None:
                raise ValueError(
                    f"{name}: {state.features.written} whole videos out of {self._count}."
                )
        truth = self._real_features(self._truth, self._pieces, "true videos")
        floor = None
        if self._other_real:
            other = self._real_features(self._other_real, [self._whole], "other real videos")
            floor = self._distance(truth, other, self._whole)
        return {
            "frames": self._horizon,
            "num_videos": self._count,
            "module": self._i3d.digest[:12],
            "protocol": _protocol(self._horizon, self._count),
            "warnings": _warnings(self._count),
            "scores": self._scores(truth),
            "floor": {"value": floor, "source": self._other_source},
        }

    def _scores(self, truth: Features) -> dict:
        predicted = {name: state.features for name, state in self._predictors.items()}
        scores = {}
        for name, features in predicted.items():
            of_pieces = {piece: self._distance(truth, features, piece) for piece in self._pieces}
            scores[name] = {
                "value": of_pieces[self._whole],
                "prefixes": [[piece[1], of_pieces[piece]] for piece in prefixes(self._horizon)],
                "windows": [[piece[0], of_pieces[piece]] for piece in windows(self._horizon)],
            }
        intervals = frechet.bootstrap_intervals(
            {name: score["value"] for name, score in scores.items()},
            functools.partial(truth.chunks, self._whole),
            {name: functools.partial(f.chunks, self._whole) for name, f in predicted.items()},
            self._count,
            self._i3d.size,
            self._seed,
        )
        return {name: score | {"interval": intervals[name]} for name, score in scores.items()}

    def _distance(self, truth: Features, other: Features, piece: Piece) -> float:
        pair = (frechet.moments(f.chunks(piece), self._i3d.size) for f in (truth, other))
        return frechet.frechet_distance(*pair)

    def _extract(self, videos: np.ndarray, features: Features) -> None:
        features.append([self._i3d.features(videos[:, a:b]) for a, b in features.pieces])

    def _checked(self, video: np.ndarray, number: int) -> np.ndarray:
        if video.dtype != np.uint8 or video.shape != (self._horizon, *self._frame):
            raise ValueError(
                f"real video {number}: expected uint8 {[self._horizon, *self._frame]}, got"
                f" {video.dtype} {list(video.shape)}."
            )
        return video

    def _real_features(self, source: Source, pieces: list[Piece], what: str) -> Features:
        """Returns the features of real videos, from the cache if they were computed before."""
        path = self._cached(source, pieces)
        if features := Features.read(path, pieces, self._count, self._i3d.size):
            return features
        features = Features(pieces, self._count, self._i3d.size)
        with tqdm.tqdm(total=self._count, unit="video", desc=f"FVD, {what}") as progress:
            for first in range(0, self._count, _BATCH):
                numbers = range(first, min(first + _BATCH, self._count))
                self._extract(np.stack([self._checked(source(n), n) for n in numbers]), features)
                progress.update(len(numbers))
        features.keep(path)
        return features

    def _cached(self, source: Source, pieces: list[Piece]) -> pathlib.Path:
        """Returns the cache file for exactly these pixels, network, preprocessing and pieces."""
        key = [fvd.PREPROCESSING, self._i3d.digest, pieces, self._count, self._frame]
        digest = hashlib.sha256(json.dumps(key).encode())
        for number in range(self._count):
            digest.update(self._checked(source(number), number).tobytes())
        return files.cache_folder() / "fvd" / f"{digest.hexdigest()}.features"


def _protocol(horizon: int, num_videos: int) -> str:
    # Comparisons refuse runs whose protocols differ, so a new wording separates old from new runs.
    return (
        f"I3D logits (Kinetics-400) of 8-bit RGB, {fvd.PREPROCESSING.partition(': ')[2]}; Frechet"
        f" distance of {num_videos} videos of {horizon} frames, of each the first sample,"
        " unbiased covariances, float64;"
        f" interval: {frechet.CONFIDENCE:.0%}, {frechet.REPLICATES} bootstrap draws of clips with"
        " their predictions, centred on the value, at this number of videos"
    )


def _warnings(num_videos: int) -> list[str]:
    if num_videos >= fvd.FULL_RANK:
        return []
    return [
        f"FVD of {num_videos} videos, fewer than {fvd.FULL_RANK}: the covariances of"
        f" {fvd.FULL_RANK} features lack full rank, and the values are far too high. Compare them"
        " only at the same number of videos."
    ]
