"""PSNR and SSIM per frame, protocol `standard`.

Predictions are clipped to [0, 1], the value range is 1, PSNR pools the channels, and SSIM has the
11x11 Gaussian window of Wang et al. 2004: what `tf.image.psnr` and `tf.image.ssim` define.

The SSIM here is NumPy in float64. The variance under a window is E[x^2] - E[x]^2; in float32 that
cancellation costs `tf.image.ssim` 1e-3 on flat bright frames, in float64 it costs nothing.

N: videos, T: frames, H, W: height and width, C: channels.
"""

import numpy as np
from numpy.typing import ArrayLike

# Below this mean squared error PSNR no longer grows: identical frames give 100 dB, not infinity,
# so that averages stay finite and the result can be written as JSON.
MSE_FLOOR = 1e-10

WINDOW = 11
SIGMA = 1.5
C1 = 0.01**2  # (K1 * range)^2
C2 = 0.03**2  # (K2 * range)^2

# So few frames at a time stay in the processor's cache: 100 at a time take twice as long.
CHUNK = 16


def psnr(truth: ArrayLike, prediction: ArrayLike) -> np.ndarray:
    """Returns the peak signal-to-noise ratio of every frame.

    Args:
      truth: Floats in [0, 1], array or tensor [N, T, H, W, C].
      prediction: Floats of the same shape, clipped to [0, 1] here.

    Returns:
      Decibels, float32 [N, T]: 10 log10(1 / MSE), where the mean squared error is over H, W, C
      and at least `MSE_FLOOR`. So at most 100 dB.

    Raises:
      ValueError: The shapes differ or are not [N, T, H, W, C], the arguments are not floats,
        either holds a NaN or an infinity, or truth leaves [0, 1].
    """
    truth, prediction = _checked(truth, prediction)
    mse = np.mean(np.square(truth - prediction), axis=(2, 3, 4), dtype=np.float64)
    return (10 * np.log10(1 / np.maximum(mse, MSE_FLOOR))).astype(np.float32)


def ssim(truth: ArrayLike, prediction: ArrayLike) -> np.ndarray:
    """Returns the structural similarity of every frame.

    Equals `tf.image.ssim`, and scikit-image's `structural_similarity` with `gaussian_weights=True,
    sigma=1.5, use_sample_covariance=False, data_range=1`.

    Args:
      truth: Floats in [0, 1], array or tensor [N, T, H, W, C], H and W at least 11.
      prediction: Floats of the same shape, clipped to [0, 1] here.

    Returns:
      Similarity in [-1, 1], 1 for identical frames, float32 [N, T]: the mean over the windows that
      lie inside the frame and over the channels.

    Raises:
      ValueError: As for `psnr`, or the frames are smaller than the window.

    Source: Wang, Bovik, Sheikh, Simoncelli, Image Quality Assessment: From Error Visibility to
      Structural Similarity, 2004, equation 13.
    """
    truth, prediction = _checked(truth, prediction)
    num_videos, num_frames, height, width, channels = truth.shape
    if min(height, width) < WINDOW:
        raise ValueError(
            f"SSIM needs frames of at least {WINDOW}x{WINDOW} pixels, got {height}x{width}."
        )
    frames = (num_videos * num_frames, height, width, channels)
    truth, prediction = truth.reshape(frames), prediction.reshape(frames)
    vertical, horizontal = _window_matrix(height), _window_matrix(width).T
    values = np.empty(len(truth), np.float32)
    for start in range(0, len(values), CHUNK):
        chunk = slice(start, start + CHUNK)
        values[chunk] = _ssim_of_frames(truth[chunk], prediction[chunk], vertical, horizontal)
    return values.reshape(num_videos, num_frames)


def _ssim_of_frames(x, y, vertical, horizontal):
    """SSIM of a few frames. x, y: [F, H, W, C]; vertical: [H-10, H]; horizontal: [W, W-10]."""
    x = np.moveaxis(x, -1, 1).astype(np.float64)  # [F, C, H, W]
    y = np.moveaxis(y, -1, 1).astype(np.float64)
    moments = np.stack([x, y, x * x + y * y, x * y])  # [4, F, C, H, W]
    mean_x, mean_y, mean_squares, mean_product = vertical @ (moments @ horizontal)
    product_of_means = mean_x * mean_y
    squares_of_means = mean_x * mean_x + mean_y * mean_y
    luminance = (2 * product_of_means + C1) / (squares_of_means + C1)
    covariance = mean_product - product_of_means
    variances = mean_squares - squares_of_means
    structure = (2 * covariance + C2) / (variances + C2)
    return np.mean(luminance * structure, axis=(1, 2, 3))


def _window_matrix(size):
    """The Gaussian filter along one axis, valid positions only, as a matrix [size - 10, size].

    The window is separable: two products with such a matrix do what an 11x11 convolution does.
    """
    offsets = np.arange(WINDOW) - WINDOW // 2
    weights = np.exp(-0.5 * np.square(offsets / SIGMA))
    weights /= weights.sum()
    matrix = np.zeros((size - WINDOW + 1, size))
    for row in range(len(matrix)):
        matrix[row, row : row + WINDOW] = weights
    return matrix


def _checked(truth, prediction):
    """Returns both as float32 arrays, the prediction clipped to [0, 1], or raises ValueError."""
    truth, prediction = np.asarray(truth), np.asarray(prediction)
    if truth.shape != prediction.shape:
        raise ValueError(
            f"truth and prediction differ in shape: {truth.shape} and {prediction.shape}."
        )
    if truth.ndim != 5:
        raise ValueError(f"expected videos [N, T, H, W, C], got shape {truth.shape}.")
    for name, video in (("truth", truth), ("prediction", prediction)):
        if video.dtype.kind in "biu":  # not `!= "f"`: bfloat16 arrays have kind "V"
            raise ValueError(f"{name} must be floats in [0, 1], got {video.dtype}.")
        bad = ~np.isfinite(video).all(axis=(2, 3, 4))
        if bad.any():
            n, t = np.argwhere(bad)[0]
            raise ValueError(f"{name} holds a NaN or an infinity, first at [n, t] = [{n}, {t}].")
    if ((truth < 0) | (truth > 1)).any():
        raise ValueError(f"truth must lie in [0, 1], got [{truth.min():g}, {truth.max():g}].")
    return truth.astype(np.float32, copy=False), np.clip(prediction.astype(np.float32), 0, 1)
