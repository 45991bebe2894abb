"""Tests of `video_folder`: the files that are videos, their splits, and messages."""

import hashlib
import itertools
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers.video_files import write_video
from PIL import Image

import data_loaders
from cwvae.errors import UserError
from data_loaders.sources import SPLITS, BadVideo, UnreadableVideo
from data_loaders.store import preparation, store
from data_loaders.store.store import Store
from data_loaders.video.folder import VideoFolder
from data_loaders.video.folder_splits import hash_fraction
from data_loaders.video.frames import FrameFormat, frames_and_rate


def frames(length: int = 5, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (length, 8, 8)).astype(np.uint8)


def save_picture(path: Path, seed: int = 0) -> np.ndarray:
    """Writes a gray picture, uint8 [8, 8], and returns it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    [picture] = frames(1, seed)
    Image.fromarray(picture).save(path)
    return picture


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


def told(folder: Path, capsys, **options: object) -> str:
    """Returns what `fetch` prints."""
    open_folder(folder, **options).fetch()
    return capsys.readouterr().err


def test_unused_files_are_reported(tmp_path, capsys):
    touch(tmp_path, "train/b.npy", "test/c.npy", "train/notes.txt", "val/d.npy", "val/e.npy")
    touch(tmp_path, "f.npy", "f.mpgx", "train/preview.png", "train/Thumbs.db", "other/g.npy")
    lines = told(tmp_path, capsys).splitlines()
    assert len(lines) == 4
    assert lines[0] == (
        f"Note: {tmp_path}: 2 videos in val/: not used, as test/ has the test videos."
    )
    assert lines[1] == (
        f"Note: {tmp_path}: 2 videos (f.npy, other/g.npy) outside train/ and test/: not used."
    )
    assert "1 picture (train/preview.png): not used, as there are videos in the same" in lines[2]
    assert "3 files (f.mpgx, train/Thumbs.db, train/notes.txt): not used" in lines[3]


def test_videos_that_may_be_copies_are_reported(tmp_path, capsys):
    """Such as the extracted frames of a video next to it, which may be in the other split."""
    touch(tmp_path, "train/a.npy", "train/b.npy", "train/b.npz", "test/c.d.npy", "test/c.npy")
    save_picture(tmp_path / "train" / "a" / "1.png")
    save_picture(tmp_path / "train" / "c" / "1.png")
    words = told(tmp_path, capsys)
    assert "4 videos (train/a/, train/a.npy, train/b.npy, ...) differ only in the exten" in words


def test_nothing_is_reported_if_all_is_used(tmp_path, capsys):
    touch(tmp_path, "train/b.npy", "test/c.npy", "train/.DS_Store")
    assert told(tmp_path, capsys) == ""


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("Train", "TEST"),
        ("training", "testing"),
        ("Training", "val"),
        ("train", "Valid"),
        ("TRAIN", "validation"),
    ],
)
def test_folders_with_other_names_of_splits(tmp_path, capsys, train, test):
    touch(tmp_path, f"{train}/b.npy", f"{test}/c.npy")
    assert items(tmp_path) == {"train": [f"{train}/b.npy"], "test": [f"{test}/c.npy"]}
    note = f"{test}/ is used for testing, as there is no test/"
    assert (note in told(tmp_path, capsys)) == test.lower().startswith("val")


@pytest.mark.parametrize(
    "names",
    [("train", "training", "test"), ("train", "Train", "test"), ("train", "val", "validation")],
)
def test_two_folders_for_one_split_are_refused(tmp_path, names):
    touch(tmp_path, *(f"{name}/a.npy" for name in names))
    words = refusal(tmp_path)
    assert "which may both hold the" in words
    assert "/ and ".join(sorted(names[:2] if names[1].lower() != "val" else names[1:])) in words


def test_two_folders_of_validation_videos_are_unused_with_a_test_folder(tmp_path, capsys):
    touch(tmp_path, *(f"{name}/a.npy" for name in ("train", "test", "val", "validation")))
    assert "2 videos in val/ and validation/: not used" in told(tmp_path, capsys)


def test_pooled_videos_are_reported_in_one_line(tmp_path, capsys):
    touch(tmp_path, *(f"{c}/{i}.npy" for c in "abcdef" for i in range(20)))
    assert told(tmp_path, capsys) == (
        f"Note: {tmp_path}: 120 videos in the sub-folders a/, b/ and 4 others are pooled; about 10%"
        " (data.test_fraction) are for testing, by the hash of their names.\n"
    )
    touch(tmp_path, "g.npy")
    assert "a/, b/ and 4 others and outside them are pooled" in told(tmp_path, capsys)


def test_videos_in_one_place_are_reported_in_one_line(tmp_path, capsys):
    touch(tmp_path, *(f"{i}.npy" for i in range(50)))
    assert told(tmp_path, capsys, test_fraction=0.25) == (
        f"Note: {tmp_path}: 50 videos; about 25% (data.test_fraction) are for testing, by the hash"
        " of their names.\n"
    )


@pytest.mark.parametrize(
    "names", [("train_videos", "test-set"), ("UCF_Train", "eval"), ("te", "tr")]
)
def test_folders_with_almost_the_names_of_splits_are_reported(tmp_path, capsys, names):
    touch(tmp_path, *(f"{name}/{i}.npy" for name in names for i in range(20)))
    first, second = sorted(names)
    words = told(tmp_path, capsys)
    assert f"Not used as splits: {first}/, {second}/. If they are splits, move their" in words
    assert "data.train_list" in words
    assert words.count("\n") == 1


@pytest.mark.parametrize(
    "pattern", ["{}_{}.npy", "X_{}.{}.npy", "data/{}-{}.npy", "moving_{}{}.npz"]
)
@pytest.mark.parametrize("names", [("te", "tr"), ("tst", "trn"), ("val", "Train")])
def test_files_with_names_of_splits_are_reported(tmp_path, capsys, pattern, names):
    touch(tmp_path, *(pattern.format(name, i) for name in names for i in range(20)))
    assert "Not used as splits: " in told(tmp_path, capsys)


def test_one_file_with_the_name_of_a_split_is_not_reported(tmp_path, capsys):
    """It may show a train."""
    touch(tmp_path, "train.npy", "fast train 2.npy", *(f"{i}.npy" for i in range(30)))
    assert "splits" not in told(tmp_path, capsys)


def test_splits_deeper_in_the_folder_are_reported(tmp_path, capsys):
    touch(tmp_path, *(f"kth/{split}/{i}.npy" for split in SPLITS for i in range(20)))
    assert "Not used as splits: kth/test/, kth/train/." in told(tmp_path, capsys)


def test_only_known_extensions_are_used(tmp_path):
    endings = ["MP4", "avi", "gif", "m4v", "mkv", "mov", "npy", "npz", "webm"]
    videos = [f"a.{ending}" for ending in endings]
    touch(tmp_path, *(f"{split}/{name}" for split in SPLITS for name in videos))
    touch(tmp_path, "train/a.txt", "train/mp4", "train/a.mp4.part", "train/.mp4")
    assert items(tmp_path)["train"] == [f"train/{name}" for name in videos]


def test_hidden_files_are_ignored(tmp_path):
    touch(tmp_path, "train/a.mp4", "train/._a.mp4", "train/.trash/b.mp4", "test/a.mp4")
    assert items(tmp_path) == {"train": ["train/a.mp4"], "test": ["test/a.mp4"]}


@pytest.mark.parametrize(
    "name",
    [
        "@eaDir",
        "$RECYCLE.BIN",
        "$Recycle.Bin",
        "System Volume Information",
        "__MACOSX",
        "lost+found",
    ],
)
def test_folders_of_systems_are_ignored(tmp_path, capsys, name):
    touch(tmp_path, "train/a.mp4", "test/a.mp4", f"{name}/c.mp4", f"train/{name}/a.mp4/1.jpg")
    assert items(tmp_path) == {"train": ["train/a.mp4"], "test": ["test/a.mp4"]}
    assert told(tmp_path, capsys) == ""


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
        with pytest.raises(UnreadableVideo, match="cannot be read"):
            source.digest("train", name)
        with pytest.raises(UnreadableVideo, match="cannot be read"):
            list(source.read("train", name))


@pytest.mark.parametrize("name", ["a.mp4", "a.npy", "a.npz"])
@pytest.mark.parametrize("by_link", [False, True])
def test_pipes_are_not_opened(tmp_path, name, by_link):
    """Opening one would wait forever."""
    for split in SPLITS:
        (tmp_path / split).mkdir()
        pipe = tmp_path / (f"pipe of {split}" if by_link else f"{split}/{name}")
        os.mkfifo(pipe)
        if by_link:
            (tmp_path / split / name).symlink_to(pipe)
    source = open_folder(tmp_path)
    assert source.items("train") == [f"train/{name}"]
    assert source.expected_frames() == 0
    assert len(source.stamps()) == 2
    with pytest.raises(BadVideo, match="is not a regular file"):
        source.digest("train", f"train/{name}")
    with pytest.raises(BadVideo, match="is not a regular file"):
        list(source.read("train", f"train/{name}"))


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


def test_a_folder_that_cannot_be_read(tmp_path, monkeypatch, capsys):
    touch(tmp_path, "train/a.mp4", "test/b.mp4", "train/locked/c.mp4")
    scandir = os.scandir

    def refuse(folder: Path):
        if folder.name == "locked":
            raise PermissionError(13, "Permission denied", str(folder))
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    assert f"{tmp_path / 'train/locked'}: Permission denied" in refusal(tmp_path)
    (tmp_path / "train" / "locked").rename(tmp_path / "locked")
    assert items(tmp_path)["train"] == ["train/a.mp4"]
    assert "1 folder (locked) outside train/ and test/: cannot be read" in told(tmp_path, capsys)
    (tmp_path / "train").rename(tmp_path / "one")
    (tmp_path / "test").rename(tmp_path / "two")
    assert f"{tmp_path / 'locked'}: Permission denied" in refusal(tmp_path)


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
        ({"array_axes": "THWX"}, "data.array_axes is 'THWX'"),
        ({"array_key": ""}, "data.array_key is ''"),
        ({"train_list": "a.txt"}, "data.test_list is not set"),
        ({"test_list": "a.txt"}, "data.train_list is not set"),
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
    others |= {"fit": "squeeze", "resize": "bilinear", "array_axes": "TCHW", "array_key": "video"}
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
    np.save(tmp_path / "train" / "long.npy", np.zeros((5000, 5, 5), np.uint8))
    assert open_folder(tmp_path).expected_frames() == 5120


def test_expected_frames_of_arrays_and_pictures(tmp_path):
    for t in range(7):
        save_picture(tmp_path / "train" / "pictures" / f"{t}.png")
    (tmp_path / "test").mkdir()
    np.save(tmp_path / "test" / "many.npy", np.zeros((20, 3000, 5, 5), np.uint8))
    assert open_folder(tmp_path, array_axes="TNHW").expected_frames() == 7 + 20 * 3000
    assert open_folder(tmp_path).expected_frames() == 7  # The array is ambiguous and skipped.


@pytest.mark.parametrize("suffix", [".npy", ".mp4"])
def test_absurd_headers_do_not_dominate_the_expected_frames(tmp_path, monkeypatch, suffix):
    (tmp_path / "train").mkdir()
    (tmp_path / "test").mkdir()
    for split, i in itertools.product(SPLITS, range(2)):
        path = tmp_path / split / f"{i}{suffix}"
        if suffix == ".npy":
            np.save(path, frames(20))
        else:
            write_video(path, frames(20), fps=20)
    path = tmp_path / "train" / f"0{suffix}"
    if suffix == ".npy":
        content = path.read_bytes().replace(b"(20, 8, 8), }        ", b"(2000000000, 8, 8), }")
        assert b"2000000000" in content
        path.write_bytes(content)
        assert open_folder(tmp_path).expected_frames() == 80
        with pytest.raises(BadVideo, match="is cut short: 20 of 2000000000 frames"):
            list(open_folder(tmp_path).read("train", "train/0.npy"))
    else:
        headers = frames_and_rate

        def absurd(file: Path, through: bool = False):
            return (2 * 10**9, 20.0) if file == path else headers(file, through)

        monkeypatch.setattr("data_loaders.video.folder.frames_and_rate", absurd)
        assert 60 <= open_folder(tmp_path).expected_frames() <= 3 * 20 + 110 * 20


def test_expected_frames_of_many_files_read_some_headers(tmp_path):
    for split in SPLITS:
        (tmp_path / split).mkdir()
        for i in range(250):
            np.save(tmp_path / split / f"{i}.npy", frames(5 + i % 7))
    expected = 2 * sum(5 + i % 7 for i in range(250))
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
    assert changed(before, after) == {"train/a.mp4", "train/b.mp4"}


def changed(before: dict[str, str], after: dict[str, str]) -> set[str]:
    assert before.keys() == after.keys()
    return {name for name in before if before[name] != after[name]}


def test_a_file_replaced_by_one_of_the_same_size_and_time_is_noticed(tmp_path):
    touch(tmp_path, "train/a.npy", "test/b.npy")
    save_picture(tmp_path / "train" / "c" / "1.png")
    source = open_folder(tmp_path)
    before = source.stamps()
    for name in ("train/a.npy", "train/c/1.png"):
        status = (tmp_path / name).stat()
        while (tmp_path / name).stat().st_ctime_ns == status.st_ctime_ns:
            (tmp_path / "new").write_bytes(bytes(status.st_size))
            os.utime(tmp_path / "new", ns=(status.st_atime_ns, status.st_mtime_ns))
            (tmp_path / "new").replace(tmp_path / name)
        assert (tmp_path / name).stat().st_mtime_ns == status.st_mtime_ns
    assert changed(before, source.stamps()) == {"train/a.npy", "train/c"}


def test_a_link_to_another_file_of_the_same_size_and_times_is_noticed(tmp_path):
    touch(tmp_path, "one", "two", "train/b.npy", "test/c.npy")
    link = tmp_path / "train" / "a.npy"
    link.symlink_to(tmp_path / "one")
    source = open_folder(tmp_path)
    before = source.stamps()
    changed_at = link.lstat().st_ctime_ns
    while link.lstat().st_ctime_ns == changed_at:
        link.unlink()
        link.symlink_to(tmp_path / "one")  # To the same file, so that only the link differs.
    assert changed(before, source.stamps()) == {"train/a.npy"}


def test_arrays_do_not_need_pyav(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    touch(tmp_path, "train/a.npy", "test/a.npz")
    open_folder(tmp_path).fetch()
    touch(tmp_path, "test/b.mp4")
    assert "pip install av" in refusal(tmp_path)


def test_folders_of_pictures_are_videos(tmp_path):
    touch(tmp_path, "train/notes.txt")
    names = [f"train/a/{t}.png" for t in range(12)] + ["train/b/deep/1.png", "test/1.png"]
    pictures = {name: save_picture(tmp_path / name, i) for i, name in enumerate(names)}
    assert items(tmp_path) == {"train": ["train/a", "train/b/deep"], "test": ["test"]}
    source = open_folder(tmp_path, frame_size=8)
    told = []
    found = np.concatenate(list(source.read("train", "train/a", told.append)))
    np.testing.assert_array_equal(found[..., 0], np.stack([pictures[n] for n in names[:12]]))
    assert told == ["12 pictures (png)", "frames of 8x8 gray: unchanged"]
    assert source.expected_frames() == 14
    before, stamps = source.digest("train", "train/a"), source.stamps()
    assert sorted(stamps) == ["test", "train/a", "train/b/deep"]
    save_picture(tmp_path / "train/a/12.png", 99)
    assert source.digest("train", "train/a") != before
    assert changed(stamps, open_folder(tmp_path).stamps()) == {"train/a"}
    with pytest.raises(BadVideo, match="is a folder of pictures, which has no frame rate"):
        list(open_folder(tmp_path, fps=5).read("train", "train/a"))


def test_folders_of_pictures_are_pooled(tmp_path, capsys):
    for i in range(30):
        save_picture(tmp_path / f"clip{i}" / "0001.jpg")
    split = items(tmp_path)
    assert sorted(split["train"] + split["test"]) == sorted(f"clip{i}" for i in range(30))
    assert all(hash_fraction(item) < 0.1 for item in split["test"])
    assert "30 videos in the sub-folders clip0/, clip1/ and 28 others are pooled" in told(
        tmp_path, capsys
    )


def test_pictures_directly_in_the_folder_are_refused(tmp_path, capsys):
    save_picture(tmp_path / "1.png")
    save_picture(tmp_path / "2.png")
    words = refusal(tmp_path)
    assert f"{tmp_path} directly holds 2 pictures (1.png, 2.png). Put the pictures of each" in words
    touch(tmp_path, *(f"{i}.npy" for i in range(30)))
    split = items(tmp_path)
    assert len(split["train"] + split["test"]) == 30
    words = told(tmp_path, capsys)
    assert "2 pictures (1.png, 2.png) directly in data.videos_dir: not used" in words


def test_pictures_outside_the_folders_of_videos_are_reported(tmp_path, capsys):
    touch(tmp_path, "train/a.npy", "test/b.npy", "cover.png", "train/preview.png")
    first, second = told(tmp_path, capsys).splitlines()
    assert "1 picture (cover.png) directly in data.videos_dir: not used" in first
    assert "1 picture (train/preview.png): not used, as there are videos in the same" in second


def test_arrays_directly_in_the_folder_that_are_pictures_are_refused(tmp_path):
    for i in range(3):
        np.save(tmp_path / f"{i}.npy", frames()[i])
    assert "directly holds 3 pictures (0.npy, 1.npy, 2.npy)" in refusal(tmp_path)


def test_arrays_next_to_pictures_are_reported(tmp_path, capsys):
    for split, t in itertools.product(SPLITS, range(3)):
        save_picture(tmp_path / split / "a" / f"{t}.png")
    np.save(tmp_path / "train" / "a" / "depth.npy", frames(3))
    assert items(tmp_path) == {"train": ["train/a"], "test": ["test/a"]}
    assert "1 array (train/a/depth.npy): not used, as there are pictures or videos in" in told(
        tmp_path, capsys
    )


@pytest.mark.parametrize("suffix", [".webp", ".png"])
def test_animations_named_like_pictures_are_videos(tmp_path, monkeypatch, suffix):
    monkeypatch.setitem(sys.modules, "av", None)  # It is not needed.
    colors = np.repeat(frames(4)[..., None], 3, -1)
    first, *others = map(Image.fromarray, colors)
    for name in ("train/a", "train/b", "test/c"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        options = {"lossless": True} if suffix == ".webp" else {}
        path = tmp_path / f"{name}{suffix}"
        first.save(path, save_all=True, append_images=others, duration=100, **options)
    source = open_folder(tmp_path, frame_size=8)
    source.fetch()
    assert source.items("train") == [f"train/a{suffix}", f"train/b{suffix}"]
    assert source.expected_frames() == 12
    told = []
    found = np.concatenate(list(source.read("train", f"train/a{suffix}", told.append)))
    np.testing.assert_array_equal(found[..., 0], frames(4))
    assert not any("in spite of its name" in note for note in told)
    assert sum(map(len, open_folder(tmp_path, fps=5).read("test", f"test/c{suffix}"))) == 2
    lists = write_lists(tmp_path, "train/a", f"train/b{suffix} 3")
    assert items(tmp_path, **lists)["test"] == [f"train/b{suffix}"]


def test_a_file_with_many_videos(tmp_path, capsys):
    array = np.random.default_rng(0).integers(0, 256, (20, 150, 8, 8)).astype(np.uint8)
    np.save(tmp_path / "mnist_test_seq.npy", array)
    split = items(tmp_path)
    names = [f"mnist_test_seq.npy#{number:06}" for number in range(150)]
    assert sorted(split["train"] + split["test"]) == names
    assert split["test"] == [name for name in names if hash_fraction(name) < 0.1]
    source = open_folder(tmp_path, frame_size=8)
    for number in (0, 1, 77, 149):
        [found] = source.read("train", names[number])
        np.testing.assert_array_equal(found[..., 0], array[:, number])
    assert len({source.digest("train", name) for name in names}) == 150
    stamps = source.stamps()
    assert sorted(stamps) == names
    assert len(set(stamps.values())) == 1
    assert source.expected_frames() == 3000
    assert "150 videos; about 10%" in told(tmp_path, capsys)
    with pytest.raises(BadVideo, match="no frame rate"):
        list(open_folder(tmp_path, fps=5).read("train", names[0]))


def test_adding_videos_to_an_array_moves_none(tmp_path):
    splits = []
    for count in (10, 101):
        np.save(tmp_path / "a.npy", np.zeros((count, 9, 8, 8), np.uint8))
        splits.append(items(tmp_path, array_axes="NTHW", test_fraction=0.3))
    few, many = splits
    for split in SPLITS:
        assert few[split] == [item for item in many[split] if item < "a.npy#000010"]


def test_a_damaged_header_does_not_prevent_listing(tmp_path):
    (tmp_path / "train").mkdir()
    (tmp_path / "test").mkdir()
    np.save(tmp_path / "train" / "a.npy", np.zeros((2, 9, 8, 8), np.uint8))
    np.save(tmp_path / "test" / "a.npy", np.zeros((0, 9, 8, 8), np.uint8))
    (tmp_path / "train" / "b.npy").write_bytes(b"\x93NUMPY\x01\x00")
    source = open_folder(tmp_path, array_axes="NTHW")
    assert source.items("train") == [*("train/a.npy#000000", "train/a.npy#000001", "train/b.npy")]
    assert source.items("test") == ["test/a.npy"]
    for item in ("train/b.npy", "test/a.npy"):
        with pytest.raises(BadVideo):
            list(source.read("train", item))


def test_other_processes_read_the_same_videos(tmp_path):
    """They know only the name of a video."""
    array = np.random.default_rng(0).integers(0, 256, (20, 12, 8, 8)).astype(np.uint8)
    (tmp_path / "train").mkdir()
    np.save(tmp_path / "train" / "mnist_test_seq.npy", array)
    for t in range(11):
        save_picture(tmp_path / "test" / "a" / f"{t}.png", t)
    recipe = {"name": "video_folder", "videos_dir": str(tmp_path), "frame_size": 8}
    source = data_loaders.open_source(**recipe)
    (tmp_path / "data").mkdir()
    folder = preparation.prepare(source, tmp_path / "data", recipe, processes=2)
    clips = Store(folder, "train")
    assert [clips.name(i) for i in (0, 11)] == [
        f"train/mnist_test_seq.npy#{number}" for number in ("000000", "000011")
    ]
    for i in range(12):
        np.testing.assert_array_equal(clips.clip(i)[..., 0], array[:, i])
    pictures = np.concatenate([frames(1, t) for t in range(11)])
    np.testing.assert_array_equal(Store(folder, "test").clip(0)[..., 0], pictures)
    store.check_unchanged(source, folder)
    np.save(tmp_path / "train" / "mnist_test_seq.npy", array)  # The same content.
    store.check_unchanged(source, folder)
    array[19, 5, 7, 7] ^= 1
    np.save(tmp_path / "train" / "mnist_test_seq.npy", array)
    with pytest.raises(
        UserError, match=r"\(1 differ: train/mnist_test_seq\.npy#000005 has changed\)"
    ):
        store.check_unchanged(source, folder)


def test_settings_of_arrays_reach_the_reader(tmp_path):
    (tmp_path / "train").mkdir()
    (tmp_path / "test").mkdir()
    array = np.random.default_rng(0).integers(0, 256, (8, 8, 20)).astype(np.uint8)
    np.save(tmp_path / "train" / "a.npy", array)
    np.savez(tmp_path / "test" / "a.npz", video=np.asfortranarray(array), labels=np.zeros(20))
    with pytest.raises(BadVideo, match=r"data\.array_axes=HWT"):
        list(open_folder(tmp_path).read("train", "train/a.npy"))
    source = open_folder(tmp_path, array_axes="HWT", array_key="video", frame_size=8)
    for item in ("train/a.npy", "test/a.npz"):
        [found] = source.read("train", item)
        expected = array.transpose(2, 0, 1)
        np.testing.assert_array_equal(found[..., 0], expected)


def write_lists(folder: Path, train: str | bytes, test: str | bytes) -> dict[str, str]:
    """Writes lists of names; returns the options."""
    for split, text in (("train", train), ("test", test)):
        content = text if isinstance(text, bytes) else text.encode()
        (folder / f"{split}list.txt").write_bytes(content)
    return {f"{split}_list": str(folder / f"{split}list.txt") for split in SPLITS}


@pytest.fixture
def listed(tmp_path):
    """A folder with videos of several kinds."""
    folder = tmp_path / "videos"
    touch(folder, "train/a.npy", "test/b.npy", "c.npy", "d e.npy", "more/f.npy", "more/g 1.npy")
    np.save(folder / "many.npy", np.zeros((3, 9, 8, 8), np.uint8))
    np.save(folder / "mnist_test_seq.npy", np.zeros((20, 3, 8, 8), np.uint8))
    save_picture(folder / "more" / "pictures" / "1.png")
    return folder


def test_lists_replace_the_folders(listed, tmp_path, capsys):
    lists = write_lists(tmp_path, "test/b.npy\nmore/pictures\n\n", "  train/a\n./c.npy\nd e\n")
    assert items(listed, **lists) == {
        "train": ["more/pictures", "test/b.npy"],
        "test": ["c.npy", "d e.npy", "train/a.npy"],
    }
    assert told(listed, capsys, **lists) == (
        f"Note: {listed}: 6 videos (many.npy, mnist_test_seq.npy#000000,"
        " mnist_test_seq.npy#000001, ...) in no list: not used.\n"
    )
    assert sorted(open_folder(listed, **lists).stamps()) == [
        *("c.npy", "d e.npy", "more/pictures", "test/b.npy", "train/a.npy")
    ]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_lists_of_windows(listed, tmp_path, encoding):
    touch(listed, "ü.npy")
    train, test = (text.encode(encoding) for text in ("ü\r\nc.npy\r\n", "d e.npy\rmany.npy\r"))
    lists = write_lists(tmp_path, train, test)
    assert items(listed, **lists) == {"train": ["c.npy", "ü.npy"], "test": ["d e.npy", "many.npy"]}


def test_labels_after_names_are_dropped(listed, tmp_path):
    lists = write_lists(tmp_path, "c.npy 1\nd e.npy 12\nmore/g 1\n", "train/a.npy\t-3")
    assert items(listed, **lists) == {
        "train": ["c.npy", "d e.npy", "more/g 1.npy"],
        "test": ["train/a.npy"],
    }


def test_a_listed_file_stands_for_all_its_videos(listed, tmp_path):
    names = [f"mnist_test_seq.npy#{number:06}" for number in range(3)]
    lists = write_lists(tmp_path, "mnist_test_seq", "c")
    assert items(listed, **lists)["train"] == names
    lists = write_lists(tmp_path, names[1], f"{names[0]}\n{names[2]}\n")
    assert items(listed, **lists) == {"train": [names[1]], "test": [names[0], names[2]]}
    short = write_lists(tmp_path, "mnist_test_seq.npy#1", "mnist_test_seq.npy#2")
    assert items(listed, **short) == {"train": [names[1]], "test": [names[2]]}
    lists = write_lists(tmp_path, "mnist_test_seq.npy", names[0])
    assert f"line 1: {names[0]} is also in line 1 of" in refusal(listed, **lists)


@pytest.mark.parametrize(
    ("train", "test", "words"),
    [
        (
            "c\nno.npy\n",
            "d e",
            "trainlist.txt (data.train_list): line 2: there is no video 'no.npy'",
        ),
        ("c\n\nc.npy\n", "d e", "line 3: c.npy is also in line 1 of"),
        ("c\n", "d e\nc", "testlist.txt (data.test_list): line 2: c.npy is also in line 1 of"),
        ("x", "c", "line 1: 'x' may be x.npy or x.npz"),
        ("y", "c", "line 1: 'y' may be y.npy or y/"),
        ("1\n2\n3\n4\n5", "c", "line 3: there is no video '3'; and 2 more."),
        ("notes.txt", "c", "there is no video 'notes.txt'"),
        ("c.npy many.npy", "d e", "there is no video 'c.npy many.npy'"),
        ("c.npy 1 2", "d e", "there is no video 'c.npy 1 2'"),
        ("more/g 2", "c", "there is no video 'more/g 2'"),
        ("c 2", "d e", "there is no video 'c 2'"),
        ("\n \n", "c", "trainlist.txt: has no names"),
        (b"\xff\xfea", "c", "is not a text file"),
    ],
)
def test_lists_with_faults_are_refused(listed, tmp_path, train, test, words):
    touch(listed, "x.npy", "x.npz", "y.npy", "notes.txt")
    save_picture(listed / "y" / "1.png")
    lists = write_lists(tmp_path, train, test)
    with pytest.raises(UserError) as caught:
        open_folder(listed, **lists).fetch()
    assert words in str(caught.value)


def test_ambiguous_names_can_be_written_in_full(listed, tmp_path):
    touch(listed, "x.npy", "x.npz", "y.npy", "y.npy.npz")
    save_picture(listed / "y" / "1.png")
    lists = write_lists(tmp_path, "x.npy\ny/", "x.npz\ny.npy")
    assert items(listed, **lists) == {"train": ["x.npy", "y"], "test": ["x.npz", "y.npy"]}


def test_a_list_that_cannot_be_read(tmp_path):
    lists = write_lists(tmp_path, "c", "d")
    with pytest.raises(UserError, match=r"no\.txt: No such file.*Set data\.test_list"):
        open_folder(tmp_path, **(lists | {"test_list": str(tmp_path / "no.txt")}))


def test_other_lists_lead_to_another_description(listed, tmp_path):
    one = open_folder(listed, **write_lists(tmp_path, "c\nd e", "more/f")).describe()
    (tmp_path / "moved").mkdir()
    moved = open_folder(listed, **write_lists(tmp_path / "moved", "d e\r\nc\r\n", "more/f"))
    assert moved.describe() == one
    assert json.loads(json.dumps(one)) == one
    other = open_folder(listed, **write_lists(tmp_path, "c", "d e\nmore/f")).describe()
    assert other != one
    assert open_folder(listed).describe() not in (one, other)
