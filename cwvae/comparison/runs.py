"""Evaluated runs, read from metrics.json in the folders of evaluations, with their labels."""

import dataclasses
import json
import pathlib
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence

from cwvae import config as configuration
from cwvae.errors import UserError
from cwvae.evaluation import results as evaluations
from cwvae.evaluation.results import FORMAT, is_best_of
from cwvae.installation import command
from cwvae.run import files

FVD = "fvd"
PAPER = "(paper)"  # the end of the labels of the paper's rows

# Rows that a comparison adds to those of the runs.
_OTHER_ROWS = (evaluations.COPY, evaluations.MEAN, evaluations.RANDOM, evaluations.TRUTH)
COUNTS = ("context", "horizon", "num_videos", "num_samples")


@dataclasses.dataclass(frozen=True)
class Run:
    """One evaluated run."""

    label: str  # of its row in the tables; runs on several data sets share a row
    folder: pathlib.Path  # as given: the run's, or the evaluation's
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
    """Reads evaluations, each LABEL=RUN or RUN: a run's folder, or the folder of an evaluation.

    A run without a label has the name of its folder. Raises a UserError for a missing or damaged
    evaluation, a label that is reserved, or a label used twice on one data set.
    """
    runs = [_read_one(argument, number) for number, argument in enumerate(arguments)]
    seen = {}
    for run in runs:
        check_label(run.label, run.folder)
        other = seen.setdefault((run.label, run.data), run)
        if other is not run:
            raise UserError(
                f"{other.folder} and {run.folder} are both called {run.label!r}, on {run.data}."
                f" Name one of them: NAME={shlex.quote(str(run.folder))}"
            )
    return runs


def check_label(label: str, where: object) -> None:
    """Raises a UserError if a label cannot be printed, or is that of a row that is not a run's."""
    if not label.isprintable():
        raise UserError(f"{where}: the name {label!r} cannot be printed. Use another name.")
    if label.endswith(PAPER):
        whose = "the paper's own rows"
    elif label in _OTHER_ROWS or re.search(r", best of \d+$", label):
        whose = "a row that the comparison adds"
    else:
        return
    raise UserError(f"{where}: the name {label!r} is reserved for {whose}. Use another name.")


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


def eval_command(run: Run, settings: Mapping[str, object] | None = None) -> str:
    """Returns the command that repeats an evaluation, with other values of some settings."""
    logdir = _logdir(run.folder)
    words = _command(run.folder)
    if file := run.results.get("predictions"):
        words = [*command("eval").split(), "--predictions", file, "--config", "CONFIG"]
        words += ["--name", run.model, "--out", str(run.folder)]
    elif logdir != run.folder:
        # What this evaluation has changed must be given again, unlike the run's own settings.
        changed = {}
        if logdir:
            own = configuration.load(configuration.run_path(logdir), purpose="data")
            changed = evaluations.changes(configuration.as_plain(own), run.results["settings"])
        words = [*(words[:-2] if settings else words), "--step", str(run.results["step"])]
        settings = changed | (settings or {})
    for key, value in (settings or {}).items():
        text = value if isinstance(value, str) else json.dumps(value)
        words += ["--set", f"{key}={text}"]
    return shlex.join(words)


def _logdir(folder: pathlib.Path) -> pathlib.Path | None:
    """Returns the run of a folder: itself or, if it is an evaluation, the run around it, if any."""
    if not (folder / "metrics.json").is_file():
        return folder
    around = folder.resolve().parent
    return around if (around / "config.yml").is_file() else None


def _command(folder: pathlib.Path) -> list[str]:
    """Returns the words of the command that writes an evaluation, without its settings."""
    logdir = _logdir(folder)
    words = [*command("eval").split(), "--logdir", str(logdir or "RUN")]
    if logdir != folder:
        words += ["--out", folder.resolve().name if logdir else str(folder.resolve())]
    return words


def _read_one(argument: str, number: int) -> Run:
    label, equals, path = argument.partition("=")
    # A folder's name may contain =, as in logs/lr=0.1.
    if not equals or pathlib.Path(argument).is_dir():
        path = argument
        label = (_logdir(pathlib.Path(path)) or pathlib.Path(path)).resolve().name
    elif not label.strip() or not path:
        raise UserError(f"{argument}: write NAME=RUN, as in CW-VAE=logs/run1, or RUN alone.")
    folder = pathlib.Path(path)
    if not folder.is_dir():
        given = f" (from {argument})" if path != argument else ""
        raise UserError(
            f"{path}{given}: no such folder. Give a run's folder, as train.py prints it."
        )
    file = folder / "metrics.json"
    if not file.is_file():
        file = folder / evaluations.FOLDER / "metrics.json"
    again = f"Evaluate again: {shlex.join(_command(folder))}"
    try:
        results = json.loads(file.read_text(encoding="utf-8"))
        written, whole = results.get("format", 1), results.get("sha256")
        if written == FORMAT and whole != evaluations.digest(results):
            raise ValueError("the content does not match its checksum")
    except (FileNotFoundError, NotADirectoryError):
        if inside := files.runs_in(folder):
            raise UserError(
                f"{folder}: a folder of runs, not a run. Give the runs in it: {inside}"
            ) from None
        raise UserError(
            f"{folder}: not evaluated yet (no eval/metrics.json):"
            f" {shlex.join(_command(folder))}{_others(folder)}"
        ) from None
    # ValueError: not JSON, or not UTF-8.
    except (ValueError, AttributeError, RecursionError) as error:
        raise UserError(f"{file}: damaged ({error}). {again}") from None
    if written != FORMAT:
        raise UserError(
            f"{file}: written by another version of eval.py (format {written}, not {FORMAT})."
            f" {again}"
        )
    return Run(label.strip(), folder, results, number)


def _others(folder: pathlib.Path) -> str:
    """Returns a sentence on the evaluations with other settings in a run's folder."""
    found = sorted(str(path.parent) for path in folder.glob("[!.]*/metrics.json"))
    return f"\nIt has evaluations of other settings. To compare one: {found[0]}" if found else ""
