"""The I3D network: its location, its input, and features of a tiny one with the real loader."""

import importlib
import pathlib
import shutil
import subprocess
import sys
import types

import numpy as np
import pytest
import tensorflow as tf
from helpers import i3d_module
from helpers.scripts import ENVIRONMENT

from cwvae.errors import MissingWeights, UserError
from cwvae.metrics import fvd

HUB_FOLDER = "092225fb776e28d6d64ac605ab6be03f18dd2027"


@pytest.fixture(scope="module")
def module(tmp_path_factory):
    return i3d_module.export(tmp_path_factory.mktemp("i3d") / "module")


@pytest.fixture(scope="module")
def i3d(module):
    return fvd.I3D(module)


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    """Simulates a machine without the module: an empty hub cache and no kagglehub."""
    monkeypatch.setenv("TFHUB_CACHE_DIR", str(tmp_path))
    monkeypatch.setitem(sys.modules, "kagglehub", None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    return tmp_path


def videos(count, length, channels=3, size=(13, 9), seed=0):
    shape = (count, length, *size, channels)
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def tf1_bilinear(frame, size):
    """Resizes as TensorFlow 1: source = target * scale, between the two nearest pixels."""
    for axis in (0, 1):
        length = frame.shape[axis]
        source = np.arange(size) * (length / size)
        before = source.astype(int)
        after = np.minimum(before + 1, length - 1)
        weight = (source - before).reshape([-1 if i == axis else 1 for i in range(3)])
        frame = frame.take(before, axis) * (1 - weight) + frame.take(after, axis) * weight
    return frame


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(64, 64), (13, 29), (300, 224)])
def test_frames_are_resized_as_tensorflow_1_did(size, channels):
    video = videos(2, 3, channels, size)
    got = fvd.preprocess(video).numpy()
    assert got.shape == (2, 3, 224, 224, 3)
    for n, t in np.ndindex(2, 3):
        want = np.broadcast_to(tf1_bilinear(video[n, t].astype(float), 224), (224, 224, 3))
        np.testing.assert_allclose(got[n, t], 2 * want / 255 - 1, atol=1e-4)
        want = tf.compat.v1.image.resize_bilinear(video[n, t : t + 1], (224, 224))[0]
        np.testing.assert_array_equal(got[n, t], np.broadcast_to(2 * want / 255 - 1, (224, 224, 3)))


def test_the_resize_differs_from_half_pixel_centres():
    video = videos(1, 1, size=(64, 64))
    other = 2 * tf.image.resize(video[0], (224, 224)).numpy() / 255 - 1
    assert np.abs(fvd.preprocess(video).numpy()[0] - other).max() > 0.1


def test_features_equal_the_networks_output(module, i3d):
    video = videos(3, 11)
    frames = fvd.preprocess(video).numpy()
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:  # as TensorFlow 1 loads it
        tf.compat.v1.saved_model.load(session, [], str(module))
        want = session.run("RGB/inception_i3d/Mean:0", {"input_frames:0": frames})
    got = i3d.features(video)
    assert got.dtype == np.float32
    assert got.shape == (3, i3d.size) == (3, 400)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def test_gray_is_repeated_to_rgb(i3d):
    gray = videos(2, 9, channels=1)
    rgb = np.repeat(gray, 3, -1)
    np.testing.assert_allclose(i3d.features(gray), i3d.features(rgb), rtol=1e-6)
    assert np.abs(i3d.features(gray) - i3d.features(videos(2, 9))).max() > 0.01


@pytest.mark.parametrize(("count", "length"), [(18, 9), (3, 120), (2, 300), (0, 9)])
def test_features_do_not_depend_on_the_other_videos(i3d, monkeypatch, count, length):
    video, calls = videos(count, length, size=(5, 4)), []
    network = i3d._network
    monkeypatch.setattr(
        i3d, "_network", lambda frames: calls.append(frames.shape[:2]) or network(frames)
    )
    got = i3d.features(video)
    assert got.shape == (count, 400)
    assert sum(call[0] for call in calls) == count
    assert all(n <= 16 and (n == 1 or n * t <= 256) for n, t in calls)
    for n in range(count)[::5]:
        np.testing.assert_allclose(got[n], network(fvd.preprocess(video[n : n + 1]))[0], rtol=1e-4)


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        (np.zeros((2, 8, 5, 5, 3), np.uint8), "at least 9 frames, got 8"),
        (np.zeros((2, 9, 5, 5, 3), np.float32), "must be uint8"),
        (np.zeros((9, 5, 5, 3), np.uint8), "must be uint8"),
        (np.zeros((2, 9, 5, 5, 2), np.uint8), "must be uint8"),
    ],
)
def test_invalid_videos_are_refused(i3d, wrong, match):
    with pytest.raises(ValueError, match=match):
        i3d.features(wrong)


def test_the_digest_depends_on_weights_and_not_on_other_files(module, i3d, tmp_path):
    other = fvd.I3D(i3d_module.export(tmp_path / "other", seed=1))
    assert other.digest != i3d.digest
    copy = shutil.copytree(module, tmp_path / "copy")
    (copy / "notes.txt").write_text("mine")
    assert fvd.I3D(copy).digest == i3d.digest
    assert len(i3d.digest) == 64


def test_tensorflow_prints_no_warnings(module, caplog):
    fvd.I3D(module).features(videos(1, 9))
    assert not caplog.records


# The search.


def test_a_given_folder_is_used(module, nowhere):
    assert fvd.find_module(module) == module
    with pytest.raises(UserError, match=r"--i3d .*missing: no such folder"):
        fvd.find_module(nowhere / "missing")


def test_the_hub_cache_is_searched(module, nowhere, monkeypatch):
    shutil.copytree(module, nowhere / HUB_FOLDER)
    assert fvd.find_module() == nowhere / HUB_FOLDER
    # The hub's default if the variable is not set.
    monkeypatch.delenv("TFHUB_CACHE_DIR")
    monkeypatch.setattr("tempfile.tempdir", str(nowhere / "tmp"))
    shutil.copytree(module, nowhere / "tmp" / "tfhub_modules" / HUB_FOLDER)
    assert fvd.find_module() == nowhere / "tmp" / "tfhub_modules" / HUB_FOLDER


def test_kagglehub_is_asked_if_installed(module, nowhere, monkeypatch):
    asked = []
    kagglehub = types.ModuleType("kagglehub")
    kagglehub.model_download = lambda handle: asked.append(handle) or str(module)
    monkeypatch.setitem(sys.modules, "kagglehub", kagglehub)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    assert fvd.find_module() == module
    assert asked == ["deepmind/i3d-kinetics/tensorFlow1/400/1"]

    def fail(handle):
        raise ConnectionError("no route to host\nat all")

    kagglehub.model_download = fail
    with pytest.raises(MissingWeights, match="kagglehub: no route to host at all"):
        fvd.find_module()


def test_a_missing_module_is_explained_with_three_ways_to_get_it(nowhere):
    (nowhere / HUB_FOLDER).mkdir()
    with pytest.raises(MissingWeights) as caught:
        fvd.find_module()
    for part in (
        f"{nowhere / HUB_FOLDER}: not an I3D module: it has no saved_model.pb",
        "kagglehub is not installed",
        "--i3d FOLDER",
        f"$TFHUB_CACHE_DIR/{HUB_FOLDER}",
        "pip install kagglehub",
    ):
        assert part in str(caught.value)


def test_the_search_does_not_start_tensorflow(no_tensorflow):
    code = "from cwvae.metrics import fvd; fvd.find_module('no_such_folder')"
    result = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=ENVIRONMENT | no_tensorflow,
    )
    assert "UserError: --i3d no_such_folder: no such folder" in result.stderr


# Other folders.


def test_folders_without_a_graph_and_files_are_refused(tmp_path):
    file = tmp_path / "module.tar.gz"
    file.touch()
    for path, match in ((tmp_path, "no saved_model.pb"), (file, "a folder: unpack it")):
        for function in (fvd.find_module, fvd.I3D):
            with pytest.raises(UserError, match=match):
                function(path)


@pytest.mark.parametrize(
    "name",
    [
        "saved_model.pb",
        "variables/variables.index",
        "variables/variables.data-00000-of-00001",
    ],
)
@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_damaged_modules_are_refused(module, tmp_path, name, damage):
    copy = shutil.copytree(module, tmp_path / "copy")
    path = pathlib.Path(copy, name)
    if damage == "cut":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    else:
        path.unlink()
    with pytest.raises(UserError, match=rf"{copy}: .*(damaged or incomplete|no saved_model.pb)"):
        fvd.I3D(copy)


def test_other_networks_are_refused(tmp_path):
    other = i3d_module.export(tmp_path / "a", output="Logits")
    with pytest.raises(UserError, match="not an I3D module: it has no tensor RGB/inception_i3d/M"):
        fvd.I3D(other)
    other = i3d_module.export(tmp_path / "b", average=False)
    with pytest.raises(UserError, match=r"should be \[N, D\], but its shape is"):
        fvd.I3D(other)
    other = i3d_module.export(tmp_path / "c", tags=("serve",))
    with pytest.raises(UserError, match="its graphs have tags"):
        fvd.I3D(other)
    tf.saved_model.save(tf.Module(), str(tmp_path / "d"))
    with pytest.raises(UserError, match="its graphs have tags"):
        fvd.I3D(tmp_path / "d")


def test_features_that_are_not_finite_are_refused(i3d, monkeypatch):
    monkeypatch.setattr(i3d, "_network", lambda frames: tf.fill([len(frames), 400], np.nan))
    with pytest.raises(UserError, match="not finite"):
        i3d.features(videos(2, 9))
