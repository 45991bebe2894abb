"""Evaluated runs, read from metrics.json in the folders of evaluations, with their labels."""

import dataclasses
import json
import pathlib
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence

from cwvae import config as configuration
from cwvae.comparison.seeds import Score, over_seeds
from cwvae.errors import UserError
from cwvae.evaluation import clip_scores
from cwvae.evaluation import results as evaluations
from cwvae.evaluation.results import FORMAT, is_best_of
from cwvae.installation import command
from cwvae.run import files

FVD = "fvd"
PAPER = "(paper)"  # the end of the labels of the paper's rows
_FOLDER = "video_folder"  # the data set whose videos are in a folder of the user's

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
    data_label: str | None = None  # the name that was given to its data set
    is_named: bool = False  # whether the label was given; otherwise it is the folder's name

    @property
    def data(self) -> str:
        """The name of its columns: as given, or a folder of videos' own name, or `data.name`."""
        folder = self.results["settings"]["data"].get("videos_dir")
        own = pathlib.PurePath(folder).name if folder and self.data_name == _FOLDER else ""
        return self.data_label or own or self.data_name

    @property
    def data_name(self) -> str:
        """The data set's name in the configuration, `data.name`."""
        return self.results["data"]

    @property
    def seed(self) -> int | None:
        """The seed of its training; None for predictions from a file, which do not say."""
        return self.results["settings"]["training"].get("seed")

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

    def by_clip(self) -> clip_scores.Scores | None:
        """Reads the scores of single clips, as `clip_scores.read` does."""
        return clip_scores.read(_evaluation(self.folder), self.results)

    def fvd_curve(self, predictor: str, kind: str) -> list[list[float]]:
        """Returns the pairs (frames, FVD) of "prefixes" or "windows"; empty if there are none."""
        return self._fvd_score(predictor).get(kind, [])

    def _fvd_score(self, predictor):
        return (self.results["fvd"] or {}).get("scores", {}).get(predictor, {})


@dataclasses.dataclass(frozen=True)
class Entry:
    """The runs of one row on one data set: one run, or one for each of several training seeds."""

    runs: tuple[Run, ...]

    @property
    def first(self) -> Run:
        """The first run. All runs have its label, data set, model and protocols."""
        return self.runs[0]

    @property
    def label(self) -> str:
        """The name of the row."""
        return self.first.label

    @property
    def data(self) -> str:
        """The name of the data set's columns."""
        return self.first.data

    @property
    def model(self) -> str:
        """The model's name in the results."""
        return self.first.model

    @property
    def seeds(self) -> tuple[int | None, ...]:
        """The training seeds, in the order of the runs."""
        return tuple(run.seed for run in self.runs)

    @property
    def best_of(self) -> list[str]:
        """The predictors that are the best of several samples of the model."""
        return self.first.best_of

    @property
    def baselines(self) -> list[str]:
        """The predictors without a model, and the true frames if a readout scored them."""
        return list(dict.fromkeys(name for run in self.runs for name in run.baselines))

    @property
    def metrics(self) -> dict[str, dict]:
        """As in `Run`: the measures that at least one run has."""
        return {name: about for run in self.runs for name, about in run.metrics.items()}

    def name_of(self, run: Run) -> str:
        """Returns the name of a run in messages: the label, with the seed if there are several."""
        return run.label if len(self.runs) == 1 else f"{run.label} (seed {run.seed})"

    def score(self, predictor: str, metric: str) -> Score | None:
        """Returns a score over the training seeds; None if any run lacks it."""
        values = {run.seed: run.mean(predictor, metric) for run in self.runs}
        return None if None in values.values() else over_seeds(values)


# {data set: its rows}
Groups = Mapping[str, list[Entry]]


def read(arguments: Sequence[str]) -> list[Run]:
    """Reads evaluations, each LABEL@DATA=RUN, LABEL=RUN or RUN.

    RUN is a run's folder, or the folder of an evaluation. A run without a label has the name of its
    folder. Runs with the same given label on one data set are seeds of one row.

    Raises:
      UserError: A missing or damaged evaluation, a label that is reserved, or a folder's name that
        is used twice on one data set.
    """
    runs = [_read_one(argument, number) for number, argument in enumerate(arguments)]
    seen = {}
    for run in runs:
        check_label(run.label, run.folder)
        _check_printable(run.data, run.folder)
        other = seen.setdefault((run.label, run.data), run)
        if other is not run and not (other.is_named and run.is_named):
            raise UserError(
                f"{other.folder} and {run.folder} are both called {run.label!r}, on {run.data}. For"
                " one row of several training seeds, write the same NAME= before both. For two"
                f" rows, name one of them: NAME={shlex.quote(str(run.folder))}"
            )
    return runs


def split_name(name: str) -> tuple[str, str | None]:
    """Returns the label and the name of the data set (or None) in LABEL@DATA or LABEL.

    Raises:
      UserError: One of the two is empty.
    """
    label, at, data = name.rpartition("@")
    label, data = (label.strip(), data.strip()) if at else (name.strip(), None)
    if not label or data == "":
        raise UserError(
            f"{name!r}: write NAME or, to name the data set too, NAME@DATA, as in CW-VAE@robots."
        )
    return label, data


def check_label(label: str, where: object) -> None:
    """Raises a UserError if a label cannot be printed, or is that of a row that is not a run's."""
    _check_printable(label, where)
    if label.endswith(PAPER):
        whose = "the paper's own rows"
    elif label in _OTHER_ROWS or re.search(r", best of \d+$", label):
        whose = "a row that the comparison adds"
    else:
        return
    raise UserError(f"{where}: the name {label!r} is reserved for {whose}. Use another name.")


def _check_printable(name: str, where: object) -> None:
    if not name.isprintable():
        raise UserError(f"{where}: the name {name!r} cannot be printed. Use another name.")


def by_data(runs: Iterable[Run]) -> dict[str, list[Entry]]:
    """Returns the rows of each data set; the runs of a row are in the order of their seeds."""
    groups = {}
    for run in runs:
        groups.setdefault(run.data, {}).setdefault(run.label, []).append(run)

    def seed(run: Run) -> int:
        return -1 if run.seed is None else run.seed

    return {
        data: [Entry(tuple(sorted(row, key=seed))) for row in by_label.values()]
        for data, by_label in groups.items()
    }


def entries(groups: Groups) -> list[Entry]:
    """Returns the rows of all data sets, in the order of the command line."""
    every = (entry for group in groups.values() for entry in group)
    return sorted(every, key=lambda entry: min(run.number for run in entry.runs))


def labels(groups: Groups) -> list[str]:
    """Returns the labels of all runs, in the order of the command line."""
    return list(dict.fromkeys(entry.label for entry in entries(groups)))


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


def _evaluation(folder: pathlib.Path) -> pathlib.Path:
    """Returns the folder of an evaluation: itself or, if it is a run, the one in it."""
    is_evaluation = (folder / "metrics.json").is_file()
    return folder if is_evaluation else folder / evaluations.FOLDER


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
    name, equals, path = argument.partition("=")
    # A folder's name may contain =, as in logs/lr=0.1.
    is_named = bool(equals) and not pathlib.Path(argument).is_dir()
    if not is_named:
        path = argument
        label, data = (_logdir(pathlib.Path(path)) or pathlib.Path(path)).resolve().name, None
    elif not name.strip() or not path:
        raise UserError(f"{argument}: write NAME=RUN, as in CW-VAE=logs/run1, or RUN alone.")
    else:
        label, data = split_name(name)
    folder = pathlib.Path(path)
    if not folder.is_dir():
        given = f" (from {argument})" if path != argument else ""
        raise UserError(
            f"{path}{given}: no such folder. Give a run's folder, as train.py prints it."
        )
    file = _evaluation(folder) / "metrics.json"
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
    return Run(label, folder, results, number, data, is_named)


def _others(folder: pathlib.Path) -> str:
    """Returns a sentence on the evaluations with other settings in a run's folder."""
    found = sorted(str(path.parent) for path in folder.glob("[!.]*/metrics.json"))
    return f"\nIt has evaluations of other settings. To compare one: {found[0]}" if found else ""
