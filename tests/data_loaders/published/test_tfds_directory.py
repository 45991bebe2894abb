"""Tests of reading folders that tfds prepared: made by tfds, made by hand, and damaged."""

import contextlib
import errno
import hashlib
import importlib
import io
import json
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from PIL import Image

from cwvae.errors import UserError
from data_loaders.published.tfds_directory import TfdsDirectory, decode_png, find
from data_loaders.sources import BadVideo, UnreadableVideo

RNG = np.random.default_rng(0)
FILES_TRAIN = ("one.mp4", "two.mp4", "three.mp4", "four.mp4", "five.mp4")
DESCRIPTION = {"archive": "minerl_navigate.zip"}


def some_frames(count: int, channels: int) -> np.ndarray:
    return RNG.integers(0, 256, (count, 64, 64, channels), np.uint8)


def png(frame: np.ndarray | Image.Image) -> bytes:
    image = frame if isinstance(frame, Image.Image) else Image.fromarray(np.squeeze(frame))
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


class _Original(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Like the original project's builders, except for the source of frames."""

    VERSION = tfds.core.Version("1.0.0")
    channels = 3

    def videos(self, split):
        raise NotImplementedError

    def _info(self):
        video = tfds.features.Video(shape=(None, 64, 64, self.channels))
        features = tfds.features.FeaturesDict({"video": video})
        return tfds.core.DatasetInfo(builder=self, description="Some.", features=features)

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(split) for split in ("train", "test")}

    def _generate_examples(self, split):
        for name, video in self.videos(split).items():
            yield name, {"video": video}


class MinerlNavigate(_Original, skip_registration=True):
    """RGB, several shards, videos of several lengths."""

    def videos(self, split):
        names = FILES_TRAIN if split == "train" else ("a.mp4", "b.mp4")
        return {name: some_frames(4 + 70 * (name == "a.mp4"), 3) for name in names}


class MovingMnist_2digit(_Original, skip_registration=True):
    """One channel, from PNGs of all kinds that ffmpeg may write."""

    channels = 1

    def videos(self, split):
        gray, color = some_frames(1, 1)[0, ..., 0], Image.fromarray(some_frames(1, 3)[0])
        alpha = Image.fromarray(some_frames(1, 4)[0], "RGBA")
        palette = color.quantize(16)
        wide = Image.fromarray(gray.astype(np.uint16) * 257)
        rgb = Image.merge("RGB", [Image.fromarray(gray)] * 3)
        images = [Image.fromarray(gray), rgb, wide, Image.fromarray(gray > 99)]
        if split == "test":
            images = [palette, color, alpha, Image.fromarray(gray).convert("LA")]
        return {"video.mp4": [io.BytesIO(png(image)) for image in images]}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """Both data sets, as tfds prepares them."""
    folder = tmp_path_factory.mktemp("tfds")
    for builder, shards in ((MinerlNavigate, 2), (MovingMnist_2digit, 1)):
        config = tfds.download.DownloadConfig(try_download_gcs=False, num_shards=shards)
        builder(data_dir=folder).download_and_prepare(download_config=config)
    return folder


def expected(builder, data_dir, split):
    """Returns the videos that tfds itself reads, in the order of the files."""
    config = tfds.ReadConfig(interleave_cycle_length=1)
    data = builder(data_dir=data_dir).as_dataset(split=split, read_config=config)
    return [example["video"] for example in tfds.as_numpy(data)]


def open_source(folder, name="minerl_navigate", channels=3, **options):
    return TfdsDirectory(
        name=name, folder=folder, description=DESCRIPTION, channels=channels, **options
    )


def read_all(source, split):
    return [np.concatenate(list(source.read(split, item))) for item in source.items(split)]


@pytest.mark.parametrize("split", ["train", "test"])
def test_frames_are_those_that_tfds_reads_in_the_order_of_the_files(data_dir, split):
    folder = find(data_dir, "minerl_navigate")
    assert folder == data_dir / "minerl_navigate" / "1.0.0"
    assert len(list(folder.glob("*-train.tfrecord-*"))) == 2
    source = open_source(folder)
    source.fetch()
    videos = expected(MinerlNavigate, data_dir, split)
    assert source.items(split) == [f"{i:05d}" for i in range(len(videos))]
    for video, other in zip(videos, read_all(source, split), strict=True):
        np.testing.assert_array_equal(video, other)


def test_blocks_are_short_and_records_have_digests(data_dir):
    folder = find(data_dir, "minerl_navigate")
    source = open_source(folder)
    longest = max(source.items("test"), key=lambda item: len(list(source.read("test", item))))
    assert [len(block) for block in source.read("test", longest)] == [64, 10]
    shards = [str(path) for path in sorted(folder.glob("*-train.tfrecord-*"))]
    records = list(tf.data.TFRecordDataset(shards).as_numpy_iterator())
    digests = [source.digest("train", item) for item in source.items("train")]
    assert digests == [hashlib.sha256(record).hexdigest() for record in records]


def test_description_is_the_one_given_and_frames_are_counted(data_dir):
    source = open_source(find(data_dir, "minerl_navigate"))
    assert source.describe() == DESCRIPTION
    assert source.expected_frames() == 5 * 4 + 74 + 4
    assert source.frame_shape == (64, 64, 3)


def test_tfds_reads_the_same_with_the_builders_of_this_project(data_dir):
    importlib.import_module("data_loaders.published.builders")
    videos = tfds.load("minerl_navigate", split="train", data_dir=data_dir)
    ours = read_all(open_source(find(data_dir, "minerl_navigate")), "train")
    for example, video in zip(tfds.as_numpy(videos), ours, strict=True):
        np.testing.assert_array_equal(example["video"], video)


@pytest.mark.parametrize("split", ["train", "test"])
def test_any_kind_of_png_gives_one_channel(data_dir, split):
    source = open_source(find(data_dir, "moving_mnist_2digit"), "moving_mnist_2digit", 1)
    (video,) = read_all(source, split)
    (other,) = expected(MovingMnist_2digit, data_dir, split)
    # Gray is exact. The weights of colors are rounded differently.
    atol = 0 if split == "train" else 1
    np.testing.assert_allclose(video.astype(int), other.astype(int), rtol=0, atol=atol)


def test_any_kind_of_png_gives_three_channels(data_dir):
    folder = find(data_dir, "moving_mnist_2digit")
    (gray,) = read_all(open_source(folder, channels=1), "train")
    (color,) = read_all(open_source(folder, channels=3), "train")
    np.testing.assert_array_equal(color, np.repeat(gray, 3, -1))


def test_other_frame_sizes(data_dir):
    source = open_source(find(data_dir, "minerl_navigate"), frame_size=32)
    assert source.frame_shape == (32, 32, 3)
    video = read_all(source, "train")[0]
    assert video.shape == (4, 32, 32, 3)
    assert video.dtype == np.uint8


def test_folders_of_older_tfds_versions(data_dir, tmp_path):
    folder = tmp_path / "minerl_navigate" / "1.0.0"
    shutil.copytree(find(data_dir, "minerl_navigate"), folder)
    (folder / "features.json").unlink()
    info = json.loads((folder / "dataset_info.json").read_text())
    info = {key: info[key] for key in ("name", "version", "description", "splits")}
    info |= {"location": {"urls": ["https://example.org"]}, "sizeInBytes": "0", "schema": {}}
    for shard_lengths in (True, False):
        info["splits"] = [
            {"name": part["name"], "numShards": str(len(part["shardLengths"]))}
            | {"statistics": {"features": [], "numExamples": "7"}}
            | ({"shardLengths": part["shardLengths"]} if shard_lengths else {})
            for part in info["splits"]
            if "shardLengths" in part
        ] or info["splits"]
        (folder / "dataset_info.json").write_text(json.dumps(info))
        for split in ("train", "test"):
            videos = read_all(open_source(find(tmp_path, "minerl_navigate")), split)
            for video, other in zip(videos, expected(MinerlNavigate, data_dir, split), strict=True):
                np.testing.assert_array_equal(video, other)


def test_find_takes_the_newest_complete_version(tmp_path):
    assert find(tmp_path / "nowhere", "a") is None
    for name in ("1.0.0.incompleteABCDEF", "incomplete.ABCDEF_1.0.0", "2.0.0", "1.2"):
        (tmp_path / "a" / name).mkdir(parents=True)
        (tmp_path / "a" / name / "dataset_info.json").touch()
    (tmp_path / "a" / "1.99.0").mkdir()
    assert find(tmp_path, "a") is None
    for name in ("1.0.0", "1.9.0", "1.10.0"):
        (tmp_path / "a" / name).mkdir()
        (tmp_path / "a" / name / "dataset_info.json").touch()
    assert find(str(tmp_path), "a") == tmp_path / "a" / "1.10.0"


def test_tensorflow_is_not_needed(data_dir, no_tensorflow):
    program = (
        "import sys\n"
        "import data_loaders\n"
        "assert 'tensorflow_datasets' not in sys.modules\n"
        f"source = data_loaders.open_source('minerl_navigate', data_dir={str(data_dir)!r})\n"
        "source.fetch()\n"
        "[block] = source.read('train', '00000')\n"
        "assert block.shape == (4, 64, 64, 3)\n"
    )
    subprocess.run([sys.executable, "-c", program], env=no_tensorflow, check=True)


# Folders made by hand, to be damaged.


def record(pngs: list[bytes], name: str = "video") -> bytes:
    value = tf.train.Feature(bytes_list=tf.train.BytesList(value=pngs))
    other = tf.train.Feature(int64_list=tf.train.Int64List(value=[1, 2**40]))
    features = tf.train.Features(feature={"another": other, name: value})
    return tf.train.Example(features=features).SerializeToString()


def make_folder(data_dir, shards, **info):
    """Writes a folder whose train and test split have the same shards, lists of records."""
    folder = data_dir / "minerl_navigate" / "1.0.0"
    folder.mkdir(parents=True)
    for split in ("train", "test"):
        for number, records in enumerate(shards):
            ending = f"{number:05d}-of-{len(shards):05d}"
            path = folder / f"minerl_navigate-{split}.tfrecord-{ending}"
            with tf.io.TFRecordWriter(str(path)) as writer:
                for data in records:
                    writer.write(data)
    lengths = [str(len(records)) for records in shards]
    splits = [{"name": split, "shardLengths": lengths} for split in ("train", "test")]
    content = {"name": "minerl_navigate", "version": "1.0.0", "splits": splits} | info
    (folder / "dataset_info.json").write_text(json.dumps(content))
    return folder


@pytest.fixture
def folder(tmp_path):
    """Two shards of two records and one, of two frames each."""
    pngs = [png(frame) for frame in some_frames(2, 3)]
    return make_folder(tmp_path, [[record(pngs)] * 2, [record(pngs)]])


def shard(folder, number=1, split="train"):
    return folder / f"minerl_navigate-{split}.tfrecord-{number:05d}-of-00002"


def check_refused(folder, *words):
    """Checks that the folder is rejected with a message that has all of the words."""
    with pytest.raises(UserError) as caught:
        open_source(folder).fetch()
    for word in words:
        assert word in str(caught.value)


def test_a_folder_made_by_hand_can_be_read(folder):
    source = open_source(folder)
    source.fetch()
    assert source.items("train") == ["00000", "00001", "00002"]


def test_missing_shard(folder):
    shard(folder).unlink()
    check_refused(
        folder, shard(folder).name, "No such file", "Restore", f"delete the folder {folder}"
    )


@pytest.mark.parametrize("cut", [1, 5, 1000])
def test_truncated_shard(folder, cut):
    path = shard(folder)
    path.write_bytes(path.read_bytes()[:-cut])
    check_refused(folder, path.name, "cut short", "Restore")


def test_a_shard_that_ends_between_records(folder):
    path = shard(folder, 0)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    check_refused(folder, path.name, "holds 1 records", "announces 2")


@pytest.mark.parametrize("content", [b"", b"<html>not found</html>", bytes(99)])
def test_garbage_in_place_of_a_shard(folder, content):
    shard(folder).write_bytes(content)
    check_refused(folder, shard(folder).name, "Restore")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"name": "a", "splits": [1]}', "\0"])
def test_garbage_in_place_of_the_description(folder, text):
    (folder / "dataset_info.json").write_text(text)
    check_refused(folder, "dataset_info.json", "Restore")


def test_missing_split(tmp_path):
    folder = make_folder(tmp_path, [[b""]], splits=[{"name": "validation", "shardLengths": ["1"]}])
    check_refused(folder, "no split 'train'", "found: validation")


@pytest.mark.parametrize("shards", [[], [[]]])
def test_empty_split(tmp_path, shards):
    check_refused(make_folder(tmp_path, shards), "holds no records")


def test_other_file_format(tmp_path):
    folder = make_folder(tmp_path, [[record([b""])]], fileFormat="array_record")
    check_refused(folder, str(folder), "array_record", "tfrecord")


def test_other_features(tmp_path):
    folder = make_folder(tmp_path, [[record([b""], name="image")]])
    check_refused(folder, str(folder), "no feature 'video'", "found: another, image")


def make_bad(case: str) -> tuple[bytes, str]:
    """Returns a record that is not a video, and the expected message."""
    pngs = [png(frame) for frame in some_frames(3, 3)]
    if case == "no example":
        return b"\x0a\xff" + bytes(9), "not a tf.train.Example"
    if case == "cut":
        return record(pngs)[:-9], "not a tf.train.Example"
    if case == "other feature":
        return record(pngs, name="image"), "no feature 'video'"
    if case == "no frames":
        return record([]), "holds no frames"
    if case == "no png":
        return record([*pngs[:2], b"GIF89a"]), "frame 2 is not a PNG"
    if case == "cut png":
        return record([pngs[0], pngs[1][:-30]]), "frame 1 is not a readable PNG"
    if case == "size":
        return record([png(np.zeros((48, 32), np.uint8))]), "frames are 32x48; expected 64x64"
    assert case == "flipped bit"
    flipped = bytearray(pngs[1])
    flipped[len(flipped) // 2] ^= 1
    return record([pngs[0], bytes(flipped)]), "frame 1 is not a readable PNG"


BAD = (
    "no example",
    "cut",
    "other feature",
    "no frames",
    "no png",
    "cut png",
    "size",
    "flipped bit",
)


@pytest.mark.parametrize("case", BAD)
def test_a_bad_record_is_one_bad_video(tmp_path, case):
    bad, message = make_bad(case)
    good = record([png(frame) for frame in some_frames(2, 3)])
    folder = make_folder(tmp_path, [[good, bad, good]])
    source = open_source(folder)
    source.fetch()
    with pytest.raises(BadVideo, match=message):
        list(source.read("train", "00001"))
    assert sum(len(block) for block in source.read("train", "00002")) == 2


def test_a_bad_first_record_is_one_bad_video(tmp_path):
    good = record([png(frame) for frame in some_frames(2, 3)])
    source = open_source(make_folder(tmp_path, [[b"\x0a\xff", good]]))
    source.fetch()
    with pytest.raises(BadVideo):
        list(source.read("train", "00000"))
    assert source.expected_frames() == 4


def test_a_shard_that_becomes_shorter_while_it_is_read(folder):
    source = open_source(folder)
    source.fetch()
    shard(folder).write_bytes(b"")
    with pytest.raises(BadVideo, match="shorter"):
        source.digest("train", "00002")
    shard(folder).unlink()
    with pytest.raises(BadVideo, match="cannot be read"):
        list(source.read("train", "00002"))


def test_each_cut_of_a_record_is_noticed(tmp_path):
    data = record([png(frame) for frame in some_frames(1, 3)])
    ends = range(1, len(data), 97)
    source = open_source(make_folder(tmp_path, [[data, b"", *(data[:end] for end in ends)]]))
    assert sum(len(block) for block in source.read("train", "00000")) == 1
    for item in source.items("train")[1:]:
        with pytest.raises(BadVideo, match="the record"):
            list(source.read("train", item))


def test_random_bytes_are_not_a_record(tmp_path):
    rng = np.random.default_rng(1)
    source = open_source(make_folder(tmp_path, [[rng.bytes(200) for _ in range(300)]]))
    for item in source.items("train"):
        with pytest.raises(BadVideo):
            list(source.read("train", item))


def test_a_record_whose_checksum_differs_does_not_take_its_shard_with_it(tmp_path):
    good = record([png(frame) for frame in some_frames(2, 3)])
    path = make_folder(tmp_path, [[good] * 3]) / "minerl_navigate-train.tfrecord-00000-of-00001"
    content = bytearray(path.read_bytes())
    middle = 12 + len(good) + 4 + 12 + len(good) // 2
    content[middle] ^= 1
    path.write_bytes(content)
    source = open_source(path.parent)
    with pytest.raises(BadVideo):
        list(source.read("train", "00001"))
    for item in ("00000", "00002"):
        assert sum(len(block) for block in source.read("train", item)) == 2


def test_a_damaged_png_is_a_bad_video_or_as_it_was():
    frame = some_frames(1, 3)[0]
    good, rng = png(frame), np.random.default_rng(2)
    for _ in range(300):
        damaged = bytearray(good)
        damaged[rng.integers(len(good))] ^= 1 << rng.integers(8)
        with contextlib.suppress(BadVideo):
            decoded = decode_png(bytes(damaged), 0, 3)
            np.testing.assert_array_equal(decoded, frame)


def test_records_may_hold_unknown_fields(tmp_path):
    data = record([png(frame) for frame in some_frames(2, 3)])
    others = b"\x10\x96\x01" + b"\x19" + bytes(8) + b"\x25" + bytes(4) + b"\x2a\x03abc"
    source = open_source(make_folder(tmp_path, [[others + data + others]]))
    assert sum(len(block) for block in source.read("train", "00000")) == 2


# Stamps and notes.


def test_stamps_are_known_without_reading_shards_and_differ_by_shard_and_record(
    folder, monkeypatch
):
    with monkeypatch.context() as patch:
        patch.setattr("data_loaders.published.tfds_directory._find_records", None)
        before = open_source(folder).stamps()
    assert list(before) == ["00000", "00001", "00002"]
    assert len(set(before.values())) == 3
    shard(folder, 1, "test").touch()
    after = open_source(folder).stamps()
    assert [item for item in before if before[item] != after[item]] == ["00002"]
    shard(folder, 0).unlink()
    assert open_source(folder).stamps() is None


def test_stamps_of_folders_without_numbers_of_records(folder):
    info = json.loads((folder / "dataset_info.json").read_text())
    before = open_source(folder).stamps()
    info["splits"] = [{"name": split, "numShards": "2"} for split in ("train", "test")]
    (folder / "dataset_info.json").write_text(json.dumps(info))
    source = open_source(folder)
    assert source.items("train") == ["00000", "00001", "00002"]
    assert source.stamps() == before
    shard(folder, 0).unlink()
    assert open_source(folder).stamps() is None


def notes_of(folder, pngs, **options):
    source, notes = open_source(make_folder(folder, [[record(pngs)]]), **options), {}
    frames = np.concatenate(list(source.read("train", "00000", notes.setdefault)))
    return frames, [*notes]


def test_what_is_done_to_a_record_is_noted(tmp_path):
    rgb, rgba = some_frames(1, 3)[0], some_frames(1, 4)[0]
    wide = Image.fromarray(some_frames(1, 1)[0, ..., 0].astype(np.uint16) * 256 + 9)
    gray = Image.fromarray(np.asarray(wide).astype(np.uint16) >> 8).convert("L")
    frames, notes = notes_of(tmp_path / "same", [png(rgb)] * 2)
    assert notes == ["record of tensorflow-datasets with 2 PNGs of 64x64: unchanged"]
    np.testing.assert_array_equal(frames[1], rgb)
    _, notes = notes_of(tmp_path / "small", [png(rgb)], frame_size=32, channels=1)
    assert notes == [
        "record of tensorflow-datasets with 1 PNGs of 64x64: resized to 32x32 (area)",
        "PNGs in color are converted to gray",
    ]
    frames, notes = notes_of(tmp_path / "alpha", [png(Image.fromarray(rgba, "RGBA"))])
    assert notes[1:] == ["transparency of PNGs is ignored"]
    np.testing.assert_array_equal(frames[0], rgba[..., :3])
    frames, notes = notes_of(tmp_path / "wide", [png(wide), png(gray)], channels=1)
    assert notes[1:] == ["PNGs of 16 bits per value: only the upper 8 are used"]
    np.testing.assert_array_equal(frames[0], np.asarray(gray)[..., None])
    np.testing.assert_array_equal(frames[1], frames[0])


def test_a_shard_that_the_system_cannot_read_can_be_tried_again(folder, monkeypatch):
    source = open_source(folder)
    source.fetch()

    def fail(*_, **__):
        raise OSError(errno.ESTALE, "Stale file handle")

    monkeypatch.setattr(pathlib.Path, "open", fail)
    with pytest.raises(UnreadableVideo, match=r"cannot be read: .*: Stale file handle"):
        source.digest("train", "00002")
