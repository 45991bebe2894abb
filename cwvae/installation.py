"""Where this installation keeps its configurations, and how its commands are called.

In a clone, `configs/` lies next to the package, and commands are called as `python train.py`. An
installed package holds its own copy, and has the command `cwvae`.
"""

import pathlib
import sys

VERSION = "0.1.0"

_PACKAGE = pathlib.Path(__file__).parent
CLONE = _PACKAGE.parent
IS_CLONE = all((CLONE / name).is_file() for name in ("train.py", "configs/base.yml"))

PRETRAINED = _PACKAGE / "pretrained"  # An export: the small model that comes with the package.
CONFIGS = (CLONE if IS_CLONE else _PACKAGE) / "configs"


def command(name: str) -> str:
    """Returns how a command is called here: `train` is `python train.py` or `cwvae train`."""
    return f"python {name}.py" if IS_CLONE else f"cwvae {name}"


def program(module: str) -> str:
    """Returns how this process was called: as `cwvae NAME`, or as `python -m` and the module."""
    called = sys.argv[0]
    return called if called.startswith("cwvae ") else f"python -m {module}"
