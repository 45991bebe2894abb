"""The folder for what is kept between runs: weights of metrics, statistics, readouts."""

import os
import pathlib


def folder() -> pathlib.Path:
    """Returns $CWVAE_CACHE, or cwvae in $XDG_CACHE_HOME or ~/.cache; it need not exist."""
    given = os.environ.get("CWVAE_CACHE")
    if given:
        return pathlib.Path(given).expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return pathlib.Path(base).expanduser() / "cwvae"
