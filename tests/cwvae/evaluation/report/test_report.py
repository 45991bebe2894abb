"""Tests of the report: its content, and how a browser shows it."""

import base64
import datetime
import hashlib
import html.parser
import io
import json
import math
import re
import shutil
import subprocess

import numpy as np
import pytest
from helpers import results
from PIL import Image

from cwvae import visualize
from cwvae.evaluation import report
from cwvae.evaluation.pictures import Animation, Levels, Samples, Segments
from cwvae.evaluation.report import training

VOID = {"meta", "link", "img", "br", "input"}
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
        if {"style", "script"} & set(self._open):
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
    frames = rng.integers(0, 256, (6, 40, 76, 3), dtype=np.uint8)
    video = Animation(visualize.mp4_bytes(frames), visualize.png_bytes(frames[4]))
    strip = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (50, 90, 3), dtype=np.uint8)).save(strip, "PNG")
    samples = Samples((video,) * count, 3, range(32, 38), strip.getvalue(), segments)
    rows = ("truth, then predictions", "level 1 (slowest) from its prior")
    levels = Levels(video, rows, range(32, 38), strip.getvalue())
    return samples, levels, Segments(range(4, 68), strip.getvalue()) if segments else None


def everything(**changes):
    return results.make(metrics=tuple(results.CURVES), samples=10, **changes)


DATE = datetime.datetime(2026, 11, 26, 7, 30, tzinfo=datetime.timezone.utc)


def write_logs(folder):
    """Writes logs of a training as a run does, with a last line that is not complete yet."""
    rows = []
    for step in (4, 8, 12, 16):
        rows.append({"step": step, "loss": 100 / step, "kl/level0_sum": 5.0, "kl/level1_sum": 2.0})
        rows.append({"step": step, "gradient_norm": 3.0, "kl/level0_per_step": 1.0})
    rows += [{"step": 8, "test/loss": 13.0}, {"step": 12, "test/loss": math.nan}]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "metrics.jsonl").write_text(text + '{"step": 12, "lo')


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run1")
    write_logs(folder)
    return report.html(everything(), *shown(), "run1", training.panels(folder, 12), DATE)


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
            assert soon == f"{scores[metric]['mean_soon']:.{digits}f}± {0.3:.{digits}f}"
            assert mean == f"{scores[metric]['mean']:.{digits}f}± {0.2:.{digits}f}"
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
        "evaluated 2026-11-26 07:30 UTC",
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
    for _, attributes in page.tags:
        for name, value in attributes.items():
            if name in ("src", "href", "xlink:href", "srcset", "action", "data", "poster"):
                assert value.startswith(("data:", "#"))
            assert not name.startswith("on")
    assert not re.search(r"https?://|url\(|@import", full)
    [script] = re.findall(r"(?s)<script>(.*?)</script>", full)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = "default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline';"
    assert page.count("meta", content=f"{policy} script-src 'sha256-{digest}'") == 1
    # What is not pictures is small: the page opens fast, and goes by mail.
    media = sum(map(len, re.findall(r"data:[a-z]+/[a-z0-9]+;base64,[^\"]*", full)))
    assert len(full) - media < 200_000


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
    assert len(images) == 1 + 1 + 1
    assert all(len(attributes["alt"]) > 20 for attributes in images)
    videos = [attributes for tag, attributes in Page(full).tags if tag == "video"]
    assert len(videos) == 2 + 1
    assert all(len(attributes["aria-label"]) > 20 for attributes in videos)
    charts = [a for tag, a in Page(full).tags if tag == "svg" and a.get("role") == "img"]
    assert len(charts) == len(results.CURVES) + 2 + 3
    assert sum("cwvae" in attributes["aria-label"] for attributes in charts) == len(charts) - 3


def test_segments_are_explained_if_there_are_any(full):
    explanations = ("a new colour is a new segment", "Segment boundaries")
    assert all(words in Page(full).text for words in explanations)
    assert "The first clip, frames 4 to 67" in Page(full).text
    plain = report.html(everything(), *shown(segments=False))
    assert not any(words in Page(plain).text for words in explanations)
    assert Page(plain).count("img") == 2


def test_text_is_escaped():
    evil = "<script>alert(1)</script> & \"'"
    found = everything(data=evil, model=evil, fvd=False)
    found["not_computed"]["fvd"] = f"{evil} so `do <b>` $title"
    found["metrics"]["psnr"]["label"] = found["metrics"]["psnr"]["protocol"] = evil
    found["scores"] = {evil: found["scores"]["cwvae"], f"{evil}, best of 10": {}}
    found["settings"]["data"]["videos_dir"] = found["versions"]["python"] = evil
    made = report.html(found, *shown(), run=evil)
    page = Page(made)
    assert made.count("<script>") == 1  # The page's own.
    assert f"{evil} on {evil}" in page.text
    assert f"{evil} so do <b> $title" in page.text
    assert page.count("code") == 1


def test_a_report_without_pictures_and_fvd(tmp_path):
    found = results.make(horizon=1, metrics=("psnr",), fvd=False)
    for scores in found["scores"].values():
        scores["psnr"].update(interval=None, interval_soon=None)
    found["scores"]["copy last frame"]["psnr"].update(mean=None, mean_soon=None, per_frame=[None])
    found["elbo"].update(kl_names=["z"], kl_per_step=[1e-4], kl_sum=[12345.6])
    (tmp_path / "run7").mkdir()
    path = report.write(tmp_path, found, logdir=tmp_path / "run7")  # As an export, without logs.
    assert sorted(file.name for file in tmp_path.iterdir()) == ["report.html", "run7"]
    page = Page(path.read_text(encoding="utf-8"))
    assert page.count("img") == 0
    assert "run7" in page.text
    assert page.row("copy last frame")[1:] == ["–", "–"]  # noqa: RUF001
    assert page.row("z") == ["z", "0.0001", "12,346"]
    assert "±" not in page.text
    for metric in ("LPIPS", "FVD"):
        assert f"Not computed: {metric}. weights not found. Get them." in page.text
    assert page.count("p", **{"class": "callout"}) == 0
    assert "Content of each level" not in page.text
    assert "Training" not in page.text
    assert re.search(r"evaluated \d{4}-\d\d-\d\d \d\d:\d\d", page.text)


def test_training_curves_end_at_the_evaluated_step(tmp_path):
    assert training.panels(tmp_path, 12) == []
    assert training.section([]) == ""
    write_logs(tmp_path)
    loss, *terms = training.panels(tmp_path, 12)
    assert loss.title.startswith("Loss")
    steps, values = loss.curves["training batches"]
    assert steps.tolist() == [4, 8, 12]
    assert np.allclose(values, [25, 12.5, 100 / 12])
    steps, values = loss.curves["held-out clips"]
    assert (steps.tolist(), values.tolist()) == ([8], [13])  # Without the value that is NaN.
    titles = [term.title.partition(" <")[0] for term in terms]
    assert titles == ["KL of level 1 (fastest)", "KL of level 2 (slowest)"]
    assert [list(term.curves) for term in terms] == [["training batches"]] * 2


def test_a_report_of_predictions_without_a_model():
    page = Page(report.html(results.make(metrics=("psnr",), fvd=False, elbo=None, step=None)))
    assert page.text.startswith("cwvae on moving_digits, predictions from a file ")
    assert "KL and ELBO" not in page.text


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
    bold = re.findall(r"</td><td><b>([\d.]+)</b>", page)
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


# For every reader.


def luminance(color):
    """Returns the relative luminance of a colour, as WCAG 2 defines it."""
    if isinstance(color, str):
        color = color.lstrip("#")
        color = "".join(2 * digit for digit in color) if len(color) == 3 else color
        color = [int(color[place : place + 2], 16) for place in (0, 2, 4)]
    share = np.array(color) / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    return float(linear @ (0.2126, 0.7152, 0.0722))


def contrast(one, other):
    low, high = sorted(map(luminance, (one, other)))
    return (high + 0.05) / (low + 0.05)


def test_text_and_lines_stand_out_from_their_background(full):
    assert math.isclose(contrast("#fff", (0, 0, 0)), 21)
    assert math.isclose(contrast("#777", "#ffffff"), 4.48, abs_tol=0.01)
    light, dark = (
        dict(re.findall(r"--([\w-]+): (#\w+);", part))
        for part in (
            full.split("prefers-color-scheme: dark")[0],
            full.split("prefers-color-scheme: dark")[1],
        )
    )
    assert light["page"] == "#fff"
    assert luminance(dark["page"]) < 0.05
    for colors in (light, dark):
        for text in ("ink", "soft"):
            for background in ("page", "card", "own", "warn"):
                assert contrast(colors[text], colors[background]) >= 4.5
        assert contrast(colors["link"], colors["page"]) >= 4.5
        for i in range(len(visualize.CURVE_COLORS)):
            assert contrast(colors[f"curve{i}"], colors["card"]) >= 3
    assert contrast((255, 255, 255), visualize.GAP_COLOR) >= 4.5  # "absolute error" in videos.
    for written in (visualize.CONTEXT_COLOR, visualize.PREDICTION_TEXT, visualize.INK):
        assert contrast(written, visualize.PAPER) >= 4.5  # In film strips.
    assert contrast(visualize.AXIS_COLOR, visualize.PAPER) >= 4.5  # In curves.png.


def test_the_page_has_a_structure_that_can_be_heard(full):
    page = Page(full)
    assert page.count("html", lang="en") == page.count("main") == 1
    heads = [int(tag[1]) for tag, _ in page.tags if re.fullmatch(r"h\d", tag)]
    assert heads.count(1) == 1
    assert heads[0] == 1
    assert max(np.diff(heads)) == 1
    assert page.count("table") == page.count("caption")
    heads = [attributes for tag, attributes in page.tags if tag == "th"]
    assert all(attributes["scope"] in ("row", "col", "colgroup") for attributes in heads)
    # What scrolls sideways can be reached with the keyboard, and has a name.
    places = [a for _, a in page.tags if a.get("class") in ("scroll", "strip")]
    assert len(places) == 2 + 3
    assert all((a["role"], a["tabindex"]) == ("region", "0") for a in places)
    assert len({a["aria-label"] for a in places}) == len(places)


def test_a_video_has_labelled_controls_and_a_still_picture(full):
    page = Page(full)
    videos = [attributes for tag, attributes in page.tags if tag == "video"]
    for video in videos:
        assert "controls" in video  # Without scripts, the browser's own.
        assert "autoplay" not in video
        assert video["poster"].startswith("data:image/png;base64,")
        assert (video["data-first"], video["data-context"]) == ("32", "4")
    sliders = [attributes for tag, attributes in page.tags if tag == "input"]
    assert [a["aria-label"] for a in sliders] == [f"Frame of {a['data-name']}" for a in videos]
    assert {(a["type"], a["min"], a["max"], a["value"]) for a in sliders} == {
        ("range", "0", "5", "4")
    }
    assert page.count("button", type="button") == len(videos)


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


# The browser's clock runs ahead while nothing happens, so decoders are given real time.
UNTIL = """
  const until = async (condition) => {
    for (let i = 0; i < 300 && !condition(); i++) {
      for (let j = 0; j < 1e7; j++);
      await new Promise((done) => setTimeout(done, 10));
    }
  };
"""


def measured(tmp_path, page, script, *flags):
    """Returns what a script, the body of an async function, returns in a page that is loaded."""
    script = f"""<script>addEventListener('load', async () => {{
      const found = await (async () => {{ {UNTIL} {script} }})();
      document.body.textContent = JSON.stringify(found);
    }})</script></body>"""
    # The page's policy does not allow other scripts.
    unlocked = re.sub("<meta http-equiv[^>]*>", "", page).replace("</body>", script)
    printed = browse(tmp_path, unlocked, "--dump-dom", *flags)
    return json.loads(printed[printed.index("<body>") + 6 : printed.index("</body>")])


def test_a_browser_shows_the_pictures_and_loads_nothing(tmp_path, full):
    script = """
      const pictures = [...document.images].map((image) => [image.complete, image.naturalWidth]);
      const videos = [...document.querySelectorAll('video')];
      const sizes = videos.map((video) => [video.videoWidth, video.videoHeight]);
      const loaded = performance.getEntriesByType('resource').map((entry) => entry.name);
      const fits = document.documentElement.scrollWidth <= innerWidth;
      return {pictures, sizes, loaded, fits};"""
    found = measured(tmp_path, full, script, "--window-size=500,900")
    assert found["pictures"] == [[True, 90]] * 3
    assert found["sizes"] == [[76, 40]] * 3
    assert [name for name in found["loaded"] if not name.startswith("data:")] == []
    assert found["fits"]


STATE = """
  const [figure] = document.querySelectorAll('.clip');
  const video = figure.querySelector('video'), slider = figure.querySelector('input');
  const button = figure.querySelector('button');
  const state = () => [button.textContent, button.getAttribute('aria-label'), slider.value,
    slider.getAttribute('aria-valuetext')];
"""


def test_videos_play_and_can_be_paused(tmp_path, full):
    script = """
      await until(() => video.currentTime > 0);
      const playing = [video.paused, ...state()];
      button.click();
      await until(() => button.textContent === 'Play');
      return [playing, [video.paused, ...state()]];"""
    playing, paused = measured(tmp_path, full, STATE + script)
    assert playing[:3] == [False, "Pause", "Pause clip 1"]
    assert paused[:3] == [True, "Play", "Play clip 1"]


def test_videos_start_paused_for_people_who_prefer_less_motion(tmp_path, full):
    script = """
      await until(() => slider.hasAttribute('aria-valuetext'));
      const found = [state()];
      for (const frame of [5, 0, 3]) {
        slider.value = frame;
        slider.dispatchEvent(new Event('input'));
        await until(() => slider.getAttribute('aria-valuetext').startsWith(`frame ${32 + frame},`));
        found.push(state());
      }
      return [video.paused, found];"""
    paused, found = measured(tmp_path, full, STATE + script, "--force-prefers-reduced-motion")
    assert paused
    assert found == [
        ["Play", "Play clip 1", "4", "frame 36, predicted"],
        ["Play", "Play clip 1", "5", "frame 37, predicted"],
        ["Play", "Play clip 1", "0", "frame 32, context"],
        ["Play", "Play clip 1", "3", "frame 35, context"],
    ]


def test_a_video_that_cannot_be_played_leaves_its_picture_and_says_so(tmp_path):
    samples, levels, _ = shown()
    broken = samples._replace(clips=(samples.clips[0]._replace(video=b"no video"),))
    page = report.html(results.make(metrics=("psnr",), fvd=False), broken, levels)
    script = """
      await until(() => !document.querySelector('.unplayable').hidden
        && !document.querySelector('.levels .controls').hidden);
      return [...document.querySelectorAll('figure.clip')].map((figure) => [
        figure.querySelector('.unplayable').hidden, figure.querySelector('.controls').hidden])"""
    assert measured(tmp_path, page, script) == [[False, True], [True, False]]


def test_the_policy_allows_the_script_of_the_page(tmp_path, full):
    printed = browse(tmp_path, full, "--dump-dom")
    # The script shows its own controls instead of the browser's.
    assert printed.count('<div class="controls">') == 3
