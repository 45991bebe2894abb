"""Synthetic results of evaluations, in the form that eval.py writes."""

import json

import numpy as np

from cwvae import config
from cwvae.evaluation import clip_scores
from cwvae.evaluation.results import COPY, FORMAT, MEAN, RANDOM, TRUTH, best_of, digest

PER_FRAME = {
    "psnr": ("PSNR", "dB", "higher", "standard: clipped to [0, 1], range 1, channels pooled"),
    "ssim": ("SSIM", "", "higher", "standard: clipped to [0, 1], range 1, 11x11 Gaussian window"),
    "psnr_cwvae2021": ("PSNR (cwvae2021)", "dB", "higher", "cwvae2021: not clipped, range 1"),
    "ssim_cwvae2021": ("SSIM (cwvae2021)", "", "higher", "cwvae2021: not clipped, range 2"),
    "lpips": ("LPIPS", "", "lower", "v0.1, AlexNet, sum over taps"),
    "readout_digits": ("digits right", "%", "higher", "readout 1a2b, trained on true frames"),
    "readout_positions": ("position error", "pixels", "lower", "readout 1a2b"),
}
# Scores of a model at the first predicted frame, and in the long run.
CURVES = {
    "psnr": (22, 12),
    "ssim": (0.9, 0.5),
    "psnr_cwvae2021": (21, 11),
    "ssim_cwvae2021": (0.95, 0.6),
    "lpips": (0.1, 0.4),
    "readout_digits": (98, 20),
    "readout_positions": (0.5, 15),
}
# Constant scores of the baselines on a scale from the long run, 0, to the first frame, 1.
BASELINES = {COPY: 0.2, MEAN: 0.1, RANDOM: 0.0}


def make(
    quality=0.5, seed=0, horizon=30, samples=1, metrics=tuple(CURVES)[:5], fvd=True, **changes
) -> dict:
    """Returns the content of a metrics.json.

    Args:
      quality: How long the model's predictions stay good, from 0 to 1.
      seed: Seed of the noise on the model's curves.
      horizon: Number of predicted frames.
      samples: Predictions per clip.
      metrics: Measures per frame that are computed.
      fvd: Whether FVD is computed.
      changes: Other values; `settings__data__speed=[3, 4]` changes a nested value.
    """
    rng = np.random.default_rng(seed)
    models = {"cwvae": quality}
    if samples > 1:
        models[best_of("cwvae", samples)] = quality + 0.1
    scores = {
        name: {metric: _model(metric, value, horizon, rng) for metric in metrics}
        for name, value in models.items()
    }
    for name, level in BASELINES.items():
        scores[name] = {metric: _constant(metric, level, horizon) for metric in metrics}
    readouts = [metric for metric in metrics if metric.startswith("readout")]
    if readouts:
        scores[TRUTH] = {metric: _constant(metric, 1.0, horizon) for metric in readouts}
    own = f"evaluation.horizon={horizon}", "training.precision=float32"
    settings = config.load(None, own)
    keys = ("label", "unit", "better", "protocol")
    missing = {"lpips", "fvd"} - set(metrics) - ({"fvd"} if fvd else set())
    results = {
        "format": FORMAT,
        "step": 12,
        "model": "cwvae",
        "weights": 1234567,
        "data": "moving_digits",
        "protocols": ["standard", "cwvae2021"],
        "context": 36,
        "horizon": horizon,
        "num_videos": 100,
        "num_samples": samples,
        "observe_levels": None,
        "frames": "64x64x1, values in [0, 1]",
        "settings": config.as_plain(settings),
        "versions": {"python": "3.11.9"},
        "metrics": {m: dict(zip(keys, PER_FRAME[m], strict=True)) for m in metrics},
        "not_computed": {metric: "weights not found. Get them." for metric in sorted(missing)},
        "scores": scores,
        "fvd": _fvd(quality, horizon) if fvd else None,
        "elbo": {
            "frames": 100,
            "nll_per_frame": 2.0,
            "kl_names": ["level_1", "level_2"],
            "kl_per_step": [3.0, 1.0],
            "kl_sum": [300.0, 17.0],
        },
    }
    for name, value in changes.items():
        *path, key = name.split("__")
        inner = results
        for step in path:
            inner = inner[step]
        inner[key] = value
    return results | {"sha256": digest(results)}


def write(folder, name="eval", **changes):
    """Writes DIR/NAME with metrics.json and clip_scores.npz, changed as for `make`; returns DIR."""
    (folder / name).mkdir(parents=True, exist_ok=True)
    results = make(**changes)
    (folder / name / "metrics.json").write_text(json.dumps(results))
    clip_scores.write(folder / name, results, by_clip(results))
    return folder


def by_clip(results):
    """Returns scores of clips, {predictor: {metric: [N, T]}}, whose means are those of `make`."""
    rng = np.random.default_rng(0)
    found = {}
    for predictor, summaries in results["scores"].items():
        for metric, summary in summaries.items():
            noise = rng.standard_normal((results["num_videos"], 1))
            values = np.array(summary["per_frame"], float) + 0.1 * (noise - noise.mean())
            found.setdefault(predictor, {})[metric] = values.astype(np.float32)
    return found


def _model(metric, quality, horizon, rng):
    """Returns a noisy curve from the metric's first to its last level."""
    frames = np.arange(horizon)
    share = np.exp(-frames / (1 + 0.3 * quality * horizon))
    return _score(metric, share * (1 + 0.02 * rng.standard_normal(horizon)))


def _constant(metric, share, horizon):
    return _score(metric, np.full(horizon, share))


def _score(metric, shares):
    first, last = CURVES[metric]
    values = last + (first - last) * shares
    return {
        "mean": float(values.mean()),
        "mean_soon": float(values[:10].mean()),
        "soon": min(10, len(values)),
        "standard_error": 0.1,
        "interval": _around(values, 0.2),
        "interval_soon": _around(values[:10], 0.3),
        "per_frame": [round(float(value), 5) for value in values],
    }


def _around(values, half):
    return [float(values.mean() - half), float(values.mean() + half)]


def _fvd(quality, horizon):
    def score(level):
        starts = range(0, horizon - 15, 14)
        return {
            "value": level * 1000.0,
            "interval": [level * 900.0, level * 1100.0],
            "prefixes": [
                [n, level * (200 + 800 * n / horizon)] for n in (*range(16, horizon, 16), horizon)
            ],
            "windows": [[start, level * (100 + 200 * start / horizon)] for start in starts],
        }

    return {
        "frames": horizon,
        "num_videos": 100,
        "module": "1a2b3c4d",
        "protocol": f"I3D logits; 100 videos of {horizon} frames",
        "warnings": ["FVD of 100 videos, fewer than 400, is too high."],
        "scores": {"cwvae": score(2 - quality), COPY: score(2.5)},
        "floor": {"value": 210.3, "source": "two halves of the test videos"},
    }
