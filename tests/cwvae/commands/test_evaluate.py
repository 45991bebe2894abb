"""`cwvae eval` with predictions files."""

import json
import shutil

import pytest
from helpers import tiny
from helpers.commands import call, refused

from cwvae import config, factory
from cwvae.commands import evaluate
from cwvae.run import checkpoints


def test_options_that_are_missing_or_do_not_go_together_are_named(monkeypatch, capsys):
    for words, message in (
        ("", "required: --logdir"),
        ("--logdir run --config quickstart", "--config goes with --predictions FILE.npz"),
        ("--predictions a.npz", "--predictions also needs --config, --name, --out"),
        ("--predictions a.npz --logdir run", "eval.py --predictions a.npz --config run/config.yml"),
        ("--predictions a.npz --step 3", "--step and --save-predictions go with --logdir"),
    ):
        assert message in refused(monkeypatch, capsys, evaluate, *words.split()), words


def test_a_missing_file_and_a_reserved_name_are_refused(monkeypatch, capsys, tmp_path):
    words = ("--config", "quickstart", "--out", tmp_path / "out", "--predictions")
    message = refused(monkeypatch, capsys, evaluate, *words, tmp_path / "a.npz", "--name", "theirs")
    assert f"error: {tmp_path}/a.npz: no such file" in message
    message = refused(monkeypatch, capsys, evaluate, *words, "a.npz", "--name", "copy last frame")
    assert "'copy last frame' is reserved" in message


@pytest.mark.slow
def test_a_runs_saved_predictions_score_as_the_run(monkeypatch, capsys, tmp_path):
    settings = tiny.settings("evaluation.fvd=false", "evaluation.lpips=false")
    run, out = tmp_path / "run", tmp_path / "theirs"
    run.mkdir()
    config.save(settings, run / "config.yml")
    checkpoints.save(run, 0, factory.build(settings))
    call(monkeypatch, evaluate, "--logdir", run, "--save-predictions")
    assert "Saving the predictions: 0.1 MB." in capsys.readouterr().out
    file = run / "eval" / "predictions.npz"
    words = ("--predictions", file, "--config", run / "config.yml", "--name", "theirs", "--out")
    call(monkeypatch, evaluate, *words, out)
    assert capsys.readouterr().out.endswith(f"Written to {out}.\n")
    own, theirs = (
        json.loads((folder / "metrics.json").read_text()) for folder in (run / "eval", out)
    )
    assert theirs["scores"].pop("theirs") == own["scores"].pop("cwvae")
    assert theirs["scores"] == own["scores"]
    # The folder of the file itself would be replaced.
    message = refused(monkeypatch, capsys, evaluate, *words, run / "eval")
    assert "replaces this folder, and with it" in message
    assert file.exists()
    # Without the option, an evaluation has no predictions.
    shutil.copy(file, out / "predictions.npz")
    call(monkeypatch, evaluate, "--logdir", run)
    assert not file.exists()
