"""Tests of stores: random access, and reports of damage."""

import os

import numpy as np
import pytest
from helpers.numbered import Numbers

from cwvae.errors import UserError
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
