"""Tests of comparisons of runs: tables, ranks, figures, and errors."""

import csv
import io
import json
import os
import re
import shlex
import typing
from decimal import Decimal
from fractions import Fraction

import matplotlib.colors
import numpy as np
import pytest
from helpers import results
from helpers.scripts import ROOT, refused, run
from PIL import Image

from cwvae import comparison, config
from cwvae.comparison import figures, formats, ranks, seeds
from cwvae.comparison.tables import Cell, Row, Table
from cwvae.config import EvaluationConfig
from cwvae.errors import UserError
from cwvae.evaluation.results import digest
from cwvae.metrics import protocols
from cwvae.run import folder as run_folder

MODELS = ("CW-VAE", "VTA", "RSSM", "SVG", "NoTmpAbs")


def rows_of(folder, name="table.csv"):
    """Returns {model: {column: text}} of a table."""
    with open(folder / name, newline="") as file:
        return {row.pop("model"): row for row in csv.DictReader(file)}


@pytest.fixture
def runs(tmp_path):
    """Writes a run with a name, and changes as for `results.make`."""

    def write(name, **changes):
        return results.write(tmp_path / name, **changes)

    return write


@pytest.fixture(autouse=True)
def drawn(monkeypatch, request):
    """Collects figures instead of writing them, which is slow, unless `written_figures` is used."""
    figures_drawn = {}

    def keep(name, figure):
        figures_drawn[name] = figure
        return {}

    if "written_figures" not in request.fixturenames:
        monkeypatch.setattr(figures, "_saved", keep)
    return figures_drawn


@pytest.fixture
def written_figures():
    """Turns on the writing of figures."""


def compare(out, *arguments, **options):
    text, files = comparison.compare(list(map(str, arguments)), out, **options)
    assert {path.name for path in files} | {".lock"} == {path.name for path in out.iterdir()}
    return text


def fail(tmp_path, *arguments, **options):
    """Returns the error of a comparison, which must write nothing."""
    with pytest.raises(UserError) as caught:
        compare(tmp_path / "out", *arguments, **options)
    assert not (tmp_path / "out").exists()
    return str(caught.value)


# Ranks and bold numbers.


def decimals(text):
    return [None if word == "-" else Decimal(word) for word in text.split()]


@pytest.mark.parametrize(
    ("values", "better", "want"),
    [
        ("3 1 2", "higher", [1, 3, 2]),
        ("3 1 2", "lower", [3, 1, 2]),
        ("0.5 0.7 0.5 0.1", "higher", [2, 1, 2, 4]),
        ("7 7 7", "lower", [1, 1, 1]),
        ("-1 0.00 -2", "higher", [2, 1, 3]),
    ],
)
def test_equal_values_share_the_better_rank(values, better, want):
    assert ranks.competition_ranks(decimals(values), better) == want


@pytest.mark.parametrize(
    ("values", "better", "want"),
    [
        ("0.60 0.57 0.56", "higher", "TTF"),  # 0.95 * 0.60 in binary is above 0.57
        ("0.20 0.21 0.22", "lower", "TTF"),
        ("- 20 19.00 18.99", "higher", "FTTF"),
        ("-0.10 -0.11 -0.105", "higher", "TFT"),
        ("- -", "higher", "FF"),
    ],
)
def test_bold_are_the_best_and_those_within_5_percent(values, better, want):
    assert "".join("FT"[b] for b in ranks.highlighted(decimals(values), better)) == want


def test_columns_with_missing_scores_do_not_count():
    columns = [(decimals("1 2"), "higher"), (decimals("1 -"), "higher"), (decimals("1 2"), "lower")]
    assert ranks.mean_ranks(columns) == ([Fraction(3, 2), Fraction(3, 2)], 2)
    assert ranks.mean_ranks(columns[1:2]) == ([], 0)


def test_numbers_are_rounded_before_comparison():
    assert ranks.printed(0.654999, 2) == ranks.printed(0.645001, 2) == Decimal("0.65")
    assert str(ranks.printed(-0.001, 2)) == "0.00"
    assert str(ranks.printed(2611.7, 0)) == "2612"
    assert ranks.printed(None, 2) is None


# The paper's own numbers.

# For each column of Table 1, by the rule in its caption: the best, and those within 5% of it.
BOLD = {
    "CW-VAE": "TTTT TTFF FTFF TTTT",
    "VTA": "FFFF FFFT TTTF FFFF",
    "RSSM": "TTTT TTTF FTFF FTFT",
    "SVG": "FFTT FFFT TTTT FFFF",
    "NoTmpAbs": "FFFT TTFF FTTF TTTT",
}


@pytest.fixture(scope="module")
def paper(tmp_path_factory):
    """Runs the command line without runs."""
    out = tmp_path_factory.mktemp("paper") / "out"
    result = run("compare.py", "--paper", "--out", out)
    assert result.returncode == 0, result.stderr
    return out, result


def test_the_papers_table_gives_the_papers_ranks(paper):
    rows = rows_of(paper[0])
    assert {name.removesuffix(" (paper)"): row["Mean Rank"] for name, row in rows.items()} == {
        "CW-VAE": "2.25",
        "VTA": "3.62",
        "RSSM": "2.75",
        "SVG": "3.31",
        "NoTmpAbs": "2.62",
    }
    # The ranks are computed: the file does not contain them.
    assert "2.25" not in (ROOT / "cwvae" / "comparison" / "cwvae2021.yml").read_text()


def test_the_papers_rows_are_as_printed(paper):
    rows = rows_of(paper[0])
    line = "0.65 23.23 0.31 2612 0.85 26.52 0.25 2316 0.44 13.71 0.43 1276 0.68 13.11 0.26 593 2.25"
    assert " ".join(rows["CW-VAE (paper)"].values()) == line
    assert " ".join(rows["SVG (paper)"].values()).startswith("0.56 17.22 0.32 2666 0.75 ")
    columns = list(rows["SVG (paper)"])
    assert columns[:5] == [f"MineRL Navigate {m}" for m in ("SSIM", "PSNR", "LPIPS", "FVD")] + [
        "KTH Action SSIM"
    ]
    assert columns[-2:] == ["Moving MNIST FVD", "Mean Rank"]


def test_the_papers_best_are_bold(paper):
    for file, pattern in (
        ("table.md", r"\| (\S+) \(paper\) \| (.*) \|"),
        ("table.tex", r"^(\S+) \(paper\) & (.*) \\\\"),
    ):
        lines = re.findall(pattern, (paper[0] / file).read_text(), re.MULTILINE)
        found = {name: re.split(r" [|&] ", cells)[:-1] for name, cells in lines if name in MODELS}
        bold = {n: "".join("FT"[not c[0].isdigit()] for c in cells) for n, cells in found.items()}
        assert bold == {name: flags.replace(" ", "") for name, flags in BOLD.items()}


def test_the_papers_table_2(paper):
    rows = rows_of(paper[0], "kl.csv")
    assert " ".join(rows["4-level CW-VAE (paper)"].values()) == "397.10 41.20 2.66 0.0001 100"
    assert list(rows["1-level CW-VAE (paper)"].values()) == ["440.50", "", "", "", "100"]


def test_the_command_prints_the_table_and_names_the_files(paper):
    out, result = paper
    assert (out / "table.md").read_text() in result.stdout
    (line,) = re.findall(r"Written to (.*): (.*)\.$", result.stdout, re.MULTILINE)
    assert line[0] == str(out)
    assert {*line[1].split(", "), ".lock"} == {path.name for path in out.iterdir()}
    assert "arXiv:2102.09532" in result.stdout


# Tables of runs.


def test_a_row_is_a_label_and_a_column_a_data_set(tmp_path, runs):
    ours = runs("a", quality=0.9), runs("b", quality=0.7, data="kth_actions", horizon=40)
    other = runs("RSSM", quality=0.3)
    text = compare(tmp_path / "out", f"CW-VAE={ours[0]}", f"CW-VAE={ours[1]}", other)
    rows = rows_of(tmp_path / "out")
    assert list(rows) == ["CW-VAE", "RSSM", *results.BASELINES]
    assert list(rows["RSSM"])[::4] == ["KTH Action SSIM", "moving_digits SSIM", "Mean Rank"]
    want = results.make(quality=0.9)["scores"]["cwvae"]
    assert rows["CW-VAE"]["moving_digits PSNR"] == f"{want['psnr']['mean']:.2f}"
    assert rows["CW-VAE"]["moving_digits FVD"] == "1100"
    assert rows["RSSM"]["KTH Action SSIM"] == ""
    assert [rows[n]["Mean Rank"] for n in ("CW-VAE", "RSSM", *results.BASELINES)] == [
        *("1.00", "2.00"),
        *("",) * 3,
    ]
    assert "over 4 of 8 columns" in text
    assert "because RSSM has no score: SSIM, PSNR, LPIPS, FVD on KTH Action." in text
    assert "KTH Action (kth_actions): 36 context frames, 40 predicted, 100 videos" in text


def test_missing_scores_are_dashes_with_notes(tmp_path, runs, drawn):
    a = runs("a", metrics=("psnr", "ssim"), fvd=False, protocols=["standard"])
    text = compare(tmp_path / "out", a, runs("b", fvd=False))
    rows = rows_of(tmp_path / "out")
    assert rows["a"]["moving_digits LPIPS"] == ""
    assert not [name for name in rows["a"] if "FVD" in name]  # Nobody computed it.
    assert re.search(r"^\| a \| .* \| – \| \d", text, re.MULTILINE)  # noqa: RUF001
    tex = (tmp_path / "out" / "table.tex").read_text()
    assert re.search(r"^a & .* & -- & \d", tex, re.MULTILINE)
    assert "over 2 of 3 columns (SSIM, PSNR); lower" in text
    assert "Not ranked, because a has no score: LPIPS on moving\\_digits" in tex
    assert "FVD not computed for a on moving_digits, b on moving_digits: weights" in text
    assert "LPIPS not computed for a on moving_digits: weights not found. Get them." in text
    assert "Further measures" not in text
    assert list(drawn) == ["psnr", "ssim", "lpips", "ranks", "memory", "kl"]


def test_without_ranks_there_is_no_column_of_ranks(tmp_path, runs):
    text = compare(tmp_path / "out", runs("a"), runs("b", data="gqn_mazes"))
    assert "Mean Rank" not in rows_of(tmp_path / "out")["a"]
    assert "No ranks: no column has a score of every model." in text


def test_latex_has_no_commands_paths_or_empty_columns(tmp_path, runs):
    why = {
        "lpips": "/home/me/lpips.npz does not exist. To fetch it: python eval.py --fetch-weights"
    }
    other = {"scores__mean training frame__ssim__mean": 0.5, "settings__training__seq_len": 50}
    options = {"metrics": ("psnr", "ssim"), "fvd": False, "not_computed": why}
    a, b = runs("a_1", **options), runs("b", **options, **other)
    compare(tmp_path / "out", a, b, with_costs=True)
    # The reasons are for the user, on the screen and in table.md.
    assert why["lpips"] in (tmp_path / "out" / "table.md").read_text()
    for name in ("table.tex", "training.tex"):
        text = (tmp_path / "out" / name).read_text()
        assert not re.search(r"python|cwvae |\w/\w|\.py|\.json|\.npz|--\w|LPIPS|FVD", text)
    assert "0.54 in a\\_1 and 0.5 in b: the first" in (tmp_path / "out" / "table.tex").read_text()


def test_notes_say_how_fvd_was_computed(tmp_path, runs):
    text = compare(tmp_path / "out", runs("a"), runs("b"))
    for words in (
        "FVD on moving_digits: I3D logits; 100 videos of 30 frames; I3D module 1a2b3c4d; between"
        " real videos 210 (two halves of the test videos).",
        "moving_digits: FVD of 100 videos, fewer than 400, is too high.",
    ):
        assert text.count(words) == 1


def test_baselines_and_best_samples_have_no_rank_and_are_not_bold(tmp_path, runs):
    text = compare(tmp_path / "out", *(runs(n, samples=5, quality=0.1) for n in "ab"))
    lines = [line.split(" | ") for line in text.split("Further")[0].splitlines() if line[:1] == "|"]
    names = [line[0].strip("|* ") for line in lines[3:]]
    assert names == ["a", "a, best of 5", "b", "b, best of 5", *results.BASELINES]
    by_name = dict(zip(names, lines[3:], strict=True))
    for name in ("a, best of 5", "copy last frame"):
        assert "**" not in "".join(by_name[name])
        assert by_name[name][-1].strip(" |") == ""
    # The models are bold although the baseline is better.
    assert float(by_name["copy last frame"][2]) > float(by_name["a"][2].strip("*"))
    assert "**" in by_name["a"][2]


def test_the_other_protocol_and_readouts_have_their_own_table(tmp_path, runs):
    a, b = (runs(name, metrics=tuple(results.CURVES)) for name in "ab")
    compare(tmp_path / "one", a, b)
    rows = rows_of(tmp_path / "one", "measures.csv")
    ceiling = rows["true frames"]
    assert ceiling.pop("moving_digits digits right [%]") == "98.00"
    assert ceiling.pop("moving_digits position error [pixels]") == "0.50"
    assert set(ceiling.values()) == {""}
    assert "true frames" not in rows_of(tmp_path / "one")
    compare(tmp_path / "two", a, b, protocol="cwvae2021")
    first, second = (rows_of(tmp_path / out)["a"] for out in ("one", "two"))
    measures = rows_of(tmp_path / "two", "measures.csv")["a"]
    assert measures["moving_digits PSNR [dB]"] == first["moving_digits PSNR"]
    assert rows["a"]["moving_digits PSNR (cwvae2021) [dB]"] == second["moving_digits PSNR"]
    assert first["moving_digits LPIPS"] == second["moving_digits LPIPS"]


def test_protocols_that_differ_by_data_set_are_said_for_each(tmp_path, runs):
    longer = {"metrics__lpips__protocol": "v0.1; the first 10 and 1 of 8 predicted frames"}
    text = compare(tmp_path / "out", runs("a"), runs("b", data="gqn_mazes", **longer))
    assert "LPIPS on moving_digits (" in text
    assert "LPIPS on GQN Mazes (v0.1; the first 10 and 1 of 8 predicted frames)" in text
    assert "SSIM (" in text


def test_kl_by_level_states_its_window(tmp_path, runs):
    elbo = {"frames": 32, "nll_per_frame": 1.0, "kl_names": ["level0"], "kl_sum": [12.345]}
    other = elbo | {"kl_names": ["boundary"]}
    text = compare(tmp_path / "out", runs("a"), runs("b", elbo=elbo), runs("c", elbo=other))
    rows = rows_of(tmp_path / "out", "kl.csv")
    assert "c" not in rows
    assert "c on moving_digits has no levels: boundary 12.35 over 32 frames." in text
    assert list(rows["a"].values()) == ["300.00", "17.00", "100"]
    assert list(rows["b"].values()) == ["12.35", "", "32"]
    assert "windows of different lengths (Frames) cannot be compared" in text


def test_latex_escapes_names():
    table = Table("t", "A 5% #1", [("g_1", "x ↑")], [Row("[a]_b&{c}", [Cell("1", True)])], [], [])
    text = formats.latex(table)
    assert r"\caption{A 5\% \#1}" in text
    assert r"\multicolumn{1}{c}{g\_1}" in text
    assert r"{}[a]\_b\&\{c\} & \textbf{1} \\" in text
    assert r"x $\uparrow$" in text
    assert formats.escaped("\\~^<>") == (
        r"\textbackslash{}\textasciitilde{}\textasciicircum{}\textless{}\textgreater{}"
    )


def test_latex_is_balanced(tmp_path, runs):
    two = [runs(f"c{i}", samples=2, settings__training__seed=i) for i in (0, 1)]
    compare(
        tmp_path / "out", runs("a_1", samples=2), runs("b", samples=2), *(f"c={c}" for c in two)
    )
    text = (tmp_path / "out" / "table.tex").read_text()
    body = re.sub(r"^%.*", "", text, flags=re.MULTILINE).replace(r"\{", "").replace(r"\}", "")
    assert body.count("{") == body.count("}")
    assert sorted(re.findall(r"\\begin{(\w+\*?)}", text)) == sorted(
        re.findall(r"\\end{(\w+\*?)}", text)
    )
    for tabular in re.findall(r"\\begin{tabular}.*?\\end{tabular}", text, re.DOTALL):
        columns = len(re.match(r"\\begin{tabular}{([lr ]+)}", tabular)[1].replace(" ", ""))
        lines = re.findall(r"^(.*&.*)\\\\$", tabular, re.MULTILINE)
        assert len(lines) > 2
        for line in lines[1:]:
            assert line.count("&") == columns - 1
    assert not re.search(r"[^\\][_%#]", text.replace("% Needs", ""))


def test_markdown_and_csv_have_a_cell_for_every_column(tmp_path, runs):
    text = compare(tmp_path / "out", runs("a|b"), runs("c"))
    for block in text.split("\n\n"):
        counts = {len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}
        assert not block.startswith("|") or len(counts) == 1
    assert "| a\\|b |" in text
    table = (tmp_path / "out" / "table.csv").read_text()
    assert len({len(row) for row in csv.reader(io.StringIO(table))}) == 1


# Training seeds.


def test_the_interval_is_students():
    # t = 4.302653 with two degrees of freedom; the standard deviation of 1, 2, 3 is 1.
    score = seeds.over_seeds({5: 1.0, 6: 2.0, 7: 3.0})
    assert score.mean == 2
    assert score.margin == pytest.approx(4.302652730 / 3**0.5, rel=1e-9)
    assert score.by_seed == {5: 1.0, 6: 2.0, 7: 3.0}
    # t = 12.706205 with one degree of freedom.
    assert seeds.over_seeds({0: 1.0, 1: 3.0}).margin == pytest.approx(12.706204736, rel=1e-9)
    assert seeds.over_seeds({0: 0.1}) == seeds.Score(0.1, None, {0: 0.1})


def test_the_interval_covers_the_mean_as_often_as_it_says():
    samples = np.random.default_rng(0).normal(7, 3, [4, 20000])
    covered = abs(samples.mean(0) - 7) <= seeds.half_width(samples)
    assert covered.mean() == pytest.approx(0.95, abs=0.006)


@pytest.fixture
def seeded(runs):
    """Returns the arguments of three seeds of a model A, in another order, and of two of B."""
    words = []
    for label, numbers in (("A", (2, 0, 1)), ("B", (0, 1))):
        for seed in numbers:
            options = {"seed": seed, "quality": 0.5 + 0.1 * seed + (label == "B"), "samples": 2}
            folder = runs(f"{label}-seed_{seed}", settings__training__seed=seed, **options)
            words.append(f"{label}={folder}")
    return words


def test_a_row_of_seeds_has_their_mean_and_interval(tmp_path, seeded):
    text = compare(tmp_path / "out", *seeded)
    with open(tmp_path / "out" / "table.csv", newline="") as file:
        rows = [*csv.DictReader(file)]
    fvd = {(row["model"], row["seed"]): row["moving_digits FVD"] for row in rows}
    best = [(f"{label}, best of 2", kind) for label in "AB" for kind in ("mean", "0", "1")]
    of_a = [("A", kind) for kind in ("mean", "95% half-width", "0", "1", "2")]
    assert list(fvd)[:5] == of_a
    assert {*best, *of_a, *((name, "") for name in results.BASELINES)} < {*fvd}
    # FVD is 1000 (2 - quality); half the interval of steps of 100 is 248.4.
    assert [fvd[key] for key in of_a] == ["1400", "248", "1500", "1400", "1300"]
    assert [fvd["B", kind] for kind in ("mean", "95% half-width")] == ["450", "635"]
    assert "| 1400 ± 248 | 2.00 |" in text
    assert "| **450** ± 635 | 1.00 |" in text
    tex = (tmp_path / "out" / "table.tex").read_text()
    assert r"& \textbf{450} $\pm$ 635 & 1.00 \\" in tex
    assert r"Numbers are means over 2 to 3 training seeds $\pm$ half the width of the" in tex
    assert "Training seeds: 0, 1, 2 (A); 0, 1 (B). All were" in tex
    psnr = [
        results.make(seed=seed, quality=0.5 + 0.1 * seed)["scores"]["cwvae"]["psnr"]["mean"]
        for seed in (0, 1, 2)
    ]
    (shown,) = {row["moving_digits PSNR"] for row in rows if (row["model"], row["seed"]) == of_a[0]}
    assert shown == f"{np.mean(psnr):.2f}"
    kl = (tmp_path / "out" / "kl.csv").read_text().splitlines()
    assert kl[:5] == [
        "model,seed,moving_digits Level 1,moving_digits Level 2,moving_digits Frames",
        *("A,mean,300.00,17.00,100", "A,95% half-width,0.00,0.00,"),
        *("A,0,300.00,17.00,100", "A,1,300.00,17.00,100"),
    ]


def test_one_seed_each_is_shown_as_before(tmp_path, runs):
    text = compare(tmp_path / "out", f"A={runs('a', settings__training__seed=3)}", runs("b"))
    assert "±" not in text
    assert "seed" not in text
    assert (tmp_path / "out" / "table.csv").read_text().startswith("model,moving_digits SSIM,")


def test_curves_of_seeds_have_bands(tmp_path, seeded, runs, drawn):
    compare(tmp_path / "out", *seeded[:3], runs("C", samples=2))
    (panel,) = drawn["psnr"].axes
    curves = np.array(
        [
            results.make(seed=seed, quality=0.5 + 0.1 * seed)["scores"]["cwvae"]["psnr"][
                "per_frame"
            ]
            for seed in (0, 1, 2)
        ]
    )
    np.testing.assert_allclose(panel.lines[0].get_ydata(), curves.mean(0))
    assert len(panel.collections) == 1  # C has one seed, baselines have none.
    edges = panel.collections[0].get_paths()[0].vertices
    low, high = curves.mean(0) - seeds.half_width(curves), curves.mean(0) + seeds.half_width(curves)
    for frame in (1, 15, 30):
        at = edges[edges[:, 0] == frame, 1]
        assert [min(at), max(at)] == pytest.approx([low[frame - 1], high[frame - 1]])
    color = panel.collections[0].get_facecolor()[0]
    assert matplotlib.colors.to_hex(color) == panel.lines[0].get_color().lower()
    legend = drawn["psnr"].legends[0]
    assert legend.get_title().get_text() == "mean over training seeds, with its 95% interval"
    names = [text.get_text() for text in legend.get_texts()]
    assert names == ["A", "C", *results.BASELINES]


def test_a_single_point_of_seeds_has_its_interval(tmp_path, runs, drawn):
    words = [f"A={runs(f'{i}', horizon=16, settings__training__seed=i)}" for i in (0, 1)]
    compare(tmp_path / "out", *words)
    (line,) = drawn["fvd_windows"].axes[0].collections
    assert len(line.get_segments()) == 1


def test_a_score_that_a_seed_lacks_is_missing(tmp_path, runs):
    a = [runs("a0"), runs("a1", settings__training__seed=1, fvd=False)]
    text = compare(tmp_path / "out", *(f"A={folder}" for folder in a), runs("B"))
    with open(tmp_path / "out" / "table.csv", newline="") as file:
        rows = {(row["model"], row["seed"]): row for row in csv.DictReader(file)}
    assert rows["A", "mean"]["moving_digits FVD"] == rows["A", "0"]["moving_digits FVD"] == ""
    assert rows["B", "mean"]["moving_digits FVD"] == "1500"
    assert "FVD not computed for A (seed 1) on moving_digits: weights not found" in text
    assert "Not ranked, because A has no score: FVD on moving_digits" in text


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "training.seed is 0 in both. Drop one of them, or give it another name."),
        ({"settings__model__levels": 2}, "model.levels: 3 in {a}, 2 in {b}"),
        ({"settings__training__learning_rate": 0.1}, "training.learning_rate: 0.0003 in {a}, 0.1"),
        (
            {"settings__training__precision": "bfloat16"},
            'training.precision: "float32" in {a}, "bfloat16"',
        ),
        ({"settings__data__train_length": 50}, "data.train_length: 100 in {a}, 50 in {b}"),
        ({"step": 11}, "training step: 12 in {a}, 11 in {b}"),
        ({"settings__evaluation__batch_statistics": True}, "batch_statistics: false in {a}, true"),
    ],
)
def test_seeds_of_one_row_differ_in_the_seed_only(tmp_path, runs, changes, words):
    seed = {"settings__training__seed": 1} if changes else {}
    a, b = runs("a"), runs("b", **changes, **seed)
    message = fail(tmp_path, f"A={a}", f"A={b}")
    assert message.startswith(f"{a} and {b} are both called 'A', on moving_digits, so they must be")
    assert words.format(a=a, b=b) in message
    compare(tmp_path / "apart", f"A={a}", f"B={b}")


def test_seeds_may_differ_in_settings_that_do_not_change_weights(tmp_path, runs):
    a, b = runs("a"), runs("b", settings__training__seed=1, settings__training__save_every=7)
    file = b / "eval" / "metrics.json"
    content = json.loads(file.read_text())
    for key in ("clip_norm", "precision"):  # As if by an older version, which used float32.
        del content["settings"]["training"][key]
    content["sha256"] = digest(content)
    file.write_text(json.dumps(content))
    file.with_name("clip_scores.npz").unlink()
    compare(tmp_path / "out", f"A={a}", f"A={b}")


# Names of data sets.


def test_folders_of_videos_are_data_sets(tmp_path, runs):
    on = {"data": "video_folder", "settings__data__videos_dir": "/data/robots/"}
    a, b = runs("a", **on), runs("b", **on | {"settings__data__videos_dir": "/data/kth_actions"})
    text = compare(tmp_path / "out", f"A={a}", f"A={b}")
    columns = rows_of(tmp_path / "out")["A"]
    assert "robots SSIM" in columns
    assert "robots (video_folder): 36 context frames" in text
    # Another data set of the same name as one of the paper is not the paper's.
    message = fail(tmp_path / "paper", a, b, with_paper=True)
    assert "no run is on a data set of the paper's Table 1" in message


def test_a_name_for_a_data_set(tmp_path, runs, drawn):
    on = {"data": "video_folder", "settings__data__videos_dir": "/data/videos"}
    a, b = runs("a", **on), runs("b", **on, **{"scores__copy last frame__ssim__mean": 0.5})
    message = fail(tmp_path, a, b)
    assert "are both on" not in message
    assert message.endswith("If they are two data sets, name one of them: NAME@DATA=RUN")
    compare(tmp_path / "out", f"A@left={a}", f"A@right hand={b}")
    assert list(rows_of(tmp_path / "out")["A"])[::4] == [
        "left SSIM",
        "right hand SSIM",
        "Mean Rank",
    ]
    assert [axes.get_title() for axes in drawn["psnr"].axes] == ["left", "right hand"]
    for wrong in ("@left", "A@"):
        assert "write NAME or, to name the data set too, NAME@DATA" in fail(
            tmp_path / "x", f"{wrong}={a}"
        )
    message = fail(tmp_path / "y", f"A@left={a}", f"B@left={runs('c')}")
    assert "both on a data set called left, but data.name is video_folder in one and" in message


# Figures.


def test_figures_are_written_as_png_and_pdf(tmp_path, runs, written_figures):
    names = [runs(f"run {i}", quality=i / 9, metrics=("psnr", "readout_digits")) for i in range(8)]
    compare(tmp_path / "out", *names)
    stems = {"psnr", "readout_digits", "fvd_prefixes", "fvd_windows", "ranks", "memory", "kl"}
    written = {path.name for path in (tmp_path / "out").iterdir()} - {".lock"}
    tables = {"table.md", "table.csv", "table.tex", "measures.csv", "memory.csv", "kl.csv"}
    assert written - tables == {f"{stem}.{kind}" for stem in stems for kind in ("png", "pdf")}
    for stem in stems:
        assert (tmp_path / "out" / f"{stem}.pdf").read_bytes().startswith(b"%PDF")
        with Image.open(tmp_path / "out" / f"{stem}.png") as picture:
            assert picture.width > 600
            assert len(picture.convert("RGB").getcolors(1 << 20)) > 20


def test_every_curve_is_in_its_panel(tmp_path, runs, drawn):
    options = {"metrics": ("psnr", "psnr_cwvae2021"), "quality": 0.7}
    a, b = runs("a", **options), runs("b", data="gqn_mazes", fvd=False, **options)
    compare(tmp_path / "out", a, b, protocol="cwvae2021")
    assert list(drawn) == ["psnr", "fvd_prefixes", "fvd_windows", "memory", "kl"]  # no ranks
    panels = drawn["psnr"].axes
    assert [panel.get_title() for panel in panels] == ["GQN Mazes", "moving_digits"]
    assert panels[0].get_ylabel() == "PSNR (cwvae2021) [dB] ↑"
    want = results.make(**options)
    for panel in panels:
        for line, name in zip(panel.lines, ["cwvae", *results.BASELINES], strict=True):
            assert list(line.get_xdata()) == list(range(1, 31))
            assert list(line.get_ydata()) == want["scores"][name]["psnr_cwvae2021"]["per_frame"]
    (panel,) = drawn["fvd_prefixes"].axes
    assert panel.get_title() == "moving_digits"
    for line, name in zip(panel.lines, ["cwvae", "copy last frame"], strict=True):
        points = zip(line.get_xdata(), line.get_ydata(), strict=True)
        assert [list(point) for point in points] == want["fvd"]["scores"][name]["prefixes"]
    legend = [text.get_text() for text in drawn["psnr"].legends[0].get_texts()]
    assert legend == ["a", "b", *results.BASELINES]


def test_a_model_has_one_colour_and_baselines_are_gray(tmp_path, runs, drawn):
    names = [runs(f"run {i}") for i in range(7)]
    compare(tmp_path / "out", *names, f"run 6={runs('other', data='gqn_mazes', fvd=False)}")
    assert list(rows_of(tmp_path / "out"))[:7] == [f"run {i}" for i in range(7)]
    first, *_, last = drawn["psnr"].axes[1].lines[:7]
    assert first.get_color() == last.get_color()  # After six colours the line style changes.
    assert first.get_linestyle() != last.get_linestyle()
    colors = {line.get_color() for line in drawn["psnr"].axes[1].lines[7:]}
    assert all(color[1:3] == color[3:5] == color[5:7] for color in colors)
    own = drawn["psnr"].axes[0].lines[0]
    assert (own.get_color(), own.get_linestyle()) == (last.get_color(), last.get_linestyle())


def test_a_single_window_is_a_point(tmp_path, runs, drawn):
    compare(tmp_path / "out", runs("a", horizon=16))
    assert drawn["fvd_windows"].axes[0].lines[0].get_marker() == "o"


def test_ranks_are_bars_from_1(tmp_path, drawn):
    compare(tmp_path / "out", with_paper=True)
    (panel,) = drawn["ranks"].axes
    bars = [(bar.get_x(), bar.get_x() + bar.get_width()) for bar in panel.patches]
    assert bars == [(1, 3.625), (1, 3.3125), (1, 2.75), (1, 2.625), (1, 2.25)]
    names = [label.get_text() for label in panel.get_yticklabels()]
    assert names[-1] == "CW-VAE (paper)"
    assert panel.get_xlim()[0] == 1


def test_names_are_no_formulas(tmp_path, runs, written_figures):
    for name in (r"a $\bad$", "$_$"):
        compare(tmp_path / "out", runs(name), runs("b"))
        assert list(rows_of(tmp_path / "out"))[:2] == [name, "b"]


# Errors.


def test_scored_settings_must_agree_and_the_message_has_the_command(tmp_path, runs):
    a = runs("a", horizon=30, settings__data__speed=[2.0, 6.0])
    b = runs("b", horizon=50, context=20, settings__data__speed=[3.0, 4.0])
    message = fail(tmp_path, a, b)
    assert "both on moving_digits" in message
    assert f"evaluation.horizon: 30 in {a}, 50 in {b}" in message
    assert f"evaluation.context: 36 in {a}, 20 in {b}" in message
    assert f"data.speed: [2.0, 6.0] in {a}, [3.0, 4.0] in {b}" in message
    command = shlex.split(message.splitlines()[-1].partition("python eval.py ")[2])
    settings = dict(word.split("=") for word in command[3::2])
    assert command[:2] == ["--logdir", str(b)]
    assert {key: json.loads(value) for key, value in settings.items()} == {
        "evaluation.context": 36,
        "evaluation.horizon": 30,
        "data.speed": [2.0, 6.0],
    }


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_videos": 99}, "evaluation.num_videos: 100 in"),
        ({"samples": 2}, "evaluation.num_samples: 1 in"),
        ({"observe_levels": "TTF"}, "evaluation.observe_levels: null in"),
        ({"settings__data__seed": 1}, "data.seed: 0 in"),
        ({"frames": "32x32x1, values in [0, 1]"}, "frames: 64x64x1"),
        ({"metrics__ssim__protocol": "another"}, "protocol of SSIM: standard"),
        ({"fvd__module": "ffff"}, "I3D module of FVD: 1a2b3c4d in"),
        ({"fvd__num_videos": 50}, "videos of FVD: 100 in"),
        ({"settings__data__digits_dir": "/mnist"}, "--set data.digits_dir=null"),
    ],
)
def test_runs_that_were_not_scored_alike_are_refused(tmp_path, runs, changes, words):
    a, b = runs("a"), runs("b", **changes)
    message = fail(tmp_path, a, b)
    assert words in message
    assert str(a) in message
    assert str(b) in message
    # Runs on different data sets may differ.
    runs("b", data="gqn_mazes", **changes)
    compare(tmp_path / "fine", a, b)


def test_settings_that_do_not_change_test_frames_may_differ(tmp_path, runs):
    changes = {
        "settings__data__data_dir": "/elsewhere",
        "settings__data__windows": "chunks",
        "settings__data__train_length": 300,
        "settings__training__seq_len": 50,
        "settings__evaluation__seed": 3,
        "settings__evaluation__batch_size": 7,
        "step": 99,
        "observe_levels": "TTT",
    }
    compare(tmp_path / "out", runs("a"), runs("b", **changes))
    a = runs("a", settings__data__digits="mnist")
    compare(tmp_path / "out", a, runs("b", settings__data__digits_dir="/mnist"))


def test_different_baselines_reveal_different_videos(tmp_path, runs):
    a = runs("a")
    copied, averaged = (
        "scores__copy last frame__ssim__mean",
        "scores__mean training frame__ssim__mean",
    )
    message = fail(tmp_path, a, runs("b", **{copied: 0.5}))
    assert "SSIM of 'copy last frame' is 0.58 in" in message
    assert "the videos differ" in message
    assert "SSIM of 'mean training frame'" in fail(tmp_path, a, runs("b", **{averaged: 0.5}))
    compare(tmp_path / "rounded", a, runs("b", **{copied: 0.5801}))
    # Training windows of another length have another mean frame, which is allowed.
    longer = runs("b", **{averaged: 0.5}, settings__training__seq_len=50)
    text = compare(tmp_path / "fine", a, longer)
    assert "SSIM of 'mean training frame' is 0.54 in" in text
    assert rows_of(tmp_path / "fine")["mean training frame"]["moving_digits SSIM"] == "0.54"


def test_a_protocol_without_evaluation(tmp_path, runs):
    a = runs("a", metrics=("psnr", "ssim"), protocols=["standard"])
    message = fail(tmp_path, a, protocol="cwvae2021")
    assert f"{a}: not evaluated with --protocol cwvae2021, but with standard" in message
    assert message.endswith(f"--logdir {a} --set evaluation.protocol=both")
    assert "Give the folder that this command writes" in message


def test_names(tmp_path, runs):
    a = runs("one/run")
    b = runs("two/run")
    message = fail(tmp_path, a, b)
    assert "are both called 'run', on moving_digits" in message
    assert message.endswith(f"For two rows, name one of them: NAME={b}")
    compare(tmp_path / "named", a, f"other={b}")
    assert list(rows_of(tmp_path / "named"))[:2] == ["run", "other"]
    compare(tmp_path / "equals", runs("lr=0.1"))
    assert next(iter(rows_of(tmp_path / "equals"))) == "lr=0.1"
    assert "write NAME=RUN" in fail(tmp_path, f"={a}")
    assert "write NAME=RUN" in fail(tmp_path, "CW-VAE=")
    message = fail(tmp_path, f"CW-VAE={a}x")
    assert message.startswith(f"{a}x (from CW-VAE={a}x): no such folder")
    assert "the paper's own rows" in fail(tmp_path, f"CW-VAE (paper)={a}")


@pytest.mark.parametrize("name", [*results.BASELINES, "true frames", "a, best of 5"])
def test_names_of_other_rows_are_refused(tmp_path, runs, name):
    a = runs("a", samples=5)
    message = fail(tmp_path, a, f"{name}={runs('b', samples=5)}")
    assert message.endswith(
        f"b: the name {name!r} is reserved for a row that the comparison adds. Use another name."
    )
    assert "is reserved for" in fail(tmp_path, runs(name))


@pytest.mark.parametrize("name", ["a\nb", "a\udcff"])
def test_names_that_cannot_be_printed_are_refused(tmp_path, runs, name):
    assert f"the name {name!r} cannot be printed. Use" in fail(tmp_path, f"{name}={runs('a')}")


def test_a_run_that_was_not_evaluated(tmp_path):
    (tmp_path / "my run").mkdir()
    message = fail(tmp_path, tmp_path / "my run")
    assert message.startswith(f"{tmp_path / 'my run'}: not evaluated yet")
    assert message.endswith(f"python eval.py --logdir '{tmp_path / 'my run'}'")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "damaged (Expecting value"),
        ('{"format": 5, "st', "damaged (Unterminated string"),
        (b"\xff\xfe", "damaged ("),
        ("[1, 2]", "damaged ("),
        ("[" * 100000, "damaged ("),
        ('{"step": 3}', "(format 1, not 5)"),
        ('{"format": 4}', "(format 4, not 5)"),
        ('{"format": 5}', "damaged (the content does not match its checksum)"),
    ],
)
def test_a_damaged_or_older_file(tmp_path, runs, content, words):
    file = runs("a") / "eval" / "metrics.json"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    message = fail(tmp_path, tmp_path / "a")
    assert message.startswith(str(file))
    assert words in message
    assert message.endswith(f"Evaluate again: python eval.py --logdir {tmp_path / 'a'}")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"mean": 0.', '"mean": 1.'),
        ('"mean": 0.58', '"mean": true, "was": 0.58'),
        ('"mean": 0.58', '"mean": 1e999, "was": 0.58'),
        ('"mean": 0.58', '"mean": NaN, "was": 0.58'),
        ('"mean": 0.58', '"mean": "0.58", "was": 0.58'),
        ('"metrics": {', '"metrics": [], "was": {'),
        ('"context": 36', '"context": 36.0'),
        ('"elbo": {', '"elbo": null, "was": {'),
        ('"settings": {', '"settings": {}, "was": {'),
        ('"higher"', '"lower"'),
    ],
)
def test_an_edited_file_is_damaged(tmp_path, runs, old, new):
    file = runs("a") / "eval" / "metrics.json"
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))
    message = fail(tmp_path, tmp_path / "a")
    assert message.startswith(f"{file}: damaged (the content does not match its checksum).")


def test_a_file_in_another_layout_is_not_damaged(tmp_path, runs):
    file = runs("a") / "eval" / "metrics.json"
    file.write_text(json.dumps(json.loads(file.read_text()), indent=3, sort_keys=True))
    compare(tmp_path / "out", tmp_path / "a")


# Evaluations with other settings.


@pytest.fixture
def trained(tmp_path):
    """A run's folder with its configuration and two evaluations."""
    folder = tmp_path / "run"
    folder.mkdir()
    own = config.load(None, ["evaluation.horizon=30"])
    config.save(own, folder / "config.yml")
    results.write(folder, horizon=30)
    results.write(folder, "eval-horizon_20", horizon=20)
    return folder


def test_an_evaluation_with_other_settings_is_compared_by_its_folder(tmp_path, trained, runs):
    compare(tmp_path / "one", trained / "eval-horizon_20", runs("b", horizon=20))
    assert list(rows_of(tmp_path / "one"))[:2] == ["run", "b"]
    elsewhere = runs("c", horizon=20) / "eval"
    compare(tmp_path / "two", trained / "eval-horizon_20", elsewhere)
    assert list(rows_of(tmp_path / "two"))[:2] == ["run", "eval"]
    message = fail(tmp_path, trained, trained / "eval-horizon_20")
    assert "are both called 'run', on moving_digits" in message


def test_the_advice_for_such_an_evaluation_keeps_its_settings(tmp_path, trained, runs):
    other = trained / "eval-horizon_20"
    message = fail(tmp_path, runs("b", horizon=20, context=20), other)
    words = ["--step", "12", "--set", "evaluation.horizon=20", "--set", "evaluation.context=20"]
    assert message.endswith(shlex.join(["python", "eval.py", "--logdir", str(trained), *words]))
    assert "give the folder that it writes instead" in message
    message = fail(tmp_path, runs("b", horizon=20, fvd__module="ffff"), other)
    words = ["--out", other.name, "--step", "12", "--set", "evaluation.horizon=20"]
    assert message.endswith(shlex.join(["python", "eval.py", "--logdir", str(trained), *words]))
    away = runs("c", context=20) / "eval"
    message = fail(tmp_path, runs("b"), away)
    assert message.endswith("eval.py --logdir RUN --step 12 --set evaluation.context=36")


def test_a_damaged_evaluation_with_other_settings(tmp_path, trained):
    file = trained / "eval-horizon_20" / "metrics.json"
    file.write_text("")
    message = fail(tmp_path, trained / "eval-horizon_20")
    assert message.startswith(f"{file}: damaged")
    assert message.endswith(f"python eval.py --logdir {trained} --out eval-horizon_20")


def test_a_run_that_has_only_evaluations_with_other_settings(tmp_path, trained):
    (trained / "eval" / "metrics.json").unlink()
    message = fail(tmp_path, trained)
    assert f"{trained}: not evaluated yet (no eval/metrics.json): python eval.py" in message
    assert message.endswith(f"To compare one: {trained / 'eval-horizon_20'}")


# The folder of the results.


def test_a_comparison_that_cannot_be_written_leaves_the_earlier_one(tmp_path, runs, monkeypatch):
    out = tmp_path / "out"
    compare(out, runs("a"))
    before = {path.name: path.read_bytes() for path in out.iterdir() if path.name != ".lock"}
    monkeypatch.setattr(comparison.formats, "texts", lambda _: {"table.md": "", "b.md": "\ud800"})
    with pytest.raises(UnicodeEncodeError):
        comparison.compare([str(runs("b"))], out)
    assert before == {path.name: path.read_bytes() for path in out.iterdir() if path.name in before}
    assert {path.name for path in out.iterdir()} == {*before, ".lock"}


def test_table_md_appears_last(tmp_path, runs, monkeypatch):
    out, order = tmp_path / "out", []
    compare(out, runs("a"))
    replace, other = os.replace, runs("b")

    def record(source, target):
        assert not (out / "table.md").exists()
        order.append(target.name)
        replace(source, target)

    monkeypatch.setattr(os, "replace", record)
    compare(out, other)
    assert len(order) > 3
    assert order[-1] == "table.md"


def test_one_comparison_at_a_time_writes_a_folder(tmp_path, runs):
    with (
        run_folder.locked(tmp_path / "out"),
        pytest.raises(UserError, match=r"at work in this folder\. Stop it, or give another --out"),
    ):
        compare(tmp_path / "out", runs("a"))


def test_leftovers_of_a_killed_comparison_are_removed(tmp_path, runs):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".table.md.12.0123abcd.tmp").write_text("half")
    compare(tmp_path / "out", runs("a"))


def test_an_out_that_cannot_be_written(tmp_path, runs):
    (tmp_path / "file").write_text("in the way")
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UserError, match=r"--out .*cannot write there \(.*Give another folder"):
            compare(out, runs("a"))


# With the paper's scores.


def test_the_papers_rows_next_to_a_run(tmp_path, runs):
    options = {"data": "moving_mnist_2digit", "horizon": 964}
    text = compare(tmp_path / "out", runs("mine", **options), with_paper=True)
    rows = rows_of(tmp_path / "out")
    assert list(rows)[:3] == ["mine", "CW-VAE (paper)", "VTA (paper)"]
    assert len(rows["mine"]) == 4 + 1
    assert rows["RSSM (paper)"]["Moving MNIST PSNR"] == "12.79"
    assert "The paper does not say with which window, value range" in text
    assert "3-level CW-VAE (paper)" in rows_of(tmp_path / "out", "kl.csv")


def test_the_paper_has_its_own_context_horizon_and_frames(tmp_path, runs):
    options = {"data": "minerl_navigate", "context": 5, "horizon": 30}
    message = fail(tmp_path, runs("a", **options), with_paper=True)
    assert "evaluation.context 36, not 5 and evaluation.horizon 464, not 30" in message
    assert "--set evaluation.context=36 --set evaluation.horizon=464" in message
    small = runs("a", data="kth_actions", frames="32x32x1, values in [0, 1]")
    assert "the paper's frames are 64x64" in fail(tmp_path, small, with_paper=True)
    # The paper does not state its horizon here.
    compare(tmp_path / "out", runs("a", data="kth_actions", horizon=17), with_paper=True)


def test_moving_digits_with_the_papers_settings_are_moving_mnist(tmp_path, runs):
    message = fail(tmp_path, runs("a", horizon=964), with_paper=True)
    assert "no run is on a data set of the paper's Table 1" in message
    assert 'data.digits is "sklearn"' in message
    alike = {"horizon": 964, "settings__data__digits": "mnist"}
    text = compare(tmp_path / "out", runs("a", **alike), with_paper=True)
    assert rows_of(tmp_path / "out")["VTA (paper)"]["moving_digits FVD"] == "1274"
    assert "moving_digits stands for the paper's Moving MNIST" in text
    published = runs("b", data="moving_mnist_2digit", horizon=964)
    compare(tmp_path / "two", runs("a", **alike), published, with_paper=True)
    row = rows_of(tmp_path / "two")["VTA (paper)"]
    assert (row["moving_digits FVD"], row["Moving MNIST FVD"]) == ("", "1274")


# The command line.


def test_a_mistake_is_one_message_and_starts_no_tensorflow(tmp_path, runs, no_tensorflow):
    runs("a")
    command = ("compare.py", tmp_path / "a", "--out", tmp_path / "out", f"b={tmp_path / 'gone'}")
    message = refused(run(*command, env=no_tensorflow))
    assert message.startswith(f"{tmp_path / 'gone'} (from b=")
    result = run("compare.py", "--out", tmp_path / "out", env=no_tensorflow)
    assert result.returncode == 2
    assert "give the folder of an evaluated run, --train FILE" in result.stderr
    assert "--out" in run("compare.py", "--paper", env=no_tensorflow).stderr


def test_a_folder_of_runs_is_refused_with_the_runs_in_it(tmp_path, runs, no_tensorflow):
    for name in ("a", "b"):
        (tmp_path / "logs" / name).mkdir(parents=True)
        (tmp_path / "logs" / name / "config.yml").touch()
    command = ("compare.py", tmp_path / "logs", "--out", tmp_path / "out")
    assert refused(run(*command, env=no_tensorflow)) == (
        f"{tmp_path}/logs: a folder of runs, not a run. Give the runs in it:"
        f" {tmp_path}/logs/a {tmp_path}/logs/b"
    )


def test_training_the_file_of_one_run_is_refused_with_the_script_for_it(tmp_path, no_tensorflow):
    file = "configs/quickstart.yml"
    result = run("compare.py", "--train", file, "--out", tmp_path / "out", env=no_tensorflow)
    assert refused(result).endswith(f"Train it with: python train.py --config {file}")
    assert not (tmp_path / "out").exists()


def test_weights_of_runs_after_the_first_are_compared_too(tmp_path, runs):
    a = runs("a", metrics=("psnr", "ssim"), fvd=False)
    b, c = runs("b"), runs("c", metrics__lpips__protocol="other weights")
    for order in ((a, b, c), (b, a, c), (c, b, a)):
        assert "protocol of LPIPS" in fail(tmp_path, *order)


def test_curves_of_readouts_may_have_gaps(tmp_path, runs):
    curve = [50.0, None, 40.0] + [None] * 17
    changes = {"scores__cwvae__readout_digits__per_frame": curve, "horizon": 20}
    run = runs("a", metrics=("psnr", "ssim", "readout_digits"), **changes)
    assert "digits right" in compare(tmp_path / "out", run)


def test_only_files_of_an_earlier_comparison_are_removed(tmp_path, runs, written_figures):
    out = tmp_path / "out"
    compare(out, runs("a"))
    (out / "notes.md").write_text("mine")
    assert (out / "lpips.png").exists()
    comparison.compare([str(runs("b", metrics=("psnr", "ssim")))], out)
    assert not (out / "lpips.png").exists()
    assert (out / "notes.md").read_text() == "mine"


def test_there_is_one_list_of_protocols():
    both = typing.get_args(typing.get_type_hints(EvaluationConfig)["protocol"])
    assert set(both) == {"both", *protocols.PROTOCOLS}
    assert protocols.names("both") == [*protocols.PROTOCOLS]
