"""`cwvae predict`: which frames a model sees, what is written, and messages about mistakes."""

import functools
import sys

import numpy as np
import pytest
from helpers import tiny, video_files

from cwvae import config, factory
from cwvae.commands import predict
from cwvae.errors import UserError
from cwvae.evaluation import rollouts
from cwvae.run import checkpoints


@pytest.fixture(scope="module", autouse=True)
def one_model():
    """Keeps models and their traces, to save time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(factory, "build", functools.cache(factory.build))
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    settings = tiny.settings()
    config.save(settings, folder / "config.yml")
    checkpoints.save(folder, 0, factory.build(settings))
    return folder


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    """A video of 20 frames, in which all pixels of a frame have its number."""
    path = tmp_path_factory.mktemp("videos") / "counting.mp4"
    return video_files.write_video(path, video_files.counting(20), fps=12)


def numbers(frames):
    return frames[..., 0, 0, 0].tolist()


def test_by_default_the_last_frames_are_continued(run, video):
    found = predict.predict(run, [video], horizon=3, samples=2)
    assert numbers(found.context) == [[15, 16, 17, 18, 19]]
    assert numbers(found.truth[0]) == []
    assert found.frames.shape == (1, 2, 3, 32, 32, 1)
    assert found.frames.dtype == np.float32
    assert 0 <= found.frames.min() <= found.frames.max() <= 1
    assert not np.array_equal(found.frames[0, 0], found.frames[0, 1])
    assert (found.names, found.fps) == ((str(video),), 12)


def test_a_start_leaves_frames_to_compare_with(run, video):
    found = predict.predict(run, [video] * 2, 3, 1, start=13)
    assert numbers(found.context) == [[13, 14, 15, 16, 17]] * 2
    assert [numbers(truth) for truth in found.truth] == [[18, 19]] * 2
    found = predict.predict(run, [video] * 2, 3, 1, start=1)
    assert numbers(found.context) == [[1, 2, 3, 4, 5]] * 2
    assert [numbers(truth) for truth in found.truth] == [[6, 7, 8]] * 2
    assert numbers(predict.predict(run, [video], 3, 1, context=2).context) == [[18, 19]]


def test_arrays_are_read_as_the_data_set_reads_them(run, tmp_path):
    frames = np.zeros((9, 40, 60, 3), np.uint8)
    frames[:, :, 10:50] = 255
    np.save(tmp_path / "a.npy", frames)
    seen = predict.predict(run, [tmp_path / "a.npy"], 3, 1).context
    assert seen.shape == (1, 5, 32, 32, 1)
    assert seen.min() == 255  # The sides are cut off.
    squeezed = predict.predict(run, [tmp_path / "a.npy"], 3, 1, settings=["data.fit=squeeze"])
    assert squeezed.context.min() == 0


def test_without_videos_held_out_clips_are_predicted_as_an_evaluation_does(run):
    lines = []
    found = predict.predict(run, horizon=9, samples=2, report=lines.append)
    options = tiny.settings("evaluation.horizon=9").evaluation
    data = predict.data_loaders.load(split="test", **tiny.settings().data_options())
    np.testing.assert_array_equal(found.context, rollouts.clips(data, range(4), 0, 5))
    np.testing.assert_array_equal(found.truth, rollouts.clips(data, range(4), 5, 9))
    model = factory.build(tiny.settings())
    predict.export.restore(run, None, model)
    (want,) = rollouts.predict(model, found.context[2:], options, 1, 2)
    np.testing.assert_allclose(found.frames[2:, 1], np.clip(want[1].frames, 0, 1), atol=1e-5)
    assert lines[0] == "Reading 4 held-out clips of moving_digits"
    assert lines[1].startswith("Starting TensorFlow")
    assert lines[2] == "Predicting 4 videos: 5 frames seen, 9 predicted, 2 samples"


@pytest.mark.parametrize("name", ["out.gif", "out.mp4", "out.npz"])
def test_the_command_writes_a_file_and_names_it(run, video, tmp_path, monkeypatch, capsys, name):
    monkeypatch.chdir(tmp_path)
    words = [run, "--horizon", 3, video, "--samples", 1, "--out", name]
    monkeypatch.setattr(sys, "argv", ["cwvae predict", *map(str, words)])
    predict.main()
    assert (tmp_path / name).stat().st_size > 500
    assert capsys.readouterr().out.endswith(f"Written to {name}.\n")


def test_without_a_run_the_model_of_the_package_is_used(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["cwvae predict", "--horizon", "3"])
    predict.main()
    assert [path.name for path in tmp_path.iterdir()] == ["prediction.gif"]
    assert "Written to prediction.gif." in capsys.readouterr().out


def test_mistakes_are_reported_before_the_model_is_loaded(run, video, tmp_path, monkeypatch):
    monkeypatch.setattr(factory, "build", None)
    (tmp_path / "text.mp4").write_text("no video")
    np.savez(tmp_path / "two.npz", a=np.zeros(3), b=np.zeros(3))
    short = video_files.write_video(tmp_path / "short.mp4", video_files.counting(4))
    for videos, options, message in (
        ([video], {"horizon": 0}, "--horizon 0: give a number from 1"),
        ([video], {"samples": 0}, "--samples 0: give a number from 1"),
        ([video], {"context": 0}, "--context 0: give a number from 1"),
        ([video], {"start": -1}, "--start -1: give a number from 0"),
        ([video], {"start": 16}, "20 frames, fewer than --start 16 and the 5 that"),
        ([video, short], {}, r"short\.mp4: it has 4 frames, fewer than the 5 that the model sees"),
        ([video], {"settings": ["data.fps=30"]}, "12 frames per second, fewer than data.fps"),
        ([tmp_path / "no.mp4"], {}, r"no\.mp4: no such file"),
        ([tmp_path / "text.mp4"], {}, r"text\.mp4: this video cannot be opened"),
        ([tmp_path / "two.npz"], {}, r"two\.npz: this video "),
        ([tmp_path], {}, "this video holds"),
        ([video], {"step": 7}, "no checkpoint of step 7"),
        ([video], {"settings": ["model.levels=3"]}, "keeps its model"),
    ):
        with pytest.raises(UserError, match=message):
            predict.predict(run, videos, **options)


def test_clips_that_are_not_there_are_not_downloaded(run, tmp_path, monkeypatch):
    monkeypatch.setattr(factory, "build", None)
    settings = ["data.name=kth_actions", f"data.data_dir={tmp_path}"]
    with pytest.raises(UserError, match=r"kth_actions of this run is not prepared on this machine"):
        predict.predict(run, settings=settings)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], (None, [])),
        (["logs/run"], ("logs/run", [])),
        (["logs/run", "a.mp4", "b.npy"], ("logs/run", ["a.mp4", "b.npy"])),
        (["A.MP4"], (None, ["A.MP4"])),
    ],
)
def test_the_first_path_is_the_run_unless_its_name_is_a_videos(words, expected):
    assert predict._divided(words) == expected
