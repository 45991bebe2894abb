"""Helpers that compare the results of two trainings bit for bit."""

import numpy as np
import tensorflow as tf
from helpers.scripts import metrics_of

from cwvae.run import checkpoints


def arrays_of(logdir):
    """Returns the arrays of the newest checkpoint: the model's and the optimizer's."""
    return checkpoints.read(checkpoints.find(logdir))[0]


def lines_of(logdir):
    return [
        {name: value for name, value in line.items() if name != "frames_per_second"}
        for line in metrics_of(logdir)
    ]


def points_of(logdir):
    """Returns TensorBoard's scalars, (step, value) by name, in the order TensorBoard reads them."""
    found = {}
    for path in sorted((logdir / "tensorboard").glob("t*/*")):
        for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
            event = tf.compat.v1.Event.FromString(record)
            for value in event.summary.value:
                if value.metadata.plugin_data.plugin_name == "scalars":
                    point = event.step, float(tf.make_ndarray(value.tensor))
                    found.setdefault((path.parent.name, value.tag), []).append(point)
    # The speed is measured, and not at the first steps of a process, so equal runs differ in it.
    speed = [step for step, _ in found.pop(("train", "frames_per_second"))]
    assert speed == sorted(set(speed))
    return found


def assert_same_run(whole, other):
    """Checks that a run equals the one that was never interrupted."""
    want, got = arrays_of(whole), arrays_of(other)
    assert want.keys() == got.keys()
    for name, array in want.items():
        np.testing.assert_array_equal(got[name], array, err_msg=name)
    assert list(checkpoints.steps(other)) == list(checkpoints.steps(whole))
    assert not [*(other / "checkpoints").glob(".*")]
    assert lines_of(other) == lines_of(whole)
    assert points_of(other) == points_of(whole)
    assert (other / "config.yml").read_bytes() == (whole / "config.yml").read_bytes()
