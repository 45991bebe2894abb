"""Compares evaluated runs: the paper's tables and figures, of your runs.

    python compare.py RUN [RUN ...] --out DIR
    python compare.py CW-VAE=logs/run1 RSSM=logs/run2 --out DIR [--protocol cwvae2021] [--paper]
    python compare.py --paper --out DIR       the paper's own Table 1

A RUN is a run's folder, evaluated by eval.py. Its row is called as the folder, or NAME in NAME=RUN;
runs of one name on several data sets share a row. Runs on one data set must have been evaluated
alike: context, horizon, videos, samples, data, protocols.
"""

import argparse
import sys

from cwvae import comparison
from cwvae.errors import exit_on_user_error


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="*", metavar="RUN", help="an evaluated run, or NAME=RUN")
    parser.add_argument("--out", required=True, metavar="DIR", help="the folder to write into")
    parser.add_argument(
        "--protocol",
        choices=comparison.PROTOCOLS,
        help="how PSNR and SSIM were computed (default: standard; beside the paper's scores"
        " cwvae2021)",
    )
    parser.add_argument(
        "--paper", action="store_true", help="add the scores of the paper's Table 1"
    )
    arguments = parser.parse_intermixed_args()
    if not arguments.runs and not arguments.paper:
        parser.error("give the folder of an evaluated run, or --paper for the paper's scores alone")
    return arguments


def main() -> None:
    """Runs the command line."""
    arguments = _arguments()
    with exit_on_user_error():
        standard, papers = comparison.PROTOCOLS
        protocol = arguments.protocol or (papers if arguments.paper else standard)
        text, files = comparison.compare(arguments.runs, arguments.out, protocol, arguments.paper)
        print(text)
        print(f"Written to {arguments.out}: {', '.join(path.name for path in files)}.")


if __name__ == "__main__":
    sys.exit(main())
