"""Tests of `video_folder`: the files that are videos, their splits, and messages."""

import hashlib
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers.video_files import write_video

from cwvae.errors import UserError
from data_loaders.sources import SPLITS, BadVideo
from data_loaders.video.folder import VideoFolder, hash_fraction
from data_loaders.video.frames import FrameFormat


def frames(length: int = 5, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (length, 8, 8)).astype(np.uint8)


def touch(folder: Path, *names: str) -> None:
    """Creates files without content."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")


def open_folder(folder: Path, **options: object) -> VideoFolder:
    return VideoFolder(videos_dir=str(folder), **options)


def items(folder: Path, **options: object) -> dict[str, list[str]]:
    return {split: open_folder(folder, **options).items(split) for split in SPLITS}


def refusal(folder: Path, **options: object) -> str:
    with pytest.raises(UserError) as caught:
        open_folder(folder, **options).fetch()
    return str(caught.value)


NUMBERED = [f"clip{i:04}.mp4" for i in range(2000)]


def test_train_and_test_folders(tmp_path):
    touch(tmp_path, "train/b.mp4", "train/deep/er/a.AVI", "train/notes.txt", "test/c.gif")
    touch(tmp_path, "elsewhere/d.mp4", "e.mp4")
    assert items(tmp_path) == {
        "train": ["train/b.mp4", "train/deep/er/a.AVI"],
        "test": ["test/c.gif"],
    }


def test_unused_files_are_reported(tmp_path, capsys):
    touch(tmp_path, "train/b.npy", "test/c.npy", "train/notes.txt", "val/d.npy", "e.mpg")
    open_folder(tmp_path).fetch()
    assert "3 files that are not used" in (told := capsys.readouterr().err)
    assert "e.mpg, train/notes.txt, val/d.npy" in told


def test_folders_with_almost_the_names_of_splits_are_rejected(tmp_path):
    touch(tmp_path, "Train/b.npy", "Test/c.npy")
    assert "Test: rename it to test/" in refusal(tmp_path)


def test_only_known_extensions_are_used(tmp_path):
    endings = ["MP4", "avi", "gif", "m4v", "mkv", "mov", "npy", "npz", "webm"]
    videos = [f"a.{ending}" for ending in endings]
    touch(tmp_path, *(f"{split}/{name}" for split in SPLITS for name in videos))
    touch(tmp_path, "train/a.txt", "train/mp4", "train/a.mp4.part", "train/.mp4")
    assert items(tmp_path)["train"] == [f"train/{name}" for name in videos]


def test_hidden_files_are_ignored(tmp_path):
    touch(tmp_path, "train/a.mp4", "train/._a.mp4", "train/.trash/b.mp4", "test/a.mp4")
    assert items(tmp_path) == {"train": ["train/a.mp4"], "test": ["test/a.mp4"]}


def test_a_hash_splits_unsorted_videos(tmp_path):
    touch(tmp_path, *NUMBERED, "more/a.mp4")
    split = items(tmp_path)
    assert sorted(split["train"] + split["test"]) == sorted([*NUMBERED, "more/a.mp4"])
    assert split["train"] == sorted(split["train"])
    assert 0.08 < len(split["test"]) / 2001 < 0.12
    assert len(items(tmp_path, test_fraction=0.5)["test"]) == pytest.approx(1000, abs=70)


def test_the_hash_is_the_one_documented():
    for name in ("a.mp4", "sub/folder/b.mp4", "ünï.mp4"):
        digest = hashlib.sha256(name.encode()).hexdigest()
        assert hash_fraction(name) == pytest.approx(int(digest, 16) / 2**256, abs=1e-12)
    # Known answers: a change would move test videos into training.
    known = {"a.mp4": 0.901681, "clip0000.mp4": 0.277724, "walking/person01.avi": 0.168149}
    for name, fraction in known.items():
        assert hash_fraction(name) == pytest.approx(fraction, abs=1e-6)


def test_adding_videos_moves_none(tmp_path):
    touch(tmp_path, *NUMBERED[::2])
    before = items(tmp_path)
    touch(tmp_path, *NUMBERED[1::2])
    after = items(tmp_path)
    for split in SPLITS:
        assert set(before[split]) == set(after[split]) & set(NUMBERED[::2])


def test_the_split_does_not_depend_on_the_path_of_the_folder(tmp_path, monkeypatch):
    touch(tmp_path / "one", *NUMBERED[:50])
    (tmp_path / "two").symlink_to(tmp_path / "one")
    monkeypatch.chdir(tmp_path)
    assert items(Path("two")) == items(tmp_path / "one")
    one = open_folder(tmp_path / "one").describe()
    assert open_folder(Path("one/../two")).describe() == one
    assert Path(one["videos_dir"]).is_absolute()


def test_links_are_followed_without_cycles(tmp_path):
    touch(tmp_path / "disk", "a.mp4", "sub/b.mp4")
    touch(tmp_path / "videos", "train/c.mp4", "test/d.mp4")
    train = tmp_path / "videos" / "train"
    (train / "more").symlink_to(tmp_path / "disk")
    (train / "one.mp4").symlink_to(tmp_path / "disk" / "a.mp4")
    (train / "gone.mp4").symlink_to(tmp_path / "nowhere")
    (train / "self.mp4").symlink_to(train / "self.mp4")
    (tmp_path / "disk" / "sub" / "circle").symlink_to(train)
    source = open_folder(tmp_path / "videos")
    names = ["c.mp4", "gone.mp4", "more/a.mp4", "more/sub/b.mp4", "one.mp4", "self.mp4"]
    assert source.items("train") == [f"train/{name}" for name in names]
    assert len(source.stamps()) == 7
    for name in ("train/gone.mp4", "train/self.mp4"):
        with pytest.raises(BadVideo, match="cannot be read"):
            source.digest("train", name)
        with pytest.raises(BadVideo, match="cannot be read"):
            list(source.read("train", name))


def test_folders_without_videos(tmp_path):
    with pytest.raises(UserError, match=r"data\.videos_dir is not set"):
        VideoFolder()
    assert f"{tmp_path / 'no'} does not exist" in refusal(tmp_path / "no")
    touch(tmp_path, "file")
    assert f"{tmp_path / 'file'} is a file" in refusal(tmp_path / "file")
    (tmp_path / "empty").mkdir()
    assert "Found there: no files." in refusal(tmp_path / "empty")
    touch(tmp_path / "docs", *(f"{i:02}.txt" for i in range(12)))
    words = refusal(tmp_path / "docs")
    assert "Found there: 12 other files, such as 00.txt." in words
    assert ".mp4, " in words
    assert "data.videos_dir" in words
    touch(tmp_path / "half", "train/a.mp4", "test/notes.txt")
    words = refusal(tmp_path / "half")
    assert f"{tmp_path / 'half' / 'test'} has no videos" in words
    assert "1 other file, such as notes.txt" in words


@pytest.mark.parametrize(("present", "missing"), [("train", "test"), ("test", "train")])
def test_one_split_without_the_other(tmp_path, present, missing):
    touch(tmp_path, f"{present}/a.mp4", "b.mp4")
    words = refusal(tmp_path)
    assert f"has {present}/, but no {missing}/. Add {missing}/" in words


@pytest.mark.parametrize(("fraction", "split"), [(0, "test"), (1, "train"), (1e-9, "test")])
def test_an_empty_split(tmp_path, fraction, split):
    touch(tmp_path, *NUMBERED[:20])
    words = refusal(tmp_path, test_fraction=fraction)
    assert f"none of the 20 videos in {tmp_path} is a {split} video" in words
    assert "train/ and test/" in words


def test_a_folder_that_cannot_be_read(tmp_path, monkeypatch):
    touch(tmp_path, "train/a.mp4", "test/b.mp4", "train/locked/c.mp4")
    iterdir = Path.iterdir

    def refuse(folder: Path):
        if folder.name == "locked":
            raise PermissionError(13, "Permission denied", str(folder))
        return iterdir(folder)

    monkeypatch.setattr(Path, "iterdir", refuse)
    assert f"{tmp_path / 'train/locked'}: Permission denied" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"frame_size": 0}, "model.frame_size is 0"),
        ({"channels": 2}, "model.channels is 2"),
        ({"test_fraction": 1.5}, "data.test_fraction is 1.5"),
        ({"test_fraction": True}, "data.test_fraction is True"),
        ({"fps": 0}, "data.fps is 0"),
        ({"fps": "10"}, "data.fps is '10'"),
        ({"fps": float("inf")}, "data.fps is inf"),
        ({"fit": "zoom"}, "data.fit 'zoom'"),
        ({"resize": "cubic"}, "data.resize 'cubic'"),
    ],
)
def test_options_out_of_range(tmp_path, options, words):
    with pytest.raises(UserError) as caught:
        open_folder(tmp_path, **options)
    assert words in str(caught.value)


def test_the_description_has_all_options(tmp_path):
    description = open_folder(tmp_path).describe()
    assert json.loads(json.dumps(description)) == description
    assert description["name"] == "video_folder"
    others = {"frame_size": 32, "channels": 3, "test_fraction": 0.2, "fps": 5}
    others |= {"fit": "squeeze", "resize": "bilinear"}
    for option, value in others.items():
        assert open_folder(tmp_path, **{option: value}).describe() != description
    assert open_folder(tmp_path, fps=5).describe() == open_folder(tmp_path, fps=5.0).describe()


def test_reading(tmp_path):
    (tmp_path / "train").mkdir()
    (tmp_path / "test").mkdir()
    write_video(tmp_path / "train" / "a.mkv", frames(70), fps=20)
    np.save(tmp_path / "test" / "b.npy", frames(7, seed=1))
    source = open_folder(tmp_path, frame_size=16)
    source.fetch()
    assert source.frame_shape == (16, 16, 1)
    blocks = list(source.read("train", "train/a.mkv"))
    assert [block.shape for block in blocks] == [(64, 16, 16, 1), (6, 16, 16, 1)]
    np.testing.assert_array_equal(np.concatenate(blocks), FrameFormat(16, 1).convert(frames(70)))
    np.testing.assert_array_equal(
        np.concatenate(list(source.read("test", "test/b.npy"))),
        FrameFormat(16, 1).convert(frames(7, seed=1)),
    )
    content = (tmp_path / "train" / "a.mkv").read_bytes()
    assert source.digest("train", "train/a.mkv") == hashlib.sha256(content).hexdigest()
    slow = open_folder(tmp_path, frame_size=8, fps=10)
    assert sum(map(len, slow.read("train", "train/a.mkv"))) == 35
    with pytest.raises(BadVideo, match="no frame rate"):
        list(slow.read("test", "test/b.npy"))


def test_expected_frames(tmp_path):
    for split in SPLITS:
        (tmp_path / split).mkdir()
        for i in range(3):
            write_video(tmp_path / split / f"{i}.mp4", frames(20), fps=20)
    assert open_folder(tmp_path).expected_frames() == 120
    assert open_folder(tmp_path, fps=5).expected_frames() == 30
    assert open_folder(tmp_path, fps=40).expected_frames() == 120
    (tmp_path / "train" / "bad.mp4").write_bytes(b"text" * 10**6)  # Large, but not a video.
    assert open_folder(tmp_path).expected_frames() == 120
    np.save(tmp_path / "train" / "long.npy", np.zeros((5000, 4, 4), np.uint8))
    assert open_folder(tmp_path).expected_frames() == 5120


def test_expected_frames_of_many_files_read_some_headers(tmp_path):
    for split in SPLITS:
        (tmp_path / split).mkdir()
        for i in range(250):
            np.save(tmp_path / split / f"{i}.npy", frames(1 + i % 7))
    expected = 2 * sum(1 + i % 7 for i in range(250))
    assert open_folder(tmp_path).expected_frames() == pytest.approx(expected, rel=0.1)


def test_expected_frames_of_unreadable_files(tmp_path):
    touch(tmp_path, "train/a.mp4", "test/b.mp4")
    assert open_folder(tmp_path).expected_frames() == 0


def test_stamps_change_with_the_files(tmp_path):
    touch(tmp_path, "train/a.mp4", "train/b.mp4", "test/c.mp4")
    source = open_folder(tmp_path)
    before = source.stamps()
    assert sorted(before) == ["test/c.mp4", "train/a.mp4", "train/b.mp4"]
    assert source.stamps() == before
    (tmp_path / "train/a.mp4").write_bytes(b"longer")
    os.utime(tmp_path / "train/b.mp4", ns=(0, 1))
    after = source.stamps()
    assert {name for name in before if before[name] != after[name]} == {
        "train/a.mp4",
        "train/b.mp4",
    }


def test_arrays_do_not_need_pyav(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    touch(tmp_path, "train/a.npy", "test/a.npz")
    open_folder(tmp_path).fetch()
    touch(tmp_path, "test/b.mp4")
    assert "pip install av" in refusal(tmp_path)
