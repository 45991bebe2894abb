"""The training step: gradients of a batch, over pieces and devices, and the update.

A batch may be split twice: over the devices of a tf.distribute strategy (replicas), and on each of
them into pieces whose gradients are added up one after the other (`training.accumulate`). Neither
changes what is computed: the loss is the mean over the whole batch, and every clip draws the
latents that it draws in a batch in one piece.
"""

from collections.abc import Callable, Sequence

import tensorflow as tf

from cwvae.config import Config, per_level
from cwvae.training.optimizer import Adam
from cwvae.video_model import Elbo, VideoModel, training_loss

# Of the moving statistics of batch normalization: Keras' and PyTorch's for the published models.
_MOMENTUM = 0.9


def loss_and_scalars(
    config: Config, names: Sequence[str], elbo: Elbo
) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
    """Returns the loss of an ELBO's terms, and it and them as scalars by name.

    `nll` is in nats per frame, each KL term in nats summed over the clip (`_sum`) and per entry
    of `Elbo.kl` (`_per_step`), entropies in nats.

    Args:
      config: Of the run.
      names: `kl_names` of the model.
      elbo: The terms.
    """
    beta = per_level(config.model.beta, len(elbo.kl))
    loss = training_loss(elbo, beta, config.model.free_nats)
    scalars = {"loss": loss, "nll": tf.reduce_mean(elbo.nll)}
    for name, kl in zip(names, elbo.kl, strict=True):
        scalars[f"kl/{name}_sum"] = tf.reduce_mean(tf.reduce_sum(kl, 1))
        scalars[f"kl/{name}_per_step"] = tf.reduce_mean(kl)
    return loss, scalars | {k: tf.reduce_mean(v) for k, v in elbo.diagnostics.items()}


def build_gradients(config: Config, model: VideoModel, replicas: int = 1) -> Callable:
    """Returns what computes one replica's gradients.

    It takes the replica's clips [B / replicas, T, H, W, C], the step's number and the replica's
    number, and returns a list of gradients, one per trainable weight; a list of `Elbo.statistics`,
    one per other weight; and scalars by name. All are means over the replica's clips.
    """
    options = config.training

    def piece(video: tf.Tensor, number: tf.Tensor, first) -> tuple[list, list, dict]:
        latents = tf.random.fold_in(tf.constant([options.seed, 0], tf.int64), number)
        rows = (first, options.batch_size)
        with tf.GradientTape() as tape:
            elbo = model.elbo(video, latents, rows, number)
            loss, scalars = loss_and_scalars(config, model.kl_names, elbo)
        return tape.gradient(loss, model.trainable_variables), list(elbo.statistics), scalars

    def gradients(video: tf.Tensor, number: tf.Tensor, replica) -> tuple[list, list, dict]:
        first = replica * (options.batch_size // replicas)
        if options.accumulate == 1:
            return piece(video, number, first)
        size = video.shape[0] // options.accumulate
        names = []
        weights = [*model.trainable_variables, *model.non_trainable_weights]

        def add_piece(i, sums, rows):
            clips = tf.slice(video, [i * size, 0, 0, 0, 0], [size, *video.shape[1:]])
            gradients, statistics, scalars = piece(clips, number, first + i * size)
            names[:] = scalars
            parts = [*gradients, *statistics]
            sums = [total + part for total, part in zip(sums, parts, strict=True)]
            return i + 1, sums, rows.write(i, tf.stack([*scalars.values()]))

        # One at a time, or the pieces would take the memory that they are to save.
        _, sums, rows = tf.while_loop(
            lambda i, *_: i < options.accumulate,
            add_piece,
            (
                tf.constant(0),
                [tf.zeros(weight.shape) for weight in weights],
                tf.TensorArray(tf.float32, options.accumulate),
            ),
            parallel_iterations=1,
            maximum_iterations=options.accumulate,
        )
        means = tf.reduce_mean(rows.stack(), 0)
        scalars = dict(zip(names, tf.unstack(means, len(names)), strict=True))
        means = [total / options.accumulate for total in sums]
        count = len(model.trainable_variables)
        return means[:count], means[count:], scalars

    return gradients


def build_step(
    config: Config,
    model: VideoModel,
    optimizer: Adam,
    replicas: int = 1,
    jit: bool = False,
) -> Callable:
    """Returns the training step of one replica, to be run by the strategy.

    It takes the replica's clips, the step's number, and `stop`, 1.0 where this process was asked to
    stop, else 0.0. It returns scalars by name, the same on every replica: those of
    `loss_and_scalars`, `gradient_norm` before clipping, the sum of `stop`, and `finite`, whether
    the update was applied: 1 or 0.

    Args:
      config: Of the run.
      model: To train.
      optimizer: Of its weights.
      replicas: Devices that share the batch.
      jit: Whether XLA compiles it: all of it on one replica, the gradients where there are more.
    """
    gradients_of = build_gradients(config, model, replicas)

    def update(
        gradients: list, statistics: list, scalars: dict, stop: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        if replicas > 1:
            values = tf.stack([*scalars.values(), stop * replicas])
            context = tf.distribute.get_replica_context()
            parts = [*gradients, *statistics, values]
            sums = context.all_reduce(tf.distribute.ReduceOp.SUM, parts)
            *parts, values = [total / replicas for total in sums]
            gradients, statistics = parts[: len(gradients)], parts[len(gradients) :]
            *means, stop = tf.unstack(values, len(scalars) + 1)
            scalars = dict(zip(scalars, means, strict=True))
        norm = tf.linalg.global_norm(gradients)
        finite = tf.math.is_finite(scalars["loss"]) & tf.math.is_finite(norm)
        clip = config.training.clip_norm
        gradients = tf.cond(
            norm > clip,
            lambda: [gradient * (clip / norm) for gradient in gradients],
            lambda: gradients,
        )
        optimizer.apply(gradients, finite)
        _move(model.non_trainable_weights, statistics, finite)
        return scalars | {
            "gradient_norm": norm,
            "stop": stop,
            "finite": tf.cast(finite, tf.float32),
        }

    if replicas == 1:

        def whole(video, number, stop):
            return update(*gradients_of(video, number, 0), stop)

        return tf.function(whole, jit_compile=True, autograph=False) if jit else whole

    compiled = tf.function(gradients_of, jit_compile=True, autograph=False) if jit else gradients_of

    def step(video, number, stop):
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group
        return update(*compiled(video, number, replica), stop)

    return step


def _move(weights: Sequence, statistics: Sequence[tf.Tensor], finite: tf.Tensor) -> None:
    """Moves the weights of moving statistics towards a batch's, if `finite`.

    By handle: each device moves its own copies, all by the same (see `cwvae.training.optimizer`).
    """
    for weight, target in zip(weights, statistics, strict=True):
        variable = weight.value
        now = variable.read_value()
        moved = tf.where(finite, now + (1 - _MOMENTUM) * (target - now), now)
        tf.raw_ops.AssignVariableOp(resource=variable.handle, value=moved)


def build_steps(config: Config, step: Callable, optimizer: Adam, strategy) -> Callable:
    """Returns what runs several steps in one call.

    It takes an iterator over batches, the number of the first step, how many to run, and `stop` of
    `build_step`. It returns the scalars by name, [steps that were run]: fewer than asked for, if
    `training.skip_limit` updates in a row could not be applied, or one if a process was asked to
    stop.
    """
    limit = config.training.skip_limit
    # TensorFlow 2.21 rewrites large sums within a loop into operations that now and then leave a
    # temporary variable behind, over which the next call stumbles ("AddOpsRewrite ... already
    # exists"). The rewriting saves no time here; it can be turned off for a whole process only.
    tf.config.optimizer.set_experimental_options({"arithmetic_optimization": False})

    @tf.function(autograph=False)
    def steps(iterator, number: tf.Tensor, count: tf.Tensor, stop: tf.Tensor):
        names = []

        def run_one(i, _, rows):
            arguments = (next(iterator), number + tf.cast(i, tf.int64), stop)
            scalars = strategy.run(step, arguments)
            scalars = {k: strategy.experimental_local_results(v)[0] for k, v in scalars.items()}
            names[:] = scalars
            return i + 1, scalars["stop"] > 0, rows.write(i, tf.stack([*scalars.values()]))

        done, _, rows = tf.while_loop(
            lambda i, stopped, _: (i < count) & ~stopped & (optimizer.skipped_in_a_row < limit),
            run_one,
            (tf.constant(0), tf.constant(False), tf.TensorArray(tf.float32, count)),
            parallel_iterations=1,
        )
        columns = tf.unstack(rows.stack()[:done], len(names), axis=1)
        return dict(zip(names, columns, strict=True))

    return steps
