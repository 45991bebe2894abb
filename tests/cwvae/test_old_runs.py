"""Runs and exports made before the files moved and Keras layers owned the weights (November 2026).

The folders are as that version wrote them. `expected.json` holds their scores, and what is logged
when they resume for two more steps. Its numbers are of a later version, whose latents are drawn
from other noise; with the noise of before, they equalled those of the version that made the runs.
"""

import json
import shutil
import subprocess

import numpy as np
import pytest
from helpers.scripts import ROOT, start, succeed

import cwvae
from cwvae import levels
from cwvae.run import checkpoints
from cwvae.run import folder as run_folder

FOLDER = ROOT / "tests" / "golden" / "before_move"


def numbers(tree, path=""):
    """Returns {path: number} of what JSON holds."""
    if isinstance(tree, dict | list):
        pairs = tree.items() if isinstance(tree, dict) else enumerate(tree)
        return {k: v for name, part in pairs for k, v in numbers(part, f"{path}/{name}").items()}
    return {path: tree} if isinstance(tree, int | float) else {}


def assert_equal(got, want, rtol):
    got, want = numbers(got), numbers(want)
    assert got.keys() == want.keys()
    for name in want:
        np.testing.assert_allclose(got[name], want[name], rtol=rtol, atol=1e-5, err_msg=name)


def without_precision(folder):
    """Removes the precision from all settings of a run, as if it had not been one at its time."""
    path = folder / "config.yml"
    assert path.read_text().count("  precision: float32\n") == 1
    path.write_text(path.read_text().replace("  precision: float32\n", ""))
    for path in checkpoints.steps(folder).values():
        with np.load(path, allow_pickle=False) as content:
            arrays = dict(content)
        meta = json.loads(str(arrays.pop("meta")))
        meta.get("config", {}).get("training", {}).pop("precision", None)
        with open(path, "w+b") as file:
            np.savez(file, meta=np.array(json.dumps(meta)), **arrays)
            checkpoints.seal(file, file.seek(0, 2))
    return folder


@pytest.fixture(params=["cwvae", pytest.param("vta", marks=pytest.mark.slow)])
def run(request, tmp_path):
    """A copy of an old run's folder without a precision, and what is expected of it."""
    folder = without_precision(shutil.copytree(FOLDER / request.param, tmp_path / "run"))
    return folder, json.loads((folder / "expected.json").read_text())


@pytest.mark.slow
def test_evaluating_an_old_run_gives_its_scores(run):
    folder, expected = run
    succeed("eval.py", "--logdir", folder)
    results = json.loads((folder / "eval" / "metrics.json").read_text())
    for scores in results["scores"].values():  # Newer than these runs.
        for score in scores.values():
            del score["interval"], score["interval_soon"]
    assert_equal(results["scores"], expected["scores"], 1e-3)
    assert_equal(results["elbo"], expected["elbo"], 1e-3)


@pytest.mark.slow
def test_an_old_run_resumes_with_its_optimizer(run):
    folder, expected = run
    more = ["--set", "training.steps=6", "--set", "training.log_every=1"]
    succeed("train.py", "--logdir", folder, *more)
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    later = [row for row in lines if row["step"] > 4]
    for row in later:
        row.pop("frames_per_second", None), row.pop("learning_rate", None)
    wanted = [{levels.renamed(k): v for k, v in row.items()} for row in expected["steps_after"]]
    assert_equal(later, wanted, 1e-3)
    assert "  precision: float32\n" in (folder / "config.yml").read_text()


@pytest.mark.parametrize("name", ["cwvae", "svg", "vta"])
def test_an_old_export_holds_the_weights_of_its_run(name):
    run, export = (cwvae.load(FOLDER / folder) for folder in (name, f"{name}_export"))
    for one, other in zip(run.weights, export.weights, strict=True):
        np.testing.assert_array_equal(one, other)
    with np.load(FOLDER / name / "checkpoints" / "step_000000004.npz", allow_pickle=False) as file:
        assert len(run.weights) == len([key for key in file if key.startswith("model/")])


@pytest.mark.parametrize("name", ["cwvae", "cwvae_export"])
def test_an_old_folder_without_a_precision_is_used_in_float32(tmp_path, name):
    folder = without_precision(shutil.copytree(FOLDER / name, tmp_path / name))
    assert run_folder.load_config(folder) == run_folder.load_config(FOLDER / name)
    assert run_folder.load_config(folder).training.precision == "float32"
    (kind,) = {layer.compute_dtype for layer in cwvae.load(folder).encoder.layers}
    assert kind == "float32"


def test_loading_a_run_prints_nothing_of_tensorflow():
    code = f"import cwvae; cwvae.load({str(FOLDER / 'cwvae')!r})"
    process = start("-c", code, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.communicate(timeout=300) == ("", "")
    assert process.returncode == 0
