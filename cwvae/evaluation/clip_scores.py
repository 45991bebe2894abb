"""The scores of single clips, in clip_scores.npz next to metrics.json. No TensorFlow.

metrics.json has means over clips. What varies from clip to clip, such as a bootstrap interval, is
computed from this file. Its arrays are:

  index: JSON. `sha256`: That of the metrics.json of the same evaluation. `scores`: Pairs
    [predictor, metric], whose names may hold any characters.
  s0, s1, ...: The scores of these pairs, float32 [N, T]; NaN where a frame is not scored.

Symbols: N videos, T predicted frames.
"""

import io
import json
import pathlib
from collections.abc import Mapping

import numpy as np

from cwvae.errors import UserError
from cwvae.evaluation.results import CLIP_SCORES
from cwvae.installation import command
from cwvae.run import files

# {predictor: {metric: float32 [N, T]}}
Scores = Mapping[str, Mapping[str, np.ndarray]]


def write(folder: pathlib.Path, results: Mapping, scores: Scores) -> None:
    """Writes the scores of an evaluation; `results` is the content of its metrics.json."""
    pairs = _pairs(scores)
    index = json.dumps({"sha256": results["sha256"], "scores": pairs})
    arrays = {f"s{i}": scores[predictor][metric] for i, (predictor, metric) in enumerate(pairs)}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, index=np.array(index), **arrays)
    files.write(folder / CLIP_SCORES, buffer.getvalue())


def read(folder: pathlib.Path, results: Mapping) -> Scores | None:
    """Reads the scores of an evaluation; None without a file, as earlier versions left none.

    Args:
      folder: The folder of the evaluation.
      results: The content of its metrics.json.

    Raises:
      UserError: The file is damaged, cannot be read, or is of another evaluation.
    """
    file, shape = folder / CLIP_SCORES, (results["num_videos"], results["horizon"])
    try:
        with np.load(file, allow_pickle=False) as content:
            index = json.loads(str(content["index"]))
            if index["sha256"] != results["sha256"]:
                raise ValueError("the metrics.json next to it is of another evaluation")
            pairs = index["scores"]
            if sorted(pairs) != sorted(_pairs(results["scores"])):
                raise ValueError("its scores are not those in metrics.json")
            arrays = [content[f"s{i}"] for i in range(len(pairs))]
        if any(array.dtype != np.float32 or array.shape != shape for array in arrays):
            raise ValueError(f"its arrays are not float32 {list(shape)}")
    except FileNotFoundError:
        return None
    except Exception as error:  # Damage can raise nearly anything in zipfile and its decoders.
        again = f"Evaluate again with {command('eval')}."
        raise UserError(f"{file}: cannot be used ({error}). {again}") from None
    scores = {}
    for (predictor, metric), array in zip(pairs, arrays, strict=True):
        scores.setdefault(predictor, {})[metric] = array
    return scores


def _pairs(scores: Mapping[str, Mapping]) -> list[list[str]]:
    return [[predictor, metric] for predictor, by_metric in scores.items() for metric in by_metric]
