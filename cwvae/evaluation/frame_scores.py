"""Scores of single predicted frames: PSNR, SSIM and LPIPS, each with label, unit and protocol.

Symbols: N videos, T predicted frames.
"""

import functools
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np

from cwvae.metrics import image, lpips
from cwvae.metrics.protocols import PROTOCOLS


class FrameScore(NamedTuple):
    """A score of predicted frames.

    Attributes:
      about: Label, unit, better direction ("higher" or "lower") and protocol.
      compute: Maps truth and prediction, floats [N, T, H, W, C], to float32 [N, T].
    """

    about: dict[str, str]
    compute: Callable[[np.ndarray, np.ndarray], np.ndarray]


def image_scores(protocols: Iterable[str]) -> dict[str, FrameScore]:
    """Returns PSNR and SSIM under some protocols, by the names in metrics.json."""
    found = {}
    for protocol in protocols:
        end, note = ("", "") if protocol == "standard" else (f"_{protocol}", f" ({protocol})")
        how = PROTOCOLS[protocol]
        for name, unit, function, description in (
            ("psnr", "dB", image.psnr, how.psnr),
            ("ssim", "", image.ssim, how.ssim),
        ):
            label = f"{name.upper()}{note}"
            about = {"label": label, "unit": unit, "better": "higher", "protocol": description}
            compute = functools.partial(function, protocol=protocol)
            found[f"{name}{end}"] = FrameScore(about, compute)
    return found


def lpips_score(path: str | None = None) -> dict[str, FrameScore]:
    """Loads LPIPS and returns it by its name.

    Args:
      path: File of weights; None to look where `lpips.find` does.

    Raises:
      MissingWeights: No weights were found.
      UserError: The file is damaged, or `path` does not exist.
    """
    distance = lpips.LPIPS(lpips.load(lpips.find(path)))
    protocol = f"{lpips.PROTOCOL}; weights {distance.digest[:12]}"
    about = {"label": "LPIPS", "unit": "", "better": "lower", "protocol": protocol}
    return {"lpips": FrameScore(about, distance)}
