"""The protocols under which PSNR and SSIM are computed. No TensorFlow."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Protocol:
    """How PSNR and SSIM are computed: a description of each, as reports show it, and options."""

    psnr: str
    ssim: str
    clip: bool  # whether predictions are clipped to [0, 1]
    pool: bool  # whether PSNR pools the error over channels, or is itself averaged over them
    gaussian: bool  # whether SSIM's window is Gaussian, 11x11 pixels, or uniform, 7x7
    sample: bool  # whether variances under a window are sample variances, divided by n - 1
    value_range: float  # SSIM's value range; PSNR's is always 1


# `standard`: as tf.image computes them. `cwvae2021`: as the authors' code did.
PROTOCOLS = {
    "standard": Protocol(
        psnr="standard: predictions clipped to [0, 1], value range 1, error pooled over channels,"
        " 100 dB at most",
        ssim="standard: predictions clipped to [0, 1], value range 1, Gaussian window of 11x11"
        " pixels",
        clip=True,
        pool=True,
        gaussian=True,
        sample=False,
        value_range=1.0,
    ),
    "cwvae2021": Protocol(
        psnr="cwvae2021: predictions not clipped, mean over channels, value range 1, 100 dB at"
        " most",
        ssim="cwvae2021: predictions not clipped, mean over channels, value range 2, uniform"
        " window of 7x7 pixels, sample covariance",
        clip=False,
        pool=False,
        gaussian=False,
        sample=True,
        value_range=2.0,
    ),
}


def names(setting: str) -> list[str]:
    """Returns the protocols that a value of `evaluation.protocol` selects."""
    return list(PROTOCOLS) if setting == "both" else [setting]
