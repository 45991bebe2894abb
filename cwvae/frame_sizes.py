"""The frame sizes that the networks of every model fit."""

# Height and width of frames in pixels, and how many times a network halves them.
HALVINGS = {32: 3, 64: 4, 128: 5}


def halvings(frame_size: int) -> int:
    """Returns how many times the networks halve frames of a size.

    Raises:
      ValueError: A size that the networks do not fit.
    """
    if frame_size not in HALVINGS:
        raise ValueError(f"frame_size = {frame_size}: the networks fit {list(HALVINGS)}.")
    return HALVINGS[frame_size]
