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
from data_loaders.options import check_channels, check_whole_number
from data_loaders.sources import SPLITS, BadVideo, Source
from data_loaders.video import decoding
from data_loaders.video.frames import (
    ARRAY_SUFFIXES,
    SUFFIXES,
    FrameFormat,
    frames_and_rate,
    read_video,
)

# Raised where the same files and options give other frames or other splits than before.
VERSION = 1

# Headers of each kind of file that are read to guess how many frames there are.
NUM_HEADERS = 200


class VideoFolder(Source):
    """The videos in a folder, searched with all its sub-folders.

    With sub-folders `train/` and `test/`, these are the splits, and files elsewhere do not count.
    Without, a file is a test video where the hash of its name says so: about as many as
    `test_fraction`, and always the same ones, whatever is added to the folder. A name is the path
    relative to the folder, with slashes. Files with other endings than `video.SUFFIXES` do not
    count, nor does what is hidden, by a name that starts with a dot.
    """

    def __init__(
        self,
        *,
        videos_dir: str | None = None,
        frame_size: int = 64,
        channels: int = 1,
        test_fraction: float = 0.1,
        fps: float | None = None,
        fit: str = "crop",
        resize: str = "area",
    ):
        """Checks the options; `fetch` looks into the folder.

        Args:
          videos_dir: The folder.
          frame_size: H and W, in pixels.
          channels: C: 1 for gray, 3 for RGB.
          test_fraction: The share of test videos where there are no `train/` and `test/`.
          fps: Frames a second; see `video.read_video`, as for the next two.
          fit: 'crop' or 'squeeze'; see `video.FrameFormat`.
          resize: 'area' or 'bilinear'.

        Raises:
          UserError: An option is missing or out of range.
        """
        if videos_dir is None:
            raise UserError(
                "data set 'video_folder' needs to know where your videos are: set data.videos_dir "
                "to their folder."
            )
        check_whole_number("model.frame_size", frame_size, 1)
        check_channels(channels)
        if not _is_number(test_fraction) or not 0 <= test_fraction <= 1:
            raise UserError(
                f"data.test_fraction is {test_fraction!r}; expected a number from 0 to 1."
            )
        if fps is not None and (not _is_number(fps) or not 0 < fps < math.inf):
            raise UserError(
                f"data.fps is {fps!r}; expected frames a second, a number above 0, or null for all."
            )
        super().__init__("video_folder", int(frame_size), int(channels))
        self._folder = pathlib.Path(videos_dir).expanduser().resolve()
        self._test_fraction = float(test_fraction)
        self._fps = None if fps is None else float(fps)
        self._format = FrameFormat(int(frame_size), int(channels), fit, resize)

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
        """Looks whether both splits have videos, and whether they can be decoded here.

        Raises:
          UserError: They do not, or cannot.
        """
        videos = self._splits()
        used = {item for items in videos.values() for item in items}
        others = [path.relative_to(self._folder).as_posix() for path in _files(self._folder)]
        others = sorted(item for item in others if item not in used)
        if others:
            shown = ", ".join(others[:3]) + (", ..." if len(others) > 3 else "")
            print(
                f"Note: {self._folder} has {len(others)} files that are not used, for they end in"
                f" none of {', '.join(SUFFIXES)}, or are outside of train/ and test/: {shown}",
                file=sys.stderr,
            )
        if any(_suffix(item) not in ARRAY_SUFFIXES for split in SPLITS for item in videos[split]):
            decoding.require_av()

    def items(self, split: str) -> list[str]:
        """As in `Source`: sorted paths relative to the folder, with slashes."""
        return self._splits()[split]

    def expected_frames(self) -> int:
        """As in `Source`, from the headers of some files of each kind: mostly of all of them."""
        statuses = self._statuses()
        kinds = collections.defaultdict(list)
        for item in sorted(statuses):
            kinds[_suffix(item)].append(item)
        expected = 0.0
        for items in kinds.values():
            step = math.ceil(len(items) / NUM_HEADERS)
            told = [frames_and_rate(self._folder / item) for item in items[::step]]
            if not any(told):  # As of live streams: one of them is gone through.
                some = min(items, key=lambda item: statuses[item].st_size or math.inf)
                told = [frames_and_rate(self._folder / some, through=True)]
            frames = sum(self._frames_taken(*found) for found in told if found)
            expected += frames * len(items) / len(told)
        return math.ceil(expected)

    def _frames_taken(self, frames: int, rate: float | None) -> float:
        return frames * min(1, self._fps / rate) if self._fps and rate else frames

    def stamps(self) -> dict[str, str] | None:
        """As in `Source`: size in bytes and time of change in ns of all videos, by their names."""
        if not self._folder.exists():
            return None  # A store that was made of it is all that is needed.
        statuses = self._statuses().items()
        return {item: f"{status.st_size} {status.st_mtime_ns}" for item, status in statuses}

    def digest(self, split: str, item: str) -> str:
        """As in `Source`: of the file."""
        del split
        digest = hashlib.sha256()
        try:
            with open(self._folder / item, "rb") as file:
                while data := file.read(2**20):
                    digest.update(data)
            return digest.hexdigest()
        except OSError as error:
            raise BadVideo(f"cannot be read: {error.strerror or error}") from error

    def read(self, split: str, item: str) -> Iterator[np.ndarray]:
        """As in `Source`; see `video.read_video`."""
        del split
        yield from read_video(self._folder / item, item, self._format, self._fps)

    def _statuses(self) -> dict[str, os.stat_result]:
        paths = {item: self._folder / item for items in self._splits().values() for item in items}
        # A link may point to what is gone; reading it says so.
        return {
            item: path.stat() if path.exists() else path.lstat() for item, path in paths.items()
        }

    def _splits(self) -> dict[str, list[str]]:
        """Returns the names of the videos of each split, none empty."""
        if not self._folder.is_dir():
            problem = "is a file" if self._folder.exists() else "does not exist"
            raise UserError(
                f"{self._folder} {problem}. Set data.videos_dir to the folder of your videos."
            )
        present = [split for split in SPLITS if (self._folder / split).is_dir()]
        for path in sorted(self._folder.iterdir()):
            if path.name.lower() in SPLITS and path.name not in SPLITS and path.is_dir():
                raise UserError(
                    f"{path}: call it {path.name.lower()}/, if it holds the {path.name.lower()}"
                    " videos, or otherwise."
                )
        if len(present) == len(SPLITS):
            return {split: self._videos(self._folder / split) for split in SPLITS}
        if present:
            missing = next(split for split in SPLITS if split not in present)
            raise UserError(
                f"{self._folder} has {present[0]}/, but no {missing}/. Add {missing}/ with videos; "
                f"or give {present[0]}/ another name, to have all videos split by "
                "data.test_fraction."
            )
        videos = self._videos(self._folder)
        tested = {item for item in videos if hash_fraction(item) < self._test_fraction}
        splits = {
            "train": [item for item in videos if item not in tested],
            "test": [item for item in videos if item in tested],
        }
        for split, items in splits.items():
            if not items:
                raise UserError(
                    f"none of the {len(videos)} videos in {self._folder} comes out as a {split} "
                    f"video: hashes of names decide, with data.test_fraction="
                    f"{self._test_fraction:g}. Add videos, set another data.test_fraction, or sort "
                    "them into train/ and test/."
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
                f"{folder} has no videos, which are files that end in one of "
                f"{', '.join(SUFFIXES)}. Found there: {found}. Set data.videos_dir to the folder "
                "of your videos."
            )
        return sorted(path.relative_to(self._folder).as_posix() for path in videos)


def hash_fraction(item: str) -> float:
    """Returns a number in [0, 1) that a video's name alone decides, spread evenly over names."""
    digest = hashlib.sha256(item.encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def _files(folder: pathlib.Path, above: tuple[pathlib.Path, ...] = ()) -> Iterator[pathlib.Path]:
    """Yields what is not hidden in and below a folder; follows links, but not in circles."""
    real = folder.resolve()
    if real in above:
        return
    with os.scandir(folder) as entries:
        entries = sorted(entries, key=lambda entry: entry.name)
    for entry in entries:
        path = folder / entry.name
        is_link = entry.is_symlink()
        if entry.name.startswith("."):
            continue
        if path.is_dir() if is_link else entry.is_dir():
            yield from _files(path, (*above, real))
        elif is_link or entry.is_file():
            yield path


def _suffix(path: str | pathlib.PurePath) -> str:
    return pathlib.PurePath(path).suffix.lower()


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
