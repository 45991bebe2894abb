"""From a configuration to a model: the only place that knows models by name."""

import keras

from cwvae.config import Config, per_level
from cwvae.model import CWVAE, VideoModel


def build(config: Config, seed: int | None = None) -> VideoModel:
    """Returns the untrained model of a configuration.

    Args:
      config: Of a run.
      seed: Of the weights, by way of Keras' global seed (it also seeds Python's and NumPy's); None
        where they are set afterwards.
    """
    if seed is not None:
        keras.utils.set_random_seed(seed)
    options = config.model
    return CWVAE(
        levels=options.levels,
        factors=per_level(options.factor, options.levels - 1),
        frame_size=options.frame_size,
        channels=options.channels,
        stochastic_size=options.stochastic_size,
        deterministic_size=options.deterministic_size,
        hidden_size=options.hidden_size,
        mlp_size=options.mlp_size,
        channel_multiplier=options.channel_multiplier,
        decoder_stddev=options.decoder_stddev,
        min_stddev=options.min_stddev,
        mean_only=options.mean_only,
        kl_balance=options.kl_balance,
        gradient_checkpointing=config.training.gradient_checkpointing,
        precision={"float32": "float32", "bfloat16": "mixed_bfloat16"}[config.training.precision],
    )
