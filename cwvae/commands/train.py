"""Trains a model.

    cwvae train --config configs/quickstart.yml [--logdir DIR] [--set section.key=value ...]
    cwvae train --logdir DIR        resumes a run
    cwvae train --config FILE --init-from RUN       starts from another run's weights

The default of --logdir is logs/<name of the configuration>.
"""

import argparse
import contextlib
import json
import pathlib
import shlex
import signal
import sys

import data_loaders
from cwvae import config as configuration
from cwvae import export
from cwvae.config import Config
from cwvae.errors import UserError, exit_on_user_error
from cwvae.installation import command
from cwvae.run import checkpoints, history
from cwvae.run import folder as run_folder
from cwvae.startup import say, starting_tensorflow
from cwvae.training import strategies


def train(
    config: Config, logdir: str | pathlib.Path, data=None, show_progress: bool = True
) -> signal.Signals | None:
    """Trains the model of a configuration, from the newest checkpoint in `logdir`.

    Args:
      config: The configuration.
      logdir: The run's folder.
      data: The training and the test data set; None for those of the configuration.
      show_progress: Whether to show a progress bar and an estimate of the run on stderr.

    Returns:
      The signal that stopped training after it saved (Ctrl-C is SIGINT); None if it is complete.

    Raises:
      UserError: The folder or data set cannot be used, or training failed.
    """
    _check_no_export(logdir)
    strategies.check(config.training.strategy)
    config = run_folder.keep_precision(config, logdir)
    (number, count), chief = strategies.workers(), strategies.is_chief()
    # Preparing the data may take hours, so this comes first.
    run_folder.check(config, logdir)
    if count == 1 and (done := run_folder.steps_if_trained(config, logdir)) is not None:
        _report_trained(config, logdir, done)
        return None
    if config.training.init_from and not checkpoints.steps(logdir):
        changed = export.check_source(config.training.init_from, config)
        if changed and chief:
            lines = "\n  ".join(changed)
            print(
                f"warning: {config.training.init_from}: the weights fit, but they were trained with"
                f" other settings of the model (-> new):\n  {lines}",
                file=sys.stderr,
            )
    data = data or [
        data_loaders.load(split=split, **config.data_options()) for split in ("train", "test")
    ]
    skipped = run_folder.check_lengths(config, *data)
    with run_folder.locked(logdir) if chief else contextlib.nullcontext():
        source = None if checkpoints.steps(logdir) else config.training.init_from
        if chief:
            run_folder.prepare(config, logdir, data[0])
            run_folder.report_skipped(skipped, config, logdir)
        if count > 1:
            message = f"Worker {number} of the {count} in TF_CONFIG: waiting for the others."
            print(message, file=sys.stderr)
        # TensorFlow is slow to start, so the user's mistakes are reported first.
        with starting_tensorflow():
            from cwvae import factory
            from cwvae.training import choices, loop

            strategy = strategies.build(config.training.strategy)
        with strategies.reporting_lost_workers():
            content = [configuration.as_plain(config), data[0].fingerprint]
            strategies.check_same(strategy, json.dumps(content))
            config = choices.precision(config, strategy)
            choices.kernels(config)
            with strategy.scope():
                model = factory.build(config, config.training.seed)
                if source:
                    export.load_weights(model, source)
            trainer = loop.Trainer(config, model, *data, logdir, strategy)
            if chief:
                _keep_settings(config, logdir, trainer.step)
            return None if trainer.run(show_progress) else trainer.stopped_by


def _keep_settings(config: Config, logdir: str | pathlib.Path, step: int) -> None:
    """Writes config.yml, and records the settings that change at the step of a resume."""
    resumes = bool(checkpoints.steps(logdir))
    changed = history.changes(config, logdir) if resumes else {}
    run_folder.save_config(config, logdir)
    if resumes:
        history.record(logdir, step, changed)
        say(f"Resuming from step {step:,} ...")
    if changed:
        path = pathlib.Path(logdir) / history.FILE
        say(f"Changed settings: {history.as_text(changed)} (recorded in {path}).")


def _check_no_export(logdir: str | pathlib.Path) -> None:
    if export.is_export(logdir):
        folder = shlex.quote(str(logdir))
        raise UserError(
            f"--logdir {logdir}: this is an export, which has no state to resume from. Start a new"
            f" run from its weights: {command('train')} --config {folder}/config.yml --logdir NEW"
            f" --init-from {folder}"
        )


def _report_trained(config: Config, logdir: str | pathlib.Path, done: int) -> None:
    """Says that there is nothing left to train, and keeps settings that may still change."""
    steps, folder = config.training.steps, shlex.quote(str(logdir))
    if done > steps:
        print(
            f"{logdir} was trained already: {done} steps, more than training.steps = {steps}. Its"
            " config.yml stays as it is."
        )
        return
    more = f"{command('train')} --logdir {folder} --set training.steps={2 * done}"
    late = history.changes(config, logdir, lambda its: its.steers_training)
    late.pop("training.steps", None)  # A run that was stopped at this step, and is to end there.
    if late:
        sets = "".join(f" --set {name}={json.dumps(new)}" for name, (_, new) in late.items())
        print(
            f"{logdir} was trained already: {done} steps. Its config.yml stays as it is, because no"
            f" step is left to train with {history.as_text(late)}. To train longer with that:"
            f" {more}{sets}"
        )
        return
    with run_folder.locked(logdir):
        run_folder.save_config(config, logdir)
    print(f"{logdir} was trained already: {done} steps. To train longer: {more}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", help="a YAML file, such as those in configs/")
    parser.add_argument("--logdir", help="the run's folder")
    parser.add_argument(
        "--init-from",
        metavar="PATH",
        help="a run, an export or a checkpoint whose weights to start from",
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="section.key=value", help="may be repeated"
    )
    arguments = configuration.parse_arguments(parser)
    if not arguments.config and not arguments.logdir:
        parser.error("give --config for a new run, or --logdir to resume one")
    return arguments


def main() -> int:
    """Runs the command line; returns the exit code."""
    arguments = _arguments()
    with exit_on_user_error():
        logdir = arguments.logdir or f"logs/{pathlib.Path(arguments.config).stem}"
        _check_no_export(logdir)
        path = arguments.config or run_folder.config_path(logdir)
        changes = list(arguments.set)
        if arguments.init_from:
            # Absolute, so that the run can be resumed from another working directory.
            source = str(pathlib.Path(arguments.init_from).resolve())
            changes.append(f"training.init_from={json.dumps(source)}")
        config = configuration.with_absolute_paths(configuration.load(path, changes))
        stopped_by = train(config, logdir)
    folder = shlex.quote(str(logdir))
    if stopped_by:
        print(f"Stopped and saved. To resume: {command('train')} --logdir {folder}")
        return 128 + stopped_by
    print(f"Trained. To evaluate: {command('eval')} --logdir {folder}")
    print(f"To see the curves: tensorboard --logdir {folder}")
    return 0
