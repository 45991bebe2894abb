"""Trains and evaluates the runs of a comparison, for `compare.py --train`.

No TensorFlow: training and evaluation run as separate processes, one at a time or several side by
side. Finished work is not repeated: an interrupted run resumes, and an evaluation of the same step
and settings is kept.

With `reset_levels`, each run with several levels has further evaluations, one per level, in which
that level follows its prior during the context. They lack FVD and LPIPS, which take most of the
time.
"""

import concurrent.futures
import dataclasses
import pathlib
import signal
import subprocess
from collections.abc import Callable, Iterable, Sequence

from cwvae import config as configuration
from cwvae import levels
from cwvae.comparison import costs, runs
from cwvae.comparison.agreement import differences, scored_settings
from cwvae.comparison.processes import ScriptFailed, Scripts, shares, start_script
from cwvae.config import Config
from cwvae.errors import UserError, unknown_name
from cwvae.evaluation import results as evaluations
from cwvae.evaluation.results import FOLDER
from cwvae.run import checkpoints, files
from cwvae.run import folder as run_folder

_OTHER_RUN = "Give another --out, rename the run in the file, or undo the change."


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """An evaluation of a run.

    Attributes:
      folder: The folder that eval.py names for it.
      config: The run's configuration, with the settings of this evaluation.
      settings: `section.key=value` of the settings that differ from the run's own.
      purpose: What it is for, in messages: "" for the ordinary one.
    """

    folder: pathlib.Path
    config: Config
    settings: tuple[str, ...] = ()
    purpose: str = ""


@dataclasses.dataclass(frozen=True)
class Member:
    """A run of a comparison.

    Attributes:
      name: Its name in the file, NAME or NAME@DATA.
      seed: Its training seed, if the file lists seeds.
      config: Its configuration.
      folder: Its folder.
      reset_levels: Whether it is also evaluated with each of its levels blind.
    """

    name: str
    seed: int | None
    config: Config
    folder: pathlib.Path
    reset_levels: bool = False

    @property
    def title(self) -> str:
        """Its name in messages."""
        return self.name if self.seed is None else f"{self.name}, seed {self.seed}"

    @property
    def argument(self) -> str:
        """The run on the command line of a comparison."""
        return f"{self.name}={self.folder}"

    @property
    def ordinary(self) -> Evaluation:
        """The evaluation with the run's own settings."""
        return Evaluation(self.folder / FOLDER, self.config)

    @property
    def resets(self) -> list[Evaluation]:
        """The evaluations with one level blind, the fastest first; empty without `reset_levels`."""
        count = self.config.model.hierarchy
        if not self.reset_levels or count < 2:
            return []
        own, found = configuration.as_plain(self.config), []
        for name in levels.names(count):
            flags = "".join("F" if other == name else "T" for other in levels.names(count))
            options = dataclasses.replace(
                self.config.evaluation, observe_levels=flags, fvd=False, lpips=False
            )
            config = dataclasses.replace(self.config, evaluation=options)
            changed = evaluations.changes(own, configuration.as_plain(config))
            folder = self.folder / evaluations.folder_name(changed)
            settings = configuration.overrides(self.config, config)
            purpose = f" with {levels.label(name, count)} blind"
            found.append(Evaluation(folder, config, tuple(settings), purpose))
        return found

    @property
    def reset_arguments(self) -> list[str]:
        """The evaluations with one level blind, on the command line of a comparison."""
        return [f"{self.name}={evaluation.folder}" for evaluation in self.resets]


def plan(
    path: str | pathlib.Path,
    out: str | pathlib.Path,
    protocol: str,
    overrides: Iterable[str] = (),
    only: Iterable[str] = (),
) -> list[Member]:
    """Reads the runs in a file of `config.load_comparison`, and checks all before anything starts.

    Each run has a folder in `out`: NAME or, for the seed 1 of a file with seeds, NAME-seed_1.
    `overrides` are settings of all runs. `only` selects runs by the names of their folders, or all
    seeds of a run by its name. Raises a UserError for a wrong configuration, scores that could not
    be compared, an unknown name, or a folder with another configuration.
    """
    comparison = configuration.load_comparison(path, overrides)
    members = [
        Member(
            name,
            seed,
            configuration.with_absolute_paths(config),
            pathlib.Path(out) / (name if seed is None else f"{name}-seed_{seed}"),
            comparison.reset_levels,
        )
        for name, by_seed in comparison.runs.items()
        for seed, config in by_seed.items()
    ]
    _check_scored_alike(path, members, protocol)
    members = _selected(members, only)
    for member in members:
        runs.check_label(runs.split_name(member.name)[0], path)
        run_folder.check(member.config, member.folder, _OTHER_RUN, throughout=True)
    return members


def _selected(members: Sequence[Member], only: Iterable[str]) -> list[Member]:
    """Returns the members with the given names, or all if there are none."""
    only = set(only)
    names = {name for m in members for name in (m.name, m.folder.name)}
    for name in sorted(only - names):
        message = unknown_name("run", name, dict.fromkeys(m.name for m in members))
        one_seed = (
            f" One seed of a run: {members[0].folder.name}." if members[0].seed is not None else ""
        )
        raise UserError(f"--only {name}: {message}{one_seed}")
    return [m for m in members if not only or only & {m.name, m.folder.name}]


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
    return done >= member.config.training.steps and all(
        _is_evaluated(member, each) for each in (member.ordinary, *member.resets)
    )


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
        # Existing evaluations are of an earlier training, and must not pass for this one's.
        for old in (member.ordinary.folder, *(each.folder for each in member.resets)):
            evaluating = f"evaluating into {old.name}"
            files.remove_folder(old, evaluating, "Wait until it ends, or stop it.")
        before = spent.get("training", 0) if done else 0
        seconds = scripts.run("train", folder, "training", before)
        if scripts.stopped_by:
            return
        _say(f"{heading}: trained in {costs.duration(seconds)}. Evaluating ...")
    else:
        _say(f"{heading}: trained already; evaluating, in {folder} ...")
    if not _is_evaluated(member, member.ordinary):
        _evaluate(member, member.ordinary, "evaluation", heading, scripts)
    for each in member.resets:
        if not scripts.stopped_by and not _is_evaluated(member, each):
            _say(f"{heading}: evaluating{each.purpose} ...")
            _evaluate(member, each, each.folder.name, heading, scripts)


def _evaluate(
    member: Member, evaluation: Evaluation, part: str, heading: str, scripts: Scripts
) -> None:
    seconds = scripts.run("eval", member.folder, part, settings=evaluation.settings)
    if scripts.stopped_by:
        return
    # Otherwise the newest checkpoint was damaged and has been set aside.
    if not _is_evaluated(member, evaluation):
        raise UserError(
            f"{member.folder}: the evaluation is not of step {member.config.training.steps:,} of"
            " this configuration. Run the same command to resume training and evaluate again."
        )
    _say(f"{heading}: evaluated{evaluation.purpose} in {costs.duration(seconds)}.")


def _is_evaluated(member: Member, evaluation: Evaluation) -> bool:
    """Returns whether there is an evaluation of the newest checkpoint with its settings."""
    try:
        (found,) = runs.read([f"{member.name}={evaluation.folder}"])
    except UserError:  # It is missing, damaged, or of another version.
        return False
    wanted, given = configuration.as_plain(evaluation.config), found.results["settings"]
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
