"""The configuration: precedence of layers, messages about mistakes, saving and loading."""

import argparse
import dataclasses
import pathlib
import re
import subprocess
import sys

import pytest
from ruamel.yaml import YAML

from cwvae import config as configuration
from cwvae.config import constraints
from cwvae.errors import UserError

ROOT = pathlib.Path(__file__).parents[3]
CONFIGS = sorted((ROOT / "configs").glob("*.yml"))
CONFIGS = [path for path in CONFIGS if not path.name.startswith("comparison")]


def names(path):
    return path.name


@pytest.fixture
def write(tmp_path):
    """Returns a function that writes a configuration file and returns its path."""

    def write(text, name="experiment.yml"):
        path = tmp_path / name
        path.write_text(text)
        return path

    return write


def refusal(path=None, overrides=()):
    """Returns the message of the UserError that loading gives."""
    with pytest.raises(UserError) as caught:
        configuration.load(path, overrides)
    return str(caught.value)


# Layers.


def test_each_layer_overrides_the_one_before(write):
    base = configuration.load()
    file = write("model:\n  levels: 2\n  hidden_size: 13\n")
    layered = configuration.load(file)
    over = configuration.load(file, ["model.levels=4", "training.steps=7", "training.steps=8"])
    assert (base.model.levels, layered.model.levels, over.model.levels) == (3, 2, 4)
    assert (base.model.hidden_size, over.model.hidden_size) == (200, 13)
    assert over.training.steps == 8  # the last of equal overrides
    assert layered.training == base.training
    assert layered.data == base.data
    assert layered.evaluation == base.evaluation


@pytest.mark.parametrize("text", ["", "# nothing but a comment\n", "---\n"])
def test_an_empty_file_is_the_defaults(write, text):
    assert configuration.load(write(text)) == configuration.load()


def test_yaml_in_flow_style_is_taken_too(write):
    assert configuration.load(write("{model: {levels: 2}}\n")).model.levels == 2


@pytest.mark.parametrize(
    ("override", "section", "key", "value"),
    [
        ("training.learning_rate=1e-4", "training", "learning_rate", 1e-4),
        ("training.learning_rate=1", "training", "learning_rate", 1.0),
        ("model.kl_balance=0.8", "model", "kl_balance", 0.8),
        ("model.kl_balance=null", "model", "kl_balance", None),
        ("model.kl_balance=1", "model", "kl_balance", 1.0),
        ("model.mean_only=true", "model", "mean_only", True),
        ("model.factor=[5, 7]", "model", "factor", (5, 7)),
        ("model.beta=[1, 0.5, 2e-1]", "model", "beta", (1.0, 0.5, 0.2)),
        ("model.beta=2", "model", "beta", 2.0),
        ("data.speed=[0, 3]", "data", "speed", (0.0, 3.0)),
        ("data.data_dir=~/data", "data", "data_dir", "~/data"),
        ("data.data_dir=", "data", "data_dir", None),
        ("evaluation.observe_levels=TTF", "evaluation", "observe_levels", "TTF"),
        (" training.steps = 11", "training", "steps", 11),
        ("training.steps=1e5", "training", "steps", 100_000),
        ("training.steps=1E+3", "training", "steps", 1000),
        ("training.steps=2.0", "training", "steps", 2),
        ("training.steps=100_000", "training", "steps", 100_000),
        ("training.keep_every=1e3", "training", "keep_every", 1000),
        ("model.factor=4.0", "model", "factor", 4),
        ("model.factor=[4.0, 6e0]", "model", "factor", (4, 6)),
    ],
)
@pytest.mark.parametrize("way", ["--set", "file"])
def test_values_become_the_declared_type(write, way, override, section, key, value):
    if way == "file":
        text = override.partition("=")[2]
        loaded = configuration.load(write(f"{section}:\n  {key}: {text}\n"))
    else:
        loaded = configuration.load(overrides=[override])
    got = getattr(getattr(loaded, section), key)
    assert got == value
    assert type(got) is type(value)
    if isinstance(value, tuple):
        assert [type(item) for item in got] == [type(item) for item in value]


# Names that do not exist.


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("model.levles=2", ["unknown key in section 'model'", "'levles'", "mean 'levels'?"]),
        ("training.learning_rat=1", ["'learning_rat'", "did you mean 'learning_rate'?"]),
        ("modle.levels=2", ["unknown section 'modle'", "did you mean 'model'?", "evaluation"]),
        (
            "training.levels=2",
            ["unknown key in section 'training'", "; did you mean 'model.levels'? Valid"],
        ),
        ("model.horizon=2", ["'horizon'", "; did you mean 'evaluation.horizon'? Valid"]),
        ("data.frame_size=64", ["; did you mean 'model.frame_size'? Valid: name, seed,"]),
        ("data.state_size=3", ["; did you mean 'model.state_size'? Valid"]),
        ("training.lr=1e-3", ["'lr'; did you mean 'learning_rate'? Valid"]),
        ("training.LEARNING_RATE=1", ["did you mean 'learning_rate'?"]),
        ("training.rate=1", ["did you mean 'learning_rate'?"]),
        ("data.sead=1", ["did you mean 'seed'?"]),
        ("eval.horizon=3", ["unknown section 'eval'", "did you mean 'evaluation'?"]),
        ("model.=2", ["unknown key in section 'model'"]),
        (".=2", ["unknown section ''"]),
    ],
)
def test_unknown_names_are_refused_with_a_suggestion(write, override, words):
    message = refusal(overrides=[override])
    assert message.startswith(f"--set {override}: ")
    for word in words:
        assert word in message
    name, _, value = override.partition("=")
    section, _, key = name.partition(".")
    in_file = refusal(write(f"# A comment.\n\n'{section}':\n  '{key}': {value}\n"))
    for word in words:
        assert word in in_file


@pytest.mark.parametrize("key", ["xyzzy", "actions", "iterations", "sequence_length", "a"])
def test_a_name_unlike_any_other_gets_the_list_without_a_suggestion(key):
    for section, first in (("evaluation", "protocol, seed, context,"), ("data", "name, seed,")):
        message = refusal(overrides=[f"{section}.{key}=1"])
        assert "did you mean" not in message
        assert f"Valid: {first}" in message


@pytest.mark.parametrize(
    ("override", "meant"),
    [
        ("steps=5", "--set training.steps=5"),
        ("lr = 1e-4", "--set training.learning_rate=1e-4"),
        ("frame_siz=64", "--set model.frame_size=64"),
        ("factor=[4, 6]", "--set 'model.factor=[4, 6]'"),
        ("model=svg", "--set model.name=svg"),
        ("data=kth_actions", "--set data.name=kth_actions"),
        ("horizon=", "--set evaluation.horizon="),
        ("seed=1", "--set data.seed=1 or --set training.seed=1 or --set evaluation.seed=1"),
    ],
)
def test_a_setting_without_its_section_is_refused_with_the_whole_name(override, meant):
    want = f"--set {override}: this is not section.key=value. Did you mean {meant}?"
    assert refusal(overrides=[override]) == want


@pytest.mark.parametrize("override", ["training.steps", "steps=3", "=3", "model", "", "a=b.c"])
def test_an_override_needs_a_dot_and_an_equals_sign(override):
    message = refusal(overrides=[override])
    assert message.startswith(f"--set {override}: ")
    assert "section.key=value" in message


@pytest.mark.parametrize("text", ["[1", "{a", "*name", "@x", "2020-13-45"])
def test_an_override_that_is_not_yaml(text):
    message = refusal(overrides=[f"training.steps={text}"])
    assert f"{text!r} is not a YAML value" in message


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("/x/hash #1", "/x/hash #1"),
        ("#1", "#1"),
        (" /x/a b ", "/x/a b"),
        ("/x/a: b", "/x/a: b"),
        ("/x/it's", "/x/it's"),
        ("[draft] 3", "[draft] 3"),
        ("*", "*"),
        ("{a", "{a"),
        ("-", "-"),
        ("2024-01-02", "2024-01-02"),
        ("3", "3"),
        ("true", "true"),
        ("~/videos # mine", "~/videos # mine"),
        ('"/x/hash #1"', "/x/hash #1"),
        ("'null'", "null"),
        ("'tis", "'tis"),
        ("null", None),
        ("~", None),
        ("", None),
    ],
)
@pytest.mark.parametrize(
    "name", ["data.videos_dir", "data.train_list", "evaluation.observe_levels"]
)
def test_an_override_of_a_text_is_that_text(name, text, value):
    section, _, key = name.partition(".")
    if key == "observe_levels":  # Only its letters are checked, later.
        assert configuration._value_of_override(section, key, text.strip(), "") == value
    else:
        loaded = configuration.load(overrides=[f"{name}={text}"], purpose="data")
        assert getattr(getattr(loaded, section), key) == value


@pytest.mark.parametrize("text", ["3 # steps", "# 3", "#"])
def test_an_override_of_a_number_has_no_comment(text):
    message = refusal(overrides=[f"training.steps={text}"])
    assert message == f"--set training.steps={text}: write one value without a comment."


# Types.


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("training.steps=many", "a whole number, not 'many'"),
        ("training.steps='3'", "a whole number, not '3'"),
        ("training.steps=1.5", "a whole number, not 1.5"),
        ("training.steps=1e-3", "a whole number, not 0.001"),
        ("training.steps=.inf", "a whole number, not inf"),
        ("training.steps=.nan", "a whole number, not nan"),
        ("training.steps=true", "a whole number, not true"),
        ("training.steps=null", "a whole number, not null"),
        ("training.steps=", "a whole number, not null"),
        ("training.steps=[3]", "a whole number, not [3]"),
        ("training.learning_rate=fast", "a number, not 'fast'"),
        ("training.learning_rate=true", "a number, not true"),
        ("training.learning_rate=.nan", "a number, not nan"),
        ("training.learning_rate=.inf", "a number, not inf"),
        ("model.mean_only=1", "true or false, not 1"),
        ("model.mean_only=yes", "true or false, not 'yes'"),
        ("model.factor=2.5", "a whole number or a list of whole numbers, not 2.5"),
        ("model.factor=[2, true]", "a whole number or a list of whole numbers, not [2, True]"),
        ("model.factor=2,3", "a whole number or a list of whole numbers, not '2,3'. Write [2, 3]"),
        (
            "model.factor=(4, 6)",
            "a whole number or a list of whole numbers, not '(4, 6)'. Write [4, 6]",
        ),
        ("data.speed=1,2.5", "a list of 2 numbers, not '1,2.5'. Write [1, 2.5]"),
        ("data.speed=1,2,3", "a list of 2 numbers, not '1,2,3'"),
        ("training.steps=1,000", "a whole number, not '1,000'"),
        ("model.beta={a: 1}", "a number or a list of numbers, not {'a': 1}"),
        ("model.kl_balance=half", "a number or null, not 'half'"),
        ("training.precision=float16", "'auto' or 'float32' or 'bfloat16', not 'float16'"),
        ("data.speed=2", "a list of 2 numbers, not 2"),
        ("data.speed=[2]", "a list of 2 numbers, not [2]"),
        ("data.speed=[1, 2, 3]", "a list of 2 numbers, not [1, 2, 3]"),
        ("data.speed=[1, fast]", "a list of 2 numbers, not [1, 'fast']"),
        ("data.name=null", "text, not null"),
    ],
)
def test_wrong_types(override, expected):
    name = override.partition("=")[0]
    assert refusal(overrides=[override]) == f"--set {override}: {name} must be {expected}."


@pytest.mark.parametrize("digits", [400, 5000])
def test_a_number_too_large_for_a_float_is_refused(digits):
    override = "training.learning_rate=1" + "0" * digits
    assert refusal(overrides=[override]).startswith("--set training.learning_rate=1000")


# Ranges.


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("model.levels=0", "at least 1, not 0"),
        ("model.factor=0", "at least 1, not 0"),
        ("model.factor=[2, 0]", "at least 1, not 0"),
        ("model.stochastic_size=0", "at least 1, not 0"),
        ("model.channel_multiplier=0", "above 0, not 0.0"),
        ("model.decoder_stddev=-0.1", "above 0, not -0.1"),
        ("model.decoder_stddev=0", "above 0, not 0.0"),
        ("model.min_stddev=-1e-3", "at least 0, not -0.001"),
        ("model.beta=[1, -1, 1]", "at least 0, not -1.0"),
        ("model.free_nats=-1", "at least 0, not -1.0"),
        ("model.kl_balance=1.5", "at most 1, not 1.5"),
        ("model.kl_balance=-0.5", "at least 0, not -0.5"),
        ("data.num_digits=5", "at most 4, not 5"),
        ("data.speed=[-1, 2]", "at least 0, not -1.0"),
        ("training.seed=-1", "at least 0, not -1"),
        ("training.seed=2147483648", "at most 2147483647, not 2147483648"),
        ("training.steps=0", "at least 1, not 0"),
        ("training.batch_size=0", "at least 1, not 0"),
        ("training.learning_rate=0", "above 0, not 0.0"),
        ("training.keep=0", "at least 1, not 0"),
        ("evaluation.context=0", "at least 1, not 0"),
        ("evaluation.num_samples=0", "at least 1, not 0"),
    ],
)
def test_ranges(override, expected):
    name = override.partition("=")[0]
    assert refusal(overrides=[override]) == f"--set {override}: {name} must be {expected}."


@pytest.mark.parametrize(
    "override",
    ["model.kl_balance=0", "model.kl_balance=1", "model.min_stddev=0", "model.beta=0"],
)
def test_ranges_include_their_limits(override):
    section, _, key = override.partition("=")[0].partition(".")
    loaded = configuration.load(overrides=[override])
    assert getattr(getattr(loaded, section), key) == float(override.partition("=")[2])


# Values that contradict each other. The defaults: levels 3, frames of 64 pixels, context 36 and
# horizon 964 in test clips of 1000 frames, seq_len 100 in training clips of 100.


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["model.factor=[2, 3, 4]"], ["model.factor has 3 entries", "there are 2 levels above"]),
        (["model.factor=[2]"], ["model.factor has 1 entries", "model.levels = 3"]),
        (["model.factor=[]"], ["model.factor has 0 entries"]),
        (["model.beta=[1, 1]"], ["model.beta has 2 entries", "3 KL terms", "fastest"]),
        (["model.frame_size=48"], ["model.frame_size = 48", "32, 64, 128"]),
        (["model.channels=2"], ["model.channels = 2", "1 (gray) or 3 (RGB)"]),
        (["model.channel_multiplier=0.3"], ["model.channel_multiplier = 0.3", "whole number"]),
        (["evaluation.observe_levels=TF"], ["'TF'", "model.levels = 3", "TTF"]),
        (["evaluation.observe_levels=TTFT"], ["'TTFT'", "one letter per level"]),
        (["evaluation.observe_levels=TXF"], ["'TXF'", "T where", "F where"]),
        (["evaluation.observe_levels=ttf"], ["'ttf'"]),
        (["evaluation.observe_levels=''"], ["''", "one letter per level"]),
        (["training.video_length=36"], ["training.video_length = 36", "evaluation.context = 36"]),
        (["training.seq_len=101"], ["training.seq_len = 101", "data.train_length = 100"]),
        (["evaluation.horizon=965"], ["36 + 965", "data.test_length = 1000"]),
        (
            ["evaluation.context=100", "evaluation.horizon=1", "training.video_length=200"],
            ["evaluation.context = 100", "train clips", "data.train_length = 100"],
        ),
        (
            ["evaluation.context=20", "evaluation.horizon=1", "data.test_length=20"],
            ["evaluation.context = 20", "test clips", "data.test_length = 20"],
        ),
        (["data.digit_size=64"], ["data.digit_size = 64", "model.frame_size = 64"]),
        (["model.frame_size=32", "data.digit_size=33"], ["data.digit_size = 33"]),
        (["data.speed=[6, 2]"], ["data.speed = [6.0, 2.0]", "[slowest, fastest]"]),
    ],
)
def test_values_that_contradict_each_other(overrides, words):
    message = refusal(overrides=overrides)
    for word in words:
        assert word in message


@pytest.mark.parametrize(
    "overrides",
    [
        ["model.factor=[2, 3]", "model.beta=[1, 2, 3]", "evaluation.observe_levels=FTF"],
        ["model.levels=1", "model.factor=[]", "model.beta=[3]", "evaluation.observe_levels=F"],
        ["training.seq_len=100", "evaluation.horizon=964", "data.digit_size=63"],
        ["evaluation.context=99", "evaluation.horizon=901", "training.video_length=100"],
        ["model.frame_size=128", "model.channels=3", "model.channel_multiplier=0.03125"],
    ],
)
def test_values_that_just_fit(overrides):
    loaded = configuration.load(overrides=overrides)
    assert loaded != configuration.load()


def test_clip_lengths_of_other_data_sets_are_not_checked_here():
    options = ["data.name=anything", "training.seq_len=5000", "data.digit_size=400"]
    assert configuration.load(overrides=options).training.seq_len == 5000


# Models.


@pytest.mark.parametrize("name", ["svg", "vta"])
def test_a_model_has_its_own_keys_and_defaults(name, tmp_path):
    loaded = configuration.load(overrides=[f"model.name={name}", "model.frame_size=32"])
    assert type(loaded.model) is configuration.MODELS[name]
    assert loaded.model.frame_size == 32
    configuration.save(loaded, tmp_path / "config.yml")
    assert configuration.load(tmp_path / "config.yml") == loaded
    # Its file explains all keys that CW-VAE lacks.
    path = ROOT / "configs" / "models" / f"{name}.yml"
    keys = {field.name for field in dataclasses.fields(loaded.model)}
    assert set(YAML(typ="safe").load(path.read_text())["model"]) == keys - {
        "name",
        "frame_size",
        "channels",
    }


def test_published_training_settings_come_with_the_model(write):
    file = write("model:\n  name: vta\ntraining:\n  learning_rate: 0.1\n")
    loaded, plain = configuration.load(file, ["training.steps=3"]), configuration.load()
    assert (loaded.training.amsgrad, plain.training.amsgrad) == (True, False)
    assert (loaded.training.clip_norm, loaded.training.learning_rate) == (10.0, 0.1)
    assert loaded.training.keep == plain.training.keep


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["model.name=rnn"], ["unknown model 'rnn'", "cwvae, svg, vta"]),
        (["model.name=vtaa"], ["did you mean 'vta'?"]),
        (["model.name=SVG"], ["unknown model 'SVG'; did you mean 'svg'?"]),
        (["model.name=[vta]"], ["unknown model '[vta]'"]),
        (
            ["model.name=svg", "model.levels=2"],
            [
                "model.levels is a setting of model.name = cwvae, but here model.name = svg",
                "Delete it, or set model.name=cwvae.",
            ],
        ),
        (
            ["model.state_size=2"],
            ["model.state_size is a setting of model.name = vta", "here model.name = cwvae"],
        ),
        (["model.name=svg", "model.mse_beta=1e-4"], ["model.decoder_stddev = 0.45", "Set one"]),
        (["model.name=svg", "model.decoder_stddev=null"], ["Set one"]),
        (["model.name=svg", "model.network=resnet"], ["'dcgan' or 'vgg', not 'resnet'"]),
        (["model.name=svg", "model.channel_multiplier=0.3"], ["64 times it"]),
        (["model.name=vta", "model.beta=[1, 2]"], ["2 entries", "3 KL terms", "one for each"]),
        (["model.name=vta", "evaluation.observe_levels=TF"], ["vta has no levels"]),
        (["model.name=vta", "training.seq_len=10"], ["less than 11 frames"]),
        (["model.name=svg", "training.seq_len=1"], ["less than 2 frames"]),
        (
            ["model.name=vta", "evaluation.context=3", "evaluation.horizon=7"],
            ["= 10 frames", "less than 11"],
        ),
        (
            ["model.name=svg", "training.gradient_checkpointing=9"],
            ["batch normalization", "training.accumulate"],
        ),
        (["evaluation.batch_statistics=true"], ["cwvae has no batch normalization"]),
        (
            ["training.kernels=plain", "training.gradient_checkpointing=9"],
            ["training.gradient_checkpointing = 9", "training.kernels = plain", "auto or fast"],
        ),
        (
            ["model.name=svg", "evaluation.batch_statistics=true", "evaluation.num_videos=11"],
            ["two clips at a time", "one is left alone"],
        ),
    ],
)
def test_settings_that_contradict_a_model(overrides, words):
    message = refusal(overrides=overrides)
    for word in words:
        assert word in message


def test_the_differences_of_two_models():
    lines = configuration.differences(
        configuration.load(), configuration.load(overrides=["model.name=vta"])
    )
    assert "model.name: cwvae -> vta" in lines
    assert "model.levels: 3 -> (not a setting)" in lines
    assert "model.init_size: (not a setting) -> 5" in lines


# Files.


def test_a_missing_file_lists_the_existing_ones(tmp_path):
    message = refusal(tmp_path / "quikstart.yml")
    assert message.startswith(f"{tmp_path / 'quikstart.yml'}: no such configuration file")
    for path in CONFIGS:
        assert bool(re.search(rf" {path.stem}[,.]", message)) == (path != configuration.BASE)
    assert f"relative to {pathlib.Path.cwd()}" in message
    assert " baselines/kth_actions_vta" in message


def test_a_name_stands_for_a_file_of_the_project_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("quickstart", "baselines/kth_actions_vta"):
        assert configuration.load(name) == configuration.load(ROOT / "configs" / f"{name}.yml")
    (tmp_path / "quickstart").mkdir()
    assert configuration.named("quickstart") == ROOT / "configs" / "quickstart.yml"
    (tmp_path / "gqn_mazes").write_text("model: {levels: 2}\n")
    assert configuration.load("gqn_mazes").model.levels == 2
    assert configuration.load_comparison("comparison_quick").runs.keys() >= {"CW-VAE", "RSSM"}


def test_a_folder_is_not_a_configuration(tmp_path):
    assert refusal(tmp_path) == f"{tmp_path}: this is a folder. Give a YAML file."
    configuration.save_run(configuration.load(), tmp_path)
    assert refusal(tmp_path).endswith(f"python train.py --logdir {tmp_path}")


def test_a_relative_path_in_another_directory_gets_the_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("quickstart", "baselines/kth_actions_vta"):
        message = refusal(f"configs/{name}.yml")
        assert f"Did you mean {name}? Give a path, relative to {tmp_path}, or" in message


def test_the_defaults_as_an_experiment_leave_the_choice_of_the_model():
    for overrides in ([], ["model.name=svg"], ["model.name=vta", "training.steps=3"]):
        want = configuration.load(None, overrides)
        assert configuration.load(ROOT / "configs" / "base.yml", overrides) == want
    message = refusal(ROOT / "configs" / "models" / "svg.yml")
    assert message.endswith("Delete it, or set model.name=svg.")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("model:\n  levels: [2\n  factor: 3\n", ["not readable as YAML", "line 3"]),
        ("model:\n\tlevels: 2\n", [", line 2: there is a tab. Replace it with spaces."]),
        ("model:\n  levels:\t2\n", [", line 2: there is a tab. Replace it with spaces."]),
        (
            "model:\n  levels: 2\n  factor: 3\n  levels: 3\n",
            [", line 4: the key 'levels' is here for the second time. Delete one of the two."],
        ),
        ("model:\n  levels: 2\nmodel:\n  factor: 3\n", [", line 3: the key 'model' is here for"]),
        ("model:\n  levels: 2\n factor: 3\n", [", line 3: not readable", "`key: value` lines"]),
        ("model:\n  levels: *two\n", ["not readable as YAML", "line 2"]),
        ("model: {}\n---\nmodel: {}\n", ["not readable as YAML", "another document"]),
        ("data:\n  data_dir: 2020-13-45\n", ["not readable as YAML"]),
        ("- model\n", ["must hold the sections model, data, training, evaluation"]),
        ("levels\n", ["must hold the sections"]),
        ("# Tiny.\nmodel:\n  - levels: 2\n", ["line 2", "the section 'model' must hold"]),
        ("model:\ndata:\n  seed: 1\n", ["line 1", "the section 'model' must hold"]),
        ("data:\n  seed: 1\nmodel: 3\n", ["line 3", "the section 'model' must hold"]),
        ("levels: 2\n", ["line 1", "unknown section 'levels'"]),
        ("3: 4\n", ["line 1", "unknown section 3"]),
        ("model: &m\n  levels: 2\ndata:\n  <<: *m\n", ["line 4", "did you mean 'model.levels'?"]),
    ],
)
def test_broken_files(write, text, words):
    path = write(text)
    message = refusal(path)
    assert message.startswith(f"{path}")
    assert "\n" not in message
    for word in words:
        assert word in message


def test_a_typo_in_a_files_name_gets_a_suggestion():
    assert "Did you mean quickstart?" in refusal("configs/quikstart.yml")
    message = refusal("configs/kth_actions_notmpab.yml")
    assert "Did you mean baselines/kth_actions_notmpabs?" in message


def test_a_section_may_be_merged_from_another_place(write):
    text = "data: &d {seed: 3}\ntraining: {steps: 4}\n"
    assert configuration.load(write(text + "evaluation:\n  seed: 5\n")).evaluation.seed == 5
    path = write("shared:\n  <<: {model: {levels: 2}}\nruns:\n  A: &a {data: {seed: 3}}\n  B: *a\n")
    configs = configuration.load_comparison(path).runs
    assert [by_seed[None].model.levels for by_seed in configs.values()] == [2, 2]
    assert configs["B"][None].data.seed == 3


def test_the_file_of_a_comparison_names_the_script_for_it():
    message = refusal(ROOT / "configs" / "comparison_quick.yml")
    assert "python compare.py --train" in message


@pytest.mark.parametrize("content", [b"\x89PNG\r\n\xff\xfe\x00", b"PK\x03\x04\x00\x00"])
def test_a_binary_file(tmp_path, content):
    path = tmp_path / "picture.yml"
    path.write_bytes(content)
    want = f"{path}: not a text file in UTF-8. Give a YAML file, such as those in configs/."
    assert refusal(path) == want


def test_the_file_of_one_run_is_not_a_comparison():
    path = ROOT / "configs" / "quickstart.yml"
    with pytest.raises(UserError) as caught:
        configuration.load_comparison(path)
    assert str(caught.value) == (
        f"{path}: this file describes one run, not a comparison. Train it with: python train.py"
        f" --config {path}"
    )


def test_messages_name_the_line(write):
    path = write("# Header.\n\nmodel:\n  levels: 2\n\n  factor: two\n\ntraining:\n  seeed: 0\n")
    assert refusal(path).startswith(f"{path}, line 9: unknown key in section 'training': 'seeed'")
    path = write("# Header.\n\nmodel:\n  levels: 2\n\n  factor: two\n")
    assert refusal(path).startswith(f"{path}, line 6: model.factor must be a whole number")
    # An override replaces the value in the file.
    assert refusal(path, ["model.factor=x"]).startswith("--set model.factor=x: model.factor must")
    assert configuration.load(path, ["model.factor=3"]).model.factor == 3


def test_a_key_missing_from_the_defaults(write, monkeypatch):
    path = write("model:\n  levels: 2\n", "base.yml")
    monkeypatch.setattr(configuration, "BASE", path)
    assert refusal() == f"{path}: model.name is missing. Restore the file."


# Properties of settings.


def having(*sections, **properties):
    """Returns `section.key` of the settings that have all the given properties."""
    found = set()
    for section in sections:
        name = "model" if issubclass(section, configuration.ModelConfig) else section.__name__
        name = name.removesuffix("Config").lower()
        for key, its in configuration.properties(section).items():
            if all(getattr(its, name) == value for name, value in properties.items()):
                found.add(f"{name}.{key}")
    return found


SECTIONS = (
    *configuration.MODELS.values(),
    configuration.DataConfig,
    configuration.TrainingConfig,
    configuration.EvaluationConfig,
)


def prefixed(section, names):
    return {f"{section}.{name}" for name in names.split()}


def test_the_settings_that_may_change_when_a_run_is_resumed():
    data = prefixed("data", "data_dir archives_dir digits_dir test_length")
    training = "steps log_every video_every video_length save_every keep keep_every strategy"
    training += " accumulate gradient_checkpointing jit steps_per_call memory skip_limit kernels"
    training += " learning_rate schedule warmup ema clip_norm"
    evaluation = "protocol seed context horizon num_videos num_samples batch_size observe_levels"
    evaluation += " ema batch_statistics readout lpips fvd"
    wanted = data | prefixed("training", training) | prefixed("evaluation", evaluation)
    assert having(*SECTIONS, resumable=True) == wanted


def test_the_settings_that_shape_the_weights():
    names = "name levels frame_size channels stochastic_size deterministic_size hidden_size"
    names += " mlp_size channel_multiplier network feature_size belief_size state_size"
    assert having(*SECTIONS, shapes_weights=True) == prefixed("model", names)


def test_the_settings_that_do_not_change_the_test_videos():
    names = "name data_dir archives_dir videos_dir windows train_length train_videos"
    wanted = prefixed("data", f"{names} digits_dir train_list test_list")
    assert having(configuration.DataConfig, changes_test_videos=False) == wanted


def test_the_paths_that_become_absolute(tmp_path, monkeypatch):
    names = "data_dir archives_dir videos_dir digits_dir train_list test_list"
    assert having(*SECTIONS, is_path=True) == prefixed("data", names)
    monkeypatch.chdir(tmp_path)
    config = configuration.load(overrides=["data.data_dir=a/../b", "data.videos_dir=~/c"])
    data = configuration.with_absolute_paths(config).data
    assert data.data_dir == str(tmp_path / "b")
    assert data.videos_dir == str(pathlib.Path.home() / "c")
    assert data.archives_dir is None


# Saving, and the configuration of a run.


@pytest.mark.parametrize("path", CONFIGS, ids=names)
def test_saved_and_loaded_it_is_the_same(path, tmp_path):
    config = configuration.load(path)
    configuration.save(config, tmp_path / "config.yml")
    assert configuration.load(tmp_path / "config.yml") == config
    assert configuration.load_run(tmp_path) == config


def test_every_key_survives_saving(tmp_path):
    overrides = [
        "model.factor=[2, 3]",
        "model.beta=[1, 0.5, 1e-7]",
        "model.kl_balance=0.8",
        "model.mean_only=true",
        "model.min_stddev=1e-12",
        "data.data_dir='null'",
        "data.digits_dir='~/a folder: with # signs'",
        "evaluation.observe_levels=TFF",
        "training.learning_rate=1.2345678901234567e-5",
    ]
    config = configuration.load(overrides=overrides)
    configuration.save(config, tmp_path / "config.yml")
    assert configuration.load(tmp_path / "config.yml") == config
    # The file holds all keys: later changes of the defaults do not affect a run.
    saved = YAML(typ="safe").load((tmp_path / "config.yml").read_text())
    for section in dataclasses.fields(configuration.Config):
        keys = [field.name for field in dataclasses.fields(getattr(config, section.name))]
        assert list(saved[section.name]) == keys


@pytest.mark.parametrize("folder", ["missing", "empty", "config_is_a_folder"])
def test_load_run_without_a_run(tmp_path, folder):
    logdir = tmp_path / folder
    if folder != "missing":
        logdir.mkdir()
    if folder == "config_is_a_folder":
        (logdir / "config.yml").mkdir()
    with pytest.raises(UserError, match=r"no run here .*config\.yml") as caught:
        configuration.load_run(logdir)
    assert str(caught.value).startswith(f"{logdir}: ")
    assert "python train.py --config" in str(caught.value)


def test_load_run_lists_the_runs_in_a_folder(tmp_path):
    for name in ("b", "a c"):
        configuration.save_run(configuration.load(), tmp_path / name)
    (tmp_path / "other").mkdir()
    with pytest.raises(UserError) as caught:
        configuration.load_run(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path}: a folder of runs, not a run. Give one of: '{tmp_path}/a c' {tmp_path}/b"
    )


@pytest.fixture
def run(tmp_path):
    configuration.save(configuration.load(), tmp_path / "config.yml")
    return tmp_path


@pytest.mark.parametrize("override", ["model.levels=2", "training.batch_size=3", " model.factor=2"])
def test_load_run_keeps_the_settings_of_training(run, override):
    with pytest.raises(UserError, match="keeps its model and training settings") as caught:
        configuration.load_run(run, [override])
    assert str(caught.value).startswith(f"--set {override}: ")


def test_a_run_can_be_evaluated_with_a_context_longer_than_training_could_show(run):
    overrides = ["evaluation.context=150", "evaluation.horizon=50", "data.test_length=200"]
    config = configuration.load_run(run, overrides)
    assert config.evaluation.context > config.training.video_length
    assert config.evaluation.context > config.data.train_length


def test_load_run_takes_other_data_and_another_evaluation(run):
    overrides = ["data.test_length=500", "evaluation.horizon=464", "evaluation.observe_levels=TFT"]
    config = configuration.load_run(run, iter(overrides))
    assert config.data.test_length == 500
    assert config.evaluation.horizon == 464
    assert config.evaluation.observe_levels == "TFT"
    with pytest.raises(UserError, match=r"data\.test_length = 1000"):
        configuration.load_run(run, ["evaluation.horizon=1000"])


def test_overrides_turn_one_configuration_into_another():
    changes = ["model.factor=[2, 3]", "training.jit=true", "data.data_dir=a b", "data.fps=null"]
    old, new = configuration.load(), configuration.load(overrides=changes)
    assert configuration.overrides(old, old) == []
    assert configuration.load(overrides=configuration.overrides(old, new)) == new
    assert configuration.load(overrides=[*changes, *configuration.overrides(new, old)]) == old


def test_differences_are_listed_by_key():
    old = configuration.load()
    new = configuration.load(overrides=["training.steps=7", "model.factor=[2, 3]"])
    assert configuration.differences(old, old) == []
    assert configuration.differences(old, new) == [
        "model.factor: 6 -> (2, 3)",
        "training.steps: 100000 -> 7",
    ]


# Command lines.


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("--set training.steps=5 data.seed=1", "each setting: --set data.seed=1\n"),
        ("training.steps=5 data.seed=1", "setting: --set training.steps=5 --set data.seed=1\n"),
        ("--training.steps=5", "write --set before each setting: --set training.steps=5\n"),
        ("--set model.factor=[4, 6]", "write a list in quotes: --set 'model.factor=[4, 6]'\n"),
        ("configs/a.yml", "write --config before the file: --config configs/a.yml\n"),
        ("logs/run", "write --logdir before the folder: --logdir logs/run\n"),
        ("--logdir logs/run logs/other", "unrecognized arguments: logs/other\n"),
        ("--confg=configs/a.yml", "unrecognized arguments: --confg=configs/a.yml\n"),
    ],
)
def test_a_word_without_its_option_is_refused_with_the_option(capsys, monkeypatch, line, words):
    parser = argparse.ArgumentParser()
    for name in ("--config", "--logdir"):
        parser.add_argument(name)
    parser.add_argument("--set", action="append", default=[])
    monkeypatch.setattr(sys, "argv", ["train.py", *line.split()])
    with pytest.raises(SystemExit, match="2"):
        configuration.parse_arguments(parser)
    assert capsys.readouterr().err.endswith(words)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("a model.factor=4 --out x", "train.py --config FILE --logdir NEW --set model.factor=4\n"),
        ("--out x --set evaluation.horizon=9 a", "--logdir RUN --set evaluation.horizon=9\n"),
        ("--set=data.seed=1 modle.beta=2", "NEW --set data.seed=1 --set modle.beta=2\n"),
        ("a --set beta=2", "NEW --set beta=2\n"),
    ],
)
def test_a_script_without_settings_names_the_one_that_takes_them(capsys, monkeypatch, line, words):
    parser = argparse.ArgumentParser()
    monkeypatch.setattr(sys, "argv", ["compare.py", *line.split()])
    with pytest.raises(SystemExit, match="2"):
        configuration.refuse_settings(parser, "in a file, or ")
    message = capsys.readouterr().err
    assert "this takes no settings. Give them in a file, or to a script: python " in message
    assert message.endswith(words)


def test_names_of_runs_are_no_settings(monkeypatch, tmp_path):
    words = [f"model.beta={tmp_path}", "model.old=logs/none", "CW-VAE=logs/a", "x=4", "--out", "x"]
    monkeypatch.setattr(sys, "argv", ["compare.py", *words])
    configuration.refuse_settings(argparse.ArgumentParser())


# What is allowed but probably not wanted.


def warnings(*overrides, training=1000, test=1000):
    config = configuration.load(overrides=overrides)
    return [*constraints.warnings(config, {"training": training, "test": test})]


def test_the_decay_of_an_average_is_between_0_and_1():
    for value in (0, 1, 1.5):
        assert "training.ema must be " in refusal(overrides=[f"training.ema={value}"])


def test_a_level_that_ticks_once_in_a_training_clip_is_warned_of():
    # Levels tick every 1, 6 and 36 frames.
    assert warnings("training.seq_len=37") == []
    (warning,) = warnings("training.seq_len=36")
    assert warning.startswith("level 3 ticks every 36 frames, so only once in a training clip of")
    assert "training.seq_len = 36" in warning
    (warning,) = warnings("training.seq_len=6")
    assert warning.startswith("level 2 ticks every 6 frames")
    (warning,) = warnings("model.factor=[2, 50]", "training.seq_len=100")
    assert warning.startswith("level 3 ticks every 100 frames")
    assert warnings("model.levels=1", "training.seq_len=5") == []
    assert warnings("model.name=svg", "model.context=3", "training.seq_len=5") == []


def test_skips_that_never_stay_behind_in_training_are_warned_of():
    # Frame t has the skips of frame min(t - 1, context - 1). Frame 4 is the last one.
    svg = ("model.name=svg", "training.seq_len=5")
    assert warnings(*svg, "model.context=3") == []
    for context in (4, 36):
        (warning,) = warnings(*svg, f"model.context={context}")
        assert warning.startswith(f"model.context = {context}: in a training clip of")
    assert warnings("training.seq_len=37", "evaluation.context=36") == []


def test_videos_that_end_before_video_length_are_warned_of():
    assert warnings("training.video_length=200", training=200, test=200) == []
    lines = warnings("training.video_length=200", training=199, test=90)
    assert [line.partition(".video_length = 200, but the ")[2] for line in lines] == [
        "longest training video has 199 frames. The training videos in TensorBoard end there.",
        "longest test video has 90 frames. The test videos in TensorBoard end there.",
    ]


# The rest.


def test_per_level():
    assert configuration.per_level(6, 2) == (6, 6)
    assert configuration.per_level(0.5, 0) == ()
    assert configuration.per_level((2, 3), 2) == (2, 3)


def test_level_flags():
    assert configuration.level_flags("TFF") == (True, False, False)


def test_data_options_are_the_data_section_and_the_frames():
    config = configuration.load(overrides=["model.channels=3", "model.frame_size=32"])
    options = config.data_options()
    keys = {field.name for field in dataclasses.fields(configuration.DataConfig)}
    assert set(options) == keys | {"frame_size", "channels"}
    assert (options["frame_size"], options["channels"], options["num_digits"]) == (32, 3, 2)


def test_a_configuration_is_frozen():
    config = configuration.load()
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.model.levels = 5
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.model = None
    assert hash(config) == hash(configuration.load())


def test_reading_a_configuration_starts_no_tensorflow():
    code = (
        "import sys; from cwvae import config; config.load();"
        "print([m for m in ('tensorflow', 'keras', 'tensorflow_probability') if m in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"


# The files in configs/.


@pytest.mark.parametrize("path", CONFIGS, ids=names)
def test_every_configuration_loads(path):
    assert isinstance(configuration.load(path), configuration.Config)


@pytest.mark.parametrize("path", [p for p in CONFIGS if p != configuration.BASE], ids=names)
def test_every_experiment_says_how_to_run_it(path):
    lines = path.read_text().splitlines()
    body = next((i for i, line in enumerate(lines) if not line.startswith("#")), len(lines))
    command = f"python train.py --config configs/{path.name}"
    assert command in "\n".join(lines[:body]), (
        f"{path.name} must begin with a comment that gives its command: {command}"
    )


# Settings of earlier versions.


def test_a_removed_setting_that_changes_nothing_is_accepted(write):
    assert configuration.load(write("data:\n  store: true\n")) == configuration.load()
    assert configuration.load(None, ["data.store=true"]) == configuration.load()
    file = write("data:\n  store: false\n")
    assert configuration.load(file, ["data.store=true"]) == configuration.load()


@pytest.mark.parametrize("value", ["false", "null", "1"])
def test_streaming_without_a_store_is_refused_with_advice(write, value):
    path = write(f"data:\n  store: {value}\n")
    with pytest.raises(UserError, match=r"line 2: data\.store: .* was removed\. Delete this"):
        configuration.load(path)
    with pytest.raises(UserError, match=rf"^--set data\.store={value}: data\.store: "):
        configuration.load(None, [f"data.store={value}"])


# The default precision was float32 until November 2026.


def test_a_file_of_all_settings_without_a_precision_means_float32(tmp_path):
    config = configuration.load()
    assert config.training.precision == "auto"
    configuration.save_run(config, tmp_path)
    path = tmp_path / "config.yml"
    assert configuration.load(path) == config
    text = path.read_text().replace("  precision: auto\n", "")
    path.write_text(text)
    assert configuration.load(path).training.precision == "float32"
    assert configuration.load(path, ["training.precision=auto"]) == config
    path.write_text(text.partition("\n")[2])  # As before files had a first line.
    assert configuration.load(path) == config
    for name in ("checkpoints", "model.weights.h5"):
        (tmp_path / name).mkdir()
        assert configuration.load(path).training.precision == "float32"
        (tmp_path / name).rmdir()


def test_an_experiments_file_without_a_precision_means_auto(write):
    assert configuration.load(write("model: {levels: 2}\n")).training.precision == "auto"
