"""From a configuration to a model: the only place that knows models by name, and the fast kernels.

`training.kernels` chooses between the definition of a model and its faster implementation in
`cwvae.fast`, which is imported only where it is used.
"""

import sys
from collections.abc import Callable

import keras

from cwvae import machine
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
    return _BUILDERS[config.model.name](with_precision(config))


def with_precision(config: Config) -> Config:
    """Returns a configuration with the precision of this machine instead of `auto`.

    The first call on a machine measures it, in at most about a second.
    """
    if config.training.precision != "auto":
        return config
    return config.with_precision(machine.precision())


def uses_jit(config: Config) -> bool:
    """Returns whether XLA compiles the training step. `auto` means on GPUs: CPUs get slower."""
    return machine.has_gpu() if config.training.jit == "auto" else config.training.jit


def has_choice_of_kernels(config: Config) -> bool:
    """Returns whether the speed of the machine decides which kernels `training.kernels` means.

    The other models have one implementation, and only the fast kernels can do with less memory
    (`training.gradient_checkpointing`).
    """
    options = config.training
    automatic = options.kernels == "auto" and options.gradient_checkpointing is None
    return automatic and config.model.name == "cwvae"


def time_of_fast_kernels(
    config: Config, measure: Callable[[], float] | None = None
) -> float | None:
    """Returns how many times as long as with the plain kernels a step takes with the fast ones.

    Args:
      config: The configuration of a run.
      measure: Measures it, if that was not done on this machine yet. None: do not measure.

    Returns:
      None if it was not measured.
    """
    about = {"precision": with_precision(config).training.precision, "jit": uses_jit(config)}
    if measure is None:
        return machine.known("kernels", **about)
    return machine.remembered("kernels", measure, **about)


def uses_fast_kernels(config: Config) -> bool:
    """Returns whether `training.kernels` means the fast kernels on this machine.

    `auto` means them unless training has measured here that the plain ones are at least 10% faster.
    """
    if not has_choice_of_kernels(config):
        return config.training.kernels != "plain"
    time = time_of_fast_kernels(config)
    return time is None or time < _TOO_SLOW


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
    # In float32: where processors compute bfloat16 by conversion, both kernels round coarsely, and
    # differently.
    exact = sizes | {"precision": "float32"}
    if (key := (type(model.cells[0]), *exact.items())) not in _UNCOVERED:
        _UNCOVERED[key] = (model if sizes == exact else FastCWVAE(**exact)).uncovered()
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


# Both kernels compute the same, so the plain ones must be clearly faster to be chosen.
_TOO_SLOW = 1.1
_BUILDERS = {"cwvae": _cwvae, "svg": _svg, "vta": _vta}
_PRECISIONS = {"float32": "float32", "bfloat16": "mixed_bfloat16"}
# What `FastCWVAE.uncovered` said of a cell and sizes: it takes half a second.
_UNCOVERED: dict[tuple, list[str]] = {}
