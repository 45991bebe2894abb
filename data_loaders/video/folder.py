"""Your own videos: a folder of files, in `train/` and `test/`, in lists, or all together."""

import collections
import contextlib
import functools
import math
import os
import pathlib
import re
import statistics
import sys
from collections.abc import Iterator

import numpy as np

from cwvae.errors import UserError
from data_loaders.sources import BadVideo, Note, Source, UnreadableVideo, ignore_note
from data_loaders.video import decoding, folder_splits, frame_arrays, picture_folders, regular_files
from data_loaders.video.folder_content import Content, status_of, suffix_of, walk
from data_loaders.video.frame_arrays import ArrayOptions
from data_loaders.video.frames import (
    ARRAY_SUFFIXES,
    SUFFIXES,
    FrameFormat,
    blocks,
    frames_and_rate,
    read_video,
)
from data_loaders.video.split_lists import SplitLists

# Bump when the same files and options would give different frames or splits.
VERSION = 2

# Headers per kind of file that are read to estimate the number of frames.
NUM_HEADERS = 200

# A header that promises this many times more frames per byte than usual is damaged.
_DENSEST = 100


class VideoFolder(Source):
    """The videos in a folder and its sub-folders.

    A video is a file with an extension in `SUFFIXES` or `ARRAY_SUFFIXES`, an animated picture, or a
    folder that directly holds pictures; see `picture_folders`. Its name is the path relative to the
    folder, with slashes. A .npy file may hold many videos, whose names end in '#' and six digits.
    Names that start with a dot are ignored, and so are folders that systems make.

    Sub-folders `train/` and `test/` are the splits, also with similar names such as `Training/`.
    Lists of names replace them. Without these and lists, the hash of a video's name decides whether
    it is a test video: about `test_fraction` are, and adding files moves none.
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
        """Checks the options and reads the lists; `fetch` checks the folder.

        Args:
          videos_dir: The folder.
          frame_size: H and W, in pixels.
          channels: C: 1 for gray, 3 for RGB.
          test_fraction: The share of test videos, if there are neither such folders nor lists.
          train_list: A text file with the names of the training videos, one a line, relative to
            `videos_dir`, with or without extension. A file's name stands for all its videos. The
            number of a class may follow a name with extension; it is ignored.
          test_list: The same for the test videos. Both lists are needed, or none. Videos in neither
            are not used.
          fps: Frames per second; see `read_video`.
          array_axes: The axes of arrays; see `ArrayOptions`.
          array_key: The name of the array in .npz files; see `ArrayOptions`.
          fit: See `FrameFormat`.
          resize: See `FrameFormat`.

        Raises:
          UserError: An option is missing or out of range, or a list cannot be read.
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
        if (train_list is None) != (test_list is None):
            missing = "train_list" if train_list is None else "test_list"
            raise UserError(
                f"data.{missing} is not set. Set both data.train_list and"
                " data.test_list, or neither."
            )
        self._lists = None if train_list is None else SplitLists(train_list, test_list)
        self._arrays = ArrayOptions(array_axes, array_key)
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
            "lists": self._lists and self._lists.digest(),
            "fps": self._fps,
            "array_axes": self._arrays.axes,
            "array_key": self._arrays.key,
            "fit": self._format.fit,
            "resize": self._format.resize,
        }

    def fetch(self) -> None:
        """Checks that both splits have videos, and that the decoder is installed.

        Prints the `remarks`.

        Raises:
          UserError: There are no videos, or the decoder is missing.
        """
        for remark in self.remarks():
            print(f"Note: {remark}.", file=sys.stderr)
        if any(holder.is_encoded for holder in self._content.used(self._splits[0])):
            decoding.require_av()

    def remarks(self) -> list[str]:
        """As in `Source`."""
        return [f"{self._folder}: {note}" for note in [*self._splits[1], *self._content.notes()]]

    def items(self, split: str) -> list[str]:
        """Returns the sorted names of videos: paths relative to the folder, with slashes."""
        return self._splits[0][split]

    def expected_frames(self) -> int:
        """Returns an estimate from the headers of up to about `NUM_HEADERS` files of each kind."""
        expected = 0.0
        kinds = collections.defaultdict(list)
        for holder in self._content.used(self._splits[0]):
            if holder.is_folder:
                expected += len(holder.paths)
            else:
                kinds[suffix_of(holder.name)].append(holder.paths[0])
        for suffix, paths in kinds.items():
            some = paths[:: math.ceil(len(paths) / NUM_HEADERS)]
            frames = self._frames_of_arrays if suffix in ARRAY_SUFFIXES else self._frames_of_videos
            expected += frames(some) * len(paths) / len(some)
        return math.ceil(expected)

    def stamps(self) -> dict[str, str] | None:
        """Returns the sizes and times of the files by video; see `Holder.stamp`."""
        if not self._folder.exists():
            return None  # A store that was made from it is enough.
        splits, _ = self._splits
        stamps = {}
        for holder in self._content.used(splits):
            stamps |= dict.fromkeys(holder.items, holder.stamp())
        return {item: stamps[item] for items in splits.values() for item in items}

    def digest(self, split: str, item: str) -> str:
        """Returns the SHA-256 of the file, of a folder's pictures, or of a video in an array."""
        path, number = self._located(item)
        if number is not None:
            return frame_arrays.digest(path, self._arrays, number)
        if os.path.isdir(path):
            return picture_folders.digest(self._pictures(path))
        return regular_files.sha256(path).hexdigest()

    def read(self, split: str, item: str, note: Note = ignore_note) -> Iterator[np.ndarray]:
        """As in `Source`; see `read_video`, `frame_arrays` and `picture_folders`."""
        path, number = self._located(item)
        if os.path.isdir(path):
            kind = "a folder of pictures"
            frames = picture_folders.frames(self._pictures(path), self._arrays, note)
        elif suffix_of(path) in ARRAY_SUFFIXES:
            kind = "an array"
            frames = frame_arrays.frames(path, self._arrays, number, note)
        else:
            # The name of an animation may be that of a picture; its content decides.
            name = item if suffix_of(item) in SUFFIXES else f"{item}.gif"
            yield from read_video(path, name, self._format, self._fps, note=note)
            return
        if self._fps is not None:
            raise BadVideo(
                f"is {kind}, which has no frame rate to reduce; save only the frames you want, and"
                " unset data.fps"
            )
        yield from blocks(frames, self._format, note=note)

    def _located(self, item: str) -> tuple[pathlib.Path, int | None]:
        """Returns a video's file or folder, and its number if the file has many."""
        parts = re.fullmatch(r"(.+\.npy)#([0-9]+)", item, re.IGNORECASE | re.DOTALL)
        if parts and (self._folder / parts[1]).is_file():
            return self._folder / parts[1], int(parts[2])
        return self._folder / item, None

    def _pictures(self, folder: pathlib.Path) -> list[pathlib.Path]:
        errors = []
        files = next(walk(folder, errors), (folder, []))[1]
        if errors:
            raise UnreadableVideo(f"cannot be read: {errors[0].strerror or errors[0]}")
        return picture_folders.divide(files, self._arrays)[1]

    def _frames_of_arrays(self, paths: list[pathlib.Path]) -> int:
        total = 0
        for path in paths:
            with contextlib.suppress(BadVideo):
                total += frame_arrays.expected_frames(path, self._arrays)
        return total

    def _frames_of_videos(self, paths: list[pathlib.Path]) -> float:
        sizes = {path: status_of(path).st_size for path in paths}
        headers = {path: header for path in paths if (header := frames_and_rate(path))}
        if not headers:  # As in recorded live streams: read one whole file.
            path = min(paths, key=lambda path: sizes[path] or math.inf)
            headers = dict.fromkeys(paths, frames_and_rate(path, through=True) or (0, None))
        densities = [n / sizes[path] for path, (n, _) in headers.items() if sizes[path]]
        usual = statistics.median_low(densities) if densities else 0
        total = 0.0
        for path, (frames, rate) in headers.items():
            share = min(1, self._fps / rate) if self._fps and rate else 1
            total += share * min(frames, _DENSEST * usual * sizes[path], sizes[path])
        return total

    @functools.cached_property
    def _splits(self) -> tuple[dict[str, list[str]], list[str]]:
        """The names of each split's videos, and notes; see `folder_splits.split`."""
        return folder_splits.split(self._content, self._lists, self._test_fraction)

    @functools.cached_property
    def _content(self) -> Content:
        """The content of the folder, listed once."""
        if not self._folder.is_dir():
            problem = "is a file" if self._folder.exists() else "does not exist"
            raise UserError(
                f"{self._folder} {problem}. Set data.videos_dir to the folder of your videos."
            )
        return Content(self._folder, self._arrays)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
