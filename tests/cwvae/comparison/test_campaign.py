"""Tests of comparisons that train first: their files, the scripts they start, and their records.

Most tests replace train.py and eval.py by `Scripts`, which writes the same files without training.
"""

import concurrent.futures
import contextlib
import csv
import dataclasses
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import types

import psutil
import pytest
from helpers import plain, results
from helpers.scripts import ROOT, TINY, Training, refused, run, succeed

from cwvae import comparison
from cwvae import config as configuration
from cwvae.commands.evaluate import folder_for
from cwvae.comparison import campaign, costs, processes
from cwvae.comparison.runs import by_data, read
from cwvae.errors import UserError
from cwvae.evaluation.results import digest
from cwvae.run import checkpoints
from cwvae.run import folder as run_folder

# The file of a comparison of two runs.
TWO = """
shared:
  training: {steps: 6, seq_len: 20, batch_size: 4}
  evaluation: {horizon: 30}
runs:
  CW-VAE:
    model: {levels: 2}
  VTA:
    model: {name: vta}
    training: {steps: 4}
"""


@pytest.fixture
def write(tmp_path):
    """Writes a comparison's file."""

    def write(text=TWO, name="comparison.yml"):
        path = tmp_path / name
        path.write_text(text)
        return path

    return write


def refusal(path, overrides=()):
    with pytest.raises(UserError) as caught:
        configuration.load_comparison(path, overrides)
    return str(caught.value)


def without_seeds(path, overrides=()):
    """Returns {name: configuration} of a file without seeds."""
    configs = configuration.load_comparison(path, overrides).runs
    assert all(list(by_seed) == [None] for by_seed in configs.values())
    return {name: by_seed[None] for name, by_seed in configs.items()}


# The file.


def test_a_run_has_the_defaults_then_shared_then_own_settings(write):
    configs = without_seeds(write())
    assert list(configs) == ["CW-VAE", "VTA"]
    first, second = configs.values()
    alone = ["training.steps=6", "training.seq_len=20", "training.batch_size=4"]
    alone += ["evaluation.horizon=30"]
    assert first == configuration.load(None, [*alone, "model.levels=2"])
    assert second == configuration.load(None, [*alone, "model.name=vta", "training.steps=4"])
    assert second.training.learning_rate == 0.0005  # VTA's own default


def test_shared_and_own_settings_are_optional(write):
    configs = without_seeds(write('runs:\n  "1":\n  2 b:\n    model: {levels: 4}\n'))
    assert configs["1"] == configuration.load()
    assert configs["2 b"].model.levels == 4


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["a comparison holds two sections, `shared` and `runs`"]),
        (
            "steps: 3\n",
            ["unknown key in a comparison: 'steps'", "reset_levels, runs, seeds, shared"],
        ),
        ("reset_level: true\n", ["did you mean 'reset_levels'?"]),
        ("model: {levels: 2}\n", ["this file describes one run", "python train.py --config"]),
        ("shared: {}\n", ["the section 'runs' must hold"]),
        ("runs: [a, b]\n", ["the section 'runs' must hold"]),
        ("runs: {../a: {}}\n", ["a run called '../a'", "letters"]),
        ("runs: {'': {}}\n", ["a run called ''"]),
        ("runs: {1: {}}\n", ["a run called 1", "in quotes"]),
        ("runs: {table.md: {}}\n", ["a run called 'table.md'"]),
        ("runs: {'a@': {}}\n", ["a run called 'a@'", "write NAME@DATA"]),
        ("runs: {'@b': {}}\n", ["a run called '@b'"]),
        ("runs: {'a@b@c': {}}\n", ["a run called 'a@b@c'"]),
        ("runs: {a: {}, a: {}}\n", ["line 1: the key 'a' is here for the second time"]),
        ("runs: {a: 3}\n", ["must hold the sections model, data, training, evaluation"]),
        ("runs: {a: {modle: {}}}\n", ["line 1", "did you mean 'model'?"]),
        ("runs:\n  a:\n    model:\n      level: 3\n", ["line 4", "did you mean 'levels'?"]),
        ("shared:\n  training:\n    steps: 0\nruns:\n  a:\n", ["line 3", "at least 1, not 0"]),
        (
            "shared:\n  model: {levels: 2}\nruns:\n  a:\n  b:\n    model: {name: svg}\n",
            ["line 2", "model.levels is a setting of model.name = cwvae"],
        ),
        ("runs: {a: {training: {seq_len: 101}}}\n", ["training.seq_len = 101"]),
    ],
)
def test_a_wrong_file(write, text, words):
    path = write(text)
    message = refusal(path)
    assert str(path) in message or "training.seq_len" in message
    for word in words:
        assert word in message


SEEDS = f"seeds: [0, 4]\n{TWO}"


def test_every_run_is_trained_with_every_seed(write):
    configs = configuration.load_comparison(write(SEEDS)).runs
    alone = without_seeds(write())
    for name, by_seed in configs.items():
        assert list(by_seed) == [0, 4]
        for seed, config in by_seed.items():
            assert config.training.seed == seed
            training = dataclasses.replace(config.training, seed=0)
            assert dataclasses.replace(config, training=training) == alone[name]


@pytest.mark.parametrize(
    ("seeds", "words"),
    [
        ("3", "seeds must be a list of training seeds, such as [0, 1, 2]"),
        ("[]", "seeds must be a list"),
        ("[0, a]", "seeds must be a list of whole numbers, not 'a'"),
        ("[true]", "whole numbers, not True"),
        ("[-1]", "seeds must be at least 0, not -1"),
        ("[4000000000]", "seeds must be at most 2147483647"),
        ("[1, 0, 1]", "the seed 1 is in seeds twice"),
    ],
)
def test_wrong_seeds(write, seeds, words):
    path = write(f"seeds: {seeds}\n{TWO}")
    message = refusal(path)
    assert message.startswith(f"{path}: ")
    assert words in message


def test_a_seed_next_to_seeds_is_refused(write):
    path = write(SEEDS.replace("steps: 4", "seed: 3, steps: 4"))
    assert refusal(path) == (
        f"{path}, line 11: training.seed is given by seeds in {path}. Remove one of the two."
    )
    message = refusal(write(SEEDS), ["training.seed=1"])
    assert message.startswith("--set training.seed=1: training.seed is given by seeds in")


def test_settings_of_the_command_line_change_all_runs(write):
    configs = without_seeds(write(), ["training.steps=3", "data.speed=[1, 2]"])
    for config in configs.values():
        assert (config.training.steps, config.data.speed) == (3, (1.0, 2.0))


def test_a_setting_that_a_run_does_not_have_is_refused_with_the_run(write):
    path = write()
    message = refusal(path, ["model.levels=1"])
    assert message.startswith(
        f"{path}, run VTA: --set model.levels=1: model.levels is a setting of"
    )
    assert "did you mean 'steps'" in refusal(path, ["training.stepz=1"])


def test_a_missing_file(tmp_path):
    assert "no such configuration file" in refusal(tmp_path / "none.yml")


# Checks before anything starts.


def not_planned(path, out, protocol="standard"):
    with pytest.raises(UserError) as caught:
        campaign.plan(path, out, protocol)
    return str(caught.value)


def test_runs_with_different_scoring_are_refused_before_training(write, tmp_path):
    text = TWO.replace("name: vta}", "name: vta, channels: 3}\n    evaluation: {horizon: 20}")
    message = not_planned(write(text), tmp_path / "out")
    assert "CW-VAE and VTA are both on moving_digits, but differ in what is scored" in message
    assert "model.channels: 1 in CW-VAE, 3 in VTA" in message
    assert "evaluation.horizon: 30 in CW-VAE, 20 in VTA" in message
    assert "section `shared`" in message
    assert not (tmp_path / "out").exists()


def test_runs_on_different_data_may_be_scored_differently(write, tmp_path):
    text = TWO.replace("name: vta}", "name: vta}\n    data: {name: gqn_mazes}")
    text = text.replace("steps: 4}", "steps: 4}\n    evaluation: {horizon: 20}")
    assert len(campaign.plan(write(text), tmp_path / "out", "standard")) == 2


def test_a_protocol_that_is_not_evaluated_is_refused(write, tmp_path):
    path = write(TWO.replace("{horizon: 30}", "{horizon: 30, protocol: cwvae2021}"))
    message = not_planned(path, tmp_path / "out")
    assert "CW-VAE has evaluation.protocol = 'cwvae2021'" in message
    assert len(campaign.plan(path, tmp_path / "out", "cwvae2021")) == 2


def test_a_name_of_another_row_is_refused_before_training(write, tmp_path):
    path = write(TWO.replace("  VTA:", "  copy last frame:"))
    message = not_planned(path, tmp_path / "out")
    assert message.startswith(f"{path}: the name 'copy last frame' is reserved for a row")


def test_one_name_may_be_on_several_data_sets(write, tmp_path):
    text = """
shared: {data: {name: video_folder}}
runs:
  CW-VAE@indoor: {data: {videos_dir: a/videos}}
  CW-VAE@outdoor: {data: {videos_dir: b/videos}, evaluation: {horizon: 20}}
"""
    members = campaign.plan(write(text), tmp_path / "out", "standard")
    assert [member.folder.name for member in members] == ["CW-VAE@indoor", "CW-VAE@outdoor"]
    # Folders of one name could be the same videos on another machine.
    for old, new in (("@indoor", ""), ("@outdoor", "2")):
        text = text.replace(old, new)
    message = not_planned(write(text), tmp_path / "out")
    assert "CW-VAE and CW-VAE2 are both on videos, but differ in what is scored" in message
    assert "name one of them: NAME@DATA" in message
    # Folders of other names are other data sets.
    assert len(campaign.plan(write(text.replace("b/videos", "b/v")), "out", "standard")) == 2
    text = text.replace("CW-VAE2", "CW-VAE@videos").replace(", evaluation: {horizon: 20}", "")
    message = not_planned(write(text), tmp_path / "out")
    assert "CW-VAE and CW-VAE@videos would be one row on one data set, videos" in message


def test_each_seed_has_its_folder(write, tmp_path):
    members = campaign.plan(write(SEEDS), tmp_path / "out", "standard")
    names = ["CW-VAE-seed_0", "CW-VAE-seed_4", "VTA-seed_0", "VTA-seed_4"]
    assert [member.folder.name for member in members] == names
    assert members[1].argument == f"CW-VAE={tmp_path}/out/CW-VAE-seed_4"
    assert members[1].title == "CW-VAE, seed 4"


def test_data_folders_are_relative_to_the_working_directory(write, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = write(TWO.replace("shared:", "shared:\n  data: {data_dir: here}"))
    for member in campaign.plan(path, "out", "standard"):
        assert member.config.data.data_dir == str(tmp_path / "here")


def test_a_folder_that_holds_a_run_of_another_configuration(write, tmp_path):
    (member, _) = campaign.plan(write(), tmp_path / "out", "standard")
    configuration.save_run(member.config, member.folder)
    (member.folder / "checkpoints").mkdir()
    (member.folder / "checkpoints" / "step_000000001.npz").touch()
    message = not_planned(write(TWO.replace("levels: 2", "levels: 1")), tmp_path / "out")
    assert f"{member.folder} holds a run of another configuration" in message
    assert "model.levels: 2 -> 1" in message


def test_auto_in_the_file_agrees_with_the_precision_of_a_run(write, tmp_path):
    out = tmp_path / "out"
    for member, precision in zip(
        campaign.plan(write(), out, "standard"), ("float32", "bfloat16"), strict=True
    ):
        assert member.config.training.precision == "auto"
        training = dataclasses.replace(member.config.training, precision=precision)
        recorded = dataclasses.replace(member.config, training=training)
        configuration.save_run(recorded, member.folder)
        meta = {"config": configuration.as_plain(recorded)}
        checkpoints.save(member.folder, 1, plain.Model(), meta=meta)
    campaign.plan(write(), out, "standard")
    given = write(TWO.replace("training: {steps: 6,", "training: {precision: bfloat16, steps: 6,"))
    message = not_planned(given, out)
    assert "training.precision: float32 -> bfloat16" in message


# Scripts that are started.


class Scripts:
    """Replaces training and evaluation.

    Attributes:
      calls: (script, label) in the order of their start.
      commands: {(script, label): shell command to run instead, once}.
      seconds: Duration of a script.
      shares: The share of the machine of each.
      settings: The settings of those that have some, with the name of the run's folder.
    """

    def __init__(self, now):
        self.calls, self.commands, self.seconds, self._now = [], {}, 60, now
        self.shares, self.settings = [], []

    def __call__(self, name, folder, share=None, settings=()):
        self.calls.append((name, folder.name))
        self.shares.append(share)
        if settings:
            self.settings.append((folder.name, *settings))
        self._now[0] += self.seconds
        command = self.commands.pop((name, folder.name), None)
        if not command:
            config = configuration.load(folder / "config.yml")
            train(config, folder) if name == "train" else evaluate(config, folder, settings)
        words = ["sh", "-c", command or "exit 0"]
        if not share:
            return subprocess.Popen(words)
        with open(processes.log_path(name, folder), "ab") as log:
            return subprocess.Popen(words, stdout=log, stderr=log)

    def take(self):
        calls, self.calls = self.calls, []
        return calls


def checkpoint(folder, step):
    return folder / "checkpoints" / f"step_{step:09d}.npz"


def train(config, folder):
    (folder / "checkpoints").mkdir(exist_ok=True)
    checkpoint(folder, config.training.steps).touch()


def evaluate(config, folder, settings=()):
    steps = [int(path.stem[-9:]) for path in (folder / "checkpoints").iterdir()]
    if settings:
        config = run_folder.load_config(folder, settings)
    levels = config.evaluation.observe_levels
    results.write(
        folder,
        folder_for(config, folder).name,
        step=max(steps),
        horizon=config.evaluation.horizon,
        settings=configuration.as_plain(config),
        observe_levels=levels,
        quality={None: 0.9, "FT": 0.7, "TF": 0.1}[levels],
        metrics=tuple(results.CURVES),
    )


@pytest.fixture
def scripts(monkeypatch):
    """Returns the scripts, with a clock that only they advance."""
    now = [1000.0]
    monkeypatch.setattr(processes, "time", types.SimpleNamespace(monotonic=lambda: now[0]))
    return Scripts(now)


@pytest.fixture
def go(write, tmp_path, scripts):
    """Runs a comparison; returns the signal that ended it and the scripts that were started."""

    def go(text=TWO, jobs=1, overrides=(), only=()):
        members = campaign.plan(write(text), tmp_path / "out", "standard", overrides, only)
        return campaign.run(members, tmp_path / "out", jobs, scripts), scripts.take()

    return go


ALL = [("train", "CW-VAE"), ("eval", "CW-VAE"), ("train", "VTA"), ("eval", "VTA")]


def test_each_run_is_trained_and_evaluated_once(go, tmp_path, capfd):
    assert go() == (None, ALL)
    out = tmp_path / "out"
    assert capfd.readouterr().out.splitlines() == [
        f"[1/2] CW-VAE: training, 6 steps of 4 clips of 20 frames, in {out / 'CW-VAE'} ...",
        "[1/2] CW-VAE: trained in 1 min 0 s. Evaluating ...",
        "[1/2] CW-VAE: evaluated in 1 min 0 s.",
        f"[2/2] VTA: training, 4 steps of 4 clips of 20 frames, in {out / 'VTA'} ...",
        "[2/2] VTA: trained in 1 min 0 s. Evaluating ...",
        "[2/2] VTA: evaluated in 1 min 0 s.",
    ]
    assert go() == (None, [])
    assert capfd.readouterr().out.splitlines() == [
        f"[{i}/2] {name}: trained and evaluated already, in {out / name}."
        for i, name in enumerate(["CW-VAE", "VTA"], 1)
    ]


def test_seeds_are_trained_and_compared(go, tmp_path):
    result, calls = go(SEEDS)
    assert result is None
    assert [name for _, name in calls[::2]] == [
        *("CW-VAE-seed_0", "CW-VAE-seed_4", "VTA-seed_0", "VTA-seed_4")
    ]
    more = SEEDS.replace("[0, 4]", "[0, 4, 5]")
    assert [name for _, name in go(more)[1][::2]] == ["CW-VAE-seed_5", "VTA-seed_5"]
    config = configuration.load(tmp_path / "out" / "VTA-seed_5" / "config.yml")
    assert config.training.seed == 5


def test_settings_of_the_command_line_are_kept_in_the_runs(go, tmp_path):
    changed = ["training.learning_rate=0.01", "training.steps=3"]
    assert go(overrides=changed) == (None, ALL)
    assert go(overrides=changed) == (None, [])
    for name in ("CW-VAE", "VTA"):
        config = configuration.load(tmp_path / "out" / name / "config.yml")
        assert (config.training.learning_rate, config.training.steps) == (0.01, 3)
    with pytest.raises(UserError, match=r"training\.learning_rate: 0\.01 -> 0\.0003"):
        go()


def test_changed_evaluation_settings_evaluate_again_without_training(go):
    go()
    other = TWO.replace("horizon: 30", "horizon: 25")
    assert go(other) == (None, [("eval", "CW-VAE"), ("eval", "VTA")])
    assert go(other) == (None, [])


def test_more_steps_resume_the_training(go, tmp_path, capfd):
    go()
    capfd.readouterr()
    assert go(TWO.replace("steps: 4", "steps: 9")) == (None, ALL[2:])
    assert "[2/2] VTA: training, steps 4 to 9 of 4 clips" in capfd.readouterr().out
    # A setting that does not change the weights does not require another evaluation.
    assert go(TWO.replace("steps: 4", "steps: 9, save_every: 2")) == (None, [])


@pytest.mark.parametrize("content", ["", '{"format": 1}', None])
def test_a_damaged_or_missing_evaluation_is_repeated(go, tmp_path, content):
    go()
    path = tmp_path / "out" / "CW-VAE" / "eval" / "metrics.json"
    path.unlink() if content is None else path.write_text(content)
    assert go() == (None, ALL[1:2])


def test_an_evaluation_that_was_killed_is_repeated(go, scripts, tmp_path):
    folder = tmp_path / "out" / "CW-VAE"
    aside = folder / ".eval.0123abcd.tmp"
    half = f"mkdir {aside}; cp {tmp_path}/whole.json {aside}/metrics.json"
    go()
    shutil.move(folder / "eval" / "metrics.json", tmp_path / "whole.json")
    scripts.commands["eval", "CW-VAE"] = f"{half}; kill -KILL $$"
    with pytest.raises(campaign.ScriptFailed, match="was ended by SIGKILL"):
        go()
    scripts.take()
    assert go() == (None, ALL[1:2])


def test_an_evaluation_of_a_deleted_training_is_not_reused(go, scripts, tmp_path):
    go()
    shutil.rmtree(tmp_path / "out" / "VTA" / "checkpoints")
    train_and_die = f"mkdir {tmp_path}/out/VTA/checkpoints;"
    train_and_die += f"touch {checkpoint(tmp_path / 'out' / 'VTA', 4)}; kill -KILL $$"
    scripts.commands["train", "VTA"] = train_and_die
    with pytest.raises(campaign.ScriptFailed):
        go()
    scripts.take()
    assert go() == (None, ALL[3:])


def test_more_training_removes_the_evaluation_at_once(go, scripts, tmp_path):
    go()
    folder = tmp_path / "out" / "VTA"
    (folder / "eval" / "report.html").write_text("of step 4")
    scripts.commands["train", "VTA"] = f"test ! -e {folder}/eval && exit 7"
    with pytest.raises(campaign.ScriptFailed, match="exit code 7"):
        go(TWO.replace("steps: 4", "steps: 9"))


def test_an_evaluation_of_an_older_checkpoint_is_reported(go, scripts, tmp_path):
    # A damaged checkpoint is set aside, and the one before it is evaluated.
    folder = tmp_path / "out" / "CW-VAE"
    newest, older = checkpoint(folder, 6), checkpoint(folder, 3)
    scripts.commands["eval", "CW-VAE"] = f"mv {newest} {older}"
    with pytest.raises(UserError, match="the evaluation is not of step 6 of this configuration"):
        go()
    scripts.take()
    assert go() == (None, ALL[:2])


# Levels that are evaluated blind.

RESETS = f"reset_levels: true\n{TWO}"
FAST = "eval-observe_levels_FT,lpips_false,fvd_false"
SLOW = "eval-observe_levels_TF,lpips_false,fvd_false"


@pytest.mark.parametrize("value", ["3", "fast", "[0, 1]", "null"])
def test_reset_levels_is_true_or_false(write, value):
    path = write(f"reset_levels: {value}\n{TWO}")
    assert refusal(path).startswith(f"{path}: reset_levels must be true or false, not ")


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("levels: 2", "levels: 1", "no run has several levels (model.levels)"),
        ("{horizon: 30}", "{horizon: 30, readout: false}", "evaluation.readout = false, but"),
        (
            "{levels: 2}",
            "{levels: 2}\n    evaluation: {observe_levels: TF}",
            "evaluation.observe_levels = TF leaves a level blind already",
        ),
    ],
)
def test_runs_whose_levels_cannot_be_blind(write, old, new, words):
    path = write(RESETS.replace(old, new))
    message = refusal(path)
    assert message.startswith(f"{path}")
    assert words in message


def test_levels_are_not_blind_unless_the_file_says_so(write):
    assert not configuration.load_comparison(write()).reset_levels
    assert not configuration.load_comparison(write(f"reset_levels: false\n{TWO}")).reset_levels
    assert configuration.load_comparison(write(RESETS)).reset_levels


def test_each_level_of_a_run_with_several_is_evaluated_blind(go, scripts, tmp_path, capfd):
    assert go(RESETS) == (None, [*ALL[:2], ALL[1], ALL[1], *ALL[2:]])
    off = ("evaluation.lpips=false", "evaluation.fvd=false")
    assert [(name, sorted(words)) for name, *words in scripts.settings] == [
        ("CW-VAE", sorted([f"evaluation.observe_levels={flags}", *off])) for flags in ("FT", "TF")
    ]
    folder = tmp_path / "out" / "CW-VAE"
    assert {path.name for path in folder.glob("eval*")} == {"eval", FAST, SLOW}
    lines = capfd.readouterr().out.splitlines()
    assert lines[2:7] == [
        "[1/2] CW-VAE: evaluated in 1 min 0 s.",
        "[1/2] CW-VAE: evaluating with level 1 (fastest) blind ...",
        "[1/2] CW-VAE: evaluated with level 1 (fastest) blind in 1 min 0 s.",
        "[1/2] CW-VAE: evaluating with level 2 (slowest) blind ...",
        "[1/2] CW-VAE: evaluated with level 2 (slowest) blind in 1 min 0 s.",
    ]
    assert go(RESETS) == (None, [])
    assert go() == (None, [])


def test_a_blind_evaluation_is_added_to_a_finished_run(go):
    go()
    assert go(RESETS) == (None, [ALL[1], ALL[1]])


def test_an_interrupted_blind_evaluation_is_repeated_alone(go, scripts, tmp_path):
    go(RESETS)
    scripts.settings.clear()
    (tmp_path / "out" / "CW-VAE" / SLOW / "metrics.json").write_text("")
    assert go(RESETS) == (None, [ALL[1]])
    assert "evaluation.observe_levels=TF" in scripts.settings[0]
    # A setting of the evaluation changes all.
    scripts.settings.clear()
    assert go(RESETS.replace("horizon: 30", "horizon: 25"))[1].count(ALL[1]) == 3


def test_a_signal_ends_the_blind_evaluations(go, scripts, monkeypatch):
    go()
    scripts.commands["eval", "CW-VAE"] = "kill -TERM $PPID; while :; do sleep .01; done"
    assert go(RESETS) == (signal.SIGTERM, [ALL[1]])
    assert go(RESETS) == (None, [ALL[1], ALL[1]])


def test_more_training_removes_the_blind_evaluations_at_once(go, scripts, tmp_path):
    go(RESETS)
    folder = tmp_path / "out" / "CW-VAE"
    scripts.commands["train", "CW-VAE"] = (
        f"test ! -e {folder}/{FAST} && test ! -e {folder}/{SLOW} && exit 7"
    )
    with pytest.raises(campaign.ScriptFailed, match="exit code 7"):
        go(RESETS.replace("{steps: 6,", "{steps: 9,"))


def test_eval_gets_the_settings(tmp_path, monkeypatch):
    started = []
    monkeypatch.setattr(subprocess, "Popen", lambda words, **_: started.append(words))
    processes.start_script("eval", tmp_path, settings=["evaluation.fvd=false"])
    assert started[0][-4:] == ["--logdir", str(tmp_path), "--set", "evaluation.fvd=false"]


def compared(write, tmp_path, text):
    """Compares the runs of a file; returns the rows of the table of reset levels."""
    out = tmp_path / "out"
    members = campaign.plan(write(text), out, "standard")
    resets = [word for member in members for word in member.reset_arguments]
    words = [member.argument for member in members]
    shown, files = comparison.compare(words, out, resets=resets)
    assert {"reset_levels.md", "reset_levels.csv", "reset_levels.tex"} <= {p.name for p in files}
    assert (out / "reset_levels.md").read_text() in shown
    with open(out / "reset_levels.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_the_table_of_reset_levels(go, write, tmp_path):
    go(RESETS)
    rows = {row.pop("model"): row for row in compared(write, tmp_path, RESETS)}
    names = ["none", "fastest", "slowest"]
    bounds = ["true frames", "random training frame"]
    assert [*rows] == [*(f"CW-VAE, blind: {name}" for name in names), *bounds]
    column = "moving_digits digits right [%], {}"
    for name, folder in zip(names, ("eval", FAST, SLOW), strict=True):
        path = tmp_path / "out" / "CW-VAE" / folder / "metrics.json"
        score = json.loads(path.read_text())["scores"]["cwvae"]["readout_digits"]
        row = rows[f"CW-VAE, blind: {name}"]
        assert row[column.format("first 10")] == f"{score['mean_soon']:.2f}"
        assert row[column.format("all")] == f"{score['mean']:.2f}"
    assert [*rows[bounds[0]].values()] == ["98.00", "98.00", "0.50", "0.50"]
    assert rows[bounds[1]][column.format("all")] == "20.00"
    text = (tmp_path / "out" / "reset_levels.md").read_text()
    assert "digits right [%], all ↑" in text
    assert "position error [pixels], first 10 ↓" in text
    assert "digits right: readout 1a2b, trained on true frames." in text
    # The next comparison without it removes it.
    comparison.compare([f"A={tmp_path / 'out' / 'CW-VAE'}"], tmp_path / "out")
    assert not list((tmp_path / "out").glob("reset_levels.*"))


def test_the_table_of_reset_levels_has_seeds(go, write, tmp_path):
    go(f"seeds: [0, 4]\n{RESETS}")
    rows = compared(write, tmp_path, f"seeds: [0, 4]\n{RESETS}")
    seeds = [row["seed"] for row in rows if row["model"] == "CW-VAE, blind: slowest"]
    assert seeds == ["mean", "95% half-width", "0", "4"]


def test_blind_evaluations_of_another_readout_are_refused(go, write, tmp_path):
    go(RESETS)
    path = tmp_path / "out" / "CW-VAE" / FAST / "metrics.json"
    content = json.loads(path.read_text())
    content["metrics"]["readout_digits"]["protocol"] = "readout 2b"
    path.write_text(json.dumps(content | {"sha256": digest(content)}))
    with pytest.raises(UserError, match=r"protocol of digits right: readout 2b in .*FT"):
        compared(write, tmp_path, RESETS)


# A selection of the runs.


def test_only_some_runs_are_trained_and_the_others_later(go):
    assert go(only=["VTA"]) == (None, ALL[2:])
    assert go() == (None, ALL[:2])


def test_one_seed_or_all_seeds_are_selected(write, tmp_path):
    def names(*only):
        members = campaign.plan(write(SEEDS), tmp_path / "out", "standard", only=only)
        return [member.folder.name for member in members]

    assert names("VTA-seed_4") == ["VTA-seed_4"]
    assert names("VTA-seed_4", "CW-VAE") == ["CW-VAE-seed_0", "CW-VAE-seed_4", "VTA-seed_4"]


def test_an_unknown_name_lists_the_names(write, tmp_path):
    with pytest.raises(UserError) as caught:
        campaign.plan(write(SEEDS), tmp_path / "out", "standard", only=["VTA", "CWVAE"])
    assert str(caught.value) == (
        "--only CWVAE: unknown run 'CWVAE'; did you mean 'CW-VAE'? Valid: CW-VAE, VTA. One seed"
        " of a run: CW-VAE-seed_0."
    )
    with pytest.raises(UserError, match=r"Valid: CW-VAE, VTA\.$"):
        campaign.plan(write(), tmp_path / "out", "standard", only=["VTA-seed_0"])


# Scripts that fail, and signals.


@pytest.mark.parametrize(
    ("command", "code", "words"),
    [
        ("echo 'error: no disk' >&2; exit 2", 2, "train.py ended with exit code 2"),
        ("kill -KILL $$", 137, "train.py was ended by SIGKILL, which happens when memory runs out"),
        ("kill -TERM $$", 143, "train.py was ended by SIGTERM."),
    ],
)
@pytest.mark.parametrize("jobs", [1, 2])
def test_after_a_script_that_fails_the_other_runs_go_on(
    go, scripts, tmp_path, capfd, command, code, words, jobs
):
    folder = tmp_path / "out" / "CW-VAE"
    scripts.commands["train", "CW-VAE"] = command
    with pytest.raises(campaign.ScriptFailed) as caught:
        go(jobs=jobs)
    assert caught.value.exit_code == code
    message = str(caught.value)
    assert message.startswith(f"{folder}: python {words}")
    assert message.endswith("Fix the cause, then run the same command to resume.")
    out, err = capfd.readouterr()
    assert f"[1/2] CW-VAE: failed. {message}\n" in out
    said = "error: no disk\n" * ("error" in command)
    if jobs == 1:
        assert err == said
    else:
        assert (folder / "train.log").read_text() == said
        assert err == ""
        assert f"Its output is in {folder / 'train.log'}." in message
        assert said in message
    assert sorted(scripts.take()) == sorted([ALL[0], *ALL[2:]])
    assert go() == (None, ALL[:2])


def test_all_failures_are_reported(go, scripts):
    scripts.commands["train", "CW-VAE"] = "exit 3"
    scripts.commands["eval", "VTA"] = "exit 4"
    with pytest.raises(campaign.ScriptFailed) as caught:
        go()
    assert caught.value.exit_code == 3
    message = str(caught.value)
    assert message.startswith("2 of 2 runs failed:\n\n")
    assert "python train.py ended with exit code 3; see its message above. Fix the" in message
    assert "python eval.py ended with exit code 4; see its message above. Fix the" in message


def test_only_the_last_error_of_a_log_is_shown(go, scripts, tmp_path):
    (tmp_path / "out" / "CW-VAE").mkdir(parents=True)
    (tmp_path / "out" / "CW-VAE" / "train.log").write_text("error: of an earlier session\n")
    said = r"printf '10%%\r20%%\rerror: one\nwarning: x\nerror: two,\n  on two lines\n'; exit 2"
    scripts.commands["train", "CW-VAE"] = said
    with pytest.raises(campaign.ScriptFailed) as caught:
        go(jobs=2)
    assert "It ends with:\nerror: two,\n  on two lines\nFix the cause" in str(caught.value)
    scripts.commands |= {("train", "CW-VAE"): "exit 2", ("eval", "VTA"): "exit 2"}
    with pytest.raises(campaign.ScriptFailed) as caught:
        go(TWO.replace("steps: 4", "steps: 5"), jobs=2)
    assert "train.log. Fix the cause" in str(caught.value)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("name", ["train", "eval"])
def test_a_signal_ends_the_script_and_then_the_comparison(go, scripts, tmp_path, name, number):
    before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    folder = tmp_path / "out" / "CW-VAE"
    saves = f"mkdir -p {folder}/checkpoints; touch {checkpoint(folder, 2)}"
    command = (
        f"trap '{saves}; exit 143' TERM; kill -{number.value} $PPID; while :; do sleep .01; done"
    )
    scripts.commands[name, "CW-VAE"] = command
    assert go() == (number, ALL[: ALL.index((name, "CW-VAE")) + 1])
    assert checkpoint(folder, 2).exists()  # The script was waited for.
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == before
    assert go() == (None, ALL[ALL.index((name, "CW-VAE")) :])


def test_no_script_keeps_running_after_an_error(go, scripts, tmp_path, monkeypatch):
    # The file of times is damaged while the script runs, which ends the comparison.
    folder = tmp_path / "out" / "CW-VAE"
    ended = f"trap 'touch {tmp_path}/ended; exit 143' TERM"
    damage = f"{ended}; echo x > {folder}/seconds.json; while :; do sleep .01; done"
    scripts.commands["train", "CW-VAE"] = damage
    monkeypatch.setattr(processes, "_TICK", 0.2)
    with pytest.raises(UserError, match="damaged"):
        go()
    assert (tmp_path / "ended").exists()


FOUR = "runs:\n" + "".join(f"  {name}: {{training: {{steps: 2}}}}\n" for name in "abcd")


def test_runs_side_by_side_divide_the_cores(go, scripts, monkeypatch, capfd):
    cores, used = sorted(os.sched_getaffinity(0)), []
    monkeypatch.setattr(processes, "_gpus", list)
    monkeypatch.setattr(os, "sched_setaffinity", lambda _, own: used.append(list(own)))
    _, calls = go(FOUR, jobs=2)
    assert sorted(calls) == sorted(
        (script, name) for script in ("train", "eval") for name in "abcd"
    )
    half = len(cores) // 2
    assert sorted(used) == ([cores[:half], cores[half:]] if half else [cores, cores])
    assert all(share.environment == {"TQDM_MININTERVAL": "60"} for share in scripts.shares)
    lines = capfd.readouterr().out.splitlines()
    assert len(lines) == 4 * 3
    assert all(line.startswith("[") for line in lines)
    # With one run left, it has the whole machine and shows its progress.
    scripts.shares.clear()
    go(FOUR.replace("d: {training: {steps: 2", "d: {training: {steps: 4"), jobs=2)
    assert scripts.shares == [None, None]


def test_affinity_is_that_of_one_thread():
    before = os.sched_getaffinity(0)
    scripts = processes.Scripts()
    share = processes.Share([min(before)], {})

    def child():
        scripts.use(share)
        words = ["-c", "import os; print(*os.sched_getaffinity(0))"]
        return subprocess.check_output([sys.executable, *words], text=True)

    with concurrent.futures.ThreadPoolExecutor(1) as threads:
        assert threads.submit(child).result() == f"{min(before)}\n"
    assert os.sched_getaffinity(0) == before


@pytest.mark.parametrize(
    ("visible", "jobs", "want"),
    [
        (None, 2, ["0", "1"]),
        (None, 3, ["0", "1", "0"]),
        ("3, 5", 2, ["3", "5"]),
        ("GPU-1a2b", 2, ["GPU-1a2b"] * 2),
        ("", 2, [None, None]),
        ("-1", 2, [None, None]),
    ],
)
def test_runs_side_by_side_have_a_gpu_each(monkeypatch, tmp_path, visible, jobs, want):
    command = tmp_path / "nvidia-smi"
    command.write_text("#!/bin/sh\necho 'GPU 0: H100 (UUID: a)'; echo 'GPU 1: H100 (UUID: b)'\n")
    command.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    shares = [share.environment for share in processes.shares(jobs)]
    assert [share.get("CUDA_VISIBLE_DEVICES") for share in shares] == want
    # Processes that share a GPU must not take all its memory.
    shared = want[0] is not None and len(set(want)) < jobs
    assert all(("TF_FORCE_GPU_ALLOW_GROWTH" in share) == shared for share in shares)


def test_without_a_driver_there_are_no_gpus(monkeypatch, tmp_path):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert all("CUDA_VISIBLE_DEVICES" not in share.environment for share in processes.shares(2))


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_shares_use_all_cores(monkeypatch, count):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(count)))
    for jobs in range(1, 7):
        cores = [share.cores for share in processes.shares(jobs)]
        assert all(cores)
        assert {core for own in cores for core in own} == set(range(count))
        assert jobs > count or sum(map(len, cores)) == count


def test_a_signal_ends_all_scripts(go, scripts, tmp_path):
    for name in "ab":
        wait = "while :; do sleep .01; done"
        scripts.commands["train", name] = (
            f"trap 'touch {tmp_path}/{name}; exit 143' TERM; touch {tmp_path}/on-{name}; {wait}"
        )
    both = f"until [ -e {tmp_path}/on-a -a -e {tmp_path}/on-b ]; do sleep .01; done"
    scripts.commands["train", "c"] = f"{both}; kill -TERM $PPID; {wait}"
    assert go(FOUR, jobs=3)[0] == signal.SIGTERM
    assert (tmp_path / "a").exists()
    assert (tmp_path / "b").exists()
    assert ("train", "d") not in scripts.calls


@pytest.mark.skipif(sys.platform != "linux", reason="needs prctl")
def test_a_script_ends_with_a_killed_parent(tmp_path):
    # The launcher starts a process that sleeps instead of train.py.
    program = f"""
import sys, time, pathlib
from cwvae.comparison import processes
processes._LAUNCHER = processes._LAUNCHER.replace(
    "[sys.executable, *sys.argv[2:]]", "[sys.executable, '-c', 'import time; time.sleep(60)']"
)
process = processes.start_script("train", pathlib.Path({str(tmp_path)!r}))
print(process.pid, flush=True)
time.sleep(60)
"""
    words = [sys.executable, "-c", program]
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True) as parent:
        child = psutil.Process(int(parent.stdout.readline()))
        deadline = time.monotonic() + 20
        while "time.sleep(60)" not in " ".join(child.cmdline()):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        parent.kill()
        gone, _ = psutil.wait_procs([child], timeout=20)
    assert gone


def test_one_comparison_at_a_time(go, tmp_path):
    with (
        run_folder.locked(tmp_path / "out"),
        pytest.raises(UserError, match="another --out") as caught,
    ):
        go()
    assert "--logdir" not in str(caught.value)


def test_a_training_in_the_same_folder_is_not_disturbed(go, tmp_path):
    folder = tmp_path / "out" / "CW-VAE"
    with run_folder.locked(folder), pytest.raises(UserError, match="is at work in this folder"):
        go()
    assert not (folder / "config.yml").exists()


def test_a_folder_that_cannot_be_written(go, tmp_path):
    (tmp_path / "out").write_text("in the way")
    with pytest.raises(UserError, match=r"--out .*: cannot write there"):
        go()


# Times and costs.


def test_times_are_the_sum_over_sessions(go, scripts, tmp_path):
    folder = tmp_path / "out" / "CW-VAE"
    scripts.seconds = 100
    scripts.commands["train", "CW-VAE"] = (
        f"mkdir {folder}/checkpoints; touch {checkpoint(folder, 3)}; exit 1"
    )
    with contextlib.suppress(campaign.ScriptFailed):
        go()
    assert costs.read_seconds(folder) == {"training": 100}
    scripts.seconds = 30.26
    go()
    assert costs.read_seconds(folder) == {"training": 130.3, "evaluation": 30.3}
    scripts.seconds = 7
    go(TWO.replace("horizon: 30", "horizon: 25"))
    assert costs.read_seconds(folder) == {"training": 130.3, "evaluation": 7}


def test_a_restarted_training_counts_from_zero(go, scripts, tmp_path):
    go()
    shutil.rmtree(tmp_path / "out" / "VTA" / "checkpoints")
    scripts.seconds = 5
    go()
    assert costs.read_seconds(tmp_path / "out" / "VTA") == {"training": 5, "evaluation": 5}


@pytest.mark.parametrize(
    "content",
    ['{"training": ', '{"training": true}', '{"training": 1e999}', '{"training": "5"}', "[5]"],
)
def test_damaged_times_are_reported_before_anything_starts(go, scripts, tmp_path, content):
    folder = tmp_path / "out" / "CW-VAE"
    folder.mkdir(parents=True)
    (folder / "seconds.json").write_text(content)
    with pytest.raises(UserError, match=r"seconds\.json: damaged\. Delete it"):
        go()
    assert scripts.take() == []


def test_the_table_of_costs(tmp_path):
    runs = {"A": {"training": 4620.2, "evaluation": 61}, "B|C": {}}
    for number, (label, seconds) in enumerate(runs.items(), 1):
        settings = configuration.as_plain(configuration.load())
        settings["training"] |= {"batch_size": 16 * number, "seq_len": 30}
        folder = results.write(tmp_path / label, settings=settings, step=1000, weights=1419377)
        for part, value in seconds.items():
            costs.write_seconds(folder, part, value)
    texts = costs.texts(by_data(read([f"{label}={tmp_path / label}" for label in runs])))
    assert list(texts) == ["training.md", "training.csv", "training.tex"]
    table = csv.DictReader(io.StringIO(texts["training.csv"]))
    rows = {row["model"]: [*row.values()][1:] for row in table}
    assert rows == {
        "A": ["1.42", "1000", "480", "0.48", "77.0", "1.0"],
        "B|C": ["1.42", "1000", "960", "0.96", "", ""],
    }
    assert "| A | 1.42 | 1000 | 480 | 0.48 | 77.0 | 1.0 |" in texts["training.md"]
    (tmp_path / "A" / "seconds.json").unlink()
    table = csv.DictReader(
        io.StringIO(costs.texts(by_data(read([str(tmp_path / "A")])))["training.csv"])
    )
    assert not [name for name in table.fieldnames if "Wall time" in name]


def test_the_costs_of_seeds(tmp_path):
    words = []
    for seed, minutes in ((0, 2), (1, 4)):
        folder = results.write(tmp_path / f"{seed}", settings__training__seed=seed)
        costs.write_seconds(folder, "training", 60 * minutes)
        costs.write_seconds(folder, "evaluation", 60) if seed else None
        words.append(f"A={folder}")
    texts = costs.texts(by_data(read(words)))
    rows = list(csv.DictReader(io.StringIO(texts["training.csv"])))
    # Half of the 95% interval of two values 2 apart is 12.706.
    assert [(row["seed"], row["Wall time Training [min]"]) for row in rows] == [
        *(("mean", "3.0"), ("95% half-width", "12.7"), ("0", "2.0"), ("1", "4.0"))
    ]
    assert [row["Training Steps"] for row in rows] == ["12", "", "12", "12"]
    assert "Wall time Evaluation [min]" not in rows[0]  # One run lacks it.
    assert "3.0 ± 12.7" in texts["training.md"]


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.4, "0 s"), (59.4, "59 s"), (59.6, "1 min 0 s"), (462, "7 min 42 s"), (7501, "2 h 5 min")],
)
def test_durations_in_words(seconds, words):
    assert costs.duration(seconds) == words


# The command.


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--train", "a.yml"], "required: --out"),
        (["logs/a", "--train", "a.yml", "--out", "b"], "--train FILE, but not both"),
        (["--out", "b"], "--train FILE to train runs first"),
        (["--train", "--out", "b"], "--train: expected one argument"),
        (["logs/a", "--only", "a", "--out", "b"], "--only is for --train FILE"),
        (["model.factor=4"], "with --train FILE, or to a script: python train.py --config"),
    ],
)
def test_a_wrong_command_line(no_tensorflow, words, expected):
    result = run("compare.py", *words, env=no_tensorflow)
    assert result.returncode == 2
    assert result.stderr.startswith("usage: ")
    assert expected in result.stderr
    assert result.stdout == ""


def test_a_wrong_configuration_starts_nothing(no_tensorflow, write, tmp_path):
    path = write(TWO.replace("steps: 4", "stepz: 4"))
    command = ("compare.py", "--train", path, "--out", tmp_path / "out")
    message = refused(run(*command, env=no_tensorflow))
    assert message.startswith(f"{path}, line 10: ")
    assert "did you mean 'steps'?" in message
    assert not (tmp_path / "out").exists()


def tiny(labels, seeds=None, **changes):
    """Returns the file of a comparison of tiny runs, with changes as in `scripts.sets`."""
    values = TINY | {"evaluation.num_samples": 1, "data.num_digits": 1}
    values |= {name.replace("__", "."): value for name, value in changes.items()}
    shared = {}
    for name, value in values.items():
        section, _, key = name.partition(".")
        shared.setdefault(section, {})[key] = value
    factors = {"CW-VAE": 3, "NoTmpAbs": 1}
    runs = {label: {"model": {"factor": factors[label]}} for label in labels}
    content = {"shared": shared, "runs": runs} | ({"seeds": seeds} if seeds else {})
    return json.dumps(content)


@pytest.mark.slow
def test_from_nothing_to_tables_also_of_blind_levels(write, tmp_path):
    out = tmp_path / "out"
    text = tiny(["CW-VAE", "NoTmpAbs"], evaluation__readout=True, model__frame_size=32)
    path = write(json.dumps({"reset_levels": True} | json.loads(text)))
    command = ("compare.py", "--train", path, "--out", out, "--only", "CW-VAE")
    result = succeed(*command, "--protocol", "cwvae2021")
    blind = "evaluated with level 2 (slowest) blind in "
    for words in ("trained in ", "evaluated in ", blind):
        assert f"[1/1] CW-VAE: {words}" in result.stdout
    assert "To evaluate" not in result.stdout  # advice that the scripts print
    assert "Step 2 of 2" in result.stderr  # train.py says what it does
    assert not (out / "NoTmpAbs").exists()
    with open(out / "table.csv", newline="") as file:
        assert next(csv.DictReader(file))["model"] == "CW-VAE"
    with open(out / "training.csv", newline="") as file:
        (row,) = csv.DictReader(file)
    assert (row["Training Steps"], row["Training Frames per step"]) == ("2", "12")
    assert float(row["Wall time Training [min]"]) > 0
    (line,) = re.findall(r"Written to .*", result.stdout)
    for name in ("table.md", "psnr.png", "training.md"):
        assert (out / name).suffix != ".md" or (out / name).read_text() in result.stdout
        assert name in line
        assert (out / name).exists()
    assert "cwvae2021" in (out / "table.md").read_text()

    folder = out / "CW-VAE"
    assert {p.name for p in folder.glob("eval*")} == {"eval", FAST, SLOW}
    for name, flags in (("eval", None), (FAST, "FT"), (SLOW, "TF")):
        found = json.loads((folder / name / "metrics.json").read_text())
        assert (found["observe_levels"], found["step"], found["fvd"]) == (flags, 2, None)
    with open(out / "reset_levels.csv", newline="") as file:
        rows = {row.pop("model"): [*row.values()] for row in csv.DictReader(file)}
    assert len(rows) == 5
    assert all(all(values) for values in rows.values())
    assert "**What predictions still show if one level" in result.stdout

    again = succeed(*command)
    assert "[1/1] CW-VAE: trained and evaluated already" in again.stdout
    assert again.stderr == ""
    assert "standard: " in again.stdout


@pytest.mark.slow
def test_two_seeds_side_by_side(write, tmp_path):
    out, labels = tmp_path / "out", ["CW-VAE"]
    path = write(tiny(labels, seeds=[0, 7]))
    words = ["--train", path, "--out", out, "--jobs", 2, "--set", "training.steps=3"]
    # From another folder, in which Python would not find the package.
    command = [sys.executable, ROOT / "compare.py", *map(str, words)]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=1800)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    for number, name in enumerate(["CW-VAE, seed 0", "CW-VAE, seed 7"], 1):
        assert f"[{number}/2] {name}: evaluated in " in result.stdout
    rows = {}
    with open(out / "table.csv", newline="") as file:
        for row in csv.DictReader(file):
            rows[row["model"], row["seed"]] = float(row["moving_digits PSNR"])
    for label in labels:
        folders = [out / f"{label}-seed_{seed}" for seed in (0, 7)]
        means = []
        for folder in folders:
            assert "Step 3 of 3" in (folder / "train.log").read_text()
            assert (folder / "eval.log").read_text()
            scores = json.loads((folder / "eval" / "metrics.json").read_text())["scores"]
            means.append(scores["cwvae"]["psnr"]["mean"])
        assert means[0] != means[1]
        for row, value in (("mean", sum(means) / 2), ("0", means[0]), ("7", means[1])):
            assert abs(rows[label, row] - value) <= 0.005 + 1e-9
    assert "means over 2 training seeds ±" in result.stdout
    again = succeed("compare.py", *words)
    assert again.stdout.count("trained and evaluated already") == 2
    # The same runs, given by hand, make the same table.
    by_hand = [f"{label}={out / f'{label}-seed_{seed}'}" for seed in (0, 7) for label in labels]
    succeed("compare.py", *by_hand, "--out", tmp_path / "by_hand")
    for name in ("table.md", "table.csv", "psnr.png", "kl.csv"):
        assert (tmp_path / "by_hand" / name).read_bytes() == (out / name).read_bytes()


@pytest.mark.slow
def test_a_stopped_comparison_resumes(write, tmp_path):
    out, labels = tmp_path / "out", ["CW-VAE", "NoTmpAbs"]
    many = write(tiny(labels, training__steps=1000000), "many.yml")
    process = Training(out, ["compare.py", "--train", many, "--out", out], None)
    lines = out / "CW-VAE" / "metrics.jsonl"
    process.wait_for(lambda: lines.is_file() and lines.stat().st_size)
    process.send(signal.SIGINT)
    assert process.wait() == 130
    assert "Traceback" not in process.err()
    assert process.out().endswith("Stopped. Run the same command to resume.\n")
    (saved,) = (out / "CW-VAE" / "checkpoints").iterdir()
    step = int(saved.stem[-9:])
    few = write(tiny(labels, training__steps=step + 2), "few.yml")
    result = succeed("compare.py", "--train", few, "--out", out)
    assert f"CW-VAE: training, steps {step:,} to {step + 2:,} of" in result.stdout
    with open(out / "training.csv", newline="") as file:
        rows = {row["model"]: row for row in csv.DictReader(file)}
    assert [*rows] == labels
    for column in ("Model Weights [millions]", "Training Steps"):
        assert rows["CW-VAE"][column] == rows["NoTmpAbs"][column]
