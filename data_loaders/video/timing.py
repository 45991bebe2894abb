"""Reduces a video's frames to those shown at a lower rate."""

from collections.abc import Iterable, Iterator
from typing import TypeVar

from data_loaders.sources import BadVideo

Frame = TypeVar("Frame")

# Rates with a smaller relative difference are equal, such as 29.97 and 30.
_RATE_TOLERANCE = 0.005
# A frame shown for longer, in seconds, has a damaged timestamp.
_LONGEST_HOLD = 600


def at_rate(
    frames: Iterable[tuple[Frame, float, float]], fps: float, rate: float, unit: float
) -> Iterator[Frame]:
    """Yields the frames that are shown 0, 1 / fps, 2 / fps, ... seconds after the first one.

    Args:
      frames: Frames, when they are shown and, which matters for the last one, for how long, both in
        seconds.
      fps: Frames per second of the result.
      rate: The average number of frames per second. If it is about `fps`, all frames are taken.
      unit: The unit in seconds to which times are rounded.

    Raises:
      BadVideo: The rate is lower than `fps`, or a time is absurd.
    """
    if rate < (1 - _RATE_TOLERANCE) * fps:
        raise BadVideo(f"has {rate:.4g} frames per second, fewer than data.fps = {fps:g}")
    if rate < (1 + _RATE_TOLERANCE) * fps:
        for frame, _, _ in frames:
            yield frame
        return
    slack = min(unit / 2, 1 / (4 * rate))
    shown = None
    start = before = end = 0.0
    taken = 0
    for frame, time, duration in frames:
        if shown is None:
            start = before = time
        if time - before > _LONGEST_HOLD:
            raise BadVideo(f"is damaged: one frame is shown for {time - before:.0f} seconds")
        while shown is not None and start + taken / fps + slack < time:
            yield shown
            taken += 1
        shown, before, end = frame, time, time + duration
    while shown is not None and start + taken / fps + slack < end:
        yield shown
        taken += 1
