"""Trains a model: `cwvae train` in a clone. Its code is in cwvae/commands/train.py."""

import sys

from cwvae.commands import run

if __name__ == "__main__":
    sys.exit(run("train"))
