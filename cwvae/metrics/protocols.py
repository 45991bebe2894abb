"""The protocols under which PSNR and SSIM are computed. No TensorFlow."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Protocol:
    """How PSNR and SSIM are computed.

    Attributes:
      clip: Whether predictions are clipped to [0, 1].
      pool: Whether PSNR's error is that of all channels together, or PSNR a mean over channels.
      gaussian: Whether SSIM's window is the Gaussian one of 11x11 pixels, or the uniform of 7x7.
      sample: Whether variances under a window are a sample's, divided by n - 1.
      value_range: SSIM's.
    """

    clip: bool
    pool: bool
    gaussian: bool
    sample: bool
    value_range: float


# `standard`: as tf.image computes them. `cwvae2021`: as the authors' code did.
PROTOCOLS = {
    "standard": Protocol(True, True, True, False, 1.0),
    "cwvae2021": Protocol(False, False, False, True, 2.0),
}
