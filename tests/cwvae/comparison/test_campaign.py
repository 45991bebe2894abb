"""Tests of comparisons that train first: their files, the scripts they start, and their records.

Most tests replace train.py and eval.py by `Scripts`, which writes the same files without training.
"""

import contextlib
import csv
import io
import json
import re
import shutil
import signal
import subprocess
import types

import pytest
from helpers import results
from helpers.scripts import TINY, Training, refused, run, succeed

from cwvae import config as configuration
from cwvae.comparison import campaign, costs
from cwvae.comparison.runs import read
from cwvae.errors import UserError
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


def refusal(path):
    with pytest.raises(UserError) as caught:
        configuration.load_comparison(path)
    return str(caught.value)


# The file.


def test_a_run_has_the_defaults_then_shared_then_own_settings(write):
    configs = configuration.load_comparison(write())
    assert list(configs) == ["CW-VAE", "VTA"]
    first, second = configs.values()
    alone = ["training.steps=6", "training.seq_len=20", "training.batch_size=4"]
    alone += ["evaluation.horizon=30"]
    assert first == configuration.load(None, [*alone, "model.levels=2"])
    assert second == configuration.load(None, [*alone, "model.name=vta", "training.steps=4"])
    assert second.training.learning_rate == 0.0005  # VTA's own default


def test_shared_and_own_settings_are_optional(write):
    configs = configuration.load_comparison(
        write('runs:\n  "1":\n  2 b:\n    model: {levels: 4}\n')
    )
    assert configs["1"] == configuration.load()
    assert configs["2 b"].model.levels == 4


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["a comparison holds two sections, `shared` and `runs`"]),
        ("steps: 3\n", ["two sections"]),
        ("model: {levels: 2}\n", ["this file describes one run", "python train.py --config"]),
        ("shared: {}\n", ["the section 'runs' must hold"]),
        ("runs: [a, b]\n", ["the section 'runs' must hold"]),
        ("runs: {../a: {}}\n", ["a run called '../a'", "letters"]),
        ("runs: {'': {}}\n", ["a run called ''"]),
        ("runs: {1: {}}\n", ["a run called 1", "in quotes"]),
        ("runs: {table.md: {}}\n", ["a run called 'table.md'"]),
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


# Scripts that are started.


class Scripts:
    """Replaces training and evaluation.

    Attributes:
      calls: (script, label) in the order of their start.
      commands: {(script, label): shell command to run instead, once}.
      seconds: Duration of a script.
    """

    def __init__(self, now):
        self.calls, self.commands, self.seconds, self._now = [], {}, 60, now

    def __call__(self, name, folder):
        self.calls.append((name, folder.name))
        self._now[0] += self.seconds
        command = self.commands.pop((name, folder.name), None)
        if not command:
            config = configuration.load(folder / "config.yml")
            (train if name == "train" else evaluate)(config, folder)
        return subprocess.Popen(["sh", "-c", command or "exit 0"])

    def take(self):
        calls, self.calls = self.calls, []
        return calls


def checkpoint(folder, step):
    return folder / "checkpoints" / f"step_{step:09d}.npz"


def train(config, folder):
    (folder / "checkpoints").mkdir(exist_ok=True)
    checkpoint(folder, config.training.steps).touch()


def evaluate(config, folder, **changes):
    steps = [int(path.stem[-9:]) for path in (folder / "checkpoints").iterdir()]
    options, changes = config.evaluation, {"step": max(steps)} | changes
    settings = configuration.as_plain(config)
    results.write(folder, horizon=options.horizon, settings=settings, **changes)


@pytest.fixture
def scripts(monkeypatch):
    """Returns the scripts, with a clock that only they advance."""
    now = [1000.0]
    monkeypatch.setattr(campaign, "time", types.SimpleNamespace(monotonic=lambda: now[0]))
    return Scripts(now)


@pytest.fixture
def go(write, tmp_path, scripts):
    """Runs a comparison; returns the signal that ended it and the scripts that were started."""

    def go(text=TWO):
        members = campaign.plan(write(text), tmp_path / "out", "standard")
        return campaign.run(members, tmp_path / "out", scripts), scripts.take()

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
    assert go() == (None, ALL)


# Scripts that fail, and signals.


@pytest.mark.parametrize(
    ("command", "code", "words"),
    [
        ("echo 'error: no disk' >&2; exit 2", 2, "train.py ended with exit code 2"),
        ("kill -KILL $$", 137, "train.py was ended by SIGKILL, which happens when memory runs out"),
        ("kill -TERM $$", 143, "train.py was ended by SIGTERM."),
    ],
)
def test_a_script_that_fails_ends_the_comparison(
    go, scripts, tmp_path, capfd, command, code, words
):
    scripts.commands["train", "VTA"] = command
    with pytest.raises(campaign.ScriptFailed) as caught:
        go()
    assert caught.value.exit_code == code
    assert str(caught.value).startswith(f"{tmp_path / 'out' / 'VTA'}: {words}")
    assert str(caught.value).endswith("Fix the cause, then run the same command to resume.")
    assert capfd.readouterr().err == "error: no disk\n" * ("error" in command)
    assert scripts.take() == ALL[:3]
    assert go() == (None, ALL[2:])


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
    monkeypatch.setattr(campaign, "_TICK", 0.2)
    with pytest.raises(UserError, match="damaged"):
        go()
    assert (tmp_path / "ended").exists()


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
    texts = costs.texts(read([f"{label}={tmp_path / label}" for label in runs]))
    assert list(texts) == ["training.md", "training.csv", "training.tex"]
    table = csv.DictReader(io.StringIO(texts["training.csv"]))
    rows = {row["model"]: [*row.values()][1:] for row in table}
    assert rows == {
        "A": ["1.42", "1000", "480", "0.48", "77.0", "1.0"],
        "B|C": ["1.42", "1000", "960", "0.96", "", ""],
    }
    assert "| A | 1.42 | 1000 | 480 | 0.48 | 77.0 | 1.0 |" in texts["training.md"]


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
        (["model.factor=4"], "in the file of --train, or to a script: python train.py --config"),
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


def tiny(labels, **changes):
    """Returns the file of a comparison of tiny runs, with changes as in `scripts.sets`."""
    values = TINY | {"evaluation.num_samples": 1, "data.num_digits": 1}
    values |= {name.replace("__", "."): value for name, value in changes.items()}
    shared = {}
    for name, value in values.items():
        section, _, key = name.partition(".")
        shared.setdefault(section, {})[key] = value
    factors = {"CW-VAE": 3, "NoTmpAbs": 1}
    runs = {label: {"model": {"factor": factors[label]}} for label in labels}
    return json.dumps({"shared": shared, "runs": runs})


@pytest.mark.slow
def test_from_nothing_to_a_table(write, tmp_path):
    out = tmp_path / "out"
    command = ("compare.py", "--train", write(tiny(["CW-VAE"])), "--out", out)
    result = succeed(*command, "--protocol", "cwvae2021")
    for words in ("[1/1] CW-VAE: trained in ", "[1/1] CW-VAE: evaluated in "):
        assert words in result.stdout
    assert "To evaluate" not in result.stdout  # advice that the scripts print
    assert "2/2" in result.stderr  # a progress bar
    with open(out / "table.csv", newline="") as file:
        assert next(csv.DictReader(file))["model"] == "CW-VAE"
    with open(out / "training.csv", newline="") as file:
        (row,) = csv.DictReader(file)
    assert (row["Training Steps"], row["Training Frames per step"]) == ("2", "12")
    assert float(row["Wall time train.py [min]"]) > 0
    (line,) = re.findall(r"Written to .*", result.stdout)
    for name in ("table.md", "psnr.png", "training.md"):
        assert (out / name).suffix != ".md" or (out / name).read_text() in result.stdout
        assert name in line
        assert (out / name).exists()
    assert "cwvae2021" in (out / "table.md").read_text()

    again = succeed(*command)
    assert "[1/1] CW-VAE: trained and evaluated already" in again.stdout
    assert again.stderr == ""
    assert "standard: " in again.stdout


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_comparison_resumes(write, tmp_path, number, code):
    out, labels = tmp_path / "out", ["CW-VAE", "NoTmpAbs"]
    many = write(tiny(labels, training__steps=1000000), "many.yml")
    process = Training(out, ["compare.py", "--train", many, "--out", out], None)
    lines = out / "CW-VAE" / "metrics.jsonl"
    process.wait_for(lambda: lines.is_file() and lines.stat().st_size)
    process.send(number)
    assert process.wait() == code
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
