"""Compares evaluated runs: the paper's tables and figures for your runs.

    cwvae compare RUN [RUN ...] --out DIR
    cwvae compare CW-VAE=logs/run1 RSSM=logs/run2 --out DIR [--protocol cwvae2021] [--paper]
    cwvae compare CW-VAE=logs/seed0 CW-VAE=logs/seed1 --out DIR      seeds of one model
    cwvae compare --train configs/comparison_quick.yml --out DIR [--jobs 2]    trains first
    cwvae compare --train FILE --out DIR --only CW-VAE --only RSSM-seed_1      some of its runs
    cwvae compare --paper --out DIR       the paper's own Table 1

RUN is the folder of a run that eval.py has evaluated or, for an evaluation with other settings, the
folder that eval.py named. The row's name is the run's folder's name, or NAME in NAME=RUN. Runs with
one name share a row: on one data set as training seeds, on several in their columns. NAME@DATA=RUN
names the data set, too. Runs on one data set must have the same context, horizon, videos, samples,
data and protocols.

With --train, FILE describes the runs, and each has a folder in DIR. --only selects runs by name, or
one seed by its folder's name. After an interruption, run the same command to resume.
"""

import argparse
import sys

import data_loaders
from cwvae import comparison, export
from cwvae import config as configuration
from cwvae.comparison import campaign
from cwvae.errors import exit_on_user_error
from cwvae.metrics.protocols import PROTOCOLS


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="*", metavar="RUN", help="an evaluated run, or NAME=RUN")
    parser.add_argument(
        "--train", metavar="FILE", help="train and evaluate the runs of a YAML file, then compare"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="section.key=value",
        help="with --train: change a setting of all runs; may be repeated",
    )
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="NAME[-seed_N]",
        help="with --train: train, evaluate and compare only this run; may be repeated",
    )
    parser.add_argument(
        "--jobs",
        type=int,
        default=1,
        metavar="N",
        help="with --train: runs at a time, each with its share of the cores or its GPU",
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="the folder to write into")
    parser.add_argument(
        "--protocol",
        choices=[*PROTOCOLS],
        help="how PSNR and SSIM were computed (default: standard, or cwvae2021 with --paper)",
    )
    parser.add_argument(
        "--paper", action="store_true", help="add the scores of the paper's Table 1"
    )
    if not any(word.startswith("--train") for word in sys.argv):
        configuration.refuse_settings(parser, "with --train FILE, or ")
    arguments = parser.parse_intermixed_args()
    if arguments.runs and arguments.train:
        parser.error(
            "give the folders of evaluated runs, or --train FILE, but not both; a setting needs"
            " --set before it"
        )
    if arguments.jobs < 1:
        parser.error(f"--jobs must be at least 1, not {arguments.jobs}")
    if arguments.jobs > 1 and not arguments.train:
        parser.error("--jobs is for --train: nothing else takes long")
    if arguments.only and not arguments.train:
        parser.error("--only is for --train FILE: it selects runs of the file")
    if not arguments.runs and not arguments.train and not arguments.paper:
        parser.error(
            "give the folder of an evaluated run, --train FILE to train runs first, or --paper for"
            " the paper's scores alone"
        )
    return arguments


def main() -> int:
    """Runs the command line; returns the exit code."""
    arguments = _arguments()
    with exit_on_user_error():
        standard, cwvae2021 = PROTOCOLS
        protocol = arguments.protocol or (cwvae2021 if arguments.paper else standard)
        runs, resets = arguments.runs, []
        if arguments.train:
            members = campaign.plan(
                arguments.train, arguments.out, protocol, arguments.set, arguments.only
            )
            for config in (member.config for member in members):
                data_loaders.check(config.data.name, config.data_options())
                if config.training.init_from:
                    export.check_source(config.training.init_from, config)
            stopped_by = campaign.run(members, arguments.out, arguments.jobs)
            if stopped_by:
                print("Stopped. Run the same command to resume.")
                return 128 + stopped_by
            runs = [member.argument for member in members]
            resets = [word for member in members for word in member.reset_arguments]
        text, files = comparison.compare(
            runs,
            arguments.out,
            protocol,
            arguments.paper,
            with_costs=bool(arguments.train),
            resets=resets,
        )
        print(text)
        print(f"Written to {arguments.out}: {', '.join(path.name for path in files)}.")
    return 0
