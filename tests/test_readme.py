"""What README says to type works."""

import pathlib
import re
import shlex

from helpers import tiny

from cwvae import config

ROOT = pathlib.Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
COMMANDS = [
    line for block in re.findall(r"```sh\n(.*?)```", README, re.S) for line in block.splitlines()
]


def test_ci_calls_exactly_the_test_command():
    (command,) = [line for line in COMMANDS if line.endswith("-m pytest")]
    assert command in (ROOT / ".ci" / "run").read_text().splitlines()


def test_files_in_commands_and_links_exist():
    named = set(re.findall(r"configs/\w+\.yml|requirements[\w-]*\.txt", "\n".join(COMMANDS)))
    linked = {link for link in re.findall(r"\]\(([^)]+)\)", README) if "://" not in link}
    assert len(named) >= 3
    assert linked
    for path in named | linked:
        assert (ROOT / path).exists(), path


def test_settings_in_commands_are_valid():
    words = [word for line in COMMANDS for word in shlex.split(line, comments=True)]
    settings = [words[i + 1] for i, word in enumerate(words) if word == "--set"]
    assert "model.factor=[4, 8]" in settings
    for setting in settings:
        config.load(ROOT / "configs" / "moving_mnist.yml", [setting])


def test_the_python_example_runs(tmp_path, capsys):
    from cwvae import factory
    from cwvae.run import checkpoints

    settings = tiny.settings("data.test_length=120")
    config.save(settings, tmp_path / "config.yml")
    checkpoints.save(tmp_path, 0, factory.build(settings))
    (example,) = re.findall(r"```python\n(.*?)```", README, re.S)
    namespace = {}
    exec(example.replace("logs/quickstart", str(tmp_path)), namespace)
    assert namespace["future"].shape == namespace["other"].shape == (1, 84, 32, 32, 1)
    assert namespace["seen"].shape == namespace["video"].shape == (1, 100, 32, 32, 1)
    assert "nats at the fastest level" in capsys.readouterr().out
