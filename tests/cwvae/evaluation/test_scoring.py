"""The loop over predictions, with a model of known predictions."""

import itertools
import tracemalloc

import numpy as np
import pytest
from golden import lpips as golden
from helpers import tiny
from helpers.oracle import Oracle

from cwvae import factory
from cwvae.evaluation import evaluator, frame_scores, pictures, rollouts, scoring
from cwvae.evaluation.results import COPY, MEAN, RANDOM, TRUTH
from cwvae.metrics import lpips
from cwvae.metrics.weights import Weights
from cwvae.video_model import Rollout

MEASURES = frame_scores.image_scores(["standard"])


def guesses():
    rng = np.random.default_rng(0)
    return scoring.guesses(np.zeros((32, 32, 1), np.float32), rng.random((7, 32, 32, 1)), 5)


def score(settings, model, data, measures=MEASURES, **options):
    return scoring.score(settings.evaluation, "model", model, data, measures, guesses(), **options)


def test_every_batch_and_sample_has_its_own_noise():
    data = tiny.Squares(40)
    model = Oracle(data)
    score(tiny.settings("evaluation.num_samples=3"), model, data)
    assert len(set(model.seeds)) == len(model.seeds) == 2 * 3


def test_the_best_sample_is_chosen_per_clip_and_score():
    # [S, B, T]: the first clip's second sample, the second clip's first.
    values = np.array([[[1, 2], [9, 3]], [[4, 0], [5, 5]]], np.float32)
    np.testing.assert_array_equal(scoring._best(values, True), [1, 0])
    np.testing.assert_array_equal(scoring._best(values, False), [0, 1])


def test_the_best_of_samples_is_a_whole_sample_not_a_mix_of_frames():
    data = tiny.Squares(40)
    errors = (0.1, 0.3, 0.2)
    settings = tiny.settings("evaluation.num_samples=3")
    scores = score(settings, Oracle(data, errors), data)
    alone = score(tiny.settings(), Oracle(data, (0.1,)), data)["model"]
    for metric, values in scores["model, best of 3"].items():
        np.testing.assert_allclose(values, alone[metric], rtol=1e-5)
    each = [score(tiny.settings(), Oracle(data, (e,)), data)["model"] for e in errors]
    for metric, values in scores["model"].items():
        np.testing.assert_allclose(values, np.mean([e[metric] for e in each], 0), rtol=1e-5)


def test_one_sample_has_no_best():
    data = tiny.Squares(40)
    assert list(score(tiny.settings(), Oracle(data), data)) == [
        "model",
        COPY,
        MEAN,
        RANDOM,
    ]


def test_guesses_do_not_depend_on_batches_or_stretches():
    data = tiny.Squares(40)
    one = score(tiny.settings("evaluation.batch_size=1"), Oracle(data, chunk=2), data)
    all_ = score(tiny.settings("evaluation.batch_size=3"), Oracle(data, chunk=9), data)
    for name in (COPY, MEAN, RANDOM):
        for metric in MEASURES:
            np.testing.assert_allclose(one[name][metric], all_[name][metric], rtol=1e-6)


@pytest.mark.parametrize("kind", ["cwvae", pytest.param("vta", marks=pytest.mark.slow)])
def test_scores_of_a_clip_do_not_depend_on_the_batch_or_the_number_of_clips(kind):
    data = tiny.Squares(40)

    def found(*overrides):
        settings = tiny.settings("evaluation.num_samples=2", *overrides, model=kind)
        model = factory.build(settings, 0)
        return score(settings, model, data)["model"]["psnr"], evaluator.elbo_terms(
            settings, model, data
        )

    want, terms = found("evaluation.batch_size=3")
    for size in (1, 2):
        psnr, others = found(f"evaluation.batch_size={size}")
        np.testing.assert_allclose(psnr, want, rtol=1e-4)
        np.testing.assert_allclose(others["kl_sum"], terms["kl_sum"], rtol=1e-3)
    psnr, _ = found("evaluation.num_videos=2", "evaluation.horizon=5")
    np.testing.assert_allclose(psnr, want[:2, :5], rtol=1e-4)


class Reader:
    """Reads the brightness of frames; every third frame is unreadable."""

    def metrics(self):
        about = {"label": "brightness", "unit": "", "better": "lower", "protocol": "mean pixel"}
        return {"readout_brightness": about}

    def scores(self, frames, readings):
        error = np.abs(frames.mean((2, 3, 4)) - readings["brightness"])
        return {"readout_brightness": np.where(readings["numbers"] % 3, error, np.nan)}


class Numbered:
    """Returns the numbers of the frames that it was given."""

    def metrics(self):
        about = {"label": "number", "unit": "", "better": "lower", "protocol": "number"}
        return {"readout_number": about}

    def scores(self, frames, readings):
        assert frames.shape[:2] == readings["numbers"].shape
        return {"readout_number": readings["numbers"].astype(np.float32)}


class Bright(tiny.Squares):
    def readings(self, i, start, length):
        frames = self.clip(i, start, length) / np.float32(255)
        return {"brightness": frames.mean((1, 2, 3)), "numbers": np.arange(start, start + length)}


def test_the_readout_reads_predictions_and_the_truth():
    data = Bright(40)
    settings = tiny.settings("evaluation.num_samples=2", "evaluation.horizon=9")
    scores = score(settings, Oracle(data, (0.5, 0.25)), data, reader=Reader())
    readable = np.arange(5, 14) % 3 > 0
    for name, error in (("model", 0.375), ("model, best of 2", 0.25), (TRUTH, 0)):
        values = scores[name]["readout_brightness"]
        np.testing.assert_array_equal(np.isfinite(values), np.tile(readable, (3, 1)))
        np.testing.assert_allclose(values[:, readable], error * 49 / 1024, atol=1e-6)
    assert list(scores)[-1] == TRUTH
    assert list(scores[TRUTH]) == ["readout_brightness"]


LONG = ("data.test_length=300", "evaluation.horizon=250")
SPARSE = [*range(10), *range(12, 250, 4)]  # The scored frames where only some of 250 are.


def test_a_long_horizon_is_read_evenly_across_stretches():
    data = Bright(300)
    scores = score(tiny.settings(*LONG), Oracle(data, (0.5,), chunk=7), data, reader=Numbered())
    values = scores["model"]["readout_number"]
    read = np.flatnonzero(np.isfinite(values[0]))
    np.testing.assert_array_equal(read, SPARSE)
    np.testing.assert_array_equal(values[0, read], 5 + read)  # Counted from the start of the clip.
    note = "the first 10 and 1 of 4 predicted frames"
    about = scoring.metrics(MEASURES, Numbered(), 250)
    assert about["readout_number"]["protocol"] == f"number; {note}"
    assert about["psnr"]["protocol"].endswith(f"at most; predictors without a model: {note}")
    about = scoring.metrics(MEASURES, Numbered(), 64)
    assert about["readout_number"]["protocol"] == "number"
    assert about["psnr"]["protocol"] == MEASURES["psnr"].about["protocol"]


def test_scores_of_some_frames_equal_those_of_all(monkeypatch):
    weights = Weights(golden.arrays(), "0" * 64)
    monkeypatch.setattr(lpips, "load", lambda: weights)
    measures = MEASURES | frame_scores.lpips_score()
    data, settings = tiny.Squares(300), tiny.settings(*LONG, "evaluation.num_videos=2")
    found = score(settings, Oracle(data, (0.5,)), data, measures)
    with monkeypatch.context() as patch:
        patch.setattr(scoring, "_SPACED", 250)
        every = score(settings, Oracle(data, (0.5,)), data, measures)
    assert list(found) == list(every) == ["model", COPY, MEAN, RANDOM]
    for who, name in itertools.product(found, measures):
        some, all_ = found[who][name], every[who][name]
        whole = who == "model" and name != "lpips"
        scored = np.flatnonzero(np.isfinite(some[0]))
        np.testing.assert_array_equal(scored, range(250) if whole else SPARSE)
        assert np.isfinite(all_).all()
        np.testing.assert_allclose(some[:, scored], all_[:, scored], rtol=1e-5, atol=1e-6)
        summary = scoring.summary({name: some}, MEASURES if who == "model" else ())[name]
        evenly = all_ if whole else all_[:, ::4]
        np.testing.assert_allclose(summary["mean"], evenly.mean(), rtol=1e-5)
        np.testing.assert_allclose(summary["mean_soon"], all_[:, :10].mean(), rtol=1e-5)


def test_distances_receive_the_first_sample():
    class Distances:
        def __init__(self):
            self.frames = []

        def add(self, start, frames):
            self.frames.append((start, frames))

    data = tiny.Squares(40)
    distances = Distances()
    settings = tiny.settings("evaluation.num_samples=2", "evaluation.batch_size=3")
    score(settings, Oracle(data, (0.0, 0.9)), data, distances=distances)
    assert [start for start, _ in distances.frames] == [0]
    shown = np.concatenate([frames for _, frames in distances.frames], 1)
    np.testing.assert_allclose(shown, rollouts.clips(data, range(3), 5, 9) / 255, atol=1e-6)


@pytest.mark.parametrize("chunk", [1, 50, 64, 72, 150])
def test_scores_see_stretches_of_64_frames_whatever_the_models_are(chunk):
    data = tiny.Squares(200)
    options = tiny.settings("data.test_length=200", "evaluation.horizon=150").evaluation
    context = rollouts.clips(data, range(2), 0, 5)
    stretches = list(rollouts.predict(Oracle(data, chunk=chunk), context, options, 0, 0))
    assert [(start, part.frames.shape[1]) for start, part in stretches] == [
        (0, 64),
        (64, 64),
        (128, 22),
    ]
    shown = np.concatenate([part.frames for _, part in stretches], 1)
    np.testing.assert_array_equal(255 * shown, rollouts.clips(data, range(2), 5, 150))


def test_predictions_shorter_than_the_truth_are_refused():
    class Short(Oracle):
        def predict_chunks(self, context, horizon, seed, **options):
            start = 0
            for chunk in super().predict_chunks(context, horizon, seed, **options):
                if start >= 8:
                    return
                yield Rollout(chunk.frames[:, : 8 - start])
                start += chunk.frames.shape[1]

    data = tiny.Squares(40)
    with pytest.raises(ValueError, match="8 frames were predicted instead of 9"):
        score(tiny.settings(), Short(data), data)


@pytest.mark.slow
def test_memory_does_not_grow_with_horizon_samples_or_videos(tmp_path):
    def peak(horizon, samples, videos=2):
        settings = tiny.settings(
            "data.test_length=2000",
            f"evaluation.horizon={horizon}",
            f"evaluation.num_samples={samples}",
            f"evaluation.num_videos={videos}",
        )
        data = tiny.Squares(2000, count=videos)
        model = Oracle(data, chunk=50)
        score(tiny.settings("evaluation.num_videos=2"), model, data)  # warm up
        tracemalloc.start()
        score(settings, model, data)
        pictures.samples(tmp_path, settings.evaluation, model, data)()
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return size

    small = peak(400, 1)  # more than samples.gif shows
    # Keeping 1,000 more frames of two clips would add 2 MB as bytes and 8 MB as floats.
    assert peak(1400, 1) < small + 1_000_000
    assert peak(400, 6) < small + 1_000_000
    # Pictures show at most four clips.
    assert peak(100, 1, videos=24) < peak(100, 1, videos=4) + 1_000_000
