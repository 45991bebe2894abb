"""KTH Actions: 25 people walking, jogging, running, boxing, waving and clapping in four scenarios.

There is one archive per action, with avi files such as `person01_boxing_d1_uncomp.avi`. Splits
divide the people. `00sequences.txt`, by the same authors, lists the frames with a person in them.
"""

import contextlib
import pathlib
import re
from collections.abc import Iterator

import numpy as np

from cwvae.errors import UserError
from data_loaders.published import archives
from data_loaders.published.sets import ArchivedVideos, Facts
from data_loaders.sources import SPLITS, BadVideo, Note, check_choice, ignore_note, natural_order
from data_loaders.video.frames import FrameFormat

ACTIONS = ("walking", "jogging", "running", "boxing", "handwaving", "handclapping")
SEQUENCES = "00sequences.txt"

# The persons of each split: as in SVG and most papers since, or as in MCnet.
PERSONS = {
    "svg": {"train": range(1, 21), "test": range(21, 26)},
    "mcnet": {"train": range(1, 17), "test": range(17, 26)},
}

ABSENT = "person13_handclapping_d3"  # One of the 600 videos was never published.

_SITES = ("http://www.nada.kth.se/cvap/actions", "https://www.csc.kth.se/cvap/actions")
_ARCHIVES = [f"{action}.zip" for action in ACTIONS]

FACTS = Facts(
    description="25 people walking, jogging, running, boxing, waving and clapping; gray, 25 fps.",
    homepage="https://www.csc.kth.se/cvap/actions/",
    licence="not stated by the source; see https://www.csc.kth.se/cvap/actions/",
    citation="""\
@inproceedings{schuldt2004recognizing,
  title = {Recognizing Human Actions: A Local {SVM} Approach},
  author = {Schuldt, Christian and Laptev, Ivan and Caputo, Barbara},
  booktitle = {International Conference on Pattern Recognition},
  year = {2004}
}
""",
    files={file: tuple(f"{site}/{file}" for site in _SITES) for file in [*_ARCHIVES, SEQUENCES]},
    frame_shape=(120, 160, 1),
    frames_per_video={"train": 500, "test": 500},
    num_frames=290_000,
)

_VIDEO = re.compile(
    r"(?P<key>person(?P<person>0[1-9]|1[0-9]|2[0-5])"
    rf"_(?P<action>{'|'.join(ACTIONS)})_d[1-4])(_uncomp)?\.avi"
)
_RANGES = re.compile(r"frames[,\s]*(\d+\s*-\s*\d+([,\s]+|$))+")
_LINE = re.compile(r"(?P<key>person\d+_\w+_d\d+)(\s+(?P<rest>.*))?")


class KthActions(ArchivedVideos):
    """Whole videos, or the ranges of frames with a person in them.

    An item has the name of the video in its archive, or `<video>#1-95` for a range, which starts
    at 1 and is inclusive. Files that are not named like videos of their action are skipped.
    """

    def __init__(self, *, kth_split: str = "svg", kth_sequences: bool = False, **options: object):
        """Stores the options.

        Args:
          kth_split: 'svg', persons 1 to 20 and 21 to 25, or 'mcnet', 1 to 16 and 17 to 25.
          kth_sequences: Whether an item is a range of frames instead of a whole video.
          **options: The options of `ArchivedVideos`.

        Raises:
          UserError: An option out of range.
        """
        super().__init__("kth_actions", FACTS, **options)
        check_choice("data.kth_split", kth_split, PERSONS)
        self._kth_split, self._ranges = kth_split, bool(kth_sequences)
        if not self._ranges:
            del self._files[SEQUENCES]
        # The frames that the builder for tensorflow-datasets stores.
        kept = FrameFormat(64, self._format.channels, "squeeze", "area")
        self.in_tfds = (kth_split, self._ranges, self._format) == ("svg", False, kept)

    def describe(self) -> dict[str, object]:
        """As in `Source`."""
        own = {"kth_split": self._kth_split, "kth_sequences": self._ranges}
        return super().describe() | own

    def remarks(self) -> list[str]:
        """As in `Source`: also which files are skipped and which are missing."""
        remarks = super().remarks()
        videos, others = self._videos()
        published = {
            f"person{person:02}_{action}_d{scenario}"
            for person in range(1, 26)
            for action in ACTIONS
            for scenario in range(1, 5)
        }
        keys = {key for key, _ in videos.values()}
        unlisted = set()
        if self._ranges:
            unlisted = keys - read_sequences(self._folder() / SEQUENCES).keys()
        for names, problem in (
            (others, "files are skipped: their names are not those of videos of the archive"),
            (published - keys - {ABSENT}, "videos are not in the archives"),
            (unlisted, f"videos are skipped: {SEQUENCES} lists no frames of them"),
        ):
            if names:
                some = ", ".join(sorted(names)[:3]) + (", ..." if len(names) > 3 else "")
                remarks.append(f"{len(names)} {problem}: {some}")
        return remarks

    def items(self, split: str) -> list[str]:
        """Returns the names of the videos or ranges, 2 before 10."""
        check_choice("split", split, SPLITS)
        persons = PERSONS[self._kth_split][split]
        videos, _ = self._videos()
        keys = {video: key for video, (key, person) in videos.items() if person in persons}
        found = sorted(keys, key=natural_order)
        if self._ranges:
            ranges = read_sequences(self._folder() / SEQUENCES)
            found = [
                f"{video}#{first}-{last}"
                for video in found
                for first, last in ranges.get(keys[video], ())
            ]
        if not found:
            raise UserError(
                f"{self._folder()}: the archives of kth_actions have no videos of the persons"
                f" {persons[0]} to {persons[-1]}, the {split} split of data.kth_split="
                f"{self._kth_split}. Delete them to have them downloaded, or replace them with"
                f" those of {FACTS.homepage}."
            )
        return found

    def expected_frames(self) -> int:
        """As in `ArchivedVideos`; exact for ranges of frames."""
        if not self._ranges or self._missing():
            return super().expected_frames()
        ranges = [_range_of(item) for split in SPLITS for item in self.items(split)]
        return sum(last - first + 1 for first, last in ranges)

    def read(self, split: str, item: str, note: Note = ignore_note) -> Iterator[np.ndarray]:
        """As in `Source`. The ranges before the end of a truncated video can be read."""
        frames = super().read(split, item, note)
        if self._ranges:
            first, last = _range_of(item)
            note(f"only frames {first} to {last} of the video, from 1, as in {SEQUENCES}")
            frames = _cut(frames, first, last)
        yield from frames

    def _member(self, item: str) -> tuple[str, str]:
        video = item.rpartition("#")[0] if self._ranges else item
        match = _VIDEO.fullmatch(pathlib.PurePosixPath(video).name)
        if match is None:
            raise BadVideo("does not have the name of a video of kth_actions")
        return f"{match['action']}.zip", video

    def _videos(self) -> tuple[dict[str, tuple[str, int]], list[str]]:
        """Returns (key, person) of each video by its name in its archive, and the other files."""
        videos, others = {}, []
        for action in ACTIONS:
            for name in archives.members(self._folder() / f"{action}.zip", (".avi",)):
                match = _VIDEO.fullmatch(pathlib.PurePosixPath(name).name)
                if match and match["action"] == action:
                    videos[name] = match["key"], int(match["person"])
                else:
                    others.append(name)
        return videos, others


def read_sequences(path: pathlib.Path) -> dict[str, list[tuple[int, int]]]:
    """Reads the data set's `00sequences.txt`, with lines such as `person01_boxing_d1 frames 1-95`.

    Args:
      path: The file. Lines that do not begin with the name of a video are ignored.

    Returns:
      The ranges (first, last) of each video, such as 'person01_boxing_d1': from 1, inclusive, in
      the file's order and without repetitions. A video that the file says is missing has none.

    Raises:
      UserError: The file cannot be read, a line is malformed, or no video is listed.
    """
    source = FACTS.files[SEQUENCES][-1]
    advice = f"Delete the file and run the same command again, or get it from {source}."
    try:
        text = path.read_text(errors="replace")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}). {advice}") from None
    found = {}
    for number, line in enumerate(text.splitlines(), start=1):
        match = _LINE.fullmatch(line.strip())
        if match is None:
            continue
        ranges = _parse_ranges(match["rest"] or "")
        if ranges is None:
            raise UserError(
                f"{path}, line {number}: {line.strip()!r} is malformed; expected ranges of frames,"
                f" as in 'person01_boxing_d1 frames 1-95, 96-185'. {advice}"
            )
        found[match["key"]] = list(dict.fromkeys(found.get(match["key"], []) + ranges))
    if not found:
        raise UserError(f"{path}: lists no videos. {advice}")
    return found


def _parse_ranges(text: str) -> list[tuple[int, int]] | None:
    """Returns the ranges of a line, or None if it is malformed."""
    if "missing" in text:
        return []
    if not _RANGES.fullmatch(text):
        return None
    ranges = [(int(first), int(last)) for first, last in re.findall(r"(\d+)\s*-\s*(\d+)", text)]
    return ranges if all(1 <= first <= last for first, last in ranges) else None


def _range_of(item: str) -> tuple[int, int]:
    first, last = item.rpartition("#")[2].split("-")
    return int(first), int(last)


def _cut(blocks: Iterator[np.ndarray], first: int, last: int) -> Iterator[np.ndarray]:
    """Yields frames `first` to `last`, from 1 and inclusive, without reading the rest."""
    done = 0
    with contextlib.closing(blocks):
        for block in blocks:
            piece = block[max(0, first - 1 - done) : last - done]
            if len(piece):
                yield piece
            done += len(block)
            if done >= last:
                return
    raise BadVideo(f"has {done} frames, but {SEQUENCES} lists {first}-{last}")
