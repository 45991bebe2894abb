"""The changes of a run's settings: `history.jsonl` in its folder.

Each line is a JSON object: `step`, from which on the settings hold; `date`; `version` of this
project; and `changes`, the old and the new value by `section.key`.
"""

import datetime
import json
import pathlib
import sys
from collections.abc import Callable
from typing import Any

from cwvae import config as configuration
from cwvae.config import Config, Properties
from cwvae.run import files, folder, versions

FILE = "history.jsonl"


def changes(
    config: Config,
    logdir: str | pathlib.Path,
    counts: Callable[[Properties], bool] = lambda its: not its.is_path,
) -> dict[str, list[Any]]:
    """Returns the settings that change if a run is resumed: [old, new] by `section.key`.

    The old ones are those of the newest checkpoint, or of config.yml if it has none.

    Args:
      config: The configuration to resume with.
      logdir: The run's folder, with checkpoints and config.yml.
      counts: Whether to look at a setting, given its properties.
    """
    old = folder.trained_with(logdir)
    old = old or configuration.load(pathlib.Path(logdir) / "config.yml", purpose="data")
    return {name: [a, b] for name, a, b in configuration.changes(old, config, counts)}


def record(logdir: str | pathlib.Path, step: int, changed: dict[str, list[Any]]) -> None:
    """Adds the changes of a resume to a run's history.

    Changes at this step or a later one are dropped: the checkpoint that the run resumes from was
    saved before them. Other lines stay, even damaged ones. A file that cannot be written gives a
    warning.

    Args:
      logdir: The run's folder.
      step: The step that the run resumes from.
      changed: As `changes` returns them.
    """
    path = pathlib.Path(logdir) / FILE
    try:
        before = path.read_bytes() if path.exists() else b""
        lines = [line for line in before.splitlines() if _step(line) < step]
        if changed:
            now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
            event = {"step": step, "date": now, "version": versions.installed()["cwvae"]}
            lines.append(json.dumps(event | {"changes": changed}).encode())
        after = b"".join(line + b"\n" for line in lines)
        if after != before:
            files.write(path, after)
    except OSError as error:
        print(
            f"warning: {path}: cannot be written ({error.strerror}). The change of settings is not"
            " recorded there; checkpoints still hold the settings they were trained with.",
            file=sys.stderr,
        )


def describe(logdir: str | pathlib.Path) -> list[str]:
    """Returns a sentence for each change in a run's history. Damaged lines are skipped."""
    path, found = pathlib.Path(logdir) / FILE, []
    for line in path.read_bytes().splitlines() if path.is_file() else []:
        try:
            event = json.loads(line)
            changed = as_text(event["changes"])
            found.append(f"From step {event['step']} on ({event['date']}): {changed}")
        except (ValueError, KeyError, TypeError, AttributeError):
            continue
    return found


def as_text(changed: dict[str, list[Any]]) -> str:
    """Returns changes in words: `training.steps: 6 -> 9, ...`."""
    return ", ".join(f"{name}: {old} -> {new}" for name, (old, new) in changed.items())


def _step(line: bytes) -> float:
    """Returns the step of a line; -1 for a damaged one."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return -1.0
