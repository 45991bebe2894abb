"""Evaluated runs: what is read of DIR/eval/metrics.json, by which label, and of which data set."""

import dataclasses
import json
import pathlib
import shlex
from collections.abc import Iterable, Mapping, Sequence

from cwvae.errors import UserError
from cwvae.evaluation.results import FORMAT

FVD = "fvd"
PAPER = "(paper)"

_TEXTS = ("model", "data", "frames")
_COUNTS = ("context", "horizon", "num_videos", "num_samples")


@dataclasses.dataclass(frozen=True)
class Run:
    """One evaluated run.

    Attributes:
      label: Its row in the tables: the model, whatever the data set.
      folder: Of the run.
      results: What metrics.json holds.
      number: Its place on the command line.
    """

    label: str
    folder: pathlib.Path
    results: dict
    number: int

    @property
    def data(self) -> str:
        """The data set's name."""
        return self.results["data"]

    @property
    def model(self) -> str:
        """The name by which its results call the model."""
        return self.results["model"]

    @property
    def best_of(self) -> list[str]:
        """The predictors that are the best of several samples of the model."""
        return [name for name in self.results["scores"] if name.startswith(f"{self.model}, ")]

    @property
    def baselines(self) -> list[str]:
        """The predictors that are no model, and the true frames where a readout scored them."""
        own = {self.model, *self.best_of}
        return [name for name in self.results["scores"] if name not in own]

    @property
    def metrics(self) -> dict[str, dict]:
        """What is known of each measure per frame: label, unit, better, protocol."""
        return self.results["metrics"]

    def mean(self, predictor: str, metric: str) -> float | None:
        """Returns a predictor's score, or None where there is none."""
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


def read(arguments: Sequence[str]) -> list[Run]:
    """Reads the evaluations of runs.

    Args:
      arguments: RUN, a folder, whose name is the label; or LABEL=RUN.

    Raises:
      UserError: No evaluation in a folder, or a damaged one; a label that is taken.
    """
    runs = [_read_one(argument, number) for number, argument in enumerate(arguments)]
    seen = {}
    for run in runs:
        if run.label.endswith(PAPER):
            raise UserError(f"{run.folder}: names that end in {PAPER} are the paper's own rows.")
        other = seen.setdefault((run.label, run.data), run)
        if other is not run:
            raise UserError(
                f"{other.folder} and {run.folder} are both called {run.label!r}, on {run.data};"
                f" name one of them: NAME={shlex.quote(str(run.folder))}"
            )
    return runs


def by_data(runs: Iterable[Run]) -> dict[str, list[Run]]:
    """Returns the runs of each data set."""
    groups = {}
    for run in runs:
        groups.setdefault(run.data, []).append(run)
    return groups


def labels(groups: Mapping[str, list[Run]]) -> list[str]:
    """Returns the labels of all runs, in the order of the command line."""
    every = sorted((run for group in groups.values() for run in group), key=lambda r: r.number)
    return list(dict.fromkeys(run.label for run in every))


def eval_command(folder: pathlib.Path, settings: Iterable[str] = ()) -> str:
    """Returns the command that evaluates a run, with settings of its own."""
    words = ["python", "eval.py", "--logdir", str(folder)]
    for setting in settings:
        words += ["--set", setting]
    return shlex.join(words)


def _read_one(argument: str, number: int) -> Run:
    label, equals, path = argument.partition("=")
    # A folder may have a = in its name, as in logs/lr=0.1.
    if not equals or pathlib.Path(argument).is_dir():
        label, path = pathlib.Path(argument).resolve().name, argument
    elif not label.strip() or not path:
        raise UserError(f"{argument}: write NAME=RUN, as in CW-VAE=logs/run1, or RUN alone.")
    folder = pathlib.Path(path)
    if not folder.is_dir():
        given = f" (from {argument})" if path != argument else ""
        raise UserError(f"{path}{given}: no such folder. Give a run's, as train.py printed it.")
    file = folder / "eval" / "metrics.json"
    anew = eval_command(folder)
    try:
        results = json.loads(file.read_text(), parse_constant=_no_number)
        written = results.get("format", 1)
    except FileNotFoundError:
        raise UserError(f"{folder}: not evaluated yet (no eval/metrics.json): {anew}") from None
    except (ValueError, AttributeError) as error:  # ValueError: no JSON, or no UTF-8
        raise UserError(f"{file}: damaged ({error}); evaluate again: {anew}") from None
    if written != FORMAT:
        raise UserError(
            f"{file}: written by another version of eval.py (format {written}, not {FORMAT});"
            f" evaluate again: {anew}"
        )
    try:
        _check_form(results)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        what = f"there is no {error}" if isinstance(error, KeyError) else error
        raise UserError(f"{file}: damaged ({what}); evaluate again: {anew}") from None
    return Run(label.strip(), folder, results, number)


def _no_number(word):
    raise ValueError(f"{word} among the scores")


def _check_form(results):
    """Looks at all that the rest reads, so that it may rely on it."""
    for key in _TEXTS:
        if not isinstance(results[key], str):
            raise ValueError(f"{key} is {results[key]!r}")
    for key in _COUNTS:
        if not isinstance(results[key], int):
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
            # A readout may have nothing to read in a frame, or is not asked to.
            there = [value for value in (score["mean"], *score["per_frame"]) if value is not None]
            _numbers(*there)
            if len(score["per_frame"]) != results["horizon"]:
                raise ValueError(f"{name}, {metric}: not one score for each predicted frame")
    if results["fvd"] is not None:
        _check_fvd(results["fvd"])
    elbo = results["elbo"]
    _numbers(elbo["frames"], *elbo["kl_sum"], results["weights"])
    _ = dict(zip(elbo["kl_names"], elbo["kl_sum"], strict=True))


def _check_fvd(fvd):
    _ = fvd["frames"], fvd["num_videos"], fvd["module"], fvd["protocol"], list(fvd["warnings"])
    _ = fvd["floor"]["value"], fvd["floor"]["source"]
    for score in fvd["scores"].values():
        _numbers(score["value"])
        for pairs in (score["prefixes"], score["windows"]):
            for frames, value in pairs:
                _numbers(frames, value)


def _numbers(*values):
    for value in values:
        if not isinstance(value, int | float):
            raise ValueError(f"{value!r} is no number")
    return values
