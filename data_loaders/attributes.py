"""What can be read from a single frame: which of a data set's attributes a frame itself shows.

K is the number of things of one kind in a frame; their order means nothing. T: frames.
"""

import dataclasses
from collections.abc import Callable

import numpy as np

CLASSES, POINTS = "classes", "points"
NOT_READABLE = -1  # In place of a class: this frame does not show it.


@dataclasses.dataclass(frozen=True)
class Readable:
    """One thing to read from a frame.

    Attributes:
      name: Unique within a data set, such as "digits".
      label: What a score of it is called, for people: "digits right".
      kind: 'classes', K class numbers from 0, or 'points', K places (row, column) in pixels from
        the top left corner of the frame, whose first pixel has its center at (0.5, 0.5).
      count: K.
      read: Takes attributes of T frames, as in `Dataset.attributes`; returns int64 [T, K] classes,
        `NOT_READABLE` where the frame does not show one, or float32 [T, K, 2] points.
      size: Of classes, how many there are.
      places: Of classes, the name of the points at which they are seen, in the same order; None
        for a class of the frame as a whole.
    """

    name: str
    label: str
    kind: str
    count: int
    read: Callable[[dict[str, np.ndarray]], np.ndarray] = dataclasses.field(repr=False)
    size: int | None = None
    places: str | None = None
