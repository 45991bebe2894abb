"""Scores of single predicted frames: PSNR, SSIM and LPIPS, each with label, unit and protocol.

Symbols: N videos, T predicted frames.
"""

import functools
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np

from cwvae.evaluation.results import metric_name
from cwvae.metrics import image, lpips
from cwvae.metrics.protocols import PROTOCOLS


class FrameScore(NamedTuple):
    """A score of predicted frames."""

    about: dict[str, str]  # label, unit, better ("higher" or "lower") and protocol
    # Maps truth and prediction, floats [N, T, H, W, C], to float32 [N, T].
    compute: Callable[[np.ndarray, np.ndarray], np.ndarray]


def image_scores(protocols: Iterable[str]) -> dict[str, FrameScore]:
    """Returns PSNR and SSIM under some protocols, by the names in metrics.json."""
    found = {}
    for protocol in protocols:
        note = "" if protocol == "standard" else f" ({protocol})"
        for metric, unit in (("psnr", "dB"), ("ssim", "")):
            about = {"label": f"{metric.upper()}{note}", "unit": unit, "better": "higher"}
            about["protocol"] = getattr(PROTOCOLS[protocol], metric)
            compute = functools.partial(getattr(image, metric), protocol=protocol)
            found[metric_name(metric, protocol)] = FrameScore(about, compute)
    return found


def lpips_score(path: str | None = None) -> dict[str, FrameScore]:
    """Loads LPIPS and returns it by its name; `path` and errors are those of `lpips.find`.

    Raises a UserError also if the file is damaged.
    """
    distance = lpips.LPIPS(lpips.load(lpips.find(path)))
    protocol = f"{lpips.PROTOCOL}; weights {distance.digest[:12]}"
    about = {"label": "LPIPS", "unit": "", "better": "lower", "protocol": protocol}
    return {"lpips": FrameScore(about, distance)}
