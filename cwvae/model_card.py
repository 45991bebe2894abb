"""The model card of an export: a README.md with the header that the Hugging Face Hub reads.

It says what the model is, what it was trained on, how it scored and under which protocol, how to
load it, and its licence. It holds no paths.
"""

import io
import json
import pathlib
import re
import sys

from ruamel.yaml import YAML

from cwvae import config as configuration
from cwvae.config import Config, TrainingConfig
from cwvae.errors import UserError
from cwvae.evaluation.results import FOLDER, FORMAT, digest, heading
from cwvae.installation import VERSION, command

NAME = "README.md"

# The Hub's word for a model without a licence. Nobody may use such a model.
UNKNOWN = "unknown"

_MODELS = {"cwvae": "CW-VAE", "svg": "SVG-LP", "vta": "VTA"}
_DATA = {
    "video_folder": "the author's own videos",
    "arrays": "arrays that the author passed from Python",
}


def check_licence(licence: str) -> None:
    """Raises a UserError unless a licence is written as the Hub's identifiers are."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", licence):
        raise UserError(
            f"--license {licence}: write one of the Hub's identifiers, such as mit, apache-2.0,"
            " cc-by-4.0, cc-by-nc-4.0 or other."
        )


def evaluation(logdir: str | pathlib.Path, step: int) -> dict | None:
    """Returns the content of the metrics.json of a run's own settings at a step; None without one.

    Warns if there is one that cannot be used.
    """
    file = pathlib.Path(logdir) / FOLDER / "metrics.json"
    try:
        results = json.loads(file.read_text(encoding="utf-8"))
        if results.get("format") != FORMAT or results.get("sha256") != digest(results):
            raise ValueError("damaged, or written by another version")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        print(
            f"warning: {file}: {error}. The model card has no scores. Evaluate again:"
            f" {command('eval')} --logdir {logdir}",
            file=sys.stderr,
        )
        return None
    return results if results["step"] == step else None


def text(
    config: Config, step: int, weights: int, results: dict | None, name: str, licence: str
) -> str:
    """Returns the model card.

    Args:
      config: The configuration of the run, without paths.
      step: The number of updates that the model was trained for.
      weights: The number of trainable weights.
      results: What `evaluation` returned.
      name: A name for the model.
      licence: The Hub's identifier of the licence of the weights.
    """
    model, training, kind = config.model, config.training, _MODELS[config.model.name]
    address = re.sub(r"[^\w.-]+", "-", name)
    colours = "gray" if model.channels == 1 else "RGB"
    size, frames = f"{model.frame_size}x{model.frame_size}", f"{model.frame_size}, " * 2
    sections = [
        f"# {name}",
        f"{kind} for video prediction: it sees some frames of a video and samples the frames that"
        f" may follow. Frames: {size} pixels, {colours}. Trained with"
        f" `cwvae` {VERSION} (TensorFlow and Keras).",
        "## Model",
        _list(
            [f"{kind}, {weights:,} weights"]
            + [f"`{line}`" for line in _settings(config, "model", ("frame_size", "channels"))]
        ),
        "## Data",
        _list([_data(config), *(f"`{line}`" for line in _settings(config, "data", ("name",)))]),
        "## Training",
        _list(
            [
                f"{step:,} updates of {training.batch_size} clips of {training.seq_len} frames,"
                f" seed {training.seed}",
                f"Adam, learning rate {training.learning_rate:g}, {_schedule(training)},"
                f" {training.precision}",
            ]
        ),
        "`config.yml` holds all settings.",
        "## Scores",
        _scores(results) if results else "Not evaluated.",
        "## Use",
        "```python\n"
        "import cwvae\n\n"
        f'model = cwvae.load("hf://USER/{address}")  # or the folder that holds this file\n'
        f"# context: [B, T, {frames}{model.channels}], uint8 or floats in [0, 1]\n"
        "future = model.predict(context, horizon=50, seed=0)  # another seed, another future\n"
        "```",
        "## Licence",
        "Not stated: without a licence nobody else may use these weights. The author must choose"
        " one that the licence of the data permits."
        if licence == UNKNOWN
        else f"The weights: {licence}.",
    ]
    return f"---\n{_header(config, results, name, licence)}---\n\n" + "\n\n".join(sections) + "\n"


def _header(config: Config, results: dict | None, name: str, licence: str) -> str:
    """Returns the metadata as YAML, in the form of the Hub's model cards."""
    header = {
        "license": licence,
        "library_name": "cwvae",
        "tags": ["video-prediction", "video", "tensorflow", "keras", config.model.name],
    }
    if results:
        scores = results["scores"][results["model"]]
        metrics = [
            {"type": metric, "name": f"{about['label']}, all frames", "value": round(value, 4)}
            for metric, about in results["metrics"].items()
            if (value := scores.get(metric, {}).get("mean")) is not None
        ]
        if fvd := results["fvd"]:
            value = fvd["scores"][results["model"]]["value"]
            metrics.append({"type": "fvd", "name": "FVD", "value": round(value, 4)})
        result = {
            "task": {"type": "video-prediction", "name": "Video prediction"},
            "dataset": {"type": results["data"], "name": results["data"], "split": "test"},
            "metrics": metrics,
        }
        header["model-index"] = [{"name": name, "results": [result]}]
    stream, yaml = io.StringIO(), YAML(typ="safe")
    yaml.default_flow_style, yaml.sort_base_mapping_type_on_output = False, False
    yaml.dump(header, stream)
    return stream.getvalue()


def _settings(config: Config, section: str, without: tuple[str, ...]) -> list[str]:
    """Returns `key: value` of the settings of a section that differ from the defaults."""
    defaults = configuration.load(None, [f"model.name={config.model.name}"], purpose="data")
    default, own = (configuration.as_plain(each)[section] for each in (defaults, config))
    return [
        f"{key}: {json.dumps(value)}"
        for key, value in own.items()
        if key not in without and value != default[key]
    ]


def _schedule(training: TrainingConfig) -> str:
    """Returns how the learning rate changes, and what became of the weights."""
    words = f"{training.schedule} schedule"
    if training.warmup:
        words += f" after a warm-up of {training.warmup:,} updates"
    if training.ema:
        words += f", average of the weights with a decay of {training.ema:g}"
    return words


def _data(config: Config) -> str:
    name = config.data.name
    return _DATA.get(name, f"`{name}`: `docs/data.md` of the project has its source and licence")


def _scores(results: dict) -> str:
    """Returns the table of an evaluation's scores, and how they were measured."""
    metrics = results["metrics"]
    soon = next(s["soon"] for row in results["scores"].values() for s in row.values())
    head = [f"first {soon} frames / all {results['horizon']}", *map(heading, metrics.values())]
    rows = [head, ["---"] * len(head)]
    for predictor, summaries in results["scores"].items():
        cells = (summaries.get(metric, {}) for metric in metrics)
        rows.append([predictor, *(_cell(cell) for cell in cells)])
    lines = ["".join(f"| {cell} " for cell in row) + "|" for row in rows]
    about = [
        f"{results['num_videos']} held-out clips of `{results['data']}`, {results['context']}"
        f" context frames, {results['horizon']} predicted, {results['num_samples']} sample(s) per"
        f" clip, step {results['step']:,}"
    ]
    about += [f"{about['label']}: {about['protocol']}" for about in metrics.values()]
    if fvd := results["fvd"]:
        low, high = fvd["scores"][results["model"]]["interval"]
        value = fvd["scores"][results["model"]]["value"]
        about.append(f"FVD {value:.1f} (95% interval {low:.1f} to {high:.1f}): {fvd['protocol']}")
    about.append(", ".join(f"{name} {number}" for name, number in results["versions"].items()))
    return "\n".join(lines) + "\n\n" + _list(about)


def _cell(summary: dict) -> str:
    values = (summary.get(key) for key in ("mean_soon", "mean"))
    return " / ".join("-" if value is None else f"{value:.3f}" for value in values)


def _list(items: list[str]) -> str:
    return "\n".join(f"- {item}" for item in items)
