"""The versions of this project and of the packages it runs on."""

import contextlib
import functools
import importlib.metadata
import pathlib
import platform
import subprocess

from cwvae import installation

_PACKAGES = ("tensorflow", "keras", "tensorflow-probability", "tensorflow-gan", "numpy", "numba")
_HERE = pathlib.Path(__file__).parent


def installed() -> dict[str, str]:
    """Returns `packages`, in a clone with the commit, which takes a moment to find out."""
    return packages() | {"cwvae": _own()}


def packages() -> dict[str, str]:
    """Returns the versions of this project, of Python and of the packages behind the scores."""
    found = {"cwvae": installation.VERSION, "python": platform.python_version()}
    for name in _PACKAGES:
        # TensorFlow may be installed under another name, such as tensorflow-cpu.
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def _own() -> str:
    version, commit = installation.VERSION, ""
    if installation.IS_CLONE:
        command = ["git", "describe", "--always", "--dirty", "--exclude=*"]
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            run = functools.partial(subprocess.run, capture_output=True, text=True, timeout=10)
            commit = run(command, cwd=_HERE, check=True).stdout.strip()
    return f"{version} ({commit})" if commit else version
