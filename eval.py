"""Evaluates a trained model: `cwvae eval` in a clone. Its code is in cwvae/commands/evaluate.py."""

import sys

from cwvae.commands import run

if __name__ == "__main__":
    sys.exit(run("eval"))
