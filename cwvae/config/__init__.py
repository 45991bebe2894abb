"""The configuration of a run: its schema, its YAML layers, its validation. No TensorFlow.

A configuration is `configs/base.yml`, then `configs/models/<model.name>.yml` for another model than
CW-VAE, then one experiment's YAML, then `--set section.key=value`, each overriding the one before.
What each key means stands beside its default there; `schema.py` holds the types and ranges,
`constraints.py` what must fit together.
"""

import dataclasses
import difflib
import json
import os
import pathlib
import re
import sys
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal, NamedTuple

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from cwvae.config import constraints
from cwvae.config.schema import (  # noqa: F401 - the sections are imported from here
    MODELS,
    Config,
    CWVAEConfig,
    DataConfig,
    EvaluationConfig,
    ModelConfig,
    TrainingConfig,
)
from cwvae.errors import UserError, unknown_name

BASE = pathlib.Path(__file__).parent.parent.parent / "configs" / "base.yml"

# Settings of earlier versions: the one value that is still accepted, and advice for all others.
_REMOVED = {
    ("data", "store"): (
        True,
        "training without a store was removed. Delete this setting: videos are decoded once, into a"
        " store in data.data_dir, and read from there",
    )
}

_SECTIONS = {field.name: field.type for field in dataclasses.fields(Config)}


class _Setting(NamedTuple):
    """A value as it was given, and where."""

    section: str
    key: Any
    value: Any
    origin: str


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
    given = [] if path is None else [*_settings_of_file(pathlib.Path(path))]
    return _resolve([*given, *map(_setting_of_override, overrides)], purpose)


def load_comparison(path: str | pathlib.Path) -> dict[str, Config]:
    """Reads the configurations of runs that are to be compared, by their labels.

    The file's section `runs` holds for each label what an experiment's file would hold; its section
    `shared`, what comes before that in all of them.

    Raises:
      UserError: As for `load`; a label that is no name of a folder; no runs.
    """
    path = pathlib.Path(path)
    content = _read(path)
    if not isinstance(content, dict) or set(content) - {"shared", "runs"}:
        raise UserError(f"{path}: a comparison holds two sections, `shared` and `runs`.")
    runs = content.get("runs")
    if not isinstance(runs, dict) or not runs:
        raise UserError(f"{path}: the section 'runs' must hold, for each run, a name and settings.")
    shared = [*_settings_of_sections(f"{path}", content.get("shared"))]
    configs = {}
    for label, sections in runs.items():
        # No dot: a folder of results shall not be called as one of the files beside it.
        if not isinstance(label, str) or not re.fullmatch(r"\w[\w +-]*", label):
            raise UserError(
                f"{path}: a run called {label!r}: its folder will be called so, too; use letters,"
                " digits, and - + _ alone (in quotes, where YAML would take it for a number)."
            )
        own = [*_settings_of_sections(f"{path}", sections)]
        configs[label] = _resolve([*shared, *own], "training", f"{path}, run {label}: ")
    return configs


def _resolve(given: list[_Setting], purpose: str, whose: str = "") -> Config:
    """Returns the configuration that settings on top of the defaults make.

    Args:
      given: The settings, the last ones of a key taking precedence.
      purpose: As for `load`.
      whose: What stands before a message about settings that do not fit together.
    """
    base = [*_settings_of_file(BASE)]
    name = next((s for s in reversed([*base, *given]) if s[:2] == ("model", "name")), None)
    if name is None:
        raise UserError(f"{BASE}: model.name is missing; restore the file.")
    if name.value not in [*MODELS]:  # It may be anything, a list, too.
        raise UserError(f"{name.origin}: {unknown_name('model', name.value, MODELS)}")
    sections = _SECTIONS | {"model": MODELS[name.value]}
    own = BASE.parent / "models" / f"{name.value}.yml"
    defaults = [s for s in base if s.section != "model" or s.key in _keys(sections["model"])]
    defaults += [*_settings_of_file(own)] if own.is_file() else []
    values = {}
    for setting in [*defaults, *given]:
        if setting[:2] not in _REMOVED:
            _check_key(setting, sections)
        values[setting.section, setting.key] = setting
    for (section, key), (kept, advice) in _REMOVED.items():
        setting = values.get((section, key))
        if setting is not None and setting.value is not kept:
            raise UserError(f"{setting.origin}: {section}.{key}: {advice}.")
    config = Config(
        **{
            name: section(**{key: _checked(section, name, key, values) for key in _keys(section)})
            for name, section in sections.items()
        }
    )
    try:
        constraints.check(config)
        if purpose != "data":
            constraints.check_evaluation(config)
        if purpose == "training":
            constraints.check_training(config)
    except UserError as error:
        raise UserError(f"{whose}{error}") from None
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
    lines = []
    for section in _SECTIONS:
        before, after = (dataclasses.asdict(getattr(config, section)) for config in (old, new))
        for key in before | after:
            pair = [values.get(key, "(not a setting)") for values in (before, after)]
            if pair[0] != pair[1]:
                lines.append(f"{section}.{key}: {pair[0]} -> {pair[1]}")
    return lines


def per_level(value, count: int) -> tuple:
    """Returns one value per level, from one number or a tuple that already holds them."""
    return value if isinstance(value, tuple) else (value,) * count


def level_flags(text: str) -> tuple[bool, ...]:
    """Returns a bool per level, the fastest first, from text as `TTF`."""
    return tuple(letter == "T" for letter in text)


def _keys(section) -> list[str]:
    return [field.name for field in dataclasses.fields(section)]


def _read(path: pathlib.Path) -> Any:
    """Returns what a YAML file holds."""
    if not path.is_file():
        folder = BASE.parent
        paths = sorted(p for p in (*folder.glob("*.yml"), *folder.glob("baselines/*")) if p != BASE)
        files = {p: f"configs/{p.relative_to(folder)}" for p in paths}
        near = difflib.get_close_matches(path.stem, [p.stem for p in files], n=1)
        hint = "".join(f" Did you mean {name}?" for p, name in files.items() if [p.stem] == near)
        names = ", ".join(name for p, name in files.items() if p.parent == folder)
        raise UserError(
            f"{path}: no such configuration file.{hint} There are: {names}, and those in"
            " configs/baselines/."
        )
    try:
        return YAML(typ="rt").load(path.read_text())
    except (YAMLError, ValueError) as error:  # ValueError: no UTF-8, or a date as 2020-13-01
        raise UserError(f"{path}: not readable as YAML: {' '.join(str(error).split())}") from None


def _settings_of_file(path: pathlib.Path) -> Iterator[_Setting]:
    content = _read(path)
    if isinstance(content, dict) and "runs" in content:
        raise UserError(
            f"{path}: this describes several runs: python compare.py --train {path} --out DIR"
        )
    yield from _settings_of_sections(f"{path}", content)


def _settings_of_sections(path: str, content: Any) -> Iterator[_Setting]:
    """Yields the settings of some sections of a file, as its reader gives them; None has none."""
    if content is None:
        return
    if not isinstance(content, dict):
        raise UserError(f"{path}: must hold the sections {', '.join(_SECTIONS)}.")
    for section, keys in content.items():
        # What a merge (`<<`) brought in has no line of its own.
        line = (content.lc.data or {}).get(section, (content.lc.line,))[0] + 1
        origin = f"{path}, line {line}"
        if section not in _SECTIONS:
            raise UserError(f"{origin}: {unknown_name('section', section, _SECTIONS)}")
        if not isinstance(keys, dict):
            raise UserError(f"{origin}: the section {section!r} must hold `key: value` lines.")
        for key, value in keys.items():
            line = (keys.lc.data or {}).get(key, (keys.lc.line,))[0] + 1
            yield _Setting(section, key, value, f"{path}, line {line}")


def _setting_of_override(override: str) -> _Setting:
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
    return _Setting(section, key, value, origin)


def _check_key(setting: _Setting, sections: Mapping[str, type]) -> None:
    section, key, _, origin = setting
    if key in _keys(sections[section]):
        return
    # A key of another section, or of another model, is the likelier slip than a misspelling.
    homes = [name for name, other in sections.items() if key in _keys(other)]
    models = [name for name, kind in MODELS.items() if key in _keys(kind)]
    if section == "model" and models:
        own = next(name for name, kind in MODELS.items() if kind is sections["model"])
        raise UserError(
            f"{origin}: model.{key} is a setting of model.name = {' or '.join(models)}, but here"
            f" model.name = {own}, whose settings are: {', '.join(_keys(sections['model']))}."
        )
    hint = f" ({homes[0]}.{key} exists.)" if homes else ""
    known = unknown_name(f"key in section {section!r}:", key, _keys(sections[section]))
    raise UserError(f"{origin}: {known}{hint}")


def _checked(section, name: str, key: str, values: Mapping[tuple, _Setting]) -> Any:
    """Returns the value of a key in its declared type and range, or raises a UserError."""
    if (name, key) not in values:
        raise UserError(f"{BASE}: {name}.{key} is missing; restore the file.")
    field = next(f for f in dataclasses.fields(section) if f.name == key)
    given = values[name, key].value
    origin = f"{values[name, key].origin}: {name}.{key}"
    value = _convert(given, field.type)
    if value is _MISFIT:
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
