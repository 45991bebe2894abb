"""Every file of a run and of an export, damaged in many ways, as each script meets it.

A script succeeds with the right result, or ends with one message and changes nothing. The scripts
run in this process, on a model that is built once, with an update and scores that cost nothing.
"""

import functools
import itertools
import json
import os
import pathlib
import re
import shutil
import sys

import numpy as np
import pytest
import tensorflow as tf
from helpers import results, tiny

import cwvae
from cwvae import commands, export, factory, visualize
from cwvae import config as configuration
from cwvae.errors import UserError
from cwvae.evaluation import evaluator
from cwvae.evaluation.results import digest
from cwvae.run import checkpoints
from cwvae.training import loop, monitoring, step
from data_loaders.generated import digits

SETTINGS = tiny.settings("training.keep=9", "evaluation.num_samples=2", "training.strategy=single")
COMMANDS = {
    "train": ["train.py", "--logdir", "RUN"],
    "train longer": ["train.py", "--logdir", "RUN", "--set", "training.steps=8"],
    "eval": ["eval.py", "--logdir", "RUN"],
    "compare": ["compare.py", "name=RUN", "--out", "OUT"],
    "export": ["cwvae.export", "--logdir", "RUN", "--out", "OUT"],
    "load": None,  # cwvae.load
    "init": ["train.py", "--config", "CONFIG", "--logdir", "OUT", "--init-from", "RUN"],
}
# What each is tried on: a run or its export.
CASES = [("run", name) for name in COMMANDS]
CASES += [("export", name) for name in ("eval", "load", "init")]


# Ways to damage a file.


def empty(path):
    path.write_bytes(b"")


def halve(path):
    os.truncate(path, path.stat().st_size // 2)


def cut_lines(path):
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-4]))


def randomize(path):
    size = max(path.stat().st_size, 1)
    path.write_bytes(np.random.default_rng(0).bytes(size))


def flip(path):
    content = bytearray(path.read_bytes())
    if content:
        content[len(content) // 2] ^= 1
    path.write_bytes(content)


def swap(path):
    """Swaps the file with the next one of the run."""
    run = next(p for p in path.parents if (p / "config.yml").exists() or p.name == "run")
    every = files_of(run)
    other = every[(every.index(path) + 1) % len(every)]
    aside = path.with_name("aside")
    path.rename(aside)
    other.rename(path)
    aside.rename(other)


def make_folder(path):
    path.unlink()
    path.mkdir()


def dangle(path):
    path.unlink()
    path.symlink_to("nowhere")


def forbid(path):
    path.chmod(0o000)


WAYS = [empty, halve, cut_lines, randomize, flip, swap, make_folder, dangle, pathlib.Path.unlink]
if os.geteuid():  # Nothing is forbidden to root.
    WAYS.append(forbid)


def files_of(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file() or path.is_symlink())


def content_of(folder):
    """Returns all files of a folder, except for lock files, which name the last holder."""
    return {
        path.relative_to(folder): os.readlink(path) if path.is_symlink() else path.read_bytes()
        for path in folder.rglob("*")
        if (path.is_symlink() or path.is_file()) and not path.name.endswith(".lock")
    }


# The scripts, with little work.


def _update(config, _, optimizer, __):
    """Stands for `build_steps`: adds the number of the step to all weights."""

    def steps(_, number, count, __):
        for n in range(int(number), int(number) + int(count)):
            for variable in (*_update.model.weights, optimizer.state["iterations"]):
                variable.assign(variable + (n + 1))
        column = tf.ones(int(count))
        kl = {f"kl/{name}_sum": column for name in _update.model.kl_names}
        return {"loss": column, "finite": column, "stop": 0 * column} | kl

    return steps


def _scores(config, model, about, *_):
    """Stands for the evaluator: the scores depend on the weights, step and settings."""
    quality = float(sum(np.abs(weight.numpy()).sum() for weight in model.weights)) % 1
    made = results.make(quality, horizon=config.evaluation.horizon, fvd=False)
    made |= {"step": about["step"], "settings": about["settings"]}
    return made | {"sha256": digest(made)}, results.by_clip(made)


@pytest.fixture(scope="module", autouse=True)
def little_work():
    models, build = {}, factory.build

    def build_once(config, seed=None):
        key = json.dumps(configuration.as_plain(config)["model"])
        if key not in models:
            models[key] = build(config, 0)
            models[key].initial = [weight.numpy() for weight in models[key].weights]
        for weight, array in zip(models[key].weights, models[key].initial, strict=True):
            weight.assign(array)
        _update.model = models[key]
        return models[key]

    read = configuration._read
    base = read(configuration.BASE)  # Reading it takes most of the time.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            configuration, "_read", lambda path: base if path == configuration.BASE else read(path)
        )
        patch.setattr(factory, "build", build_once)
        patch.setattr(step, "build_steps", _update)
        patch.setattr(loop.Trainer, "_check_memory", lambda *_: None)
        patch.setattr(monitoring.HeldOut, "scalars", lambda _: {"test/loss": 1.0})
        patch.setattr(monitoring.HeldOut, "videos", lambda _: [])
        patch.setattr(evaluator, "_scores", _scores)
        patch.setattr(digits, "load_digits", functools.cache(digits.load_digits))
        patch.setattr(visualize, "figure_bytes", lambda *_: b"")
        for name in ("samples", "levels", "boundaries"):
            patch.setattr(evaluator.pictures, name, lambda *_: lambda: None)
        patch.setattr(
            evaluator.report, "write", lambda folder, *_: (folder / "report.html").touch()
        )
        yield


def go(words, capsys):
    """Runs a script in this process; returns its exit code and stderr."""
    capsys.readouterr()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [str(word) for word in words])
        try:
            if words[0].endswith(".py"):
                code = commands.run(words[0].removesuffix(".py")) or 0
            else:
                code = export.main() or 0
        except SystemExit as error:
            code = error.code
    return code, capsys.readouterr().err


def outcome(name, run, capsys):
    """Runs a command on a folder; returns its result, or None if it is refused, and stderr."""
    words = COMMANDS[name]
    out = run.with_name("out")
    shutil.rmtree(out, ignore_errors=True)
    if words is None:
        try:
            return arrays(cwvae.load(run)), capsys.readouterr().err
        except (UserError, OSError) as error:
            return None, f"error: {error}\n"
    places = {"RUN": run, "OUT": out, "CONFIG": run.with_name("config.yml")}
    words = [re.sub("RUN|OUT|CONFIG", lambda m: str(places[m[0]]), word) for word in words]
    code, err = go(words, capsys)
    if code:
        return None, err
    if name.startswith("train"):
        return checkpoints.read_newest(run)[1], err
    if name == "init":
        return checkpoints.read_newest(out)[1], err
    if name == "eval":
        return json.loads((run / "eval" / "metrics.json").read_text())["scores"], err
    if name == "compare":
        return (out / "table.md").read_text(), err
    return arrays(cwvae.load(out)), err


def arrays(model):
    return {weight.path: weight.numpy() for weight in model.weights}


def same(one, other):
    if isinstance(one, dict) and one and isinstance(next(iter(one.values())), np.ndarray):
        return one.keys() == other.keys() and all(np.array_equal(one[k], other[k]) for k in one)
    return one == other


@pytest.fixture(scope="module")
def folders(tmp_path_factory, little_work):
    """A trained and evaluated run, and its export."""
    folder = tmp_path_factory.mktemp("whole")
    configuration.save(SETTINGS, folder / "config.yml")
    run = folder / "run"
    with pytest.MonkeyPatch.context() as patch:
        for words in (
            ["train.py", "--config", folder / "config.yml", "--logdir", run],
            ["eval.py", "--logdir", run],
            ["cwvae.export", "--logdir", run, "--out", folder / "export"],
        ):
            patch.setattr(sys, "argv", [str(word) for word in words])
            if words[0].endswith(".py"):
                commands.run(words[0].removesuffix(".py"))
            else:
                export.main()
    return folder


@pytest.fixture
def fresh(folders, tmp_path):
    """A function that copies the run or the export, the same folder each time."""

    def copy(kind):
        shutil.rmtree(tmp_path / "a", ignore_errors=True)
        shutil.copytree(folders / kind, tmp_path / "a" / "run")
        shutil.copy(folders / "config.yml", tmp_path / "a")
        return tmp_path / "a" / "run"

    return copy


def without_newest(run):
    """Removes the newest checkpoint. A script then uses the one before, and nothing tells it."""
    if newest := [*checkpoints.steps(run).values()][1:]:
        newest[0].unlink()
    return run


def check(kind, name, damage, fresh, capsys):
    """Checks a command on a folder for each (path, way to damage it); returns what is wrong."""
    want, err = outcome(name, fresh(kind), capsys)
    assert want is not None, err
    older = outcome(name, without_newest(fresh(kind)), capsys)[0]
    wrong = []
    for path, way in damage:
        run = fresh(kind)
        way(run / path)
        before = content_of(run)
        try:
            got, err = outcome(name, run, capsys)
        except Exception as error:
            wrong.append(f"{path}, {way.__name__}: {type(error).__name__}: {error}")
            continue
        if got is None:
            if err.count("error: ") != 1:
                wrong.append(f"{path}, {way.__name__}: {err}")
            if content_of(run) != before:
                wrong.append(f"{path}, {way.__name__}: refused, but changed files: {err}")
        else:
            told = "Step 3 is used instead" in err
            unknowable = path.suffix == ".npz" and way is pathlib.Path.unlink
            less = name == "compare" and f"its evaluation has no {path.name}. To add it" in got
            if not (less or same(got, want) or ((told or unknowable) and same(got, older))):
                wrong.append(f"{path}, {way.__name__}: another result: {err}")
            after = content_of(run).values()
            for place, content in before.items():
                replaced = name == "eval" and place.parent.name == "eval"
                if place.suffix in (".npz", ".h5") and content not in after and not replaced:
                    wrong.append(f"{path}, {way.__name__}: {place} is lost")
    return wrong


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "name"), CASES)
def test_damage_is_told_or_does_not_matter(folders, fresh, capsys, kind, name):
    folder = folders / kind
    paths = [path.relative_to(folder) for path in files_of(folder)]
    paths = [path for path in paths if path.suffix not in (".png", ".csv")]  # Nothing reads them.
    # Each command meets a third of the ways with each file, and its neighbours the others.
    turn = CASES.index((kind, name))
    damage = [(path, way) for i, path in enumerate(paths) for way in WAYS[(i + turn) % 3 :: 3]]
    assert check(kind, name, damage, fresh, capsys) == []


@pytest.mark.parametrize(
    ("kind", "name", "path", "ways"),
    [
        ("run", "train longer", "tensorboard", [make_folder, dangle]),
        ("run", "train longer", "data.json", [make_folder]),
        ("run", "train longer", "metrics.jsonl", [make_folder, dangle]),
        ("run", "train longer", "step_000000003.npz", [swap]),
        ("run", "eval", "config.yml", [cut_lines]),
        ("run", "compare", "metrics.json", [halve, make_folder]),
        ("run", "compare", "clip_scores.npz", [flip, swap, make_folder, pathlib.Path.unlink]),
        ("export", "load", "config.yml", [cut_lines]),
    ],
)
def test_some_damage(folders, fresh, capsys, kind, name, path, ways):
    """Faults that were there once."""
    places = [place.relative_to(folders / kind) for place in files_of(folders / kind)]
    paths = [place for place in places if path in (place.name, place.parts[0])]
    assert check(kind, name, itertools.product(paths, ways), fresh, capsys) == []
