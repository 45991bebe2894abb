"""Attributes that a single frame shows, such as the digits in it, which a readout can predict.

K is the number of things of one kind in a frame: of classes and points in arbitrary order, of
numbers in a fixed order. T is a number of frames.
"""

import dataclasses
from collections.abc import Callable

import numpy as np

Attributes = dict[str, np.ndarray]  # By name.
CLASSES, POINTS, NUMBERS = "classes", "points", "numbers"
NOT_READABLE = -1  # Instead of a class: this frame does not show it.


@dataclasses.dataclass(frozen=True)
class Readable:
    """An attribute that can be read from a frame.

    Attributes:
      name: A name, unique within a data set, such as "digits".
      label: The name of its score in reports, such as "digits right".
      kind: 'classes', K class numbers from 0; 'points', K places (row, column) in pixels from the
        top left corner of the frame, where the first pixel's center is at (0.5, 0.5); or 'numbers',
        K quantities of the whole frame, such as distances.
      count: K.
      read: A function from the attributes of T frames, as in `Dataset.attributes`, to classes
        int64 [T, K], `NOT_READABLE` if the frame does not show one; points float32 [T, K, 2]; or
        numbers float32 [T, K], NaN if the frame does not show one.
      size: The number of classes; None for other kinds.
      places: For classes, the name of the points where they are seen, in the same order; None for
        a class of the whole frame.
      unit: The unit of numbers, such as "cells"; None for other kinds.
    """

    name: str
    label: str
    kind: str
    count: int
    read: Callable[[Attributes], np.ndarray] = dataclasses.field(repr=False)
    size: int | None = None
    places: str | None = None
    unit: str | None = None
