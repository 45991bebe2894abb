import pathlib

import pytest
from helpers import results, tiny
from ruamel.yaml import YAML

from cwvae import model_card
from cwvae.errors import UserError


def card(settings=None, evaluated=None, name="my run", licence="mit"):
    return model_card.text(settings or tiny.settings(), 12, 1234, evaluated, name, licence)


def parts(text):
    """Returns the header and the sections by heading."""
    _, header, body = text.split("---\n", 2)
    sections = dict(part.split("\n\n", 1) for part in body.split("\n## ")[1:])
    return YAML(typ="safe").load(header), sections


def test_the_header_is_what_the_hub_reads():
    header, _ = parts(card(evaluated=results.make(step=12)))
    assert header["license"] == "mit"
    assert header["library_name"] == "cwvae"
    assert "video-prediction" in header["tags"]
    (model,) = header["model-index"]
    (result,) = model["results"]
    assert model["name"] == "my run"
    assert result["task"]["type"] == "video-prediction"
    assert result["dataset"]["type"] == "moving_digits"
    scores = {metric["type"]: metric["value"] for metric in result["metrics"]}
    made = results.make(step=12)["scores"]["cwvae"]
    assert scores["psnr"] == pytest.approx(made["psnr"]["mean"], abs=1e-4)
    assert scores["fvd"] == 1500


def test_a_schedule_and_an_average_of_the_weights_are_said():
    training = ["training.schedule=cosine", "training.warmup=9", "training.ema=0.99"]
    _, sections = parts(card(tiny.settings(*training)))
    assert "cosine schedule after a warm-up of 9 updates, average of" in sections["Training"]


def test_the_sections_say_what_the_model_is():
    _, sections = parts(card(tiny.settings("data.num_digits=1"), results.make(step=12)))
    assert [*sections] == ["Model", "Data", "Training", "Scores", "Use", "Licence"]
    assert "1,234 weights" in sections["Model"]
    assert "`factor: 3`" in sections["Model"]
    assert "`num_digits: 1`" in sections["Data"]
    assert "12 updates of 2 clips of 7 frames" in sections["Training"]
    assert "| copy last frame | 14.000 / 14.000 |" in sections["Scores"]
    assert "36 context frames, 30 predicted" in sections["Scores"]
    assert "PSNR (cwvae2021): cwvae2021: not clipped" in sections["Scores"]
    assert 'cwvae.load("hf://USER/my-run")' in sections["Use"]
    assert "[B, T, 32, 32, 1]" in sections["Use"]
    assert sections["Licence"] == "The weights: mit.\n"


def test_without_scores_and_licence_the_card_says_so():
    header, sections = parts(card(licence="unknown"))
    assert header["license"] == "unknown"
    assert "model-index" not in header
    assert sections["Scores"] == "Not evaluated.\n"
    assert "without a licence nobody else may use" in sections["Licence"]


@pytest.mark.parametrize("model", tiny.MODELS)
def test_every_model_has_a_card(model):
    _, sections = parts(card(tiny.settings(model=model)))
    assert sections["Model"]


@pytest.mark.parametrize("licence", ["MIT", "", "my licence", "mit\nx: y", "-mit", "[mit]"])
def test_only_identifiers_of_licences_are_taken(licence):
    for good in ("mit", "apache-2.0", "cc-by-nc-sa-4.0", "other"):
        model_card.check_licence(good)
    with pytest.raises(UserError, match="such as mit"):
        model_card.check_licence(licence)


def test_scores_are_those_of_the_same_step(tmp_path, capsys):
    assert model_card.evaluation(tmp_path, 12) is None
    results.write(tmp_path)
    assert model_card.evaluation(tmp_path, 12) == results.make()
    assert model_card.evaluation(tmp_path, 13) is None
    assert capsys.readouterr().err == ""


def test_damaged_scores_are_not_used(tmp_path, capsys):
    file = results.write(tmp_path) / "eval" / "metrics.json"
    whole = file.read_text()
    for content in ("", "[]", whole[:-9], whole.replace("moving_digits", "my_videos")):
        file.write_text(content)
        assert model_card.evaluation(tmp_path, 12) is None
        assert f"warning: {file}: " in capsys.readouterr().err
    file.unlink()
    file.mkdir()
    assert model_card.evaluation(tmp_path, 12) is None
    assert "The model card has no scores" in capsys.readouterr().err
    assert pathlib.Path(tmp_path / "eval").is_dir()
