"""The training loop: runs compiled steps, logs, saves checkpoints, and stops when asked to."""

import contextlib
import pathlib
import shlex
import signal
import sys
from collections.abc import Sequence
from typing import NoReturn

import numpy as np
import tensorflow as tf
import tqdm

from cwvae import factory, levels
from cwvae.config import Config, TrainingConfig, as_plain, as_yaml, properties
from cwvae.errors import TrainingStopped, UserError
from cwvae.installation import command
from cwvae.run import checkpoints, history
from cwvae.run.logs import RunLog
from cwvae.startup import say
from cwvae.training import memory, monitoring, schedule, strategies
from cwvae.training import step as training_step
from cwvae.training.average import WeightAverage
from cwvae.training.optimizer import Adam
from cwvae.video_model import VideoModel

# The longest call of several steps, in seconds: a request to stop does not interrupt it.
_CALL_SECONDS = 0.5


def build_optimizer(config: TrainingConfig, model: VideoModel) -> Adam:
    """Returns Adam, built for the model's weights."""
    return Adam(model.trainable_weights, config.learning_rate, config.adam_epsilon, config.amsgrad)


class Trainer:
    """Trains a model on a data set in a run's folder, from its newest checkpoint."""

    def __init__(
        self, config: Config, model: VideoModel, train_data, test_data, logdir, strategy=None
    ):
        """Restores the newest checkpoint, if there is one.

        Args:
          config: The configuration of the run.
          model: The model to train, built in the strategy's scope.
          train_data: A data set, as `data_loaders.load` returns it.
          test_data: Another one, of held-out clips.
          logdir: The run's folder, which exists.
          strategy: A strategy of `cwvae.training.strategies`; None for TensorFlow's default one.

        Raises:
          UserError: The batch cannot be split over the devices, or no checkpoint is whole.
        """
        config = factory.with_precision(config)  # A checkpoint never says auto.
        self.config, self.model, self.logdir = config, model, pathlib.Path(logdir)
        self.data = {"train": train_data, "test": test_data}
        self.strategy = strategy or tf.distribute.get_strategy()
        self.stopped_by, self._stop, self._shown = None, False, False
        self._chief, self._several_workers = strategies.is_chief(), strategies.workers()[1] > 1
        self._resume = f"{command('train')} --logdir {shlex.quote(str(logdir))}"
        options, replicas = config.training, self.strategy.num_replicas_in_sync
        parts = replicas * options.accumulate
        if options.batch_size % parts:
            raise UserError(
                f"training.batch_size = {options.batch_size} cannot be split evenly over"
                f" {replicas} device(s), each with training.accumulate = {options.accumulate}"
                f" piece(s). Make it a multiple of {parts}, for example"
                f" {-(-options.batch_size // parts) * parts}."
            )
        with self.strategy.scope():
            self.optimizer = build_optimizer(options, model)
            self.average = WeightAverage(model.weights, options.ema) if options.ema else None
        self._means, self._broken = monitoring.Means(), []
        self.step = self._restore()
        self._saved = self.step if checkpoints.steps(logdir) else -1
        self._held_out = monitoring.HeldOut(config, model, self.data, options.batch_size // parts)
        jit = factory.uses_jit(config)
        step = training_step.build_step(config, model, self.optimizer, replicas, jit, self.average)
        self._train_steps = training_step.build_steps(config, step, self.optimizer, self.strategy)

    def run(self, show_progress: bool = True) -> bool:
        """Trains until `training.steps`, or until it is asked to stop.

        Ctrl-C (SIGINT) and SIGTERM, which cluster schedulers send, stop training after the current
        step. `stopped_by` then holds the signal: SIGTERM if another worker received one.

        Args:
          show_progress: Whether to show a progress bar and an estimate of the run on stderr.

        Returns:
          Whether training is complete.

        Raises:
          TrainingStopped: `training.skip_limit` updates in a row were not finite, the data cannot
            be read, or the last checkpoint cannot be written.
        """
        options = self.config.training
        self._shown = show_progress and self._chief
        self._log = RunLog(self.logdir, self.step) if self._chief else None
        batches = None
        if self.step < options.steps:
            memory.check_batch(self.config)
            if self._chief:
                say("Tracing the training step ...")
            batches = self._batches()
            self._check_memory(batches)
            if self._log:
                changes = history.describe(self.logdir)
                self._log.settings(as_yaml(self.config), hyperparameters(self.config), changes)
        if self._chief and options.init_from and self._saved < 0:
            self._save()  # The run can then be resumed without the source of its weights.
        self._bar = self._shown and sys.stderr.isatty()  # Otherwise a line per log.
        progress = tqdm.tqdm(
            total=options.steps,
            initial=self.step,
            unit="step",
            dynamic_ncols=True,
            smoothing=0.05,
            disable=not self._bar,
        )
        signals = (signal.SIGINT, signal.SIGTERM)
        previous = {number: signal.signal(number, self._interrupt) for number in signals}
        try:
            self._loop(progress, batches)
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
            progress.close()
            if self._log:
                self._log.close()
        return self.step >= options.steps

    def _loop(self, progress, batches) -> None:
        options, clock = self.config.training, monitoring.Clock()
        while self.step < options.steps and not self._stop:
            columns = self._call(batches, self._steps_to_call(clock))
            rows = [
                dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)
            ]
            clock.count(len(rows), options.batch_size * options.seq_len)
            for scalars in rows:
                self._account(scalars)
            progress.set_postfix_str(
                summary(rows[-1], self.model.kl_names, clock.speed()), refresh=False
            )
            progress.update(len(rows))
            if not self._several_workers:
                self._stop = self.stopped_by is not None
            elif rows[-1]["stop"] > 0:  # All stop after the same step, whichever was asked to.
                self._stop, self.stopped_by = True, self.stopped_by or signal.SIGTERM
            if len(self._broken) >= options.skip_limit:
                self._stop_broken()
            if self._chief:
                self._log_and_save(clock, progress)
        self._save_last()

    def _steps_to_call(self, clock: monitoring.Clock) -> int:
        """Returns how many steps to run in one call, at most until the next log or checkpoint."""
        options = self.config.training
        every = (options.log_every, options.video_every, options.save_every)
        left = min(options.steps - self.step, *(n - self.step % n for n in every))
        if clock.seconds is None or self._several_workers:
            return 1  # Workers must run the same number, and learn of a stop soon.
        return min(left, options.steps_per_call, max(1, int(_CALL_SECONDS / clock.seconds)))

    def _call(self, batches, count: int) -> dict[str, list[float]]:
        """Runs up to `count` steps; returns their scalars by name, one entry per step."""
        number, stop = tf.constant(self.step, tf.int64), float(self.stopped_by is not None)
        try:
            columns = self._train_steps(batches, number, tf.constant(count), tf.constant(stop))
        except tf.errors.OpError:
            failure = self.data["train"].failure
            if failure is None:
                raise
            raise TrainingStopped(
                f"after step {self.step} the data could not be read: {failure} To resume from the"
                f" newest checkpoint: {self._resume}"
            ) from None
        return {name: column.numpy().tolist() for name, column in columns.items()}

    def _account(self, scalars: dict[str, float]) -> None:
        """Counts a step that was run."""
        if scalars["finite"]:
            self._broken = []
            self._means.add(_logged(scalars))
        else:
            if not self._broken:
                self._before_broken = self._means.state()
            self._broken.append(scalars)
            self._means.skipped += 1
        self.step += 1

    def _log_and_save(self, clock: monitoring.Clock, progress: tqdm.tqdm) -> None:
        """Does what is due after the current step."""
        options, ended = self.config.training, self.step == self.config.training.steps
        if self.step % options.log_every == 0 or ended:
            self._log_scalars(clock)
        with clock.paused():
            if self.step % options.video_every == 0 or ended:
                self._log_held_out(progress)
            # Not during a streak of skipped updates: if it does not end, training must be resumed
            # from before it.
            if self.step % options.save_every == 0 and not (ended or self._stop or self._broken):
                self._save()

    def _log_scalars(self, clock: monitoring.Clock) -> None:
        """Logs the means since the last time, and the state of the last step."""
        options, means, speed = self.config.training, self._means.take(), clock.speed()
        rate = schedule.learning_rate(options, self.step - 1)
        self._log.scalars(self.step, means | {"learning_rate": rate, "frames_per_second": speed})
        if not self._bar:
            words = summary(means, self.model.kl_names, speed) if "loss" in means else "all skipped"
            left = (options.steps - self.step) * (clock.seconds or 0)
            say(
                f"Step {self.step:,} of {options.steps:,}: {words},"
                f" {tqdm.tqdm.format_interval(left)} left"
            )
        clock.restart()

    def _log_held_out(self, progress: tqdm.tqdm) -> None:
        """Logs losses and videos of held-out clips, of the averaged weights if there are any."""
        if self._bar:
            progress.set_description("held-out clips")
        else:
            say("Predicting held-out clips ...")
        with self.average.applied() if self.average else contextlib.nullcontext():
            self._log.scalars(self.step, self._held_out.scalars())
            for split, frames in self._held_out.videos():
                self._log.video(self.step, split, frames)
        progress.set_description()

    def _interrupt(self, number: int, _) -> None:
        self.stopped_by = signal.Signals(number)
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            message = "Stopping after this step. Ctrl-C again stops at once, without saving."
        else:
            message = f"Stopping after this step: {self.stopped_by.name}."
        tqdm.tqdm.write(message, file=sys.stderr)

    def _stop_broken(self) -> NoReturn:
        """Saves the last good step, and reports which step and term broke."""
        count = len(self._broken)
        self.step -= count
        self._means.restore(self._before_broken)
        self.optimizer.skipped.assign_sub(count)
        self.optimizer.skipped_in_a_row.assign(0)
        scalars = _logged(self._broken[0])
        broken = [name for name, value in scalars.items() if not np.isfinite(value)]
        # Infinities spread from the slowest level down to the likelihood and the loss, so the first
        # broken term in this order is the origin.
        kl = [name for name in reversed(broken) if name.endswith("_sum")]
        term = next(name for name in [*kl, "nll", "gradient_norm", *broken] if name in broken)
        finite = ", ".join(f"{k} {v:.4g}" for k, v in scalars.items() if k not in broken)
        message = (
            f"step {self.step + 1}: {term} is {scalars[term]} (not finite: {', '.join(broken)};"
            f" finite: {finite or 'none'}). All updates from there were skipped, {count} in a row"
            " (training.skip_limit)."
        )
        try:
            self._save_last()
        except TrainingStopped as error:  # For example, the disk is full.
            raise TrainingStopped(f"{message} Besides, {error}") from None
        folder = shlex.quote(str(self.logdir))
        raise TrainingStopped(
            f"{message} {checkpoints.find(self.logdir)} holds the weights of step {self.step}, the"
            " last that was applied. A lower training.learning_rate or training.clip_norm, or"
            " training.precision=float32, may help. Start a new run from those weights, as in"
            f" {command('train')} --config {folder}/config.yml --logdir NEW --init-from {folder}"
            " --set training.learning_rate=1e-4"
        )

    def _save_last(self) -> None:
        """Saves if there is a new step. All workers wait until the chief has saved."""
        if self._chief and self.step > self._saved:
            self._save(last=True)
        if self._several_workers:
            strategies.total(self.strategy, 0)

    def _save(self, last: bool = False) -> None:
        """Saves a checkpoint. A failure is a warning, or ends training if `last`."""
        options = self.config.training
        meta = {"config": as_plain(self.config), "log": self._means.state()}
        self._log.sync()  # The log must reach up to the checkpoint, even after a power cut.
        try:
            checkpoints.save(
                self.logdir,
                self.step,
                self.model,
                self.optimizer,
                self.average,
                keep=options.keep,
                keep_every=options.keep_every,
                meta=meta,
            )
        except OSError as error:
            kept = [*checkpoints.steps(self.logdir).values()]
            newest = f"The newest whole one is {kept[-1]}." if kept else "There is none so far."
            message = (
                f"the checkpoint of step {self.step} could not be written to {self.logdir}:"
                f" {error.strerror or error}. {newest}"
            )
            if last:
                raise TrainingStopped(f"{message} Make room, and resume: {self._resume}") from None
            message = f"warning: {message} Training continues. Make room."
            tqdm.tqdm.write(message, file=sys.stderr)
        else:
            self._saved = self.step

    def _restore(self) -> int:
        """Restores the newest whole checkpoint, if there is one, and returns its step."""
        meta = {}
        if self._chief and checkpoints.steps(self.logdir):
            meta = checkpoints.restore_newest(self.logdir, self.model, self.optimizer, self.average)
        if self._several_workers:  # All must take the checkpoint that the chief chose.
            chosen = strategies.total(self.strategy, meta["step"] + 1 if meta else 0) - 1
            if not self._chief and chosen >= 0:
                if chosen not in checkpoints.steps(self.logdir):
                    raise UserError(
                        f"{self.logdir}: the checkpoint of step {chosen} is not there, but the"
                        " first worker resumes from it. Give a folder that all workers share."
                    )
                path = checkpoints.find(self.logdir, chosen)
                meta = checkpoints.restore(path, self.model, self.optimizer, self.average)
        self._means.restore(meta.get("log", {}))
        # The start of a streak of skipped updates is not saved, so the count restarts.
        self.optimizer.skipped_in_a_row.assign(0)
        return int(meta.get("step", 0))

    def _batches(self):
        """Returns an iterator over this process's parts of all batches from the current step."""
        options, replicas = self.config.training, self.strategy.num_replicas_in_sync

        def parts(context: tf.distribute.InputContext) -> tf.data.Dataset:
            local = replicas // context.num_input_pipelines
            first = context.input_pipeline_id * local
            return self.data["train"].batches(
                options.batch_size,
                options.seq_len,
                options.seed,
                self.step,
                shards=replicas,
                own=range(first, first + local),
            )

        return iter(self.strategy.distribute_datasets_from_function(parts))

    def _check_memory(self, batches) -> None:
        """Checks that a step fits into memory, and shows an estimate of the run."""
        arguments = (tf.constant(self.step, tf.int64), tf.constant(1), tf.constant(0.0))
        graph = self._train_steps.get_concrete_function(batches, *arguments).graph
        left = self.config.training.steps - self.step
        estimate = memory.check(graph, self.config, self.model, self.strategy, left)
        if self._shown:
            tqdm.tqdm.write(estimate, file=sys.stderr)


def _logged(scalars: dict[str, float]) -> dict[str, float]:
    """Returns the scalars of a step without those for the loop alone."""
    return {name: value for name, value in scalars.items() if name not in ("finite", "stop")}


def hyperparameters(config: Config) -> dict[str, bool | int | float | str]:
    """Returns the settings that decide what a model becomes, without paths and nulls."""
    found = {}
    for name in ("model", "data", "training"):
        section = getattr(config, name)
        for key, its in properties(section).items():
            value = getattr(section, key)
            if value is not None and not its.is_path and (its.steers_training or not its.resumable):
                found[f"{name}.{key}"] = str(list(value)) if isinstance(value, tuple) else value
    return found


def summary(scalars: dict[str, float], kl_names: Sequence[str], speed: float) -> str:
    """Returns the text of the progress bar: `loss 120.4, kl fastest 113.6, slowest 4.2, ...`.

    Args:
      scalars: Scalars by name, as they are logged.
      kl_names: `kl_names` of the model.
      speed: Frames per second.
    """
    terms = [
        f"{levels.short_label(name, len(kl_names))} {scalars[f'kl/{name}_sum']:.1f}".strip()
        for name in kl_names
    ]
    return f"loss {scalars['loss']:.1f}, kl {', '.join(terms)}, {speed:.0f} frames/s"
