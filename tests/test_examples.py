"""The notebooks in examples/ are valid, hold no outputs, and run from their first to last cell."""

import json
import pathlib
import re

import matplotlib
import pytest

ROOT = pathlib.Path(__file__).parents[1]
NOTEBOOKS = {path.stem: path for path in sorted((ROOT / "examples").glob("*.ipynb"))}
# What makes a notebook small: in its code, text and its replacement.
SMALL = {
    "predict": {"range(8)": "range(2)"},
    "train_on_arrays": {
        "STEPS, CLIPS, FRAMES = 600, 300, 60": "STEPS, CLIPS, FRAMES = 2, 4, 40",
        '"evaluation.horizon": 32': '"evaluation.horizon": 4',
        '"evaluation.num_videos": 20': '"evaluation.num_videos": 2, "training.batch_size": 2',
        '"training.video_length": FRAMES': '"training.video_length": 18',
        '"training.steps": STEPS': '"training.steps": STEPS, "model.channel_multiplier": 0.125',
    },
}

each_notebook = pytest.mark.parametrize("name", NOTEBOOKS)


def cells(name, kind):
    """Returns the sources of a notebook's cells of a kind."""
    content = json.loads(NOTEBOOKS[name].read_text())
    return ["".join(cell["source"]) for cell in content["cells"] if cell["cell_type"] == kind]


def test_there_are_two_notebooks():
    assert NOTEBOOKS.keys() == SMALL.keys() == {"predict", "train_on_arrays"}


@each_notebook
def test_a_notebook_is_valid_and_holds_no_outputs(name):
    content = json.loads(NOTEBOOKS[name].read_text())
    assert (content["nbformat"], content["nbformat_minor"]) == (4, 5)
    assert len({cell["id"] for cell in content["cells"]}) == len(content["cells"])
    for cell in content["cells"]:
        assert cell["metadata"] == {}
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []
            assert cell["execution_count"] is None
    first = cells(name, "code")[0]
    assert all(line.startswith("#") for line in first.splitlines())
    assert "%pip install" in first


@each_notebook
def test_links_of_a_notebook_lead_to_files(name):
    targets = re.findall(r"\]\(([^)#]+)\)", "\n".join(cells(name, "markdown")))
    assert targets
    for target in targets:
        assert (NOTEBOOKS[name].parent / target).exists(), target


@pytest.mark.slow
@each_notebook
def test_a_notebook_runs(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    backend = matplotlib.get_backend()
    matplotlib.use("Agg")
    code = "\n\n".join(cells(name, "code"))
    for text, small in SMALL[name].items():
        assert code.count(text) == 1, text
        code = code.replace(text, small)
    namespace = {}
    try:
        exec(compile(code, name, "exec"), namespace)
    finally:
        matplotlib.use(backend)
    out = capsys.readouterr().out
    if name == "predict":
        assert "a clip: (200, 32, 32, 1) uint8" in out
        assert namespace["rows"].keys() == {"true", "all levels", "without level 1"} | {
            f"without level {number}" for number in range(2, namespace["model"].levels + 1)
        }
    else:
        assert "copy last frame" in out
        assert (tmp_path / "logs/bouncing_ball/eval/report.html").is_file()
        assert (tmp_path / "exported/bouncing_ball/README.md").is_file()
