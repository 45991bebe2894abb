"""Reads `data.train_list` and `data.test_list`: text files with the names of videos, one a line."""

import collections
import hashlib
import json
import pathlib
from collections.abc import Iterable

from cwvae.errors import UserError
from data_loaders.sources import SPLITS
from data_loaders.video.frames import ARRAY_SUFFIXES, SUFFIXES

_SHOWN = 3  # Faulty lines of a list to show.


class SplitLists:
    """The names of the videos of each split."""

    def __init__(self, train_list: str, test_list: str):
        """Reads both files.

        Args:
          train_list: The file with the names of the training videos.
          test_list: The file with the names of the test videos.

        Raises:
          UserError: One cannot be read, is not text, or has no names.
        """
        paths = {"train": pathlib.Path(train_list), "test": pathlib.Path(test_list)}
        self._paths = {split: path.expanduser() for split, path in paths.items()}
        self._lines = {
            split: _numbered_lines(f"data.{split}_list", path)
            for split, path in self._paths.items()
        }

    def digest(self) -> str:
        """Returns a SHA-256 that depends on the names in each list, but not on their order."""
        names = [sorted(text for _, text in self._lines[split]) for split in SPLITS]
        return hashlib.sha256(json.dumps(names).encode()).hexdigest()

    def split(self, videos: dict[str, list[str]]) -> dict[str, list[str]]:
        """Returns the sorted videos of each split.

        Args:
          videos: All videos by the name of the file or folder that they are read from.

        Raises:
          UserError: A line names no video or several, or a video has two lines.
        """
        known = _by_name(videos)
        splits, lines = {}, {}
        for split in SPLITS:
            faults = []
            splits[split] = []
            for number, text in self._lines[split]:
                items, problem = _find(text, known)
                where = f"line {number} of {self._paths[split]}"
                if not problem and (again := [item for item in items if item in lines]):
                    problem = f"{again[0]} is also in {lines[again[0]]}"
                if problem:
                    faults.append(f"line {number}: {problem}")
                    continue
                splits[split] += items
                lines |= dict.fromkeys(items, where)
            if faults:
                more = f"; and {len(faults) - _SHOWN} more" if len(faults) > _SHOWN else ""
                raise UserError(
                    f"{self._paths[split]} (data.{split}_list): {'; '.join(faults[:_SHOWN])}{more}."
                    " Each line must name one video, relative to data.videos_dir, with or without"
                    " its extension, and no video may be named twice."
                )
            splits[split].sort()
        return splits


def _numbered_lines(setting: str, path: pathlib.Path) -> list[tuple[int, str]]:
    """Returns the lines of a list that are not blank, and their numbers from 1."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(
            f"{path}: {error.strerror}. Set {setting} to a file with names of videos."
        ) from error
    try:  # Windows writes UTF-16 in some cases, always with a mark at the start.
        is_utf_16 = content.startswith((b"\xff\xfe", b"\xfe\xff"))
        text = content.decode(*(["utf-16"] if is_utf_16 else ["utf-8-sig", "surrogateescape"]))
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is not a text file. Save it as UTF-8 ({setting}).") from error
    lines = [(number, line.strip()) for number, line in enumerate(text.split("\n"), 1)]
    lines = [(number, line) for number, line in lines if line]
    if not lines:
        raise UserError(f"{path}: has no names. Write the names of videos, one a line ({setting}).")
    return lines


def _by_name(videos: dict[str, list[str]]) -> dict[str, dict[str, list[str]]]:
    """Returns the files and folders that each possible name stands for, with their videos."""
    known = collections.defaultdict(dict)
    for source, items in videos.items():
        path = pathlib.PurePosixPath(source)
        is_file = path.suffix.lower() in (*SUFFIXES, *ARRAY_SUFFIXES)
        shown = source if is_file else f"{source}/"
        for name in (source, path.with_suffix("").as_posix() if is_file else shown):
            known[name][shown] = items
        for item in items if items != [source] else ():
            known[item][shown] = [item]
    return known


def _find(text: str, known: dict[str, dict[str, list[str]]]) -> tuple[list[str], str | None]:
    """Returns the videos that a line names, or what is wrong with it."""
    text = text.removeprefix("./")
    # Lists of some data sets have a class after the name, as those of UCF-101.
    for name in (text, *_without_label(text)):
        found = known.get(name, {})
        if len(found) > 1:
            return [], f"{name!r} may be {' or '.join(sorted(found))}"
        if found:
            return next(iter(found.values())), None
    return [], f"there is no video {text!r}"


def _without_label(text: str) -> Iterable[str]:
    parts = text.rsplit(maxsplit=1)
    return parts[:1] if len(parts) == 2 else []
