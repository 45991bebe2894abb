"""Reads `data.train_list` and `data.test_list`: text files with the names of videos, one a line."""

import collections
import hashlib
import json
import pathlib
import re
from collections.abc import Sequence

from cwvae.errors import UserError
from data_loaders.sources import SPLITS
from data_loaders.video.folder_content import Holder

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

    def split(self, holders: Sequence[Holder]) -> dict[str, list[str]]:
        """Returns the sorted videos of each split.

        Args:
          holders: All files and folders with videos.

        Raises:
          UserError: A line names no video or several, or a video has two lines.
        """
        known = _by_name(holders)
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
                    " its extension, and no video may be named twice. Only a number may follow a"
                    " name with its extension."
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
    lines = [(number, line.strip()) for number, line in enumerate(re.split("\r\n?|\n", text), 1)]
    lines = [(number, line) for number, line in lines if line]
    if not lines:
        raise UserError(f"{path}: has no names. Write the names of videos, one a line ({setting}).")
    return lines


def _by_name(holders: Sequence[Holder]) -> dict[str, dict[str, list[str]]]:
    """Returns the files and folders that each possible name stands for, with their videos.

    A name in full, with its extension or a slash at the end of a folder, also stands for itself.
    """
    known = collections.defaultdict(dict)
    for holder in holders:
        shown, short = holder.name, pathlib.PurePosixPath(holder.name).with_suffix("").as_posix()
        if holder.is_folder:
            shown, short = f"{holder.name}/", holder.name
        for name in (shown, short):
            known[name][shown] = holder.items
        for number, item in enumerate(holder.items if holder.items != [holder.name] else ()):
            for name in (item, f"{holder.name}#{number}"):
                known[name][shown] = [item]
    return known


def _find(text: str, known: dict[str, dict[str, list[str]]]) -> tuple[list[str], str | None]:
    """Returns the videos that a line names, or what is wrong with it."""
    text = text.removeprefix("./")
    found = known.get(text, {})
    if text in found:
        return found[text], None
    if len(found) > 1:
        return [], f"{text!r} may be {' or '.join(sorted(found))}"
    if found:
        return next(iter(found.values())), None
    # Lists of some data sets have the number of a class after the name, as those of UCF-101.
    name = re.sub(r"\s+-?[0-9]+$", "", text)
    if name in known.get(name, {}):
        return known[name][name], None
    return [], f"there is no video {text!r}"
