"""What predicted frames are measured by: each measure with its name, unit and protocol."""

from typing import Literal, Protocol

import numpy as np

from cwvae.metrics import image, lpips
from cwvae.metrics.protocols import PROTOCOLS

_HOW = {
    "standard": (
        "standard: predictions clipped to [0, 1], value range 1, error pooled over channels, 100 dB"
        " at most",
        "standard: predictions clipped to [0, 1], value range 1, Gaussian window of 11x11 pixels",
    ),
    "cwvae2021": (
        "cwvae2021: predictions not clipped, mean over channels, value range 1, 100 dB at most",
        "cwvae2021: predictions not clipped, mean over channels, value range 2, uniform window of"
        " 7x7 pixels, sample covariance",
    ),
}


class Measures(Protocol):
    """Some measures that are computed together."""

    def metrics(self) -> dict[str, dict[str, str]]:
        """Returns label, unit, which values are better, and the protocol of each, by its name."""

    def scores(self, truth: np.ndarray, prediction: np.ndarray) -> dict[str, np.ndarray]:
        """Maps floats [N, T, H, W, C] to float32 [N, T], by the names of `metrics`."""


class ImageMeasures:
    """PSNR and SSIM under one protocol."""

    def __init__(self, protocol: Literal["standard", "cwvae2021"]):
        """Takes a name in `PROTOCOLS`."""
        self._protocol = protocol
        end = "" if protocol == "standard" else f"_{protocol}"
        self._names = f"psnr{end}", f"ssim{end}"

    def metrics(self) -> dict[str, dict[str, str]]:
        """As in `Measures`."""
        end = "" if self._protocol == "standard" else f" ({self._protocol})"
        psnr, ssim = _HOW[self._protocol]
        about = (
            {"label": f"PSNR{end}", "unit": "dB", "better": "higher", "protocol": psnr},
            {"label": f"SSIM{end}", "unit": "", "better": "higher", "protocol": ssim},
        )
        return dict(zip(self._names, about, strict=True))

    def scores(self, truth: np.ndarray, prediction: np.ndarray) -> dict[str, np.ndarray]:
        """As in `Measures`."""
        both = (image.psnr, image.ssim)
        values = (function(truth, prediction, self._protocol) for function in both)
        return dict(zip(self._names, values, strict=True))


class PerceptualMeasure:
    """LPIPS."""

    def __init__(self, path: str | None = None):
        """Loads the weights.

        Args:
          path: Their file; None to look for it where `lpips.find` does.

        Raises:
          MissingWeights: There is none.
          UserError: It is damaged, or not at `path`.
        """
        self._distance = lpips.LPIPS(lpips.load(lpips.find(path)))

    def metrics(self) -> dict[str, dict[str, str]]:
        """As in `Measures`."""
        protocol = f"{lpips.PROTOCOL}; weights {self._distance.digest[:12]}"
        return {"lpips": {"label": "LPIPS", "unit": "", "better": "lower", "protocol": protocol}}

    def scores(self, truth: np.ndarray, prediction: np.ndarray) -> dict[str, np.ndarray]:
        """As in `Measures`."""
        return {"lpips": self._distance(truth, prediction)}


def protocols(protocol: Literal["both", "standard", "cwvae2021"]) -> list[str]:
    """Returns the names that `evaluation.protocol` stands for."""
    return list(PROTOCOLS) if protocol == "both" else [protocol]
