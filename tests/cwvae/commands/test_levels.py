"""`cwvae levels`."""

import pytest
from helpers import tiny
from helpers.commands import call, refused

import cwvae.commands
from cwvae import config, factory
from cwvae.commands import levels
from cwvae.run import checkpoints


def saved(folder, *overrides, model="cwvae"):
    """Makes the folder of a run that was not trained."""
    settings = tiny.settings(*overrides, model=model)
    folder.mkdir()
    config.save(settings, folder / "config.yml")
    checkpoints.save(folder, 0, factory.build(settings, 0))
    return folder


def test_it_writes_tables_and_a_figure_and_prints_the_tables(monkeypatch, capsys, tmp_path):
    run = saved(tmp_path / "run", "data.num_digits=1")
    few = ("--training-clips", 10)
    call(monkeypatch, levels, "--logdir", run, "--clips", 2, "--set", "evaluation.horizon=12", *few)
    out = capsys.readouterr().out
    assert out.endswith(f"Written to {run}/levels.\n")
    text = (run / "levels" / "levels.md").read_text()
    assert text in out
    assert f"# What the levels of {run}, step 0 hold" in text
    assert "scored on 2 held-out clips: frames 6 to 17" in text
    assert (run / "levels" / "levels.csv").read_text().startswith("attribute,score,level,part,")
    assert (run / "levels" / "levels.png").read_bytes().startswith(b"\x89PNG")
    # Equal arguments, equal results; a path is a folder anywhere.
    elsewhere = ("--out", tmp_path / "other", "--clips", 2, "--set", "evaluation.horizon=12")
    call(monkeypatch, levels, "--logdir", run, *elsewhere, *few)
    for name in ("levels.md", "levels.csv"):
        assert (tmp_path / "other" / name).read_bytes() == (run / "levels" / name).read_bytes()


@pytest.mark.parametrize("model", ["svg", "vta"])
def test_models_without_levels_are_refused(monkeypatch, capsys, tmp_path, model):
    run = saved(tmp_path / "run", model=model)
    message = refused(monkeypatch, capsys, levels, "--logdir", run)
    assert f"model.name = {model}, which has no levels to read. Give a run of cwvae" in message


def test_clips_of_unknown_content_are_refused(tmp_path):
    run = saved(tmp_path / "run")
    data = (tiny.Squares(), tiny.Squares())
    with pytest.raises(levels.UserError, match="the content of these clips is not known"):
        levels.levels(config.load_run(run), run, data=data)
    assert not (run / "levels").exists()


def test_other_mistakes_are_refused(monkeypatch, capsys, tmp_path):
    run = saved(tmp_path / "run")
    for words, message in (
        (["--clips", 0], "evaluation.num_videos"),
        (["--training-clips", 0], "--training-clips 0: give a number from 1"),
        (["--set", "model.levels=3"], "a trained run keeps its model"),
        (["--step", 7], "step 7"),
        (["--set", "evaluation.horizon=4000"], "test clips have data.test_length = 40"),
    ):
        assert message in refused(monkeypatch, capsys, levels, "--logdir", run, *words), words
    assert "no run here" in refused(monkeypatch, capsys, levels, "--logdir", tmp_path / "none")


def test_it_is_a_command():
    assert cwvae.commands.COMMANDS["levels"] == "cwvae.commands.levels"
