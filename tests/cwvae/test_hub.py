"""Exports on the Hugging Face Hub, with a module that stands for huggingface_hub."""

import pathlib
import sys
import types

import pytest

from cwvae import export, hub
from cwvae.errors import UserError


@pytest.fixture
def calls(tmp_path, monkeypatch):
    """The arguments of the downloads. Files of `tmp_path` are what the Hub has."""
    made = []

    def snapshot_download(name, revision=None, allow_patterns=None):
        made.append((name, revision, allow_patterns))
        return str(tmp_path)

    fake = types.ModuleType("huggingface_hub")
    fake.snapshot_download = snapshot_download
    monkeypatch.setitem(sys.modules, "huggingface_hub", fake)
    return made


def write(folder):
    for name in export.FILES:
        (folder / name).touch()


def test_addresses_are_told_from_folders():
    assert hub.is_address("hf://user/name")
    assert not hub.is_address("logs/hf")
    assert not hub.is_address(pathlib.Path("hf://user/name"))


@pytest.mark.parametrize(
    ("address", "name", "revision"),
    [
        ("hf://user/name", "user/name", None),
        ("hf://some-user/my_model.v2@main", "some-user/my_model.v2", "main"),
        ("hf://user/name@refs/pr/1", "user/name", "refs/pr/1"),
    ],
)
def test_only_the_files_of_an_export_are_downloaded(calls, tmp_path, address, name, revision):
    write(tmp_path)
    assert hub.download(address, export.FILES) == tmp_path
    assert calls == [(name, revision, ["model.weights.h5", "config.yml"])]


@pytest.mark.parametrize(
    "address", ["hf://", "hf://user", "hf://user/name/more", "hf://user/name@"]
)
def test_other_addresses_are_refused(calls, address):
    with pytest.raises(UserError, match="write hf://user/name, or hf://user/name@revision"):
        hub.download(address, export.FILES)
    assert calls == []


def test_a_model_that_is_not_an_export_is_refused(calls, tmp_path):
    (tmp_path / "config.yml").touch()
    with pytest.raises(UserError, match=r"not an export of this project: it lacks model\.weights"):
        hub.download("hf://user/name", export.FILES)


@pytest.mark.parametrize("error", [OSError("404: not found\nmore"), ValueError("bad name")])
def test_what_the_hub_reports_is_one_message(calls, monkeypatch, error):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(sys.modules["huggingface_hub"], "snapshot_download", fail)
    reason = str(error).partition("\n")[0]
    with pytest.raises(UserError, match=rf"cannot be downloaded \({reason}\)\. Check") as caught:
        hub.download("hf://user/name", export.FILES)
    assert "\n" not in str(caught.value)


def test_without_the_package_the_command_to_install_it_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match="pip install huggingface_hub"):
        hub.download("hf://user/name", export.FILES)
