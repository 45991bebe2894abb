"""Calls the main function of a command in this process."""

import sys

import pytest


def call(monkeypatch, command, *words):
    """Calls a module of `cwvae.commands` with the words of a command line."""
    monkeypatch.setattr(sys, "argv", [command.__name__, *map(str, words)])
    command.main()


def refused(monkeypatch, capsys, command, *words):
    """Checks that a command ends with exit code 2, and returns its stderr."""
    with pytest.raises(SystemExit) as caught:
        call(monkeypatch, command, *words)
    assert caught.value.code == 2
    return capsys.readouterr().err
