"""Your own videos: a folder of files, in `train/` and `test/` or all together."""

import collections
import hashlib
import math
import os
import pathlib
import sys
from collections.abc import Iterator

import numpy as np

from cwvae.errors import UserError
from data_loaders.sources import SPLITS, BadVideo, Note, Source, ignore_note
from data_loaders.video import decoding
from data_loaders.video.frames import (
    ARRAY_SUFFIXES,
    SUFFIXES,
    FrameFormat,
    frames_and_rate,
    read_video,
)

# Bump when the same files and options would give different frames or splits.
VERSION = 1

# Headers per kind of file that are read to estimate the number of frames.
NUM_HEADERS = 200


class VideoFolder(Source):
    """The videos in a folder and its sub-folders.

    Sub-folders `train/` and `test/` are the splits, and files elsewhere are ignored. Without these
    two, the hash of a file's name decides whether it is a test video: about `test_fraction` are,
    and adding files moves none. A name is the path relative to the folder, with slashes. Files
    without an extension in `SUFFIXES` are ignored, and so are names that start with a dot.
    """

    def __init__(
        self,
        *,
        videos_dir: str | None = None,
        frame_size: int = 64,
        channels: int = 1,
        test_fraction: float = 0.1,
        train_list: str | None = None,
        test_list: str | None = None,
        fps: float | None = None,
        array_axes: str | None = None,
        array_key: str | None = None,
        fit: str = "crop",
        resize: str = "area",
    ):
        """Checks the options; `fetch` checks the folder.

        Args:
          videos_dir: The folder.
          frame_size: H and W, in pixels.
          channels: C: 1 for gray, 3 for RGB.
          test_fraction: The share of test videos, if there are no `train/` and `test/`.
          fps: Frames per second; see `read_video`.
          fit: See `FrameFormat`.
          resize: See `FrameFormat`.

        Raises:
          UserError: An option is missing or out of range.
        """
        if videos_dir is None:
            raise UserError(
                "data set 'video_folder': data.videos_dir is not set. Set it to the folder of your"
                " videos."
            )
        super().__init__("video_folder", frame_size, channels)
        if not _is_number(test_fraction) or not 0 <= test_fraction <= 1:
            raise UserError(
                f"data.test_fraction is {test_fraction!r}; expected a number from 0 to 1."
            )
        if fps is not None and (not _is_number(fps) or not 0 < fps < math.inf):
            raise UserError(
                f"data.fps is {fps!r}; expected frames per second, above 0, or null for all frames."
            )
        self._folder = pathlib.Path(videos_dir).expanduser().resolve()
        self._test_fraction = float(test_fraction)
        self._fps = None if fps is None else float(fps)
        self._format = FrameFormat(*self.frame_shape[1:], fit, resize)

    def describe(self) -> dict[str, object]:
        """As in `Source`."""
        return {
            "name": self.name,
            "version": VERSION,
            "videos_dir": str(self._folder),
            "frame_size": self._format.size,
            "channels": self._format.channels,
            "test_fraction": self._test_fraction,
            "fps": self._fps,
            "fit": self._format.fit,
            "resize": self._format.resize,
        }

    def fetch(self) -> None:
        """Checks that both splits have videos, and that the decoder is installed.

        Raises:
          UserError: There are no videos, or the decoder is missing.
        """
        videos = self._splits()
        used = {item for items in videos.values() for item in items}
        others = [path.relative_to(self._folder).as_posix() for path in _files(self._folder)]
        others = sorted(item for item in others if item not in used)
        if others:
            shown = ", ".join(others[:3]) + (", ..." if len(others) > 3 else "")
            print(
                f"Note: {self._folder} has {len(others)} files that are not used, as their names"
                f" end in none of {', '.join(SUFFIXES)}, or they are outside train/ and test/:"
                f" {shown}",
                file=sys.stderr,
            )
        if any(_suffix(item) not in ARRAY_SUFFIXES for split in SPLITS for item in videos[split]):
            decoding.require_av()

    def items(self, split: str) -> list[str]:
        """Returns the sorted paths relative to the folder, with slashes."""
        return self._splits()[split]

    def expected_frames(self) -> int:
        """Returns an estimate from the headers of up to about `NUM_HEADERS` files of each kind."""
        statuses = self._statuses()
        kinds = collections.defaultdict(list)
        for item in sorted(statuses):
            kinds[_suffix(item)].append(item)
        expected = 0.0
        for items in kinds.values():
            step = math.ceil(len(items) / NUM_HEADERS)
            headers = [frames_and_rate(self._folder / item) for item in items[::step]]
            if not any(headers):  # As in recorded live streams: read one whole file.
                some = min(items, key=lambda item: statuses[item].st_size or math.inf)
                headers = [frames_and_rate(self._folder / some, through=True)]
            for frames, rate in filter(None, headers):
                share = min(1, self._fps / rate) if self._fps and rate else 1
                expected += frames * share * len(items) / len(headers)
        return math.ceil(expected)

    def stamps(self) -> dict[str, str] | None:
        """Returns the size in bytes and modification time in ns of each video, by name."""
        if not self._folder.exists():
            return None  # A store that was made from it is enough.
        statuses = self._statuses().items()
        return {item: f"{status.st_size} {status.st_mtime_ns}" for item, status in statuses}

    def digest(self, split: str, item: str) -> str:
        """Returns the SHA-256 of the file."""
        digest = hashlib.sha256()
        try:
            with open(self._folder / item, "rb") as file:
                while data := file.read(2**20):
                    digest.update(data)
            return digest.hexdigest()
        except OSError as error:
            raise BadVideo(f"cannot be read: {error.strerror or error}") from error

    def read(self, split: str, item: str, note: Note = ignore_note) -> Iterator[np.ndarray]:
        """As in `Source`; see `read_video`."""
        yield from read_video(self._folder / item, item, self._format, self._fps, note=note)

    def _statuses(self) -> dict[str, os.stat_result]:
        paths = {item: self._folder / item for items in self._splits().values() for item in items}
        # A link may point to a missing file, which reading it reports.
        return {
            item: path.stat() if path.exists() else path.lstat() for item, path in paths.items()
        }

    def _splits(self) -> dict[str, list[str]]:
        """Returns the names of the videos of each split, at least one."""
        if not self._folder.is_dir():
            problem = "is a file" if self._folder.exists() else "does not exist"
            raise UserError(
                f"{self._folder} {problem}. Set data.videos_dir to the folder of your videos."
            )
        present = [split for split in SPLITS if (self._folder / split).is_dir()]
        for path in sorted(self._folder.iterdir()):
            if path.name.lower() in SPLITS and path.name not in SPLITS and path.is_dir():
                raise UserError(
                    f"{path}: rename it to {path.name.lower()}/ if it holds the"
                    f" {path.name.lower()} videos, or to something else."
                )
        if len(present) == len(SPLITS):
            return {split: self._videos(self._folder / split) for split in SPLITS}
        if present:
            missing = next(split for split in SPLITS if split not in present)
            raise UserError(
                f"{self._folder} has {present[0]}/, but no {missing}/. Add {missing}/ with videos;"
                f" or rename {present[0]}/ to have all videos split by data.test_fraction."
            )
        videos = self._videos(self._folder)
        splits = {"train": [], "test": []}
        for item in videos:
            is_test = hash_fraction(item) < self._test_fraction
            splits["test" if is_test else "train"].append(item)
        for split, items in splits.items():
            if not items:
                raise UserError(
                    f"none of the {len(videos)} videos in {self._folder} is a {split} video: the"
                    f" hash of a name decides, with data.test_fraction={self._test_fraction:g}. Add"
                    " videos, set another data.test_fraction, or sort them into train/ and test/."
                )
        return splits

    def _videos(self, folder: pathlib.Path) -> list[str]:
        """Returns the sorted names of the videos in and below a folder, at least one."""
        try:
            files = list(_files(folder))
        except OSError as error:
            raise UserError(f"{error.filename}: {error.strerror}. Make it readable.") from error
        videos = [path for path in files if _suffix(path) in SUFFIXES]
        if not videos:
            others = "1 other file" if len(files) == 1 else f"{len(files)} other files"
            found = f"{others}, such as {files[0].name}" if files else "no files"
            raise UserError(
                f"{folder} has no videos, which are files with names that end in one of"
                f" {', '.join(SUFFIXES)}. Found there: {found}. Set data.videos_dir to the folder"
                " of your videos."
            )
        return sorted(path.relative_to(self._folder).as_posix() for path in videos)


def hash_fraction(item: str) -> float:
    """Returns a number in [0, 1) that depends only on a video's name, uniform over names."""
    digest = hashlib.sha256(item.encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def _files(folder: pathlib.Path, above: tuple[pathlib.Path, ...] = ()) -> Iterator[pathlib.Path]:
    """Yields the files in and below a folder that are not hidden; follows links without cycles."""
    real = folder.resolve()
    if real in above:
        return
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if path.is_dir():
            yield from _files(path, (*above, real))
        elif path.is_file() or path.is_symlink():  # A broken link is reported when it is read.
            yield path


def _suffix(path: str | pathlib.PurePath) -> str:
    return pathlib.PurePath(path).suffix.lower()


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
