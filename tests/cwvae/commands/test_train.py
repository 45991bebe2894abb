"""`training.precision=auto` from the start of a run to its end."""

import dataclasses

import pytest
from helpers import tiny
from helpers.runs import arrays_of

import data_loaders
from cwvae import config as configuration
from cwvae import export, factory, machine
from cwvae.commands.train import train
from cwvae.errors import UserError
from cwvae.run import checkpoints, folder, history
from cwvae.training import loop


@pytest.fixture
def gains(tmp_path, monkeypatch):
    """A function that moves to a machine where bfloat16 is faster than float32 by a factor."""

    def move(gain):
        monkeypatch.setenv("CWVAE_CACHE", str(tmp_path / f"cache{gain}"))
        monkeypatch.setattr(machine, "_known", {})
        monkeypatch.setattr(machine, "_measure_bfloat16", lambda: gain)

    return move


class Stub(loop.Trainer):
    """A trainer that saves as a training would, without training."""

    def run(self, show_progress=True):
        self.step = self.config.training.steps
        checkpoints.save(
            self.logdir,
            self.step,
            self.model,
            self.optimizer,
            meta={"config": configuration.as_plain(self.config)},
        )
        return True


@pytest.fixture
def untrained(monkeypatch):
    monkeypatch.setattr(loop, "Trainer", Stub)


def settings(*overrides):
    # The plain kernels need no comparison when a model is built.
    return tiny.settings("training.precision=auto", "training.kernels=plain", *overrides)


def recorded(logdir):
    """Returns the precision in config.yml, in the newest checkpoint, and of the built model."""
    file = configuration.load(logdir / "config.yml").training.precision
    config = folder.load_config(logdir)
    compute = factory.build(config).encoder.layers[0].compute_dtype
    return file, folder.trained_with(logdir).training.precision, compute


DATA = [data_loaders.load(split=s, **settings().data_options()) for s in ("train", "test")]


@pytest.mark.parametrize(("gain", "chosen"), [(2.0, "bfloat16"), (0.5, "float32")])
def test_the_choice_is_recorded_and_kept_on_another_machine(
    untrained, gains, capsys, tmp_path, gain, chosen
):
    logdir = tmp_path / "run"
    gains(gain)
    train(settings(), logdir, DATA)
    assert f"training.precision=auto: {chosen} (" in capsys.readouterr().err
    assert recorded(logdir) == (chosen,) * 3

    gains(2.5 - gain)
    for config in (settings("training.steps=8"), configuration.load(logdir / "config.yml")):
        longer = dataclasses.replace(config.training, steps=config.training.steps + 1)
        train(dataclasses.replace(config, training=longer), logdir, DATA)
        assert "precision" not in capsys.readouterr().err
        assert recorded(logdir) == (chosen,) * 3
    assert all("precision" not in line for line in history.describe(logdir))
    train(settings("training.steps=9"), logdir, DATA)  # It is complete.
    assert recorded(logdir) == (chosen,) * 3

    other = {"bfloat16": "float32", "float32": "bfloat16"}[chosen]
    with pytest.raises(UserError, match=rf"training\.precision: {chosen} -> {other}"):
        train(settings(f"training.precision={other}"), logdir, DATA)

    export.export(logdir, tmp_path / "export")
    exported = configuration.load(tmp_path / "export" / "config.yml")
    assert exported.training.precision == chosen
    assert f", {chosen}\n" in (tmp_path / "export" / "README.md").read_text()
    assert loop.hyperparameters(folder.load_config(logdir))["training.precision"] == chosen


def test_a_run_that_was_killed_before_its_choice_chooses_again(untrained, gains, tmp_path):
    gains(2.0)
    folder.prepare(settings(), tmp_path / "run", DATA[0])
    config = configuration.load(tmp_path / "run" / "config.yml")
    assert config.training.precision == "auto"
    train(config, tmp_path / "run", DATA)
    assert recorded(tmp_path / "run") == ("bfloat16",) * 3


def test_a_new_run_from_the_weights_of_another_chooses_for_itself(untrained, gains, tmp_path):
    gains(0.5)
    train(settings(), tmp_path / "old", DATA)
    gains(2.0)
    train(settings(f"training.init_from={tmp_path / 'old'}"), tmp_path / "new", DATA)
    assert recorded(tmp_path / "old") == ("float32",) * 3
    assert recorded(tmp_path / "new") == ("bfloat16",) * 3


@pytest.mark.slow
def test_auto_trains_as_what_it_stands_for(gains, tmp_path):
    gains(2.0)
    short = "training.steps=2", "training.save_every=1"
    train(settings(*short), tmp_path / "auto", DATA)
    train(settings("training.precision=bfloat16", *short), tmp_path / "given", DATA)
    want, got = arrays_of(tmp_path / "given"), arrays_of(tmp_path / "auto")
    assert want.keys() == got.keys()
    assert all((want[name] == got[name]).all() for name in want)
