import pytest

from cwvae import levels


def test_names_count_from_the_fastest():
    assert levels.names(3) == ("level_1", "level_2", "level_3")


@pytest.mark.parametrize(
    ("name", "count", "label", "short"),
    [
        ("level_1", 3, "level 1 (fastest)", "fastest"),
        ("level_2", 3, "level 2", "level 2"),
        ("level_3", 3, "level 3 (slowest)", "slowest"),
        ("level_1", 1, "level 1", ""),
        ("level_12", 12, "level 12 (slowest)", "slowest"),
        ("abstraction", 3, "abstraction", "abstraction"),
    ],
)
def test_labels(name, count, label, short):
    assert levels.label(name, count) == label
    assert levels.short_label(name, count) == short


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("level0", "level_1"),
        ("kl/level1_sum", "kl/level_2_sum"),
        ("test/prior_entropy/level10", "test/prior_entropy/level_11"),
        ("kl/level_1_sum", "kl/level_1_sum"),
        ("kl/observation_sum", "kl/observation_sum"),
    ],
)
def test_names_of_earlier_versions_are_those_of_today(old, new):
    assert levels.renamed(old) == new


def test_results_of_earlier_versions_have_the_same_labels():
    assert levels.label("level1", 2) == levels.label("level_2", 2) == "level 2 (slowest)"
