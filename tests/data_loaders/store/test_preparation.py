"""Tests of preparing a store: its content, skipped videos, and resuming after a kill."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from helpers.numbered import Numbers, content

import data_loaders
from cwvae.errors import UserError
from data_loaders.store import preparation, processes, store
from data_loaders.store.store import Store

ROOT = Path(preparation.__file__).parents[2]


@pytest.fixture
def expected(tmp_path):
    """Prepares a store without an interruption, for comparison."""
    return content(preparation.prepare(Numbers(), tmp_path / "whole"))


def test_bad_videos_are_counted_named_and_listed(tmp_path, capsys):
    folder = preparation.prepare(Numbers(), tmp_path)
    lines = (folder / "skipped.txt").read_text().splitlines()
    assert lines == [
        "train/video2: breaks off after 9 frames",
        "test/video1: breaks off after 9 frames",
    ]
    told = capsys.readouterr().err
    assert "6 train and 3 test videos, about 10.7kB" in told
    assert "5 train and 2 test videos" in told
    assert "warning: 2 of 9 videos cannot be used" in told
    assert str(folder / "skipped.txt") in told
    assert not list(folder.glob("*.tmp"))


def test_a_store_is_prepared_once(tmp_path, capsys):
    source = Numbers()
    folder = preparation.prepare(source, tmp_path)
    capsys.readouterr()
    assert preparation.prepare(source, tmp_path) == folder
    assert source.was_fetched == 1
    assert capsys.readouterr().err == ""
    preparation.prepare(source, tmp_path, again=True)
    assert source.was_fetched == 2
    assert store.is_complete(folder)


def test_another_description_is_another_store(tmp_path):
    other = Numbers({"train": [3], "test": [4]})
    folders = [preparation.prepare(source, tmp_path) for source in (Numbers(), other)]
    assert folders[0] != folders[1]
    assert len(Store(folders[1], "train")) == 1


class Stop(BaseException):
    pass


@pytest.mark.parametrize("last", ["video1", "video2", "video5"])
def test_videos_read_before_a_stop_are_not_read_again(tmp_path, expected, last):
    partial_of(tmp_path, last)
    source = Numbers()
    assert content(preparation.prepare(source, tmp_path)) == expected
    assert source.was_read[0] == ("train", last)


def partial_of(tmp_path, stop_at="video4"):
    """Returns the folder of a preparation that was stopped at that point."""
    source = Numbers()

    def stop(item):
        if item == stop_at:
            raise Stop

    source.on_read = stop
    with pytest.raises(Stop):
        preparation.prepare(source, tmp_path)
    [partial] = (tmp_path / "stores").glob("*.partial")
    return partial


def test_a_stop_before_the_final_rename_loses_no_work(tmp_path, expected, monkeypatch):
    again = Numbers()
    folder = preparation.prepare(again, tmp_path)
    monkeypatch.setattr(Path, "rename", stop_at_partial(Path.rename))
    with pytest.raises(Stop):
        preparation.prepare(again, tmp_path, again=True)
    monkeypatch.undo()
    assert not store.is_complete(folder)
    source = Numbers()
    assert content(preparation.prepare(source, tmp_path)) == expected
    assert source.was_read == []
    assert [path.suffix for path in (tmp_path / "stores").iterdir() if path != folder] == [".lock"]


def stop_at_partial(rename):
    def stopping(path, target):
        if path.suffix == ".partial":
            raise Stop
        return rename(path, target)

    return stopping


def tear_index(partial):
    path = store.index_file(partial, "train")
    path.write_bytes(path.read_bytes()[:-10])


def append_frames(partial):
    with open(store.frames_file(partial, "train"), "ab") as file:
        file.write(b"of a video whose line in the index was not written")


LEFT_BEHIND = {
    "half a line": (tear_index, 3),
    "half a video": (append_frames, 4),
    "fewer frames than its index says": (
        lambda partial: os.truncate(store.frames_file(partial, "train"), 100),
        0,
    ),
}


@pytest.mark.parametrize("damage", LEFT_BEHIND)
def test_files_are_truncated_to_complete_videos_after_a_power_cut(tmp_path, expected, damage):
    change, first = LEFT_BEHIND[damage]
    change(partial_of(tmp_path))
    source = Numbers()
    assert content(preparation.prepare(source, tmp_path)) == expected
    assert source.was_read[0] == ("train", f"video{first}")


def test_preparation_restarts_if_files_changed_since_the_stop(tmp_path):
    partial_of(tmp_path)
    source = Numbers()
    source.now = {"train/video0": "another"}
    preparation.prepare(source, tmp_path)
    assert source.was_read[0] == ("train", "video0")


def test_changed_files_are_reported_and_used_on_request(tmp_path):
    source = Numbers()
    source.now = {"video3": "1", "video4": "1"}
    folder = preparation.prepare(source, tmp_path)
    source.now = {"video3": "2", "video4": "2"}
    source.digests["video3"] = "another"  # Of video4, only the time has changed.
    with pytest.raises(UserError) as caught:
        preparation.prepare(source, tmp_path)
    message = str(caught.value)
    assert "(1 differ: train/video3 has changed)" in message
    assert f"{folder}" in message
    assert "prepare numbers --again" in message
    preparation.prepare(source, tmp_path, again=True)
    preparation.prepare(source, tmp_path)


def test_a_file_that_changes_during_preparation_is_reported_next_time(tmp_path):
    source = Numbers()
    source.now = {"video3": "1"}

    def change(item):
        if item == "video4":
            source.now, source.digests["video3"] = {"video3": "2"}, "another"

    source.on_read = change
    preparation.prepare(source, tmp_path)
    with pytest.raises(UserError, match="video3 has changed"):
        preparation.prepare(source, tmp_path)


def test_a_split_with_only_bad_videos_is_rejected(tmp_path):
    source = Numbers({"train": [3, None], "test": [None, None]})
    with pytest.raises(UserError, match="none of the 2 test videos can be used") as caught:
        preparation.prepare(source, tmp_path)
    assert "train/video1: breaks off after 9 frames" in str(caught.value)


def test_two_at_once_prepare_once(tmp_path, capsys):
    source, waiting = Numbers(), Numbers()
    first_reads = threading.Event()

    def wait(item):
        first_reads.set()
        time.sleep(0.02)

    source.on_read = wait
    first = threading.Thread(target=preparation.prepare, args=(source, tmp_path))
    first.start()
    assert first_reads.wait(30)
    preparation.prepare(waiting, tmp_path)
    first.join()
    assert waiting.was_read == []
    assert f"process {os.getpid()} on" in capsys.readouterr().err


def test_a_disk_that_is_too_small_is_reported_before_anything_is_read(small_disk):
    source = Numbers(expected=10**9)
    needed = r"about 48\.0GB in .* about 1,000,000,000 frames of 4x4x3 bytes.*data\.data_dir"
    with pytest.raises(UserError, match=needed) as caught:
        preparation.prepare(source, small_disk)
    assert str(small_disk) in str(caught.value)
    assert source.was_fetched == 0


def test_a_disk_that_fills_up_keeps_prepared_videos(small_disk, monkeypatch):
    monkeypatch.setattr(preparation, "_ROOM", 0)
    lengths = {
        "train": [6000, 6000, 6000, 6000],
        "test": [5],
    }  # 288 kB each; 1 MB of disk.
    source = Numbers(lengths, expected=1)
    with pytest.raises(UserError, match="the disk is full"):
        preparation.prepare(source, small_disk)
    subprocess.run(["mount", "-o", "remount,size=3m", str(small_disk)], check=True)
    source = Numbers(lengths, expected=1)
    folder = preparation.prepare(source, small_disk)
    assert ("train", "video0") not in source.was_read
    assert Store(folder, "train").length(3) == 6000


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "stores").write_text("not a folder")
    with pytest.raises(UserError, match=r"stores: .*data\.data_dir"):
        preparation.prepare(Numbers(), tmp_path)


# Several processes, as for a user.


@pytest.fixture
def videos(tmp_path):
    """Twelve videos in train/, two in test/, and a text file with the name of a video."""
    rng = np.random.default_rng(0)
    for i in range(14):
        path = tmp_path / "videos" / ("train" if i < 12 else "test") / f"{i:02}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, rng.integers(0, 256, (30 + i, 8, 8, 3), dtype=np.uint8))
    (tmp_path / "videos" / "train" / "05a.mp4").write_text("no video\n")
    return tmp_path / "videos"


def recipe(videos):
    return {"name": "video_folder", "videos_dir": str(videos), "frame_size": 8, "channels": 3}


def test_several_processes_make_the_same_store_as_one(videos, tmp_path):
    source = data_loaders.open_source(**recipe(videos))
    alone = preparation.prepare(source, tmp_path / "alone")
    together = preparation.prepare(source, tmp_path / "together", recipe(videos), processes=3)
    assert content(alone) == content(together)
    for i in range(12):
        expected = np.load(videos / "train" / f"{i:02}.npy", allow_pickle=False)
        np.testing.assert_array_equal(Store(together, "train").clip(i), expected)
    assert "train/05a.mp4" in (together / "skipped.txt").read_text()


def test_preparation_resumes_after_kill_9(videos, tmp_path):
    expected = content(preparation.prepare(data_loaders.open_source(**recipe(videos)), tmp_path))
    data_dir = tmp_path / "killed"
    data_dir.mkdir()
    # The eighth video never ends, so the process can be killed in the middle.
    program = f"""
import time
import data_loaders
from data_loaders import preparation
preparation._SECONDS_BETWEEN_SYNCS = 0
source = data_loaders.open_source(**{recipe(videos)!r})
read = source.read
def slow(split, item, note):
    if item == "train/07.npy":
        print("here", flush=True)
        time.sleep(600)
    return read(split, item, note)
source.read = slow
preparation.prepare(source, __import__("pathlib").Path({str(data_dir)!r}))
"""
    process = subprocess.Popen(
        [sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert process.stdout.readline() == b"here\n"
    process.kill()
    process.communicate()
    [partial] = (data_dir / "stores").glob("*.partial")
    before = store.frames_file(partial, "train").read_bytes()
    assert len(before) == sum(30 + i for i in range(7)) * 8 * 8 * 3
    folder = preparation.prepare(
        data_loaders.open_source(**recipe(videos)), data_dir, recipe(videos), processes=2
    )
    assert content(folder) == expected


def test_a_worker_ends_with_the_process_that_started_it(videos, tmp_path):
    worker = processes._Worker(recipe(videos))
    worker.read("train", "train/00.npy", tmp_path / "frames")
    worker._process.stdin.close()  # As the system does if the parent is killed.
    assert worker._process.wait(timeout=30) == 0


def test_a_worker_whose_parent_was_killed_during_its_start_writes_nothing(videos, tmp_path):
    frames = tmp_path / "frames"
    requests = [recipe(videos), ["train", "train/00.npy", str(frames)]]
    command = [sys.executable, "-m", "data_loaders.store.worker"]
    text = "".join(json.dumps(request) + "\n" for request in requests)
    # The number of another process, since the parent is another one after it was killed.
    done = subprocess.run([*command, str(os.getppid())], cwd=ROOT, input=text, text=True)
    assert done.returncode == 1
    assert not frames.exists()


def killed_amid(videos, tmp_path, number):
    """Ends a worker by a signal during an endless video; returns it and its answer."""
    path = videos / "train" / "endless.npy"
    np.lib.format.open_memmap(path, "w+", np.uint8, (10**6, 8, 8, 3))  # A sparse file.
    worker, frames = processes._Worker(recipe(videos)), tmp_path / "frames"

    def kill():
        while worker._process is None or not frames.exists():
            time.sleep(0.01)
        worker._process.send_signal(number)

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        return worker, worker.read("train", "train/endless.npy", frames)
    finally:
        thread.join()


def test_a_video_that_crashes_the_decoder_is_skipped(videos, tmp_path):
    worker, answer = killed_amid(videos, tmp_path, signal.SIGSEGV)
    assert answer == {"name": "train/endless.npy", "skipped": "crashes the decoder with SIGSEGV"}
    assert worker.read("train", "train/00.npy", tmp_path / "frames")["frames"] == 30
    worker.close()


def test_a_video_that_crashed_is_compared_if_its_file_changes(videos, tmp_path, monkeypatch):
    def read(worker, split, item, path):
        if item == "train/05a.mp4":
            return {"name": item, "skipped": "crashes the decoder with SIGSEGV"}
        return processes.read_one(source, split, item, path)

    monkeypatch.setattr(processes._Worker, "read", read)
    source = data_loaders.open_source(**recipe(videos))
    folder = preparation.prepare(source, tmp_path, recipe(videos), processes=2)
    assert "train/05a.mp4: crashes the decoder" in (folder / "skipped.txt").read_text()
    store.check_unchanged(source, folder)
    (videos / "train" / "05a.mp4").write_text("repaired\n")
    with pytest.raises(UserError, match=r"05a\.mp4 has changed"):
        store.check_unchanged(source, folder)


def test_a_killed_worker_is_not_blamed_on_the_video(videos, tmp_path):
    with pytest.raises(UserError, match=r"endless\.npy: the process .* ended with SIGKILL"):
        killed_amid(videos, tmp_path, signal.SIGKILL)
