"""Training: the compiled step, and the loop around it that logs, saves and can be stopped."""

import contextlib
import pathlib
import signal
import sys
import time
from collections.abc import Iterator
from typing import NoReturn

import keras
import numpy as np
import tensorflow as tf
import tqdm

from cwvae import checkpoints, visualize
from cwvae.config import Config, TrainingConfig, per_level
from cwvae.errors import TrainingStopped
from cwvae.logs import RunLog
from cwvae.model import Elbo, VideoModel, as_frames, training_loss

# Clips side by side in TensorBoard's videos.
_NUM_CLIPS = 4


class FusedAdam(keras.optimizers.Adam):
    """Keras' Adam, each variable updated by one fused operation in place of a dozen."""

    def update_step(self, gradient, variable, learning_rate) -> None:
        """Updates one variable (called by Keras)."""
        index = self._get_variable_index(variable)
        number = tf.cast(self.iterations + 1, tf.float32)
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=self._momentums[index].value.handle,
            v=self._velocities[index].value.handle,
            beta1_power=self.beta_1**number,
            beta2_power=self.beta_2**number,
            lr=tf.cast(learning_rate, tf.float32),
            beta1=self.beta_1,
            beta2=self.beta_2,
            epsilon=self.epsilon,
            grad=gradient,
        )


def build_optimizer(config: TrainingConfig, model: VideoModel) -> FusedAdam:
    """Returns Adam, built for the model's weights."""
    optimizer = FusedAdam(config.learning_rate, epsilon=config.adam_epsilon)
    optimizer.build(model.trainable_variables)
    return optimizer


def build_step(config: Config, model: VideoModel, optimizer: keras.optimizers.Optimizer):
    """Returns the compiled training step.

    It takes clips [B, T, H, W, C] and the step's number, and returns scalars by name: `loss`, `nll`
    in nats per frame, each level's KL in nats summed over the clip (`_sum`) and per active step
    (`_per_step`), entropies in nats, `gradient_norm` before clipping. An update that is not finite
    is not applied.
    """
    seed = config.training.seed

    @tf.function
    def step(video: tf.Tensor, number: tf.Tensor) -> dict[str, tf.Tensor]:
        latents = tf.random.fold_in(tf.constant([seed, 0], tf.int64), number)
        with tf.GradientTape() as tape:
            loss, scalars = loss_and_scalars(config, model.elbo(video, latents))
        gradients = tape.gradient(loss, model.trainable_variables)
        norm = tf.linalg.global_norm(gradients)
        clipped = tf.cond(
            norm > config.training.clip_norm,
            lambda: tf.clip_by_global_norm(gradients, config.training.clip_norm, norm)[0],
            lambda: gradients,
        )
        tf.cond(
            tf.math.is_finite(loss) & tf.math.is_finite(norm),
            lambda: optimizer.apply(clipped, model.trainable_variables),
            lambda: None,
        )
        return {**scalars, "gradient_norm": norm}

    return step


def loss_and_scalars(config: Config, elbo: Elbo) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
    """Returns the loss of an ELBO's terms, and it and them as scalars by name; see `build_step`."""
    beta = per_level(config.model.beta, len(elbo.kl))
    loss = training_loss(elbo, beta, config.model.free_nats)
    scalars = {"loss": loss, "nll": tf.reduce_mean(elbo.nll)}
    for level, kl in enumerate(elbo.kl):
        scalars[f"kl/level{level}_sum"] = tf.reduce_mean(tf.reduce_sum(kl, 1))
        scalars[f"kl/level{level}_per_step"] = tf.reduce_mean(kl)
    return loss, scalars | {k: tf.reduce_mean(v) for k, v in elbo.diagnostics.items()}


class Trainer:
    """Trains a model on a data set in a run's folder, from its newest checkpoint on."""

    def __init__(self, config: Config, model: VideoModel, train_data, test_data, logdir):
        """Restores the newest checkpoint, if there is one.

        Args:
          config: Of the run.
          model: To train.
          train_data: Gives `batches(batch_size, length, seed, step)` and `clip(i)`.
          test_data: Held-out clips.
          logdir: The run's folder, which exists.
        """
        self.config, self.model, self.logdir = config, model, pathlib.Path(logdir)
        self.data = {"train": train_data, "test": test_data}
        self.optimizer = build_optimizer(config.training, model)
        self.step = 0
        if checkpoints.steps(logdir):
            self.step = checkpoints.restore(checkpoints.find(logdir), model, self.optimizer)
        self._train_step = build_step(config, model, self.optimizer)
        self._held_out_scalars = tf.function(
            lambda video: loss_and_scalars(config, model.elbo(video, 0))[1]
        )
        self._stop = False

    def run(self) -> bool:
        """Trains until `training.steps`, or until Ctrl-C.

        Returns:
          Whether training is complete.

        Raises:
          TrainingStopped: A loss or gradient that is not finite.
        """
        options = self.config.training
        self._log = RunLog(self.logdir, self.step)
        batches = self.data["train"].batches(
            options.batch_size, options.seq_len, options.seed, self.step
        )
        progress = tqdm.tqdm(
            total=options.steps, initial=self.step, unit="step", dynamic_ncols=True, smoothing=0.05
        )
        previous = signal.signal(signal.SIGINT, self._interrupt)
        try:
            self._loop(batches, progress)
        finally:
            signal.signal(signal.SIGINT, previous)
            progress.close()
            self._log.close()
        return self.step >= options.steps

    def _interrupt(self, *_) -> None:
        self._stop = True
        signal.signal(signal.SIGINT, signal.default_int_handler)
        message = "Stopping after this step. Ctrl-C again ends at once, without saving."
        tqdm.tqdm.write(message, file=sys.stderr)

    def _loop(self, batches, progress) -> None:
        options = self.config.training
        means, clock = _Means(), _Clock()
        for video in batches if self.step < options.steps else ():
            number = tf.constant(self.step, tf.int64)
            scalars = {k: float(v) for k, v in self._train_step(video, number).items()}
            if not np.isfinite(list(scalars.values())).all():
                self._log_means(means, clock)
                self._stop_broken(scalars)
            self.step += 1
            clock.count(options.batch_size * options.seq_len)
            progress.set_postfix_str(_summary(scalars, clock.speed()), refresh=False)
            progress.update()
            means.add(scalars)
            last = self.step == options.steps or self._stop
            if self.step % options.log_every == 0 or last:
                self._log_means(means, clock)
            with clock.paused():
                if self.step % options.video_every == 0 or self.step == options.steps:
                    self._log_held_out()
                    self._log_videos()
                if self.step % options.save_every == 0 and not last:
                    self._save()
            if last:
                break
        self._save()

    def _log_means(self, means: "_Means", clock: "_Clock") -> None:
        """Logs the means over the steps since the last time, if there were any."""
        if means.count:
            self._log.scalars(self.step, means.take() | {"frames_per_second": clock.speed()})
        clock.restart()

    def _stop_broken(self, scalars: dict[str, float]) -> NoReturn:
        """Saves, and says which step and term broke."""
        broken = [name for name, value in scalars.items() if not np.isfinite(value)]
        # What is not finite spreads from the slowest level down to the likelihood and the loss: the
        # first of these terms is where it came from.
        kl = [name for name in reversed(broken) if name.endswith("_sum")]
        term = next(name for name in [*kl, "nll", "gradient_norm", *broken] if name in broken)
        path = self._save()
        finite = ", ".join(f"{k} {v:.4g}" for k, v in scalars.items() if k not in broken)
        raise TrainingStopped(
            f"step {self.step + 1}: {term} is {scalars[term]}"
            f" (not finite: {', '.join(broken)}; finite: {finite or 'none'}). The update was not"
            f" applied; {path} holds the weights of step {self.step}. A lower"
            " training.learning_rate or training.clip_norm, or training.precision=float32, may"
            " help; each needs a new run (another --logdir)."
        )

    def _save(self) -> pathlib.Path:
        keep = self.config.training.keep
        return checkpoints.save(self.logdir, self.step, self.model, self.optimizer, keep)

    def _log_held_out(self) -> None:
        """Logs the ELBO's terms on one batch of held-out clips."""
        options, data = self.config.training, self.data["test"]
        video = data.batch(options.batch_size, min(options.seq_len, data.clip_length), 0, 0)
        scalars = self._held_out_scalars(tf.constant(video))
        self._log.scalars(self.step, {f"test/{k}": float(v) for k, v in scalars.items()})

    def _log_videos(self) -> None:
        """Logs open-loop predictions beside the truth and their error."""
        context = self.config.evaluation.context
        for split, data in self.data.items():
            length = min(self.config.training.video_length, data.clip_length)
            clips = np.stack([data.clip(i, 0, length) for i in range(_NUM_CLIPS)])
            predicted = self.model.predict(clips[:, :context], length - context, seed=0)
            truth = as_frames(clips).numpy()
            shown = np.concatenate([truth[:, :context], predicted.numpy()], 1)
            rows = [list(truth), list(shown), list(visualize.error_frames(truth, shown))]
            video = visualize.mark_context(visualize.grid(rows), context)
            video = visualize.label_rows(video, ["truth", "prediction", "error"])
            self._log.video(self.step, f"open_loop/{split}", video)


class _Means:
    """Running means of scalars by name."""

    def __init__(self):
        self.count, self._sums = 0, {}

    def add(self, scalars: dict[str, float]) -> None:
        """Takes in the scalars of one step."""
        self.count += 1
        self._sums = {name: self._sums.get(name, 0.0) + value for name, value in scalars.items()}

    def take(self) -> dict[str, float]:
        """Returns the means and begins anew."""
        means = {name: value / self.count for name, value in self._sums.items()}
        self.count, self._sums = 0, {}
        return means


class _Clock:
    """Frames per second of training alone: without the first step, which compiles, and pauses."""

    def __init__(self):
        self._frames, self._start = 0, None

    def count(self, frames: int) -> None:
        """Counts the frames of a step that has just ended."""
        if self._start is None:
            self._start = time.perf_counter()
        else:
            self._frames += frames

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


def _summary(scalars: dict[str, float], speed: float) -> str:
    """The progress bar's text."""
    kl = " ".join(f"{value:.1f}" for name, value in scalars.items() if name.endswith("_sum"))
    return f"loss {scalars['loss']:.1f}, kl {kl}, {speed:.0f} frames/s"
