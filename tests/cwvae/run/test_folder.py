"""Tests of a run's folder: which data and settings a run can be resumed with."""

import gzip
import json
import shlex
import struct

import numpy as np
import pytest
from helpers import tiny

import data_loaders
from cwvae import config as configuration
from cwvae.errors import UserError
from cwvae.run import folder


@pytest.fixture
def digits_dirs(tmp_path):
    """Folders of digits: the first, a packed copy of it elsewhere, other images, other labels."""
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (9, 28, 28), np.uint8), np.arange(9, dtype=np.uint8)
    contents = {
        "first": (images, labels),
        "moved": (images, labels),
        "other images": (images[::-1], labels),
        "other labels": (images, labels[::-1]),
    }
    for name, arrays in contents.items():
        (tmp_path / name).mkdir()
        for prefix in ("train", "t10k"):
            for kind, array in zip(("images-idx3", "labels-idx1"), arrays, strict=True):
                header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
                data, path = header + array.tobytes(), tmp_path / name / f"{prefix}-{kind}-ubyte"
                if name == "moved":
                    data, path = gzip.compress(data), path.with_name(f"{path.name}.gz")
                path.write_bytes(data)
    return {name: str(tmp_path / name) for name in contents}


def settings(digits_dir):
    return tiny.settings(f"data.digits_dir={json.dumps(digits_dir)}")


def begin(logdir, config):
    """Makes the folder of a run, or resumes it."""
    logdir.mkdir(exist_ok=True)
    folder.check(config, logdir)
    folder.prepare(config, logdir, data_loaders.load(split="train", **config.data_options()))
    (logdir / "checkpoints").mkdir(exist_ok=True)
    (logdir / "checkpoints" / "1.npz").touch()


def test_a_run_resumes_with_the_same_digits_from_another_folder(digits_dirs, tmp_path):
    logdir = tmp_path / "run"
    begin(logdir, settings(digits_dirs["first"]))
    begin(logdir, settings(digits_dirs["moved"]))
    assert configuration.load(logdir / "config.yml").data.digits_dir == digits_dirs["moved"]


@pytest.mark.parametrize("other", ["other images", "other labels", None])
@pytest.mark.parametrize("first", ["first", None])
def test_a_run_refuses_to_resume_with_other_digits(digits_dirs, tmp_path, first, other):
    logdir = tmp_path / "run"
    begin(logdir, settings(digits_dirs.get(first)))
    if first == other:
        begin(logdir, settings(digits_dirs.get(other)))
        return
    with pytest.raises(UserError, match="training digit images or their labels are not") as caught:
        begin(logdir, settings(digits_dirs.get(other)))
    assert f"--init-from {logdir}" in str(caught.value)
    begin(logdir, settings(digits_dirs.get(first)))


def test_a_run_refuses_digits_that_were_replaced_in_their_folder(digits_dirs, tmp_path):
    logdir, path = tmp_path / "run", f"{digits_dirs['first']}/train-labels-idx1-ubyte"
    begin(logdir, settings(digits_dirs["first"]))
    with open(path, "r+b") as file:
        file.seek(10)
        file.write(b"\7")
    with pytest.raises(UserError, match="digit images or their labels"):
        begin(logdir, settings(digits_dirs["first"]))


@pytest.mark.parametrize(("first", "other"), [("first", "moved"), ("first", None), (None, "first")])
def test_a_run_without_data_json_refuses_another_folder_of_digits(
    digits_dirs, tmp_path, first, other
):
    logdir = tmp_path / "run"
    begin(logdir, settings(digits_dirs.get(first)))
    (logdir / "data.json").unlink()  # Earlier versions wrote none for generated data.
    with pytest.raises(UserError, match=r"data\.digits_dir: .* -> "):
        begin(logdir, settings(digits_dirs.get(other)))
    begin(logdir, settings(digits_dirs.get(first)))
    assert (logdir / "data.json").is_file()


def test_changed_frozen_settings_are_refused(tmp_path):
    logdir = tmp_path / "run"
    begin(logdir, tiny.settings())
    with pytest.raises(UserError, match=r"data\.num_digits: 2 -> 3"):
        begin(logdir, tiny.settings("data.num_digits=3"))
    begin(logdir, tiny.settings("data.test_length=50"))


def test_a_refused_change_of_the_training_prints_a_command_that_works(tmp_path):
    logdir = tmp_path / "my run"
    begin(logdir, tiny.settings())
    changes = "training.learning_rate=0.5", "training.precision=bfloat16", "training.steps=9"
    with pytest.raises(UserError) as caught:
        begin(logdir, tiny.settings(*changes))
    words = shlex.split(str(caught.value).splitlines()[-1].partition(": ")[2])
    assert words[:4] == ["python", "train.py", "--config", f"{logdir}/config.yml"]
    assert words[4:8] == ["--init-from", str(logdir), "--logdir", f"{logdir}_2"]
    assert words[8::2] == ["--set", "--set"]
    assert sorted(words[9::2]) == sorted(changes[:2])
    begin(tmp_path / "my run_2", configuration.load(words[3], words[9::2]))
    for other in ("model.factor=2", "data.num_digits=3", "training.init_from=another_run"):
        with pytest.raises(UserError) as caught:
            begin(logdir, tiny.settings(*changes, other))
        assert "--init-from" not in str(caught.value)


def test_settings_that_are_probably_not_wanted_are_warned_of(capsys):
    for overrides, count in ((), 0), (("training.seq_len=3", "training.video_length=30"), 2):
        config = tiny.settings(*overrides)
        data = [data_loaders.load(split=s, **config.data_options()) for s in ("train", "test")]
        folder.check_lengths(config, *data)
        assert capsys.readouterr().err.count("warning: ") == count


def test_an_evaluation_on_other_data_warns(digits_dirs, tmp_path, capsys):
    logdir, config = tmp_path / "run", settings(digits_dirs["first"])
    begin(logdir, config)
    for name, count in (("first", 0), ("moved", 0), ("other labels", 1)):
        options = settings(digits_dirs[name]).data_options()
        folder.warn_of_other_data(logdir, data_loaders.load(split="train", **options))
        warning = f"digit images or their labels are not those that {logdir} was trained on"
        assert capsys.readouterr().err.count(warning) == count
    (logdir / "data.json").unlink()
    folder.warn_of_other_data(logdir, data_loaders.load(split="train", **options))
    assert capsys.readouterr().err == ""
