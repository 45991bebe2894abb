"""Rules between the settings of a configuration, beyond each setting's type and range.

The data sets check what depends on their files.
"""

import itertools
import operator
from collections.abc import Iterator

from cwvae.config.schema import Config, CWVAEConfig, ModelConfig, SVGConfig
from cwvae.errors import UserError
from cwvae.frame_sizes import HALVINGS

# Data sets whose clips are generated, with the lengths in the configuration.
_GENERATED = ("moving_digits", "procedural_mazes")


def check(config: Config) -> None:
    """Checks the rules that hold for every use of a configuration.

    Raises:
      UserError: Values that contradict each other.
    """
    _check_model(config.model)
    data, size = config.data, config.model.frame_size
    if data.name == "moving_digits" and data.digit_size >= size:
        raise UserError(
            f"data.digit_size = {data.digit_size} leaves no room to move in frames of"
            f" model.frame_size = {size} pixels. Lower it."
        )
    if data.name == "moving_digits" and data.speed[0] > data.speed[1]:
        raise UserError(f"data.speed = {list(data.speed)}: write [slowest, fastest].")


def check_evaluation(config: Config) -> None:
    """Checks the rules for evaluation. They hold for training too, which evaluation follows.

    Raises:
      UserError: Values that contradict each other.
    """
    evaluation, data = config.evaluation, config.data
    flags, levels = evaluation.observe_levels, config.model.hierarchy
    if flags is not None and not levels:
        raise UserError(
            f"evaluation.observe_levels = {flags!r}: the model {config.model.name} has no levels to"
            " choose from. Set it to null."
        )
    if flags is not None and (len(flags) != levels or set(flags) - set("TF")):
        raise UserError(
            f"evaluation.observe_levels = {flags!r}: write one letter per level, the fastest first:"
            " T where the level sees the context, F where it follows its prior. With"
            f" model.levels = {levels}, for example {'T' * (levels - 1)}F."
        )
    if evaluation.batch_statistics:
        _check_batch_statistics(config)
    frames = evaluation.context + evaluation.horizon
    if frames < config.model.shortest:
        raise UserError(
            f"evaluation.context + evaluation.horizon = {frames} frames, but the model"
            f" {config.model.name} has no loss on clips of less than {config.model.shortest}. Raise"
            " one of them."
        )
    if data.name not in _GENERATED:
        return
    if evaluation.context >= data.test_length:
        raise UserError(_nothing_to_predict(evaluation.context, "test", data.test_length))
    if evaluation.context + evaluation.horizon > data.test_length:
        raise UserError(
            f"evaluation.context + evaluation.horizon = {evaluation.context} + {evaluation.horizon}"
            f" frames, but test clips have data.test_length = {data.test_length}. Lower"
            " evaluation.horizon, or raise data.test_length."
        )


def check_training(config: Config) -> None:
    """Checks the rules for training only.

    Raises:
      UserError: Values that contradict each other.
    """
    training, context, data = config.training, config.evaluation.context, config.data
    if training.batch_size % training.accumulate:
        raise UserError(
            f"training.accumulate = {training.accumulate} must divide training.batch_size ="
            f" {training.batch_size}: the batch is computed in that many pieces of equal size."
        )
    if training.seq_len < config.model.shortest:
        raise UserError(
            f"training.seq_len = {training.seq_len}, but the model {config.model.name} has no loss"
            f" on clips of less than {config.model.shortest} frames. Raise it."
        )
    if config.model.batch_normalized and training.gradient_checkpointing:
        raise UserError(
            f"training.gradient_checkpointing would change the model {config.model.name}, whose"
            " batch normalization needs all frames at once. Set it to null; training.accumulate"
            " also saves memory."
        )
    if training.kernels == "plain" and training.gradient_checkpointing:
        raise UserError(
            f"training.gradient_checkpointing = {training.gradient_checkpointing} needs the fast"
            " kernels, but training.kernels = plain. Set training.kernels to auto or fast, or"
            " training.gradient_checkpointing to null."
        )
    if context >= training.video_length:
        raise UserError(
            f"training.video_length = {training.video_length} frames must be more than"
            f" evaluation.context = {context}. Otherwise the videos show no prediction."
        )
    if data.name not in _GENERATED:
        return
    if training.seq_len > data.train_length:
        raise UserError(
            f"training.seq_len = {training.seq_len} frames is longer than the training clips:"
            f" data.train_length = {data.train_length}. Lower it, or raise data.train_length."
        )
    if context >= data.train_length:
        raise UserError(_nothing_to_predict(context, "train", data.train_length))


def warnings(config: Config, longest: dict[str, int]) -> Iterator[str]:
    """Yields what is allowed for training but probably not wanted.

    Args:
      config: The configuration of a run.
      longest: The number of frames of the longest clip of each split.
    """
    model, training = config.model, config.training
    if isinstance(model, CWVAEConfig):
        factors = model.factor
        factors = factors if isinstance(factors, tuple) else (factors,) * (model.levels - 1)
        for level, period in enumerate(itertools.accumulate(factors, operator.mul), 2):
            if period >= training.seq_len:
                yield (
                    f"level {level} ticks every {period} frames, so only once in a training clip of"
                    f" training.seq_len = {training.seq_len} frames: it cannot learn how its state"
                    " changes. Raise training.seq_len, or lower model.factor or model.levels."
                )
                break
    if isinstance(model, SVGConfig) and model.context >= training.seq_len - 1:
        yield (
            f"model.context = {model.context}: in a training clip of training.seq_len ="
            f" {training.seq_len} frames every frame has the skips of the one before. Predictions"
            " have only those of the last context frame, so the model learns to stand still. Lower"
            " model.context, or raise training.seq_len."
        )
    for split, length in longest.items():
        if length < training.video_length:
            yield (
                f"training.video_length = {training.video_length}, but the longest {split} video"
                f" has {length} frames. The {split} videos in TensorBoard end there."
            )


def _check_batch_statistics(config: Config) -> None:
    evaluation = config.evaluation
    if not config.model.batch_normalized:
        raise UserError(
            f"evaluation.batch_statistics: the model {config.model.name} has no batch"
            " normalization. Set it to false."
        )
    if 1 in (evaluation.batch_size, evaluation.num_videos % evaluation.batch_size):
        raise UserError(
            "evaluation.batch_statistics needs at least two clips at a time, but with"
            f" evaluation.num_videos = {evaluation.num_videos} and evaluation.batch_size ="
            f" {evaluation.batch_size}, one is left alone. Change one of them."
        )


def _check_model(model: ModelConfig) -> None:
    if model.frame_size not in HALVINGS:
        sizes = ", ".join(map(str, HALVINGS))
        raise UserError(f"model.frame_size = {model.frame_size}: the networks take {sizes}.")
    if model.channels not in (1, 3):
        raise UserError(f"model.channels = {model.channels}: set 1 (gray) or 3 (RGB).")
    if isinstance(model.beta, tuple) and len(model.beta) != model.kl_terms:
        per_level = " per level, the fastest first" if model.hierarchy else ""
        raise UserError(
            f"model.beta has {len(model.beta)} entries for the {model.kl_terms} KL terms of the"
            f" model. Give one{per_level or ' for each'}, or one number for all."
        )
    if isinstance(model, CWVAEConfig):
        _check_cwvae(model)
    elif isinstance(model, SVGConfig):
        _check_svg(model)


def _check_cwvae(model: CWVAEConfig) -> None:
    if isinstance(model.factor, tuple) and len(model.factor) != model.levels - 1:
        raise UserError(
            f"model.factor has {len(model.factor)} entries, but with model.levels = {model.levels}"
            f" there are {model.levels - 1} levels above the fastest, which ticks at every frame."
            " Give one entry for each of them, or one number for all."
        )
    _check_filters(model.channel_multiplier, 32)


def _check_svg(model: SVGConfig) -> None:
    _check_filters(model.channel_multiplier, 64)
    if (model.decoder_stddev is None) == (model.mse_beta is None):
        raise UserError(
            f"model.decoder_stddev = {model.decoder_stddev} and model.mse_beta = {model.mse_beta}"
            " are two ways to set the same value. Set one of them, and the other to null."
        )


def _check_filters(multiplier: float, first: int) -> None:
    if not float(first * multiplier).is_integer():
        raise UserError(
            f"model.channel_multiplier = {multiplier}: {first} times it must be a whole number, the"
            " number of filters of the first convolution."
        )


def _nothing_to_predict(context: int, split: str, length: int) -> str:
    return (
        f"evaluation.context = {context} frames leaves nothing to predict in {split} clips of"
        f" data.{split}_length = {length} frames. Lower it, or raise data.{split}_length."
    )
