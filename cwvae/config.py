"""The configuration of a run: its schema, its YAML layers, its validation. No TensorFlow.

A configuration is `configs/base.yml`, then one experiment's YAML, then `--set section.key=value`,
each overriding the one before. What each key means stands beside its default in
`configs/base.yml`; `schema.py` holds the types and ranges, `constraints.py` what must fit together.
"""

import dataclasses
import json
import os
import pathlib
import sys
import types
import typing
from collections.abc import Iterable
from typing import Any, Literal

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from cwvae import constraints
from cwvae.errors import UserError, unknown_name
from cwvae.schema import (  # noqa: F401 - the sections are had from here
    Config,
    DataConfig,
    EvaluationConfig,
    ModelConfig,
    TrainingConfig,
)

BASE = pathlib.Path(__file__).parent.parent / "configs" / "base.yml"

_SECTIONS = {field.name: field.type for field in dataclasses.fields(Config)}


def load(
    path: str | pathlib.Path | None = None,
    overrides: Iterable[str] = (),
    purpose: Literal["data", "evaluation", "training"] = "training",
) -> Config:
    """Reads, layers and validates a configuration.

    Args:
      path: An experiment's YAML file; None for the defaults alone.
      overrides: `section.key=value`, each value written as in YAML.
      purpose: What it is for, which says what of it is checked. What is to be trained has to be
        evaluated, too.

    Raises:
      UserError: A file that is missing or no YAML; a key that does not exist; a value of the
        wrong type or out of range; values that do not fit together.
    """
    values, origins = {}, {}
    for file in [BASE] if path is None else [BASE, pathlib.Path(path)]:
        _layer_file(file, values, origins)
    for override in overrides:
        _layer_override(override, values, origins)
    sections = {
        name: section(
            **{key: _checked(section, name, key, values, origins) for key in _keys(section)}
        )
        for name, section in _SECTIONS.items()
    }
    config = Config(**sections)
    constraints.check(config)
    if purpose != "data":
        constraints.check_evaluation(config)
    if purpose == "training":
        constraints.check_training(config)
    return config


def save(config: Config, path: str | pathlib.Path) -> None:
    """Writes a resolved configuration to the disk, such that `load(path)` gives it back."""
    with open(path, "w") as file:
        YAML().dump(as_plain(config), file)
        file.flush()
        os.fsync(file.fileno())


def as_plain(config: Config) -> dict[str, dict]:
    """Returns a configuration as YAML and JSON write it: sections, keys, lists for tuples."""
    return {
        section: {k: list(v) if isinstance(v, tuple) else v for k, v in keys.items()}
        for section, keys in dataclasses.asdict(config).items()
    }


def save_run(config: Config, logdir: str | pathlib.Path) -> None:
    """Makes a run's folder with its config.yml; one that is there stays whole, whatever happens.

    Raises:
      UserError: The folder cannot be written.
    """
    aside = pathlib.Path(logdir) / ".config.yml.tmp"
    try:
        aside.parent.mkdir(parents=True, exist_ok=True)
        save(config, aside)
        os.replace(aside, aside.with_name("config.yml"))
    except OSError as error:
        raise UserError(
            f"--logdir {logdir}: cannot write there ({error.strerror}); give another folder."
        ) from None


def run_path(logdir: str | pathlib.Path) -> pathlib.Path:
    """Returns the file with a run's configuration.

    Raises:
      UserError: No run in the folder.
    """
    path = pathlib.Path(logdir) / "config.yml"
    if not path.is_file():
        raise UserError(
            f"{logdir}: no run here (there is no config.yml). Give the folder that train.py"
            " printed, or make one: python train.py --config configs/quickstart.yml"
        )
    return path


def load_run(logdir: str | pathlib.Path, overrides: Iterable[str] = ()) -> Config:
    """Reads the configuration that a run was trained with.

    Args:
      logdir: The run's folder.
      overrides: As in `load`; of the sections `data` and `evaluation` only, since the others are
        what the weights were trained with.

    Raises:
      UserError: No run in the folder, or an override of what cannot change any more.
    """
    path, overrides = run_path(logdir), list(overrides)
    for override in overrides:
        if override.strip().startswith(("model.", "training.")):
            raise UserError(
                f"--set {override}: a trained run keeps its model and training settings;"
                " only data.* and evaluation.* can be set here."
            )
    return load(path, overrides, purpose="evaluation")


def with_absolute_paths(config: Config) -> Config:
    """Returns a configuration whose folders of data mean the same from any working directory."""
    folders = ("data_dir", "archives_dir", "videos_dir", "digits_dir")
    given = {key: getattr(config.data, key) for key in folders}
    absolute = {
        key: str(pathlib.Path(os.path.abspath(pathlib.Path(value).expanduser())))
        for key, value in given.items()
        if value is not None
    }
    return dataclasses.replace(config, data=dataclasses.replace(config.data, **absolute))


def differences(old: Config, new: Config) -> list[str]:
    """Returns `section.key: old -> new` for every key that differs."""
    return [
        f"{name}.{key}: {getattr(getattr(old, name), key)} -> {getattr(getattr(new, name), key)}"
        for name, section in _SECTIONS.items()
        for key in _keys(section)
        if getattr(getattr(old, name), key) != getattr(getattr(new, name), key)
    ]


def per_level(value, count: int) -> tuple:
    """Returns one value per level, from one number or a tuple that already holds them."""
    return value if isinstance(value, tuple) else (value,) * count


def level_flags(text: str) -> tuple[bool, ...]:
    """Returns a bool per level, the fastest first, from text as `TTF`."""
    return tuple(letter == "T" for letter in text)


def _keys(section) -> list[str]:
    return [field.name for field in dataclasses.fields(section)]


def _layer_file(path: pathlib.Path, values: dict, origins: dict) -> None:
    if not path.is_file():
        near = sorted(f"configs/{p.name}" for p in BASE.parent.glob("*.yml") if p != BASE)
        raise UserError(f"{path}: no such configuration file. There are: {', '.join(near)}.")
    try:
        content = YAML(typ="rt").load(path.read_text())
    except (YAMLError, ValueError) as error:  # ValueError: no UTF-8, or a date as 2020-13-01
        raise UserError(f"{path}: not readable as YAML: {' '.join(str(error).split())}") from None
    if content is None:
        return
    if not isinstance(content, dict):
        raise UserError(f"{path}: must hold the sections {', '.join(_SECTIONS)}.")
    for section, keys in content.items():
        origin = f"{path}, line {content.lc.key(section)[0] + 1}"
        if section not in _SECTIONS:
            raise UserError(f"{origin}: {unknown_name('section', section, _SECTIONS)}")
        if not isinstance(keys, dict):
            raise UserError(f"{origin}: the section {section!r} must hold `key: value` lines.")
        for key, value in keys.items():
            # A key that a merge (`<<`) brought in has no line of its own.
            line = (keys.lc.data or {}).get(key, (keys.lc.line,))[0] + 1
            origin = f"{path}, line {line}"
            _set(section, key, value, origin, values, origins)


def _layer_override(override: str, values: dict, origins: dict) -> None:
    origin = f"--set {override}"
    name, equals, text = override.partition("=")
    section, dot, key = name.strip().partition(".")
    if not equals or not dot:
        raise UserError(f"{origin}: write section.key=value, as in --set training.steps=1000.")
    if section not in _SECTIONS:
        raise UserError(f"{origin}: {unknown_name('section', section, _SECTIONS)}")
    try:
        value = YAML(typ="safe").load(text)
    except (YAMLError, ValueError):
        raise UserError(f"{origin}: {text!r} is not a YAML value.") from None
    _set(section, key, value, origin, values, origins)


def _set(section: str, key, value, origin: str, values: dict, origins: dict) -> None:
    if key not in _keys(_SECTIONS[section]):
        # A key of another section is the likelier slip than a misspelling.
        homes = [name for name, other in _SECTIONS.items() if key in _keys(other)]
        hint = f" ({homes[0]}.{key} exists.)" if homes else ""
        known = unknown_name(f"key in section {section!r}:", key, _keys(_SECTIONS[section]))
        raise UserError(f"{origin}: {known}{hint}")
    values[section, key] = value
    origins[section, key] = origin


def _checked(section, name: str, key: str, values: dict, origins: dict) -> Any:
    """Returns the value of a key in its declared type and range, or raises a UserError."""
    if (name, key) not in values:
        raise UserError(f"{BASE}: {name}.{key} is missing; restore the file.")
    field = next(f for f in dataclasses.fields(section) if f.name == key)
    origin = f"{origins[name, key]}: {name}.{key}"
    value = _convert(values[name, key], field.type)
    if value is _MISFIT:
        given = values[name, key]
        # YAML's words for what Python calls None, True and False; the rest reads alike.
        shown = json.dumps(given) if given is None or isinstance(given, bool) else repr(given)
        raise UserError(f"{origin} must be {_describe(field.type)}, not {shown}.")
    for number in value if isinstance(value, tuple) else (value,):
        if number is not None:
            _check_range(number, field.metadata, origin)
    return value


def _check_range(number, limits, origin: str) -> None:
    if limits.get("minimum") is not None and not number >= limits["minimum"]:
        raise UserError(f"{origin} must be at least {limits['minimum']}, not {number}.")
    if limits.get("above") is not None and not number > limits["above"]:
        raise UserError(f"{origin} must be above {limits['above']}, not {number}.")
    if limits.get("maximum") is not None and not number <= limits["maximum"]:
        raise UserError(f"{origin} must be at most {limits['maximum']}, not {number}.")


_MISFIT = object()


def _convert(value, kind) -> Any:
    """Returns `value` as the annotated type, or _MISFIT. Whole numbers pass as floats."""
    origin = typing.get_origin(kind)
    if origin in (types.UnionType, typing.Union):
        converted = (_convert(value, option) for option in typing.get_args(kind))
        return next((c for c in converted if c is not _MISFIT), _MISFIT)
    if origin is Literal:
        return value if value in typing.get_args(kind) else _MISFIT
    if origin is tuple:
        items = typing.get_args(kind)
        if not isinstance(value, list | tuple):
            return _MISFIT
        items = (items[0],) * len(value) if items[-1] is Ellipsis else items
        if len(items) != len(value):
            return _MISFIT
        converted = tuple(_convert(v, item) for v, item in zip(value, items, strict=True))
        return _MISFIT if _MISFIT in converted else converted
    if kind is type(None):
        return None if value is None else _MISFIT
    if isinstance(value, bool) or kind is bool:
        return value if isinstance(value, bool) and kind is bool else _MISFIT
    if kind is float and isinstance(value, int | float):
        return float(value) if abs(value) <= sys.float_info.max else _MISFIT
    # int() and str() also turn the YAML reader's own number and text classes into plain ones.
    return kind(value) if isinstance(value, kind) and kind in (int, str) else _MISFIT


def _describe(kind) -> str:
    """Returns an annotated type in words."""
    origin, items = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        return " or ".join(_describe(item) for item in items)
    if origin is Literal:
        return " or ".join(repr(item) for item in items)
    if origin is tuple:
        count = "a list of" if items[-1] is Ellipsis else f"a list of {len(items)}"
        return f"{count} numbers" if items[0] is float else f"{count} whole numbers"
    words = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
    return words.get(kind, "null")
