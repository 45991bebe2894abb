"""Trains and evaluates the runs of a comparison, one after the other, for `compare.py --train`.

No TensorFlow: training and evaluation run as separate processes, one at a time. Finished work is
not repeated: an interrupted run resumes, and an evaluation of the same step and settings is kept.
"""

import contextlib
import dataclasses
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

from cwvae import config as configuration
from cwvae.comparison import costs, runs
from cwvae.comparison.agreement import differences, scored_settings
from cwvae.config import Config
from cwvae.errors import UserError
from cwvae.evaluation.results import FOLDER
from cwvae.installation import command
from cwvae.run import checkpoints, files
from cwvae.run import folder as run_folder

# Seconds between updates of a run's seconds.json; a power cut loses at most this much.
_TICK = 10
_OTHER_RUN = "Give another --out, rename the run in the file, or undo the change."


@dataclasses.dataclass(frozen=True)
class Member:
    """A run of a comparison: its label, configuration and folder."""

    label: str
    config: Config
    folder: pathlib.Path


class ScriptFailed(UserError):
    """Raised when a script fails. Its own message is on stderr."""

    def __init__(self, message: str, exit_code: int):
        super().__init__(message)
        self.exit_code = exit_code


def plan(path: str | pathlib.Path, out: str | pathlib.Path, protocol: str) -> list[Member]:
    """Reads the runs in a file of `config.load_comparison`, and checks all before anything starts.

    Each run has a folder in `out`, named by its label. Raises a UserError for a wrong
    configuration, scores that could not be compared, or a folder with another configuration.
    """
    members = [
        Member(label, configuration.with_absolute_paths(config), pathlib.Path(out) / label)
        for label, config in configuration.load_comparison(path).items()
    ]
    _check_scored_alike(path, members, protocol)
    for member in members:
        runs.check_label(member.label, path)
        run_folder.check(member.config, member.folder, _OTHER_RUN)
    return members


def start_script(name: str, folder: pathlib.Path) -> subprocess.Popen:
    """Starts `train` or `eval` on a run's folder; shows its progress but not its stdout."""
    words = [sys.executable, "-m", "cwvae", name, "--logdir", str(folder)]
    return subprocess.Popen(words, stdout=subprocess.DEVNULL)


def run(
    members: Sequence[Member],
    out: str | pathlib.Path,
    start: Callable[[str, pathlib.Path], subprocess.Popen] = start_script,
) -> signal.Signals | None:
    """Trains and evaluates all runs that are not finished, and reports progress on stdout.

    Ctrl-C (SIGINT) and SIGTERM end the running script; training saves first. Returns that signal,
    or None if all is done.

    Raises:
      ScriptFailed: A training or evaluation failed.
      UserError: A folder that cannot be written, or in which another process is at work.
    """
    with run_folder.locked(out, "--out"), _Scripts(start) as scripts:
        for number, member in enumerate(members, 1):
            _train_and_evaluate(member, f"[{number}/{len(members)}] {member.label}", scripts)
            if scripts.stopped_by:
                return scripts.stopped_by
    return None


class _Scripts(contextlib.AbstractContextManager):
    """Runs scripts. Within the block, SIGINT and SIGTERM end the running one (`stopped_by`)."""

    def __init__(self, start: Callable[[str, pathlib.Path], subprocess.Popen]):
        self.stopped_by: signal.Signals | None = None
        self._start, self._process = start, None

    def __enter__(self):
        signals = (signal.SIGINT, signal.SIGTERM)
        self._previous = {number: signal.signal(number, self._stop) for number in signals}
        return self

    def __exit__(self, *_) -> None:
        self._end()
        if self._process:
            self._process.wait()
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def run(self, name: str, folder: pathlib.Path, part: str, before: float = 0) -> float:
        """Runs a script, and returns its seconds plus those of earlier sessions, `before`.

        Records them as a part of seconds.json. Raises `ScriptFailed` if it fails, unless it was
        stopped by a signal.
        """
        began, code = time.monotonic() - before, None
        self._process = self._start(name, folder)
        if self.stopped_by:  # The signal arrived during the start.
            self._end()
        while code is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                code = self._process.wait(timeout=_TICK)
            seconds = time.monotonic() - began
            # The script reports a full disk itself, and may survive it.
            with contextlib.suppress(OSError):
                costs.write_seconds(folder, part, seconds)
        if code and not self.stopped_by:
            raise _failure(name, folder, code)
        return seconds

    def _stop(self, number: int, _) -> None:
        self.stopped_by = self.stopped_by or signal.Signals(number)
        self._end()

    def _end(self) -> None:
        # Always SIGTERM: Ctrl-C in a terminal sends SIGINT to the script as well, and a second
        # SIGINT would end it without saving.
        if self._process:
            self._process.terminate()


def _failure(name: str, folder: pathlib.Path, code: int) -> ScriptFailed:
    how = f"ended with exit code {code}; see its message above"
    if code < 0:
        how = f"was ended by {signal.Signals(-code).name}"
        code = 128 - code
        if code == 128 + signal.SIGKILL:
            how += ", which happens when memory runs out"
    return ScriptFailed(
        f"{folder}: {command(name)} {how}. Fix the cause, then run the same command to resume.",
        code,
    )


def _train_and_evaluate(member: Member, heading: str, scripts: _Scripts) -> None:
    folder, options = member.folder, member.config.training
    done = max(checkpoints.steps(folder), default=0)
    trained = done >= options.steps
    if trained and _is_evaluated(member):
        print(f"{heading}: trained and evaluated already, in {folder}.", flush=True)
        return
    with run_folder.locked(folder):
        # Checked again, because only now is the folder locked.
        run_folder.check(member.config, folder, _OTHER_RUN)
        configuration.save_run(member.config, folder)
    spent = costs.read_seconds(folder)
    if not trained:
        since = f"steps {done:,} to {options.steps:,}" if done else f"{options.steps:,} steps"
        clips = f"{options.batch_size} clips of {options.seq_len} frames"
        print(f"{heading}: training, {since} of {clips}, in {folder} ...", flush=True)
        # An existing evaluation is of an earlier training, and must not pass for this one's.
        evaluating = f"evaluating into {FOLDER}"
        files.remove_folder(folder / FOLDER, evaluating, "Wait until it ends, or stop it.")
        before = spent.get("training", 0) if done else 0
        seconds = scripts.run("train", folder, "training", before)
        if scripts.stopped_by:
            return
        print(f"{heading}: trained in {costs.duration(seconds)}. Evaluating ...", flush=True)
    else:
        print(f"{heading}: trained already; evaluating, in {folder} ...", flush=True)
    seconds = scripts.run("eval", folder, "evaluation")
    if scripts.stopped_by:
        return
    if not _is_evaluated(member):  # The newest checkpoint was damaged and has been set aside.
        raise UserError(
            f"{folder}: the evaluation is not of step {options.steps:,} of this configuration. Run"
            " the same command to resume training and evaluate again."
        )
    print(f"{heading}: evaluated in {costs.duration(seconds)}.", flush=True)


def _is_evaluated(member: Member) -> bool:
    """Returns whether a run's evaluation is of its newest checkpoint and configuration."""
    try:
        (found,) = runs.read([f"{member.label}={member.folder}"])
    except UserError:  # It is missing, damaged, or of another version.
        return False
    wanted, given = configuration.as_plain(member.config), found.results["settings"]
    same = all(wanted[name] == given.get(name) for name in ("model", "data", "evaluation"))
    return same and found.results["step"] == max(checkpoints.steps(member.folder))


def _check_scored_alike(path: str | pathlib.Path, members: Sequence[Member], protocol: str) -> None:
    first_on = {}
    for member in members:
        evaluated = member.config.evaluation.protocol
        if evaluated not in ("both", protocol):
            raise UserError(
                f"{path}: {member.label} has evaluation.protocol = {evaluated!r}, but the"
                f" comparison uses {protocol!r} (--protocol). Set it to both."
            )
        first = first_on.setdefault(member.config.data.name, member)
        lines = differences(_scored(first), _scored(member), (first.label, member.label))
        if lines:
            raise UserError(
                f"{path}: {first.label} and {member.label} are both on {member.config.data.name},"
                f" but differ in what is scored:{''.join(lines.values())}\nSet these settings in"
                " the section `shared`."
            )


def _scored(member: Member) -> dict:
    """Returns all settings that decide what is scored."""
    settings = configuration.as_plain(member.config)
    results = {**settings["evaluation"], "settings": settings}
    frames = {f"model.{key}": settings["model"][key] for key in ("frame_size", "channels")}
    return frames | scored_settings(runs.Run(member.label, member.folder, results, 0))
