"""Tests of `load`: downloads, archives, folders of tfds, and messages."""

import json
import os
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


# A store and what it was made from.


def write_archive(path, videos):
    """Writes moving_mnist_2digit with gray frames by split and name; returns its folder."""
    path.mkdir()
    with zipfile.ZipFile(path / "moving_mnist_2digit.zip", "w") as file:
        for split, part in videos.items():
            for name, frames in part.items():
                video = write_video(path / name, frames)
                file.write(video, f"{sets.FACTS['moving_mnist_2digit'].folders[split]}/{name}")
    return path


@pytest.fixture
def others(archive, videos, tmp_path):
    """Folders of archives: a copy, one with another video, with one more, and one moved."""
    named = {s: {f"{i}.mp4": v for i, v in enumerate(part)} for s, part in videos.items()}
    train, test = named["train"], named["test"]
    (tmp_path / "copy").mkdir()
    copy = shutil.copy(archive, tmp_path / "copy")
    os.utime(copy, (1, 1))
    return {
        "copy": tmp_path / "copy",
        "another": write_archive(
            tmp_path / "another", {"train": train | {"1.mp4": 255 - train["1.mp4"]}, "test": test}
        ),
        "more": write_archive(
            tmp_path / "more", {"train": train | {"9.mp4": train["0.mp4"]}, "test": test}
        ),
    }


def test_another_archive_is_reported_and_a_copy_is_not(
    archive, videos, others, data_dir, monkeypatch, capsys
):
    first = load(data_dir, archives_dir=str(archive.parent), channels=1)
    capsys.readouterr()
    with monkeypatch.context() as patch:
        patch.setattr(sets.ArchivedVideos, "digest", None)  # Its index is enough.
        load(data_dir, archives_dir=str(others["copy"]), channels=1)
        load(data_dir, archives_dir=str(data_dir), channels=1)  # It has no archives.
    assert capsys.readouterr().err == ""
    for name, change in (
        ("another", "train-seq100/1.mp4 has changed"),
        ("more", "train-seq100/9.mp4 is new in train"),
    ):
        with pytest.raises(UserError, match=rf"\(1 differ: .*{change}\)"):
            load(data_dir, archives_dir=str(others[name]), channels=1)
    # The same for an archive that is replaced in its place.
    shutil.copy(others["another"] / archive.name, others["copy"])
    with pytest.raises(UserError, match="has changed"):
        load(data_dir, archives_dir=str(others["copy"]), channels=1)
    check_clips(load(data_dir, channels=1), videos["train"])
    assert load(data_dir, channels=1).fingerprint == first.fingerprint


def test_a_store_of_archives_by_an_earlier_version_is_compared_once(
    archive, others, data_dir, capsys
):
    folder = load(data_dir, archives_dir=str(archive.parent), channels=1).folder
    content = store.summary(folder)
    del content["kind"]
    store.write_summary(folder, content | {"stamps": None})
    with pytest.raises(UserError, match=r"1\.mp4 has changed"):
        load(data_dir, archives_dir=str(others["another"]), channels=1)
    capsys.readouterr()
    load(data_dir, archives_dir=str(archive.parent), channels=1)
    assert capsys.readouterr().err.count("comparing the content of 4 videos") == 1
    load(data_dir, archives_dir=str(archive.parent), channels=1)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("earlier", [False, True])
def test_a_store_made_from_archives_is_used_where_tfds_is_also_found(
    archive, videos, tfds_dir, data_dir, monkeypatch, capsys, earlier
):
    monkeypatch.setattr(store, "_told", set())
    folder = load(data_dir, archives_dir=str(archive.parent), channels=1).folder
    forget_kind(folder, earlier)
    shutil.copytree(tfds_dir / "moving_mnist_2digit", data_dir / "moving_mnist_2digit")
    capsys.readouterr()
    for split in ("train", "test"):
        check_clips(load(data_dir, split, channels=1), videos[split])
    told = capsys.readouterr().err
    assert told.count(f"{folder} was made from the published archives.") == 1
    assert told.count("Found as well, and not used: a folder of tensorflow-datasets.") == 1


@pytest.mark.parametrize("earlier", [False, True])
def test_a_store_made_from_tfds_is_used_where_archives_are_also_found(
    archive, videos, tfds_dir, tmp_path, monkeypatch, capsys, earlier
):
    monkeypatch.setattr(store, "_told", set())
    data_dir = tmp_path / "with tfds"
    shutil.copytree(tfds_dir / "moving_mnist_2digit", data_dir / "moving_mnist_2digit")
    forget_kind(load(data_dir, channels=1).folder, earlier)
    capsys.readouterr()
    dataset = load(data_dir, archives_dir=str(archive.parent), channels=1)
    check_clips(dataset, videos["train"])
    assert "was made from a folder of tensorflow-datasets." in capsys.readouterr().err


def forget_kind(folder, earlier):
    """Makes a store one of an earlier version, or not."""
    if earlier:
        content = store.summary(folder)
        del content["kind"]
        store.write_summary(folder, content | {"stamps": None})


def test_a_replaced_folder_of_tfds_is_reported_and_a_copy_is_not(
    others, tfds_dir, tmp_path, capsys
):
    data_dir = tmp_path / "with tfds"
    shutil.copytree(tfds_dir / "moving_mnist_2digit", data_dir / "moving_mnist_2digit")
    folder = load(data_dir, channels=1).folder
    capsys.readouterr()
    load(data_dir, channels=1)
    assert capsys.readouterr().err == ""
    for shard in data_dir.rglob("*.tfrecord-*"):
        shutil.copy(shard, shard.with_name("a copy"))
        shard.with_name("a copy").replace(shard)
    load(data_dir, channels=1)
    assert "comparing the content of 4 videos" in capsys.readouterr().err
    load(data_dir, channels=1)
    assert capsys.readouterr().err == ""

    shutil.rmtree(data_dir / "moving_mnist_2digit")
    builder = builders.MovingMnist_2digit(data_dir=data_dir, archives_dir=others["another"])
    builder.download_and_prepare()
    with pytest.raises(UserError, match=r"\(1 differ: train/0000\d has changed\)"):
        load(data_dir, channels=1)
    next(data_dir.rglob("*-test.tfrecord-*")).unlink()  # Then the store is enough.
    assert load(data_dir, channels=1).folder == folder
