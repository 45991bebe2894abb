"""Values that training logs: means over steps, speed, losses and videos of held-out clips."""

import contextlib
import time
from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from cwvae import levels, visualize
from cwvae.config import Config
from cwvae.training import step as training_step
from cwvae.video_model import VideoModel, as_frames

# Number of clips in each video.
_NUM_CLIPS = 4


class Means:
    """Running means of scalars by name.

    Attributes:
      skipped: Number of skipped updates, which have no scalars.
    """

    def __init__(self):
        self.restore({})

    def restore(self, state: dict) -> None:
        """Continues from a `state`, or from nothing if it is empty."""
        self._count, self.skipped = state.get("count", 0), state.get("skipped", 0)
        self._sums = {levels.renamed(name): total for name, total in state.get("sums", {}).items()}

    def state(self) -> dict:
        """Returns an argument for `restore` that JSON can write."""
        return {"count": self._count, "skipped": self.skipped, "sums": self._sums}

    def add(self, scalars: dict[str, float]) -> None:
        """Adds the scalars of one step."""
        self._count += 1
        self._sums = {name: self._sums.get(name, 0.0) + value for name, value in scalars.items()}

    def take(self) -> dict[str, float]:
        """Returns the means, and `skipped_updates` if there were any, and starts over."""
        means = {name: value / self._count for name, value in self._sums.items()}
        if self.skipped:
            means["skipped_updates"] = self.skipped
        self.restore({})
        return means


class Clock:
    """Measures frames per second, without pauses and without the first call, which compiles.

    Attributes:
      seconds: The time per step; None before the second call.
    """

    def __init__(self):
        self._frames, self._start, self.seconds = 0, None, None

    def count(self, steps: int, frames: int) -> None:
        """Counts steps that have just ended, with `frames` frames each."""
        if self._start is None:
            self._start = time.perf_counter()
        else:
            self._frames += steps * frames
            self.seconds = frames / self.speed()

    def speed(self) -> float:
        """Returns frames per second; 0 before there is a step to time."""
        return self._frames / (time.perf_counter() - self._start) if self._frames else 0.0

    def restart(self) -> None:
        """Starts a new measurement."""
        self._frames, self._start = 0, time.perf_counter()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Excludes the time that the block takes."""
        began = time.perf_counter()
        yield
        self._start += time.perf_counter() - began


class HeldOut:
    """Evaluates a model during training: losses on held-out clips, and open-loop videos.

    Args:
      config: The configuration of the run.
      model: The model.
      data: The data sets of training and held-out clips, "train" and "test".
      size: Number of clips to compute at a time. Training's own size is known to fit into memory.
    """

    def __init__(self, config: Config, model: VideoModel, data: dict, size: int):
        self._config, self._model, self._data, self._size = config, model, data, size

        @tf.function(autograph=False)
        def scalars(video, first):
            elbo = model.elbo(video, 0, row=first)
            return training_step.loss_and_scalars(config, model.kl_names, elbo)[1]

        self._scalars = scalars

    def scalars(self) -> dict[str, float]:
        """Returns `test/<name>` for the scalars of `loss_and_scalars` on one batch of clips."""
        options, data = self._config.training, self._data["test"]
        video = data.batch(options.batch_size, min(options.seq_len, data.clips.longest), 0, 0)
        means = Means()
        for first in range(0, options.batch_size, self._size):
            piece = tf.constant(video[first : first + self._size])
            scalars = self._scalars(piece, tf.constant(first))
            means.add({f"test/{k}": float(v) for k, v in scalars.items()})
        return means.take()

    def videos(self) -> Iterator[tuple[str, np.ndarray]]:
        """Yields splits, and frames of videos that show truth, open-loop prediction and error."""
        context = self._config.evaluation.context
        for split, data in self._data.items():
            length = min(self._config.training.video_length, data.clips.longest)
            chosen = data.at_least(length)[:_NUM_CLIPS]
            clips = np.stack([data.clip(i, 0, length) for i in chosen])
            seen, truth = clips[:, :context], as_frames(clips).numpy()
            stretches = [*self._model.predict_chunks(seen, length - context, seed=0)]
            shown = np.concatenate([truth[:, :context], *(s.frames for s in stretches)], 1)
            begins = [self._model.boundaries(clips, 0), None, None]
            if begins[0] is not None:
                parts = [self._model.boundaries(seen, 0), *(s.boundaries for s in stretches)]
                begins[:2] = begins[0].numpy(), np.concatenate(parts, 1)
            rows = [list(truth), list(shown), list(visualize.error_frames(truth, shown))]
            rows = visualize.mark_segments(rows, begins)
            video = visualize.mark_context(visualize.grid(rows), context)
            yield split, visualize.label_rows(video, ["truth", "prediction", "error"])
