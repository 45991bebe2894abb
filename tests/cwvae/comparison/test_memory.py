"""Memory horizons: known answers, intervals, and their place in a comparison."""

import csv
import math
import re

import numpy as np
import pytest
from helpers import results
from scipy.optimize import isotonic_regression

from cwvae import comparison
from cwvae.comparison import figures, memory
from cwvae.errors import UserError
from cwvae.evaluation.results import RANDOM

FRAMES = np.arange(1, 61)


def horizon(lead, frames=FRAMES):
    return memory.crossings(np.asarray(frames), np.array([lead], float))[0]


def clips(curve, noise=1.0, count=50, seed=0, runs=1):
    """Returns leads [S, N, T] of clips whose mean is a curve, but for noise."""
    rng = np.random.default_rng(seed)
    return curve + noise * rng.standard_normal((runs, count, len(curve)))


# The horizon of a lead.


def test_a_linear_decay():
    # The mean over the first 10 frames is that at 5.5: 94.5. Half of it is at 100 - 47.25.
    assert horizon(100.0 - FRAMES) == pytest.approx(52.75)


@pytest.mark.parametrize("tau", [10, 20, 50])
def test_an_exponential_decay(tau):
    frames = np.arange(1, 400)
    lead = 7 * np.exp(-frames / tau)
    start = np.mean(np.exp(-np.arange(1, 11) / tau))
    exact = -tau * math.log(start / 2)
    assert horizon(lead, frames) == pytest.approx(exact, abs=0.02)
    # The time since the middle of the first 10 frames is the half-life, about: start is a mean.
    assert exact - 5.5 == pytest.approx(tau * math.log(2), rel=0.07)
    assert horizon(3 * lead, frames) == pytest.approx(exact, abs=0.02)


def test_a_step_is_between_its_frames():
    assert horizon([8.0] * 30 + [0.0] * 30) == 30.5
    assert horizon([8.0] * 30 + [2.0] * 30) == pytest.approx(30 + 4 / 6)
    sparse = [*range(1, 11), 21, 31, 41]
    assert horizon([8.0] * 11 + [0.0] * 2, sparse) == 26


def test_a_lead_that_stays_has_no_end():
    assert horizon([5.0] * 60) == math.inf
    assert horizon(60.0 + FRAMES) == math.inf


def test_without_a_lead_there_is_nothing_to_lose():
    assert horizon([0.0] * 60) == 0
    assert horizon([-1.0] * 10 + [5.0] * 50) == 0


def test_a_frame_without_score_does_not_matter():
    lead = 100.0 - FRAMES
    lead[[20, 50, 59]] = np.nan
    there = np.isfinite(lead)
    assert horizon(lead) == pytest.approx(horizon(lead[there], FRAMES[there]))
    assert horizon([np.nan] * 60) == 0


def test_it_is_where_the_isotonic_regression_crosses_half_of_the_start():
    rng = np.random.default_rng(0)
    for scale in (0.1, 1.0, 10.0):
        leads = np.exp(-FRAMES / 15) + scale * rng.standard_normal((200, 60))
        for lead, found in zip(leads, memory.crossings(FRAMES, leads), strict=True):
            fit = isotonic_regression(lead, increasing=False).x
            half = lead[:10].mean() / 2
            if half <= 0:
                assert found == 0
            elif fit[-1] >= half:
                assert found == math.inf
            else:
                below = int(np.argmax(fit < half))
                share = (fit[below - 1] - half) / (fit[below - 1] - fit[below])
                assert found == pytest.approx(below + share)


# Its interval.


def test_the_interval_narrows_with_more_clips():
    curve = 20 * np.exp(-FRAMES / 20)
    widths = []
    for count in (10, 100, 1000):
        one = memory.estimate(clips(curve, 10, count))
        low, high = one.interval
        assert low <= one.frames <= high
        widths.append(high - low)
    assert widths[0] > 1.5 * widths[1] > 3 * widths[2]


def test_the_interval_covers_the_truth():
    curve = 100.0 - 1.6 * FRAMES
    truth = horizon(curve)
    rng, covered = np.random.default_rng(1), 0
    for seed in range(100):
        # Clips are forgotten at different speeds.
        speeds = rng.normal(0, 0.4, (1, 50, 1)) * FRAMES
        low, high = memory.estimate(clips(curve, 10, seed=seed) + speeds).interval
        covered += low <= truth <= high
    assert 88 <= covered <= 100


def test_the_interval_has_the_spread_of_seeds():
    curve = 100.0 - 1.6 * FRAMES
    apart = np.array([-10.0, 0.0, 10.0])[:, None, None]
    same = memory.estimate(clips(curve, runs=3)).interval
    low, high = memory.estimate(clips(curve, runs=3) + apart * FRAMES / 60).interval
    assert high - low > 5 * (same[1] - same[0])
    # All seeds have the same clips, so three equal seeds say no more than one.
    one = clips(curve, 10)
    assert memory.estimate(np.repeat(one, 3, 0)).interval == pytest.approx(
        memory.estimate(one).interval, abs=0.5
    )


def test_equal_clips_give_equal_intervals():
    assert memory.estimate(clips(20 - FRAMES / 3)) == memory.estimate(clips(20 - FRAMES / 3))


def test_unclear_leads_have_no_horizon():
    assert memory.estimate(clips(np.zeros(60))).frames is None
    one = memory.estimate(clips(np.full(60, 0.01)))
    assert (one.frames, one.interval, one.text(), one.numbers()) == (None, None, "-", ["", "", ""])


def test_leads_that_may_not_end_have_an_open_interval():
    constant = memory.estimate(clips(np.full(60, 5.0), 0.1))
    assert constant.text() == "> 60"
    assert constant.numbers() == ["inf", "inf", "inf"]
    late = 4.8 + np.random.default_rng(0).standard_normal((1, 20, 1))  # Half of 10 is near.
    open_ended = memory.estimate(np.where(FRAMES < 50, 10.0, 2 * late - late.mean()))
    assert open_ended.text() == "50 (≥ 50)"
    assert math.isinf(open_ended.interval[1])


def test_a_single_clip_has_no_interval():
    one = memory.estimate(np.array([[100.0 - FRAMES]]))
    assert (one.interval, one.text(), one.numbers()) == (None, "53", ["52.8", "", ""])
    assert memory.estimate(np.zeros((1, 1, 60))).frames is None
    assert memory.estimate(np.full((2, 3, 60), np.nan)) is None


def test_the_last_frame_is_the_last_scored_one():
    leads = np.full((1, 9, 60), np.nan)
    leads[:, :, [*range(10), 14, 19, 24]] = 5
    assert memory.estimate(leads).text() == "> 25"


# In a comparison.


@pytest.fixture
def drawn(monkeypatch):
    """Collects figures instead of writing them, which is slow."""
    found = {}
    monkeypatch.setattr(
        figures, "_saved", lambda name, figure: found.setdefault(name, figure) and {}
    )
    return found


METRICS = ("psnr", "ssim", "readout_digits", "readout_positions")


@pytest.fixture
def runs(tmp_path):
    def write(name, **changes):
        return results.write(tmp_path / name, **{"metrics": METRICS, "fvd": False} | changes)

    return write


def compare(out, *arguments, **options):
    return comparison.compare(list(map(str, arguments)), out, **options)[0]


def rows_of(out):
    with open(out / "memory.csv", newline="") as file:
        return [*csv.DictReader(file)]


def expected(quality, metric="psnr", seed=0):
    """Returns the horizon of the mean scores of a run."""
    scores = results.make(quality=quality, seed=seed, metrics=METRICS)["scores"]
    model, guess = (np.array(scores[name][metric]["per_frame"]) for name in ("cwvae", RANDOM))
    sign = -1 if metric == "readout_positions" else 1
    return horizon(sign * (model - guess), np.arange(1, 31))


def test_a_comparison_has_a_table_of_horizons(tmp_path, runs, drawn):
    out = tmp_path / "out"
    text = compare(out, runs("a_1", quality=0.8), runs("b", quality=0.3), protocol="standard")
    a, b = rows_of(out)
    assert list(a)[:4] == [
        "model",
        "moving_digits digits right",
        "moving_digits digits right low",
        "moving_digits digits right high",
    ]
    for row, quality in ((a, 0.8), (b, 0.3)):
        for label, metric in zip(
            ("digits right", "position error", "PSNR"),
            ("readout_digits", "readout_positions", "psnr"),
            strict=True,
        ):
            values = [float(row[f"moving_digits {label}{end}"]) for end in ("", " low", " high")]
            assert values[0] == pytest.approx(expected(quality, metric), abs=0.06)
            assert values[1] <= values[0] <= values[2]
    assert "with 95% intervals over clips." in text
    (line,) = re.findall(r"^\| a_1 \| (\d+) \((\d+)-(\d+)\) \|.*$", text, re.MULTILINE)
    shown = [float(a[f"moving_digits digits right{end}"]) for end in ("", " low", " high")]
    assert [float(word) for word in line] == pytest.approx(shown, abs=0.56)
    assert "the lead over 'random training frame' has lost half of its initial value" in text
    tex = (out / "table.tex").read_text()
    assert r"\label{tab:memory}" in tex
    assert re.search(r"^a\\_1 & \d+ \(\d+-\d+\) & ", tex, re.MULTILINE)
    panels = drawn["memory"].axes
    assert [panel.get_xlabel().split("\n")[1] for panel in panels] == [
        "digits right",
        "position error",
        "PSNR",
    ]
    assert [tick.get_text() for tick in panels[0].get_yticklabels()] == ["b", "a_1"]
    points = [line.get_xydata()[0].tolist() for line in panels[2].lines]
    assert points == [[pytest.approx(expected(q)), y] for y, q in ((0, 0.3), (1, 0.8))]


def test_the_other_protocol_has_its_own_psnr(tmp_path, runs, drawn):
    metrics = ("psnr", "ssim", "psnr_cwvae2021", "ssim_cwvae2021")
    compare(tmp_path / "out", runs("a", metrics=metrics), protocol="cwvae2021")
    assert "moving_digits PSNR (cwvae2021)" in rows_of(tmp_path / "out")[0]


def test_horizons_of_seeds_are_those_of_their_mean_lead(tmp_path, runs, drawn):
    words = [
        f"A={runs(f'a{i}', quality=0.3 + 0.2 * i, settings__training__seed=i)}" for i in range(3)
    ]
    text = compare(tmp_path / "out", *words, runs("b"))
    assert "with 95% intervals over training seeds and clips." in text
    rows = rows_of(tmp_path / "out")
    assert [(row["model"], row["seed"]) for row in rows] == [
        *(("A", kind) for kind in ("mean", "0", "1", "2")),
        *(("b", kind) for kind in ("mean", "0")),
    ]
    column = "moving_digits PSNR"
    for i in range(3):
        assert float(rows[1 + i][column]) == pytest.approx(expected(0.3 + 0.2 * i), abs=0.06)
    low, high = (float(rows[0][f"{column} {end}"]) for end in ("low", "high"))
    assert low <= expected(0.35)
    assert high >= expected(0.65)
    assert rows[0][column] < rows[3][column]


def test_a_run_without_scores_of_clips_has_the_command_that_adds_them(tmp_path, runs, drawn):
    a, b = runs("a"), runs("b")
    (b / "eval" / "clip_scores.npz").unlink()
    text = compare(tmp_path / "out", a, b)
    assert [row["model"] for row in rows_of(tmp_path / "out")] == ["a"]
    hint = (
        "Memory horizon not computed for b on moving_digits: its evaluation has no"
        f" clip_scores.npz. To add it: python eval.py --logdir {b}"
    )
    assert hint in text
    (a / "eval" / "clip_scores.npz").unlink()
    text = compare(tmp_path / "out", a, b)
    assert hint in text
    assert not (tmp_path / "out" / "memory.csv").exists()
    assert "tab:memory" not in (tmp_path / "out" / "table.tex").read_text()


def test_scores_of_another_evaluation_are_refused(tmp_path, runs):
    a, b = runs("a"), runs("b", step=13)
    (b / "eval" / "clip_scores.npz").write_bytes((a / "eval" / "clip_scores.npz").read_bytes())
    with pytest.raises(UserError, match=r"metrics\.json next to it is of another evaluation"):
        compare(tmp_path / "out", a, b)
    assert not (tmp_path / "out").exists()


def test_kl_is_a_bar_for_each_level_with_points_for_seeds(tmp_path, runs, drawn):
    def elbo(*sums):
        names = [f"level_{i + 1}" for i in range(len(sums))]
        return {"frames": 32, "nll_per_frame": 1.0, "kl_names": names, "kl_sum": [*sums]}

    words = [
        f"A={runs(f'a{i}', elbo=elbo(100 + i, 0.02 * i), settings__training__seed=i)}"
        for i in range(2)
    ]
    other = elbo(7.0) | {"kl_names": ["boundary"]}
    compare(tmp_path / "out", *words, runs("b", elbo=elbo(50.0)), runs("c", elbo=other))
    (panel,) = drawn["kl"].axes
    assert [tick.get_text() for tick in panel.get_yticklabels()] == ["b", "A"]
    bars = [[bar.get_width() for bar in level] for level in panel.containers]
    assert bars == [[50, 100.5], [pytest.approx(0.01)]]
    assert [line.get_xdata().tolist() for line in panel.lines] == [[100, 101], [0, 0.02]]
    heights = [bar.get_y() for level in panel.containers for bar in level]
    assert heights[1] > heights[2] > heights[0]  # A's levels, above those of b.
    legend = [text.get_text() for text in drawn["kl"].legends[0].get_texts()]
    assert legend == ["level 1", "level 2"]


def test_without_kl_there_is_no_figure_of_it(tmp_path, runs, drawn):
    compare(tmp_path / "out", runs("a", elbo=None))
    assert "kl" not in drawn
    assert "memory" in drawn
