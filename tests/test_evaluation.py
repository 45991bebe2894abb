"""The evaluation, with a model whose predictions are known."""

import csv
import json
import tracemalloc

import numpy as np
import pytest
import tensorflow as tf
import tiny
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from cwvae import evaluation
from cwvae.errors import UserError
from cwvae.model import Elbo


class Oracle:
    """Predicts the clip's own future, plus an error that grows with the sample's number."""

    def __init__(self, data, errors=(0.0,), chunk=4):
        self.data, self.errors, self.chunk = data, errors, chunk
        self.seeds, self.samples, self.observed = [], {}, None

    def predict_chunks(self, context, horizon, seed, observe_levels=None):
        self.observed = observe_levels
        self.seeds.append(tuple(np.asarray(seed)))
        key = np.asarray(context).tobytes()
        sample = self.samples[key] = self.samples.get(key, -1) + 1
        error = self.errors[sample % len(self.errors)]
        clips = [self._which(clip) for clip in np.asarray(context)]
        seen = context.shape[1]
        for start in range(0, horizon, self.chunk):
            length = min(self.chunk, horizon - start)
            frames = [self.data.clip(i, seen + start, length) for i in clips]
            frames = np.stack(frames).astype(np.float32) / 255
            yield tf.constant(np.clip(frames * (1 - error), 0, 1))

    def _which(self, clip):
        for i in range(len(self.data)):
            if np.array_equal(self.data.clip(i, 0, len(clip)), clip):
                return i
        raise AssertionError("a context that is no clip's beginning")

    def elbo(self, video, seed, observe_levels=None):
        ones = tf.ones(video.shape[:2])
        return Elbo(2.0 * ones, (3.0 * ones, ones[:, ::3]), {})


def evaluate(settings, errors, folder):
    data = tiny.Squares(40)
    model = Oracle(data, errors)
    results = evaluation.evaluate(settings, model, 12, tiny.Squares(20), data, folder)
    return model, results


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    settings = tiny.settings("evaluation.num_samples=2", "evaluation.horizon=30")
    return settings, *evaluate(settings, (0.1, 0.2, 0.3), folder), folder


def test_scores_are_scikit_images_averaged_over_samples_and_videos(run):
    settings, _, results, _ = run
    data, context = tiny.Squares(40), settings.evaluation.context
    want = {"psnr": np.zeros((3, 30)), "ssim": np.zeros((3, 30))}
    for video in range(3):
        truth = data.clip(video, context, 30)[..., 0].astype(np.float32) / 255
        for t, frame in enumerate(truth):
            for error in (0.1, 0.2):
                shown = frame * np.float32(1 - error)
                want["psnr"][video, t] += peak_signal_noise_ratio(frame, shown, data_range=1) / 2
                want["ssim"][video, t] += (
                    structural_similarity(
                        frame,
                        shown,
                        data_range=1,
                        gaussian_weights=True,
                        sigma=1.5,
                        use_sample_covariance=False,
                    )
                    / 2
                )
    for metric, values in want.items():
        got = results["scores"]["cwvae"][metric]
        np.testing.assert_allclose(got["per_frame"], values.mean(0), atol=1e-4)
        np.testing.assert_allclose(got["mean"], values.mean(), atol=1e-4)
        np.testing.assert_allclose(got["mean_soon"], values[:, :10].mean(), atol=1e-4)
        error = values.mean(1).std(ddof=1) / np.sqrt(3)
        np.testing.assert_allclose(got["standard_error"], error, atol=1e-4)


def test_baselines_are_scored_against_the_same_truth(run):
    settings, _, results, _ = run
    data, context = tiny.Squares(40), settings.evaluation.context
    mean = np.mean([tiny.Squares(20).clip(i, 0, 7) for i in range(10)], (0, 1)) / 255
    want = {evaluation.COPY: [], evaluation.MEAN: []}
    for video in range(3):
        truth = data.clip(video, context, 30) / 255
        copied = data.clip(video, context - 1, 1) / 255
        for name, guess in ((evaluation.COPY, copied), (evaluation.MEAN, mean)):
            error = np.maximum(np.mean((truth - guess) ** 2, (1, 2, 3)), 1e-10)
            want[name].append(-10 * np.log10(error))
    for name, values in want.items():
        got = results["scores"][name]["psnr"]["per_frame"]
        np.testing.assert_allclose(got, np.mean(values, 0), atol=1e-3)


def test_metrics_json_states_the_protocol_and_the_counts(run):
    _, _, results, folder = run
    written = json.loads((folder / "eval" / "metrics.json").read_text())
    assert written == results
    for key, value in {
        "step": 12,
        "protocol": "standard",
        "data": "moving_digits",
        "context": 5,
        "horizon": 30,
        "num_videos": 3,
        "num_samples": 2,
        "observe_levels": None,
    }.items():
        assert written[key] == value
    assert written["elbo"] == {
        "frames": 7,
        "nll_per_frame": 2.0,
        "kl_per_step": [3.0, 1.0],
        "kl_sum": [21.0, 3.0],
    }


def test_curves_csv_has_a_row_per_predicted_frame(run):
    _, _, results, folder = run
    with open(folder / "eval" / "curves.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["predicted_frame"]) for row in rows] == list(range(1, 31))
    column = [float(row["psnr cwvae"]) for row in rows]
    assert column == results["scores"]["cwvae"]["psnr"]["per_frame"]
    assert len(rows[0]) == 1 + 2 * 3


def test_pictures_open(run):
    _, _, _, folder = run
    gif = Image.open(folder / "eval" / "samples.gif")
    assert gif.n_frames == 35
    for name in ("samples.png", "curves.png"):
        assert Image.open(folder / "eval" / name).size[0] > 300


def test_a_film_strip_reaches_from_the_first_frame_to_the_last():
    for context, horizon in [(1, 1), (1, 9), (2, 3), (36, 964), (600, 100)]:
        times = evaluation._strip_times(context, horizon)
        assert times[0] == 0
        assert times[-1] == context + horizon - 1
        assert np.all(np.diff(times) > 0)
        assert context in times
        assert len(times) <= 12


def test_a_context_longer_than_the_pictures_is_cut(tmp_path):
    settings = tiny.settings(
        "data.train_length=600",
        "data.test_length=600",
        "evaluation.context=580",
        "training.video_length=590",
    )
    data = tiny.Squares(600)
    (tmp_path / "eval").mkdir()
    evaluation._write_samples(tmp_path / "eval", settings, Oracle(data), data)
    assert Image.open(tmp_path / "eval" / "samples.gif").n_frames == 50 + 9


def test_the_table_names_every_predictor_and_level(run):
    _, _, results, _ = run
    text = evaluation.table(results)
    for word in ("cwvae", evaluation.COPY, evaluation.MEAN, "level 0", "level 1", "standard"):
        assert word in text
    assert f"{results['scores']['cwvae']['psnr']['mean']:.3f}" in text


def test_a_perfect_prediction_is_finite(tmp_path):
    _, results = evaluate(tiny.settings(), (0.0,), tmp_path)
    scores = results["scores"]["cwvae"]
    np.testing.assert_allclose(scores["psnr"]["mean"], 100, atol=1e-3)
    np.testing.assert_allclose(scores["ssim"]["mean"], 1, atol=1e-5)
    assert "Infinity" not in (tmp_path / "eval" / "metrics.json").read_text()


def test_unobserved_levels_reach_the_model(tmp_path):
    model, results = evaluate(tiny.settings("evaluation.observe_levels=TF"), (0.0,), tmp_path)
    assert model.observed == (True, False)
    assert results["observe_levels"] == "TF"


def test_every_batch_and_sample_has_its_own_noise(tmp_path):
    settings = tiny.settings("evaluation.num_samples=3")
    data = tiny.Squares(40)
    model = Oracle(data)
    evaluation.score(settings, model, data, np.zeros((32, 32, 1), np.float32))
    assert len(set(model.seeds)) == len(model.seeds) == 2 * 3


def test_metrics_json_holds_the_settings(tmp_path):
    _, results = evaluate(tiny.settings("data.speed=[3, 4]"), (0.0,), tmp_path)
    assert results["settings"]["data"]["speed"] == [3.0, 4.0]
    assert results["settings"]["evaluation"]["num_videos"] == 3


def test_one_video_has_no_standard_error(tmp_path):
    _, results = evaluate(tiny.settings("evaluation.num_videos=1"), (0.1,), tmp_path)
    assert results["scores"]["cwvae"]["psnr"]["standard_error"] is None


def test_a_folder_that_cannot_be_written_is_refused_before_the_work(tmp_path):
    (tmp_path / "eval").write_text("a file in the way")
    with pytest.raises(UserError, match="eval: cannot write there"):
        evaluate(tiny.settings(), (0.0,), tmp_path)


def test_a_prediction_that_is_not_finite_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"step 12: cannot be scored: .*[nN]a[nN]|finite"):
        evaluate(tiny.settings(), (np.nan,), tmp_path)


def test_too_few_or_too_short_clips_are_refused(tmp_path):
    with pytest.raises(UserError, match="num_videos = 11, but there are 10"):
        evaluate(tiny.settings("evaluation.num_videos=11"), (0.0,), tmp_path)
    long = tiny.settings("data.test_length=100", "evaluation.horizon=60")
    with pytest.raises(UserError, match=r"= 65 frames.*have 40"):
        evaluate(long, (0.0,), tmp_path)


def test_memory_does_not_grow_with_horizon_or_samples(tmp_path):
    def peak(horizon, samples):
        settings = tiny.settings(
            "data.test_length=2000",
            f"evaluation.horizon={horizon}",
            f"evaluation.num_samples={samples}",
            "evaluation.num_videos=2",
        )
        data = tiny.Squares(2000)
        model = Oracle(data, chunk=50)
        mean = np.zeros((32, 32, 1), np.float32)
        evaluation.score(tiny.settings("evaluation.num_videos=2"), model, data, mean)  # warm up
        tracemalloc.start()
        evaluation.score(settings, model, data, mean)
        evaluation._write_samples(tmp_path, settings, model, data)
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return size

    small = peak(400, 1)  # more than samples.gif shows
    # 1,500 more frames of two clips would add 3 MB as bytes and 12 MB as floats, were they kept.
    assert peak(1900, 1) < small + 1_000_000
    assert peak(400, 20) < small + 1_000_000
