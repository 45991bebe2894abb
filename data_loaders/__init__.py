"""Data sets of videos: `load(name, split, ...)` by name, `from_arrays(train, test)` from memory."""

import functools
import inspect

from cwvae.errors import UserError, unknown_name
from data_loaders import arrays
from data_loaders.arrays import from_arrays
from data_loaders.generated.moving_digits import MovingDigits
from data_loaders.generated.procedural_mazes import ProceduralMazes
from data_loaders.pipeline import WINDOWS, Dataset
from data_loaders.published.downloads import data_folder
from data_loaders.published.kth_actions import KthActions
from data_loaders.published.sets import FACTS, Published
from data_loaders.published.tfds_directory import TfdsDirectory, find
from data_loaders.sources import SPLITS, Source, check_choice
from data_loaders.store import preparation
from data_loaders.store.store import Store
from data_loaders.video.folder import VideoFolder

__all__ = ["Dataset", "Source", "from_arrays", "load", "open_source"]

# Data sets that are prepared into a store: the sources of their videos, called with options.
SOURCES = {
    **{name: functools.partial(Published, name) for name in FACTS},
    "kth_actions": KthActions,
    "video_folder": VideoFolder,
    "procedural_mazes": ProceduralMazes,
}

# Data sets whose clips are computed when they are read, called with (split, **options).
GENERATORS = {"moving_digits": MovingDigits}

# Options of `load` itself, in addition to those of the data sets.
_OPTIONS = ("data_dir", "windows")


def load(name: str, split: str, **options: object) -> Dataset:
    """Loads one split of a data set, after preparing its store if there is none.

    Args:
      name: The name of the data set, a key of `SOURCES` or `GENERATORS`.
      split: 'train' or 'test'.
      **options: Keys of a configuration's section `data`, and `frame_size` and `channels`. Options
        of other data sets have no effect, since a configuration holds all of them.

    Raises:
      UserError: An unknown name, split or option, or data that are missing or damaged.
    """
    check(name, options)
    check_choice("split", split, SPLITS)
    windows = options.get("windows", "random")
    check_choice("data.windows", windows, WINDOWS)
    if name in GENERATORS:
        if windows == "chunks":
            raise UserError(
                f"data.windows=chunks: {name} has too many clips for an epoch over all of them."
                " Set data.windows=random."
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
    """Returns the source that a data set's store is made from.

    If tensorflow-datasets has prepared a folder and no `archives_dir` is given, it is that folder;
    otherwise the data set as it was published. Both lead to the same store, except for the order of
    the videos if the original project's builders shuffled them.

    Args:
      name: The name of the data set, a key of `SOURCES`.
      **options: As in `load`.

    Raises:
      UserError: An unknown name or option, or an invalid value.
    """
    check(name, options)
    if name not in SOURCES:
        raise UserError(f"{name} is computed when it is read: there is nothing to prepare.")
    source = SOURCES[name](**_own(SOURCES[name], options))
    if not source.in_tfds or options.get("archives_dir") is not None:
        return source
    folder = find(data_folder(options.get("data_dir")), source.name)
    if folder is None:
        return source
    frames = _own(TfdsDirectory, options)
    return TfdsDirectory(name=name, folder=folder, description=source.describe(), **frames)


def check(name: str, options: dict[str, object]) -> None:
    """Raises a UserError if there is no such data set, or an option that no data set has."""
    if name == arrays.NAME:
        raise UserError(
            f"data.name = {name}: only Python can pass these clips. In Python, call"
            " cwvae.train(data=data_loaders.from_arrays(train, test), logdir=RUN), or"
            " cwvae.evaluate(RUN, data)."
        )
    check_choice("data set", name, [*GENERATORS, *SOURCES])
    kinds = [*GENERATORS.values(), *SOURCES.values()]
    known = {*_OPTIONS, *(option for kind in kinds for option in _parameters(kind))}
    for option in options:
        if option not in known and option != "name":
            raise UserError(unknown_name(f"option of data set {name!r}:", option, sorted(known)))


def _own(source, options: dict[str, object]) -> dict[str, object]:
    own = _parameters(source) - {"name"}
    return {key: value for key, value in options.items() if key in own}


def _parameters(source) -> set[str]:
    """Returns the keyword arguments of a class, including those that it passes to its bases."""
    classes = getattr(source, "func", source).__mro__
    return {name for kind in classes for name in inspect.getfullargspec(kind.__init__).kwonlyargs}
