"""Evaluated runs, read from DIR/eval/metrics.json, with their labels."""

import dataclasses
import json
import pathlib
import shlex
from collections.abc import Iterable, Mapping, Sequence

from cwvae.errors import UserError
from cwvae.evaluation.results import FORMAT, is_best_of
from cwvae.run import files

FVD = "fvd"
PAPER = "(paper)"  # the end of the labels of the paper's rows

_TEXTS = ("model", "data", "frames")
COUNTS = ("context", "horizon", "num_videos", "num_samples")


@dataclasses.dataclass(frozen=True)
class Run:
    """One evaluated run."""

    label: str  # of its row in the tables; runs on several data sets share a row
    folder: pathlib.Path
    results: dict  # content of metrics.json
    number: int  # position on the command line

    @property
    def data(self) -> str:
        """The data set's name."""
        return self.results["data"]

    @property
    def model(self) -> str:
        """The model's name in the results."""
        return self.results["model"]

    @property
    def best_of(self) -> list[str]:
        """The predictors that are the best of several samples of the model."""
        return [name for name in self.results["scores"] if is_best_of(name, self.model)]

    @property
    def baselines(self) -> list[str]:
        """The predictors without a model, and the true frames if a readout scored them."""
        own = {self.model, *self.best_of}
        return [name for name in self.results["scores"] if name not in own]

    @property
    def metrics(self) -> dict[str, dict]:
        """Label, unit, better ("higher" or "lower") and protocol of each measure per frame."""
        return self.results["metrics"]

    def mean(self, predictor: str, metric: str) -> float | None:
        """Returns a predictor's score, or None if it is missing."""
        if metric == FVD:
            return self._fvd_score(predictor).get("value")
        return self.results["scores"].get(predictor, {}).get(metric, {}).get("mean")

    def curve(self, predictor: str, metric: str) -> list[float | None]:
        """Returns a predictor's score per frame; empty if there is none."""
        return self.results["scores"].get(predictor, {}).get(metric, {}).get("per_frame", [])

    def fvd_curve(self, predictor: str, kind: str) -> list[list[float]]:
        """Returns the pairs (frames, FVD) of "prefixes" or "windows"; empty if there are none."""
        return self._fvd_score(predictor).get(kind, [])

    def _fvd_score(self, predictor):
        return (self.results["fvd"] or {}).get("scores", {}).get(predictor, {})


# {data set: its runs}
Groups = Mapping[str, list[Run]]


def read(arguments: Sequence[str]) -> list[Run]:
    """Reads the evaluations of runs, each LABEL=RUN or RUN: a folder, labelled by its name.

    Raises a UserError for a missing or damaged evaluation, or a label used twice on one data set.
    """
    runs = [_read_one(argument, number) for number, argument in enumerate(arguments)]
    seen = {}
    for run in runs:
        if run.label.endswith(PAPER):
            raise UserError(
                f"{run.folder}: names that end in {PAPER} are reserved for the paper's own rows."
                " Use another name."
            )
        other = seen.setdefault((run.label, run.data), run)
        if other is not run:
            raise UserError(
                f"{other.folder} and {run.folder} are both called {run.label!r}, on {run.data}."
                f" Name one of them: NAME={shlex.quote(str(run.folder))}"
            )
    return runs


def by_data(runs: Iterable[Run]) -> dict[str, list[Run]]:
    """Returns the runs of each data set."""
    groups = {}
    for run in runs:
        groups.setdefault(run.data, []).append(run)
    return groups


def labels(groups: Groups) -> list[str]:
    """Returns the labels of all runs, in the order of the command line."""
    every = sorted((run for group in groups.values() for run in group), key=lambda r: r.number)
    return list(dict.fromkeys(run.label for run in every))


def eval_command(folder: pathlib.Path, settings: Iterable[str] = ()) -> str:
    """Returns the command that evaluates a run, with other settings."""
    words = ["python", "eval.py", "--logdir", str(folder)]
    for setting in settings:
        words += ["--set", setting]
    return shlex.join(words)


def _read_one(argument: str, number: int) -> Run:
    label, equals, path = argument.partition("=")
    # A folder's name may contain =, as in logs/lr=0.1.
    if not equals or pathlib.Path(argument).is_dir():
        label, path = pathlib.Path(argument).resolve().name, argument
    elif not label.strip() or not path:
        raise UserError(f"{argument}: write NAME=RUN, as in CW-VAE=logs/run1, or RUN alone.")
    folder = pathlib.Path(path)
    if not folder.is_dir():
        given = f" (from {argument})" if path != argument else ""
        raise UserError(
            f"{path}{given}: no such folder. Give a run's folder, as train.py prints it."
        )
    file = folder / "eval" / "metrics.json"
    again = f"Evaluate again: {eval_command(folder)}"
    try:
        results = json.loads(file.read_text(), parse_constant=_not_a_number)
        written = results.get("format", 1)
    except FileNotFoundError:
        if inside := files.runs_in(folder):
            raise UserError(
                f"{folder}: a folder of runs, not a run. Give the runs in it: {inside}"
            ) from None
        raise UserError(
            f"{folder}: not evaluated yet (no eval/metrics.json): {eval_command(folder)}"
        ) from None
    except (ValueError, AttributeError) as error:  # ValueError: not JSON, or not UTF-8
        raise UserError(f"{file}: damaged ({error}). {again}") from None
    if written != FORMAT:
        raise UserError(
            f"{file}: written by another version of eval.py (format {written}, not {FORMAT})."
            f" {again}"
        )
    try:
        _check_form(results)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        what = f"{error} is missing" if isinstance(error, KeyError) else error
        raise UserError(f"{file}: damaged ({what}). {again}") from None
    return Run(label.strip(), folder, results, number)


def _not_a_number(word):
    raise ValueError(f"{word} among the scores")


def _check_form(results):
    """Checks all fields that the comparison reads, so that later code can rely on them."""
    for kind, keys in ((str, _TEXTS), (int, COUNTS)):
        for key in keys:
            if not isinstance(results[key], kind):
                raise ValueError(f"{key} is {results[key]!r}")
    for section in ("data", "evaluation", "training"):
        results["settings"][section].items()
    _ = results["observe_levels"], results["protocols"], results["not_computed"].items()
    for measure in results["metrics"].values():
        _ = measure["label"], measure["unit"], measure["protocol"]
        if measure["better"] not in ("higher", "lower"):
            raise ValueError(f"{measure['label']}: better is {measure['better']!r}")
    _ = results["scores"][results["model"]]
    for name, scores in results["scores"].items():
        for metric, score in scores.items():
            _ = results["metrics"][metric]
            # A readout has no score for frames that it does not read.
            _check_numbers(v for v in (score["mean"], *score["per_frame"]) if v is not None)
            if len(score["per_frame"]) != results["horizon"]:
                raise ValueError(f"{name}, {metric}: not one score for each predicted frame")
    fvd, elbo = results["fvd"], results["elbo"]
    if fvd is not None:
        _ = fvd["frames"], fvd["num_videos"], fvd["module"], fvd["protocol"], [*fvd["warnings"]]
        _ = fvd["floor"]["value"], fvd["floor"]["source"]
        for score in fvd["scores"].values():
            pairs = [(0, score["value"]), *score["prefixes"], *score["windows"]]
            _check_numbers(number for frames, value in pairs for number in (frames, value))
    _check_numbers([elbo["frames"], *elbo["kl_sum"], results["weights"]])
    _ = dict(zip(elbo["kl_names"], elbo["kl_sum"], strict=True))


def _check_numbers(values):
    for value in values:
        if not isinstance(value, int | float):
            raise ValueError(f"{value!r} is not a number")
