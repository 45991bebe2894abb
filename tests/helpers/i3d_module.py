"""A tiny network in the format of TensorFlow Hub's I3D module, with the same tensor names.

Its features depend on color, space and time, so they differ between videos.
"""

import pathlib

import numpy as np
import tensorflow as tf

v1 = tf.compat.v1


def export(
    folder: str | pathlib.Path,
    seed: int = 0,
    tags: tuple[str, ...] = (),
    output: str = "Mean",
    average: bool = True,
) -> pathlib.Path:
    """Writes a module to a new folder and returns it.

    Args:
      folder: A folder that does not exist yet.
      seed: Seed of the random weights.
      tags: Tags of the graph; a module of TensorFlow Hub's format 1 has none.
      output: Name of the last tensor, in the scope RGB/inception_i3d.
      average: Whether features are averaged over time, as I3D's are.
    """
    rng = np.random.default_rng(seed)
    with tf.Graph().as_default(), v1.Session() as session:
        video = v1.placeholder(tf.float32, [None, None, 224, 224, 3], name="input_frames")
        with v1.variable_scope("RGB/inception_i3d"):
            # Not resource variables: old modules have reference variables.
            kernel = v1.get_variable(
                "kernel",
                initializer=rng.normal(0, 0.03, (3, 32, 32, 3, 8)).astype(np.float32),
                use_resource=False,
            )
            head = v1.get_variable(
                "head",
                initializer=rng.normal(0, 1, (8, 400)).astype(np.float32),
                use_resource=False,
            )
            hidden = tf.nn.relu(tf.nn.conv3d(video, kernel, [1, 2, 32, 32, 1], "VALID"))
            logits = tf.tensordot(tf.reduce_mean(hidden, [2, 3], name="pool"), head, 1)
            if average:
                features = tf.reduce_mean(logits, 1, name=output)
            else:
                features = tf.identity(logits, name=output)
        session.run(v1.global_variables_initializer())
        builder = v1.saved_model.Builder(str(folder))
        signature = v1.saved_model.predict_signature_def({"frames": video}, {"default": features})
        builder.add_meta_graph_and_variables(session, list(tags), {"default": signature})
        builder.save()
    return pathlib.Path(folder)
