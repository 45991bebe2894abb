"""Tests on real files, which are not in this repository; skipped without them.

CWVAE_VIDEO_DIR names a folder with MineRL Navigate clips as GIFs, an avi, mp4 and webm files, and
CWVAE_MNIST_DIR one with MNIST's IDX files.
"""

import json
import os
import pathlib
import shutil

import numpy as np
import pytest
from helpers.scripts import metrics_of, succeed
from PIL import Image, ImageSequence

import data_loaders
from data_loaders.store import preparation
from data_loaders.store.store import Store, verify

NAVIGATE = "navigate*.gif"


@pytest.fixture
def real_videos():
    folder = os.environ.get("CWVAE_VIDEO_DIR")
    if not folder or not list(pathlib.Path(folder).glob(NAVIGATE)):
        pytest.skip("CWVAE_VIDEO_DIR does not name a folder with the real videos")
    return pathlib.Path(folder)


def prepared(videos_dir, data_dir, **options):
    recipe = {"name": "video_folder", "videos_dir": str(videos_dir), "channels": 3, **options}
    source = data_loaders.open_source(**recipe)
    return preparation.prepare(source, data_dir, recipe, processes=2)


def clips(folder):
    for split in ("train", "test"):
        data = Store(folder, split)
        yield from ((data.name(i), data.clip(i)) for i in range(len(data)))


def test_minecraft_clips_are_unchanged(real_videos, tmp_path):
    shutil.copytree(
        real_videos,
        tmp_path / "videos",
        ignore=lambda _, names: {name for name in names if "navigate" not in name},
    )
    folder = prepared(tmp_path / "videos", tmp_path, test_fraction=0.5)
    found = dict(clips(folder))
    assert len(found) == 6
    assert (folder / "skipped.txt").read_text() == ""
    for name, video in found.items():
        with Image.open(real_videos / name) as image:
            frames = [np.asarray(f.convert("RGB")) for f in ImageSequence.Iterator(image)]
        np.testing.assert_array_equal(video, np.stack(frames), err_msg=name)


def means(frame, axis, start, stop):
    """Returns the mean of each of 64 equal parts of a side, from `start` to `stop`."""
    sums = np.insert(np.cumsum(frame, axis, dtype=float), 0, 0, axis)
    edges, places = np.linspace(start, stop, 65), np.arange(sums.shape[axis])
    at_edges = np.apply_along_axis(lambda s: np.interp(edges, places, s), axis, sums)
    return np.diff(at_edges, axis=axis) * 64 / (stop - start)


def test_all_files_are_prepared_and_equal_the_decoders_frames(real_videos, tmp_path):
    av = pytest.importorskip("av")
    folder = prepared(real_videos, tmp_path, test_fraction=0.5)
    found = dict(clips(folder))
    assert len(found) == len([path for path in real_videos.iterdir() if path.is_file()])
    assert all(whole for _, _, whole in verify(folder))
    for name in ("part_0.mp4", "test.avi", "big_buck_bunny_432_433.webm", "train_example1.avi"):
        with av.open(str(real_videos / name)) as container:
            video = container.streams.video[0]
            frames = [frame.to_image() for frame in container.decode(video)]
            aspect = float(video.sample_aspect_ratio or 1)  # 1024:765 in one of them.
        width, height = frames[0].size
        side = min(width * aspect, height)
        left, top = (width - side / aspect) / 2, (height - side) / 2
        box = left, top, width - left, height - top
        if side > 64:
            resized = [means(means(np.asarray(f), 0, *box[1::2]), 1, *box[::2]) for f in frames]
        else:
            bilinear = Image.Resampling.BILINEAR
            resized = [np.asarray(f.resize((64, 64), bilinear, box)) for f in frames]
        expected = np.stack(resized).astype(float)
        assert found[name].shape == expected.shape
        assert np.abs(found[name] - expected).max() <= 1, name


@pytest.mark.slow
def test_the_minecraft_model_trains_on_minecraft_clips(real_videos, tmp_path):
    (tmp_path / "videos").mkdir()
    for path in real_videos.glob(NAVIGATE):
        shutil.copy(path, tmp_path / "videos")
    changes = {
        "data.name": "video_folder",
        "data.videos_dir": tmp_path / "videos",
        "data.data_dir": tmp_path,
        "data.test_fraction": 0.3,
        "training.steps": 40,
        "training.batch_size": 4,
        "training.seq_len": 40,
        "training.log_every": 20,
        "training.video_length": 50,
        "evaluation.horizon": 64,
        "evaluation.num_videos": 2,
    }
    words = [word for key, value in changes.items() for word in ("--set", f"{key}={value}")]
    logdir = tmp_path / "run"
    config = ("--config", "configs/minerl_navigate.yml")
    succeed("train.py", *config, "--logdir", logdir, *words)
    losses = [line["loss"] for line in metrics_of(logdir) if "loss" in line]
    assert len(losses) == 2
    assert losses[1] < 0.6 * losses[0]
    succeed("eval.py", "--logdir", logdir)
    scores = json.loads((logdir / "eval" / "metrics.json").read_text())
    assert np.isfinite(scores["scores"]["cwvae"]["psnr"]["mean"])


@pytest.mark.skipif("CWVAE_MNIST_DIR" not in os.environ, reason="CWVAE_MNIST_DIR is not set")
def test_no_test_digit_is_in_a_training_clip():
    options = {"digits_dir": os.environ["CWVAE_MNIST_DIR"], "num_digits": 1}
    data = {s: data_loaders.load("moving_digits", s, **options) for s in ("train", "test")}
    images = {split: dataset._images for split, dataset in data.items()}
    assert [len(part) for part in images.values()] == [60000, 10000]
    known = {split: {image.tobytes() for image in part} for split, part in images.items()}
    assert not known["train"] & known["test"]
    for i in range(200):  # A clip shows an image of the same split, at the documented place.
        attributes = data["train"].attributes(i, 7, 1)
        row, column = np.rint(attributes["positions"][0, 0]).astype(int)
        shown = data["train"].clip(i, 7, 1)[0, row : row + 28, column : column + 28, 0]
        assert shown.tobytes() in known["train"]
        assert shown.tobytes() not in known["test"]
