"""The attributes of a data set as targets of linear readouts. No TensorFlow.

Symbols: T frames, O outputs of a readout, K things of one kind in a frame, such as digits.
"""

import numpy as np

from cwvae.errors import UserError

CLASSES, NUMBERS = "classes", "numbers"


def targets(data) -> dict[str, str]:
    """Returns the attributes that are read: `CLASSES` or `NUMBERS` by name.

    These are the readable ones, and others that are floats for each frame, such as velocities.

    Raises:
      UserError: No attribute of the data set is known.
    """
    length = min(2, data.clips.longest)
    readable = {r.name: CLASSES if r.kind == "classes" else NUMBERS for r in data.readable()}
    if found := values_of(data, 0, 0, length):
        return {name: readable.get(name, NUMBERS) for name in found}
    raise UserError(
        "the content of these clips is not known, so there is nothing to read in the levels. Give a"
        " run whose data set has attributes (data.name): moving_digits or procedural_mazes."
    )


def values_of(data, i: int, start: int, length: int) -> dict[str, np.ndarray]:
    """Returns the targets of a readout by attribute, float32 [T, O]; NaN where one is unknown.

    Classes are counts of each class. If there are K points or vectors in arbitrary order, their
    mean is the target.
    """
    known, found = data.attributes(i, start, length), {}
    for readable in data.readable():
        values = readable.read(known)
        if readable.kind == "classes":
            counts = (values[..., None] == np.arange(readable.size)).sum(1).astype(np.float32)
            found[readable.name] = np.where((values < 0).any(1)[:, None], np.nan, counts)
        else:
            found[readable.name] = _mean_of_things(values)
    for name, values in known.items():
        per_frame = values.dtype.kind == "f" and values.ndim and len(values) == length
        if per_frame and name not in found:
            found[name] = _mean_of_things(values) if values.ndim == 3 else values
    return {name: values.reshape(length, -1) for name, values in found.items()}


def _mean_of_things(values: np.ndarray) -> np.ndarray:
    return values.reshape(*values.shape[:2], -1).mean(1)
