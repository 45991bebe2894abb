"""Drawn and saved predictions: positions of what is drawn, formats of the files."""

import numpy as np
import pytest
from PIL import Image

from cwvae import prediction, visualize
from cwvae.errors import UserError
from cwvae.prediction import Prediction

SCALE, GAP, BORDER = 3, 2, 3  # Frames of 32 pixels.


def made(videos=2, samples=2, seen=4, predicted=6, truth=(6, 3), channels=1, fps=10.0):
    """Returns predictions whose brightness tells video, sample and time apart."""
    shape = (32, 32, channels)
    level = 10 * np.arange(predicted) + 80 * np.arange(samples)[:, None]
    level = level + 5 * np.arange(videos)[:, None, None]
    frames = np.broadcast_to(level[..., None, None, None], (*level.shape, *shape))
    context = np.full((videos, seen, *shape), 200, np.uint8)
    true = tuple(np.full((count, *shape), 100 + i, np.uint8) for i, count in enumerate(truth))
    names = tuple(f"video {i}" for i in range(videos))
    return Prediction((frames / 255).astype(np.float32), context, true, names, fps)


def cell(video, time, row, column):
    """Returns the color in the middle of a cell, with the labels cut off."""
    size = 32 * SCALE
    width = BORDER * 2 + 2 * size + GAP
    frame = video[time][:, -width:]
    y, x = (BORDER + place * (size + GAP) + size // 2 for place in (row, column))
    return frame[y, x].tolist()


@pytest.mark.parametrize("channels", [1, 3])
def test_each_video_has_a_column_with_the_truth_above_its_samples(channels):
    video = prediction.draw(made(channels=channels))
    assert len(video) == 4 + 6
    for column in (0, 1):
        for row in range(3):
            assert cell(video, 3, row, column) == [200] * 3
        for time in (0, 5):
            for sample in (0, 1):
                value = 10 * time + 80 * sample + 5 * column
                assert cell(video, 4 + time, 1 + sample, column) == [value] * 3
    assert cell(video, 4 + 2, 0, 1) == [101] * 3
    # The second video has ended.
    assert cell(video, 4 + 5, 0, 0) == [100] * 3
    assert cell(video, 4 + 5, 0, 1) == [*visualize.GAP_COLOR]
    assert video[3][0, -1].tolist() == [*visualize.CONTEXT_COLOR]
    assert video[4][0, -1].tolist() == [*visualize.PREDICTION_COLOR]


def test_without_truth_there_are_only_samples():
    video = prediction.draw(made(truth=(0, 0)))
    assert video.shape[1] == 2 * BORDER + 2 * 32 * SCALE + GAP
    assert cell(video, 4, 0, 1) == [5] * 3


def test_many_videos_and_long_contexts_are_shown_in_part(tmp_path):
    found = made(videos=10, seen=60, truth=(0,) * 10)
    assert len(prediction.draw(found)) == 50 + 6
    assert prediction.write(found, tmp_path / "a.gif") == 8
    assert prediction.write(found, tmp_path / "a.npz") == 10


def test_arrays_hold_all_frames(tmp_path):
    found = made()
    prediction.write(found, tmp_path / "a.npz")
    with np.load(tmp_path / "a.npz", allow_pickle=False) as arrays:
        assert set(arrays) == {"frames", "context", "names"}
        np.testing.assert_array_equal(arrays["frames"], found.frames)
        np.testing.assert_array_equal(arrays["context"], found.context)
        assert arrays["names"].tolist() == ["video 0", "video 1"]


@pytest.mark.parametrize(("fps", "milliseconds"), [(10.0, 100), (25.0, 40), (240.0, 20)])
def test_an_animation_has_the_videos_speed(tmp_path, fps, milliseconds):
    prediction.write(made(fps=fps), tmp_path / "a.gif")
    with Image.open(tmp_path / "a.gif") as gif:
        gif.seek(5)
        assert gif.info["duration"] == milliseconds


def test_files_that_cannot_be_written_are_refused(tmp_path):
    (tmp_path / "there.gif").mkdir()
    (tmp_path / "file").touch()
    for name, message in {
        "a.avi": r"must end in one of \.mp4, \.gif, \.npz",
        "a": "must end in one of",
        "there.gif": "this is a folder",
        "file/a.gif": "cannot write there",
    }.items():
        with pytest.raises(UserError, match=message):
            prediction.check_out(tmp_path / name)
    video = tmp_path / "own.mp4"
    video.touch()
    with pytest.raises(UserError, match="one of the videos to predict"):
        prediction.check_out(tmp_path / "new/../own.mp4", [video])
    assert prediction.check_out(tmp_path / "new/A.GIF").parent.is_dir()
