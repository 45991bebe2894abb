"""Predictions of videos: what `cwvae predict` computes, drawn as an animation or saved as arrays.

Symbols: V videos, S samples, T predicted frames, H, W: height and width, C: channels.
"""

import pathlib
import tempfile
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from cwvae import visualize
from cwvae.errors import UserError
from cwvae.run import files

SUFFIXES = (".mp4", ".gif", ".npz")

_SHOWN_VIDEOS = 8
_SHOWN_CONTEXT = 50  # Frames, at most.
_SIZE = 96  # Approximate width of frames in pixels.
_FASTEST = 50  # Frames per second of a GIF. Browsers slow down anything above.


class Prediction(NamedTuple):
    """Predictions of some videos.

    Attributes:
      frames: The predicted frames, float32 [V, S, T, H, W, C] in [0, 1].
      context: The frames that the model saw, uint8 [V, context frames, H, W, C].
      truth: For each video the frames after the context, if there are any: uint8 [t, H, W, C], t
        from 0 to T.
      names: The names of the videos.
      fps: Frames per second.
    """

    frames: np.ndarray
    context: np.ndarray
    truth: tuple[np.ndarray, ...]
    names: tuple[str, ...]
    fps: float


def draw(prediction: Prediction) -> np.ndarray:
    """Draws a column per video: the truth, if there is any, above the samples.

    The context has a blue border, predictions an orange one. At most 8 videos and the last 50
    frames of the context are shown.

    Returns:
      uint8 [shown context + T, H', W', 3].
    """
    frames, context, truth, *_ = prediction
    context = context[:_SHOWN_VIDEOS, -_SHOWN_CONTEXT:]
    samples = range(frames.shape[1])
    labels = [f"sample {i + 1}" for i in samples]
    rows = [
        [
            np.concatenate([seen, visualize.to_uint8(own[sample])])
            for seen, own in zip(context, frames, strict=False)
        ]
        for sample in samples
    ]
    if any(map(len, truth)):
        labels = ["truth", *labels]
        length = context.shape[1] + frames.shape[2]
        whole = [np.concatenate(parts) for parts in zip(context, truth, strict=False)]
        rows = [[_padded(video, length) for video in whole], *rows]
    grid = visualize.grid(rows, scale=max(1, _SIZE // context.shape[2]))
    return visualize.label_rows(visualize.mark_context(grid, context.shape[1]), labels)


def _padded(video: np.ndarray, length: int) -> np.ndarray:
    """Returns RGB frames [length, H, W, 3], of the gaps' color after the video has ended."""
    padded = np.empty((length, *video.shape[1:3], 3), np.uint8)
    padded[:] = visualize.GAP_COLOR
    padded[: len(video)] = video
    return padded


def write(prediction: Prediction, path: pathlib.Path) -> int:
    """Writes a prediction to a file, as `draw` shows it, or as arrays if it is a .npz file.

    The arrays are `frames`, `context` and `names` of the `Prediction`. This is a predictions file,
    as `eval.py --predictions` takes it.

    Returns:
      The number of videos that the file shows.
    """
    suffix, count = path.suffix.lower(), len(prediction.context)
    if suffix == ".npz":
        arrays = {"frames": prediction.frames, "context": prediction.context}
        with files.whole(path) as aside, open(aside, "wb") as file:
            np.savez(file, **arrays, names=np.array(prediction.names))
        return count
    if suffix == ".gif":
        visualize.save_gif(path, draw(prediction), min(prediction.fps, _FASTEST))
    else:
        visualize.save_mp4(path, draw(prediction), prediction.fps)
    return min(count, _SHOWN_VIDEOS)


def check_out(path: str | pathlib.Path, inputs: Sequence[pathlib.Path] = ()) -> pathlib.Path:
    """Checks that a prediction can be written to a file, and makes the folder around it.

    Args:
      path: The file. Its extension decides what is written.
      inputs: Files that must not be replaced.

    Raises:
      UserError: The extension is unknown, or the file cannot be written.
    """
    path = pathlib.Path(path).expanduser()
    if path.is_dir():
        raise UserError(f"--out {path}: this is a folder. Give a file.")
    if path.suffix.lower() not in SUFFIXES:
        raise UserError(
            f"--out {path}: the name must end in one of {', '.join(SUFFIXES)}: a video, an"
            " animation, or arrays for NumPy."
        )
    if path.resolve() in [other.resolve() for other in inputs]:
        raise UserError(f"--out {path}: this is one of the videos to predict. Give another file.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path.parent).close()
    except OSError as error:
        raise UserError(
            f"--out {path}: cannot write there ({error.strerror}). Give another file."
        ) from None
    return path
