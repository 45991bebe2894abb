"""A source whose frames encode their video and time; some videos are bad on purpose."""

import json
import pathlib

import numpy as np

from data_loaders.sources import BadVideo, Source, UnreadableVideo, ignore_note
from data_loaders.store import store

LENGTHS = {"train": [5, 130, None, 7, 64, 1], "test": [12, None, 3]}  # None: an unusable video.


class Numbers(Source):
    def __init__(self, lengths=LENGTHS, expected=None):
        super().__init__("numbers", 4, 3)
        self.lengths, self.expected = lengths, expected
        self.was_read, self.was_fetched, self.on_read = [], 0, lambda item: None
        self.now, self.digests = None, {}
        self.unreadable, self.damaged, self.notes = set(), set(), {}
        self.names = {}  # Names of a split's videos instead of those of `lengths`.

    def describe(self):
        return {"lengths": self.lengths}

    def fetch(self):
        self.was_fetched += 1

    def items(self, split):
        return self.names.get(split) or [f"video{i}" for i in range(len(self.lengths[split]))]

    def expected_frames(self):
        return self.expected or sum(n or 0 for part in self.lengths.values() for n in part)

    def digest(self, split, item):
        if item in self.unreadable:
            raise UnreadableVideo("cannot be read: Permission denied")
        if item in self.damaged:
            raise BadVideo("is damaged")
        return self.digests.get(item, f"digest of {item}")

    def read(self, split, item, note=ignore_note):
        self.was_read.append((split, item))
        self.on_read(item)
        for text in self.notes.get(item, ()):
            note(text)
        length = self.lengths[split][int(item.removeprefix("video"))]
        if length is None:
            yield self.frames(split, item, 9)
            raise BadVideo("breaks off after 9 frames")
        video = self.frames(split, item, length)
        for first in range(0, length, 50):
            yield video[first : first + 50]

    @staticmethod
    def frames(split, item, length):
        """Returns uint8 [T, 4, 4, 3]: the channels are the split, the video's number, the time."""
        number = int(item.removeprefix("video"))
        values = [[(split == "test") * 200, number, t % 256] for t in range(length)]
        video = np.array(values, np.uint8)[:, None, None]
        return np.broadcast_to(video, (length, 4, 4, 3)).copy()

    def attributes(self, split, item, start=0, stop=None):
        stop = stop or self.lengths[split][int(item.removeprefix("video"))]
        return {"moment": np.arange(start, stop), "who": np.array([1, 2])}

    def stamps(self):
        return self.now


def content(folder: pathlib.Path) -> dict[str, bytes]:
    """Returns a store's files by name, without the time it was made."""
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    del files["store.json"]
    summary = store.summary(folder)
    del summary["made"]
    files["summary"] = json.dumps(summary).encode()
    return files
