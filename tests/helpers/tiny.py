"""A configuration and a data set that are small enough to train in a test."""

import itertools

import numpy as np
import tensorflow as tf

from cwvae import config
from data_loaders import Dataset
from data_loaders.windows import EqualClips

MODELS = {
    "cwvae": (
        "model.levels=2",
        "model.factor=3",
        "model.channel_multiplier=0.125",
        "model.stochastic_size=3",
        "model.deterministic_size=8",
        "model.hidden_size=7",
        "model.mlp_size=9",
    ),
    "svg": (
        "model.channel_multiplier=0.0625",
        "model.feature_size=6",
        "model.hidden_size=7",
        "model.stochastic_size=3",
        "model.context=4",
    ),
    "vta": (
        "model.belief_size=7",
        "model.state_size=3",
        "model.feature_size=6",
        "model.init_size=1",
        "training.amsgrad=true",
    ),
}

OVERRIDES = (
    "model.frame_size=32",
    "model.decoder_stddev=0.3",
    "data.digit_size=14",
    "data.train_length=20",
    "data.test_length=40",
    "training.steps=6",
    "training.batch_size=2",
    "training.seq_len=7",
    "training.learning_rate=0.01",
    "training.precision=float32",  # On every machine.
    "training.kernels=fast",
    "training.log_every=2",
    "training.video_every=4",
    "training.video_length=12",
    "training.save_every=3",
    "evaluation.context=5",
    "evaluation.horizon=9",
    "evaluation.num_videos=3",
    "evaluation.batch_size=2",
    "evaluation.readout=false",
)


def settings(*overrides: str, model: str = "cwvae") -> config.Config:
    """Returns the tiny configuration of a model, with overrides."""
    return config.load(None, [f"model.name={model}", *MODELS[model], *OVERRIDES, *overrides])


class Squares(Dataset):
    """Clips of a drifting square. Batches take them in order."""

    def __init__(self, length: int = 40, count: int = 10, channels: int = 1):
        super().__init__(EqualClips(count, length), (32, 32, channels))
        self.channels, self.count = channels, count

    def clip(self, i, start=0, length=None):
        length = self._window_length(i, start, length)
        video = np.zeros((length, 32, 32, self.channels), np.uint8)
        for t in range(length):
            x = (3 * i + 2 * (start + t)) % 25
            video[t, 12:19, x : x + 7] = 255
        return video

    def batch(self, batch_size, length, seed, step):
        return np.stack(
            [
                self.clip((seed + step * batch_size + b) % self.count, 0, length)
                for b in range(batch_size)
            ]
        )

    def batches(self, batch_size, length, seed, step=0, shards=1, own=range(1)):
        size = batch_size // shards

        def parts():
            for n in itertools.count(step):
                batch = self.batch(batch_size, length, seed, n)
                for shard in own:
                    yield batch[shard * size :][:size]

        shape = (size, length, 32, 32, self.channels)
        return tf.data.Dataset.from_generator(
            parts, output_signature=tf.TensorSpec(shape, tf.uint8)
        )
