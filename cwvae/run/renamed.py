"""Names of weights in older files, mapped to today's.

Until November 2026 a cell owned its weights itself, and convolutions were bare kernels. Since then
both are made of Keras layers, which have other names. The arrays are the same.
"""

import re

_LAYERS = ("prior_input", "gru", "prior_hidden", "prior_mean", "prior_stddev")
_LAYERS += ("posterior_hidden1", "posterior_hidden2", "posterior_mean", "posterior_stddev")
_PARTS = ("kernel", "recurrent_kernel", "bias")
_CELL = re.compile(rf"(level\d+)/({'|'.join(_LAYERS)})_({'|'.join(_PARTS)})")
# A cell's weights in the order in which it owned them; the GRU has three, the others two.
_IN_ORDER = [(layer, i) for layer in _LAYERS for i in range(3 if layer == "gru" else 2)]


def in_checkpoint(name: str) -> str:
    """Returns today's name of an array in a checkpoint: `level0/gru/bias` for `level0/gru_bias`."""
    return _CELL.sub(r"\1/\2/\3", name)


def in_keras_file(name: str) -> str:
    """Returns today's name of an array in a file of Keras' `save_weights`."""
    if match := re.fullmatch(r"(cells/\w+)/vars/(\d+)", name):
        layer, i = _IN_ORDER[int(match[2])]
        return f"{match[1]}/{layer}/vars/{i}"
    name = re.sub("^encoder/convolutions/__weights", "encoder/layers/conv2d", name)
    name = re.sub("^decoder/convolutions/__weights", "decoder/layers/conv2d_transpose", name)
    name = re.sub("^decoder/dense", "decoder/layers/dense", name)
    # The encoder comes first among the model's stacks of layers.
    return re.sub(
        r"^layers/embedding_mlp(?:_(\d+))?/",
        lambda match: f"layers/sequential_{int(match[1] or 0) + 1}/",
        name,
    )
