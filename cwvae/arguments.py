"""Checks of arguments that users pass to models: each returns the argument in one form.

Types and shapes are always checked, values only outside of compiled functions, so the checks cost
a training step nothing. Messages start with the argument's name.
"""

import reprlib
from typing import Any

import numpy as np
import tensorflow as tf

from cwvae.distributions import Noise

# Frames may exceed [0, 1] by this much, for instance after resizing.
_TOLERANCE = 1e-3


def as_frames(video, shape: tuple[int, int, int] | None = None, name: str = "video") -> tf.Tensor:
    """Returns float32 frames; uint8 frames are scaled from 0..255 to [0, 1].

    Args:
      video: [B, T, H, W, C], floats in [0, 1] or uint8.
      shape: (H, W, C) that the frames must have; None for any.
      name: Name of the argument, for messages.

    Raises:
      TypeError: It cannot be converted to a tensor.
      ValueError: Not [B, T, H, W, C] with B and T from 1, another shape, integers other than uint8,
        or values outside of [0, 1].
    """
    given, video = video, _as_tensor(video)
    if video is None:
        raise TypeError(
            f"{name} must be an array [B, T, H, W, C]. A {type(given).__name__} like this cannot be"
            " converted to one."
        )
    if video.dtype != tf.uint8 and not video.dtype.is_floating:
        raise ValueError(f"{name} must hold floats in [0, 1] or uint8, not {video.dtype.name}.")
    if video.shape.rank != 5 or video.shape[1] == 0:
        hint = _axes_hint(video.shape, shape, name)
        raise ValueError(f"{name} must be [B, T, H, W, C] with T from 1, not {video.shape}.{hint}")
    if video.shape[0] == 0:
        raise ValueError(f"{name} holds no clip: its shape is {video.shape}. Pass at least one.")
    if shape is not None and tuple(video.shape[2:]) != shape:
        hint = _axes_hint(video.shape, shape, name)
        raise ValueError(
            f"{name} must hold frames of {shape}, not {tuple(video.shape[2:])}, in an array"
            f" [B, T, H, W, C].{hint}"
        )
    if video.dtype == tf.uint8:
        return tf.cast(video, tf.float32) / 255.0
    if tf.executing_eagerly():
        _check_values(video, name)
    return tf.cast(video, tf.float32)


def _axes_hint(found: tf.TensorShape, shape: tuple[int, int, int] | None, name: str) -> str:
    """Returns advice for common mistakes about axes, with a space before it."""
    if shape is None or found.rank is None:
        return ""
    found, (height, width, channels) = tuple(found), shape
    if found == shape:
        return f" For a single frame, pass {name}[None, None]."
    if len(found) == 4 and found[1:] == shape:
        return f" For a single clip, pass {name}[None]."
    if len(found) == 4 and channels == 1 and found[2:] == (height, width):
        return f" The axis of channels is missing: pass {name}[..., None]."
    if found[2:] == (channels, height, width):
        return f" Channels come last: pass np.moveaxis({name}, 2, -1)."
    if len(found) == 5 and (found[1], *found[3:]) == (channels, height, width):
        return f" Channels come last: pass np.moveaxis({name}, 1, -1)."
    return ""


def _check_values(video: tf.Tensor, name: str) -> None:
    """Raises a ValueError unless all values are in [0, 1], up to rounding."""
    if not tf.reduce_all(tf.math.is_finite(video)):
        raise ValueError(f"{name} holds NaN or infinity. Replace these values or drop the clips.")
    low, high = float(tf.reduce_min(video)), float(tf.reduce_max(video))
    if low >= -_TOLERANCE and high <= 1 + _TOLERANCE:
        return
    if low >= 0 and high > 2:
        advice = "If they are values from 0 to 255, pass uint8, or divide by 255."
    elif low >= -1 - _TOLERANCE and high <= 1 + _TOLERANCE:
        advice = "If they are values from -1 to 1, pass (x + 1) / 2; if a prediction, clip it."
    else:
        advice = "Scale or clip them."
    raise ValueError(
        f"{name} must hold values in [0, 1], not from {low:.6g} to {high:.6g}. {advice}"
    )


def as_seed(seed) -> tf.Tensor:
    """Returns a seed as the int tensor [2] of TensorFlow's stateless sampling.

    Args:
      seed: An integer of 64 bits, negative ones included, or an int32 or int64 tensor [2].

    Raises:
      TypeError: It is something else, such as a float or None.
      ValueError: The integer needs more than 64 bits.
    """
    if _is_integer(seed):
        if not -(2**63) <= seed < 2**63:
            raise ValueError(f"seed must fit into 64 bits: from -2^63 to 2^63 - 1, not {seed}.")
        return tf.constant([int(seed), 0], tf.int64)
    tensor = _as_tensor(seed)
    if tensor is None or tensor.dtype not in (tf.int32, tf.int64) or tensor.shape != (2,):
        raise TypeError(
            f"seed must be an integer, or an int32 or int64 tensor [2], not {_short(seed)}."
        )
    return tensor


def as_integer(value, name: str, least: int) -> int:
    """Returns an integer, Python's or NumPy's, from `least` and below 2^31.

    Raises:
      TypeError: It is not an integer. Booleans and floats are refused, also whole ones.
      ValueError: It is too small or too large.
    """
    if not _is_integer(value):
        raise TypeError(f"{name} must be an integer of at least {least}, not {_short(value)}.")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, not {value}.")
    if value >= 2**31:
        raise ValueError(f"{name} must be below 2^31 = {2**31}, not {value}.")
    return int(value)


def as_flag(value, name: str) -> bool:
    """Returns a boolean, Python's or NumPy's; raises a TypeError for anything else."""
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name} must be True or False, not {_short(value)}.")
    return bool(value)


def as_noise(seed, row) -> Noise:
    """Returns the noise for a seed as in `as_seed` and a row from 0, which may be a tensor []."""
    return Noise(as_seed(seed), tf.cast(_as_count(row, "row"), tf.int64))


def as_step(step) -> tf.Tensor | int | None:
    """Returns the `step` of `VideoModel.elbo`: None, an integer from 0, or an integer tensor []."""
    return None if step is None else _as_count(step, "step")


def as_level_flags(flags, levels: int) -> tuple[bool, ...]:
    """Returns whether each level is observed, the fastest first.

    Args:
      flags: A letter T or F for each level, such as "TTF", or a list, tuple or array of booleans.
        None: all levels are.
      levels: Number of levels.

    Raises:
      TypeError: It is something else.
      ValueError: Other letters, or not one for each level.
    """
    if flags is None:
        return (True,) * levels
    wanted = (
        f"observe_levels must be one T or F, or one boolean, for each of the {levels} levels, the"
        f" fastest first, such as {'T' * levels!r}; not {_short(flags)}."
    )
    if isinstance(flags, str):
        if set(flags) - {"T", "F"}:
            raise ValueError(wanted)
        flags = [letter == "T" for letter in flags]
    if isinstance(flags, np.ndarray):
        flags = flags.tolist()
    if not isinstance(flags, list | tuple):
        raise TypeError(wanted)
    if not all(isinstance(flag, bool | np.bool_) for flag in flags):
        raise TypeError(wanted)
    if len(flags) != levels:
        raise ValueError(wanted)
    return tuple(map(bool, flags))


def as_batch_statistics(value, clips: int) -> bool:
    """Returns the option `batch_statistics` of SVG-LP and VTA, which needs two clips or more."""
    value = as_flag(value, "batch_statistics")
    if value and clips < 2:
        raise ValueError("batch_statistics: one clip is too few. Give at least 2 clips.")
    return value


def _as_count(value, name: str) -> tf.Tensor | int:
    """Returns an integer from 0, or an integer tensor []."""
    if not tf.is_tensor(value):
        return as_integer(value, name, 0)
    if not value.dtype.is_integer or value.shape.rank != 0:
        raise TypeError(f"{name} must be an integer or an integer tensor [], not {_short(value)}.")
    if not tf.is_symbolic_tensor(value):
        as_integer(value.numpy()[()], name, 0)
    return value


def _is_integer(value) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _as_tensor(value: Any) -> tf.Tensor | None:
    """Returns a value as a tensor, or None if TensorFlow cannot convert it."""
    try:
        return tf.convert_to_tensor(value)
    except (TypeError, ValueError, OverflowError, tf.errors.OpError):
        return None


def _short(value: Any) -> str:
    """Returns a description of a value on one line, for messages."""
    return " ".join(reprlib.repr(value).split())
