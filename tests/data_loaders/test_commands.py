"""Tests of `python -m data_loaders`, started as a user does."""

import shutil

import numpy as np
import pytest
from helpers.scripts import error_of, refused, run
from helpers.video_files import write_video
from PIL import Image

from cwvae.errors import UserError
from data_loaders import __main__ as commands
from data_loaders.generated.moving_digits import MovingDigits
from data_loaders.store import store


@pytest.fixture
def options(tmp_path):
    """Two gray videos and a bad one, as arguments."""
    (tmp_path / "data").mkdir()
    for split, length in (("train", 12), ("test", 9)):
        (tmp_path / "videos" / split).mkdir(parents=True)
        frames = np.arange(length, dtype=np.uint8)[:, None, None] * 20
        np.save(tmp_path / "videos" / split / "a.npy", np.broadcast_to(frames, (length, 40, 48)))
    (tmp_path / "videos" / "train" / "b.mp4").write_text("no video")
    places = f"data.data_dir={tmp_path / 'data'}", f"data.videos_dir={tmp_path / 'videos'}"
    return [word for setting in places for word in ("--set", setting)]


def command(*words):
    return run("-m", "data_loaders", *words)


def test_prepare_info_and_check_print_the_content(options, tmp_path):
    prepared = command("prepare", "video_folder", *options, "--processes", 2)
    assert prepared.returncode == 0, prepared.stderr
    [folder] = (tmp_path / "data" / "stores").glob("video_folder-*[0-9a-f]")
    assert prepared.stdout == f"{folder} is ready.\n"
    assert "warning: 1 of 3 videos cannot be used" in prepared.stderr

    told = command("info", "video_folder", *options)
    assert told.returncode == 0, told.stderr
    assert str(folder) in told.stdout
    assert "frames of 64 x 64 pixels, 3 channels" in told.stdout  # As configs/video_folder.yml.
    assert ["train", "1", "12", "12", "12", "1"] in [
        line.split()[:6] for line in told.stdout.splitlines()
    ]
    picture = np.asarray(Image.open(folder / "samples.png"))
    # Two rows of eight frames at twice their size, from black to nearly white.
    left = picture.shape[1] - 8 * 130
    assert left > 0  # The labels of the rows.
    assert picture[64, left + 64].tolist() == [0, 0, 0]
    assert picture[64, -64].tolist() == [220, 220, 220]
    message = error_of(
        command("info", "video_folder", *options, "--out", tmp_path / "a.xyz").stderr
    )
    assert "--out FILE.png" in message

    checked = command("check", "video_folder", *options)
    assert checked.stdout == f"{folder}: all 2 videos are intact.\n"
    path = store.frames_file(folder, "test")
    path.write_bytes(path.read_bytes()[:-1])
    message = error_of(command("prepare", "video_folder", *options).stderr)
    assert f"{path}: has" in message
    path.write_bytes(path.read_bytes() + b"\x00")
    checked = command("check", "video_folder", *options)
    assert checked.returncode == 2
    message = error_of(checked.stderr)
    assert "1 of 2 videos are damaged: test/a.npy" in message
    assert "prepare video_folder --again" in message


def test_info_says_what_was_done_to_each_video(tmp_path, capsys, monkeypatch):
    videos, texture = tmp_path / "videos", np.random.default_rng(0).integers(0, 256, (9, 40, 48))
    texture = texture.astype(np.uint8)
    for name in ("train", "test", "val", "train/pictures"):
        (videos / name).mkdir(parents=True)
    write_video(videos / "train/film.mp4", texture, fps=25)
    write_video(videos / "val/film.mp4", texture)
    np.save(videos / "train/floats.npy", texture[:, :32, :32] / 255)
    np.save(videos / "train/picture.npy", texture[:3].transpose(1, 2, 0))
    np.savez(videos / "test/a.npz", frames=texture)
    for t, frame in enumerate(texture):
        Image.fromarray(frame).save(videos / f"train/pictures/{t}.png")
    (videos / "train/notes.txt").touch()
    options = {"videos_dir": str(videos), "data_dir": str(tmp_path), "channels": 1}
    options |= {"name": "video_folder", "frame_size": 32}
    commands.prepare(options, 1, False)
    capsys.readouterr()
    commands.info(options, None)
    told = capsys.readouterr().out
    fit = "cut to the middle 40x40, resized to 32x32 (area)"
    ambiguous = "which may be [T, H, W] or a picture [H, W, C]"
    for line in (
        f"  train/film.mp4: 9 frames; mp4 (h264, 25 frames/s); frames of 48x40 RGB: {fit},"
        " converted to gray",
        "  train/floats.npy: 9 frames; npy array [9, 32, 32], read as [T, H, W]; floats from 0 to"
        " 1: multiplied by 255; frames of 32x32 gray: unchanged",
        f"  train/pictures: 9 frames; 9 pictures (png); frames of 48x40 gray: {fit}",
        f"  test/a.npz: 9 frames; npz array [9, 40, 48], read as [T, H, W]; frames of 48x40 gray:"
        f" {fit}",
        f"note: {videos}: 1 video in val/: not used, as test/ has the test videos",
    ):
        assert f"{line}\n" in told
    assert f"  train/picture.npy: skipped: has shape [40, 48, 3], {ambiguous}" in told
    assert f"note: {videos}: 1 file (train/notes.txt): not used, as their names end" in told
    # In large stores, a line stands for all videos that were treated alike.
    monkeypatch.setattr(commands, "_LISTED", 3)
    for name in "bc":
        np.savez(videos / f"test/{name}.npz", frames=texture)
    commands.prepare(options, 1, True)
    capsys.readouterr()
    commands.info(options, None)
    assert "  test/a.npz and 2 more: 27 frames; npz array [9, 40, 48]" in capsys.readouterr().out
    shutil.rmtree(videos)  # The store is enough.
    commands.info(options, None)
    assert "test/a.npz and 2 more" in capsys.readouterr().out


def test_info_describes_clips_that_are_computed_when_they_are_read(tmp_path, monkeypatch, capsys):
    settings = ["--set", f"data.data_dir={tmp_path}", "--set", "data.seed=3"]
    words = ["info", "moving_digits", "--config", "quickstart", *settings]
    monkeypatch.setattr("sys.argv", ["data_loaders", *words])
    commands.main()
    told = capsys.readouterr().out.splitlines()
    assert told[0].startswith("moving_digits: Digits that move across the frame")
    assert '"seed": 3' in told[2]
    assert '"num_digits": 1' in told[2]
    assert told[3] == "frames of 32 x 32 pixels, 1 channel"
    counts = [line.split() for line in told[5:7]]
    assert counts == [["train", "2,147,483,647", "100"], ["test", "2,147,483,647", "200"]]
    assert told[7] == f"sample frames: {tmp_path / 'stores/moving_digits-samples.png'}"
    picture = np.asarray(Image.open(tmp_path / "stores/moving_digits-samples.png"))
    clip = MovingDigits("test", frame_size=32, seed=3, num_digits=1, digit_size=16, speed=(1, 2))
    # The last row is clip 3 of the test split; its first frame is drawn at four times its size.
    left = picture.shape[1] - 8 * 130 + 2
    assert np.array_equal(picture[-128::4, left : left + 128 : 4, 0], clip.clip(3, 0, 1)[0, ..., 0])


def test_info_describes_mazes_before_their_store_is_made(tmp_path, capsys):
    pytest.importorskip("labmaze")
    options = {"name": "procedural_mazes", "data_dir": str(tmp_path), "frame_size": 32}
    options |= {"train_videos": 5, "test_videos": 2, "train_length": 9, "test_length": 8}
    commands.info(options, str(tmp_path / "mazes.png"))
    told = capsys.readouterr().out.splitlines()
    assert "walks through random mazes" in told[0]
    assert told[1].startswith(f"There is no store yet. The first use makes {tmp_path}/stores/")
    assert [line.split() for line in told[5:7]] == [["train", "5", "9"], ["test", "2", "8"]]
    picture = Image.open(tmp_path / "mazes.png")
    assert picture.height == 6 * 128 + 5 * 2  # Four training clips and two test clips.
    assert [path.name for path in tmp_path.iterdir()] == ["mazes.png"]


def test_a_missing_store_is_reported_with_the_command_that_makes_it(options):
    message = refused(command("info", "video_folder", *options))
    assert "there is no store" in message
    assert "python -m data_loaders prepare video_folder" in message


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["prepare", "gqn_mazes", "--processes", "0"], "'0' is not a number from 1"),
        (["prepare", "gqn_maze"], "did you mean 'gqn_mazes'"),
        (["check", "moving_digits"], "is computed when it is read"),
        (["check", "video_folder"], "data.videos_dir"),
        (["check", "video_folder", "--set", "data.videos_dir=no"], "no"),
    ],
)
def test_typos_are_reported(words, expected, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["data_loaders", *words])
    with pytest.raises(SystemExit) as ended:
        commands.main()
    assert ended.value.code == 2
    assert expected in capsys.readouterr().err


def test_settings_come_from_the_file_of_that_name(monkeypatch):
    class Given:
        name, config, set = "kth_actions", None, ["model.frame_size=32"]

    options = commands._options(Given)
    assert (options["name"], options["fit"], options["frame_size"]) == (
        "kth_actions",
        "squeeze",
        32,
    )
    Given.set = ["data.nmae=x"]
    with pytest.raises(UserError, match="did you mean 'name'"):
        commands._options(Given)
