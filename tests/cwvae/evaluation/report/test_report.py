"""Tests of the report: its content, and how a browser shows it."""

import base64
import html.parser
import io
import json
import re
import shutil
import subprocess

import numpy as np
import pytest
from helpers import results
from PIL import Image

from cwvae import visualize
from cwvae.evaluation import report
from cwvae.evaluation.pictures import Levels, Samples, Segments

VOID = {"meta", "link", "img", "br"}
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


class Page(html.parser.HTMLParser):
    """Parses a page into tags, text and cells of tables; fails if tags do not match."""

    def __init__(self, page: str):
        super().__init__()
        self.tags, self.words, self.rows, self._open = [], [], [], []
        self.feed(page)
        assert self._open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self._open.append(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if "style" in self._open:
            return
        self.words.append(data)
        if self.rows and {"td", "th"} & set(self._open):
            self.rows[-1][-1] += data

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())

    def row(self, name):
        (row,) = [row for row in self.rows if row and row[0] == name]
        return row

    def count(self, tag, **attributes):
        wanted = attributes.items()
        return sum(found == tag and wanted <= having.items() for found, having in self.tags)


def shown(count=2, segments=True):
    """Returns pictures like those of `cwvae.evaluation.pictures`."""
    rng = np.random.default_rng(0)
    video = visualize.avif_bytes(rng.integers(0, 256, (6, 40, 76, 3), dtype=np.uint8))
    strip = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (50, 90, 3), dtype=np.uint8)).save(strip, "PNG")
    samples = Samples((video,) * count, 3, range(10, 16), strip.getvalue(), segments)
    rows = ("truth, then predictions", "level 1 (slowest) from its prior")
    levels = Levels(video, rows, range(10, 16), strip.getvalue())
    return samples, levels, Segments(range(4, 68), strip.getvalue()) if segments else None


def everything(**changes):
    return results.make(metrics=tuple(results.CURVES), samples=10, **changes)


@pytest.fixture(scope="module")
def full():
    return report.html(everything(), *shown(), run="run1")


def test_every_score_is_in_the_table(full):
    page, found = Page(full), everything()
    decimals = {"dB": 2, "%": 1, "pixels": 2, "": 3}
    for name, scores in found["scores"].items():
        cells = page.row(name)[1:]
        for metric, about in found["metrics"].items():
            soon, mean = cells.pop(0), cells.pop(0)
            if metric not in scores:
                assert (soon, mean) == ("–", "–")  # noqa: RUF001 - as it is printed
                continue
            digits = decimals[about["unit"]]
            assert soon == f"{scores[metric]['mean_soon']:.{digits}f}"
            error = f"{scores[metric]['standard_error']:.{digits}f}"
            assert mean == f"{scores[metric]['mean']:.{digits}f}± {error}"
        (distance,) = cells
        if name in found["fvd"]["scores"]:
            score = found["fvd"]["scores"][name]
            low, high = score["interval"]
            assert distance == f"{score['value']:,.0f}[{low:,.0f}, {high:,.0f}]"
    assert page.row("level 1 (fastest)") == ["level 1 (fastest)", "3", "300"]
    assert page.row("level 2 (slowest)") == ["level 2 (slowest)", "1", "17"]
    assert "ELBO: -517 nats over 100 frames" in page.text  # -(100 x 2 + 300 + 17)


def test_protocol_settings_and_versions_are_shown(full):
    text, found = Page(full).text, everything()
    for about in found["metrics"].values():
        assert about["protocol"] in text
    for words in (
        "cwvae on moving_digits",
        "run run1",
        "step 12",
        found["frames"],
        "standard, cwvae2021",
        found["fvd"]["protocol"],
        found["fvd"]["module"],
        *found["fvd"]["warnings"],
        "210 (two halves of the test videos)",
        "python 3.11.9",
    ):
        assert words in text
    rows = [row for row in Page(full).rows if len(row) == 2]
    for section in found["settings"].values():
        for key, value in section.items():
            assert [key, json.dumps(value)] in rows


def test_the_page_loads_nothing(full):
    page = Page(full)
    assert "script" not in {tag for tag, _ in page.tags}
    for _, attributes in page.tags:
        for name, value in attributes.items():
            if name in ("src", "href", "xlink:href", "srcset", "action", "data", "poster"):
                assert value.startswith(("data:", "#"))
            assert not name.startswith("on")
    assert not re.search(r"https?://|url\(|@import", full)
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    assert page.count("meta", content=policy) == 1


def test_equal_results_give_equal_pages():
    assert report.html(everything()) == report.html(everything())


def test_links_within_the_page_lead_somewhere(full):
    tags = Page(full).tags
    ids = [attributes["id"] for _, attributes in tags if "id" in attributes]
    assert len(set(ids)) == len(ids)
    links = [attributes["href"][1:] for tag, attributes in tags if tag == "a"]
    assert links == [attributes["id"] for tag, attributes in tags if tag == "section"]
    markers = {attributes["xlink:href"][1:] for tag, attributes in tags if tag == "use"}
    assert {*ids} == {*links} | markers


def test_pictures_have_alternative_texts(full):
    images = [attributes for tag, attributes in Page(full).tags if tag == "img"]
    assert len(images) == 2 + 1 + 2 + 1
    assert all(len(attributes["alt"]) > 20 for attributes in images)
    charts = [a for tag, a in Page(full).tags if tag == "svg" and a.get("role") == "img"]
    assert len(charts) == len(results.CURVES) + 2
    assert all("cwvae" in attributes["aria-label"] for attributes in charts)


def test_segments_are_explained_if_there_are_any(full):
    explanations = ("a new colour is a new segment", "Segment boundaries")
    assert all(words in Page(full).text for words in explanations)
    assert "The first clip, frames 4 to 67" in Page(full).text
    plain = report.html(everything(), *shown(segments=False))
    assert not any(words in Page(plain).text for words in explanations)
    assert Page(plain).count("img") == 2 + 1 + 2


def test_text_is_escaped():
    evil = "<script>alert(1)</script> & \"'"
    found = everything(data=evil, model=evil, fvd=False)
    found["not_computed"]["fvd"] = f"{evil} so `do <b>` $title"
    found["metrics"]["psnr"]["label"] = found["metrics"]["psnr"]["protocol"] = evil
    found["scores"] = {evil: found["scores"]["cwvae"], f"{evil}, best of 10": {}}
    found["settings"]["data"]["videos_dir"] = found["versions"]["python"] = evil
    made = report.html(found, *shown(), run=evil)
    page = Page(made)
    assert "<script>" not in made
    assert f"{evil} on {evil}" in page.text
    assert f"{evil} so do <b> $title" in page.text
    assert page.count("code") == 1


def test_a_report_without_pictures_and_fvd(tmp_path):
    found = results.make(horizon=1, metrics=("psnr",), fvd=False)
    for scores in found["scores"].values():
        scores["psnr"]["standard_error"] = None
    found["scores"]["copy last frame"]["psnr"].update(mean=None, mean_soon=None, per_frame=[None])
    found["elbo"].update(kl_names=["z"], kl_per_step=[1e-4], kl_sum=[12345.6])
    path = report.write(tmp_path, found, run="run7")
    assert [file.name for file in path.parent.iterdir()] == ["report.html"]
    page = Page(path.read_text(encoding="utf-8"))
    assert page.count("img") == 0
    assert "run7" in page.text
    assert page.row("copy last frame")[1:] == ["–", "–"]  # noqa: RUF001
    assert page.row("z") == ["z", "0.0001", "12,346"]
    assert "±" not in page.text
    for metric in ("LPIPS", "FVD"):
        assert f"{metric} weights not found. Get them." in page.text
    assert "Content of each level" not in page.text


def test_the_best_predictor_that_does_not_use_the_truth_is_bold():
    found = results.make(metrics=("psnr", "lpips"), samples=10, fvd=False)
    for name, value in {
        "cwvae": 20.004,
        "cwvae, best of 10": 25.0,
        "copy last frame": 19.996,  # prints as the same
        "mean training frame": 10.0,
        "random training frame": 1.0,
    }.items():
        found["scores"][name]["psnr"]["mean"] = value
        found["scores"][name]["lpips"]["mean"] = value
    page = report.html(found)
    bold = re.findall(r"<td><b>([\d.]+)</b>", page)
    assert bold == ["20.00", "20.00", "1.000"]


def test_a_line_joins_the_finite_values():
    found = results.make(horizon=9, metrics=("psnr",), fvd=False)
    curve = [20.0, 19.0, None, 17.0, 16.0, 15.0, float("nan"), 14.0, 13.0]
    found["scores"] = {"cwvae": {"psnr": found["scores"]["cwvae"]["psnr"] | {"per_frame": curve}}}
    (line,) = re.findall(r'<title>cwvae</title>\s*<path d="M([^"]*)"', report.html(found))
    places = [tuple(map(float, point.split())) for point in line.split("L")]
    assert len(places) == 7
    widths = np.diff([x for x, _ in places])
    assert widths.min() > 0
    # Frames 1, 2, 4, 5, 6, 8, 9 at their places, and higher values higher up.
    assert np.allclose(widths / widths[0], [1, 2, 1, 1, 2, 1], atol=0.02)
    assert np.diff([y for _, y in places]).min() > 0


# In a browser.


def browse(tmp_path, page, *flags):
    """Opens a page without a network and returns the output of the browser."""
    found = [path for path in map(shutil.which, BROWSERS) if path]
    if not found:
        pytest.skip(f"none of {', '.join(BROWSERS)} is installed")
    path = tmp_path / "page.html"
    path.write_text(page, encoding="utf-8")
    command = [found[0], "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic"]
    command += ["--no-first-run", "--disable-background-networking", "--disable-component-update"]
    command += ["--disable-sync", f"--user-data-dir={tmp_path / 'profile'}", "--hide-scrollbars"]
    command += ["--virtual-time-budget=5000", *flags, path.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return done.stdout


@pytest.mark.parametrize(("width", "dark"), [(500, False), (1300, True)])
def test_a_browser_draws_it(tmp_path, full, width, dark):
    flags = [f"--screenshot={tmp_path / 'page.png'}", f"--window-size={width},2500"]
    browse(tmp_path, full, *flags, f"--blink-settings=preferredColorScheme={0 if dark else 1}")
    image = np.asarray(Image.open(tmp_path / "page.png").convert("RGB")).astype(int)
    assert image.shape == (2500, width, 3)
    background = image[5, 5]
    assert (background < 60).all() if dark else (background > 240).all()
    assert len(np.unique(image @ (1, 256, 65536))) > 100
    # Every part of the page has content, but its edges do not: nothing is cut off.
    different = np.abs(image - background).sum(2) > 60
    assert all(part.any() for part in np.split(different, 10))
    assert not different[:, -4:].any()


def test_a_browser_shows_the_pictures_and_loads_nothing(tmp_path, full):
    script = """<script>addEventListener('load', () => {
      const pictures = [...document.images].map((image) => [image.complete, image.naturalWidth]);
      const loaded = performance.getEntriesByType('resource').map((entry) => entry.name);
      const fits = document.documentElement.scrollWidth <= innerWidth;
      document.body.textContent = JSON.stringify({pictures, loaded, fits});
    })</script></body>"""
    # The page's policy does not allow scripts.
    unlocked = re.sub("<meta http-equiv[^>]*>", "", full).replace("</body>", script)
    printed = browse(tmp_path, unlocked, "--dump-dom", "--window-size=500,900")
    found = json.loads(printed[printed.index("<body>") + 6 : printed.index("</body>")])
    assert found["pictures"] == [[True, width] for width in (76, 76, 90, 90, 76, 90)]
    assert [name for name in found["loaded"] if not name.startswith("data:")] == []
    assert found["fits"]


def test_its_videos_play_forever(full):
    sources = [attributes["src"] for tag, attributes in Page(full).tags if tag == "img"]
    videos = [source for source in sources if source.startswith("data:image/avif;base64,")]
    assert len(videos) == 3
    for video in videos:
        image = Image.open(io.BytesIO(base64.b64decode(video.partition(",")[2])))
        assert image.n_frames == 6
        assert image.info.get("loop", 0) == 0
