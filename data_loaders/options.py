"""Checks of options that several data sets share."""

import numpy as np

from cwvae.errors import UserError, unknown_name
from data_loaders.sources import SPLITS


def check_split(split: str) -> None:
    """Raises a UserError unless there is a split of that name."""
    if split not in SPLITS:
        raise UserError(unknown_name("split", split, SPLITS))


def check_whole_number(name: str, value: object, least: int) -> None:
    """Raises a UserError unless an option, called `name` in a configuration, is large enough."""
    if not isinstance(value, int | np.integer) or value < least:
        raise UserError(f"{name} is {value!r}; expected a whole number >= {least}.")


def check_channels(channels: object) -> None:
    """Raises a UserError unless frames are gray or RGB."""
    if channels not in (1, 3):
        raise UserError(f"model.channels is {channels!r}; expected 1 or 3.")
