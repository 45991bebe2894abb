"""The evaluation, with a model of known predictions."""

import csv
import json
import math
import operator
import pathlib
import re
import threading

import numpy as np
import pytest
import scipy.stats
from helpers import random_weights, tiny
from helpers.oracle import Oracle
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from cwvae import config as configuration
from cwvae import visualize
from cwvae.errors import UserError
from cwvae.evaluation import evaluator, frame_scores, readout, report, scoring
from cwvae.evaluation import results as evaluation_results
from cwvae.evaluation.results import COPY, MEAN, RANDOM
from cwvae.run import files, versions
from data_loaders.attributes import CLASSES, Readable


@pytest.fixture(autouse=True)
def no_weights(monkeypatch, tmp_path_factory):
    """Hides weights that this machine may have in the usual places."""
    empty = tmp_path_factory.mktemp("empty")
    monkeypatch.setenv("CWVAE_CACHE", str(empty))


def evaluate(settings, errors, folder, **options):
    data = tiny.Squares(40)
    model = Oracle(data, errors)
    results = evaluator.evaluate(settings, model, 12, tiny.Squares(20), data, folder, **options)
    return model, results


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    settings = tiny.settings("evaluation.num_samples=2", "evaluation.horizon=30")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CWVAE_CACHE", str(folder))
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
        for key, some in (("interval", values), ("interval_soon", values[:, :10])):
            half = scipy.stats.t.ppf(0.975, 2) * some.mean(1).std(ddof=1) / np.sqrt(3)
            want = some.mean() - half, some.mean() + half
            np.testing.assert_allclose(got[key], want, atol=1e-3)


def test_baselines_are_scored_against_the_same_truth(run):
    settings, _, results, _ = run
    data, context = tiny.Squares(40), settings.evaluation.context
    mean = np.mean([tiny.Squares(20).clip(i, 0, 7) for i in range(10)], (0, 1)) / 255
    want = {COPY: [], MEAN: []}
    for video in range(3):
        truth = data.clip(video, context, 30) / 255
        copied = data.clip(video, context - 1, 1) / 255
        for name, guess in ((COPY, copied), (MEAN, mean)):
            error = np.maximum(np.mean((truth - guess) ** 2, (1, 2, 3)), 1e-10)
            want[name].append(-10 * np.log10(error))
    for name, values in want.items():
        got = results["scores"][name]["psnr"]["per_frame"]
        np.testing.assert_allclose(got, np.mean(values, 0), atol=1e-3)


def test_random_training_frames_are_training_frames(run):
    _, _, results, _ = run
    assert np.ptp(results["scores"][RANDOM]["psnr"]["per_frame"]) > 0
    train = tiny.Squares(20)
    mean, pool = evaluator._training_frames(tiny.settings(), train)
    frames = np.concatenate([train.clip(i) for i in range(10)]) / np.float32(255)
    assert pool.shape == (10, 32, 32, 1)
    for i, frame in enumerate(pool):
        assert (frame == train.clip(i) / np.float32(255)).all((1, 2, 3)).any()
    assert mean.shape == frames.shape[1:]


def test_the_best_sample_is_reported_next_to_the_mean(run):
    _, _, results, _ = run
    mean, best = (results["scores"][name] for name in ("cwvae", "cwvae, best of 2"))
    for metric in results["metrics"]:
        assert best[metric]["mean"] > mean[metric]["mean"]
    # The first sample has the smaller error, in every clip.
    np.testing.assert_allclose(np.mean(best["psnr"]["per_frame"]), best["psnr"]["mean"], atol=1e-4)


def test_metrics_json_states_the_protocol_and_the_counts(run):
    _, _, results, folder = run
    written = json.loads((folder / "eval" / "metrics.json").read_text())
    assert written == results
    assert written["sha256"] == evaluation_results.digest(written)
    for key, value in {
        "step": 12,
        "format": 5,
        "protocols": ["standard", "cwvae2021"],
        "frames": "32x32x1, values in [0, 1]",
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
        "kl_names": ["level_1", "level_2"],
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
    assert len(rows[0]) == 1 + 4 * 5


def test_pictures_can_be_opened(run):
    _, _, _, folder = run
    gif = Image.open(folder / "eval" / "samples.gif")
    assert gif.n_frames == 35
    for name in ("samples.png", "curves.png"):
        assert Image.open(folder / "eval" / name).size[0] > 300


def test_the_table_names_every_predictor_and_level(run):
    _, _, results, _ = run
    text = evaluation_results.table(results)
    for word in (
        *results["scores"],
        "level 1 (fastest)",
        "level 2 (slowest)",
        "PSNR [dB]",
        "SSIM (cwvae2021)",
    ):
        assert word in text
    assert "lpips was not computed" in text
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


def test_metrics_json_holds_the_settings(tmp_path):
    _, results = evaluate(tiny.settings("data.speed=[3, 4]"), (0.0,), tmp_path)
    assert results["settings"]["data"]["speed"] == [3.0, 4.0]
    assert results["settings"]["evaluation"]["num_videos"] == 3


def test_one_video_has_no_standard_error_and_no_interval(tmp_path):
    _, results = evaluate(tiny.settings("evaluation.num_videos=1"), (0.1,), tmp_path)
    psnr = results["scores"]["cwvae"]["psnr"]
    assert psnr["standard_error"] is psnr["interval"] is psnr["interval_soon"] is None


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
    with pytest.raises(UserError, match=r"= 65 frames.*have at most 40"):
        evaluate(long, (0.0,), tmp_path)


def test_one_protocol_is_enough(tmp_path):
    settings = tiny.settings("evaluation.protocol=cwvae2021")
    _, results = evaluate(settings, (0.1,), tmp_path)
    assert list(results["metrics"]) == ["psnr_cwvae2021", "ssim_cwvae2021"]
    assert results["protocols"] == ["cwvae2021"]


def test_without_weights_all_else_is_written_with_the_reason(run):
    _, _, results, folder = run
    assert set(results["not_computed"]) == {"lpips", "fvd"}
    for reason in results["not_computed"].values():
        assert "python -m cwvae.metrics.weights fetch" in reason
    assert results["fvd"] is None
    for name in ("metrics.json", "curves.csv", "curves.png", "samples.gif", "report.html"):
        assert (folder / "eval" / name).stat().st_size > 0
    report = (folder / "eval" / "report.html").read_text()
    assert "cwvae.metrics.weights fetch" in report


@pytest.mark.parametrize("name", ["lpips", "fvd"])
def test_required_measures_that_cannot_be_computed_are_an_error(tmp_path, name):
    with pytest.raises(UserError, match=f"evaluation.{name}=true, but: .*weights fetch"):
        evaluate(tiny.settings(f"evaluation.{name}=true"), (0.1,), tmp_path)
    assert not (tmp_path / "eval" / "metrics.json").exists()


def test_measures_can_be_left_out(tmp_path):
    settings = tiny.settings("evaluation.lpips=false", "evaluation.fvd=false")
    _, results = evaluate(settings, (0.1,), tmp_path)
    assert results["not_computed"] == {
        "lpips": "evaluation.lpips is false.",
        "fvd": "evaluation.fvd is false.",
    }


@pytest.mark.slow
def test_with_weights_all_four_are_computed(tmp_path, capsys):
    random_weights.write()
    settings = tiny.settings(
        "evaluation.horizon=18",
        "evaluation.num_videos=4",
        "evaluation.fvd=true",
        "evaluation.lpips=true",
    )
    _, results = evaluate(settings, (0.5,), tmp_path)
    distances = results["fvd"]
    assert set(distances["scores"]) == {"cwvae", COPY}
    scores = distances["scores"]["cwvae"]
    assert scores["value"] > 0
    assert [length for length, _ in scores["prefixes"]] == [16, 18]
    assert scores["prefixes"][-1][1] == scores["value"]
    assert distances["floor"]["source"] == "4 other held-out clips"
    assert results["not_computed"] == {}
    assert results["scores"]["cwvae"]["lpips"]["mean"] > 0
    text = evaluation_results.table(results)
    assert f"{scores['value']:.1f}" in text
    assert "fewer than 400" in text
    out = capsys.readouterr().out
    assert "FVD: features of" in out
    assert re.search(r"Time: .*FVD \d+ s.*; together \d+ s\.", out)


def test_other_real_clips_are_never_evaluated_ones():
    def source(test, train, videos):
        settings = tiny.settings(f"evaluation.num_videos={videos}").evaluation
        return evaluator._other_real(settings, train, test)

    test, train = tiny.Squares(40), tiny.Squares(20)  # ten clips each
    clip, text = source(test, train, 3)
    np.testing.assert_array_equal(clip(0), test.clip(3, 5, 9))
    assert "held-out" in text
    clip, text = source(test, train, 6)
    np.testing.assert_array_equal(clip(5), train.clip(5, 5, 9))
    assert "training" in text
    clip, text = source(test, tiny.Squares(13), 6)  # too short
    assert clip is None
    assert "6 other real clips of 14 frames" in text


def test_few_frames_or_videos_have_no_fvd(tmp_path):
    for setting in ("evaluation.horizon=8", "evaluation.num_videos=1"):
        _, results = evaluate(tiny.settings(setting), (0.5,), tmp_path)
        assert setting.replace("=", " = ") in results["not_computed"]["fvd"]


def test_averages_ignore_nan():
    values = np.array([[1.0, np.nan, 3.0], [np.nan, np.nan, 5.0]], np.float32)
    (summary,) = scoring.summary({"readout": values}).values()
    assert summary["mean"] == 3
    assert summary["per_frame"] == [1, None, 4]
    assert math.isclose(summary["standard_error"], np.std([2, 5], ddof=1) / np.sqrt(2))
    half = 12.706 * summary["standard_error"]  # Student's t with one degree of freedom.
    np.testing.assert_allclose(summary["interval"], [3 - half, 3 + half], rtol=1e-4)
    values[1] = np.nan  # One video without values leaves one, which has no interval.
    assert scoring.summary({"readout": values})["readout"]["interval"] is None


def test_the_version_names_the_commit_in_a_clone():
    assert re.fullmatch(r"\d+\.\d+\.\d+ \([0-9a-f]{7,}(-dirty)?\)", versions.installed()["cwvae"])
    assert versions.packages()["cwvae"] == versions.installed()["cwvae"].partition(" ")[0]


@pytest.mark.parametrize("protocol", ["standard", "cwvae2021"])
def test_every_score_states_its_protocol(protocol):
    for score in frame_scores.image_scores([protocol]).values():
        assert score.about["protocol"].startswith(f"{protocol}: ")


def test_frames_read_soon_do_not_count_twice():
    values = np.full((2, 250), np.nan, np.float32)
    values[:, ::4] = 10
    values[:, :10] = 100
    (summary,) = scoring.summary({"readout_digits": values}).values()
    assert summary["mean_soon"] == 100
    np.testing.assert_allclose(summary["mean"], (3 * 100 + 60 * 10) / 63)


def test_files_of_an_earlier_evaluation_are_removed(tmp_path):
    evaluate(tiny.settings(), (0.1,), tmp_path)
    stale = tmp_path / "eval" / "boundaries.png"
    stale.write_text("from a model with segments")
    evaluate(tiny.settings(), (0.1,), tmp_path)
    assert not stale.exists()


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_an_evaluation_that_fails_late_leaves_the_earlier_one(tmp_path, monkeypatch, error):
    evaluate(tiny.settings(), (0.1,), tmp_path)
    before = contents(tmp_path / "eval")

    def fail(*_):
        raise error

    monkeypatch.setattr(report, "write", fail)
    with pytest.raises(type(error)):
        evaluate(tiny.settings("evaluation.num_videos=2"), (0.3,), tmp_path)
    assert contents(tmp_path / "eval") == before
    assert {path.name for path in tmp_path.iterdir()} == {"eval", ".eval.lock"}


def test_pictures_are_drawn_while_predictions_are_scored(tmp_path, monkeypatch):
    drawing, scored = threading.Event(), threading.Event()
    met, save = [], visualize.save_gif

    def wait(*arguments):
        drawing.set()
        met.append(scored.wait(60))
        save(*arguments)

    def score(*arguments):
        found = scoring_score(*arguments)
        met.append(drawing.wait(60))
        scored.set()
        return found

    scoring_score = scoring.score
    monkeypatch.setattr(scoring, "score", score)
    monkeypatch.setattr(visualize, "save_gif", wait)
    evaluate(tiny.settings(), (0.1,), tmp_path)
    assert met == [True, True]
    assert (tmp_path / "eval" / "samples.gif").exists()


def test_an_error_while_drawing_is_reported_and_leaves_the_earlier_evaluation(
    tmp_path, monkeypatch
):
    evaluate(tiny.settings(), (0.1,), tmp_path)
    before = contents(tmp_path / "eval")

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(visualize, "save_gif", fail)
    with pytest.raises(OSError, match="No space left"):
        evaluate(tiny.settings(), (0.3,), tmp_path)
    assert contents(tmp_path / "eval") == before
    assert {path.name for path in tmp_path.iterdir()} == {"eval", ".eval.lock"}


def test_without_an_earlier_evaluation_one_that_fails_late_leaves_none(tmp_path, monkeypatch):
    monkeypatch.delattr(report, "write")
    with pytest.raises(AttributeError):
        evaluate(tiny.settings(), (0.1,), tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {".eval.lock"}


def test_two_evaluations_cannot_write_one_folder(tmp_path):
    with (
        files.whole_folder(tmp_path / "eval", "evaluating into eval", "Wait."),
        pytest.raises(UserError, match=r"is evaluating into eval\. Wait until it ends, or give"),
    ):
        evaluate(tiny.settings(), (0.1,), tmp_path)
    evaluate(tiny.settings(), (0.1,), tmp_path, out=tmp_path / "other")
    assert (tmp_path / "other" / "report.html").exists()
    assert not any((tmp_path / "eval").iterdir())


@pytest.mark.parametrize("name", ["checkpoints", "notes.txt", "notes.tmp"])
def test_a_folder_with_other_files_is_not_replaced(tmp_path, name):
    folder = tmp_path / "eval"
    (folder / name).mkdir(parents=True)
    with pytest.raises(UserError, match=f"holds {name}, which eval.py did not write. Move that"):
        evaluate(tiny.settings(), (0.1,), tmp_path)
    assert (folder / name).exists()


def test_a_mounted_disk_is_refused_before_the_work(small_disk):
    with pytest.raises(UserError, match=f"a folder in it: --out {small_disk}/eval"):
        evaluation_results.check_folder(small_disk)
    evaluation_results.check_folder(small_disk / "eval")


def test_an_evaluation_elsewhere_leaves_the_run_alone(tmp_path):
    (tmp_path / "run").mkdir()
    out = tmp_path / "scores" / "first"
    evaluate(tiny.settings(), (0.1,), tmp_path / "run", out=out)
    assert not any((tmp_path / "run").iterdir())
    assert ", run<" in (out / "report.html").read_text()


def named(*overrides, step=None, model="cwvae"):
    own, other = (tiny.settings(*words, model=model) for words in ((), overrides))
    settings = map(configuration.as_plain, (own, other))
    return evaluation_results.folder_name(evaluation_results.changes(*settings), step)


def test_each_choice_of_settings_has_its_own_folder():
    assert named() == named("data.data_dir=/elsewhere") == "eval"
    assert named(step=2000) == "eval-step_000002000"
    both = ["evaluation.horizon=20", "evaluation.context=6"]
    assert named(*both) == named(*reversed(both)) == "eval-context_6,horizon_20"
    assert named("evaluation.observe_levels=TF", step=7) == "eval-step_000000007,observe_levels_TF"
    assert named("data.seed=3") == "eval-data.seed_3"
    assert named("evaluation.seed=3") == "eval-seed_3"
    assert named("data.speed=[3, 4.5]") == "eval-data.speed_3.0,4.5"
    assert named("evaluation.readout=true") == "eval-readout_true"
    assert named("evaluation.batch_size=3") == "eval"
    assert named("evaluation.fvd=true", "evaluation.lpips=true") == "eval"
    assert named("evaluation.fvd=false") == "eval-fvd_false"
    together = ["evaluation.batch_statistics=true", "evaluation.batch_size=3"]
    assert named(*together, model="svg") == "eval-batch_size_3,batch_statistics_true"


def test_long_or_strange_values_have_a_hash_in_the_folders_name():
    first, second = (named(f"data.digits_dir=/a{part}b") for part in "/ ")
    for name in (first, second):
        assert name.startswith("eval-data.digits_dir_-a-b-")
    assert first != second
    longest = named(f"data.digits_dir={'x' * 1000}", "evaluation.horizon=20")
    assert len(longest) < 100
    assert longest != named(f"data.digits_dir={'x' * 1000}", "evaluation.horizon=21")


@pytest.mark.parametrize(
    ("out", "expected"),
    [
        ("long", "run/long"),
        ("./long", "./long"),
        ("/a/long", "/a/long"),
        ("..", ".."),
        ("~/long", "HOME/long"),
    ],
)
def test_out_is_a_name_in_the_run_or_a_path(out, expected, monkeypatch):
    monkeypatch.setenv("HOME", "HOME")
    assert evaluation_results.folder_at("run", out) == pathlib.Path(expected)


def test_a_long_readable_evaluation_can_be_compared(tmp_path):
    from cwvae import comparison

    class Counted(tiny.Squares):
        def attributes(self, i, start=0, length=None):
            return {"squares": np.zeros((length, 1), np.int64)}

        def readable(self):
            read = operator.itemgetter("squares")
            return (Readable("square", "squares", CLASSES, 1, read, size=2),)

    class Reader:
        def metrics(self):
            about = {"label": "squares", "unit": "%", "better": "higher", "protocol": "any"}
            return {"readout_square": about}

        def scores(self, frames, readings):
            return {"readout_square": np.full(frames.shape[:2], 50, np.float32)}

    settings = tiny.settings(
        "data.test_length=120", "evaluation.horizon=101", "evaluation.readout=true"
    )
    data = Counted(120)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(readout, "fit", lambda data: Reader())
        for name in ("one", "two"):
            (tmp_path / name).mkdir()
            evaluator.evaluate(settings, Oracle(data, (0.1,)), 1, data, data, tmp_path / name)
    text, files = comparison.compare([str(tmp_path / "one"), str(tmp_path / "two")], tmp_path / "c")
    assert "squares" in text
    assert "readout_square.png" in {path.name for path in files}
