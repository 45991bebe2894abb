"""configs/claims/: each file holds the runs that docs/claims.md needs, and nothing else differs."""

import pathlib
import re

import pytest

from cwvae import config as configuration
from cwvae import factory
from cwvae.comparison import campaign
from cwvae.config import constraints

CONFIGS = pathlib.Path(__file__).parents[3] / "configs"
NAMES = sorted(path.stem for path in (CONFIGS / "claims").iterdir())


def runs(name):
    """Returns the configurations of a file, those of the first seed, by the name of the run."""
    found = configuration.load_comparison(CONFIGS / "claims" / f"{name}.yml").runs
    return {run: next(iter(by_seed.values())) for run, by_seed in found.items()}


def test_these_are_the_files():
    assert NAMES == ["digits", "mazes", "memory", "paper_size", "small_states"]


@pytest.mark.parametrize("name", NAMES)
def test_the_runs_of_a_file_can_be_compared(name, tmp_path):
    assert campaign.plan(CONFIGS / "claims" / f"{name}.yml", tmp_path, "standard")


@pytest.mark.parametrize("name", NAMES)
def test_no_run_has_settings_that_are_warned_of(name):
    for config in runs(name).values():
        longest = {"training": config.data.train_length, "test": config.data.test_length}
        assert [*constraints.warnings(config, longest)] == []


@pytest.mark.parametrize(("name", "count"), [("digits", 6), ("memory", 7), ("small_states", 2)])
def test_the_factor_and_the_depth_are_all_that_differs_between_hierarchies(name, count):
    of = runs(name)
    hierarchies = {run: of[run] for run in of if re.fullmatch(r"L\d-k\d", run)}
    assert len(hierarchies) == count
    for name, config in hierarchies.items():
        levels, factor = name[1:].split("-k")
        changed = configuration.differences(hierarchies["L2-k2"], config)
        assert {line.split(":")[0] for line in changed} <= {"model.levels", "model.factor"}
        assert (config.model.levels, config.model.factor) == (int(levels), int(factor))


def test_the_wide_single_level_has_as_many_weights_as_two_levels():
    of = runs("digits")
    counts = [factory.build(of[name]).count_trainable() for name in ("RSSM-wide", "L2-k8")]
    assert counts[0] == pytest.approx(counts[1], rel=0.02)


@pytest.mark.parametrize("name", ["memory", "small_states"])
def test_only_the_levels_differ_between_hierarchies_and_rssm(name):
    of = runs(name)
    changed = configuration.differences(of["RSSM"], of["L2-k8"])
    assert {line.split(":")[0] for line in changed} == {"model.levels", "model.factor"}


@pytest.mark.parametrize("name", ["VTA", "SVG-LP"])
def test_the_baselines_of_the_study_on_memory_are_those_of_the_quick_comparison(name):
    quick = configuration.load_comparison(CONFIGS / "comparison_quick.yml").runs
    own, other = runs("memory")[name], next(iter(quick[name].values()))
    changed = configuration.differences(own, other)
    settings = {line.split(":")[0] for line in changed}
    assert {key for key in settings if key.startswith("model.")} == {"model.decoder_stddev"}


def test_only_the_speed_differs_between_the_runs_on_speed():
    of = runs("memory")
    normal, slow, fast = of["L2-k8"], of["L2-k8@slow"], of["L2-k8@fast"]
    for config, ratio in ((slow, 0.5), (fast, 2)):
        assert [*config.data.speed] == [ratio * speed for speed in normal.data.speed]
        changed = configuration.differences(normal, config)
        assert {line.split(":")[0] for line in changed} == {"data.speed"}


def test_one_setting_differs_between_the_runs_on_collapse():
    of = runs("memory")
    found = {
        run: [line.split(":")[0] for line in configuration.differences(of["L3-k2"], of[run])]
        for run in ("L3-k2-beta", "L3-k2-free", "L3-k2-warmup")
    }
    assert found == {
        "L3-k2-beta": ["model.beta"],
        "L3-k2-free": ["model.free_nats"],
        "L3-k2-warmup": ["training.warmup"],
    }


def test_the_mazes_have_the_papers_five_models_and_blind_levels():
    found = configuration.load_comparison(CONFIGS / "claims" / "mazes.yml")
    assert [*found.runs] == ["CW-VAE", "CW-VAE-L2-k8", "NoTmpAbs", "RSSM", "VTA", "SVG-LP"]
    assert found.reset_levels


def test_the_factor_and_the_depth_are_all_that_differs_between_hierarchies_on_mazes():
    of = runs("mazes")
    for name in ("CW-VAE-L2-k8", "NoTmpAbs", "RSSM"):
        changed = configuration.differences(of["CW-VAE"], of[name])
        assert {line.split(":")[0] for line in changed} <= {"model.levels", "model.factor"}


def test_the_papers_size_differs_from_its_configuration_only_in_depth_factor_and_length():
    own = configuration.load(CONFIGS / "moving_mnist.yml")
    for config in runs("paper_size").values():
        changed = configuration.differences(own, config)
        assert {line.split(":")[0] for line in changed} <= {
            "model.levels",
            "model.factor",
            "training.steps",
            "evaluation.fvd",
        }
