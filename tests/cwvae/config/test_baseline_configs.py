"""configs/baselines/: the model in each file, and that it is scored like the data set's own one."""

import itertools
import pathlib

import pytest

from cwvae import config as configuration
from cwvae.comparison import campaign

CONFIGS = pathlib.Path(__file__).parents[3] / "configs"
DATA = ("moving_mnist", "kth_actions", "gqn_mazes", "minerl_navigate", "procedural_mazes")
MODELS = {"rssm": "cwvae", "notmpabs": "cwvae", "svg": "svg", "vta": "vta"}
COMPARISON = CONFIGS / "comparison_quick.yml"

every_file = pytest.mark.parametrize(("data", "model"), list(itertools.product(DATA, MODELS)))


def load(data, model):
    """Returns a baseline's configuration, and that of the data set's own file."""
    path = CONFIGS / "baselines" / f"{data}_{model}.yml"
    return configuration.load(path), configuration.load(CONFIGS / f"{data}.yml")


def test_there_is_exactly_one_file_per_data_set_and_model():
    found = {path.name for path in (CONFIGS / "baselines").iterdir()}
    assert found == {f"{data}_{model}.yml" for data in DATA for model in MODELS}


@every_file
def test_a_baseline_is_scored_like_the_data_sets_own_model(data, model):
    baseline, own = load(data, model)
    assert baseline.data == own.data
    assert baseline.evaluation == own.evaluation
    frames = [(c.model.frame_size, c.model.channels) for c in (baseline, own)]
    assert frames[0] == frames[1]


@every_file
def test_a_baseline_is_the_model_in_its_name(data, model):
    baseline, own = load(data, model)
    assert baseline.model.name == MODELS[model]
    if model == "rssm":
        assert baseline.model.levels == 1
        same = configuration.differences(own, baseline)
        assert same == ["model.levels: 3 -> 1"]
    elif model == "notmpabs":
        assert configuration.differences(own, baseline) == ["model.factor: 6 -> 1"]
    elif model == "svg":
        needs_vgg = data in ("kth_actions", "minerl_navigate")
        assert baseline.model.network == ("vgg" if needs_vgg else "dcgan")
        assert baseline.model.context == baseline.evaluation.context


@every_file
def test_a_baseline_is_trained_as_the_paper_says(data, model):
    baseline, own = load(data, model)
    assert baseline.training.seq_len == 100
    assert 1e-4 <= baseline.training.learning_rate <= 1e-3
    assert 0.1 <= baseline.model.decoder_stddev <= 1
    clips = [c.training.steps * c.training.batch_size for c in (baseline, own)]
    assert clips[0] == pytest.approx(clips[1], rel=0.003)


# Numbers that tests of the models check, by model, channels and z.
WEIGHTS = {
    ("rssm", 1, 20): "5,103,009",
    ("rssm", 3, 20): "5,106,339",
    ("rssm", 3, 100): "12,879,379",
    ("notmpabs", 1, 20): "12,466,817",
    ("notmpabs", 3, 20): "12,470,147",
    ("notmpabs", 3, 100): "34,396,627",
    ("dcgan", 1, 10): "12,609,961",
    ("dcgan", 3, 64): "12,685,443",
    ("vgg", 1, 24): "22,773,985",
    ("vgg", 3, 64): "22,827,651",
    ("vta", 1, 8): "2,752,581",
    ("vta", 3, 8): "2,760,775",
}


@every_file
def test_a_file_states_the_number_of_weights(data, model):
    options = load(data, model)[0].model
    kind = getattr(options, "network", model)
    latents = getattr(options, "stochastic_size", None) or options.state_size
    text = (CONFIGS / "baselines" / f"{data}_{model}.yml").read_text()
    assert f"{WEIGHTS[kind, options.channels, latents]}" in " ".join(text.replace("#", "").split())


@pytest.mark.parametrize("data", DATA)
def test_settings_are_the_published_ones_or_as_adapted(data):
    svg, vta = (load(data, model)[0] for model in ("svg", "vta"))
    # z, learning rate, and standard deviation for the published beta or the nearest allowed one.
    published = {"moving_mnist": (10, 1e-3, 0.4525), "kth_actions": (24, 8e-4, 0.1)}
    given = (svg.model.stochastic_size, svg.training.learning_rate, svg.model.decoder_stddev)
    assert given == published.get(data, (64, 1e-3, 0.7838))
    assert (svg.model.feature_size, svg.model.hidden_size) == (128, 256)
    assert (svg.training.batch_size, svg.training.amsgrad) == (100, False)
    assert (vta.training.batch_size, vta.training.learning_rate) == (64, 5e-4)
    assert (vta.training.clip_norm, vta.training.amsgrad) == (10, True)
    assert (vta.model.decoder_stddev, vta.model.max_segment_length) == (0.5, 8)
    assert (vta.model.init_size, vta.model.max_segments) == (5, 23)


@every_file
def test_a_file_begins_with_a_header(data, model):
    text = (CONFIGS / "baselines" / f"{data}_{model}.yml").read_text()
    comment = text[: text.index("\nmodel:")]
    assert all(line.startswith("#") for line in comment.splitlines() if line)
    name = f"{data}_{model}"
    assert f"python train.py --config configs/baselines/{name}.yml\n" in comment
    assert f"python eval.py --logdir logs/{name}\n" in comment
    for word in ("Data:", "Model:", "Training:", "Hardware:", "Score:", "weights"):
        assert word in comment
    assert "not been run" in comment or "not measured" in comment


@pytest.mark.parametrize("protocol", ["standard", "cwvae2021"])
def test_the_quick_comparison_can_be_started(tmp_path, protocol):
    members = campaign.plan(COMPARISON, tmp_path / "out", protocol)
    assert [m.name for m in members] == ["CW-VAE", "NoTmpAbs", "RSSM", "VTA", "SVG-LP"]
    assert not (tmp_path / "out").exists()


def test_the_quick_comparison_says_how_to_run_it():
    assert f"python compare.py --train configs/{COMPARISON.name} --out" in COMPARISON.read_text()


def test_the_quick_comparison_trains_all_models_on_the_same_data(tmp_path):
    first, *others = (m.config for m in campaign.plan(COMPARISON, tmp_path, "standard"))
    for config in others:
        assert (config.data, config.evaluation) == (first.data, first.evaluation)
        assert config.training.seq_len == first.training.seq_len
        assert config.model.decoder_stddev == first.model.decoder_stddev
