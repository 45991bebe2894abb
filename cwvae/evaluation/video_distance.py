"""FVD of predictions, which arrive one stretch of frames at a time.

Besides the distance over the whole horizon there are two curves at a grid of horizons, because a
network whose features span a second of video must see each piece apart: growing prefixes (Figure
E.1 of the paper), and the last 16 frames of each, whose values compare with each other.

The features of real videos, and of copies of the last frame seen, are the same for every model.
They are computed once and kept in the cache folder. Memory holds a batch of predicted videos as
bytes; features lie on the disk.

N: videos, B: videos of a batch, T: frames, H, W: height and width, C: channels, D: features.
"""

import functools
import hashlib
import json
import pathlib
import time
from collections.abc import Callable, Mapping

import numpy as np
import tqdm

from cwvae.metrics import frechet, fvd
from cwvae.metrics.features import Features, Piece
from cwvae.run import files
from cwvae.visualize import to_uint8

# Frames of a window, and of the shortest prefix.
WINDOW = 16

_BATCH = 16  # Videos at a time.
_TRUTH, _OTHER = "true videos", "other real videos"

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
    """Returns the first 16, 64, 256, ... frames, and last the whole horizon."""
    ends, end = [], WINDOW
    while end < horizon:
        ends.append(end)
        end *= 4
    return [(0, end) for end in (*ends, horizon)]


def windows(horizon: int) -> list[Piece]:
    """Returns the last 16 frames of each prefix that has as many."""
    return [(end - WINDOW, end) for _, end in prefixes(horizon) if end >= WINDOW]


class VideoDistances:
    """Collects a model's predictions, and measures their distance from the truth.

    Other sets are compared with the truth, too: predictions without a model.
    """

    def __init__(
        self,
        i3d,
        *,
        name: str,
        horizon: int,
        num_videos: int,
        truth: Source,
        others: Mapping[str, Source],
        other_real: Source | None,
        other_source: str,
        seed: int,
    ):
        """Checks the arguments, reads one true video, and prints how long it will take.

        Args:
          i3d: `fvd.I3D`, or an object with its `features`, `size` and `digest`.
          name: The model's name.
          horizon: Predicted frames, T.
          num_videos: N.
          truth: The true continuation of each video.
          others: Predictions without a model, by name.
          other_real: N other real videos, or None. Their distance from the true ones is the floor:
            the distance between two real sets of this size.
          other_source: The origin of these, or why there are none.
          seed: Seed of the bootstrap.

        Raises:
          ValueError: FVD is `impossible`, or a true video has another shape or type.
        """
        if why := impossible(horizon, num_videos):
            raise ValueError(why)
        self._i3d, self._name, self._seed = i3d, name, seed
        self._horizon, self._count = horizon, num_videos
        self._frame = np.shape(truth(0))[1:]
        self._whole = (0, horizon)
        # A set: the first window is also a prefix.
        self._pieces = sorted({*prefixes(horizon), *windows(horizon)})
        self._other_source = other_source
        self._predicted = Features(self._pieces, num_videos, i3d.size)
        self._batch: np.ndarray | None = None  # uint8 [B, T, H, W, C], or None between batches
        self._filled = 0  # Frames of the batch that have arrived.
        self._checked(truth(0), 0)
        self._sets = {_TRUTH: (truth, self._pieces)}
        self._sets |= {other: (source, self._pieces) for other, source in others.items()}
        if other_real:
            self._sets[_OTHER] = (other_real, [self._whole])
        self._paths = {what: self._cached(*given) for what, given in self._sets.items()}
        read = {
            what: Features.read(self._paths[what], pieces, num_videos, i3d.size)
            for what, (_, pieces) in self._sets.items()
        }
        self._found = {what: features for what, features in read.items() if features}
        self._announce()

    def _announce(self) -> None:
        """Prints how many frames the network will see, and about how long that takes."""
        missing = [what for what in self._sets if what not in self._found]
        needed = [set(self._pieces)]
        for source, pieces in (self._sets[what] for what in missing):
            needed.append(set(_seen(pieces, source(0)[None])))
        frames = self._count * sum(b - a for each in needed for a, b in each)
        probe = np.zeros((1, min(WINDOW, self._horizon), *self._frame), np.uint8)
        self._i3d.features(probe)  # The first call starts the network.
        begin = time.perf_counter()
        self._i3d.features(probe)
        seconds = (time.perf_counter() - begin) / probe.shape[1]
        kept = "" if missing else "; those of the true videos are in the cache"
        print(
            f"FVD: features of {frames:,} frames, about {frames * seconds / 60:.1f} minutes"
            f"{kept}. To leave it out: --set evaluation.fvd=false",
            flush=True,
        )

    def add(self, start: int, frames: np.ndarray) -> None:
        """Takes predicted frames of a batch, from number `start` on.

        Batches arrive in the order of the videos, and their frames in order of time.

        Args:
          start: Number of the first of these frames; the first predicted frame is 0.
          frames: Floats [B, t, H, W, C], clipped to [0, 1] and rounded to 8 bits here, as a saved
            video would be.

        Raises:
          ValueError: They are out of order, not finite, or of another shape than the truth.
        """
        frames = np.asarray(frames)
        self._check_stretch(start, frames)
        stop = start + frames.shape[1]
        if self._batch is None:
            self._batch = np.empty((len(frames), self._horizon, *self._frame), np.uint8)
        self._batch[:, start:stop] = to_uint8(frames)
        self._filled = stop
        if stop == self._horizon:
            self._extract(self._batch, self._predicted)
            self._batch, self._filled = None, 0

    def _check_stretch(self, start: int, frames: np.ndarray):
        left = self._count - self._predicted.written
        videos = range(1, left + 1) if self._batch is None else [len(self._batch)]
        length = range(1, self._horizon - self._filled + 1)
        fits = frames.ndim == 5 and frames.shape[0] in videos and frames.shape[1] in length
        if start != self._filled or not fits or frames.shape[2:] != self._frame:
            shown = f"1 to {left}" if self._batch is None else len(self._batch)
            raise ValueError(
                f"{self._name}: expected frames [{shown}, 1 to {len(length)},"
                f" {', '.join(map(str, self._frame))}] from number {self._filled} on, got"
                f" {list(frames.shape)} from {start} on."
            )
        if not np.isfinite(frames).all():
            raise ValueError(f"{self._name}: predictions hold a NaN or an infinity.")

    def results(self) -> dict:
        """Returns the entry "fvd" of metrics.json.

        Raises:
          ValueError: The model has not predicted all videos to the end, or a true video has another
            shape or type.
        """
        if self._predicted.written < self._count or self._batch is not None:
            raise ValueError(
                f"{self._name}: {self._predicted.written} whole videos out of {self._count}."
            )
        known = self._known()
        truth, other = known.pop(_TRUTH), known.pop(_OTHER, None)
        return {
            "frames": self._horizon,
            "num_videos": self._count,
            "module": self._i3d.digest[:12],
            "protocol": _protocol(self._horizon, self._count),
            "warnings": _warnings(self._count),
            "scores": self._scores(truth, {self._name: self._predicted} | known),
            "floor": {
                "value": self._distance(truth, other, self._whole) if other else None,
                "source": self._other_source,
            },
        }

    def _scores(self, truth: Features, predicted: Mapping[str, Features]) -> dict:
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
        pieces = features.pieces
        seen = _seen(pieces, videos)
        found = {piece: self._i3d.features(videos[:, slice(*piece)]) for piece in set(seen)}
        features.append([found[piece] for piece in seen])

    def _checked(self, video: np.ndarray, number: int) -> np.ndarray:
        if video.dtype != np.uint8 or video.shape != (self._horizon, *self._frame):
            raise ValueError(
                f"real video {number}: expected uint8 {[self._horizon, *self._frame]}, got"
                f" {video.dtype} {list(video.shape)}."
            )
        return video

    def _known(self) -> dict[str, Features]:
        """Returns the features of all sets but the model's, from the cache if they are there."""
        found = self._found
        missing = {what: given for what, given in self._sets.items() if what not in found}
        total = self._count * len(missing)
        with tqdm.tqdm(total=total, unit="video", desc="FVD", disable=not missing) as progress:
            for what, (source, pieces) in missing.items():
                progress.set_postfix_str(what)
                found[what] = features = Features(pieces, self._count, self._i3d.size)
                for first in range(0, self._count, _BATCH):
                    numbers = range(first, min(first + _BATCH, self._count))
                    videos = [self._checked(source(number), number) for number in numbers]
                    self._extract(np.stack(videos), features)
                    progress.update(len(numbers))
                features.keep(self._paths[what])
        return {what: found[what] for what in self._sets}

    def _cached(self, source: Source, pieces: list[Piece]) -> pathlib.Path:
        """Returns the cache file for exactly these pixels, network, preprocessing and pieces."""
        key = [fvd.PREPROCESSING, self._i3d.digest, pieces, self._count, self._frame]
        digest = hashlib.sha256(json.dumps(key).encode())
        for number in range(self._count):
            digest.update(self._checked(source(number), number).tobytes())
        return files.cache_folder() / "fvd" / f"{digest.hexdigest()}.features"


def _seen(pieces: list[Piece], videos: np.ndarray) -> list[Piece]:
    """Returns for each piece one with the same frames: of still videos, those as long are equal."""
    if (videos != videos[:, :1]).any():
        return pieces
    return [(0, stop - start) for start, stop in pieces]


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
