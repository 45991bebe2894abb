"""The installed package, without its clone: commands, configurations by name, data loaders."""

import re
import subprocess
import sys
import zipfile

import pytest
from helpers.scripts import ENVIRONMENT, ROOT, error_of, sets

from cwvae import commands, installation


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The package as `pip install .` builds it, from a copy of the tracked files."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    listed = subprocess.check_output(["git", "ls-files"], cwd=ROOT, text=True).split("\n")
    for name in filter(None, listed):
        copy = source / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes((ROOT / name).read_bytes())
    words = ["-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", out, source]
    subprocess.run([sys.executable, *map(str, words)], check=True)
    (path,) = out.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """Runs `python -m cwvae` of the wheel's content, from another folder."""
    folder, here = tmp_path_factory.mktemp("site"), tmp_path_factory.mktemp("here")
    with zipfile.ZipFile(wheel) as content:
        content.extractall(folder)

    def run(*words):
        env = ENVIRONMENT | {"PYTHONPATH": str(folder)}
        command = [sys.executable, *map(str, words)]
        return subprocess.run(command, cwd=here, env=env, capture_output=True, text=True)

    run.here = here
    return run


def test_the_wheel_holds_the_packages_configurations_and_the_command(wheel):
    with zipfile.ZipFile(wheel) as content:
        names = content.namelist()
        (metadata,) = (n for n in names if n.endswith("/METADATA"))
        text = content.read(metadata).decode()
        scripts = content.read(metadata.replace("METADATA", "entry_points.txt")).decode()
    for path in (ROOT / "configs").rglob("*.yml"):
        assert f"cwvae/{path.relative_to(ROOT)}" in names
    for path in installation.PRETRAINED.iterdir():
        assert f"cwvae/pretrained/{path.name}" in names
    tops = {name.partition("/")[0] for name in names if ".dist-info" not in name}
    assert tops == {"cwvae", "data_loaders"}
    assert f"Version: {installation.VERSION}\n" in text
    assert "Requires-Dist: tensorflow<2.22,>=2.21" in text
    assert scripts == "[console_scripts]\ncwvae = cwvae.commands:main\n"


@pytest.mark.slow
def test_an_installed_package_trains_and_evaluates_from_another_folder(installed):
    small = sets(evaluation__horizon=3, evaluation__lpips=False, evaluation__fvd=False)
    result = installed("-m", "cwvae", "train", "--config", "quickstart", *small)
    assert result.returncode == 0, result.stderr
    assert "To evaluate: cwvae eval --logdir logs/quickstart" in result.stdout
    result = installed("-m", "cwvae", "eval", "--logdir", "logs/quickstart")
    assert result.returncode == 0, result.stderr
    assert (installed.here / "logs" / "quickstart" / "eval" / "report.html").is_file()


def test_the_command_names_its_commands(installed):
    result = installed("-m", "cwvae", "--help")
    assert result.returncode == 0
    for name in commands.COMMANDS:
        assert f"cwvae {name} " in result.stdout
    for name in ("eval", "data", "export"):
        assert installed("-m", "cwvae", name, "--help").stdout.startswith(f"usage: cwvae {name} ")
    assert re.fullmatch(r"\d+\.\d+\.\d+\n", installed("-m", "cwvae", "--version").stdout)
    result = installed("-m", "cwvae", "trian")
    assert result.returncode == 2
    assert "did you mean 'train'?" in error_of(result.stderr)
