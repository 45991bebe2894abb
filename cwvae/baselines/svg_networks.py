"""The networks of SVG (Denton & Fergus 2018): convolutional encoder and decoder, LSTMs.

Encoder and decoder are those of the released code, "dcgan" or "vgg", for 64x64 frames. Frames of
32x32 use one stage less. Frames of 128x128 use one more, with 512 filters, as in the released code.

    dcgan  stages of one convolution with kernel 4 and stride 2, transposed in the decoder
    vgg    stages of 2, 2, 3, 3, 3 convolutions with kernel 3; in the encoder a 2x2 max-pooling
           follows, in the decoder a 2x2 nearest-neighbor upsampling precedes them

A stage of the decoder reads [x, skip]: x from the previous stage, the skip from the encoder. Its
first layer has one kernel for x and one for the skip, so that all frames that read the same skip
share one convolution of it. With `precision="mixed_bfloat16"` the convolutions compute in bfloat16
on float32 weights. Features and frames are float32. For `statistics` see `normalization`.

Symbols: T frames, B batch, S frames with skips, N = T B maps, g features, H size of the LSTMs.
Sequences are time-major.
"""

import functools
from collections.abc import Callable, Sequence

import keras
import tensorflow as tf

from cwvae.baselines.normalization import BatchNorm
from cwvae.baselines.recurrent import LSTM, Linear, as_rows
from cwvae.compiled import custom_gradient
from cwvae.frame_sizes import halvings

# By stage, starting at the frames.
_FILTERS = (64, 128, 256, 512, 512)
_VGG_DEPTHS = (2, 2, 3, 3, 3)
_SLOPE = 0.2
# Standard deviation of initial kernels, and of batch normalization's initial scales around 1.
_STDDEV = 0.02


def _kernel_initializer() -> keras.initializers.Initializer:
    return keras.initializers.RandomNormal(0.0, _STDDEV)


# Linear maps on [N, H, W, I]. Kernels are [h, w, I, O], for transposed convolutions [h, w, O, I].


_convolve = functools.partial(tf.nn.conv2d, strides=1, padding="SAME")  # [N, H, W, O]
_halve = functools.partial(tf.nn.conv2d, strides=2, padding="SAME")  # [N, H/2, W/2, O]


def _double(x: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    """Returns the transposed convolution with stride 2, [N, 2 H, 2 W, O]."""
    _, height, width, _ = x.shape
    shape = (x.shape[0], 2 * height, 2 * width, kernel.shape[2])
    return tf.nn.conv2d_transpose(x, kernel, shape, 2, "SAME")


def _upsample_convolve(x: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    """Returns the convolution of x after 2x2 nearest-neighbor upsampling, [N, 2 H, 2 W, O].

    Upsampling is a transposed convolution with ones. Both together are one transposed convolution
    with a kernel of 4x4, which takes less than half the arithmetic.
    """
    reversed_taps = tf.transpose(tf.reverse(kernel, [0, 1]), (0, 1, 3, 2))
    shifted = [
        tf.pad(reversed_taps, [[i, 1 - i], [j, 1 - j], [0, 0], [0, 0]])
        for i in (0, 1)
        for j in (0, 1)
    ]
    return _double(x, tf.add_n(shifted))


def _to_point(x: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    """Returns the convolution with a kernel as large as the map, [N, 1, 1, O]."""
    rows = tf.reshape(x, (x.shape[0], 1, 1, -1))
    return as_rows(rows, tf.reshape(kernel, (-1, kernel.shape[-1])))


def _from_point(x: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    """Returns the transposed convolution of maps [N, 1, 1, I], [N, h, w, O]."""
    *shape, inputs = kernel.shape
    rows = tf.reshape(x, (-1, inputs))
    rows = tf.linalg.matmul(rows, tf.reshape(kernel, (-1, inputs)), transpose_b=True)
    return tf.reshape(rows, (-1, *shape))


def _kernel_shape(linear: Callable, inputs: int, outputs: int) -> tuple[int, ...]:
    size = 3 if linear in (_convolve, _upsample_convolve) else 4
    transposed = linear in (_double, _from_point)
    return (size, size, *((outputs, inputs) if transposed else (inputs, outputs)))


@custom_gradient
def _leaky_relu(x: tf.Tensor) -> tf.Tensor:
    """Leaky ReLU with a gradient that reads the output, which has x's signs, and not x.

    This saves the memory of x.
    """
    y = tf.nn.leaky_relu(x, _SLOPE)

    def gradient(upstream):
        return tf.raw_ops.LeakyReluGrad(gradients=upstream, features=y, alpha=_SLOPE)

    return y, gradient


def _to_pixels(x: tf.Tensor) -> tf.Tensor:
    return tf.sigmoid(tf.cast(x, tf.float32))


class _Layer(keras.layers.Layer):
    """A linear map with bias, batch normalization and an activation.

    A layer that reads [x, skip] has a second kernel. Its share of the linear map is computed
    separately (`share`).
    """

    def __init__(
        self,
        linear: Callable[[tf.Tensor, tf.Tensor], tf.Tensor],
        inputs: int,
        outputs: int,
        *,
        skip_linear: Callable[[tf.Tensor, tf.Tensor], tf.Tensor] | None = None,
        normalized: bool = True,
        activation: Callable[[tf.Tensor], tf.Tensor] = _leaky_relu,
        precision: str,
        name: str,
    ):
        super().__init__(name=name, dtype=precision, autocast=False)
        self._linear, self._skip_linear, self._activation = linear, skip_linear, activation
        shape = _kernel_shape(linear, inputs, outputs)
        self.kernel = self.add_weight(shape, _kernel_initializer(), name="kernel")
        self.bias = self.add_weight((outputs,), "zeros", name="bias")
        if skip_linear is not None:
            shape = _kernel_shape(skip_linear, inputs, outputs)
            self.skip_kernel = self.add_weight(shape, _kernel_initializer(), name="skip_kernel")
        with keras.name_scope(name):
            norm = BatchNorm(outputs, gamma_stddev=_STDDEV, name="norm") if normalized else None
        self.norm = norm
        self.built = True

    def share(self, skip: tf.Tensor) -> tf.Tensor:
        """Returns the skip's share of the linear map of [x, skip]."""
        return self._skip_linear(skip, tf.cast(self.skip_kernel, self.compute_dtype))

    def run(self, x: tf.Tensor, statistics: dict | None, share=None) -> tf.Tensor:
        """Returns the output for x, both [N, h, w, channels], in the compute dtype."""
        x = self._linear(x, tf.cast(self.kernel, self.compute_dtype))
        x = tf.nn.bias_add(x, tf.cast(self.bias, self.compute_dtype))
        if share is not None:
            x += share
        if self.norm is not None:
            x = self.norm.normalize(x, statistics)
        return self._activation(x)


class _Convolutional(keras.layers.Layer):
    """The arguments that encoder and decoder share."""

    def __init__(
        self,
        *,
        network: str,
        frame_size: int,
        channels: int,
        feature_size: int,
        channel_multiplier: float = 1.0,
        precision: str = "float32",
    ):
        """Builds all weights. The arguments are those of `cwvae.baselines.svg.SVG`."""
        name = type(self).__name__.lower()
        super().__init__(name=name, dtype=precision, autocast=False)
        if network not in ("dcgan", "vgg"):
            raise ValueError(f"network = {network}: unknown. Choose dcgan or vgg.")
        self.frame_shape, self.feature_size = (frame_size, frame_size, channels), feature_size
        self._vgg = network == "vgg"
        filters = [int(channel_multiplier * f) for f in _FILTERS[: halvings(frame_size)]]
        self._layer = functools.partial(_Layer, precision=precision)
        with keras.name_scope(name):
            self._build(filters, _VGG_DEPTHS if self._vgg else (1,) * len(_FILTERS))
        self.built = True


class Encoder(_Convolutional):
    """Encodes frames as features and as the maps that the decoder reads as skips."""

    def _build(self, filters: Sequence[int], depths: Sequence[int]) -> None:
        self._stages, inputs = [], self.frame_shape[-1]
        for stage, outputs in enumerate(filters):
            layers = []
            for i in range(depths[stage]):
                linear, name = _convolve if self._vgg else _halve, f"stage{stage}_conv{i}"
                layers.append(self._layer(linear, inputs, outputs, name=name))
                inputs = outputs
            self._stages.append(layers)
        self._head = self._layer(
            _to_point, inputs, self.feature_size, activation=tf.tanh, name="head"
        )

    def encode(
        self, video: tf.Tensor, statistics: dict | None = None
    ) -> tuple[tf.Tensor, list[tf.Tensor]]:
        """Encodes frames.

        Args:
          video: Frames in [0, 1], [T, B, H, W, C].
          statistics: See `normalization`.

        Returns:
          Features, float32 [T, B, g], and the skips, each [T, B, h, w, filters], starting with the
          largest maps.
        """
        length, batch = video.shape[:2]
        x = tf.cast(tf.reshape(video, (length * batch, *self.frame_shape)), self.compute_dtype)
        skips = []
        for layers in self._stages:
            for layer in layers:
                x = layer.run(x, statistics)
            skips.append(tf.reshape(x, (length, batch, *x.shape[1:])))
            if self._vgg:
                x = tf.nn.max_pool2d(x, 2, 2, "VALID")
        features = tf.cast(self._head.run(x, statistics), tf.float32)
        return tf.reshape(features, (length, batch, -1)), skips


class Decoder(_Convolutional):
    """Decodes features and skips to frames."""

    def _build(self, filters: Sequence[int], depths: Sequence[int]) -> None:
        first, skip = (_upsample_convolve, _convolve) if self._vgg else (_double, _double)
        self._stages, inputs = [], filters[-1]
        self._head = self._layer(_from_point, self.feature_size, inputs, name="head")
        for stage in reversed(range(len(filters))):
            after = filters[stage - 1] if stage else self.frame_shape[-1]
            widths, layers = [filters[stage]] * (depths[stage] - 1) + [after], []
            for i, outputs in enumerate(widths):
                last = stage == 0 and i == len(widths) - 1
                layer = self._layer(
                    _convolve if i else first,
                    inputs,
                    outputs,
                    skip_linear=None if i else skip,
                    normalized=not last,
                    activation=_to_pixels if last else _leaky_relu,
                    name=f"stage{stage}_conv{i}",
                )
                layers.append(layer)
                inputs = outputs
            self._stages.append(layers)

    def shares(self, skips: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        """Returns the skips' shares of the decoder's maps, for `decode`.

        Args:
          skips: Skips from `Encoder.encode`, each [S, B, h, w, filters].

        Returns:
          Each [S, B, h', w', filters'], in the order of the decoder's stages.
        """
        shares = []
        for (first, *_), skip in zip(self._stages, reversed(skips), strict=True):
            share = first.share(tf.reshape(skip, (-1, *skip.shape[2:])))
            shares.append(tf.reshape(share, (*skip.shape[:2], *share.shape[1:])))
        return shares

    def decode(
        self, features: tf.Tensor, shares: Sequence[tf.Tensor], statistics: dict | None = None
    ) -> tf.Tensor:
        """Decodes features.

        Args:
          features: [T, B, g].
          shares: Result of `shares` for S of the T frames. Later frames read the last one's skips.
          statistics: See `normalization`.

        Returns:
          The means of the frames, float32 [T, B, H, W, C], in (0, 1).
        """
        length, batch = features.shape[:2]
        x = tf.cast(tf.reshape(features, (-1, 1, 1, self.feature_size)), self.compute_dtype)
        x = self._head.run(x, statistics)
        for (first, *others), share in zip(self._stages, shares, strict=True):
            x = first.run(x, statistics, _extended(share, length))
            for layer in others:
                x = layer.run(x, statistics)
        return tf.reshape(x, (length, batch, *x.shape[1:]))


def _extended(share: tf.Tensor, length: int) -> tf.Tensor:
    """Returns [T B, ...] for [S, B, ...]. Frames from S on repeat the last one's share."""
    seen, _, *shape = share.shape
    if seen < length:
        last = stretch(share, seen - 1, 1)
        later = tf.broadcast_to(last, (length - seen, *last.shape[1:]))
        share = tf.concat([share, later], 0)
    return tf.reshape(share, (-1, *shape))


def stretch(x: tf.Tensor, start: int, count: int) -> tf.Tensor:
    """Returns x[start : start + count] with a much faster gradient than indexing has."""
    return tf.slice(x, [start] + [0] * (x.shape.rank - 1), [count, *x.shape[1:]])


class RecurrentNet(keras.layers.Layer):
    """A linear layer, LSTMs and a linear layer in float32: predictor, posterior or prior."""

    def __init__(self, inputs: int, size: int, outputs: int, *, layers: int, name: str):
        """Builds all weights.

        Args:
          inputs: Length of the inputs.
          size: H.
          outputs: Length of the outputs.
          layers: Number of LSTMs.
          name: Keras name.
        """
        super().__init__(name=name, dtype="float32")
        with keras.name_scope(name):
            self.enter = Linear(inputs, size, _kernel_initializer(), name="enter")
            self.lstms = [LSTM(size, size, name=f"lstm{i}") for i in range(layers)]
            self.leave = Linear(size, outputs, _kernel_initializer(), name="leave")
        self.built = True

    def zero_state(self, batch: int) -> tuple[tuple, ...]:
        """Returns the initial states of the LSTMs."""
        return tuple(tuple(lstm.get_initial_state(batch)) for lstm in self.lstms)

    def step(self, x: tf.Tensor, states: Sequence[tuple]) -> tuple[tf.Tensor, tuple]:
        """Returns the outputs [B, O] for inputs [B, I], and the next states."""
        return self._apply(LSTM.__call__, x, states)

    def run(self, x: tf.Tensor, states: Sequence[tuple]) -> tuple[tf.Tensor, tuple]:
        """Returns the outputs [T, B, O] for inputs [T, B, I], T >= 1, and the last states."""
        return self._apply(LSTM.run, x, states)

    def _apply(self, method: Callable, x: tf.Tensor, states: Sequence[tuple]) -> tuple:
        x, after = self.enter.of(x), []
        for lstm, state in zip(self.lstms, states, strict=True):
            x, last = method(lstm, x, state)
            after.append(tuple(last))
        return self.leave.of(x), tuple(after)
