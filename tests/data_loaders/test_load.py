"""Tests of `load`: downloads, archives, folders of tfds, and messages."""

import json
import shutil
import zipfile

import numpy as np
import pytest
from helpers.http_server import serve
from helpers.video_files import write_video

import data_loaders
from cwvae.errors import UserError
from data_loaders.published import builders, downloads, sets
from data_loaders.published.tfds_directory import TfdsDirectory
from data_loaders.store import store
from data_loaders.store.store import Store

RNG = np.random.default_rng(0)
LENGTHS = {"train": [5, 12, 7], "test": [9]}


@pytest.fixture(scope="module")
def videos():
    """Gray frames of each video, by split."""
    return {
        split: [RNG.integers(0, 256, (length, 64, 64), np.uint8) for length in lengths]
        for split, lengths in LENGTHS.items()
    }


@pytest.fixture(scope="module")
def archive(videos, tmp_path_factory):
    """A small moving_mnist_2digit with the published layout."""
    folder = tmp_path_factory.mktemp("archive")
    with zipfile.ZipFile(folder / "moving_mnist_2digit.zip", "w") as file:
        for split, part in videos.items():
            for number, frames in enumerate(part):
                path = write_video(folder / f"{number}.mp4", frames)
                where = sets.FACTS["moving_mnist_2digit"].folders[split]
                file.write(path, f"{where}/{number}.mp4")
    return folder / "moving_mnist_2digit.zip"


@pytest.fixture
def data_dir(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    return folder


def load(data_dir, split="train", **options):
    return data_loaders.load("moving_mnist_2digit", split, data_dir=str(data_dir), **options)


def check_clips(dataset, videos, channels=1):
    assert [dataset.length(i) for i in range(len(dataset))] == [len(frames) for frames in videos]
    for i, frames in enumerate(videos):
        expected = np.repeat(frames[..., None], channels, -1)
        np.testing.assert_array_equal(dataset.clip(i), expected)


def test_from_an_interrupted_download_to_a_store(archive, videos, data_dir, monkeypatch, capsys):
    content = archive.read_bytes()
    with serve() as server:
        server.files["/moving_mnist_2digit.zip"] = content
        server.cuts["/moving_mnist_2digit.zip"] = [len(content) // 2]
        facts = sets.FACTS["moving_mnist_2digit"]
        urls = {"moving_mnist_2digit.zip": (f"{server.url}/moving_mnist_2digit.zip",)}
        monkeypatch.setitem(
            sets.FACTS,
            "moving_mnist_2digit",
            sets.dataclasses.replace(facts, files=urls),
        )
        monkeypatch.setattr(downloads, "ARCHIVE_ORG", server.url)
        monkeypatch.setattr(downloads, "RETRY_SECONDS", (0.01, 0.01))
        dataset = load(data_dir, channels=1)
        sent = sum(r.sent for r in server.requests if r.path == "/moving_mnist_2digit.zip")
    assert sent < len(content) + 2**15
    check_clips(dataset, videos["train"])
    check_clips(load(data_dir, "test", channels=1), videos["test"])
    told = capsys.readouterr().err
    for words in ("archive.org/details/moving_mnist", "licence", "3 train and 1 test videos"):
        assert words in told
    # From now on, only the store is needed.
    shutil.rmtree(data_dir / "downloads")
    check_clips(load(data_dir, channels=1), videos["train"])


def test_from_archives_that_the_user_has(archive, videos, data_dir):
    options = {"archives_dir": str(archive.parent), "channels": 3}
    check_clips(load(data_dir, **options), videos["train"], channels=3)
    assert not (data_dir / "downloads").exists()


@pytest.fixture(scope="module")
def tfds_dir(archive, tmp_path_factory):
    """A data_dir with a folder of tensorflow-datasets."""
    folder = tmp_path_factory.mktemp("tfds")
    builder = builders.MovingMnist_2digit(data_dir=folder, archives_dir=archive.parent)
    builder.download_and_prepare()
    return folder


def test_a_folder_of_tensorflow_datasets_is_prepared_from(tfds_dir, videos):
    assert isinstance(
        data_loaders.open_source("moving_mnist_2digit", data_dir=str(tfds_dir)), TfdsDirectory
    )
    dataset = load(tfds_dir, channels=1)
    assert isinstance(dataset, Store)
    check_clips(dataset, videos["train"])


def test_windows_are_chosen_as_configured(archive, data_dir):
    options = {"archives_dir": str(archive.parent), "channels": 1}
    dataset = load(data_dir, windows="chunks", **options)
    whole = [dataset.clip(i)[t : t + 5] for i, t in ((0, 0), (1, 0), (1, 5), (2, 0))]
    batch = dataset.batch(4, 5, seed=0, step=3)
    assert sorted(v.tobytes() for v in batch) == sorted(v.tobytes() for v in whole)
    with pytest.raises(UserError, match="did you mean 'chunks'"):
        load(data_dir, windows="chunk", **options)


def test_attributes_of_mazes_come_with_their_store(data_dir):
    pytest.importorskip("labmaze", reason="labmaze, which makes the mazes, is not installed")
    options = {"frame_size": 16, "channels": 3, "train_videos": 2, "test_videos": 1}
    lengths = {"train_length": 30, "test_length": 20}
    dataset = data_loaders.load(
        "procedural_mazes", "train", data_dir=str(data_dir), **options, **lengths
    )
    assert len(dataset) == 2
    source = data_loaders.open_source("procedural_mazes", **options, **lengths)
    known, part = source.attributes("train", "000001"), dataset.attributes(1, 10, 5)
    np.testing.assert_array_equal(part["pose"], known["pose"][10:15])
    np.testing.assert_array_equal(part["wall_textures"], known["wall_textures"])
    np.testing.assert_array_equal(
        dataset.clip(1), np.concatenate(list(source.read("train", "000001")))
    )


def test_a_wrong_data_dir_is_named(tmp_path):
    for name in ("gqn_mazes", "kth_actions", "procedural_mazes"):
        with pytest.raises(UserError, match=r"data\.data_dir: .*nowhere is not a folder.*mkdir -p"):
            data_loaders.load(name, "train", data_dir=str(tmp_path / "nowhere"))


def test_a_damaged_store_is_named(archive, data_dir):
    options = {"archives_dir": str(archive.parent), "channels": 1}
    folder = load(data_dir, **options).folder
    (folder / "store.json").write_text(json.dumps({"format": 0}))
    with pytest.raises(UserError, match=r"store\.json: has format 0.*Delete the folder"):
        load(data_dir, **options)
    shutil.rmtree(folder)
    assert store.is_complete(load(data_dir, **options).folder)


def test_options_of_other_data_sets_have_no_effect(archive, videos, data_dir):
    options = {"archives_dir": str(archive.parent), "num_digits": 7, "videos_dir": "nowhere"}
    check_clips(load(data_dir, channels=1, **options), videos["train"])
    assert len(data_loaders.load("moving_digits", "train", videos_dir="nowhere")) > 0
    with pytest.raises(UserError, match="'num_digit'; did you mean 'num_digits'"):
        load(data_dir, num_digit=3)
