"""A SavedModel of a model's predictions, which TensorFlow loads without this package."""

import pathlib

import keras
import tensorflow as tf

from cwvae.video_model import VideoModel

# Clips that are predicted together.
_CLIPS = 16


def save(model: VideoModel, path: str | pathlib.Path, context: int, horizon: int) -> None:
    """Writes a SavedModel with the function `predict`.

    `tf.saved_model.load(path).predict(context, seed)` takes float32 frames [B, context, H, W, C] in
    [0, 1], which it does not check, and an int64 seed []. It returns what `model.predict(context,
    horizon, seed)` returns, up to rounding, for any number of clips B.

    Args:
      model: The model.
      path: The folder to write.
      context: Frames that are seen, from 1.
      horizon: Frames to predict, from 1.
    """
    height, width, channels = model.frame_shape

    def predict(context, seed):
        seed = tf.stack([seed, 0])

        def some(first, count):
            """Returns the predictions for `count` clips, a Python integer."""
            clips = tf.ensure_shape(context[first : first + count], (count, *context.shape[1:]))
            return model.predict(clips, horizon, seed, row=first)

        # The model is traced for a number of clips: for all blocks of that many, and for one clip,
        # as often as there are clips left.
        clips = tf.shape(context)[0]
        blocks = clips // _CLIPS
        parts = []
        for count, starts in (
            (_CLIPS, tf.range(blocks) * _CLIPS),
            (1, tf.range(blocks * _CLIPS, clips)),
        ):
            shape = (count, horizon, height, width, channels)
            frames = tf.map_fn(
                lambda first, count=count: some(first, count),
                starts,
                fn_output_signature=tf.TensorSpec(shape, tf.float32),
            )
            parts.append(tf.reshape(frames, (-1, *shape[1:])))
        return tf.concat(parts, 0)

    archive = keras.export.ExportArchive()
    archive.track(model)
    archive.add_endpoint(
        "predict",
        predict,
        [
            tf.TensorSpec((None, context, height, width, channels), tf.float32, "context"),
            tf.TensorSpec((), tf.int64, "seed"),
        ],
    )
    archive.write_out(path, verbose=False)
