"""From a configuration to a model: the only place that knows models by name, and the fast kernels.

`training.kernels` chooses between the definition of a model and its faster implementation in
`cwvae.fast`, which is imported only where it is used.
"""

import sys

import keras
import tensorflow as tf

from cwvae.baselines import svg, vta
from cwvae.config import Config, per_level
from cwvae.model import CWVAE
from cwvae.video_model import VideoModel


def build(config: Config, seed: int | None = None) -> VideoModel:
    """Returns the untrained model of a configuration.

    Args:
      config: The configuration of a run.
      seed: Seed of the weights, which becomes Keras' global seed (and Python's and NumPy's). None
        if the weights are set afterwards.
    """
    if seed is not None:
        keras.utils.set_random_seed(seed)
    return _BUILDERS[config.model.name](config)


def uses_fast_kernels(config: Config) -> bool:
    """Returns whether `training.kernels` means the fast kernels on this machine.

    `auto` takes them on CPUs, where they are measured to be faster, and where only they can do with
    less memory (`training.gradient_checkpointing`). On GPUs XLA compiles the plain definition.
    """
    kernels = config.training.kernels
    if kernels == "auto":
        on_gpu = bool(tf.config.list_physical_devices("GPU"))
        return not on_gpu or config.training.gradient_checkpointing is not None
    return kernels == "fast"


def _cwvae(config: Config) -> CWVAE:
    options = config.model
    sizes = dict(
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
        precision=_PRECISIONS[config.training.precision],
    )
    if not uses_fast_kernels(config):
        return CWVAE(**sizes)
    from cwvae.fast.model import FastCWVAE

    model = FastCWVAE(gradient_checkpointing=config.training.gradient_checkpointing, **sizes)
    if (key := (type(model.cells[0]), *sizes.items())) not in _UNCOVERED:
        _UNCOVERED[key] = model.uncovered()
    for method in _UNCOVERED[key]:
        print(
            f"warning: cwvae/fast does not compute what CWVAE.{method} defines: the plain kernels"
            " are used for it. (To use them for everything: --set training.kernels=plain.)",
            file=sys.stderr,
        )
        model.use_plain(method)
    return model


def _svg(config: Config) -> svg.SVG:
    options = config.model
    stddev = options.decoder_stddev or svg.stddev_of_beta(
        options.mse_beta, options.frame_size, options.channels
    )
    return svg.SVG(
        network=options.network,
        frame_size=options.frame_size,
        channels=options.channels,
        feature_size=options.feature_size,
        hidden_size=options.hidden_size,
        stochastic_size=options.stochastic_size,
        decoder_stddev=stddev,
        context=options.context,
        channel_multiplier=options.channel_multiplier,
        precision=_PRECISIONS[config.training.precision],
    )


def _vta(config: Config) -> vta.VTA:
    options = config.model
    return vta.VTA(
        frame_size=options.frame_size,
        channels=options.channels,
        belief_size=options.belief_size,
        state_size=options.state_size,
        feature_size=options.feature_size,
        decoder_stddev=options.decoder_stddev,
        init_size=options.init_size,
        max_segments=options.max_segments,
        max_segment_length=options.max_segment_length,
        temperature_steps=options.temperature_steps,
        precision=_PRECISIONS[config.training.precision],
    )


_BUILDERS = {"cwvae": _cwvae, "svg": _svg, "vta": _vta}
_PRECISIONS = {"float32": "float32", "bfloat16": "mixed_bfloat16"}
# What `FastCWVAE.uncovered` said of a cell and sizes: it takes half a second.
_UNCOVERED: dict[tuple, list[str]] = {}
