"""The training step: gradients of a batch, over pieces and devices, and the update.

A batch may be split twice: over the devices of a tf.distribute strategy (replicas), and on each of
them into pieces whose gradients are summed one after the other (`training.accumulate`). Neither
changes the result: the loss is the mean over the whole batch, and the latents of a clip do not
depend on the piece it is in.
"""

from collections.abc import Callable, Sequence

import tensorflow as tf

from cwvae.config import Config, per_level
from cwvae.training import schedule
from cwvae.training.average import WeightAverage
from cwvae.training.optimizer import Adam
from cwvae.video_model import Elbo, VideoModel, training_loss

# Momentum of the moving statistics of batch normalization, as in the published models.
_MOMENTUM = 0.9


def loss_and_scalars(
    config: Config, names: Sequence[str], elbo: Elbo
) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
    """Returns the loss for an ELBO, and scalars by name, the loss among them.

    `nll` is in nats per frame; a KL term is in nats, summed over the clip (`_sum`) or per entry of
    `Elbo.kl` (`_per_step`); entropies are in nats.

    Args:
      config: The configuration of the run.
      names: `kl_names` of the model.
      elbo: The terms of the ELBO.
    """
    beta = per_level(config.model.beta, len(elbo.kl))
    loss = training_loss(elbo, beta, config.model.free_nats)
    scalars = {"loss": loss, "nll": tf.reduce_mean(elbo.nll)}
    for name, kl in zip(names, elbo.kl, strict=True):
        scalars[f"kl/{name}_sum"] = tf.reduce_mean(tf.reduce_sum(kl, 1))
        scalars[f"kl/{name}_per_step"] = tf.reduce_mean(kl)
    return loss, scalars | {k: tf.reduce_mean(v) for k, v in elbo.diagnostics.items()}


class _Row:
    """Converts scalars by name to one tensor and back.

    tf.while_loop needs the structure of its variables before it traces a round, but the names of
    `Elbo.diagnostics` are known only afterwards. So a loop carries tensors, and this class the
    names.
    """

    def stack(self, scalars: dict[str, tf.Tensor]) -> tf.Tensor:
        """Returns the scalars as a tensor [N]."""
        self._names = list(scalars)
        return tf.stack([*scalars.values()])

    def unstack(self, values: tf.Tensor) -> dict[str, tf.Tensor]:
        """Returns a tensor [..., N] by name, each [...]."""
        columns = tf.unstack(values, len(self._names), axis=-1)
        return dict(zip(self._names, columns, strict=True))


def build_gradients(config: Config, model: VideoModel, replicas: int = 1) -> Callable:
    """Returns a function that computes the gradients of one replica.

    It takes the replica's clips [B / replicas, T, H, W, C], the number of the step and the number
    of the replica. It returns a list of gradients, one per trainable weight; a list of
    `Elbo.statistics`, one per other weight; and scalars by name. All are means over the clips.
    """
    options = config.training

    def piece(video: tf.Tensor, number: tf.Tensor, first) -> tuple[list, list, dict]:
        latents = tf.random.fold_in(tf.constant([options.seed, 0], tf.int64), number)
        with tf.GradientTape() as tape:
            elbo = model.elbo(video, latents, row=first, step=number)
            loss, scalars = loss_and_scalars(config, model.kl_names, elbo)
        return tape.gradient(loss, model.trainable_weights), list(elbo.statistics), scalars

    def gradients(video: tf.Tensor, number: tf.Tensor, replica) -> tuple[list, list, dict]:
        first = replica * (options.batch_size // replicas)
        if options.accumulate == 1:
            return piece(video, number, first)
        size, row = video.shape[0] // options.accumulate, _Row()

        def add_piece(i, sums, rows):
            clips = tf.slice(video, [i * size, 0, 0, 0, 0], [size, *video.shape[1:]])
            *parts, scalars = piece(clips, number, first + i * size)
            return (
                i + 1,
                tf.nest.map_structure(tf.add, sums, parts),
                rows.write(i, row.stack(scalars)),
            )

        weights = [model.trainable_weights, model.non_trainable_weights]
        _, sums, rows = tf.while_loop(
            lambda i, *_: i < options.accumulate,
            add_piece,
            (
                tf.constant(0),
                [[tf.zeros(weight.shape) for weight in group] for group in weights],
                tf.TensorArray(tf.float32, options.accumulate),
            ),
            parallel_iterations=1,  # More would take the memory that pieces save.
            maximum_iterations=options.accumulate,
        )
        means = tf.nest.map_structure(lambda total: total / options.accumulate, sums)
        return *means, row.unstack(tf.reduce_mean(rows.stack(), 0))

    return gradients


def build_step(
    config: Config,
    model: VideoModel,
    optimizer: Adam,
    replicas: int = 1,
    jit: bool = False,
    average: WeightAverage | None = None,
) -> Callable:
    """Returns the training step of one replica, for the strategy to run.

    It takes the replica's clips, the number of the step, and `stop`: 1.0 if this process was asked
    to stop, else 0.0. It returns scalars by name, equal on every replica: those of
    `loss_and_scalars`, `gradient_norm` before clipping, the mean of `stop`, and `finite`: 1.0 if
    the update was applied, else 0.0.

    Args:
      config: The configuration of the run.
      model: The model to train.
      optimizer: The optimizer of its weights.
      replicas: Number of devices that share the batch.
      jit: Whether XLA compiles the step; with several replicas, only the gradients.
      average: The average of the weights, which follows them; None for none.
    """
    gradients_of = build_gradients(config, model, replicas)

    def update(number, gradients: list, statistics: list, scalars: dict) -> dict[str, tf.Tensor]:
        norm = tf.linalg.global_norm(gradients)
        finite = tf.math.is_finite(scalars["loss"]) & tf.math.is_finite(norm)
        clip = config.training.clip_norm
        gradients = tf.cond(
            norm > clip,
            lambda: [gradient * (clip / norm) for gradient in gradients],
            lambda: gradients,
        )
        factor = tf.cast(schedule.factor(config.training, number), tf.float32)
        optimizer.apply(gradients, finite, factor)
        _move(model.non_trainable_weights, statistics, finite)
        if average is not None:
            average.update(finite)
        return scalars | {"gradient_norm": norm, "finite": tf.cast(finite, tf.float32)}

    if replicas == 1:

        def whole(video, number, stop):
            *parts, scalars = gradients_of(video, number, 0)
            return update(number, *parts, scalars | {"stop": stop})

        return tf.function(whole, jit_compile=True, autograph=False) if jit else whole

    if jit:
        gradients_of = tf.function(gradients_of, jit_compile=True, autograph=False)

    def step(video, number, stop):
        context, row = tf.distribute.get_replica_context(), _Row()
        *parts, scalars = gradients_of(video, number, context.replica_id_in_sync_group)
        sums = context.all_reduce(
            tf.distribute.ReduceOp.SUM, [*parts, row.stack(scalars | {"stop": stop})]
        )
        *parts, values = tf.nest.map_structure(lambda total: total / replicas, sums)
        return update(number, *parts, row.unstack(values))

    return step


def _move(weights: Sequence, statistics: Sequence[tf.Tensor], finite: tf.Tensor) -> None:
    """Moves the weights that hold moving statistics towards those of a batch, if `finite`.

    Each device assigns its own copy by handle, as in `cwvae.training.optimizer`.
    """
    for weight, target in zip(weights, statistics, strict=True):
        variable = weight.value
        now = variable.read_value()
        moved = tf.where(finite, now + (1 - _MOMENTUM) * (target - now), now)
        tf.raw_ops.AssignVariableOp(resource=variable.handle, value=moved)


def build_steps(config: Config, step: Callable, optimizer: Adam, strategy) -> Callable:
    """Returns a function that runs several steps in one call.

    It takes an iterator over batches, the number of the first step, the number of steps to run, and
    `stop` of `build_step`. It returns the scalars by name, [number of steps run]. It runs fewer
    steps if `training.skip_limit` updates in a row are not finite, and one if a process was asked
    to stop.
    """
    limit = config.training.skip_limit
    # TensorFlow 2.21 rewrites large sums in a loop to operations that sometimes leave a temporary
    # variable behind, and the next call fails ("AddOpsRewrite ... already exists"). The rewriting
    # saves no time here, and can be disabled only for the whole process.
    tf.config.optimizer.set_experimental_options({"arithmetic_optimization": False})

    @tf.function(autograph=False)
    def steps(iterator, number: tf.Tensor, count: tf.Tensor, stop: tf.Tensor):
        row = _Row()

        def run_one(i, _, rows):
            scalars = strategy.run(step, (next(iterator), number + tf.cast(i, tf.int64), stop))
            scalars = {k: strategy.experimental_local_results(v)[0] for k, v in scalars.items()}
            return i + 1, scalars["stop"] > 0, rows.write(i, row.stack(scalars))

        done, _, rows = tf.while_loop(
            lambda i, stopped, _: (i < count) & ~stopped & (optimizer.skipped_in_a_row < limit),
            run_one,
            (tf.constant(0), tf.constant(False), tf.TensorArray(tf.float32, count)),
            parallel_iterations=1,
        )
        return row.unstack(rows.stack()[:done])

    return steps
