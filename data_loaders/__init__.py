"""Videos to learn from: `load(name, split, ...)` gives any data set by its name."""

import functools
import inspect
import pathlib

from cwvae.errors import UserError, unknown_name
from data_loaders.generated.moving_digits import MovingDigits
from data_loaders.generated.procedural_mazes import ProceduralMazes
from data_loaders.options import check_split
from data_loaders.pipeline import WINDOWS, Dataset
from data_loaders.published.downloads import data_folder
from data_loaders.published.kth_actions import KthActions
from data_loaders.published.sets import Published
from data_loaders.published.tfds_directory import TfdsDirectory, find
from data_loaders.sources import Source
from data_loaders.store import preparation
from data_loaders.store.store import Store
from data_loaders.video.folder import VideoFolder

__all__ = ["Dataset", "Source", "load", "open_source"]

# Data sets that are prepared into a store, and what gives their videos, called with options.
SOURCES = {
    "minerl_navigate": functools.partial(Published, "minerl_navigate"),
    "gqn_mazes": functools.partial(Published, "gqn_mazes"),
    "moving_mnist_2digit": functools.partial(Published, "moving_mnist_2digit"),
    "kth_actions": KthActions,
    "video_folder": VideoFolder,
    "procedural_mazes": ProceduralMazes,
}

# Data sets whose clips are made as they are read, called with (split, **options).
GENERATORS = {"moving_digits": MovingDigits}

# What `load` itself takes, beside the options of the data sets.
_OPTIONS = ("data_dir", "windows")


def load(name: str, split: str, **options: object) -> Dataset:
    """Loads one split of a data set; prepares its store first, if there is none.

    Args:
      name: The name of the data set, a key of `SOURCES` or `GENERATORS`.
      split: 'train' or 'test'.
      **options: Keys of a configuration's section `data`, and `frame_size` and `channels`. Those
        that belong to other data sets have no effect, for a configuration holds all of them.

    Returns:
      The data set.

    Raises:
      UserError: an unknown name, split or option, or data that are missing or damaged.
    """
    check(name, options)
    check_split(split)
    windows = options.get("windows", "random")
    if windows not in WINDOWS:
        raise UserError(unknown_name("data.windows", windows, WINDOWS))
    if name in GENERATORS:
        if windows == "chunks":
            raise UserError(
                f"data.windows=chunks: clips of {name} have no end, so that no epoch would go"
                " through all of them; leave it at random."
            )
        dataset = GENERATORS[name](split, **_own(GENERATORS[name], options))
    else:
        source = open_source(name, **options)
        recipe = {"name": name, **options}
        folder = preparation.prepare(source, data_folder(options.get("data_dir")), recipe)
        dataset = Store(folder, split, source)
    dataset.windows = windows
    return dataset


def open_source(name: str, **options: object) -> Source:
    """Returns where the videos of a data set come from, before a store holds them.

    That is a folder which tensorflow-datasets has prepared, if there is one and no `archives_dir`
    is named, and else what the data set was published as. Either gives the same store, but for the
    order of the videos where the original project's builders shuffled them.

    Args:
      name: The name of the data set, a key of `SOURCES`.
      **options: As in `load`.

    Raises:
      UserError: An unknown name or option, or one that does not fit.
    """
    check(name, options)
    if name not in SOURCES:
        raise UserError(f"{name} is made as it is read: there is nothing to prepare.")
    source = SOURCES[name](**_own(SOURCES[name], options))
    folder = _prepared_by_tfds(source, options)
    if folder is None or options.get("archives_dir") is not None:
        return source
    frames = _own(TfdsDirectory, options)
    return TfdsDirectory(name=name, folder=folder, description=source.describe(), **frames)


def _prepared_by_tfds(source: Source, options: dict[str, object]) -> pathlib.Path | None:
    """Returns the folder that tensorflow-datasets has prepared of a source, if there is one."""
    if not source.in_tfds:
        return None
    return find(data_folder(options.get("data_dir")), source.name)


def options_of(name: str) -> list[str]:
    """Returns the options that have an effect on a data set, by their names in `data`."""
    source = GENERATORS.get(name) or SOURCES[name]
    known = [option for option in inspect.signature(source).parameters if option != "split"]
    return known if name in GENERATORS else [*_OPTIONS, *(o for o in known if o not in _OPTIONS)]


def check(name: str, options: dict[str, object]) -> None:
    """Sees that there is such a data set, without looking for its files.

    Args:
      name: As for `load`.
      options: As for `load`.

    Raises:
      UserError: No such data set, or an option that none has.
    """
    names = [*GENERATORS, *SOURCES]
    if name not in names:
        raise UserError(unknown_name("data set", name, names))
    known = {option for other in names for option in options_of(other)}
    for option in options:
        if option not in known and option != "name":
            raise UserError(unknown_name(f"option of data set {name!r}:", option, sorted(known)))


def _own(source, options: dict[str, object]) -> dict[str, object]:
    parameters = inspect.signature(source).parameters
    return {key: value for key, value in options.items() if key in parameters and key != "name"}
