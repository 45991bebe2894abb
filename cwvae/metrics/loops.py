"""The loops over pixels behind PSNR and SSIM, compiled by Numba.

Here a frame [H, W, C] is a row-major array [H, W * C]: a step to the right is a step of C. The pass
that reads the pixels also checks them, and sets the frame's `flaw` to nonzero if one is invalid.
The caller then looks for the reason.

F: frames, H, W: height and width, C: channels, R = W * C.
"""

import numba
import numpy as np

# Allows reordered sums, for vector instructions, but keeps NaN exact: `flaw` needs it.
_compiled = numba.njit(
    fastmath={"reassoc", "contract", "arcp", "nsz"}, error_model="numpy", nogil=True, cache=True
)

# The Gaussian window: 11 weights, symmetric about the sixth, which is the last in _HALF.
SIGMA = 1.5
_HALF = np.exp(-0.5 * np.square(np.arange(-5, 1) / SIGMA))
_HALF = tuple((_HALF / (2 * _HALF[:5].sum() + _HALF[5])).astype(np.float32))


@_compiled
def squared_errors(truth, prediction, channels, clip, out, flaw):
    """Writes the mean squared error of every frame and channel.

    Args:
      truth: float32 [F, H, R].
      prediction: float32 [F, H, R].
      channels: C.
      clip: Whether to clip the prediction to [0, 1].
      out: float64 [F, C].
      flaw: float32 [F], nonzero or NaN for frames with a pixel that is not finite, or a true
        pixel outside [0, 1].
    """
    frames, height, width = truth.shape
    columns = np.empty(width, np.float32)
    for f in range(frames):
        columns[:] = 0
        bad = np.float32(0)
        for i in range(height):
            x, y = truth[f, i], prediction[f, i]
            for j in range(width):
                bad += _flaw(x[j], y[j])
                error = x[j] - (_clipped(y[j]) if clip else y[j])
                columns[j] += error * error
        out[f] = 0
        for j in range(width):
            out[f, j % channels] += columns[j]
        out[f] /= height * width // channels
        flaw[f] = bad


@_compiled
def similarities(truth, prediction, channels, clip, gaussian, c1, c2, sample, out, flaw):
    """Writes the SSIM of every frame to `out`, float64 [F]; arguments as in `squared_errors`.

    It is the mean over the windows inside the frame, Gaussian of 11x11 pixels or uniform of 7x7,
    and over the channels. The constants c1 and c2 and the factor `sample` of variances and
    covariance, n / (n - 1) for a sample or 1, are float32.
    """
    frames, height, width = truth.shape
    window = 11 if gaussian else 7
    rows, inner = height - window + 1, width - (window - 1) * channels
    moments = np.empty((4, height * width), np.float32)
    bands = np.empty(rows * width, np.float32)
    # Rows of `width`; their last windows wrap around into the next row and are ignored.
    means = np.empty((4, (rows - 1) * width + inner), np.float32)
    for f in range(frames):
        x, y = truth[f].ravel(), prediction[f].ravel()
        bad = middle_x = middle_y = np.float32(0)
        for j in range(x.size):
            bad += _flaw(x[j], y[j])
            middle_x += x[j]
            middle_y += _clipped(y[j]) if clip else y[j]
        # Variances are differences of squares. Centering on the frame's mean keeps these small
        # enough for float32.
        middle_x /= np.float32(x.size)
        middle_y /= np.float32(x.size)
        for j in range(x.size):
            a, b = x[j] - middle_x, (_clipped(y[j]) if clip else y[j]) - middle_y
            moments[0, j] = a
            moments[1, j] = b
            moments[2, j] = a * a + b * b
            moments[3, j] = a * b
        for q in range(4):
            if gaussian:
                _gaussian(moments[q], width, bands)
                _gaussian(bands, channels, means[q])
            else:
                _uniform(moments[q], width, bands)
                _uniform(bands, channels, means[q])
        total = 0.0
        for i in range(rows):
            x, y, squares, product = means[:, i * width : i * width + inner]
            row = np.float32(0)
            for j in range(inner):
                covariance = sample * (product[j] - x[j] * y[j])
                variances = sample * (squares[j] - x[j] * x[j] - y[j] * y[j])
                a, b = x[j] + middle_x, y[j] + middle_y
                above = (a * b + a * b + c1) * (covariance + covariance + c2)
                row += above / ((a * a + b * b + c1) * (variances + c2))
            total += row
        out[f] = total / (rows * inner)
        flaw[f] = bad


@_compiled
def _flaw(truth, prediction):
    """Returns 0 for two valid pixels, nonzero or NaN otherwise."""
    outside = np.float32(truth < 0) + np.float32(truth > 1)
    return outside + truth * np.float32(0) + prediction * np.float32(0)


@_compiled
def _clipped(value):
    return min(max(value, np.float32(0)), np.float32(1))


@_compiled
def _gaussian(values, step, out):
    """Writes weighted sums of 11 values `step` apart, starting at each position of `out`."""
    w0, w1, w2, w3, w4, w5 = _HALF
    a1, a2, a3, a4 = values[step:], values[2 * step :], values[3 * step :], values[4 * step :]
    a5, a6, a7 = values[5 * step :], values[6 * step :], values[7 * step :]
    a8, a9, a10 = values[8 * step :], values[9 * step :], values[10 * step :]
    for j in range(out.size):
        sides = w0 * (values[j] + a10[j]) + w1 * (a1[j] + a9[j]) + w2 * (a2[j] + a8[j])
        out[j] = sides + w3 * (a3[j] + a7[j]) + w4 * (a4[j] + a6[j]) + w5 * a5[j]


@_compiled
def _uniform(values, step, out):
    """Writes means of 7 values `step` apart, starting at each position of `out`."""
    a1, a2, a3 = values[step:], values[2 * step :], values[3 * step :]
    a4, a5, a6 = values[4 * step :], values[5 * step :], values[6 * step :]
    for j in range(out.size):
        total = (values[j] + a1[j]) + (a2[j] + a3[j]) + (a4[j] + a5[j]) + a6[j]
        out[j] = total * np.float32(1 / 7)
