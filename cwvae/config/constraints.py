"""What the values of a configuration must be together, beyond their own types and ranges.

What depends on the data's files is left to the data sets.
"""

import functools

from cwvae.config.schema import Config, CWVAEConfig, ModelConfig, SVGConfig
from cwvae.errors import UserError

FRAME_SIZES = (32, 64, 128)

# Their clips are made as long as the configuration says.
_GENERATED = ("moving_digits", "procedural_mazes")


def check(config: Config) -> None:
    """Checks what matters whatever is done.

    Raises:
      UserError: Values that do not fit together.
    """
    _check_frames(config.model)
    _check_model(config.model)
    _check_data(config)


def check_evaluation(config: Config) -> None:
    """Checks what matters in evaluation, and in training, which is to be evaluated.

    Raises:
      UserError: Values that do not fit together.
    """
    evaluation, data = config.evaluation, config.data
    flags, levels = evaluation.observe_levels, config.model.hierarchy
    if flags is not None and not levels:
        raise UserError(
            f"evaluation.observe_levels = {flags!r}: the model {config.model.name} has no levels of"
            " which some may be left to their priors."
        )
    if flags is not None and (len(flags) != levels or set(flags) - set("TF")):
        raise UserError(
            f"evaluation.observe_levels = {flags!r}: write one letter per level, the fastest first,"
            " T where the level sees the context and F where it follows its prior; here"
            f" model.levels = {levels}, so for example {'T' * (levels - 1)}F."
        )
    if evaluation.batch_statistics:
        _check_batch_statistics(config)
    frames = evaluation.context + evaluation.horizon
    if frames < config.model.shortest:
        raise UserError(
            f"evaluation.context + evaluation.horizon = {frames} frames: the model"
            f" {config.model.name} has no loss on clips of less than {config.model.shortest}."
        )
    if data.name not in _GENERATED:
        return
    if evaluation.context >= data.test_length:
        raise UserError(_nothing_to_predict(evaluation.context, "test", data.test_length))
    if evaluation.context + evaluation.horizon > data.test_length:
        raise UserError(
            f"evaluation.context + evaluation.horizon = {evaluation.context} + {evaluation.horizon}"
            f" frames, but test clips have data.test_length = {data.test_length}."
        )


def check_training(config: Config) -> None:
    """Checks what matters in training alone.

    Raises:
      UserError: Values that do not fit together.
    """
    training, context, data = config.training, config.evaluation.context, config.data
    if training.batch_size % training.accumulate:
        raise UserError(
            f"training.accumulate = {training.accumulate} must divide training.batch_size ="
            f" {training.batch_size}: the batch is computed in that many pieces of one size."
        )
    if training.seq_len < config.model.shortest:
        raise UserError(
            f"training.seq_len = {training.seq_len}: the model {config.model.name} has no loss on"
            f" clips of less than {config.model.shortest} frames."
        )
    if config.model.batch_normalized and training.gradient_checkpointing:
        raise UserError(
            "training.gradient_checkpointing computes frames some at a time, which changes a model"
            f" with batch normalization, as {config.model.name} is: set it to null."
            " training.accumulate saves memory, too."
        )
    if context >= training.video_length:
        raise UserError(
            f"training.video_length = {training.video_length} frames must be more than"
            f" evaluation.context = {context}, or its videos show no prediction."
        )
    if data.name not in _GENERATED:
        return
    if training.seq_len > data.train_length:
        raise UserError(
            f"training.seq_len = {training.seq_len} frames is longer than the training clips:"
            f" data.train_length = {data.train_length}."
        )
    if context >= data.train_length:
        raise UserError(_nothing_to_predict(context, "train", data.train_length))


def _check_batch_statistics(config: Config) -> None:
    evaluation = config.evaluation
    if not config.model.batch_normalized:
        raise UserError(
            f"evaluation.batch_statistics: the model {config.model.name} has no batch"
            " normalization."
        )
    if 1 in (evaluation.batch_size, evaluation.num_videos % evaluation.batch_size):
        raise UserError(
            "evaluation.batch_statistics needs at least two clips at a time, but of"
            f" evaluation.num_videos = {evaluation.num_videos}, evaluation.batch_size ="
            f" {evaluation.batch_size} at a time, one is left alone."
        )


def _check_frames(model: ModelConfig) -> None:
    if model.frame_size not in FRAME_SIZES:
        sizes = ", ".join(map(str, FRAME_SIZES))
        raise UserError(f"model.frame_size = {model.frame_size}: the networks fit {sizes}.")
    if model.channels not in (1, 3):
        raise UserError(f"model.channels = {model.channels}: 1 (gray) or 3 (RGB).")
    if isinstance(model.beta, tuple) and len(model.beta) != model.kl_terms:
        per_level = " per level, the fastest first" if model.hierarchy else ""
        raise UserError(
            f"model.beta has {len(model.beta)} entries for the {model.kl_terms} KL terms of the"
            f" model: give one{per_level or ' for each'}, or one number for all."
        )


@functools.singledispatch
def _check_model(model: ModelConfig) -> None:
    """Checks what only one kind of model has."""


@_check_model.register
def _(model: CWVAEConfig) -> None:
    if isinstance(model.factor, tuple) and len(model.factor) != model.levels - 1:
        raise UserError(
            f"model.factor has {len(model.factor)} entries, but with model.levels = {model.levels}"
            f" there are {model.levels - 1} levels above the fastest, which always ticks at every"
            " frame: give one entry for each of them, or one number for all."
        )
    _check_filters(model.channel_multiplier, 32)


@_check_model.register
def _(model: SVGConfig) -> None:
    _check_filters(model.channel_multiplier, 64)
    if (model.decoder_stddev is None) == (model.mse_beta is None):
        raise UserError(
            f"model.decoder_stddev = {model.decoder_stddev} and model.mse_beta = {model.mse_beta}"
            " say the same in two ways: set one of them, and the other to null."
        )


def _check_filters(multiplier: float, first: int) -> None:
    if not float(first * multiplier).is_integer():
        raise UserError(
            f"model.channel_multiplier = {multiplier}: {first} times it, the filters of the first"
            " convolution, must be a whole number."
        )


def _check_data(config: Config) -> None:
    data = config.data
    if data.name != "moving_digits":
        return
    if data.digit_size >= config.model.frame_size:
        raise UserError(
            f"data.digit_size = {data.digit_size} leaves no room to move in frames of"
            f" model.frame_size = {config.model.frame_size} pixels."
        )
    if data.speed[0] > data.speed[1]:
        raise UserError(f"data.speed = {list(data.speed)}: write [slowest, fastest].")


def _nothing_to_predict(context: int, split: str, length: int) -> str:
    return (
        f"evaluation.context = {context} frames leaves nothing to predict in {split} clips of"
        f" data.{split}_length = {length} frames."
    )
