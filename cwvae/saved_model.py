"""A SavedModel of a model's predictions, which TensorFlow loads without this package."""

import pathlib

import keras
import tensorflow as tf

from cwvae.video_model import VideoModel


def save(model: VideoModel, path: str | pathlib.Path, context: int, horizon: int) -> None:
    """Writes a SavedModel with the function `predict`.

    With `saved = tf.saved_model.load(path)`, `saved.predict(context, seed)` takes float32 frames
    [B, context, H, W, C] in [0, 1], which it does not check, and an int64 seed []. It returns what
    `model.predict(context, horizon, seed)` returns, up to rounding, for any number of clips B.
    `saved` must be kept: TensorFlow's functions do not keep the variables that they use.

    Args:
      model: The model.
      path: The folder to write.
      context: Frames that are seen, from 1.
      horizon: Frames to predict, from 1.
    """
    shape = (horizon, *model.frame_shape)

    def predict(context, seed):
        seed = tf.stack([seed, 0])

        def one(clip):
            # The model needs a fixed number of clips. Clip by clip takes no longer on a CPU.
            row, frames = clip
            return model.predict(frames[None], horizon, seed, row=row)[0]

        rows = tf.range(tf.shape(context)[0])
        return tf.map_fn(one, (rows, context), fn_output_signature=tf.TensorSpec(shape, tf.float32))

    archive = keras.export.ExportArchive()
    archive.track(model)
    archive.add_endpoint(
        "predict",
        predict,
        [
            tf.TensorSpec((None, context, *model.frame_shape), tf.float32, "context"),
            tf.TensorSpec((), tf.int64, "seed"),
        ],
    )
    archive.write_out(path, verbose=False)
