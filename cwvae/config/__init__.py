"""The configuration of a run: its schema, its YAML layers, its validation. No TensorFlow.

The layers are `configs/base.yml`, `configs/models/<model.name>.yml` for models other than CW-VAE,
one experiment's YAML file, and `--set section.key=value`. Each overrides the ones before it.
The YAML files explain each key next to its default. `schema.py` holds the types and ranges,
`constraints.py` the rules between settings.
"""

import argparse
import dataclasses
import difflib
import io
import json
import operator
import os
import pathlib
import re
import shlex
import sys
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Literal, NamedTuple

from ruamel.yaml import YAML
from ruamel.yaml.constructor import DuplicateKeyError
from ruamel.yaml.error import YAMLError
from ruamel.yaml.reader import ReaderError

from cwvae.config import constraints
from cwvae.config.schema import (  # noqa: F401 - other modules import the sections from here
    MODELS,
    Config,
    CWVAEConfig,
    DataConfig,
    EvaluationConfig,
    ModelConfig,
    Properties,
    TrainingConfig,
    properties,
)
from cwvae.errors import UserError, closest, unknown_name
from cwvae.installation import CONFIGS, command
from cwvae.run import files

BASE = CONFIGS / "base.yml"

# Settings of earlier versions: the one value that is still accepted, and advice for all others.
_REMOVED = {
    ("data", "store"): (
        True,
        "training without a store was removed. Delete this setting: videos are decoded once, into a"
        " store in data.data_dir, and read from there",
    )
}

# Settings that files of earlier versions may lack, with their values at that time, where today's
# default is another one.
FORMER_DEFAULTS = {("training", "precision"): "float32"}
# What lies next to the config.yml of a run or an export.
_WEIGHTS = ("checkpoints", "model.weights.h5")

# The keys of a comparison's file.
_OF_COMPARISON = {"shared", "runs", "seeds", "reset_levels"}

_SECTIONS = {field.name: field.type for field in dataclasses.fields(Config)}
_EXAMPLE = "Example: --set training.steps=1000"

# Of a file that `save` wrote. Without them, the settings after a cut would become the defaults.
_FIRST_LINE = "# All settings. Keep the last line: without it, this file counts as cut short.\n"
_LAST_LINE = "# The end of the settings.\n"


@dataclasses.dataclass(frozen=True)
class Comparison:
    """The runs that a comparison's file describes.

    Attributes:
      runs: {name: {training seed: configuration}}; without `seeds` in the file, the only key of a
        name is None.
      reset_levels: Whether each run with several levels is also evaluated once per level with that
        level blind: it follows its prior while the others see the context.
    """

    runs: dict[str, dict[int | None, Config]]
    reset_levels: bool


class _Setting(NamedTuple):
    """A value as the user wrote it, and where."""

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
      path: An experiment's YAML file, or the name of one in `configs/`, such as `quickstart`; None
        for the defaults alone.
      overrides: `section.key=value`, each value written as in YAML.
      purpose: The use of the configuration, which decides the checks. Those of training include
        those of evaluation.

    Raises:
      UserError: A file that is missing or not YAML; a key that does not exist; a value of the
        wrong type or out of range; values that contradict each other.
    """
    path = path and named(path)
    # The defaults are not an experiment: their settings of CW-VAE must not count as given.
    is_base = path is None or path.resolve() == BASE.resolve()
    given = [] if is_base else [*_former_defaults(path), *_settings_of_file(path)]
    return _resolve([*given, *map(_setting_of_override, overrides)], purpose)


def _former_defaults(path: pathlib.Path) -> Iterator[_Setting]:
    """Yields `FORMER_DEFAULTS` for a file that `save` wrote in a run or an export: they hold all.

    A setting that such a file lacks did not exist at its time. In an experiment's file it means
    today's default.
    """
    beside = path.name == "config.yml" and any((path.parent / name).exists() for name in _WEIGHTS)
    if path.is_file() and (beside or path.read_bytes().startswith(_FIRST_LINE.encode())):
        for (section, key), value in FORMER_DEFAULTS.items():
            yield _Setting(section, key, value, f"{path}")


def named(path: str | pathlib.Path) -> pathlib.Path:
    """Returns the file that a name such as `quickstart` stands for; a path as it is."""
    path = pathlib.Path(path)
    own = CONFIGS / f"{path}.yml"
    return own if not path.suffix and not path.is_file() and own.is_file() else path


def load_comparison(path: str | pathlib.Path, overrides: Iterable[str] = ()) -> Comparison:
    """Reads the configurations of the runs of a comparison.

    For each name, the file's section `runs` holds the content of an experiment's file. The section
    `shared` comes before it in every run. `seeds` lists the training seeds of each run, and
    `reset_levels` says whether levels are also evaluated blind.

    Args:
      path: The file, or its name in `configs/`.
      overrides: As in `load`, for all runs.

    Raises:
      UserError: As for `load`; a name that cannot be that of a folder; no runs; invalid seeds; an
        invalid `reset_levels`, or runs that cannot be evaluated so.
    """
    path = named(path)
    content = _read(path)
    if not isinstance(content, dict):
        raise UserError(
            f"{path}: a comparison holds two sections, `shared` and `runs`, and maybe a list"
            " `seeds` and the line `reset_levels: true`. Example: configs/comparison_quick.yml"
        )
    if not content.keys().isdisjoint(_SECTIONS):
        raise UserError(
            f"{path}: this file describes one run, not a comparison. Train it with:"
            f" {command('train')} --config {shlex.quote(str(path))}"
        )
    for key in content:
        if key not in _OF_COMPARISON:
            raise UserError(
                f"{path}: {unknown_name('key in a comparison:', key, sorted(_OF_COMPARISON))}"
            )
    runs = content.get("runs")
    if not isinstance(runs, dict) or not runs:
        raise UserError(f"{path}: the section 'runs' must hold, for each run, a name and settings.")
    shared = [*_settings_of_sections(f"{path}", content.get("shared"))]
    changed = [*map(_setting_of_override, overrides)]
    seeds = [*_seeds_of_comparison(path, content["seeds"])] if "seeds" in content else [None]
    configs = {}
    for name, sections in runs.items():
        # No dot: a folder of results must not have the name of one of the files next to it.
        if not isinstance(name, str) or not re.fullmatch(r"\w[\w +-]*(@\w[\w +-]*)?", name):
            raise UserError(
                f"{path}: a run called {name!r} cannot have a folder of that name. Use only"
                " letters, digits, spaces and - + _ (in quotes if YAML would read a number). To"
                " name the data set, too, write NAME@DATA."
            )
        own = [*_settings_of_sections(f"{path}", sections)]
        configs[name] = {}
        for seed in seeds:
            given = [*shared, *own, *changed]
            if seed is not None:
                given.append(_seed_of_run(path, seed, given))
            try:
                configs[name][seed] = _resolve(given, "training", f"{path}, run {name}: ")
            except UserError as error:
                # A setting of --set may fit some runs and not others.
                whose = f"{path}, run {name}: " if str(error).startswith("--set ") else ""
                raise UserError(f"{whose}{error}") from None
    reset_levels = content.get("reset_levels", False)
    if not isinstance(reset_levels, bool):
        raise UserError(f"{path}: reset_levels must be true or false, not {reset_levels!r}.")
    if reset_levels:
        _check_reset_levels(path, configs)
    return Comparison(configs, reset_levels)


def _check_reset_levels(path: pathlib.Path, configs: Mapping[str, Mapping]) -> None:
    """Raises a UserError if runs cannot be evaluated with one of their levels blind."""
    several = {
        name: config
        for name, by_seed in configs.items()
        for config in by_seed.values()
        if config.model.hierarchy > 1
    }
    if not several:
        raise UserError(
            f"{path}: reset_levels is true, but no run has several levels (model.levels). Delete"
            " reset_levels, or add such a run."
        )
    for name, config in several.items():
        options = config.evaluation
        if "F" in (options.observe_levels or ""):
            raise UserError(
                f"{path}, run {name}: evaluation.observe_levels = {options.observe_levels} leaves a"
                " level blind already. Delete it: reset_levels adds an evaluation for each level."
            )
        if not options.readout:
            raise UserError(
                f"{path}, run {name}: evaluation.readout = false, but reset_levels compares what"
                " the readout reads. Set it to true, or delete reset_levels."
            )


def _seeds_of_comparison(path: pathlib.Path, seeds: Any) -> Iterator[int]:
    """Yields the training seeds that a comparison's file lists."""
    limits = properties(TrainingConfig)["seed"]
    if not isinstance(seeds, list) or not seeds:
        raise UserError(f"{path}: seeds must be a list of training seeds, such as [0, 1, 2].")
    seen = set()
    for seed in seeds:
        value = _convert(seed, int)
        if value is _MISFIT:
            raise UserError(f"{path}: seeds must be a list of whole numbers, not {seed!r}.")
        _check_range(value, limits, f"{path}: seeds")
        if value in seen:
            raise UserError(f"{path}: the seed {value} is in seeds twice. Delete one of the two.")
        seen.add(value)
        yield value


def _seed_of_run(path: pathlib.Path, seed: int, given: Iterable[_Setting]) -> _Setting:
    """Returns the setting of a run's seed; raises a UserError if its settings have one."""
    for setting in given:
        if setting[:2] == ("training", "seed"):
            raise UserError(
                f"{setting.origin}: training.seed is given by seeds in {path}. Remove one of the"
                " two."
            )
    return _Setting("training", "seed", seed, f"{path}: seeds")


def _resolve(given: list[_Setting], purpose: str, whose: str = "") -> Config:
    """Returns the defaults with settings on top.

    Args:
      given: The settings. The last one of a key counts.
      purpose: As for `load`.
      whose: Prefix of messages about settings that contradict each other.
    """
    base = [*_settings_of_file(BASE)]
    name = next((s for s in reversed([*base, *given]) if s[:2] == ("model", "name")), None)
    if name is None:
        raise UserError(f"{BASE}: model.name is missing. Restore the file.")
    if name.value not in [*MODELS]:  # A list, because the value may be unhashable.
        raise UserError(f"{name.origin}: {unknown_name('model', name.value, MODELS)}")
    sections = _SECTIONS | {"model": MODELS[name.value]}
    own = BASE.parent / "models" / f"{name.value}.yml"
    defaults = [s for s in base if s.section != "model" or s.key in properties(sections["model"])]
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
            name: section(
                **{key: _checked(section, name, key, values) for key in properties(section)}
            )
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
    """Writes a resolved configuration to a file, which `load` reads back."""
    with files.whole(path) as aside, open(aside, "w", encoding="utf-8") as file:
        file.write(f"{_FIRST_LINE}{as_yaml(config)}{_LAST_LINE}")


def as_yaml(config: Config) -> str:
    """Returns a configuration as YAML."""
    text = io.StringIO()
    YAML().dump(as_plain(config), text)
    return text.getvalue()


def as_plain(config: Config) -> dict[str, dict]:
    """Returns a configuration as nested dicts for YAML and JSON, with lists for tuples."""
    return {
        section: {k: list(v) if isinstance(v, tuple) else v for k, v in keys.items()}
        for section, keys in dataclasses.asdict(config).items()
    }


def save_run(config: Config, logdir: str | pathlib.Path) -> None:
    """Makes a run's folder and its config.yml. An existing config.yml stays if this fails.

    Raises:
      UserError: The folder cannot be written.
    """
    logdir = pathlib.Path(logdir)
    try:
        logdir.mkdir(parents=True, exist_ok=True)
        files.remove_leftovers(logdir, "config.yml")
        save(config, logdir / "config.yml")
    except OSError as error:
        raise UserError(
            f"--logdir {logdir}: cannot write there ({error.strerror}). Give another folder."
        ) from None


def run_path(logdir: str | pathlib.Path) -> pathlib.Path:
    """Returns the path of a run's configuration.

    Raises:
      UserError: The folder holds no run.
    """
    path = pathlib.Path(logdir) / "config.yml"
    if not path.is_file():
        if inside := files.runs_in(logdir):
            raise UserError(f"{logdir}: a folder of runs, not a run. Give one of: {inside}")
        raise UserError(
            f"{logdir}: no run here (there is no config.yml). Give the folder that train.py"
            f" printed, or train a model: {command('train')} --config configs/quickstart.yml"
        )
    return path


def load_run(logdir: str | pathlib.Path, overrides: Iterable[str] = ()) -> Config:
    """Reads the configuration that a run was trained with.

    Args:
      logdir: The run's folder.
      overrides: As in `load`, but of the sections `data` and `evaluation` only. The weights were
        trained with the other sections.

    Raises:
      UserError: The folder holds no run, or an override is of another section.
    """
    path, overrides = run_path(logdir), list(overrides)
    for override in overrides:
        if override.strip().startswith(("model.", "training.")):
            raise UserError(
                f"--set {override}: a trained run keeps its model and training settings."
                " Set only data.* and evaluation.* here."
            )
    return load(path, overrides, purpose="evaluation")


def with_absolute_paths(config: Config) -> Config:
    """Returns a configuration with absolute paths of data."""
    absolute = {}
    for key, its in properties(DataConfig).items():
        if its.is_path and (value := getattr(config.data, key)) is not None:
            absolute[key] = os.path.abspath(pathlib.Path(value).expanduser())
    return dataclasses.replace(config, data=dataclasses.replace(config.data, **absolute))


def differences(
    old: Config, new: Config, counts: Callable[[Properties], bool] = lambda _: True
) -> list[str]:
    """Returns `section.key: old -> new` for every setting that differs.

    Args:
      old: A configuration.
      new: Another one.
      counts: Whether to look at a setting, given its properties.
    """
    return [f"{name}: {a} -> {b}" for name, a, b in changes(old, new, counts)]


def overrides(
    old: Config, new: Config, counts: Callable[[Properties], bool] = lambda _: True
) -> list[str]:
    """Returns `section.key=value`, for `--set`, for every setting that differs.

    Arguments as in `differences`; both configurations must be of the same model.
    """
    return [
        f"{name}={value if isinstance(value, str) else json.dumps(value)}"
        for name, _, value in changes(old, new, counts)
    ]


def changes(
    old: Config, new: Config, counts: Callable[[Properties], bool] = lambda _: True
) -> Iterator[tuple[str, Any, Any]]:
    """Yields `section.key` and both values of every setting that differs; see `differences`."""
    for section in _SECTIONS:
        before, after = (getattr(config, section) for config in (old, new))
        known = properties(before) | properties(after)
        before, after = map(dataclasses.asdict, (before, after))
        for key in before | after:
            pair = [values.get(key, "(not a setting)") for values in (before, after)]
            if pair[0] != pair[1] and counts(known[key]):
                yield f"{section}.{key}", *pair


def per_level(value, count: int) -> tuple:
    """Returns one value per level, given one number for all or a tuple of them."""
    return value if isinstance(value, tuple) else (value,) * count


def level_flags(text: str) -> tuple[bool, ...]:
    """Returns a bool per level, the fastest first, from text such as `TTF`."""
    return tuple(letter == "T" for letter in text)


def _read(path: pathlib.Path) -> Any:
    """Returns the content of a YAML file."""
    if not path.is_file():
        raise UserError(f"{path}: {_not_a_file(path)}")
    try:
        text = path.read_text(encoding="utf-8")
        if text.startswith(_FIRST_LINE) and _LAST_LINE.strip() not in text:
            raise UserError(
                f"{path}: cut short: the line `{_LAST_LINE.strip()}` is missing. Copy the file"
                " again. To restore a run's: python -m cwvae.run.restore_config RUN"
            )
        return YAML(typ="rt").load(text)
    except (YAMLError, ValueError) as error:  # ValueError: not UTF-8, or a date such as 2020-13-01
        mark = getattr(error, "problem_mark", None)
        origin = f"{path}, line {mark.line + 1}" if mark else f"{path}"
        raise UserError(f"{origin}: {_yaml_problem(error)}") from None


def _not_a_file(path: pathlib.Path) -> str:
    """Returns what is wrong with the path of a configuration that is not a file."""
    if path.is_dir():
        words = "this is a folder. Give a YAML file."
        if (path / "config.yml").is_file():
            folder = shlex.quote(str(path))
            words += f" To resume the run in it: {command('train')} --logdir {folder}"
        return words
    paths = sorted(p for p in (*CONFIGS.glob("*.yml"), *CONFIGS.glob("baselines/*")) if p != BASE)
    known = [str(p.relative_to(CONFIGS).with_suffix("")) for p in paths]
    stems = {pathlib.PurePath(name).name: name for name in known}
    near = difflib.get_close_matches(path.stem, stems, n=1)
    hint = "".join(f" Did you mean {stems[stem]}?" for stem in near)
    return (
        f"no such configuration file.{hint} Give a path, relative to {pathlib.Path.cwd()}, or the"
        f" name of one of the project's: {', '.join(known)}."
    )


def _yaml_problem(error: YAMLError | ValueError) -> str:
    """Returns what is wrong with a file that YAML cannot read, and what to do."""
    if isinstance(error, UnicodeDecodeError | ReaderError):
        return "not a text file in UTF-8. Give a YAML file, such as those in configs/."
    problem = getattr(error, "problem", None) or str(error)
    if isinstance(error, DuplicateKeyError):
        key = re.search(r'duplicate key "(.*?)"', problem)[1]
        return f"the key {key!r} is here for the second time. Delete one of the two."
    if "'\\t'" in problem:
        return "there is a tab. Replace it with spaces."
    return (
        f"not readable as YAML: {problem}. Write `key: value` lines, indented with spaces under the"
        " name of their section."
    )


def parse_arguments(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Parses a command line with `--set`; the message names the option that a word lacks."""
    arguments, extra = parser.parse_known_args()
    if not extra:
        return arguments
    settings = [
        word.lstrip("-")
        for word in extra
        if "=" in word and (word[0] != "-" or "." in word.partition("=")[0])
    ]
    first, given = extra[0], vars(arguments)
    if settings:
        commands = " ".join(f"--set {shlex.quote(setting)}" for setting in settings)
        parser.error(f"write --set before each setting: {commands}")
    if first.startswith("-"):
        parser.error(f"unrecognized arguments: {' '.join(extra)}")
    if first.endswith("]"):
        parser.error("write a list in quotes: --set 'model.factor=[4, 6]'")
    if first.endswith(".yml") and given.get("config", "") is None:
        parser.error(f"write --config before the file: --config {shlex.quote(first)}")
    if given.get("logdir", "") is None:
        parser.error(f"write --logdir before the folder: --logdir {shlex.quote(first)}")
    parser.error(f"unrecognized arguments: {' '.join(extra)}")


def refuse_settings(parser: argparse.ArgumentParser, also: str = "") -> None:
    """Ends a script that takes no settings if its command line has any, and names one that does.

    Args:
      parser: The script's parser.
      also: Words about another place for settings, before "to a script".
    """
    words = [word.removeprefix("--set=") for word in sys.argv[1:]]
    pairs = zip(["", *words], words, strict=False)
    settings = [word for before, word in pairs if before == "--set" or _is_setting(word)]
    if settings:
        scored = all(setting.startswith(("data.", "evaluation.")) for setting in settings)
        script = ("eval", "--logdir RUN") if scored else ("train", "--config FILE --logdir NEW")
        sets = " ".join(f"--set {shlex.quote(setting)}" for setting in settings)
        parser.error(
            f"this takes no settings. Give them {also}to a script: {command(script[0])} {script[1]}"
            f" {sets}"
        )


def _is_setting(word: str) -> bool:
    """Returns whether a word is section.key=value, maybe misspelt, and not the path of a run."""
    name, _, value = word.partition("=")
    section, _, key = name.partition(".")
    is_path = any(pathlib.Path(path).exists() for path in (word, value) if path)
    return bool(key and value and not is_path and closest(section, _SECTIONS) and _homes(key))


def _settings_of_file(path: pathlib.Path) -> Iterator[_Setting]:
    content = _read(path)
    if isinstance(content, dict) and "runs" in content:
        raise UserError(
            f"{path}: this file describes several runs. Train them with: {command('compare')}"
            f" --train {path} --out DIR"
        )
    yield from _settings_of_sections(f"{path}", content)


def _settings_of_sections(path: str, content: Any) -> Iterator[_Setting]:
    """Yields the settings in sections as the YAML reader returns them; none for None."""
    if content is None:
        return
    if not isinstance(content, dict):
        raise UserError(f"{path}: the file must hold the sections {', '.join(_SECTIONS)}.")
    for section, keys in content.items():
        # Content that a merge (`<<`) brought in has no line.
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
        meant = [f"{section}.name"] if section in ("model", "data") else _homes(section)
        written = [f"--set {shlex.quote(f'{name}={text.strip()}')}" for name in meant if equals]
        hint = f"Did you mean {' or '.join(written)}?" if written else _EXAMPLE
        raise UserError(f"{origin}: this is not section.key=value. {hint}")
    if section not in _SECTIONS:
        raise UserError(f"{origin}: {unknown_name('section', section, _SECTIONS)}")
    return _Setting(section, key, _value_of_override(section, key, text.strip(), origin), origin)


def _value_of_override(section: str, key: str, text: str, origin: str) -> Any:
    """Returns the value that a text after `--set section.key=` stands for.

    For settings that are text, such as paths, it is the text itself, unless that is `null`, empty
    or in quotes. In YAML, ` #` would begin a comment and `: ` a mapping.
    """
    is_quoted = re.fullmatch(r"([\"']).*\1", text, re.DOTALL)
    if _is_text(section, key) and text not in ("", "~", "null") and not is_quoted:
        return text
    if re.search(r"(^|\s)#", text) and not _is_text(section, key):
        raise UserError(f"{origin}: write one value without a comment.")
    try:
        return YAML(typ="safe").load(text)
    except (YAMLError, ValueError):
        raise UserError(f"{origin}: {text!r} is not a YAML value.") from None


def _is_text(section: str, key: str) -> bool:
    """Returns whether a setting is any text, or null."""
    fields = dataclasses.fields(_SECTIONS[section])
    kinds = [field.type for field in fields if field.name == key]
    return any(str in (kind, *typing.get_args(kind)) for kind in kinds)


def _check_key(setting: _Setting, sections: Mapping[str, type]) -> None:
    section, key, _, origin = setting
    if key in properties(sections[section]):
        return
    models = [name for name, kind in MODELS.items() if key in properties(kind)]
    if section == "model" and models:
        own = next(name for name, kind in MODELS.items() if kind is sections["model"])
        raise UserError(
            f"{origin}: model.{key} is a setting of model.name = {' or '.join(models)}, but here"
            f" model.name = {own}, whose settings are: {', '.join(properties(sections['model']))}."
            f" Delete it, or set model.name={models[0]}."
        )
    # The key of another section is a likelier mistake than a typo.
    meant = [home for home in _homes(key) if home.endswith(f".{key}")]
    options = properties(sections[section])
    raise UserError(
        f"{origin}: {unknown_name(f'key in section {section!r}:', key, options, meant)}"
    )


def _homes(key: Any) -> list[str]:
    """Returns the settings, of any section and model, that a key without its section may mean."""
    kinds = [*_SECTIONS.items(), *(("model", kind) for kind in MODELS.values())]
    every = dict.fromkeys((name, key) for name, kind in kinds for key in properties(kind))
    near = closest(key, dict.fromkeys(name for _, name in every))
    return [f"{section}.{name}" for section, name in every if name == near]


def _checked(section: type, name: str, key: str, values: Mapping[tuple, _Setting]) -> Any:
    """Returns the value of a key in its declared type.

    Raises:
      UserError: It is of another type, or out of range.
    """
    if (name, key) not in values:
        raise UserError(f"{BASE}: {name}.{key} is missing. Restore the file.")
    kind = next(field.type for field in dataclasses.fields(section) if field.name == key)
    given = values[name, key].value
    origin = f"{values[name, key].origin}: {name}.{key}"
    value = _convert(given, kind)
    if value is _MISFIT:
        # YAML's words for None, True and False; everything else reads the same in Python.
        shown = json.dumps(given) if given is None or isinstance(given, bool) else repr(given)
        raise UserError(f"{origin} must be {_describe(kind)}, not {shown}.{_brackets(given, kind)}")
    for number in value if isinstance(value, tuple) else (value,):
        if number is not None:
            _check_range(number, properties(section)[key], origin)
    return value


def _brackets(given: Any, kind: Any) -> str:
    """Returns advice about a list that was written without brackets; "" for anything else."""
    if not isinstance(given, str) or "," not in given:
        return ""
    try:
        items = YAML(typ="safe").load(f"[{given.strip('()')}]")
    except (YAMLError, ValueError):
        return ""
    return "" if _convert(items, kind) is _MISFIT else f" Write {json.dumps(items)}."


def _check_range(number: float, limits: Properties, origin: str) -> None:
    for limit, fits, words in (
        (limits.minimum, operator.ge, "at least"),
        (limits.above, operator.gt, "above"),
        (limits.maximum, operator.le, "at most"),
        (limits.below, operator.lt, "below"),
    ):
        if limit is not None and not fits(number, limit):
            raise UserError(f"{origin} must be {words} {limit}, not {number}.")


_MISFIT = object()


def _convert(value, kind) -> Any:
    """Returns a value as the annotated type, or _MISFIT. Whole numbers may be written as 1e5."""
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
    if kind is int and isinstance(value, float) and value.is_integer():
        return int(value)
    # int() and str() also convert the YAML reader's own number and text classes.
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
