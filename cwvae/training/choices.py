"""The settings whose value `auto` is decided by a measurement when training starts."""

import tensorflow as tf

from cwvae import config as configuration
from cwvae import factory, machine
from cwvae.config import Config
from cwvae.startup import say
from cwvae.training import step as training_step
from cwvae.training import strategies

# A model with the layers of the paper's, small enough to compare the kernels in seconds.
_SMALL = (
    "model.levels=2",
    "model.factor=4",
    "model.channel_multiplier=0.5",
    "model.deterministic_size=200",
    "model.hidden_size=200",
    "model.mlp_size=200",
    "training.batch_size=4",
    "training.seq_len=24",
)


def precision(config: Config, strategy: tf.distribute.Strategy) -> Config:
    """Returns a configuration with a precision instead of `auto`, and says which and why.

    Several workers take bfloat16 if it is faster on each of them: all must compute alike.

    Args:
      config: The configuration of the run.
      strategy: A strategy of `cwvae.training.strategies`.
    """
    if config.training.precision != "auto":
        return config
    chosen, count = machine.precision(), strategies.workers()[1]
    if gain := machine.bfloat16_gain():
        why = f"in bfloat16 products of matrices are {gain:.1f} times as fast on this machine"
    else:
        why = "this machine does not compute in bfloat16"
    if count > 1:
        faster = strategies.total(strategy, int(chosen == "bfloat16"))
        chosen = "bfloat16" if faster == count else "float32"
        why = f"bfloat16 is faster on {faster} of the {count} workers"
    if strategies.is_chief():
        say(f"training.precision=auto: {chosen} ({why}).")
    return config.with_precision(chosen)


def kernels(config: Config) -> None:
    """Measures which kernels `training.kernels=auto` means, once on a machine.

    `factory.uses_fast_kernels` then knows.

    Args:
      config: The configuration of the run, with its precision.
    """
    if not factory.has_choice_of_kernels(config):
        return
    speaks = strategies.is_chief()
    if factory.time_of_fast_kernels(config) is None and speaks:
        say("Measuring which kernels are faster on this machine (once, a few seconds) ...")
    time = factory.time_of_fast_kernels(config, lambda: _time_of_fast_kernels(config))
    if speaks and not factory.uses_fast_kernels(config):
        say(f"training.kernels=auto: plain ({time:.1f} times as fast as the fast ones here).")


def _time_of_fast_kernels(config: Config) -> float:
    """Measures how many times as long as with the plain kernels gradients take with the fast."""
    functions = [_gradients(config, name) for name in ("plain", "fast")]
    plain, fast = machine.fastest(functions, least=5, most=10, limit=1.5)
    return fast / plain


def _gradients(config: Config, name: str):
    """Returns a function that computes the gradients of a small model with some kernels."""
    own = f"training.precision={config.training.precision}", f"training.kernels={name}"
    small = configuration.load(None, [*_SMALL, *own])
    options, size = small.training, small.model.frame_size
    gradients_of = training_step.build_gradients(small, factory.build(small))
    shape = (options.batch_size, options.seq_len, size, size, small.model.channels)
    video = tf.cast(256 * tf.random.stateless_uniform(shape, (0, 0)), tf.uint8)

    @tf.function(jit_compile=factory.uses_jit(config), autograph=False)
    def norm(video):
        gradients, *_ = gradients_of(video, tf.constant(0, tf.int64), 0)
        return tf.linalg.global_norm(gradients)

    return lambda: norm(video).numpy()
