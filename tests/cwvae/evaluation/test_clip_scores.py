"""The scores of single clips: what is written is read back, and nothing else is."""

import json

import numpy as np
import pytest
from helpers import results, tiny
from helpers.oracle import Oracle

from cwvae.errors import UserError
from cwvae.evaluation import clip_scores, evaluator, scoring
from cwvae.evaluation.results import CLIP_SCORES, RANDOM


@pytest.fixture
def written(tmp_path):
    """A small evaluation with every kind of predictor, its scores, and its folder."""
    made = results.make(horizon=5, samples=3, metrics=("psnr", "readout_digits"), num_videos=4)
    scores = results.by_clip(made)
    scores["cwvae"]["readout_digits"][1, 2] = np.nan
    clip_scores.write(tmp_path, made, scores)
    return made, scores, tmp_path


def equal(one, other):
    return one.keys() == other.keys() and all(
        one[who].keys() == other[who].keys()
        and all(np.array_equal(one[who][m], other[who][m], equal_nan=True) for m in one[who])
        for who in one
    )


def test_scores_are_read_back(written):
    made, scores, folder = written
    assert {"cwvae, best of 3", "true frames", RANDOM} < set(scores)
    found = clip_scores.read(folder, made)
    assert equal(found, scores)
    assert {values.dtype for row in found.values() for values in row.values()} == {
        np.dtype("float32")
    }


def test_an_evaluation_writes_what_it_averaged(tmp_path, monkeypatch):
    monkeypatch.setenv("CWVAE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(scoring, "_SPACED", 3)  # The horizon of 20 frames is long.
    settings = tiny.settings("evaluation.num_samples=2", "evaluation.horizon=20")
    data, model = tiny.Squares(40), Oracle(tiny.Squares(40), (0.1, 0.3))
    evaluator.evaluate(settings, model, 12, tiny.Squares(20), data, tmp_path)
    made = json.loads((tmp_path / "eval" / "metrics.json").read_text())
    scores = clip_scores.read(tmp_path / "eval", made)
    assert scores.keys() == made["scores"].keys()
    for who, row in scores.items():
        assert scoring.summary(row, row if who.startswith("cwvae") else ()) == made["scores"][who]
    assert np.isfinite(scores["cwvae"]["psnr"]).all()
    assert np.isnan(scores[RANDOM]["psnr"][:, 10]).all()


def test_an_earlier_evaluation_has_none(tmp_path):
    assert clip_scores.read(tmp_path, results.make()) is None


def test_scores_of_another_evaluation_are_refused(written):
    _, _, folder = written
    other = results.make(horizon=5, samples=3, metrics=("psnr", "readout_digits"), step=13)
    with pytest.raises(UserError) as caught:
        clip_scores.read(folder, other)
    assert str(folder / CLIP_SCORES) in str(caught.value)
    assert "metrics.json next to it is of another evaluation" in str(caught.value)
    assert "Evaluate again with python eval.py." in str(caught.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda arrays: arrays.pop("index"), "index"),
        (lambda arrays: arrays.pop("s1"), "s1"),
        (lambda arrays: arrays.update(index=np.array("[")), "cannot be used"),
        (lambda arrays: arrays.update(index=np.array("[1]")), "cannot be used"),
        (lambda arrays: arrays.update(s0=arrays["s0"].astype(float)), r"float32 \[4, 5\]"),
        (lambda arrays: arrays.update(s0=arrays["s0"][:3]), r"float32 \[4, 5\]"),
        (lambda arrays: arrays.update(s0=np.array([None])), "allow_pickle=False"),
        (
            lambda arrays: arrays.update(index=np.char.replace(arrays["index"], "psnr", "ssim")),
            "not those in metrics.json",
        ),
    ],
)
def test_arrays_that_do_not_fit_are_refused(written, change, words):
    made, _, folder = written
    with np.load(folder / CLIP_SCORES, allow_pickle=False) as content:
        arrays = dict(content)
    change(arrays)
    np.savez(folder / CLIP_SCORES, **arrays)
    with pytest.raises(UserError, match=words):
        clip_scores.read(folder, made)


def test_damage_is_noticed_or_does_not_matter(written):
    made, scores, folder = written
    path = folder / CLIP_SCORES
    whole, refused = path.read_bytes(), 0
    damaged = [whole[:size] for size in range(0, len(whole), 97)]
    for place in range(0, len(whole), 7):
        damaged.append(bytearray(whole))
        damaged[-1][place] ^= 1 << place % 8
    for content in damaged:
        path.write_bytes(content)
        try:
            found = clip_scores.read(folder, made)
        except UserError:
            refused += 1
        else:
            assert equal(found, scores)
    assert refused > len(damaged) / 2  # The rest is in parts of the archive that nobody reads.


@pytest.mark.parametrize("content", [b"", b"{}", b"\x93NUMPY", b"PK\x05\x06" + bytes(18)])
def test_other_files_are_refused(written, content):
    made, _, folder = written
    (folder / CLIP_SCORES).write_bytes(content)
    with pytest.raises(UserError, match=r"clip_scores\.npz: cannot be used"):
        clip_scores.read(folder, made)


def test_an_array_without_names_is_refused(written):
    made, _, folder = written
    with open(folder / CLIP_SCORES, "wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(UserError, match=r"clip_scores\.npz: cannot be used"):
        clip_scores.read(folder, made)
