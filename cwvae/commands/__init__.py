"""The command line: `cwvae COMMAND ...`, `python -m cwvae COMMAND ...`, or in a clone train.py etc.

    cwvae train --config quickstart     trains a model
    cwvae eval --logdir RUN             evaluates it on held-out clips
    cwvae predict RUN VIDEO             predicts how a video continues
    cwvae compare RUN RUN --out DIR     makes tables and figures of evaluated runs
    cwvae levels --logdir RUN           tells which attribute of a video lives in which level
    cwvae data info DATA                prepares, describes and verifies data sets
    cwvae export --logdir RUN --out DIR     writes a model's weights and configuration, to share
    cwvae weights fetch                 downloads the weights of LPIPS and FVD

`cwvae COMMAND --help` explains each.
"""

import importlib
import sys
from collections.abc import Sequence

# The module of each command, whose `main` reads sys.argv and returns an exit code or None.
COMMANDS = {
    "train": "cwvae.commands.train",
    "eval": "cwvae.commands.evaluate",
    "predict": "cwvae.commands.predict",
    "compare": "cwvae.commands.compare",
    "levels": "cwvae.commands.levels",
    "data": "data_loaders.__main__",
    "export": "cwvae.export",
    "weights": "cwvae.metrics.weights",
}


def main(arguments: Sequence[str] | None = None) -> int | None:
    """Runs the command that the first argument names; by default those of the command line."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    if not words or words[0] in ("-h", "--help"):
        print(__doc__.replace("`", ""), end="")
        return 0 if words else 2
    if words[0] == "--version":
        from cwvae.run import versions

        print(versions.installed()["cwvae"])
        return 0
    if words[0] not in COMMANDS:
        from cwvae.errors import unknown_name

        print(f"error: {unknown_name('command', words[0], COMMANDS)}", file=sys.stderr)
        return 2
    sys.argv = [f"cwvae {words[0]}", *words[1:]]
    return run(words[0])


def run(name: str) -> int | None:
    """Runs a command with the arguments in sys.argv."""
    try:
        module = importlib.import_module(COMMANDS[name])
    except KeyboardInterrupt:  # These imports take a moment.
        print("interrupted", file=sys.stderr)
        return 130
    return module.main()
