"""Tests of stores: random access, and reports of damage."""

import hashlib
import json
import os

import numpy as np
import pytest
from helpers.numbered import Numbers

from cwvae.errors import UserError
from data_loaders.sources import UnreadableVideo
from data_loaders.store import preparation, store
from data_loaders.store.store import Store


@pytest.fixture
def folder(tmp_path):
    return preparation.prepare(Numbers(), tmp_path)


def test_clips_are_the_good_videos_in_order(folder):
    data = Store(folder, "train")
    assert [data.name(i) for i in range(len(data))] == [f"video{i}" for i in (0, 1, 3, 4, 5)]
    assert [data.length(i) for i in range(len(data))] == [5, 130, 7, 64, 1]
    assert data.frame_shape == (4, 4, 3)
    for i in range(len(data)):
        expected = Numbers.frames("train", data.name(i), data.length(i))
        np.testing.assert_array_equal(data.clip(i), expected)
    assert Store(folder, "test").clip(1)[2, 0, 0].tolist() == [200, 2, 2]


def test_any_window_is_a_slice_of_the_clip(folder):
    data = Store(folder, "train")
    whole = data.clip(1)
    for start, length in ((0, 1), (129, 1), (50, 80), (7, 13)):
        np.testing.assert_array_equal(data.clip(1, start, length), whole[start : start + length])
    with pytest.raises(UserError, match="clip 1 of this data set has 130 frames"):
        data.clip(1, 129, 2)
    with pytest.raises(IndexError, match="no clip 5"):
        data.clip(5)


def test_batches_are_windows_of_the_clips(folder):
    data = Store(folder, "train")
    for batch in data.batches(8, 6, seed=1).take(3):
        for video in batch.numpy():
            _, number, first = video[0, 0, 0]
            expected = Numbers.frames("train", f"video{number}", 130)[first : first + 6]
            np.testing.assert_array_equal(video, expected)


def test_numpy_can_map_the_file_of_frames(folder):
    mapped = np.memmap(store.frames_file(folder, "test"), np.uint8, "r").reshape(-1, 4, 4, 3)
    np.testing.assert_array_equal(mapped[:12], Store(folder, "test").clip(0))


def test_attributes_come_from_the_source_cut_to_the_window(folder):
    data = Store(folder, "train", Numbers())
    known = data.attributes(1, 20, 3)
    assert known["moment"].tolist() == [20, 21, 22]
    assert known["who"].tolist() == [1, 2]
    assert Store(folder, "train").attributes(1) == {}


def test_the_summary_has_counts_and_statistics(folder):
    train = store.summary(folder)["splits"]["train"]
    assert (train["clips"], train["skipped"], train["frames"]) == (5, 1, 207)
    assert (train["shortest"], train["longest"]) == (1, 130)
    data = Store(folder, "train")
    pixels = np.concatenate([data.clip(i) for i in range(5)]).reshape(-1, 3)
    np.testing.assert_allclose(train["mean"], pixels.mean(0), atol=1e-4)
    np.testing.assert_allclose(train["stddev"], pixels.std(0), atol=1e-4)


def test_a_flipped_byte_is_detected_and_named(folder):
    assert all(whole for _, _, whole in store.verify(folder))
    path = store.frames_file(folder, "train")
    damaged = bytearray(path.read_bytes())
    damaged[140 * 4 * 4 * 3] ^= 1  # In the clip after the one of 130 frames, which starts at 5.
    path.write_bytes(damaged)
    assert [found[:2] for found in store.verify(folder) if not found[2]] == [("train", "video3")]


def cut_frames(folder):
    path = store.frames_file(folder, "train")
    os.truncate(path, path.stat().st_size - 1)


def change_index(folder):
    path = store.index_file(folder, "train")
    path.write_bytes(path.read_bytes().replace(b"130", b"131"))


def change_summary(folder):
    path = folder / "store.json"
    path.write_text(path.read_text().replace('"clips": 5', '"clips": 4'))


DAMAGE = {
    "frames cut": (cut_frames, r"train\.frames: has 9935 bytes; its index says 9936"),
    "no frames": (lambda f: store.frames_file(f, "train").unlink(), "cannot be read"),
    "index": (change_index, "checksum mismatch"),
    "no index": (lambda f: store.index_file(f, "train").unlink(), "cannot be read"),
    "no summary": (lambda f: (f / "store.json").write_text("{"), r"store\.json: cannot be read"),
    "changed": (change_summary, r"store\.json: checksum mismatch"),
    "newer": (lambda f: (f / "store.json").write_text('{"format": 99}'), "has format 99"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_reported_when_a_store_is_opened(folder, damage):
    change, expected = DAMAGE[damage]
    change(folder)
    with pytest.raises(UserError, match=expected) as caught:
        Store(folder, "train")
    assert f"Delete the folder {folder}" in str(caught.value)


def test_a_file_truncated_while_in_use_is_reported(folder):
    data = Store(folder, "train")
    os.truncate(store.frames_file(folder, "train"), 100)
    with pytest.raises(UserError, match=r"train\.frames: was cut short while it was in use"):
        data.clip(4)


def test_windows_are_read_in_pieces_if_one_call_returns_less(folder, monkeypatch):
    data, whole = Store(folder, "train"), Numbers.frames("train", "video1", 130)
    preadv = os.preadv
    monkeypatch.setattr(os, "preadv", lambda f, to, at: preadv(f, [to[0][:1000]], at))
    np.testing.assert_array_equal(data.clip(1), whole)


# Remarks on videos, which do not identify clips.


def test_notes_and_reasons_of_every_video_can_be_listed(tmp_path):
    source = Numbers({"train": [5, None], "test": [3]})
    source.notes = {"video0": ["frames of 8x8 RGB: unchanged"], "video1": ["rotated"]}
    assert list(store.report(preparation.prepare(source, tmp_path))) == [
        ("train", "video0", 5, ["frames of 8x8 RGB: unchanged"], None),
        ("train", "video1", None, ["rotated"], "breaks off after 9 frames"),
        ("test", "video0", 3, ["frames of 8x8 RGB: unchanged"], None),
    ]


# SHA-256 of the indexes before there were remarks; the data.json of older runs has them.
FINGERPRINTS = {
    "train": "820a93010c73c856e067f51a44ef107ea65ba76deec422bd6f2fe604cfadcad0",
    "test": "fc6a6a9cbb02bd1beb088b08c81c63b43764d5394895317959c6409a3adbc8e9",
}


def test_fingerprints_are_those_of_earlier_versions_with_and_without_notes(folder, tmp_path):
    source = Numbers()
    source.notes = {"video0": ["a note"], "video2": ["a note", "another"]}
    noted = preparation.prepare(source, tmp_path / "noted")
    for split, expected in FINGERPRINTS.items():
        assert Store(folder, split).fingerprint == expected
        assert Store(noted, split).fingerprint == expected
        assert store.index_file(noted, split).read_bytes().count(b'"notes"') > 0
    other = preparation.prepare(Numbers({"train": [5, 131], "test": [12]}), tmp_path)
    assert Store(other, "train").fingerprint != FINGERPRINTS["train"]


def test_an_attribute_with_as_many_values_as_the_video_has_frames_is_not_cut(tmp_path):
    source = Numbers({"train": [2], "test": [2]})
    known = Store(preparation.prepare(source, tmp_path), "train", source).attributes(0, 1, 1)
    assert known["moment"].tolist() == [1]
    assert known["who"].tolist() == [1, 2]


# Changes of the source. Numbers has the same names of videos in both splits.


@pytest.fixture
def stamped(tmp_path):
    """A source with a stamp per video, and its store."""
    source = Numbers()
    source.now = {f"video{i}": "1" for i in range(6)}
    return source, preparation.prepare(source, tmp_path)


def rewrite(folder, **changes):
    content = store.summary(folder) | changes
    store.write_summary(folder, {key: value for key, value in content.items() if value != "absent"})


def test_nothing_is_compared_or_written_while_stamps_are_equal(stamped, capsys):
    source, folder = stamped
    capsys.readouterr()
    source.digest = None  # It cannot be called.
    before = (folder / "store.json").stat()
    store.check_unchanged(source, folder)
    assert (folder / "store.json").stat() == before
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("then", [None, "sizes and times only"])
def test_content_is_compared_once_with_stores_of_earlier_versions(stamped, capsys, then):
    source, folder = stamped
    stamps = None if then is None else dict.fromkeys(source.now, then)
    rewrite(folder, stamps=stamps, kind="absent")
    capsys.readouterr()
    store.check_unchanged(source, folder)
    assert "comparing the content of 9 videos" in capsys.readouterr().err
    assert store.summary(folder)["stamps"] == source.now
    store.check_unchanged(source, folder)
    assert capsys.readouterr().err == ""

    rewrite(folder, stamps=stamps, kind="absent")
    source.now = dict.fromkeys(source.now, "2")
    source.digests["video4"] = "another"
    with pytest.raises(UserError, match=r"\(1 differ: train/video4 has changed\)"):
        store.check_unchanged(source, folder)
    assert store.summary(folder)["stamps"] == stamps


def test_content_is_compared_once_in_a_process_that_cannot_write(stamped, monkeypatch, capsys):
    source, folder = stamped

    def refuse(*_):
        raise PermissionError

    monkeypatch.setattr(store, "write_summary", refuse)
    capsys.readouterr()
    source.now = source.now | {"video3": "2"}
    for expected in (1, 0):
        store.check_unchanged(source, folder)
        assert capsys.readouterr().err.count("comparing") == expected
    source.now = source.now | {"video3": "3"}
    source.digests["video3"] = "another"
    with pytest.raises(UserError, match="train/video3 has changed"):
        store.check_unchanged(source, folder)


def test_stamps_are_not_written_into_a_store_that_was_made_again_meanwhile(stamped, tmp_path):
    source, folder = stamped
    rewrite(folder, stamps=None)

    def make_again(split, item):
        if (split, item) == ("test", "video2"):
            rewrite(folder, made="later")
        return f"digest of {item}"

    source.digest = make_again
    store.check_unchanged(source, folder)
    assert store.summary(folder)["stamps"] is None
    assert store.summary(folder)["made"] == "later"


def test_a_video_that_moved_to_the_other_split_is_reported(stamped):
    source, folder = stamped
    names = [f"video{i}" for i in range(6)]
    source.names = {"train": names[:5], "test": [*names[:3], "video5"]}
    changes = r"\(2 differ: video5 is gone from train, video5 is new in test\)"
    with pytest.raises(UserError, match=changes):
        store.check_unchanged(source, folder)


def test_new_and_missing_videos_are_reported_before_any_is_read(stamped):
    source, folder = stamped
    source.now, source.digest = dict.fromkeys(source.now, "2"), None
    source.names = {"train": [f"video{i}" for i in (0, 1, 2, 3, 9)]}
    changes = r"3 differ: video4 is gone from train, video5 is gone from train, video9 is new in"
    with pytest.raises(UserError, match=changes):
        store.check_unchanged(source, folder)


def test_a_stamp_of_a_name_in_both_splits_is_of_both_videos(stamped):
    source, folder = stamped
    source.now = source.now | {"video2": "2"}
    compared = []
    source.digest = lambda split, item: compared.append((split, item)) or f"digest of {item}"
    store.check_unchanged(source, folder)
    assert compared == [("train", "video2"), ("test", "video2")]


def test_a_source_whose_files_no_longer_exist_is_not_checked(stamped):
    source, folder = stamped
    source.now, source.items = None, None
    store.check_unchanged(source, folder)


def test_a_video_that_can_no_longer_be_compared_is_reported(stamped):
    source, folder = stamped
    source.now, source.unreadable = source.now | {"video3": "2"}, {"video3"}
    with pytest.raises(UserError, match="train/video3 cannot be read: Permission denied"):
        store.check_unchanged(source, folder)


def test_unreadable_videos_are_tried_on_every_use_and_reported_when_they_can_be_read(tmp_path):
    source = Numbers()
    source.now, source.unreadable = {f"video{i}": "1" for i in range(6)}, {"video4"}
    folder = preparation.prepare(source, tmp_path)
    assert "train/video4: cannot be read: Permission denied" in (folder / "skipped.txt").read_text()
    assert b'"unreadable": true' in store.index_file(folder, "train").read_bytes()
    preparation.prepare(source, tmp_path)
    source.unreadable = set()
    for _ in range(2):
        with pytest.raises(UserError, match="train/video4 can be read now") as caught:
            preparation.prepare(source, tmp_path)
    assert "prepare numbers --again" in str(caught.value)
    preparation.prepare(source, tmp_path, again=True)
    preparation.prepare(source, tmp_path)
    assert Store(folder, "train").length(3) == 64


def test_a_video_whose_reading_failed_after_its_digest_is_tried_again(tmp_path):
    source = Numbers()
    source.now = {f"video{i}": "1" for i in range(6)}

    def fail(item):
        if item == "video4":
            raise UnreadableVideo("cannot be read: Stale file handle")

    source.on_read = fail
    preparation.prepare(source, tmp_path)
    with pytest.raises(UserError, match="train/video4 can be read now"):
        preparation.prepare(source, tmp_path)


def test_a_video_that_an_earlier_version_could_not_read_is_tried_again(tmp_path):
    source = Numbers()
    source.now, source.damaged = {f"video{i}": "1" for i in range(6)}, {"video4"}
    folder = preparation.prepare(source, tmp_path)
    assert b'"unreadable"' not in store.index_file(folder, "train").read_bytes()
    store.check_unchanged(source, folder)
    source.damaged = set()  # Without a new stamp, as if a disk had been mounted again.
    with pytest.raises(UserError, match="train/video4 can be read now"):
        store.check_unchanged(source, folder)


def test_a_damaged_video_stays_skipped_until_its_content_changes(tmp_path):
    source = Numbers()
    source.now, source.damaged = {f"video{i}": "1" for i in range(6)}, {"video5"}
    folder = preparation.prepare(source, tmp_path)
    source.now = dict.fromkeys(source.now, "2")
    store.check_unchanged(source, folder)
    assert store.summary(folder)["stamps"] == source.now
    source.now, source.damaged = dict.fromkeys(source.now, "3"), set()
    with pytest.raises(UserError, match="train/video5 can be read now"):
        store.check_unchanged(source, folder)


def test_a_video_that_crashed_an_earlier_version_stays_skipped(stamped):
    source, folder = stamped
    path, content = store.index_file(folder, "train"), store.summary(folder)
    lines = [json.loads(line) for line in path.read_bytes().splitlines()]
    lines[2] = {"name": "video2", "skipped": "crashes the decoder with SIGSEGV"}
    path.write_bytes(b"".join(map(store.index_line, lines)))
    content["splits"]["train"]["index_sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    store.write_summary(folder, content | {"stamps": None})
    store.check_unchanged(source, folder)
