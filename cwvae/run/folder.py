"""A run's folder and the length of its clips, checked before training starts. No TensorFlow."""

import contextlib
import dataclasses
import json
import pathlib
import re
import shlex
import sys
from collections.abc import Iterable, Iterator

from cwvae import config as configuration
from cwvae.config import Config, Properties, constraints
from cwvae.errors import UserError
from cwvae.installation import command
from cwvae.run import checkpoints, files


def check_lengths(config: Config, train_data, test_data) -> list[str]:
    """Checks that there are clips long enough for training, and returns the ones that are not.

    Prints the warnings of `constraints.warnings`, and one if `eval.py` will not find enough clips
    to evaluate.

    Args:
      config: The configuration of the run.
      train_data: A data set, as `data_loaders.load` returns it.
      test_data: Another one, of held-out clips.

    Returns:
      A line for each training clip that is skipped.

    Raises:
      UserError: All clips of a split are too short.
    """
    options = config.evaluation
    shortest = max(options.context + 1, config.model.shortest)
    for data in (train_data, test_data):
        data.at_least(shortest)
    longest = {"training": train_data.clips.longest, "test": test_data.clips.longest}
    for warning in constraints.warnings(config, longest):
        print(f"warning: {warning}", file=sys.stderr)
    needed = options.context + options.horizon
    long_enough = len(test_data.clips.at_least(needed))
    if long_enough < options.num_videos:
        print(
            f"warning: evaluation.num_videos = {options.num_videos}, but only {long_enough} of"
            f" {len(test_data)} test videos have evaluation.context + evaluation.horizon = {needed}"
            " frames. Give eval.py other settings.",
            file=sys.stderr,
        )
    return train_data.shorter_than(config.training.seq_len)


def report_skipped(skipped: list[str], config: Config, logdir: str | pathlib.Path) -> None:
    """Warns of training clips that are too short, and lists them in the run's left_out.txt.

    Args:
      skipped: The lines that `check_lengths` returned.
      config: The configuration of the run.
      logdir: The run's folder, which exists.
    """
    if not skipped:
        return
    path = pathlib.Path(logdir) / "left_out.txt"
    # Names of files may not be UTF-8.
    files.write(path, "".join(f"{line}\n" for line in skipped).encode(errors="backslashreplace"))
    print(
        f"warning: {len(skipped)} of the training videos are skipped: shorter than training.seq_len"
        f" = {config.training.seq_len}. {path} lists them. The first: {skipped[0]}",
        file=sys.stderr,
    )


def check(
    config: Config,
    logdir: str | pathlib.Path,
    advice: str | None = None,
    throughout: bool = False,
) -> None:
    """Checks that a folder holds no run, or one that can be resumed with a configuration.

    Args:
      config: The configuration.
      logdir: The folder.
      advice: Advice to the user if it holds another run; None for advice to users of train.py.
      throughout: Whether the run must have been trained with this configuration from its start, so
        that settings such as the learning rate may not change either.

    Raises:
      UserError: It holds a run of another configuration, or a run that lost its checkpoints.
    """
    checkpoints.check_kept(logdir)
    if not checkpoints.steps(logdir):
        return
    path = _config_path(logdir)
    there = _settings_there(path)
    old = trained_with(logdir) or there
    if old is None:
        raise _without_settings(logdir)
    config = config.with_precision(old.training.precision)
    frozen = configuration.differences(old, config, _is_fixed)
    if throughout:
        steers = configuration.differences(old, config, lambda its: its.steers_training)
        if config.training.schedule == "constant":  # Else each step depends on their number.
            steers = [line for line in steers if not line.startswith("training.steps:")]
        frozen += steers
    # Paths in config.yml may be edited when the data have moved: data.json identifies the data.
    last = there or old
    frozen += configuration.differences(last, config, lambda i: i.is_path and not i.resumable)
    # A run of an earlier version may not know the digits it began with.
    if not (path.parent / "data.json").is_file():
        changed = configuration.differences(last, config)
        frozen += [line for line in changed if line.startswith("data.digits_dir:")]
    if there and frozen and frozen == configuration.differences(old, there, _is_fixed):
        raise _edited(logdir, frozen)
    if frozen:
        lines = "\n  ".join(frozen)
        advice = advice or _advice(old, config, shlex.quote(str(path.parent)))
        raise UserError(f"{logdir} holds a run of another configuration:\n  {lines}\n{advice}")


def keep_precision(config: Config, logdir: str | pathlib.Path) -> Config:
    """Returns a configuration with the precision that a run was trained in instead of `auto`.

    Without a checkpoint, the configuration as it is.
    """
    if config.training.precision != "auto" or not checkpoints.steps(logdir):
        return config
    old = trained_with(logdir) or _settings_there(_config_path(logdir))
    return config if old is None else config.with_precision(old.training.precision)


def _settings_there(path: pathlib.Path) -> Config | None:
    """Returns the settings in a run's config.yml; None without any."""
    return configuration.load(path, purpose="data") if _has_settings(path) else None


def _advice(old: Config, new: Config, logdir: str) -> str:
    """Returns the commands that work if a run, in a folder in shell quotes, cannot be resumed."""
    advice = (
        f"Give another --logdir, or resume that run as it is: {command('train')} --logdir {logdir}"
    )
    frozen = configuration.overrides(old, new, lambda its: not its.resumable)
    # Another model may need other weights, and the user has other weights in mind with --init-from.
    if not frozen or not all(re.match(r"training\.(?!init_from=)", word) for word in frozen):
        return advice
    sets = " ".join(f"--set {shlex.quote(setting)}" for setting in frozen)
    return (
        f"{advice}\nTo train a new run, from that run's weights: {command('train')} --config"
        f" {logdir}/config.yml --init-from {logdir} --logdir {logdir}_2 {sets}"
    )


def steps_if_trained(config: Config, logdir: str | pathlib.Path) -> int | None:
    """Returns the step of a run that has reached `training.steps`; None if there is more to do.

    A damaged newest checkpoint does not count: training resumes from the one before.
    """
    step = max(checkpoints.steps(logdir), default=0)
    if step < config.training.steps or not checkpoints.is_whole(checkpoints.find(logdir, step)):
        return None
    return step


def prepare(config: Config, logdir: str | pathlib.Path, train_data) -> None:
    """Makes a run's folder, its config.yml, and data.json, which identifies the training clips.

    The config.yml of a run that resumes stays: `save_config` writes it once a checkpoint is read.

    Args:
      config: The configuration of the run.
      logdir: The run's folder.
      train_data: The training data set, as `data_loaders.load` returns it.

    Raises:
      UserError: The folder cannot be written, holds a run of another configuration, or holds a run
        that was trained on other clips.
    """
    check(config, logdir)  # Once more, now that the folder is locked.
    check_data(logdir, train_data)
    if not checkpoints.steps(logdir):
        save_config(config, logdir)
    path, content = pathlib.Path(logdir) / "data.json", json.dumps(train_data.fingerprint).encode()
    if not path.is_file() or path.read_bytes() != content:
        files.write(path, content)


def check_data(logdir: str | pathlib.Path, train_data) -> None:
    """Raises a UserError if a folder holds a run that was trained on other clips."""
    if checkpoints.steps(logdir) and _has_other_data(logdir, train_data):
        raise UserError(
            f"{logdir}: the training {train_data.fingerprint_of} are not those that this run began"
            " with. Restore them; or give another --logdir for a new run, which starts from this"
            f" run's weights with --init-from {shlex.quote(str(logdir))}."
        )


def save_config(config: Config, logdir: str | pathlib.Path) -> None:
    """Writes a run's config.yml, unless it has the same settings already.

    Raises:
      UserError: The folder cannot be written.
    """
    path = _config_path(logdir)
    with contextlib.suppress(UserError):  # A damaged file is replaced.
        if _has_settings(path) and configuration.load(path) == config:
            return
    configuration.save_run(config, logdir)


def load_config(logdir: str | pathlib.Path, overrides: Iterable[str] = ()) -> Config:
    """Reads the configuration of a run or an export, to use its weights.

    If config.yml already has other settings for the rest of the training, such as the learning
    rate, those of the newest checkpoint count.

    Args:
      logdir: The folder.
      overrides: As in `cwvae.config.load_run`.

    Raises:
      UserError: There is no config.yml, it has no settings, or they are not those that the run was
        trained with; or an override is not allowed.
    """
    path, old = config_path(logdir), trained_with(logdir)
    if old is not None:
        there = configuration.load(path, purpose="data").with_precision(old.training.precision)
        if changed := configuration.differences(old, there, _is_fixed):
            raise _edited(logdir, changed)
    config = configuration.load_run(logdir, overrides)
    if old is None:
        return config
    config = config.with_precision(old.training.precision)
    known = configuration.properties(old.training).items()
    values = {key: getattr(old.training, key) for key, its in known if its.steers_training}
    return dataclasses.replace(config, training=dataclasses.replace(config.training, **values))


def config_path(logdir: str | pathlib.Path) -> pathlib.Path:
    """Returns the path of a run's config.yml.

    Raises:
      UserError: The folder holds no run, or a run whose config.yml is missing or empty.
    """
    path = _config_path(logdir)
    if not _has_settings(path) and (path.exists() or checkpoints.steps(logdir)):
        raise _without_settings(logdir)
    return configuration.run_path(logdir)


def trained_with(logdir: str | pathlib.Path) -> Config | None:
    """Returns the configuration that a run was trained with, from its newest checkpoint.

    None if no checkpoint has one that this version can read.
    """
    plain = checkpoints.settings_of_newest(logdir)
    return from_plain(plain) if plain else None


def from_plain(plain: dict[str, dict]) -> Config | None:
    """Returns a configuration from what `cwvae.config.as_plain` wrote, maybe in another version.

    Settings that no longer exist are dropped; new ones get their defaults, or those of
    `cwvae.config.FORMER_DEFAULTS`. None for settings that this version rejects.
    """
    sections = {field.name: field.type for field in dataclasses.fields(Config)}
    sections["model"] = configuration.MODELS.get(plain["model"]["name"], sections["model"])
    overrides = [
        f"{section}.{key}={value}"
        for (section, key), value in configuration.FORMER_DEFAULTS.items()
    ]
    overrides += [
        f"{name}.{key}={json.dumps(plain[name][key], ensure_ascii=False)}"
        for name, section in sections.items()
        for key in configuration.properties(section)
        if key in plain[name]
    ]
    try:
        return configuration.load(None, overrides, purpose="data")
    except UserError:
        return None


def _is_fixed(its: Properties) -> bool:
    return not its.resumable and not its.is_path


def _config_path(logdir: str | pathlib.Path) -> pathlib.Path:
    return pathlib.Path(logdir) / "config.yml"


def _has_settings(path: pathlib.Path) -> bool:
    return path.is_file() and bool(path.read_bytes().strip())


def _edited(logdir: str | pathlib.Path, changed: list[str]) -> UserError:
    path, lines = _config_path(logdir), "\n  ".join(changed)
    return UserError(
        f"{path} was edited: the run was trained with other settings (-> edited):\n  {lines}\n"
        f"{_to_restore(logdir)} To train with the edited settings, start a new run:"
        f" {command('train')} --config {shlex.quote(str(path))} --logdir NEW, with --init-from"
        f" {shlex.quote(str(logdir))} to start from the weights of this one."
    )


def _without_settings(logdir: str | pathlib.Path) -> UserError:
    path = _config_path(logdir)
    what = "is empty" if path.exists() else "is missing, but there are checkpoints"
    if trained_with(logdir):
        return UserError(f"{path} {what}. {_to_restore(logdir)}")
    return UserError(
        f"{path} {what}. Copy it back, or give the settings that the run was trained with:"
        f" {command('train')} --config FILE --logdir {shlex.quote(str(logdir))}"
    )


def _to_restore(logdir: str | pathlib.Path) -> str:
    return (
        "To restore the file from the newest checkpoint:"
        f" python -m cwvae.run.restore_config {shlex.quote(str(logdir))}"
    )


def warn_of_other_data(logdir: str | pathlib.Path, train_data) -> None:
    """Warns if a run was trained on other clips, because then its test clips may differ, too.

    Args:
      logdir: The run's folder.
      train_data: The training data set, as `data_loaders.load` returns it.
    """
    if _has_other_data(logdir, train_data):
        print(
            f"warning: the training {train_data.fingerprint_of} are not those that {logdir} was"
            " trained on, so the test videos may differ, too. Do not compare the scores with"
            " earlier ones.",
            file=sys.stderr,
        )


def _has_other_data(logdir: str | pathlib.Path, train_data) -> bool:
    path = pathlib.Path(logdir) / "data.json"
    try:
        return path.is_file() and json.loads(path.read_text()) != train_data.fingerprint
    except ValueError:  # Not JSON, or not UTF-8.
        raise UserError(
            f"{path}: empty or damaged. It identifies the training data. Copy it back; or delete it"
            " if you are sure that the data are those that this run was trained on."
        ) from None


@contextlib.contextmanager
def locked(logdir: str | pathlib.Path, option: str = "--logdir") -> Iterator[None]:
    """Locks a folder against other processes within a `with` block, without waiting.

    Args:
      logdir: The folder; made if it is missing. Its file `.lock` names the holder.
      option: The command-line option that named the folder.

    Raises:
      UserError: Another process holds the folder, or the folder cannot be written.
    """
    logdir = pathlib.Path(logdir)
    advice = f"Stop it, or give another {option}."
    with contextlib.ExitStack() as stack:
        try:
            logdir.mkdir(parents=True, exist_ok=True)
            stack.enter_context(files.locked(logdir / ".lock", "at work in this folder", advice))
        except OSError as error:
            raise UserError(
                f"{option} {logdir}: cannot write there ({error.strerror}). Give another folder."
            ) from None
        yield
