"""The interface of a source: videos from which a store is prepared.

A source has both splits. The order of calls is: `expected_frames`; `fetch`, once; `items`; then
`digest` and `read` for every item. Other processes, too, call these two, on a source that they
opened with the same options and without `fetch`. H, W and C are the height, width and channels of a
frame.
"""

import abc
import importlib
import re
import types
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from cwvae.errors import UserError, unknown_name
from data_loaders.attributes import Attributes, Readable

SPLITS = ("train", "test")

# Takes a sentence on what was done to a video beyond decoding it, such as "turned by 90 degrees".
Note = Callable[[str], None]


def require(module: str, purpose: str, package: str, advice: str = "") -> types.ModuleType:
    """Imports and returns a package that only some data sets need.

    Args:
      module: The package or a module in it, which is imported, too.
      purpose: The subject of the message, such as "decoding videos".
      package: The package's name, and perhaps version, for pip.
      advice: What else the user can do.

    Raises:
      UserError: It cannot be imported.
    """
    try:
        imported = importlib.import_module(module.partition(".")[0])
        importlib.import_module(module)
        return imported
    except ImportError as error:
        raise UserError(
            f"{purpose} needs {package}, which cannot be imported ({error})."
            f" Install it: pip install {package}{advice and f'; or {advice}'}."
        ) from error


def check_choice(name: str, value: object, choices: Iterable[str]) -> None:
    """Raises a UserError unless an option has one of the values that it may have."""
    if value not in choices:
        raise UserError(unknown_name(name, value, choices))


def check_whole_numbers(least: int, section: str = "data", **options: object) -> None:
    """Raises a UserError unless options of a section are whole numbers, `least` or more."""
    for name, value in options.items():
        if not isinstance(value, int | np.integer) or value < least:
            raise UserError(f"{section}.{name} is {value!r}; expected a whole number >= {least}.")


def check_frame_shape(frame_size: object, channels: object) -> None:
    """Raises a UserError unless frames of this size are possible, and gray or RGB."""
    check_whole_numbers(2, "model", frame_size=frame_size)
    if channels not in (1, 3):
        raise UserError(f"model.channels is {channels!r}; expected 1 or 3.")


def natural_order(name: str) -> tuple:
    """Returns a sort key that compares the numbers in names by value."""
    parts = re.split(r"([0-9]+)", name)
    return [int(part) if i % 2 else part for i, part in enumerate(parts)], name


class BadVideo(Exception):
    """A video that cannot be used. The message is the reason, without the video's name."""


class UnreadableVideo(BadVideo):
    """A video that the system could not read, because of its permissions or the network.

    The next attempt may succeed.
    """


def ignore_note(note: str) -> None:
    """The `Note` that nobody wants to know."""


class Source(abc.ABC):
    """Videos of a data set, published or generated."""

    # Whether a folder of tensorflow-datasets may hold the same videos; see `builders.py`.
    in_tfds = False

    # 'archives' or 'tfds' for a data set that can be read from either, under other names of videos.
    kind: str | None = None

    def __init__(self, name: str, frame_size: int, channels: int):
        """Stores the name and the shape of a frame.

        Args:
          name: The data set's name, as in `data.name`.
          frame_size: H and W of the frames that `read` yields, in pixels.
          channels: C, 1 or 3.

        Raises:
          UserError: A size or number of channels out of range.
        """
        check_frame_shape(frame_size, channels)
        self.name = name
        self.frame_shape = (int(frame_size), int(frame_size), int(channels))

    @abc.abstractmethod
    def describe(self) -> dict[str, object]:
        """Returns everything that determines the frames, as values for JSON.

        Two sources with the same name and description lead to the same store.
        """

    @abc.abstractmethod
    def fetch(self) -> None:
        """Downloads missing files, such as archives, and checks existing ones.

        Raises:
          UserError: Files are missing and cannot be downloaded, or they are damaged.
        """

    def remarks(self) -> list[str]:
        """Returns sentences on files that are not used and on how splits were made; may be empty.

        `fetch` prints them.

        Raises:
          UserError: The files no longer exist.
        """
        return []

    @abc.abstractmethod
    def items(self, split: str) -> list[str]:
        """Returns the names of a split's videos, in the order of the store.

        Raises:
          UserError: There are none, or they cannot be listed.
        """

    @abc.abstractmethod
    def expected_frames(self) -> int:
        """Returns the approximate number of frames of both splits, rather too high than too low.

        The result may be more exact after `fetch`.
        """

    def digest(self, split: str, item: str) -> str | None:
        """Returns the SHA-256 of the bytes that a video is read from; None if it is generated.

        Raises:
          BadVideo: They cannot be read.
        """
        return None

    @abc.abstractmethod
    def read(self, split: str, item: str, note: Note = ignore_note) -> Iterator[np.ndarray]:
        """Yields a video's frames in order, in blocks of uint8 [n, H, W, C], n from 1 to about 100.

        Args:
          split: 'train' or 'test'.
          item: One of `items(split)`.
          note: Is told what was read, and everything that changed pixels or the number of frames
            or that was assumed. Repetitions do not matter.

        Raises:
          BadVideo: The video cannot be used. It may be raised after some of the frames.
        """

    def attributes(
        self, split: str, item: str, start: int = 0, stop: int | None = None
    ) -> Attributes:
        """Returns the known attributes of a video's content, by name; may be empty.

        Those with a value per frame have them for the frames from `start` to before `stop`, or to
        the end.
        """
        return {}

    def readable(self) -> tuple[Readable, ...]:
        """Returns the attributes that a single frame shows; may be empty."""
        return ()

    def stamps(self) -> dict[str, str] | None:
        """Returns a stamp per video, such as its size and time, that differs if its bytes change.

        Keys are the names of the videos of both splits. If the splits share a name, its stamp is
        for both videos. A store saves stamps; where they differ later, it compares `digest`. An
        interrupted preparation is resumed only if they are the same.

        Returns:
          The stamps; None if videos are generated, or their files no longer exist.

        Raises:
          UserError: The files cannot be listed.
        """
        return None
