import json
import os
import struct

import numpy as np
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.metadata import parse_session_start_info_plugin_data

from cwvae.run import logs
from cwvae.run.logs import RunLog

GIF = np.arange(2 * 4 * 6 * 3, dtype=np.uint8).reshape(2, 4, 6, 3)


def lines(logdir):
    return [json.loads(line) for line in (logdir / "metrics.jsonl").read_text().splitlines()]


def event_files(logdir):
    return sorted((logdir / "tensorboard").glob("*/*"))


def records(path):
    """Returns the records of an event file, each of which must be whole."""
    data, found = path.read_bytes(), []
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        assert len(data) >= length + 16
        found.append(data[: length + 16])
        data = data[length + 16 :]
    return found


def summaries(logdir):
    """Returns (step, tag, value) of all summaries, read by TensorFlow file by file."""
    found = []
    for path in event_files(logdir):
        for record in tf.data.TFRecordDataset(str(path)):
            event = tf.compat.v1.Event.FromString(record.numpy())
            for value in event.summary.value:
                found.append((event.step, value.tag, tf.make_ndarray(value.tensor)))
    return found


def steps(logdir, tag="loss"):
    return [step for step, name, _ in summaries(logdir) if name == tag]


def log(logdir, start, numbers):
    """Resumes a run at a step and logs more steps."""
    run = RunLog(logdir, start)
    for number in numbers:
        run.scalars(number, {"loss": number / 4, "kl/level_1_sum": -1.5})
        if number % 2 == 0:
            run.video(number, "train", GIF)
    run.close()


def test_scalars_and_videos_are_written_to_both(tmp_path):
    log(tmp_path, 0, [1, 2, 3])
    assert lines(tmp_path) == [
        {"step": n, "loss": n / 4, "kl/level_1_sum": -1.5} for n in (1, 2, 3)
    ]
    assert [s[:2] for s in summaries(tmp_path)] == [
        (1, "loss"),
        (1, "kl/level_1_sum"),
        (2, "loss"),
        (2, "kl/level_1_sum"),
        (2, "open_loop"),
        (3, "loss"),
        (3, "kl/level_1_sum"),
    ]
    assert [float(value) for _, name, value in summaries(tmp_path) if name == "loss"] == [
        0.25,
        0.5,
        0.75,
    ]


def test_tensorboard_reads_them(tmp_path):
    log(tmp_path, 0, [1, 2])
    log(tmp_path, 2, [3])
    board = EventAccumulator(str(tmp_path / "tensorboard" / "train"), size_guidance={"tensors": 0})
    board.Reload()
    assert [event.step for event in board.Tensors("loss")] == [1, 2, 3]
    plugins = {
        tag: board.SummaryMetadata(tag).plugin_data.plugin_name for tag in board.Tags()["tensors"]
    }
    assert plugins == {"loss": "scalars", "kl/level_1_sum": "scalars", "open_loop": "images"}
    (video,) = board.Tensors("open_loop")
    width, height, gif = tf.make_ndarray(video.tensor_proto)
    assert (width, height, gif[:6]) == (b"6", b"4", b"GIF89a")


def test_values_that_are_not_finite_are_logged(tmp_path):
    RunLog(tmp_path, 0).scalars(1, {"loss": float("nan")})
    assert np.isnan(lines(tmp_path)[0]["loss"])
    assert np.isnan(summaries(tmp_path)[0][2])


# Resuming.


def test_resuming_drops_later_steps_only(tmp_path):
    log(tmp_path, 0, [1, 2, 3, 4, 5, 6])
    log(tmp_path, 4, [5, 7])
    assert [line["step"] for line in lines(tmp_path)] == [1, 2, 3, 4, 5, 7]
    assert steps(tmp_path) == [1, 2, 3, 4, 5, 7]
    assert steps(tmp_path, "open_loop") == [2, 4]
    log(tmp_path, 5, [6])  # Now there are two files.
    assert [line["step"] for line in lines(tmp_path)] == [1, 2, 3, 4, 5, 6]
    assert steps(tmp_path) == [1, 2, 3, 4, 5, 6]
    log(tmp_path, 1, [2])
    assert [line["step"] for line in lines(tmp_path)] == [1, 2]
    assert steps(tmp_path) == [1, 2]


def test_files_with_other_names_are_left_alone(tmp_path):
    log(tmp_path, 0, [1, 2])
    stray = tmp_path / "tensorboard" / "train" / "events.out.tfevents.backup"
    stray.write_text("mine")
    log(tmp_path, 1, [2, 3])
    assert stray.read_text() == "mine"
    stray.unlink()
    assert steps(tmp_path) == [1, 2, 3]


def test_resuming_at_the_end_changes_no_byte(tmp_path):
    log(tmp_path, 0, [1, 2])
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert len(before) == 2
    RunLog(tmp_path, 2).close()
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_restarted_run_drops_all(tmp_path):
    log(tmp_path, 0, [1, 2])
    log(tmp_path, 0, [1])
    assert [line["step"] for line in lines(tmp_path)] == steps(tmp_path) == [1]


def test_a_partial_line_of_any_length_is_dropped(tmp_path):
    path = tmp_path / "metrics.jsonl"
    log(tmp_path, 0, [1, 2])
    data = path.read_bytes()
    first = data.index(b"\n") + 1
    for length in range(first, len(data)):
        path.write_bytes(data[:length])
        RunLog(tmp_path, 2)
        assert path.read_bytes() == data[:first]


@pytest.mark.parametrize(
    "line", [b"\0" * 40, b"\xff\xfe", b"[2]", b'{"loss": 1}', b'{"step": "x"}']
)
def test_lines_that_are_not_logs_are_dropped(tmp_path, line):
    log(tmp_path, 0, [1])
    path = tmp_path / "metrics.jsonl"
    before = path.read_bytes()
    path.write_bytes(before + line + b"\n")
    RunLog(tmp_path, 5)
    assert path.read_bytes() == before


def test_a_partial_record_of_any_length_is_dropped(tmp_path):
    log(tmp_path, 0, [1])
    (path,) = event_files(tmp_path)
    first, last = records(path)
    for length in range(0, len(last), 3):
        path.write_bytes(first + last[:length])
        RunLog(tmp_path, 2)
        assert path.read_bytes() == first


def test_a_record_with_a_flipped_bit_is_dropped_with_all_after_it(tmp_path):
    log(tmp_path, 0, [1, 2])
    (path,) = event_files(tmp_path)
    first, second, *others = records(path)
    for place in range(0, len(second), 5):
        broken = bytearray(second)
        broken[place] ^= 4
        path.write_bytes(first + broken + b"".join(others))
        RunLog(tmp_path, 2)
        assert path.read_bytes() == first


def test_files_of_tensorflows_writer_are_truncated_too(tmp_path):
    writer = tf.summary.create_file_writer(str(tmp_path / "tensorboard" / "train"))
    for step in (1, 2, 3):
        with writer.as_default(step=step):
            tf.summary.scalar("loss", step)
            tf.summary.scalar("nll", step)
    writer.close()
    log(tmp_path, 2, [5])
    assert steps(tmp_path) == [1, 2, 5]
    assert steps(tmp_path, "nll") == [1, 2]


def test_new_files_sort_after_old_ones_even_if_the_clock_goes_back(tmp_path, monkeypatch):
    log(tmp_path, 0, [1])
    monkeypatch.setattr(logs.time, "time", lambda: 1e9)
    log(tmp_path, 1, [2])
    log(tmp_path, 2, [3])
    assert len(event_files(tmp_path)) == 3
    assert steps(tmp_path) == [1, 2, 3]


# A full disk.


@pytest.fixture
def run(small_disk):
    """Returns a log on a small disk that has some lines and events."""
    run = RunLog(small_disk, 0)
    for step in (1, 2, 3):
        run.scalars(step, {"loss": step})
    return run


def whole(logdir):
    """Returns the steps in both files, after checking that all records are whole."""
    for path in event_files(logdir):
        assert records(path)
    assert (logdir / "metrics.jsonl").read_bytes().endswith(b"\n")
    return [line["step"] for line in lines(logdir)], steps(logdir)


def test_a_full_disk_is_reported_once_and_records_are_lost(small_disk, run, fill, capsys):
    long = {"loss": 4.0} | {f"name{i}": 1.0 for i in range(300)}  # longer than the rest of a block
    fill(small_disk / "filler")
    for step in (4, 5):
        run.scalars(step, long)
        run.video(step, "train", GIF.repeat(40, 1).repeat(40, 2))
        assert whole(small_disk) == ([1, 2, 3], [1, 2, 3])
    warnings = capsys.readouterr().err.splitlines()
    assert len(warnings) == 2
    for line, name in zip(warnings, ("metrics.jsonl", "tensorboard"), strict=True):
        assert line.startswith(f"warning: {small_disk / name}")
        assert "cannot be written (No space left on device). Training continues" in line
    (small_disk / "filler").unlink()
    run.scalars(6, long)
    run.video(6, "train", GIF)
    assert capsys.readouterr().err == ""
    assert whole(small_disk) == ([1, 2, 3, 6], [1, 2, 3, 6])
    assert steps(small_disk, "open_loop") == [6]
    fill(small_disk / "filler")
    run.scalars(7, long)
    assert len(capsys.readouterr().err.splitlines()) == 2  # a new failure
    assert whole(small_disk) == ([1, 2, 3, 6], [1, 2, 3, 6])


def test_a_large_video_that_fits_in_part_leaves_nothing(small_disk, run, fill, capsys):
    fill(small_disk / "filler", leave=20_000)
    noise = np.random.default_rng(0).integers(0, 256, (4, 100, 100, 3)).astype(np.uint8)
    (before,) = event_files(small_disk)
    content = before.read_bytes()
    run.video(4, "train", noise)
    assert "No space left" in capsys.readouterr().err
    assert before.read_bytes() == content
    run.scalars(5, {"loss": 5.0})  # It is small enough, and goes to a new file.
    assert whole(small_disk) == ([1, 2, 3, 5], [1, 2, 3, 5])
    assert len(event_files(small_disk)) == 2
    assert before.read_bytes() == content


def test_a_log_that_starts_on_a_full_disk(small_disk, fill, capsys):
    fill(small_disk / "filler")
    run = RunLog(small_disk, 0)
    for step in (1, 2):
        run.scalars(step, {"loss": 1.0})
    assert len(capsys.readouterr().err.splitlines()) == 2
    assert [
        path for path in small_disk.rglob("*") if path.name != "filler" and path.is_file()
    ] == []
    (small_disk / "filler").unlink()
    run.scalars(3, {"loss": 1.0})
    assert whole(small_disk) == ([3], [3])


def test_a_partial_record_is_removed_before_the_next_one_at_the_latest(
    small_disk, run, fill, monkeypatch
):
    def fail(*_):
        raise OSError(5, "Input/output error")

    fill(small_disk / "filler", leave=20_000)
    with monkeypatch.context() as patch:
        patch.setattr(os, "truncate", fail)
        run.scalars(4, {f"name{i}": 1.0 for i in range(5000)})
    assert not (small_disk / "metrics.jsonl").read_bytes().endswith(b"\n")
    (small_disk / "filler").unlink()
    run.scalars(5, {"loss": 5.0})
    assert whole(small_disk) == ([1, 2, 3, 5], [1, 2, 3, 5])


def test_sync_reaches_the_disk(tmp_path, monkeypatch):
    run = RunLog(tmp_path, 0)
    run.sync()  # before anything is logged
    run.scalars(1, {"loss": 1.0})
    synced = set()
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.add(os.fstat(descriptor).st_ino))
    run.sync()
    (events,) = event_files(tmp_path)
    assert {path.stat().st_ino for path in (tmp_path / "metrics.jsonl", events)} <= synced


# TensorBoard's own reader.


def board_of(folder):
    board = EventAccumulator(str(folder), size_guidance={"tensors": 0})
    board.Reload()
    return board


def test_training_and_held_out_clips_have_the_same_names_in_two_folders(tmp_path):
    run = RunLog(tmp_path, 0)
    run.scalars(1, {"loss": 1.0, "kl/level_1_sum": 2.0, "learning_rate": 0.1})
    run.scalars(1, {"test/loss": 3.0, "test/kl/level_1_sum": 4.0})
    run.video(1, "test", GIF)
    train, test = (board_of(tmp_path / "tensorboard" / split) for split in ("train", "test"))
    assert train.Tags()["tensors"] == ["loss", "kl/level_1_sum", "learning_rate"]
    assert test.Tags()["tensors"] == ["loss", "kl/level_1_sum", "open_loop"]
    assert float(tf.make_ndarray(test.Tensors("loss")[0].tensor_proto)) == 3.0
    assert "Level 1 is the fastest" in train.SummaryMetadata("kl/level_1_sum").summary_description
    assert all(train.SummaryMetadata(tag).summary_description for tag in train.Tags()["tensors"])


def test_events_of_earlier_versions_continue_in_the_folder_of_training(tmp_path):
    log(tmp_path, 0, [1, 2, 3])
    (old,) = (tmp_path / "tensorboard" / "train").iterdir()
    old.rename(tmp_path / "tensorboard" / old.name)
    old.parent.rmdir()
    log(tmp_path, 2, [3])
    assert steps(tmp_path) == [1, 2, 3]
    assert [path.name for path in (tmp_path / "tensorboard").iterdir()] == ["train"]


def test_the_settings_are_text_and_hyperparameters(tmp_path):
    run = RunLog(tmp_path, 0)
    run.settings("training:\n  steps: 6\n", {"training.steps": 6, "model.name": "cwvae"}, [])
    changes = ["From step 6 on (today): training.steps: 6 -> 9"]
    run.settings("training:\n  steps: 9\n", {"training.steps": 9, "model.name": "cwvae"}, changes)
    board = board_of(tmp_path / "tensorboard")
    (text,) = board.Tensors("configuration")
    assert tf.make_ndarray(text.tensor_proto).item().decode() == (
        "```yaml\ntraining:\n  steps: 9\n```\n\n* From step 6 on (today): training.steps: 6 -> 9"
    )
    content = board.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    values = parse_session_start_info_plugin_data(content).hparams
    assert values["training.steps"].number_value == 9
    assert values["model.name"].string_value == "cwvae"
    log(tmp_path, 0, [1])  # A resume leaves them alone.
    assert len(board_of(tmp_path / "tensorboard").Tensors("configuration")) == 1


def test_settings_on_a_full_disk_give_a_warning(small_disk, fill, capsys):
    run = RunLog(small_disk, 0)
    fill(small_disk / "filler")
    run.settings("training:\n", {"training.steps": 9}, [])
    assert "TensorBoard lacks the settings" in capsys.readouterr().err


def test_scores_of_an_evaluation_replace_those_of_the_same_step(tmp_path):
    about = {"label": "PSNR", "unit": "dB", "better": "higher"}
    results = {"model": "cwvae", "metrics": {"psnr": about}, "fvd": None}

    def write(step, mean):
        scores = {"cwvae": {"psnr": {"mean": mean}}, "copy last frame": {"psnr": {"mean": 0.0}}}
        logs.write_scores(tmp_path, "eval", results | {"step": step, "scores": scores})

    write(2, 10.0)
    assert not (tmp_path / "tensorboard").exists()  # An export, for example.
    (tmp_path / "tensorboard").mkdir()
    for step, mean in ((2, 10.0), (4, 12.0), (4, 13.0)):
        write(step, mean)
    board = board_of(tmp_path / "tensorboard" / "scores" / "eval")
    points = [
        (e.step, float(tf.make_ndarray(e.tensor_proto))) for e in board.Tensors("scores/psnr")
    ]
    assert points == [(2, 10.0), (4, 13.0)]
    description = board.SummaryMetadata("scores/psnr").summary_description
    assert description == "PSNR in dB, mean over all predicted frames; higher is better."
