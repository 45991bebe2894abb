"""PSNR and SSIM per frame, under the protocols of `cwvae.metrics.protocols`.

`standard` computes `tf.image.psnr` and `tf.image.ssim`, `cwvae2021` what the authors' code computed
for the paper with scikit-image 0.18.1. That library's old value range for floats, 2 instead of 1,
raises an SSIM near .5 by about .1, so compare only within a protocol.

N: videos, T: frames, H, W: height and width, C: channels.
"""

import concurrent.futures
import functools
import os

import numpy as np
from numpy.typing import ArrayLike

from cwvae.metrics import loops
from cwvae.metrics.protocols import PROTOCOLS

# Lower bound of the mean squared error in PSNR: identical frames give 100 dB, so that averages stay
# finite and can be written as JSON.
MSE_FLOOR = 1e-10

# Frames per task of a thread.
_CHUNK = 128


def psnr(truth: ArrayLike, prediction: ArrayLike, protocol: str = "standard") -> np.ndarray:
    """Returns the peak signal-to-noise ratio of every frame.

    Args:
      truth: Floats in [0, 1], array or tensor [N, T, H, W, C].
      prediction: Floats of the same shape.
      protocol: A name in `PROTOCOLS`.

    Returns:
      Decibels, float32 [N, T]: 10 log10(1 / MSE), at most 100.

    Raises:
      ValueError: The shapes differ or are not [N, T, H, W, C], the arguments are not floats or not
        finite, or truth leaves [0, 1].
      KeyError: The protocol is unknown.
    """
    options = PROTOCOLS[protocol]
    truth, prediction = _videos(truth, prediction)
    channels = truth.shape[-1]
    mse = np.empty((truth.shape[0] * truth.shape[1], channels))
    _over_frames(loops.squared_errors, truth, prediction, (channels, options.clip), mse)
    if options.pool:
        mse = mse.mean(1, keepdims=True)
    decibels = 10 * np.log10(1 / np.maximum(mse, MSE_FLOOR)).mean(1)
    return decibels.reshape(truth.shape[:2]).astype(np.float32)


def ssim(truth: ArrayLike, prediction: ArrayLike, protocol: str = "standard") -> np.ndarray:
    """Returns the structural similarity of every frame.

    `standard` equals scikit-image's `structural_similarity` with `gaussian_weights=True, sigma=1.5,
    use_sample_covariance=False, data_range=1` on clipped predictions; `cwvae2021` the same function
    with `data_range=2` and its other defaults.

    Args:
      truth: Floats in [0, 1], array or tensor [N, T, H, W, C], H and W at least the window's size.
      prediction: Floats of the same shape.
      protocol: A name in `PROTOCOLS`.

    Returns:
      Similarity in [-1, 1], 1 for identical frames, float32 [N, T]: the mean over the windows
      inside the frame and over the channels.

    Raises:
      ValueError: As for `psnr`, or the frames are smaller than the window.
      KeyError: The protocol is unknown.

    Source: Wang, Bovik, Sheikh, Simoncelli, Image Quality Assessment: From Error Visibility to
      Structural Similarity, 2004, equation 13.
    """
    options = PROTOCOLS[protocol]
    truth, prediction = _videos(truth, prediction)
    _, _, height, width, channels = truth.shape
    window = 11 if options.gaussian else 7
    if min(height, width) < window:
        raise ValueError(
            f"SSIM needs frames of at least {window}x{window} pixels, got {height}x{width}."
        )
    c1, c2 = np.float32(np.square([0.01, 0.03]) * options.value_range**2)
    sample = np.float32(window**2 / (window**2 - 1) if options.sample else 1)
    values = np.empty(truth.shape[0] * truth.shape[1])
    arguments = (channels, options.clip, options.gaussian, c1, c2, sample)
    _over_frames(loops.similarities, truth, prediction, arguments, values)
    return values.reshape(truth.shape[:2]).astype(np.float32)


def checked(truth: ArrayLike, prediction: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Returns two videos as float32 arrays; raises ValueError as `psnr` does."""
    truth, prediction = _videos(truth, prediction)
    _refuse_flaws(truth, prediction)
    return truth, prediction


@functools.cache
def _threads():
    return concurrent.futures.ThreadPoolExecutor(os.cpu_count(), "frames")


def _over_frames(loop, truth, prediction, arguments, values):
    """Runs a loop over frames on all cores; raises ValueError if it finds flawed pixels."""
    num_videos, num_frames, height, width, channels = truth.shape
    shape = (num_videos * num_frames, height, width * channels)
    x, y = truth.reshape(shape), prediction.reshape(shape)
    flaw = np.empty(len(x), np.float32)

    def run(start):
        part = slice(start, start + _CHUNK)
        loop(x[part], y[part], *arguments, values[part], flaw[part])

    list(_threads().map(run, range(0, len(x), _CHUNK)))
    if flaw.any():  # NaN counts, too.
        _refuse_flaws(truth, prediction)
    if not np.isfinite(values).all():
        largest = np.abs(prediction).max()
        raise ValueError(f"prediction is too large to measure: up to {largest:g}.")


def floats(truth, prediction, within: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns both as float32 arrays; raises ValueError for different shapes or other types."""
    truth, prediction = np.asarray(truth), np.asarray(prediction)
    if truth.shape != prediction.shape:
        raise ValueError(
            f"truth and prediction differ in shape: {truth.shape} and {prediction.shape}."
        )
    for name, frames in (("truth", truth), ("prediction", prediction)):
        if frames.dtype.kind in "biu":  # not `!= "f"`: bfloat16 arrays have kind "V"
            raise ValueError(f"{name} must be floats in {within}, got {frames.dtype}.")
    return np.ascontiguousarray(truth, np.float32), np.ascontiguousarray(prediction, np.float32)


def _videos(truth, prediction):
    truth, prediction = floats(truth, prediction, "[0, 1]")
    if truth.ndim != 5:
        raise ValueError(f"expected videos [N, T, H, W, C], got shape {truth.shape}.")
    return truth, prediction


def _refuse_flaws(truth, prediction):
    """Raises ValueError if pixels are not finite or the truth leaves [0, 1]."""
    for name, video in (("truth", truth), ("prediction", prediction)):
        bad = ~np.isfinite(video).all(axis=(2, 3, 4))
        if bad.any():
            n, t = np.argwhere(bad)[0]
            raise ValueError(f"{name} holds a NaN or an infinity, first at [n, t] = [{n}, {t}].")
    if ((truth < 0) | (truth > 1)).any():
        lowest, highest = str(truth.min()), str(truth.max())  # All digits: 1.000001 is not 1.
        raise ValueError(
            f"truth must lie in [0, 1], got [{lowest}, {highest}]. Clip rounding errors with"
            " np.clip(truth, 0, 1); divide values up to 255 by 255."
        )
