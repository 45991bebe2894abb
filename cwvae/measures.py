"""What predictions are measured by: every per-frame measure with its name, unit and protocol."""

import dataclasses
from collections.abc import Callable
from typing import Literal

import numpy as np

from cwvae.metrics import image, lpips


@dataclasses.dataclass(frozen=True)
class Measure:
    """A measure of predicted frames.

    Attributes:
      label: Its name for people.
      unit: Of its values; empty where there is none.
      better: Which values are.
      protocol: What exactly is computed.
      function: Maps truth and prediction, floats [N, T, H, W, C], to values [N, T].
    """

    label: str
    unit: str
    better: Literal["higher", "lower"]
    protocol: str
    function: Callable[[np.ndarray, np.ndarray], np.ndarray]

    def description(self) -> dict[str, str]:
        """Returns all but the function."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        del values["function"]
        return values


_STANDARD = "standard: predictions clipped to [0, 1], value range 1, "
_CWVAE2021 = "cwvae2021: predictions not clipped, mean over channels, "
_IMAGE = {
    "psnr": Measure(
        "PSNR", "dB", "higher", _STANDARD + "error pooled over channels, 100 dB at most", image.psnr
    ),
    "ssim": Measure(
        "SSIM", "", "higher", _STANDARD + "Gaussian window of 11x11 pixels", image.ssim
    ),
    "psnr_cwvae2021": Measure(
        "PSNR (cwvae2021)",
        "dB",
        "higher",
        _CWVAE2021 + "value range 1, 100 dB at most",
        lambda truth, prediction: image.psnr(truth, prediction, "cwvae2021"),
    ),
    "ssim_cwvae2021": Measure(
        "SSIM (cwvae2021)",
        "",
        "higher",
        _CWVAE2021 + "value range 2, uniform window of 7x7 pixels, sample covariance",
        lambda truth, prediction: image.ssim(truth, prediction, "cwvae2021"),
    ),
}


def protocols(protocol: Literal["both", "standard", "cwvae2021"]) -> list[str]:
    """Returns the names that `evaluation.protocol` stands for."""
    return list(image.PROTOCOLS) if protocol == "both" else [protocol]


def image_measures(protocol: Literal["both", "standard", "cwvae2021"]) -> dict[str, Measure]:
    """Returns PSNR and SSIM under one protocol or both."""
    wanted = protocols(protocol)
    return {
        name: measure
        for name, measure in _IMAGE.items()
        if (name.partition("_")[2] or "standard") in wanted
    }


def lpips_measure(path: str | None = None) -> Measure:
    """Returns LPIPS.

    Args:
      path: The file of its weights; None to look for it where `lpips.find` does.

    Raises:
      MissingWeights: There is none.
      UserError: It is damaged, or not at `path`.
    """
    distance = lpips.LPIPS(lpips.load(lpips.find(path)))
    protocol = f"{lpips.PROTOCOL}; weights {distance.digest[:12]}"
    return Measure("LPIPS", "", "lower", protocol, distance)
