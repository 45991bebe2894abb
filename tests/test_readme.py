"""README.md and the other pages are right: commands, settings, links, paths, examples."""

import ast
import pathlib
import re
import shlex

import pytest
from helpers import tiny

from cwvae import config
from cwvae.config import schema

ROOT = pathlib.Path(__file__).parents[1]
FILES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "benchmarks/README.md"]
PAGES = {path.relative_to(ROOT).as_posix(): path.read_text() for path in FILES}
README = PAGES["README.md"]

FENCE = r"^```(\w*)\n(.*?)^```"
SECTIONS = {
    "model": schema.MODELS.values(),
    "data": [schema.DataConfig],
    "training": [schema.TrainingConfig],
    "evaluation": [schema.EvaluationConfig],
}
MODULES = ("cwvae", "data_loaders")
# The code of the scripts in the root, which only start it.
COMMANDS = {
    f"{script}.py": ROOT / "cwvae" / "commands" / f"{name}.py"
    for script, name in (
        ("train", "train"),
        ("eval", "evaluate"),
        ("predict", "predict"),
        ("compare", "compare"),
    )
}

each_page = pytest.mark.parametrize("page", PAGES)


def fenced(page, language):
    """Returns the content of a page's blocks of code in a language."""
    return [text for name, text in re.findall(FENCE, PAGES[page], re.S | re.M) if name == language]


def prose(page):
    """Returns a page without its blocks of code."""
    return re.sub(FENCE, "", PAGES[page], flags=re.S | re.M)


def quoted(page):
    """Returns what a page's prose puts between backticks."""
    return re.findall(r"`([^`\n]+)`", prose(page))


def links(page):
    """Returns the targets of a page's links."""
    return re.findall(r"\]\(([^)\s]+)\)", prose(page))


def commands(page):
    """Returns the words of each `python ...` command on a page, in blocks and between backticks."""
    # Each ends with its line, at `&&`, or at the quote that closes a shell's string around it.
    lines = [
        line
        for text in [*fenced(page, "sh"), *quoted(page)]
        for line in re.findall(r"(?<![\w-])python (?:[^'\n&]|'[^'\n]*')*", text)
    ]
    return [shlex.split(line, comments=True)[1:] for line in lines]


def source_of(command):
    """Returns the file that a command runs; None if it is not one of ours."""
    if command[0] != "-m":
        return COMMANDS.get(command[0], ROOT / command[0]) if command[0].endswith(".py") else None
    parts = command[1].split(".") if len(command) > 1 else [""]
    if parts[0] not in MODULES:
        return None
    path = ROOT.joinpath(*parts)
    return path / "__main__.py" if path.is_dir() else path.with_suffix(".py")


def options(command):
    """Returns the values of a command's options by name, such as --set."""
    values = {}
    for option, value in zip(command, [*command[1:], ""], strict=True):
        if option.startswith("--"):
            values.setdefault(option, []).append(value)
    return values


def anchors(page):
    """Returns the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", prose(page), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def defined(path):
    """Returns the functions and classes of a file, and methods as `Class.method`."""
    names = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        if isinstance(node, ast.ClassDef):
            names |= {f"{node.name}.{n.name}" for n in node.body if isinstance(n, ast.FunctionDef)}
    return names


def test_ci_calls_exactly_the_test_command():
    lines = [line for block in fenced("README.md", "sh") for line in block.splitlines()]
    (command,) = [line for line in lines if line.endswith("-m pytest")]
    assert command in (ROOT / ".ci" / "run").read_text().splitlines()


def test_the_reader_finds_commands_settings_links_and_headings():
    first, second = commands("README.md")[:2]
    assert first == ["train.py", "--config", "configs/quickstart.yml"]
    assert second == ["eval.py", "--logdir", "logs/quickstart"]
    slurm = ["train.py", "--config", "configs/moving_mnist.yml", "--logdir", "/shared/runs/mnist"]
    assert commands("docs/several_machines.md").count(slurm) == 2
    every = [command for page in PAGES for command in commands(page) if source_of(command)]
    assert len(every) > 40
    settings = [value for command in every for value in options(command).get("--set", [])]
    assert "model.factor=[4, 8]" in settings
    assert len(settings) > 10
    assert sum(len(links(page)) for page in PAGES) > 50
    assert {"the-authors-checkpoints", "export"} < anchors("docs/python.md")


@each_page
def test_links_lead_to_files_and_headings(page):
    for link in links(page):
        if "://" in link:
            continue
        file, _, anchor = link.partition("#")
        path = ((ROOT / page).parent / file).resolve() if file else ROOT / page
        assert path.exists(), link
        assert not anchor or anchor in anchors(path.relative_to(ROOT).as_posix()), link


@pytest.mark.parametrize("page", [page for page in PAGES if page != "README.md"])
def test_another_page_links_to_every_page(page):
    targets = {
        ((ROOT / other).parent / link.partition("#")[0]).resolve()
        for other in PAGES
        if other != page
        for link in links(other)
    }
    assert ROOT / page in targets


@each_page
def test_files_and_folders_that_a_page_names_exist(page):
    folders = (ROOT / name for name in ("cwvae", "data_loaders", "configs"))
    ours = {path.name for folder in folders for path in folder.rglob("*.*")}
    text = re.sub(r"\]\([^)]*\)|https?://\S+", "", PAGES[page])  # Links are tested above.
    for path in re.findall(r"(?<![\w./~<>-])(?:[\w-]+/)*[\w-]+\.(?:py|yml|txt)\b", text):
        if path.startswith("logs/") or path in WRITTEN or path[:2].isupper():
            continue
        near = ((ROOT / page).parent / path, ROOT / path)
        assert any(file.exists() for file in near) or path in ours, path
    for folder in quoted(page):
        if re.fullmatch(r"[\w/-]+/", folder) and folder not in WRITTEN:
            assert (ROOT / folder).is_dir(), folder


# What the commands write into a run's folder or read from a reader's.
WRITTEN = {"config.yml", "skipped.txt", "left_out.txt", "logs/", "eval/", "levels/"}
WRITTEN |= {"checkpoints/", "tensorboard/", "train/", "test/", "downloads/", "stores/"}


@each_page
def test_functions_that_a_table_names_are_in_the_file_before_them(page):
    rows = re.findall(r"\| `([\w/]+\.py)` \| ((?:`[\w.]+`(?:, )?)+) \|", PAGES[page])
    assert rows or page != "docs/architecture.md"
    for path, names in rows:
        assert set(re.findall(r"[\w.]+", names)) <= defined(ROOT / path), path


def test_names_on_the_page_about_the_code_are_in_a_file_that_it_names():
    page = "docs/architecture.md"
    sources = [(ROOT / path).read_text() for path in quoted(page) if path.endswith(".py")]
    names = {name for name in quoted(page) if re.fullmatch(r"_?[A-Z]\w{3,}|\w+_scores", name)}
    assert len(names) > 8
    for name in names:
        pattern = rf"^(?:(?:class|def) {name}\b|{name} = )"
        assert any(re.search(pattern, source, re.M) for source in sources), name


@each_page
def test_commands_have_files_and_options(page):
    for command in commands(page):
        source = source_of(command)
        if source is None:
            continue
        text = source.read_text()
        for option in options(command):
            declared = f'"{option}"'
            if source.parent.name == "benchmarks":  # They are keywords of `timing.options`.
                text += (source.parent / "timing.py").read_text()
                declared = rf"\b{option.removeprefix('--')}="
            assert re.search(declared, text), shlex.join(command)


@each_page
def test_settings_in_commands_are_valid(page):
    for command in commands(page):
        given = options(command)
        (path,) = given.get("--config", ["configs/moving_mnist.yml"])
        if not (ROOT / path).is_file():  # A run's own configuration.
            path = "configs/moving_mnist.yml"
        for setting in given.get("--set", []):
            if "=$" not in setting:  # Not a variable of a loop in the shell.
                config.load(ROOT / path, [setting])


@each_page
def test_settings_in_the_text_exist(page):
    for text in quoted(page):
        match = re.fullmatch(r"(model|data|training|evaluation)\.(\w+)(?:=.*)?", text)
        if not match or match[2] in ("py", "json"):
            continue
        keys = {key for kind in SECTIONS[match[1]] for key in schema.properties(kind)}
        assert match[2] in keys, text


def test_the_settings_that_may_change_on_resume_are_those_of_the_table():
    section = PAGES["docs/training.md"].split("These settings may change on resume", 1)[1]
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", section.split("\n\n")[1], re.M))
    for name in ("training", "data"):
        (kind,) = SECTIONS[name]
        resumable = {key for key, its in schema.properties(kind).items() if its.resumable}
        assert set(re.findall(r"`(\w+)`", rows[name])) == resumable


def test_the_example_of_a_comparison_is_valid(tmp_path):
    (example,) = fenced("docs/comparison.md", "yaml")
    (tmp_path / "example.yml").write_text(example)
    assert [*config.load_comparison(tmp_path / "example.yml").runs] == ["CW-VAE", "RSSM"]


def test_the_python_example_runs(tmp_path, capsys, monkeypatch):
    from helpers import random_weights

    from cwvae import factory
    from cwvae.run import checkpoints

    settings = tiny.settings("data.test_length=120")
    config.save(settings, tmp_path / "config.yml")
    checkpoints.save(tmp_path, 0, factory.build(settings))
    monkeypatch.setenv("CWVAE_CACHE", str(tmp_path / "cache"))
    random_weights.write()
    namespace = {}
    for example in fenced("docs/python.md", "python"):
        if "cwvae.train(" not in example and "saved_model" not in example:  # See below.
            exec(example.replace("logs/quickstart", str(tmp_path)), namespace)
    assert namespace["future"].shape == namespace["other"].shape == (1, 84, 32, 32, 1)
    assert namespace["seen"].shape == namespace["video"].shape == (1, 100, 32, 32, 1)
    assert namespace["psnr"].shape == namespace["ssim"].shape == (1, 84)
    assert namespace["perceptual"].shape == (1, 84)
    assert namespace["features"].shape == (1, 400)
    assert "nats at the fastest level" in capsys.readouterr().out


# What makes the examples that train small.
SMALL = {
    "training.steps": 1,
    "training.batch_size": 2,
    "training.seq_len": 8,
    "training.video_length": 18,
    "model.channel_multiplier": 0.125,
    "model.mlp_size": 8,
    "evaluation.horizon": 3,
    "evaluation.num_videos": 2,
}


def small(example):
    """Returns an example with settings for a short training of a small model."""
    return re.sub(r"settings = \{.*\}", f"settings = {SMALL}", example)


@pytest.mark.slow
def test_the_examples_that_train_on_arrays_and_use_a_saved_model_run(tmp_path, monkeypatch):
    from cwvae import export

    monkeypatch.chdir(tmp_path)
    namespace = {}
    (train,) = (text for text in fenced("docs/python.md", "python") if "cwvae.train(" in text)
    exec(small(train), namespace)
    assert namespace["results"]["data"] == "arrays"
    export.export("logs/mine", "exported", saved_model=(16, 64))
    namespace["context"] = namespace["data"].test[0][None, :16]
    (saved,) = (text for text in fenced("docs/python.md", "python") if "saved_model" in text)
    exec(saved, namespace)
    assert namespace["future"].shape == (1, 64, 32, 32, 1)


@pytest.mark.slow
def test_the_examples_of_extensions_run(tmp_path, monkeypatch, capsys):
    import cwvae.model
    from cwvae.evaluation import frame_scores

    monkeypatch.chdir(tmp_path)
    # The examples replace these; they are restored after the test.
    monkeypatch.setattr(cwvae.model, "RSSMCell", cwvae.model.RSSMCell)
    monkeypatch.setattr(frame_scores, "image_scores", frame_scores.image_scores)
    namespace, examples = {}, fenced("docs/extending.md", "python")
    lines = [line for line in examples[0].splitlines() if line.strip()]
    assert len(lines) - lines.index("class Bars(Dataset):") <= 12
    for example in examples:
        exec(small(example), namespace)
    names = {weight.path.split("/")[1] for weight in namespace["model"].weights}
    assert "norm" in names
    scores = namespace["results"]["scores"]
    assert 0 < scores["cwvae"]["absolute_error"]["mean"] < 255
    assert scores["copy last frame"]["absolute_error"]["mean"] > 0
    assert "the plain kernels are used" in capsys.readouterr().err
