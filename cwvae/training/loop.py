"""Training: the loop around the compiled steps that logs, saves and can be stopped."""

import contextlib
import pathlib
import shlex
import signal
import sys
import time
from collections.abc import Iterator
from typing import NoReturn

import numpy as np
import tensorflow as tf
import tqdm

from cwvae import visualize
from cwvae.config import Config, TrainingConfig, as_plain
from cwvae.errors import TrainingStopped, UserError
from cwvae.run import checkpoints
from cwvae.run.logs import RunLog
from cwvae.training import memory, strategies
from cwvae.training import step as training_step
from cwvae.training.optimizer import Adam
from cwvae.video_model import VideoModel, as_frames

# Clips side by side in TensorBoard's videos.
_NUM_CLIPS = 4
# Seconds that a call of several steps may take: it is not interrupted by a request to stop.
_CALL_SECONDS = 0.5


def build_optimizer(config: TrainingConfig, model: VideoModel) -> Adam:
    """Returns Adam, built for the model's weights."""
    return Adam(
        model.trainable_variables, config.learning_rate, config.adam_epsilon, config.amsgrad
    )


class Trainer:
    """Trains a model on a data set in a run's folder, from its newest checkpoint on."""

    def __init__(
        self, config: Config, model: VideoModel, train_data, test_data, logdir, strategy=None
    ):
        """Restores the newest checkpoint, if there is one.

        Args:
          config: Of the run.
          model: To train, built in the strategy's scope.
          train_data: A data set, as `data_loaders.load` returns it.
          test_data: Another one, of held-out clips.
          logdir: The run's folder, which exists.
          strategy: Of `cwvae.training.strategies`; TensorFlow's default one without it.

        Raises:
          UserError: A batch that cannot be split over the devices, or checkpoints of which none is
            whole.
        """
        self.config, self.model, self.logdir = config, model, pathlib.Path(logdir)
        self.data = {"train": train_data, "test": test_data}
        self.strategy = strategy or tf.distribute.get_strategy()
        self.stopped_by, self._stop = None, False
        self._chief, self._several_workers = strategies.is_chief(), strategies.workers()[1] > 1
        replicas = self.strategy.num_replicas_in_sync
        _check_split(config.training, replicas)
        with self.strategy.scope():
            self.optimizer = build_optimizer(config.training, model)
        self._means, self._broken = _Means(), []
        self.step = self._restore()
        self._saved = self.step if checkpoints.steps(logdir) else -1
        jit = _use_jit(config.training.jit)
        step = training_step.build_step(config, model, self.optimizer, replicas, jit)
        self._train_steps = training_step.build_steps(config, step, self.optimizer, self.strategy)
        self._held_out_scalars = tf.function(
            lambda video, first: training_step.loss_and_scalars(
                config,
                model.kl_names,
                model.elbo(video, 0, (first, config.training.batch_size)),
            )[1],
            autograph=False,
        )

    def run(self) -> bool:
        """Trains until `training.steps`, or until it is asked to stop.

        Ctrl-C (SIGINT) and SIGTERM, which cluster schedulers send, stop it after the step under
        way; `stopped_by` then holds the signal: SIGTERM, if it was another worker that got one.

        Returns:
          Whether training is complete.

        Raises:
          TrainingStopped: `training.skip_limit` updates in a row that were not finite, or a last
            checkpoint that could not be written.
        """
        options = self.config.training
        self._log = RunLog(self.logdir, self.step) if self._chief else None
        batches = self._batches() if self.step < options.steps else None
        if batches:
            self._check_and_tell(batches)
        if self._chief and options.init_from and self._saved < 0:
            self._save()  # Whatever becomes of the source, the run can be gone on with.
        progress = tqdm.tqdm(
            total=options.steps,
            initial=self.step,
            unit="step",
            dynamic_ncols=True,
            smoothing=0.05,
            disable=not self._chief,
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

    def _interrupt(self, number: int, _) -> None:
        self.stopped_by = signal.Signals(number)
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            message = "Stopping after this step. Ctrl-C again ends at once, without saving."
        else:
            message = f"Stopping after this step: {self.stopped_by.name}."
        tqdm.tqdm.write(message, file=sys.stderr)

    def _restore(self) -> int:
        """Restores the newest whole checkpoint, if there is one, and returns its step."""
        if not checkpoints.steps(self.logdir) and not self._several_workers:
            return 0
        if not self._several_workers:
            meta = checkpoints.restore_newest(self.logdir, self.model, self.optimizer)
        else:
            meta = self._restore_together()
        self._means.restore(meta.get("log", {}))
        # Of those before it was stopped nobody remembers where they began.
        self.optimizer.skipped_in_a_row.assign(0)
        return int(meta.get("step", 0))

    def _restore_together(self) -> dict:
        """Lets the chief choose the checkpoint, so that all workers take the same."""
        meta = {}
        if self._chief and checkpoints.steps(self.logdir):
            meta = checkpoints.restore_newest(self.logdir, self.model, self.optimizer)
        chosen = strategies.total(self.strategy, meta["step"] + 1 if meta else 0) - 1
        if chosen < 0 or self._chief:
            return meta
        if chosen not in checkpoints.steps(self.logdir):
            raise UserError(
                f"{self.logdir}: the checkpoint of step {chosen}, from which the first worker goes"
                " on, is not there. The run's folder has to be one that all workers share."
            )
        path = checkpoints.find(self.logdir, chosen)
        return checkpoints.restore(path, self.model, self.optimizer)

    def _batches(self):
        """Returns an iterator over this process's parts of all batches from the step on."""
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

    def _check_and_tell(self, batches) -> None:
        """Says what training will take; refuses what does not fit into memory."""
        options, local = self.config.training, strategies.local_replicas(self.strategy)
        arguments = (tf.constant(self.step, tf.int64), tf.constant(1), tf.constant(0.0))
        graph = self._train_steps.get_concrete_function(batches, *arguments).graph
        cost = memory.cost(graph)
        # Where there are GPUs, each has its own memory and time; the cores of a CPU share theirs.
        devices = local if tf.config.list_logical_devices("GPU") else 1
        needed = _process_memory(cost.memory / devices)
        free = options.memory * 2**30 if options.memory else memory.available_memory()
        if needed > free:
            raise UserError(self._too_large(cost.memory / devices, free))
        if not self._chief:
            return
        machine = memory.measure(tf.bfloat16 if options.precision == "bfloat16" else tf.float32)
        seconds = cost.operations / machine.operations + cost.traffic / machine.bandwidth
        seconds /= devices
        left = options.steps - self.step
        tqdm.tqdm.write(
            f"{self.model.count_trainable():,} weights. A step of {options.batch_size} clips of"
            f" {options.seq_len} frames will take about {needed / 2**30:.2g} GiB of the"
            f" {free / 2**30:.3g} GiB free and {seconds:.2g} s: {left:,} steps about"
            f" {tqdm.tqdm.format_interval(left * seconds)}.",
            file=sys.stderr,
        )

    def _too_large(self, tensors: float, free: float) -> str:
        """Says what would make a step fit that holds so many bytes of tensors at once."""
        options, replicas = self.config.training, self.strategy.num_replicas_in_sync
        fixed = 8 * self.model.count_params()  # The gradients and what they are added up in.
        per_device = options.batch_size // replicas
        fitting = [
            pieces
            for pieces in range(options.accumulate + 1, per_device + 1)
            if per_device % pieces == 0
            and _process_memory(fixed + (tensors - fixed) * options.accumulate / pieces) < free
        ]
        if fitting:
            advice = (
                f"--set training.accumulate={fitting[0]} computes the same batch in"
                f" {fitting[0]} pieces, which should fit;"
            )
        else:
            advice = "Even one clip at a time might not fit: a shorter training.seq_len,"
        # It computes frames some at a time: a batch's statistics would be others.
        checkpointing = " or --set training.gradient_checkpointing=100"
        if self.config.model.batch_normalized:
            checkpointing = ""
        return (
            f"a training step would take about {_process_memory(tensors) / 2**30:.3g} GiB of"
            f" memory, and {free / 2**30:.3g} GiB may be taken. {advice} a smaller"
            f" training.batch_size{checkpointing} needs less, too. (training.memory sets the limit,"
            " in GiB, if you know better.)"
        )

    def _loop(self, progress, batches) -> None:
        options, clock = self.config.training, _Clock()
        while self.step < options.steps and not self._stop:
            columns = self._call(batches, self._steps_to_call(clock))
            rows = [
                dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)
            ]
            clock.count(len(rows), options.batch_size * options.seq_len)
            for scalars in rows:
                self._account(scalars)
            progress.set_postfix_str(_summary(rows[-1], clock.speed()), refresh=False)
            progress.update(len(rows))
            if not self._several_workers:
                self._stop = self.stopped_by is not None
            elif rows[-1]["stop"] > 0:  # All stop at one step, whichever of them was asked to.
                self._stop, self.stopped_by = True, self.stopped_by or signal.SIGTERM
            last = self._stop or self.step == options.steps
            if len(self._broken) >= options.skip_limit:
                self._stop_broken()
            if self._chief:
                if self.step % options.log_every == 0 or self.step == options.steps:
                    self._log_means(clock)
                with clock.paused():
                    if self.step % options.video_every == 0 or self.step == options.steps:
                        self._log_held_out()
                        self._log_videos()
                    # Not amid updates that are left out: if they do not end, it is the step before
                    # them that is to be gone on from.
                    if self.step % options.save_every == 0 and not last and not self._broken:
                        self._save()
        self._save_last()

    def _steps_to_call(self, clock: "_Clock") -> int:
        """Returns how many steps to run in one call: to the next thing that is to be done."""
        options = self.config.training
        every = (options.log_every, options.video_every, options.save_every)
        left = min(options.steps - self.step, *(n - self.step % n for n in every))
        if clock.seconds is None or self._several_workers:
            return 1  # All workers have to take the same number, and to hear of a stop soon.
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
                f"after step {self.step} the data could not be read: {failure} Training goes on"
                " from the newest checkpoint: python train.py --logdir"
                f" {shlex.quote(str(self.logdir))}"
            ) from None
        return {name: column.numpy().tolist() for name, column in columns.items()}

    def _account(self, scalars: dict[str, float]) -> None:
        """Counts a step that was run."""
        if scalars["finite"]:
            self._broken = []
            self._means.add({k: v for k, v in scalars.items() if k not in ("finite", "stop")})
        else:
            if not self._broken:
                self._before_broken = self._means.state()
            self._broken.append(scalars)
            self._means.skipped += 1
        self.step += 1

    def _log_means(self, clock: "_Clock") -> None:
        """Logs the means over the steps since the last time."""
        self._log.scalars(self.step, self._means.take() | {"frames_per_second": clock.speed()})
        clock.restart()

    def _stop_broken(self) -> NoReturn:
        """Saves the last good step, and says which step and term broke."""
        count = len(self._broken)
        self.step -= count
        self._means.restore(self._before_broken)
        self.optimizer.skipped.assign_sub(count)
        self.optimizer.skipped_in_a_row.assign(0)
        scalars = {k: v for k, v in self._broken[0].items() if k not in ("finite", "stop")}
        broken = [name for name, value in scalars.items() if not np.isfinite(value)]
        # What is not finite spreads from the slowest level down to the likelihood and the loss: the
        # first of these terms is where it came from.
        kl = [name for name in reversed(broken) if name.endswith("_sum")]
        term = next(name for name in [*kl, "nll", "gradient_norm", *broken] if name in broken)
        finite = ", ".join(f"{k} {v:.4g}" for k, v in scalars.items() if k not in broken)
        message = (
            f"step {self.step + 1}: {term} is {scalars[term]}"
            f" (not finite: {', '.join(broken)}; finite: {finite or 'none'}), and no update could"
            f" be applied from there on, {count} in a row (training.skip_limit)."
        )
        try:
            self._save_last()
        except TrainingStopped as error:  # A full disk, too.
            raise TrainingStopped(f"{message} Besides, {error}") from None
        folder = shlex.quote(str(self.logdir))
        raise TrainingStopped(
            f"{message} {checkpoints.find(self.logdir)} holds the weights of step {self.step}, the"
            " last that was applied. A lower training.learning_rate or training.clip_norm, or"
            " training.precision=float32, may help: in a new run from those weights, as in"
            f" python train.py --config {folder}/config.yml --logdir NEW --init-from {folder}"
            " --set training.learning_rate=1e-4"
        )

    def _save_last(self) -> None:
        """Saves if there is something new; no worker goes on before the chief has done so."""
        if self._chief and self.step > self._saved:
            self._save(last=True)
        if self._several_workers:
            strategies.total(self.strategy, 0)

    def _save(self, last: bool = False) -> None:
        """Saves a checkpoint; where it cannot be written, says so, and ends training if `last`."""
        options = self.config.training
        meta = {"config": as_plain(self.config), "log": self._means.state()}
        self._log.sync()  # No checkpoint is newer than its log, even after a power cut.
        try:
            checkpoints.save(
                self.logdir,
                self.step,
                self.model,
                self.optimizer,
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
                raise TrainingStopped(
                    f"{message} Make room, and go on from there:"
                    f" python train.py --logdir {shlex.quote(str(self.logdir))}"
                ) from None
            tqdm.tqdm.write(f"warning: {message} Training goes on; make room.", file=sys.stderr)
        else:
            self._saved = self.step

    def _log_held_out(self) -> None:
        """Logs the ELBO's terms on one batch of held-out clips."""
        options, data = self.config.training, self.data["test"]
        video = data.batch(options.batch_size, min(options.seq_len, data.clips.longest), 0, 0)
        # As large as the pieces that training takes at a time: they are known to fit.
        size = options.batch_size // (self.strategy.num_replicas_in_sync * options.accumulate)
        means = _Means()
        for first in range(0, options.batch_size, size):
            piece = tf.constant(video[first : first + size])
            scalars = self._held_out_scalars(piece, tf.constant(first))
            means.add({f"test/{k}": float(v) for k, v in scalars.items()})
        self._log.scalars(self.step, means.take())

    def _log_videos(self) -> None:
        """Logs open-loop predictions beside the truth and their error."""
        context = self.config.evaluation.context
        for split, data in self.data.items():
            length = min(self.config.training.video_length, data.clips.longest)
            shown = data.at_least(length)[:_NUM_CLIPS]
            clips = np.stack([data.clip(i, 0, length) for i in shown])
            seen, truth = clips[:, :context], as_frames(clips).numpy()
            stretches = [*self.model.predict_chunks(seen, length - context, seed=0)]
            shown = np.concatenate([truth[:, :context], *(s.frames for s in stretches)], 1)
            begins = [self.model.boundaries(clips, 0), None, None]
            if begins[0] is not None:
                parts = [self.model.boundaries(seen, 0), *(s.boundaries for s in stretches)]
                begins[:2] = begins[0].numpy(), np.concatenate(parts, 1)
            rows = [list(truth), list(shown), list(visualize.error_frames(truth, shown))]
            rows = visualize.mark_segments(rows, begins)
            video = visualize.mark_context(visualize.grid(rows), context)
            video = visualize.label_rows(video, ["truth", "prediction", "error"])
            self._log.video(self.step, f"open_loop/{split}", video)


class _Means:
    """Running means of scalars by name.

    Attributes:
      skipped: Steps that have none.
    """

    def __init__(self):
        self.restore({})

    def restore(self, state: dict) -> None:
        """Goes on from a `state`; from nothing, where it is empty."""
        self._count, self.skipped = state.get("count", 0), state.get("skipped", 0)
        self._sums = dict(state.get("sums", {}))

    def state(self) -> dict:
        """Returns what `restore` takes, as JSON writes it."""
        return {"count": self._count, "skipped": self.skipped, "sums": self._sums}

    def add(self, scalars: dict[str, float]) -> None:
        """Takes in the scalars of one step."""
        self._count += 1
        self._sums = {name: self._sums.get(name, 0.0) + value for name, value in scalars.items()}

    def take(self) -> dict[str, float]:
        """Returns the means, and `skipped_updates` if there were any, and begins anew."""
        means = {name: value / self._count for name, value in self._sums.items()}
        if self.skipped:
            means["skipped_updates"] = self.skipped
        self.restore({})
        return means


class _Clock:
    """Frames per second of training alone: without the first call, which compiles, and pauses.

    Attributes:
      seconds: A step takes; None before there is one to time.
    """

    def __init__(self):
        self._frames, self._start, self.seconds = 0, None, None

    def count(self, steps: int, frames: int) -> None:
        """Counts the frames of steps that have just ended, `frames` each."""
        if self._start is None:
            self._start = time.perf_counter()
        else:
            self._frames += steps * frames
            self.seconds = frames / self.speed()

    def speed(self) -> float:
        """Returns frames per second; 0 before there is a step to time."""
        return self._frames / (time.perf_counter() - self._start) if self._frames else 0.0

    def restart(self) -> None:
        """Begins to count anew."""
        self._frames, self._start = 0, time.perf_counter()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leaves out the time that the block takes."""
        began = time.perf_counter()
        yield
        self._start += time.perf_counter() - began


def _check_split(options: TrainingConfig, replicas: int) -> None:
    parts = replicas * options.accumulate
    if options.batch_size % parts:
        raise UserError(
            f"training.batch_size = {options.batch_size} cannot be split evenly over {replicas}"
            f" device(s), each in training.accumulate = {options.accumulate} piece(s): make it a"
            f" multiple of {parts}, as {-(-options.batch_size // parts) * parts}."
        )


def _process_memory(tensors: float) -> float:
    """Returns the bytes that a process takes for a step that holds so many of tensors at once.

    What kernels and allocators take on top, as measured from 0.1 to 1.7 GiB of tensors.
    """
    return 1.3 * tensors + 0.2 * 2**30


def _use_jit(option: str | bool) -> bool:
    """Whether XLA compiles the step; `auto`: on GPUs. CPUs take three times as long with it."""
    return bool(tf.config.list_physical_devices("GPU")) if option == "auto" else option


def _summary(scalars: dict[str, float], speed: float) -> str:
    """The progress bar's text."""
    kl = " ".join(f"{value:.1f}" for name, value in scalars.items() if name.endswith("_sum"))
    return f"loss {scalars['loss']:.1f}, kl {kl}, {speed:.0f} frames/s"
