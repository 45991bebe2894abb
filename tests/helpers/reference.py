"""The outputs of the authors' code in tests/golden, and the weights and videos they belong to.

Weights and videos are formulas, so that only the outputs need to be stored.
"""

import json
import pathlib

import numpy as np

from cwvae.model import CWVAE
from cwvae.original import assign_in_original_order

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"
NAMES = ("cwvae_l3_k6", "cwvae_l2_k2_rgb")


def load(name: str) -> tuple[dict, dict]:
    """Returns (meta, outputs) of a reference file."""
    with np.load(GOLDEN / f"{name}.npz", allow_pickle=False) as file:
        arrays = dict(file)
    return json.loads(str(arrays.pop("meta"))), arrays


def weights(meta: dict) -> list[np.ndarray]:
    """Returns the formula's weights in the original's order."""
    arrays = []
    for i, (_, shape) in enumerate(meta["names"]):
        count = int(np.prod(shape))
        amplitude = 0.1 if len(shape) == 1 else 1.5 / np.sqrt(max(1, count // shape[-1]))
        values = amplitude * np.sin(np.arange(count, dtype=np.float64) * 0.7311 + 1.3 * i)
        arrays.append(values.reshape(shape).astype(np.float32))
    return arrays


def video(meta: dict) -> np.ndarray:
    """Returns the formula's video, [B, T, 64, 64, C] in [0, 1]."""
    shape = (meta["B"], meta["T"], 64, 64, meta["cfg"]["channels"])
    b, t, y, x, c = np.meshgrid(*map(np.arange, shape), indexing="ij", sparse=True)
    waves = np.sin(0.21 * x + 0.13 * t + b) * np.cos(0.17 * y - 0.07 * t + 0.5 * c)
    return (0.5 + 0.5 * waves).astype(np.float32)


def model(meta: dict, kind: type[CWVAE] = CWVAE) -> CWVAE:
    """Returns our model with the formula's weights."""
    cfg = meta["cfg"]
    ours = kind(
        levels=cfg["levels"],
        factors=(cfg["tmp_abs_factor"],) * (cfg["levels"] - 1),
        frame_size=64,
        channels=cfg["channels"],
        stochastic_size=cfg["cell_stoch_size"],
        deterministic_size=cfg["cell_deter_size"],
        hidden_size=cfg["cell_embed_size"],
        mlp_size=cfg["enc_dense_embed_size"],
        decoder_stddev=cfg["dec_stddev"],
        min_stddev=cfg["cell_min_stddev"],
        mean_only=cfg["cell_mean_only"],
    )
    names = [name for name, _ in meta["names"]]
    assign_in_original_order(ours, weights(meta), names)
    return ours
