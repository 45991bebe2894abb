"""A run's folder and the length of its clips, checked before training starts. No TensorFlow."""

import contextlib
import json
import pathlib
import re
import shlex
import sys
from collections.abc import Iterator

from cwvae import config as configuration
from cwvae.config import Config, constraints
from cwvae.errors import UserError
from cwvae.run import files


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


def check(config: Config, logdir: str | pathlib.Path, advice: str | None = None) -> None:
    """Checks that a folder holds no run, or one that can be resumed with a configuration.

    Args:
      config: The configuration.
      logdir: The folder.
      advice: Advice to the user if it holds another run; None for advice to users of train.py.

    Raises:
      UserError: It holds a run of another configuration.
    """
    path = pathlib.Path(logdir) / "config.yml"
    if not (path.is_file() and any(path.parent.glob("checkpoints/*.npz"))):
        return
    old = configuration.load(path)
    frozen = configuration.differences(old, config, lambda its: not its.resumable)
    # A run of an earlier version may not know the digits it began with.
    if not (path.parent / "data.json").is_file():
        changed = configuration.differences(old, config)
        frozen += [line for line in changed if line.startswith("data.digits_dir:")]
    if frozen:
        lines = "\n  ".join(frozen)
        advice = advice or _advice(old, config, shlex.quote(str(path.parent)))
        raise UserError(f"{logdir} holds a run of another configuration:\n  {lines}\n{advice}")


def _advice(old: Config, new: Config, logdir: str) -> str:
    """Returns the commands that work if a run, in a folder in shell quotes, cannot be resumed."""
    advice = (
        f"Give another --logdir, or resume that run as it is: python train.py --logdir {logdir}"
    )
    frozen = configuration.overrides(old, new, lambda its: not its.resumable)
    # Another model may need other weights, and the user has other weights in mind with --init-from.
    if not frozen or not all(re.match(r"training\.(?!init_from=)", word) for word in frozen):
        return advice
    sets = " ".join(f"--set {shlex.quote(setting)}" for setting in frozen)
    return (
        f"{advice}\nTo train a new run, from that run's weights: python train.py --config"
        f" {logdir}/config.yml --init-from {logdir} --logdir {logdir}_2 {sets}"
    )


def prepare(config: Config, logdir: str | pathlib.Path, train_data) -> None:
    """Makes a run's folder, its config.yml, and data.json, which identifies the training clips.

    Args:
      config: The configuration of the run.
      logdir: The run's folder.
      train_data: The training data set, as `data_loaders.load` returns it.

    Raises:
      UserError: The folder cannot be written, holds a run of another configuration, or holds a run
        that was trained on other clips.
    """
    check(config, logdir)  # Once more, now that the folder is locked.
    path = pathlib.Path(logdir) / "data.json"
    begun = any(path.parent.glob("checkpoints/*.npz"))
    if begun and _has_other_data(logdir, train_data):
        raise UserError(
            f"{logdir}: the training {train_data.fingerprint_of} are not those that this run began"
            " with. Restore them; or give another --logdir for a new run, which starts from this"
            f" run's weights with --init-from {shlex.quote(str(logdir))}."
        )
    configuration.save_run(config, logdir)
    files.write(path, json.dumps(train_data.fingerprint))


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
    return path.is_file() and json.loads(path.read_text()) != train_data.fingerprint


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
