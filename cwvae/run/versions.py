"""The versions of this project and of the packages it runs on."""

import contextlib
import importlib.metadata
import pathlib
import platform
import subprocess

OWN = "0.1.0"

_PACKAGES = ("tensorflow", "keras", "tensorflow-probability", "tensorflow-gan", "numpy", "numba")
_ROOT = pathlib.Path(__file__).parent.parent.parent


def installed() -> dict[str, str]:
    """Returns the versions of this project, of Python and of the packages behind the scores."""
    return {"cwvae": _own()} | packages()


def packages() -> dict[str, str]:
    """Returns the versions of Python and of the packages behind the scores."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        # TensorFlow may be installed under another name, such as tensorflow-cpu.
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def _own() -> str:
    """Returns the project's version, with the commit in a clone of its repository."""
    if not (_ROOT / ".git").exists():
        return OWN
    command = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    try:
        done = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return OWN
    return f"{OWN} ({done.stdout.strip()})" if done.returncode == 0 else OWN
