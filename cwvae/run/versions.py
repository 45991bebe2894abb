"""Which versions a result was computed with."""

import contextlib
import importlib.metadata
import pathlib
import platform
import subprocess

OWN = "0.1.0"

_PACKAGES = ("tensorflow", "keras", "tensorflow-probability", "tensorflow-gan", "numpy", "numba")
_ROOT = pathlib.Path(__file__).parent.parent.parent


def installed() -> dict[str, str]:
    """Returns the versions of this project, of Python and of the packages that numbers rest on."""
    found = {"cwvae": _own(), "python": platform.python_version()}
    for name in _PACKAGES:
        # TensorFlow goes by several names, such as tensorflow-cpu.
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def _own() -> str:
    """The project's version, and in a clone of its repository the commit."""
    if not (_ROOT / ".git").exists():
        return OWN
    command = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    try:
        done = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return OWN
    return f"{OWN} ({done.stdout.strip()})" if done.returncode == 0 else OWN
