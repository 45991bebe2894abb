"""The networks of SVG (Denton & Fergus 2018): frames to features and skips, and back; LSTMs.

Encoder and decoder are those of the released code, "dcgan" or "vgg", for 64x64 frames. Frames of
32x32 take one stage less; frames of 128x128 take one more of 512 filters, as in the released code.

    dcgan  stages of one convolution, kernel 4 and stride 2; the decoder's are transposed
    vgg    stages of 2, 2, 3, 3, 3 convolutions, kernel 3, then a pooling of 2x2; the decoder's
           begin with a repetition of every pixel as 2x2

A stage of the decoder reads [x, skip]: x from the stage before it, the skip from the encoder. Its
first layer has one kernel for x and one for the skip, so that a skip's share is computed once for
all frames that read it. With `precision="mixed_bfloat16"` the convolutions compute in bfloat16 on
float32 weights; features and frames are float32.

Symbols: T frames, B batch, S frames whose skips are read, N = T B maps, g features, H recurrent
size. What runs over time is time-major.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import keras
import tensorflow as tf

from cwvae.baselines.normalization import BatchNorm
from cwvae.baselines.recurrent import LSTM, LSTMState

_FILTERS = {32: (64, 128, 256), 64: (64, 128, 256, 512), 128: (64, 128, 256, 512, 512)}
_SLOPE = 0.2
# Standard deviation of initial kernels, and of batch norms' initial scales about 1.
_STDDEV = 0.02


def _kernel_initializer() -> keras.initializers.Initializer:
    return keras.initializers.RandomNormal(0.0, _STDDEV)


# Linear maps of maps [N, H, W, I]. Kernels are [h, w, I, O], those of transposed ones [h, w, O, I].


def _convolve(x: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    """Returns [N, H, W, O]."""
    return tf.nn.conv2d(x, kernel, 1, "SAME")


def _halve(x: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    """Returns [N, H/2, W/2, O]."""
    return tf.nn.conv2d(x, kernel, 2, "SAME")


def _double(x: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    """Returns the transposed convolution of stride 2, [N, 2 H, 2 W, O]."""
    _, height, width, _ = x.shape
    shape = (x.shape[0], 2 * height, 2 * width, kernel.shape[2])
    return tf.nn.conv2d_transpose(x, kernel, shape, 2, "SAME")


def _convolve_repeated(x: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    """Returns the convolution of x with every pixel repeated as 2x2, [N, 2 H, 2 W, O].

    Repetition is a transposed convolution with ones, so the two are one with a kernel of 4x4: less
    than half the arithmetic.
    """
    reversed_taps = tf.transpose(tf.reverse(kernel, [0, 1]), (0, 1, 3, 2))
    shifted = [
        tf.pad(reversed_taps, [[i, 1 - i], [j, 1 - j], [0, 0], [0, 0]])
        for i in (0, 1)
        for j in (0, 1)
    ]
    return _double(x, tf.add_n(shifted))


def _to_point(x: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    """Returns the convolution with a kernel of x's height and width, [N, 1, 1, O]."""
    outputs = kernel.shape[-1]
    rows = tf.reshape(x, (x.shape[0], -1))
    rows = tf.linalg.matmul(rows, tf.reshape(kernel, (-1, outputs)))
    return tf.reshape(rows, (-1, 1, 1, outputs))


def _from_point(x: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    """Returns the transposed convolution of [N, 1, 1, I]: of the kernel's height and width."""
    *shape, inputs = kernel.shape
    rows = tf.reshape(x, (-1, inputs))
    rows = tf.linalg.matmul(rows, tf.reshape(kernel, (-1, inputs)), transpose_b=True)
    return tf.reshape(rows, (-1, *shape))


class _Map(NamedTuple):
    """A linear map.

    Attributes:
      apply: Maps (x, kernel) to the output.
      size: Height and width of its kernel.
      transposed: Whether it is a transposed convolution.
    """

    apply: Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
    size: int
    transposed: bool = False

    def kernel_shape(self, inputs: int, outputs: int) -> tuple[int, ...]:
        channels = (outputs, inputs) if self.transposed else (inputs, outputs)
        return (self.size, self.size, *channels)


class _Network(NamedTuple):
    """What distinguishes the networks.

    Attributes:
      depths: Convolutions of each stage, the one next to the frames first.
      convolve: Of the encoder.
      pooled: Whether the encoder's stages end in a pooling.
      join: Of x, in the first layer of a decoder's stage.
      join_skip: Of the skip, in the same layer.
      follow: Of the layers after it.
    """

    depths: tuple[int, ...]
    convolve: _Map
    pooled: bool
    join: _Map
    join_skip: _Map
    follow: _Map


_CONVOLVE = _Map(_convolve, 3)
_DOUBLE = _Map(_double, 4, transposed=True)
_NETWORKS = {
    "dcgan": _Network(
        (1, 1, 1, 1, 1),
        _Map(_halve, 4),
        pooled=False,
        join=_DOUBLE,
        join_skip=_DOUBLE,
        follow=_DOUBLE,
    ),
    "vgg": _Network(
        (2, 2, 3, 3, 3),
        _CONVOLVE,
        pooled=True,
        join=_Map(_convolve_repeated, 3),
        join_skip=_CONVOLVE,
        follow=_CONVOLVE,
    ),
}


def _network(name: str) -> _Network:
    if name not in _NETWORKS:
        raise ValueError(f"network = {name}: there are {', '.join(_NETWORKS)}.")
    return _NETWORKS[name]


def _filters(frame_size: int, channel_multiplier: float) -> list[int]:
    """Filters of the encoder's stages, the one next to the frames first."""
    if frame_size not in _FILTERS:
        raise ValueError(f"frame_size = {frame_size}: the networks fit {list(_FILTERS)}.")
    return [int(filters * channel_multiplier) for filters in _FILTERS[frame_size]]


@tf.custom_gradient
def _leaky_relu(x: tf.Tensor) -> tf.Tensor:
    """Leaky ReLU whose gradient reads its output, which has x's signs: x need not be kept."""
    y = tf.nn.leaky_relu(x, _SLOPE)

    def gradient(upstream):
        return tf.raw_ops.LeakyReluGrad(gradients=upstream, features=y, alpha=_SLOPE)

    return y, gradient


class _Layer(keras.layers.Layer):
    """A linear map, its bias, batch normalization, an activation.

    One that joins x and a skip has a second kernel, and takes the skip's share from outside.
    """

    def __init__(
        self,
        linear: _Map,
        inputs: int,
        outputs: int,
        *,
        join_skip: _Map | None = None,
        normalized: bool = True,
        activation: Callable[[tf.Tensor], tf.Tensor] = _leaky_relu,
        precision: str,
        name: str,
    ):
        super().__init__(name=name, dtype=precision, autocast=False)
        self._linear, self._join_skip, self._activation = linear, join_skip, activation
        shape = linear.kernel_shape(inputs, outputs)
        self.kernel = self.add_weight(shape, _kernel_initializer(), name="kernel")
        self.bias = self.add_weight((outputs,), "zeros", name="bias")
        if join_skip is not None:
            shape = join_skip.kernel_shape(inputs, outputs)
            self.skip_kernel = self.add_weight(shape, _kernel_initializer(), name="skip_kernel")
        with keras.name_scope(name):
            norm = BatchNorm(outputs, gamma_stddev=_STDDEV, name="norm") if normalized else None
        self.norm = norm
        self.built = True

    def share(self, skip: tf.Tensor) -> tf.Tensor:
        """Returns the skip's share of the linear map of [x, skip]."""
        return self._join_skip.apply(skip, tf.cast(self.skip_kernel, self.compute_dtype))

    def run(self, x: tf.Tensor, statistics: dict | None, share=0) -> tf.Tensor:
        """Returns the output for x, both [N, h, w, channels], in the dtype to compute in."""
        x = self._linear.apply(x, tf.cast(self.kernel, self.compute_dtype))
        x = tf.nn.bias_add(x, tf.cast(self.bias, self.compute_dtype))
        if self._join_skip is not None:
            x += share
        if self.norm is not None:
            x = self.norm.normalize(x, statistics)
        return self._activation(x)


class Encoder(keras.layers.Layer):
    """Frames to features, and to the maps that the decoder reads as skips."""

    def __init__(
        self,
        *,
        network: str,
        frame_size: int,
        channels: int,
        feature_size: int,
        channel_multiplier: float = 1.0,
        precision: str = "float32",
        name: str = "encoder",
    ):
        """Builds all weights.

        Args:
          network: "dcgan" or "vgg".
          frame_size: Height and width of frames: 32, 64 or 128.
          channels: Of frames.
          feature_size: g.
          channel_multiplier: Scales the filters.
          precision: "float32" or "mixed_bfloat16".
          name: The Keras name.
        """
        super().__init__(name=name, dtype=precision, autocast=False)
        self.frame_shape = (frame_size, frame_size, channels)
        kind, filters = _network(network), _filters(frame_size, channel_multiplier)
        self._pooled = kind.pooled
        self._stages, inputs = [], channels
        with keras.name_scope(name):
            for stage, outputs in enumerate(filters):
                layers = []
                for i in range(kind.depths[stage]):
                    layers.append(
                        _Layer(
                            kind.convolve,
                            inputs,
                            outputs,
                            precision=precision,
                            name=f"stage{stage}_conv{i}",
                        )
                    )
                    inputs = outputs
                self._stages.append(layers)
            self._head = _Layer(
                _Map(_to_point, 4),
                inputs,
                feature_size,
                activation=tf.tanh,
                precision=precision,
                name="head",
            )
        self.built = True

    def encode(
        self, video: tf.Tensor, statistics: dict | None = None
    ) -> tuple[tf.Tensor, list[tf.Tensor]]:
        """Encodes frames.

        Args:
          video: Frames in [0, 1], [T, B, H, W, C].
          statistics: As for `cwvae.baselines.normalization.BatchNorm`.

        Returns:
          Features, float32 [T, B, g], and the skips, each [T, B, h, w, filters], the one next to
          the frames first.
        """
        length, batch = video.shape[:2]
        x = tf.cast(tf.reshape(video, (length * batch, *self.frame_shape)), self.compute_dtype)
        skips = []
        for layers in self._stages:
            for layer in layers:
                x = layer.run(x, statistics)
            skips.append(tf.reshape(x, (length, batch, *x.shape[1:])))
            if self._pooled:
                x = tf.nn.max_pool2d(x, 2, 2, "VALID")
        features = tf.cast(self._head.run(x, statistics), tf.float32)
        return tf.reshape(features, (length, batch, -1)), skips


class Decoder(keras.layers.Layer):
    """Features and skips to frames."""

    def __init__(
        self,
        *,
        network: str,
        frame_size: int,
        channels: int,
        feature_size: int,
        channel_multiplier: float = 1.0,
        precision: str = "float32",
        name: str = "decoder",
    ):
        """Builds all weights; arguments as for `Encoder`."""
        super().__init__(name=name, dtype=precision, autocast=False)
        kind, filters = _network(network), _filters(frame_size, channel_multiplier)
        self.feature_size = feature_size
        self._stages, inputs = [], filters[-1]
        with keras.name_scope(name):
            self._head = _Layer(
                _Map(_from_point, 4, transposed=True),
                feature_size,
                inputs,
                precision=precision,
                name="head",
            )
            for stage in reversed(range(len(filters))):
                layers, after = [], filters[stage - 1] if stage else channels
                widths = [filters[stage]] * (kind.depths[stage] - 1) + [after]
                for i, outputs in enumerate(widths):
                    to_frames = stage == 0 and i == len(widths) - 1
                    layers.append(
                        _Layer(
                            kind.follow if i else kind.join,
                            inputs,
                            outputs,
                            join_skip=None if i else kind.join_skip,
                            normalized=not to_frames,
                            activation=_to_pixels if to_frames else _leaky_relu,
                            precision=precision,
                            name=f"stage{stage}_conv{i}",
                        )
                    )
                    inputs = outputs
                self._stages.append(layers)
        self.built = True

    def shares(self, skips: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        """Returns what skips add to the decoder's maps, for `decode`.

        Args:
          skips: From `Encoder.encode`, each [S, B, h, w, filters].

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
          shares: From `shares`, for S of 1 to T frames; later frames read the last one's skips.
          statistics: As for `cwvae.baselines.normalization.BatchNorm`.

        Returns:
          The means of the frames, float32 [T, B, H, W, C], in (0, 1).
        """
        length, batch = features.shape[:2]
        x = tf.cast(tf.reshape(features, (-1, 1, 1, self.feature_size)), self.compute_dtype)
        x = self._head.run(x, statistics)
        for (first, *others), share in zip(self._stages, shares, strict=True):
            x = first.run(x, statistics, _passed_on(share, length))
            for layer in others:
                x = layer.run(x, statistics)
        return tf.reshape(x, (length, batch, *x.shape[1:]))


def _to_pixels(x: tf.Tensor) -> tf.Tensor:
    return tf.sigmoid(tf.cast(x, tf.float32))


def _passed_on(share: tf.Tensor, length: int) -> tf.Tensor:
    """Returns [T B, ...] of [S, B, ...]: frames from S on have what the last one has."""
    seen, _, *shape = share.shape
    if seen < length:
        last = stretch(share, seen - 1, 1)
        later = tf.broadcast_to(last, (length - seen, *last.shape[1:]))
        share = tf.concat([share, later], 0)
    return tf.reshape(share, (-1, *shape))


def stretch(x: tf.Tensor, start: int, count: int) -> tf.Tensor:
    """Returns x[start : start + count], which has a gradient many times as slow."""
    return tf.slice(x, [start] + [0] * (x.shape.rank - 1), [count, *x.shape[1:]])


class RecurrentNet(keras.layers.Layer):
    """A linear layer, LSTMs, a linear layer, in float32: predictor, posterior or prior."""

    def __init__(self, inputs: int, size: int, outputs: int, *, layers: int, name: str):
        """Builds all weights.

        Args:
          inputs: Length of the inputs.
          size: H, of the LSTMs.
          outputs: Length of the outputs.
          layers: How many LSTMs.
          name: The Keras name.
        """
        super().__init__(name=name, dtype="float32")
        with keras.name_scope(name):
            self.enter = _linear(inputs, size, "enter")
            self.lstms = [LSTM(size, size, name=f"lstm{i}") for i in range(layers)]
            self.leave = _linear(size, outputs, "leave")
        self.built = True

    def zero_state(self, batch: int) -> tuple[LSTMState, ...]:
        """Returns the LSTMs' states before anything was seen."""
        return tuple(lstm.zero_state(batch) for lstm in self.lstms)

    def step(
        self, x: tf.Tensor, states: Sequence[LSTMState]
    ) -> tuple[tf.Tensor, tuple[LSTMState, ...]]:
        """Returns the outputs [B, O] for inputs [B, I], and the next states."""
        x, after = self.enter(x), []
        for lstm, state in zip(self.lstms, states, strict=True):
            after.append(lstm.step(x, state))
            x = after[-1].output
        return self.leave(x), tuple(after)

    def run(
        self, x: tf.Tensor, states: Sequence[LSTMState]
    ) -> tuple[tf.Tensor, tuple[LSTMState, ...]]:
        """Returns the outputs [T, B, O] for inputs [T, B, I], T from 1, and the last states."""
        x, after = _over_time(self.enter, x), []
        for lstm, state in zip(self.lstms, states, strict=True):
            x, last = lstm.run(x, state)
            after.append(last)
        return _over_time(self.leave, x), tuple(after)


def _linear(inputs: int, outputs: int, name: str) -> keras.layers.Dense:
    layer = keras.layers.Dense(
        outputs, kernel_initializer=_kernel_initializer(), dtype="float32", name=name
    )
    layer.build((None, inputs))
    return layer


def _over_time(layer: keras.layers.Dense, x: tf.Tensor) -> tf.Tensor:
    """Returns layer(x), [T, B, O], as one product: the gradient of one with more axes is many."""
    y = layer(tf.reshape(x, (-1, x.shape[-1])))
    return tf.reshape(y, (*x.shape[:2], y.shape[-1]))
