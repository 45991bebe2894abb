"""Tests of the tfds builders: from archives to folders, and errors."""

import socket
import zipfile

import numpy as np
import pytest
import tensorflow_datasets as tfds
from helpers.video_files import write_video

from cwvae.errors import UserError
from data_loaders.published import sets
from data_loaders.published.builders import BUILDERS, MovingMnist_2digit
from data_loaders.published.kth_actions import ACTIONS
from data_loaders.published.sets import Published
from data_loaders.published.tfds_directory import TfdsDirectory, find
from data_loaders.sources import SPLITS, BadVideo

RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """Makes every attempt to connect fail at once."""

    def refuse(*args):
        raise AssertionError(f"connects to {args[-1]}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def some_video(folder, name, height=64, width=64):
    """Writes a short video whose pictures are the same in all channels; returns its file."""
    gray = RNG.integers(0, 256, (3, height, width), np.uint8)
    return write_video(folder / name, np.repeat(gray[..., None], 3, -1))


@pytest.fixture(scope="module")
def archives_dir(tmp_path_factory):
    """Small archives of all data sets: 11 videos for training, one for testing."""
    folder = tmp_path_factory.mktemp("archives")
    videos = [some_video(folder, f"{number}.mp4") for number in range(3)]
    for name, facts in sets.FACTS.items():
        with zipfile.ZipFile(folder / f"{name}.zip", "w") as archive:
            for split, path in facts.folders.items():
                for number in range(11 if split == "train" else 1):
                    archive.write(videos[number % 3], f"{path}/{number}.mp4")
    avi = some_video(folder, "kth.avi", 120, 160)
    for action in ACTIONS:
        with zipfile.ZipFile(folder / f"{action}.zip", "w") as archive:
            for person in ("01", "25"):
                archive.write(avi, f"person{person}_{action}_d1_uncomp.avi")
    return folder


class FakeVideos(Published):
    """Moving MNIST without archives: numbered videos, some of them bad."""

    def __init__(self, bad=(), count=20, **options):
        super().__init__("moving_mnist_2digit", **options)
        self.bad, self.count = bad, count

    def fetch(self):
        if self.count == 0:
            raise UserError("the archive is missing")

    def items(self, split):
        return [f"{number}.mp4" for number in range(self.count if split == "train" else 2)]

    def read(self, split, item, note=None):
        if f"{split}/{item}" in self.bad:
            raise BadVideo("is not a video")
        number = int(item.removesuffix(".mp4"))
        for _ in range(2):
            yield np.full((2, *self.frame_shape), number + 100 * (split == "test"), np.uint8)


@pytest.fixture
def prepare(tmp_path, monkeypatch):
    """Prepares a folder of tfds from a source; returns the folder."""

    def from_source(source):
        monkeypatch.setattr(MovingMnist_2digit, "make_source", lambda *_: source)
        builder = MovingMnist_2digit(data_dir=tmp_path)
        config = tfds.download.DownloadConfig(try_download_gcs=False)
        builder.download_and_prepare(download_config=config)
        return find(tmp_path, "moving_mnist_2digit")

    return from_source


def means(folder, split="train"):
    """Returns the mean of each video in a prepared folder, in the order of the files."""
    description = {"archive": "moving_mnist_2digit.zip"}
    source = TfdsDirectory(
        name="moving_mnist_2digit", folder=folder, description=description, channels=1
    )
    return [int(frames.mean()) for frames in sources_frames(source, split)]


def sources_frames(source, split):
    return [np.concatenate(list(source.read(split, item))) for item in source.items(split)]


def test_names_are_those_of_the_original():
    assert list(BUILDERS) == ["minerl_navigate", "gqn_mazes", "moving_mnist_2digit", "kth_actions"]
    assert {str(builder.VERSION) for builder in BUILDERS.values()} == {"1.0.0"}


@pytest.mark.parametrize("name", BUILDERS)
def test_a_data_set_from_its_archives(name, archives_dir, tmp_path):
    builder = BUILDERS[name](data_dir=tmp_path, archives_dir=archives_dir)
    builder.download_and_prepare()
    folder = find(tmp_path, name)
    assert folder == tmp_path / name / "1.0.0"
    source = builder.make_source(tmp_path, archives_dir)
    reader = TfdsDirectory(
        name=name, folder=folder, description=source.describe(), channels=source.frame_shape[-1]
    )
    loaded = tfds.load(name, data_dir=tmp_path)
    assert set(loaded) == set(SPLITS)
    for split in SPLITS:
        videos = sources_frames(source, split)
        assert len(videos) == (6 if name == "kth_actions" else {"train": 11, "test": 1}[split])
        examples = list(tfds.as_numpy(loaded[split]))
        ours = sources_frames(reader, split)
        for video, example, other in zip(videos, examples, ours, strict=True):
            assert example.keys() == {"video"}
            assert video.shape == (3, 64, 64, source.frame_shape[-1])
            np.testing.assert_array_equal(example["video"], video)
            np.testing.assert_array_equal(other, video)


def test_tfds_load_prepares_a_data_set(archives_dir, tmp_path):
    data, info = tfds.load(
        "gqn_mazes",
        split="train",
        data_dir=tmp_path,
        builder_kwargs={"archives_dir": str(archives_dir)},
        download=True,
        with_info=True,
    )
    assert data.cardinality() == 11
    assert find(tmp_path, "gqn_mazes") == tmp_path / "gqn_mazes" / "1.0.0"
    facts = sets.FACTS["gqn_mazes"]
    assert info.homepage == facts.homepage
    assert info.redistribution_info.license == facts.licence
    assert "saxena2021clockwork" in info.citation
    assert info.features["video"].shape == (None, 64, 64, 3)


@pytest.mark.parametrize("memory", ["memory", "files"])
def test_records_keep_their_order(memory, prepare, monkeypatch):
    if memory == "files":  # As tfds does if a data set has more than a gigabyte.
        monkeypatch.setattr("tensorflow_datasets.core.shuffle.MAX_MEM_BUFFER_SIZE", 100)
    assert means(prepare(FakeVideos())) == list(range(20))


def test_records_are_spread_over_the_files_that_tfds_sorts_in_memory(prepare, monkeypatch):
    sizes = []
    read_values = tfds.core.shuffle._Bucket.read_values

    def count(bucket):
        values = list(read_values(bucket))
        sizes.append(len(values))
        return iter(values)

    monkeypatch.setattr("tensorflow_datasets.core.shuffle.MAX_MEM_BUFFER_SIZE", 100)
    monkeypatch.setattr("tensorflow_datasets.core.shuffle._Bucket.read_values", count)
    prepare(FakeVideos())
    assert max(sizes) == 1


def test_bad_videos_are_skipped_and_listed(prepare, capsys):
    folder = prepare(FakeVideos(bad=("train/0.mp4", "train/7.mp4", "test/1.mp4")))
    assert means(folder) == [number for number in range(20) if number not in (0, 7)]
    assert means(folder, "test") == [100]
    assert (folder / "skipped.txt").read_text().splitlines() == [
        "train/0.mp4: is not a video",
        "train/7.mp4: is not a video",
        "test/1.mp4: is not a video",
    ]
    message = capsys.readouterr().err
    assert "warning: 3 videos cannot be used" in message
    assert str(folder / "skipped.txt") in message


def test_nothing_but_bad_videos(prepare, tmp_path):
    bad = [f"test/{number}.mp4" for number in range(2)]
    with pytest.raises(UserError, match="none of the 2 videos of the test split"):
        prepare(FakeVideos(bad=bad))
    assert find(tmp_path, "moving_mnist_2digit") is None
    assert not list((tmp_path / "moving_mnist_2digit").iterdir())


def test_errors_of_a_source_come_through(prepare):
    with pytest.raises(UserError, match=r"^the archive is missing$"):
        prepare(FakeVideos(count=0))


def test_missing_archives(tmp_path):
    (tmp_path / "archives").mkdir()
    with pytest.raises(UserError, match=r"has no gqn_mazes\.zip"):
        tfds.load(
            "gqn_mazes",
            data_dir=tmp_path / "data",
            builder_kwargs={"archives_dir": tmp_path / "archives"},
        )
