"""Predictions files: they are scored as the model that made them, and wrong ones are refused."""

import json
import pathlib
import re
import zipfile

import numpy as np
import pytest
from helpers import random_weights, tiny
from helpers.oracle import Oracle

from cwvae import comparison, config
from cwvae.commands.evaluate import evaluate_predictions
from cwvae.errors import UserError
from cwvae.evaluation import evaluator, predictions, results, rollouts

SETTINGS = ("evaluation.num_samples=2", "evaluation.horizon=70", "data.test_length=100")
PLAIN = ("evaluation.fvd=false", "evaluation.lpips=false")
DATA = tiny.Squares(100)
SCORED = ("metrics", "scores", "fvd", "not_computed", "frames", "context", "horizon", "data")


def rescored(settings, path, out, name="cwvae"):
    with predictions.opened(path) as saved:
        saved.check_fit(settings.evaluation, (32, 32, 1))
        saved.check_values()
        return evaluator.evaluate_predictions(
            settings, saved, name, path.name, tiny.Squares(20), DATA, out
        )


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """An evaluation with LPIPS that saved its predictions, and its results."""
    folder = tmp_path_factory.mktemp("saved")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CWVAE_CACHE", str(folder / "cache"))
        random_weights.write()
        settings = tiny.settings(*SETTINGS, "evaluation.fvd=false")
        model = Oracle(DATA, (0.1, 0.3), chunk=17)
        own = evaluator.evaluate(
            settings, model, 12, tiny.Squares(20), DATA, folder / "run", save_predictions=True
        )
        yield settings, folder / "run" / "eval" / "predictions.npz", own


def test_saved_predictions_are_the_models_unclipped_floats(saved):
    settings, path, _ = saved
    with np.load(path, allow_pickle=False) as arrays:
        assert set(arrays) == {"frames", "context", "unclipped"}
        frames, context = arrays["frames"], arrays["context"]
    assert (frames.dtype, frames.shape) == (np.float32, (3, 2, 70, 32, 32, 1))
    np.testing.assert_array_equal(context, rollouts.clips(DATA, range(3), 0, 5))
    truth = rollouts.clips(DATA, range(3), 5, 70).astype(np.float32) / 255
    for sample, error in enumerate((0.1, 0.3)):
        np.testing.assert_array_equal(frames[:, sample], np.float32(truth * (1 - error)))
    room = predictions.size(settings.evaluation, (32, 32, 1))
    assert room - 8192 < path.stat().st_size < room


@pytest.fixture(scope="module")
def theirs(saved, tmp_path_factory):
    """The folder of scores of that predictions file, and its results."""
    settings, path, _ = saved
    folder = tmp_path_factory.mktemp("again") / "theirs"
    return folder, rescored(settings, path, folder)


def test_a_saved_prediction_has_the_models_scores_to_the_last_digit(saved, theirs):
    (_, _, own), (folder, again) = saved, theirs
    assert "lpips" in own["metrics"]
    for key in SCORED:
        assert again[key] == own[key], key
    assert (again["step"], again["weights"], again["elbo"]) == (None, None, None)
    assert again["predictions"] == "predictions.npz"
    written = json.loads((folder / "metrics.json").read_text())
    assert written == again
    assert written["sha256"] == results.digest(written)
    names = {path.name for path in folder.iterdir()}
    assert {"report.html", "samples.gif", "samples.png", "curves.csv"} <= names
    assert not {"levels.png", "predictions.npz"} & names


@pytest.mark.parametrize(
    ("save", "kind"),
    [(np.savez_compressed, ">f4"), pytest.param(np.savez, np.float64, marks=pytest.mark.slow)],
)
def test_a_foreign_file_has_the_scores_of_a_model_that_predicts_the_same(
    saved, tmp_path, save, kind
):
    _, path, _ = saved
    settings = tiny.settings(*SETTINGS[1:], *PLAIN)
    model = Oracle(DATA, (0.1,), chunk=9)
    own = evaluator.evaluate(settings, model, 12, tiny.Squares(20), DATA, tmp_path / "run")
    with np.load(path, allow_pickle=False) as arrays:
        save(tmp_path / "theirs.npz", frames=arrays["frames"][:, 0].astype(kind))
    theirs = rescored(settings, tmp_path / "theirs.npz", tmp_path / "theirs", "theirs")
    assert theirs["scores"].pop("theirs") == own["scores"].pop("cwvae")
    assert theirs["scores"] == own["scores"]


def test_bytes_are_scored_as_the_floats_that_they_stand_for(tmp_path):
    settings = tiny.settings("evaluation.protocol=standard", *PLAIN)
    truth = rollouts.clips(DATA, range(3), 5, 9)
    np.savez(tmp_path / "a.npz", frames=truth)
    found = rescored(settings, tmp_path / "a.npz", tmp_path / "a", "perfect")
    np.testing.assert_allclose(found["scores"]["perfect"]["psnr"]["mean"], 100, atol=1e-3)


def test_compare_accepts_a_predictions_file_next_to_a_run(saved, theirs, tmp_path):
    run, folder = saved[1].parents[1], theirs[0]
    comparison.compare([f"ours={run}", str(folder)], tmp_path / "tables")
    table = (tmp_path / "tables" / "table.md").read_text()
    ours, others = (
        [
            [cell.strip(" *") for cell in line.split("|")[2:-1]]
            for line in table.splitlines()
            if line.startswith(f"| {name}")
        ]
        for name in ("ours", "theirs")
    )
    assert others
    assert others == ours[: len(others)]
    (found,) = comparison.runs.read([str(folder)])
    again = comparison.runs.eval_command(found, {"evaluation.horizon": 9})
    assert f"--predictions predictions.npz --config CONFIG --name cwvae --out {folder}" in again
    assert again.endswith("--set evaluation.horizon=9")
    with pytest.raises(UserError, match="predictions from a file, which has no seed"):
        comparison.compare([f"ours={run}", f"ours={folder}"], tmp_path / "tables")


FRAMES = np.full((3, 9, 32, 32, 1), 0.5, np.float32)


def refused(tmp_path, **arrays):
    path = tmp_path / "theirs.npz"
    np.savez(path, **arrays)
    with pytest.raises(UserError) as caught:
        check(path)
    return str(caught.value)


def check(path):
    with predictions.opened(path) as content:
        content.check_fit(tiny.settings().evaluation, (32, 32, 1))
        content.check_values()
        content.check_context(DATA, 5)


def test_arrays_of_another_shape_or_type_are_refused(tmp_path):
    assert "the array 'frames' is missing; there is only theirs" in refused(tmp_path, theirs=FRAMES)
    assert "needs" not in refused(tmp_path, frames=FRAMES[0, 0])
    assert "axis of channels: frames[..., None]" in refused(tmp_path, frames=FRAMES[..., 0])
    assert "holds int64. Save uint8" in refused(tmp_path, frames=FRAMES.astype(int))
    assert "holds object" in refused(tmp_path, frames=np.array([None]))
    assert "Fortran order" in refused(tmp_path, frames=np.asfortranarray(FRAMES))
    channels_first = np.zeros((3, 9, 1, 32, 32), np.uint8)
    assert "np.moveaxis(frames, -3, -1)" in refused(tmp_path, frames=channels_first)
    large = np.zeros((3, 9, 64, 64, 1), np.uint8)
    assert "frames of 64x64x1, but the configuration has clips of 32x32x1" in refused(
        tmp_path, frames=large
    )


def test_other_numbers_of_clips_samples_or_frames_come_with_the_settings_that_fit(tmp_path):
    message = refused(tmp_path, frames=FRAMES[:2, None, :8])
    assert "evaluation.num_videos = 3, evaluation.horizon = 9" in message
    assert message.endswith("--set evaluation.num_videos=2 --set evaluation.horizon=8")
    message = refused(tmp_path, frames=np.stack([FRAMES] * 4, 1))
    assert message.endswith("To score all of them: --set evaluation.num_samples=4")


def test_values_outside_of_the_range_are_refused(tmp_path):
    assert "from 0 to 255, save them as uint8" in refused(tmp_path, frames=FRAMES * 400)
    assert "(frames + 1) / 2" in refused(tmp_path, frames=FRAMES - 1)
    assert "at most 1, which is black" in refused(tmp_path, frames=np.ones(FRAMES.shape, np.uint8))
    flawed = FRAMES.copy()
    flawed[1, 3, 0, 0] = np.nan
    assert "clip 1 (from 0) holds a NaN" in refused(tmp_path, frames=flawed)
    assert "must be in [0, 1]" in refused(tmp_path, frames=FRAMES * 400, unclipped=True)


def test_unclipped_values_are_accepted_if_the_file_says_so(tmp_path):
    np.savez(tmp_path / "a.npz", frames=FRAMES - 0.6, unclipped=True)
    with predictions.opened(tmp_path / "a.npz") as content:
        content.check_values()


def test_predictions_of_other_clips_are_refused(tmp_path):
    context = rollouts.clips(DATA, range(3), 0, 5)
    np.savez(tmp_path / "a.npz", frames=FRAMES, context=context / 255)
    with predictions.opened(tmp_path / "a.npz") as content:
        content.check_context(DATA, 5)
    message = refused(tmp_path, frames=FRAMES, context=context[[0, 2, 1]])
    assert "the context of clip 1 (from 0) is not that of held-out clip 1" in message
    message = refused(tmp_path, frames=FRAMES, context=context[:, :4])
    assert "[3, 4, 32, 32, 1], but evaluation.context = 5 needs [3, 5, 32, 32, 1]" in message


def test_damaged_files_are_refused(tmp_path):
    path = tmp_path / "a.npz"
    np.savez_compressed(path, frames=FRAMES + np.random.default_rng(0).random(FRAMES.shape) / 4)
    whole = path.read_bytes()

    def message(content):
        path.write_bytes(content)
        with pytest.raises(UserError) as caught, predictions.opened(path) as found:
            found.check_values()
        return str(caught.value)

    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 255
    for content in (whole[:-100], bytes(flipped), b"", b"no archive"):
        assert "not a whole .npz file of predictions" in message(content)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("frames.npy", b"no array")
    assert "not a whole .npz file" in message(path.read_bytes())
    with pytest.raises(UserError, match="no such file"), predictions.opened(tmp_path / "b.npz"):
        pass


def test_a_full_disk_is_reported_before_the_work(tmp_path):
    predictions.check_room(tmp_path, 1000)
    with pytest.raises(UserError, match=r"need 1000000\.0 GB, but .* are free\. Make room"):
        predictions.check_room(tmp_path, 10**15)


def test_a_prediction_that_fails_leaves_no_file(tmp_path):
    model = Oracle(DATA, (0.1, np.nan))
    settings = tiny.settings(*SETTINGS, *PLAIN)
    with pytest.raises(UserError, match="cannot be scored"):
        evaluator.evaluate(
            settings, model, 1, tiny.Squares(20), DATA, tmp_path, save_predictions=True
        )
    assert {path.name for path in tmp_path.iterdir()} == {".eval.lock"}


def test_the_example_of_the_docs_writes_a_file_that_scores_as_what_it_holds(
    tmp_path, monkeypatch, capsys
):
    page = (pathlib.Path(__file__).parents[3] / "docs" / "evaluation.md").read_text()
    (example,) = re.findall(r"^```python\n(.*?)^```", page, re.S | re.M)
    settings = tiny.settings(*PLAIN)
    config.save(settings, tmp_path / "config.yml")
    monkeypatch.chdir(tmp_path)
    exec(example.replace('"quickstart"', '"config.yml"'), {})
    found = evaluate_predictions(settings, "theirs.npz", "theirs", "scores")
    assert found["scores"]["theirs"] == found["scores"][results.COPY]
    assert capsys.readouterr().out.startswith("Reading theirs.npz (0.0 MB).")
