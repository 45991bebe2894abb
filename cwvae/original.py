"""Imports a checkpoint of the authors' TensorFlow 1 code.

    python -m cwvae.original CHECKPOINT --config FILE --logdir DIR

makes a run folder for eval.py and train.py. CHECKPOINT is the prefix of a TensorFlow 1 checkpoint
(`.../model-100000` for `model-100000.index`), or the folder that holds one.

The original's variables have the automatic names of Keras layers (`dense_7`, `cell_2_1`), which
give the order in which the layers were made. That order identifies each variable.
"""

from __future__ import annotations

import argparse
import pathlib
import re
import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from cwvae import config as configuration
from cwvae.config import Config
from cwvae.errors import UserError, exit_on_user_error
from cwvae.installation import command
from cwvae.startup import starting_tensorflow

if TYPE_CHECKING:
    from cwvae.model import CWVAE


def variables_in_original_order(model: CWVAE) -> list:
    """Returns a CWVAE's weights in the order of the original's trainable variables.

    The order is: the encoder's convolutions, the embedding MLPs from the second-fastest level up,
    the cells from the slowest level down, the decoder.
    """
    weights = list(model.encoder.trainable_weights)
    for mlp in model.mlps:
        weights += mlp.trainable_weights
    for cell in reversed(model.cells):
        weights += cell.trainable_weights
    return weights + model.decoder.trainable_weights


def assign_in_original_order(
    model: CWVAE, arrays: Sequence[np.ndarray], names: Sequence[str]
) -> None:
    """Sets a CWVAE's weights to the original's.

    Args:
      model: The CWVAE.
      arrays: The original's trainable variables, in the order of the original.
      names: Their names, for errors.

    Raises:
      UserError: The number of variables, or a shape, differs from the model's.
    """
    weights = variables_in_original_order(model)
    for i, (weight, array) in enumerate(zip(weights, arrays, strict=False)):
        if tuple(weight.shape) != tuple(array.shape):
            raise UserError(
                f"variable {i} of the checkpoint, {names[i]!r}, has the shape {list(array.shape)},"
                f" but the configuration makes {weight.path!r} {list(weight.shape)}. Set the"
                " model section of the configuration to the values of the checkpoint."
            )
    if len(weights) != len(arrays):
        raise UserError(
            f"the checkpoint holds {len(arrays)} weights, but the configuration makes"
            f" {len(weights)}. Set model.levels to the value of the checkpoint."
        )
    for weight, array in zip(weights, arrays, strict=True):
        weight.assign(array)


def original_order(names: Sequence[str]) -> list[str]:
    """Sorts the names of the original's weights into the order in which its layers were made.

    Args:
      names: Names of all variables in a checkpoint. Optimizer slots and counters are dropped.
    """
    parts = ("kernel", "recurrent_kernel", "bias")
    weights = {name for name in names if name.startswith(_MODULES) and name.endswith(parts)}
    layers = sorted({name.rpartition("/")[0] for name in weights}, key=_layer_order)
    for i in [i for i, layer in enumerate(layers) if "/gru_cell" in layer]:
        # Sorted, a GRU precedes its cell's Dense layers, but it was made after the first of them.
        layers[i : i + 2] = layers[i + 1], layers[i]
    return [f"{layer}/{part}" for layer in layers for part in parts if f"{layer}/{part}" in weights]


_MODULES = ("encoder_convdense", "scan", "decoder_conv")


def _layer_order(layer: str) -> tuple:
    scope, _, own = layer.rpartition("/")
    module = next(i for i, prefix in enumerate(_MODULES) if layer.startswith(prefix))
    kind, number = _number(own)
    # Convolutions come first in the encoder, and after the Dense layer in the decoder.
    kinds = ("conv2d", "gru_cell", "dense", "conv2d_transpose")
    if kind not in kinds:
        raise UserError(
            f"{layer!r} is not a layer of the original CW-VAE. Give another checkpoint."
        )
    return module, _number(scope.partition("/")[0])[1], kinds.index(kind), number


def _number(name: str) -> tuple[str, int]:
    """Splits `dense_7` into ("dense", 7); a name without a number counts as 0."""
    match = re.fullmatch(r"(.*?)(?:_(\d+))?", name)
    return match[1], int(match[2] or 0)


def bring_in(checkpoint: str, config: Config, logdir: str | pathlib.Path) -> int:
    """Makes a run folder from a checkpoint of the original.

    Args:
      checkpoint: The prefix of its files, or the folder that holds them.
      config: A configuration with the model of the checkpoint.
      logdir: The run's folder, which must not hold a run.

    Returns:
      The step of the checkpoint; 0 if it does not hold one.

    Raises:
      UserError: The checkpoint is missing or does not fit, or the folder cannot be used.
    """
    logdir = pathlib.Path(logdir)
    if (logdir / "config.yml").exists() or (logdir / "checkpoints").exists():
        raise UserError(f"--logdir {logdir}: there is a run already. Give another folder.")
    if not isinstance(config.model, configuration.CWVAEConfig):
        raise UserError(
            f"model.name = {config.model.name}: the original's checkpoints are of CW-VAE only. Set"
            " model.name to cwvae."
        )
    # TensorFlow is slow to start, so the user's mistakes are reported first.
    with starting_tensorflow():
        from cwvae import factory
        from cwvae.run import checkpoints
        from cwvae.training import loop

    config = config.with_precision("float32")  # As the original computes.
    names, arrays, step = _read(checkpoint)
    model = factory.build(config)
    assign_in_original_order(model, arrays, names)
    configuration.save_run(config, logdir)
    # The state of Adam is not imported.
    optimizer = loop.build_optimizer(config.training, model)
    meta = {"config": configuration.as_plain(config)}
    checkpoints.save(logdir, step, model, optimizer, meta=meta)
    return step


def _read(checkpoint: str) -> tuple[list[str], list[np.ndarray], int]:
    """Returns the names and values of a checkpoint's weights in their order, and its step."""
    import tensorflow as tf  # Late, as in `bring_in`.

    path = pathlib.Path(checkpoint)
    prefix = tf.train.latest_checkpoint(checkpoint) if path.is_dir() else checkpoint
    prefix = str(prefix).removesuffix(".index") if prefix else None
    if prefix is None or not pathlib.Path(f"{prefix}.index").is_file():
        raise UserError(
            f"{checkpoint}: no TensorFlow checkpoint there. Give the prefix of its files"
            " (model-1000 for model-1000.index and model-1000.data-00000-of-00001), or the folder"
            " that holds them and a file named `checkpoint`."
        )
    try:
        reader = tf.train.load_checkpoint(prefix)
        shapes = reader.get_variable_to_shape_map()
        names = original_order(list(shapes))
        arrays = [reader.get_tensor(name) for name in names]
        counters = [name for name in shapes if name.endswith("step") and not shapes[name]]
        step = int(reader.get_tensor(counters[0])) if counters else 0
    except (tf.errors.OpError, IndexError, ValueError, RuntimeError) as error:
        raise UserError(
            f"{checkpoint}: not a whole checkpoint ({str(error).splitlines()[0]}). Copy its .index"
            " and all its .data files again."
        ) from None
    if not names:
        raise UserError(
            f"{checkpoint}: holds no variables of the original CW-VAE. Give another checkpoint."
        )
    return names, arrays, step


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m cwvae.original",
        description="Makes a run folder from a checkpoint of the authors' TensorFlow 1 code.",
    )
    parser.add_argument("checkpoint", help="the prefix of its files, or their folder")
    parser.add_argument("--config", required=True, help="a YAML file with the model's sizes")
    parser.add_argument("--logdir", required=True, help="the run's folder, to be made")
    parser.add_argument(
        "--set", action="append", default=[], metavar="section.key=value", help="may be repeated"
    )
    arguments = configuration.parse_arguments(parser)
    with exit_on_user_error():
        config = configuration.load(arguments.config, arguments.set)
        step = bring_in(arguments.checkpoint, config, arguments.logdir)
    folder = shlex.quote(arguments.logdir)
    print(f"Imported step {step}. To evaluate: {command('eval')} --logdir {folder}")


if __name__ == "__main__":
    main()
