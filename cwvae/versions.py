"""Which versions a result was computed with."""

import importlib.metadata
import pathlib
import platform
import subprocess

OWN = "0.1.0"

_PACKAGES = ("tensorflow", "keras", "tensorflow-probability", "numpy")


def installed() -> dict[str, str]:
    """Returns the versions of this project, of Python and of the packages that numbers rest on."""
    packages = {name: importlib.metadata.version(name) for name in _PACKAGES}
    return {"cwvae": _own(), "python": platform.python_version()} | packages


def _own() -> str:
    """The project's version, and in a clone of its repository the commit."""
    command = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    folder = pathlib.Path(__file__).parent
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return OWN
    return f"{OWN} ({done.stdout.strip()})" if done.returncode == 0 else OWN
