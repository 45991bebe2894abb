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
    # Returns a function from predictions to float32 [N, T], for a truth; both are floats
    # [N, T, H, W, C].
    against: Callable[[np.ndarray], Callable[[np.ndarray], np.ndarray]]
    purpose: str = "PSNR and SSIM"  # as in `Stopwatch`
    every_frame: bool = True  # False: costly, so that only some of a model's frames are scored


def image_scores(protocols: Iterable[str]) -> dict[str, FrameScore]:
    """Returns PSNR and SSIM under some protocols, by the names in metrics.json."""
    found = {}
    for protocol in protocols:
        note = "" if protocol == "standard" else f" ({protocol})"
        for metric, unit in (("psnr", "dB"), ("ssim", "")):
            about = {"label": f"{metric.upper()}{note}", "unit": unit, "better": "higher"}
            about["protocol"] = getattr(PROTOCOLS[protocol], metric)
            compute = functools.partial(getattr(image, metric), protocol=protocol)
            # partial(compute) takes the truth, then the prediction.
            against = functools.partial(functools.partial, compute)
            found[metric_name(metric, protocol)] = FrameScore(about, against)
    return found


def lpips_score() -> dict[str, FrameScore]:
    """Loads LPIPS and returns it by its name; raises what `lpips.load` raises."""
    distance = lpips.LPIPS(lpips.load())
    protocol = f"{lpips.PROTOCOL}; weights {distance.digest[:12]}"
    about = {"label": "LPIPS", "unit": "", "better": "lower", "protocol": protocol}
    return {"lpips": FrameScore(about, distance.against, "LPIPS", every_frame=False)}
