"""What is looked at and written before a run begins: its clips, and its folder. No TensorFlow."""

import contextlib
import json
import pathlib
import shlex
import sys
from collections.abc import Iterator

from cwvae import config as configuration
from cwvae.config import Config
from cwvae.errors import UserError
from cwvae.run import files

# What may change between a run's start and its going on: nothing that its weights depend on (but,
# with batch normalization, on the parts that a batch is computed in).
CHANGEABLE = (
    "training.steps:",
    "training.log_every:",
    "training.video_every:",
    "training.video_length:",
    "training.save_every:",
    "training.keep:",
    "training.keep_every:",
    "training.strategy:",
    "training.accumulate:",
    "training.gradient_checkpointing:",
    "training.jit:",
    "training.steps_per_call:",
    "training.memory:",
    "training.skip_limit:",
    "data.data_dir:",
    "data.archives_dir:",
    "data.digits_dir:",
    "data.test_length:",
    "evaluation.",
)


def check_lengths(config: Config, train_data, test_data) -> list[str]:
    """Returns the training clips that are too short, after checking that there are others.

    Warns where `eval.py` will not find enough clips to evaluate.

    Args:
      config: Of the run.
      train_data: A data set, as `data_loaders.load` returns it.
      test_data: Another one, of held-out clips.

    Returns:
      A line for each clip that is left out.

    Raises:
      UserError: All clips of a split are too short for what is to be done with them.
    """
    options = config.evaluation
    shortest = max(options.context + 1, config.model.shortest)
    for data in (train_data, test_data):
        data.at_least(shortest)
    needed = options.context + options.horizon
    long_enough = len(test_data.clips.at_least(needed))
    if long_enough < options.num_videos:
        print(
            f"warning: evaluation.num_videos = {options.num_videos}, but of {len(test_data)} test"
            f" videos {long_enough} have evaluation.context + evaluation.horizon = {needed} frames."
            " eval.py will have to be given other settings.",
            file=sys.stderr,
        )
    return train_data.shorter_than(config.training.seq_len)


def tell_left_out(left_out: list[str], config: Config, logdir: str | pathlib.Path) -> None:
    """Says which clips are too short to be trained on, and lists them in the run's left_out.txt.

    Args:
      left_out: What `check_lengths` returned.
      config: Of the run.
      logdir: The run's folder, which exists.
    """
    if not left_out:
        return
    path = pathlib.Path(logdir) / "left_out.txt"
    # Names of files may be no UTF-8.
    path.write_text("".join(f"{line}\n" for line in left_out), errors="backslashreplace")
    print(
        f"warning: {len(left_out)} of the training videos are left out, for training.seq_len ="
        f" {config.training.seq_len} is longer; {path} lists them. The first: {left_out[0]}",
        file=sys.stderr,
    )


def check(config: Config, logdir: str | pathlib.Path, advice: str | None = None) -> None:
    """Checks that a folder holds no run, or the same one.

    Args:
      config: Of the run that is to be in there.
      logdir: The folder.
      advice: What to do where it is another; None for what train.py's users can do.

    Raises:
      UserError: It holds a run of another configuration.
    """
    path = pathlib.Path(logdir) / "config.yml"
    if path.is_file() and any(path.parent.glob("checkpoints/*.npz")):
        changed = configuration.differences(configuration.load(path), config)
        frozen = [
            line
            for line in changed
            # A folder of digits may move; with one in place of none the digits are others.
            if not line.startswith(CHANGEABLE) or line.startswith("data.digits_dir: None")
        ]
        if frozen:
            lines, folder = "\n  ".join(frozen), shlex.quote(str(logdir))
            advice = advice or (
                "Give another --logdir, or go on with that run as it is: python train.py --logdir"
                f" {folder}"
            )
            raise UserError(f"{logdir} holds a run of another configuration:\n  {lines}\n{advice}")


def prepare(config: Config, logdir: str | pathlib.Path, fingerprint: str | None) -> None:
    """Makes a run's folder with its config.yml, and data.json, which tells its data from others.

    Args:
      config: Of the run.
      logdir: The run's folder.
      fingerprint: Of the training clips.

    Raises:
      UserError: A folder that cannot be written, that holds a run of another configuration, or one
        whose training clips were others.
    """
    check(config, logdir)  # Again: now the folder is locked.
    path = pathlib.Path(logdir) / "data.json"
    begun = any(path.parent.glob("checkpoints/*.npz")) and path.is_file()
    if begun and json.loads(path.read_text()) != fingerprint:
        raise UserError(
            f"{logdir}: the training videos are not those that this run began with. Give another"
            f" --logdir; or delete {path}, and it goes on with them."
        )
    configuration.save_run(config, logdir)
    if fingerprint is not None:
        path.write_text(json.dumps(fingerprint))


@contextlib.contextmanager
def locked(logdir: str | pathlib.Path, option: str = "--logdir") -> Iterator[None]:
    """Holds a folder against a second process within a `with` block, without waiting for it.

    Args:
      logdir: The folder; made if it is missing. Its file `.lock` names the holder.
      option: The command-line option that named the folder.

    Raises:
      UserError: Another process holds the folder, or the folder cannot be written.
    """
    logdir = pathlib.Path(logdir)
    lock = files.locked(
        logdir / ".lock",
        "at work in this folder",
        advice=f"Stop it, or give another {option}.",
    )
    with contextlib.ExitStack() as stack:
        try:
            logdir.mkdir(parents=True, exist_ok=True)
            stack.enter_context(lock)
        except OSError as error:
            raise UserError(
                f"{option} {logdir}: cannot write there ({error.strerror}); give another folder."
            ) from None
        yield
