"""Where videos come from, before a store holds them: what every source can say and give.

A source knows both splits. It is asked in this order: `expected_frames`; `fetch`, once; `items`;
`digest` and `read` for every item. Those two are asked in other processes, too, of a source that
was opened there with the same options and has fetched nothing. H, W and C are the height, width
and channels of a frame.
"""

import abc
from collections.abc import Iterator

import numpy as np

from data_loaders.attributes import Readable

SPLITS = ("train", "test")


class BadVideo(Exception):
    """A video that cannot be used; the message says why, without the video's name."""


class Source(abc.ABC):
    """Videos of a data set, as they were published, or as a program makes them."""

    # Whether tensorflow-datasets may hold the same videos: those of `builders.py`.
    in_tfds = False

    def __init__(self, name: str, frame_size: int, channels: int):
        """Keeps what all sources have.

        Args:
          name: The data set's name, as in a configuration's `data.name`.
          frame_size: H and W of the frames that `read` gives, in pixels.
          channels: C: 1 or 3.
        """
        self.name = name
        self.frame_shape = (frame_size, frame_size, channels)

    @abc.abstractmethod
    def describe(self) -> dict[str, object]:
        """Returns all that decides which frames there are, as JSON can hold it.

        Two sources of one name and description give the same store.
        """

    @abc.abstractmethod
    def fetch(self) -> None:
        """Gets what is not here yet, such as archives, and looks at what is.

        Raises:
          UserError: What is missing cannot be had, or what is here is damaged.
        """

    @abc.abstractmethod
    def items(self, split: str) -> list[str]:
        """Returns the names of a split's videos, in the order that they are kept in.

        Raises:
          UserError: There are none, or they cannot be listed.
        """

    @abc.abstractmethod
    def expected_frames(self) -> int:
        """Returns about how many frames both splits have together: more rather than less.

        It can be asked before `fetch`, and may know better after it.
        """

    def digest(self, split: str, item: str) -> str | None:
        """Returns the SHA-256 of the bytes that a video is read from; None where there are none.

        Raises:
          BadVideo: They cannot be read.
        """
        del split, item
        return None

    @abc.abstractmethod
    def read(self, split: str, item: str) -> Iterator[np.ndarray]:
        """Yields a video's frames in order, in blocks of uint8 [n, H, W, C], n from 1 to about 100.

        Raises:
          BadVideo: The video cannot be used, which may show after some of its frames only.
        """

    def attributes(self, split: str, item: str) -> dict[str, np.ndarray]:
        """Returns what is known of a video's content, by name.

        Arrays whose first dimension is the video's length hold a value per frame. Empty where
        nothing is known.
        """
        del split, item
        return {}

    def readable(self) -> tuple[Readable, ...]:
        """Returns what of the attributes can be read from a single frame: may be ()."""
        return ()

    def stamps(self) -> dict[str, str] | None:
        """Returns what tells that a file has changed, such as its size and time, by its name.

        A store remembers them, and says so where they are others later. None where nothing
        changes, as in published archives, or where the files have gone for good.
        """
        return None

    def origin(self) -> object:
        """Returns what, beside `stamps`, differs once the files are others, as JSON can hold it.

        What was prepared before an interruption is kept where both are still the same.
        """
        return None
