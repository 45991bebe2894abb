"""Trains and evaluates the runs of a comparison, for `compare.py --train`.

No TensorFlow: training and evaluation run as separate processes, one at a time or several side by
side. Finished work is not repeated: an interrupted run resumes, and an evaluation of the same step
and settings is kept.
"""

import concurrent.futures
import dataclasses
import pathlib
import signal
import subprocess
from collections.abc import Callable, Iterable, Sequence

from cwvae import config as configuration
from cwvae.comparison import costs, runs
from cwvae.comparison.agreement import differences, scored_settings
from cwvae.comparison.processes import ScriptFailed, Scripts, shares, start_script
from cwvae.config import Config
from cwvae.errors import UserError
from cwvae.evaluation.results import FOLDER
from cwvae.run import checkpoints, files
from cwvae.run import folder as run_folder

_OTHER_RUN = "Give another --out, rename the run in the file, or undo the change."


@dataclasses.dataclass(frozen=True)
class Member:
    """A run of a comparison.

    Attributes:
      name: Its name in the file, NAME or NAME@DATA.
      seed: Its training seed, if the file lists seeds.
      config: Its configuration.
      folder: Its folder.
    """

    name: str
    seed: int | None
    config: Config
    folder: pathlib.Path

    @property
    def title(self) -> str:
        """Its name in messages."""
        return self.name if self.seed is None else f"{self.name}, seed {self.seed}"

    @property
    def argument(self) -> str:
        """The run on the command line of a comparison."""
        return f"{self.name}={self.folder}"


def plan(
    path: str | pathlib.Path,
    out: str | pathlib.Path,
    protocol: str,
    overrides: Iterable[str] = (),
) -> list[Member]:
    """Reads the runs in a file of `config.load_comparison`, and checks all before anything starts.

    Each run has a folder in `out`: NAME or, for the seed 1 of a file with seeds, NAME-seed_1.
    `overrides` are settings of all runs. Raises a UserError for a wrong configuration, scores that
    could not be compared, or a folder with another configuration.
    """
    members = [
        Member(
            name,
            seed,
            configuration.with_absolute_paths(config),
            pathlib.Path(out) / (name if seed is None else f"{name}-seed_{seed}"),
        )
        for name, by_seed in configuration.load_comparison(path, overrides).items()
        for seed, config in by_seed.items()
    ]
    _check_scored_alike(path, members, protocol)
    for member in members:
        runs.check_label(runs.split_name(member.name)[0], path)
        run_folder.check(member.config, member.folder, _OTHER_RUN, throughout=True)
    return members


def run(
    members: Sequence[Member],
    out: str | pathlib.Path,
    jobs: int = 1,
    start: Callable[..., subprocess.Popen] = start_script,
) -> signal.Signals | None:
    """Trains and evaluates all runs that are not finished, and reports progress on stdout.

    Ctrl-C (SIGINT) and SIGTERM end the running scripts; training saves first. Returns that signal,
    or None if all is done. If a run fails, the others continue.

    Args:
      members: The runs.
      out: The folder of the comparison, which is locked.
      jobs: Number of runs at a time. They divide the cores and GPUs among them.
      start: Starts a script, as `start_script` does.

    Raises:
      ScriptFailed: A training or evaluation failed, or several.
      UserError: A folder that cannot be written, or in which another process is at work.
    """
    with run_folder.locked(out, "--out"), Scripts(start) as scripts:
        for member in members:
            costs.read_seconds(member.folder)  # A damaged file is reported before anything starts.
        waiting = []
        for number, member in enumerate(members, 1):
            heading = f"[{number}/{len(members)}] {member.title}"
            if _is_finished(member):
                _say(f"{heading}: trained and evaluated already, in {member.folder}.")
            else:
                waiting.append((member, heading))
        jobs = min(jobs, len(waiting))
        parts = iter(shares(jobs) if jobs > 1 else [None])

        def attempt(member: Member, heading: str) -> UserError | None:
            try:
                if not scripts.stopped_by:
                    _train_and_evaluate(member, heading, scripts)
            except UserError as error:
                _say(f"{heading}: failed. {error}")
                return error

        with concurrent.futures.ThreadPoolExecutor(
            max(1, jobs), initializer=lambda: scripts.use(next(parts))
        ) as threads:
            futures = [threads.submit(attempt, *each) for each in waiting]
            # Not without a limit: a signal that arrives just before is handled only afterwards.
            while concurrent.futures.wait(futures, timeout=1).not_done:
                pass
        if scripts.stopped_by:
            return scripts.stopped_by
    errors = [error for error in (future.result() for future in futures) if error]
    if len(errors) == 1:
        raise errors[0]
    if errors:
        lines = "\n\n".join(map(str, errors))
        raise ScriptFailed(
            f"{len(errors)} of {len(members)} runs failed:\n\n{lines}", errors[0].exit_code
        )
    return None


def _say(text: str) -> None:
    """Prints a line at once, which lines of other threads cannot split."""
    print(f"{text}\n", end="", flush=True)


def _is_finished(member: Member) -> bool:
    done = max(checkpoints.steps(member.folder), default=0)
    return done >= member.config.training.steps and _is_evaluated(member)


def _train_and_evaluate(member: Member, heading: str, scripts: Scripts) -> None:
    folder, options = member.folder, member.config.training
    done = max(checkpoints.steps(folder), default=0)
    with run_folder.locked(folder):
        # Checked again, because only now is the folder locked.
        run_folder.check(member.config, folder, _OTHER_RUN, throughout=True)
        configuration.save_run(run_folder.keep_precision(member.config, folder), folder)
    spent = costs.read_seconds(folder)
    if done < options.steps:
        since = f"steps {done:,} to {options.steps:,}" if done else f"{options.steps:,} steps"
        clips = f"{options.batch_size} clips of {options.seq_len} frames"
        _say(f"{heading}: training, {since} of {clips}, in {folder} ...")
        # An existing evaluation is of an earlier training, and must not pass for this one's.
        evaluating = f"evaluating into {FOLDER}"
        files.remove_folder(folder / FOLDER, evaluating, "Wait until it ends, or stop it.")
        before = spent.get("training", 0) if done else 0
        seconds = scripts.run("train", folder, "training", before)
        if scripts.stopped_by:
            return
        _say(f"{heading}: trained in {costs.duration(seconds)}. Evaluating ...")
    else:
        _say(f"{heading}: trained already; evaluating, in {folder} ...")
    seconds = scripts.run("eval", folder, "evaluation")
    if scripts.stopped_by:
        return
    if not _is_evaluated(member):  # The newest checkpoint was damaged and has been set aside.
        raise UserError(
            f"{folder}: the evaluation is not of step {options.steps:,} of this configuration. Run"
            " the same command to resume training and evaluate again."
        )
    _say(f"{heading}: evaluated in {costs.duration(seconds)}.")


def _is_evaluated(member: Member) -> bool:
    """Returns whether a run's evaluation is of its newest checkpoint and configuration."""
    try:
        (found,) = runs.read([member.argument])
    except UserError:  # It is missing, damaged, or of another version.
        return False
    wanted, given = configuration.as_plain(member.config), found.results["settings"]
    same = all(wanted[name] == given.get(name) for name in ("model", "data", "evaluation"))
    return same and found.results["step"] == max(checkpoints.steps(member.folder))


def _check_scored_alike(path: str | pathlib.Path, members: Sequence[Member], protocol: str) -> None:
    first_on, rows = {}, {}
    for member in members:
        evaluated = member.config.evaluation.protocol
        if evaluated not in ("both", protocol):
            raise UserError(
                f"{path}: {member.name} has evaluation.protocol = {evaluated!r}, but the"
                f" comparison uses {protocol!r} (--protocol). Set it to both."
            )
        run = _as_run(member)
        other = rows.setdefault((run.label, run.data), member.name)
        if other != member.name:
            raise UserError(
                f"{path}: {other} and {member.name} would be one row on one data set, {run.data}."
                " Rename one of them."
            )
        first, name = first_on.setdefault(run.data, (run, member.name))
        lines = differences(_scored(first), _scored(run), (name, member.name))
        if lines:
            raise UserError(
                f"{path}: {name} and {member.name} are both on {run.data}, but differ in what is"
                f" scored:{''.join(lines.values())}\nSet these settings in the section `shared`. If"
                " they are two data sets, name one of them: NAME@DATA."
            )


def _as_run(member: Member) -> runs.Run:
    """Returns a run as if it were evaluated, without scores."""
    label, data = runs.split_name(member.name)
    settings = configuration.as_plain(member.config)
    results = {**settings["evaluation"], "data": member.config.data.name, "settings": settings}
    return runs.Run(label, member.folder, results, 0, data)


def _scored(run: runs.Run) -> dict:
    """Returns all settings that decide what is scored."""
    model = run.results["settings"]["model"]
    frames = {f"model.{key}": model[key] for key in ("frame_size", "channels")}
    return {"data.name": run.data_name} | frames | scored_settings(run)
