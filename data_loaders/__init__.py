"""Videos to learn from: `load(name, split, ...)` gives any data set by its name."""

import inspect

from cwvae.errors import UserError, unknown_name
from data_loaders.moving_digits import MovingDigits
from data_loaders.pipeline import Dataset

__all__ = ["Dataset", "load"]

# A name, and what is called with (split, **options).
SOURCES = {
    "moving_digits": MovingDigits,
}

# Names that have a meaning, but no loader yet.
PLANNED = (
    "minerl_navigate",
    "gqn_mazes",
    "kth_actions",
    "moving_mnist_2digit",
    "video_folder",
    "procedural_mazes",
)


def load(name: str, split: str, **options: object) -> Dataset:
    """Loads one split of a data set.

    Args:
      name: The name of the data set, a key of `SOURCES`.
      split: 'train' or 'test'.
      **options: The keyword arguments of the data set's class.

    Returns:
      The data set.

    Raises:
      UserError: an unknown name, split or option, or data that are missing or damaged.
    """
    if name in PLANNED:
        raise UserError(
            f"data set {name!r} is known, but cannot be loaded in this version. To try meanwhile: "
            "configs/quickstart.yml, which needs no download, or configs/moving_mnist.yml, which "
            "needs only MNIST."
        )
    if name not in SOURCES:
        raise UserError(unknown_name("data set", name, SOURCES))
    source = SOURCES[name]
    valid = [option for option in inspect.signature(source).parameters if option != "split"]
    for option in options:
        if option not in valid:
            raise UserError(unknown_name(f"option of data set {name!r}:", option, valid))
    return source(split, **options)
