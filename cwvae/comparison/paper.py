"""The paper's own scores, as printed, for comparison with those of runs.

They are shown only next to runs that were scored as the paper says: with its context, frame size
and, where it states one, horizon. It does not state the rest of its protocol; a note says so.
"""

import functools
import json
import pathlib
from collections.abc import Mapping

from ruamel.yaml import YAML

from cwvae.comparison.agreement import scored_settings
from cwvae.comparison.runs import PAPER, Groups, eval_command
from cwvae.errors import UserError

_PATH = pathlib.Path(__file__).with_name("cwvae2021.yml")

_MOVING_MNIST, _MOVING_DIGITS = "moving_mnist_2digit", "moving_digits"
# Settings with which `moving_digits` is the paper's Moving MNIST, except for the clips themselves.
# The paper does not say how overlapping digits add up.
_AS_IN_THE_PAPER = {
    "data.digits": "mnist",
    "data.num_digits": 2,
    "data.digit_size": 28,
    "data.speed": [2.0, 6.0],
}

# On how runs compare with the paper.
_NOTES = (
    "The paper does not say with which window, value range and clipping its SSIM and PSNR were"
    " computed; the authors' released code computes what is called protocol cwvae2021 here. A value"
    " range of 2 instead of 1 makes PSNR 6.02 dB and SSIM about 0.1 larger: compare under both"
    " protocols before claiming a gap or a match.",
    "The paper does not say how many videos and samples its scores average over, nor the horizon on"
    " KTH Action and GQN Mazes. FVD depends on both.",
)


@functools.cache
def published() -> dict:
    """Returns the content of cwvae2021.yml, which has comments."""
    return YAML(typ="safe").load(_PATH.read_text())


def label(data: str) -> str:
    """Returns a data set's name as the paper prints it, or the name itself."""
    return published()["datasets"].get(data, {}).get("label", data)


def columns(groups: Groups) -> dict[str, str]:
    """Finds the paper's data set for each data set of the runs; without runs, returns all.

    Returns:
      {data set of the runs: name in the published table}, without data sets that the paper lacks.

    Raises:
      UserError: None of the runs' data sets is in the paper, or a run was scored differently.
    """
    known = published()["datasets"]
    if not groups:
        return {name: name for name in known}
    found, reasons = {}, []
    first_runs = {data: entries[0].first for data, entries in groups.items()}
    names = {run.data_name for run in first_runs.values()}
    for data, run in first_runs.items():
        if run.data_name in known:
            found[data] = run.data_name
        elif run.data_name == _MOVING_DIGITS and _MOVING_MNIST not in names:
            settings = scored_settings(run)
            unlike = {k: v for k, v in _AS_IN_THE_PAPER.items() if settings.get(k) != v}
            reasons += [
                f"{key} is {json.dumps(settings.get(key))} in {run.folder}, and"
                f" {json.dumps(wanted)} in the paper's Moving MNIST"
                for key, wanted in unlike.items()
            ]
            if not unlike:
                found[data] = _MOVING_MNIST
    if not found:
        raise UserError(
            f"--paper: no run is on a data set of the paper's Table 1 ({', '.join(known)})."
            f" They are on {', '.join(groups)}." + "".join(f"\n  {line}" for line in reasons)
        )
    for data, name in found.items():
        _check_as_the_paper(first_runs[data], name)
    return found


def notes(groups: Groups, columns_of_paper: Mapping[str, str]) -> list[str]:
    """Returns notes on the paper's scores in a table, with `columns_of_paper` from `columns`."""
    found = [f"{PAPER}: as printed in {published()['source']}, Table 1, and not computed here."]
    found += _NOTES if groups else ()
    return found + [
        f"{data} stands for the paper's Moving MNIST: the same digits and motions, other clips."
        for data in groups
        if data in columns_of_paper and groups[data][0].first.data_name == _MOVING_DIGITS
    ]


def _check_as_the_paper(run, name):
    """Raises a UserError if a run, and so all runs on its data set, was scored unlike the paper."""
    paper, results = published(), run.results
    size = paper["frame_size"]
    if not results["frames"].startswith(f"{size}x{size}x"):
        raise UserError(
            f"--paper: the paper's frames are {size}x{size}, those of {run.folder} are"
            f" {results['frames']}. Their scores cannot be compared; omit --paper."
        )
    wanted = {"context": paper["context"], "horizon": paper["datasets"][name]["horizon"]}
    unlike = {k: v for k, v in wanted.items() if v is not None and v != results[k]}
    if unlike:
        said = " and ".join(f"evaluation.{k} {v}, not {results[k]}" for k, v in unlike.items())
        settings = {f"evaluation.{key}": value for key, value in unlike.items()}
        raise UserError(
            f"--paper: on {label(name)} the paper uses {said} as {run.folder}. Evaluate the runs on"
            f" {run.data} accordingly, and give the folders that eval.py writes:"
            f" {eval_command(run, settings)}"
        )
