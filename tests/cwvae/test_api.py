"""`cwvae.train`, `cwvae.evaluate` and `cwvae.load`."""

import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from helpers import tiny
from helpers.runs import arrays_of
from helpers.scripts import ENVIRONMENT, NOISE, ROOT, TINY, error_of

import cwvae
import data_loaders
from cwvae import api, config, export, factory
from cwvae.errors import UserError
from cwvae.metrics import image
from cwvae.run import checkpoints
from cwvae.training import loop

SETTINGS = {
    **{name: value for name, value in TINY.items() if not name.startswith("data.")},
    "evaluation.lpips": False,
    "evaluation.fvd": False,
}


def arrays(seed=0, channels=1):
    rng = np.random.default_rng(seed)
    train = [rng.random((length, 32, 32, channels)) for length in (12, 20, 15)]
    return data_loaders.from_arrays(train, rng.random((3, 20, 32, 32, channels)))


@pytest.fixture(scope="module")
def data():
    return arrays()


@pytest.fixture(scope="module")
def trained(tmp_path_factory, data):
    """A run on arrays, and the model that the call returned. Tests must not write into it."""
    logdir = tmp_path_factory.mktemp("api") / "run"
    return logdir, cwvae.train("quickstart", data, logdir, SETTINGS)


# Training.


def test_train_returns_the_model_of_the_run(trained, capsys):
    logdir, model = trained
    assert [*checkpoints.steps(logdir)] == [2]
    for name, array in arrays_of(logdir).items():
        if name.startswith("model/"):
            (weight,) = (w for w in model.weights if f"model/{w.path}" == name)
            np.testing.assert_array_equal(weight, array)
    own = config.load_run(logdir)
    assert (own.data.name, own.model.frame_size, own.model.channels) == ("arrays", 32, 1)


@pytest.mark.slow
def test_the_same_call_resumes_and_returns_the_model_of_a_complete_run(
    trained, data, tmp_path, capsys
):
    whole = trained[1]
    cwvae.train("quickstart", data, tmp_path, SETTINGS | {"training.steps": 1})
    again = cwvae.train(logdir=tmp_path, data=data, settings={"training.steps": 2})
    for one, other in zip(whole.weights, again.weights, strict=True):
        np.testing.assert_array_equal(one, other)
    capsys.readouterr()
    before = (tmp_path / "metrics.jsonl").read_bytes()
    assert cwvae.train(logdir=tmp_path, data=data, show_progress=False).built
    assert (tmp_path / "metrics.jsonl").read_bytes() == before
    assert capsys.readouterr().out == ""


def test_other_arrays_are_refused_also_by_a_complete_run(trained, data):
    with pytest.raises(UserError, match="the training arrays are not those that this run began"):
        cwvae.train(logdir=trained[0], data=arrays(1))


@pytest.mark.slow
def test_progress_can_be_hidden(data, tmp_path, capfd):
    cwvae.train("quickstart", data, tmp_path, SETTINGS | {"training.steps": 1}, show_progress=False)
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
def test_a_stop_saves_raises_and_leaves_no_handler(data, tmp_path, monkeypatch):
    account = loop.Trainer._account

    def stop_at_the_first_step(trainer, scalars):
        account(trainer, scalars)
        os.kill(os.getpid(), signal.SIGINT)

    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    monkeypatch.setattr(loop.Trainer, "_account", stop_at_the_first_step)
    with pytest.raises(KeyboardInterrupt, match=r"stopped and saved .* the same call resumes"):
        cwvae.train("quickstart", data, tmp_path, SETTINGS)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert [*checkpoints.steps(tmp_path)] == [1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "give a configuration, or the logdir of a run"),
        (("quickstrat",), "Did you mean quickstart"),
        (("quickstart", None, None, {"training.stepz": 1}), "did you mean 'steps'"),
        (("quickstart", None, None, {"training.steps": "many"}), "must be a whole number, not"),
        (("quickstart", None, None, ["training.steps=1"]), "settings: give a dict such as"),
        (("quickstart", None, None, {1: 2}), "settings: give a dict such as"),
        (("quickstart", np.zeros((2, 3))), "data: give the training and the test data set"),
        (("quickstart", (np.zeros(2), np.zeros(2))), "data: give the training and the test"),
        (("quickstart", arrays().train), "data: give the training and the test data set"),
        (("quickstart", (arrays().train, arrays(0, 3).test)), "frames are 32x32x1, but the test"),
        (("quickstart", arrays(0, 3), None, {"model.channels": 1}), "frames of 32x32x3, but the"),
        ((None, None, "nowhere"), "nowhere: no run here"),
    ],
)
def test_mistakes_are_refused(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        cwvae.train(*arguments)
    assert [*tmp_path.iterdir()] == []


def test_settings_may_be_numbers_of_numpy_lists_paths_and_none():
    given = {"training.steps": np.int64(3), "model.beta": np.ones(2), "data.speed": (1, 2)}
    given |= {"data.data_dir": ROOT / "ä: #", "data.fps": None, "evaluation.readout": False}
    loaded = config.load(None, ["model.levels=2", *api._overrides(given)])
    assert loaded.training.steps == 3
    assert loaded.model.beta == (1.0, 1.0)
    assert loaded.data.speed == (1.0, 2.0)
    assert loaded.data.data_dir == str(ROOT / "ä: #")
    assert loaded.data.fps is None
    assert not loaded.evaluation.readout


def test_the_command_line_cannot_resume_a_run_on_arrays(trained):
    command = [sys.executable, "train.py", "--logdir", str(trained[0])]
    command += ["--set", "training.steps=4"]
    done = subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 2
    assert "only Python can pass these clips" in error_of(done.stderr)


# Evaluation.


@pytest.mark.slow
def test_evaluate_returns_what_it_writes(trained, data, capsys):
    logdir, _ = trained
    capsys.readouterr()
    results = cwvae.evaluate(logdir, data, out="eval")
    assert results == json.loads((logdir / "eval" / "metrics.json").read_text())
    assert (results["data"], results["step"]) == ("arrays", 2)
    assert capsys.readouterr().out == ""
    other = cwvae.evaluate(logdir, data, {"evaluation.horizon": 2})
    assert other["horizon"] == 2
    assert (logdir / "eval-horizon_2" / "report.html").is_file()
    with pytest.raises(UserError, match="only Python can pass"):
        cwvae.evaluate(logdir)
    with pytest.raises(UserError, match="frames of 32x32x3, but the model is for 32x32x1"):
        cwvae.evaluate(logdir, arrays(0, 3))


# Loading.


@pytest.fixture
def exported(tmp_path):
    settings = tiny.settings()
    config.save_run(settings, tmp_path / "run")
    checkpoints.save(tmp_path / "run", 1, factory.build(settings, 0))
    export.export(tmp_path / "run", tmp_path / "out")
    return tmp_path / "out"


def test_load_takes_an_export_on_the_hub(exported, monkeypatch):
    monkeypatch.setattr("cwvae.hub.download", lambda address, names: exported)
    want, found = cwvae.load(exported), cwvae.load("hf://user/name")
    for one, other in zip(found.weights, want.weights, strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_model_of_the_package_is_small_and_predicts_better_than_a_copy():
    assert sum(file.stat().st_size for file in api.PRETRAINED.iterdir()) < 3e6
    settings = config.load_run(api.PRETRAINED)
    data = data_loaders.load(split="test", **settings.data_options())
    context = settings.evaluation.context
    videos = np.stack([data[i][: context + 10] for i in range(20)])
    predicted = cwvae.load().predict(videos[:, :context], horizon=10, seed=0)
    truth = videos[:, context:] / np.float32(255)
    copied = np.repeat(videos[:, context - 1 : context] / np.float32(255), 10, 1)
    assert image.psnr(truth, predicted.numpy()).mean() > image.psnr(truth, copied).mean() + 3


@pytest.mark.slow
def test_a_script_prints_nothing_that_it_did_not_ask_for(tmp_path):
    code = f"""
import numpy as np
import cwvae, data_loaders
train, test = np.random.default_rng(0).random((2, 3, 20, 32, 32, 1))
data = data_loaders.from_arrays(train, test)
model = cwvae.train("quickstart", data, "run", {SETTINGS!r}, show_progress=False)
print(model.predict(test[:1, :3], 2, seed=0).shape)
"""
    env = ENVIRONMENT | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.stdout == "(1, 2, 32, 32, 1)\n"
    assert done.stderr == ""
    assert not any(word in done.stdout for word in NOISE)
