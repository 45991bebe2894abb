"""Predicts videos: `cwvae predict` in a clone. Its code is in cwvae/commands/predict.py."""

import sys

from cwvae.commands import run

if __name__ == "__main__":
    sys.exit(run("predict"))
