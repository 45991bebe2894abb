"""Compares evaluated runs: `cwvae compare` in a clone. Its code is in cwvae/commands/compare.py."""

import sys

from cwvae.commands import run

if __name__ == "__main__":
    sys.exit(run("compare"))
