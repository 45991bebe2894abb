"""What a configuration holds: its sections, keys, types and ranges. No TensorFlow.

What each key means stands beside its default in `configs/base.yml`; of models other than CW-VAE, in
`configs/models/`.
"""

import dataclasses
from typing import Any, ClassVar, Literal


def _within(minimum=None, above=None, maximum=None):
    """A field whose numbers, in a list too, lie in a range."""
    return dataclasses.field(metadata={"minimum": minimum, "above": above, "maximum": maximum})


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """What every model has, and what the rest of the project has to know of one.

    Attributes:
      batch_normalized: Whether clips of a batch reach each other, by its statistics.
    """

    name: str
    frame_size: int
    channels: int
    beta: float | tuple[float, ...] = _within(minimum=0)

    batch_normalized: ClassVar[bool] = False

    @property
    def kl_terms(self) -> int:
        """KL terms in the loss, each with a `beta`."""
        return 1

    @property
    def hierarchy(self) -> int:
        """Levels that may each see the context or not; 0 where there are none to tell apart."""
        return 0

    @property
    def shortest(self) -> int:
        """Fewest frames of a clip that have a loss."""
        return 1


@dataclasses.dataclass(frozen=True)
class CWVAEConfig(ModelConfig):
    """The Clockwork VAE: `configs/base.yml` explains each key."""

    levels: int = _within(minimum=1)
    factor: int | tuple[int, ...] = _within(minimum=1)
    stochastic_size: int = _within(minimum=1)
    deterministic_size: int = _within(minimum=1)
    hidden_size: int = _within(minimum=1)
    mlp_size: int = _within(minimum=1)
    channel_multiplier: float = _within(above=0)
    decoder_stddev: float = _within(above=0)
    min_stddev: float = _within(minimum=0)
    mean_only: bool
    free_nats: float = _within(minimum=0)
    kl_balance: float | None = _within(minimum=0, maximum=1)

    @property
    def kl_terms(self) -> int:
        """One for each level."""
        return self.levels

    @property
    def hierarchy(self) -> int:
        """All its levels."""
        return self.levels


@dataclasses.dataclass(frozen=True)
class SVGConfig(ModelConfig):
    """SVG-LP: `configs/models/svg.yml` explains each key."""

    network: Literal["dcgan", "vgg"]
    channel_multiplier: float = _within(above=0)
    feature_size: int = _within(minimum=1)
    hidden_size: int = _within(minimum=1)
    stochastic_size: int = _within(minimum=1)
    context: int = _within(minimum=1)
    decoder_stddev: float | None = _within(above=0)
    mse_beta: float | None = _within(above=0)
    free_nats: float = _within(minimum=0)

    batch_normalized: ClassVar[bool] = True

    @property
    def shortest(self) -> int:
        """The first frame is given, not predicted."""
        return 2


@dataclasses.dataclass(frozen=True)
class VTAConfig(ModelConfig):
    """VTA: `configs/models/vta.yml` explains each key."""

    belief_size: int = _within(minimum=1)
    state_size: int = _within(minimum=1)
    feature_size: int = _within(minimum=1)
    decoder_stddev: float = _within(above=0)
    init_size: int = _within(minimum=1)
    max_segments: int = _within(minimum=1)
    max_segment_length: int = _within(minimum=1)
    temperature_steps: float = _within(above=0)

    batch_normalized: ClassVar[bool] = True

    @property
    def kl_terms(self) -> int:
        """Of abstractions, observations and boundaries."""
        return 3

    @property
    def shortest(self) -> int:
        """Frames at either end only feed the encoders."""
        return 2 * self.init_size + 1

    @property
    def free_nats(self) -> float:
        """None: the boundaries' term is estimated by samples, and may be negative."""
        return 0.0


MODELS = {"cwvae": CWVAEConfig, "svg": SVGConfig, "vta": VTAConfig}


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """The data: `configs/base.yml` explains each key."""

    name: str
    seed: int = _within(minimum=0)
    data_dir: str | None
    archives_dir: str | None
    windows: Literal["random", "chunks"]
    videos_dir: str | None
    test_fraction: float = _within(above=0, maximum=0.9)
    fps: float | None = _within(above=0)
    fit: Literal["crop", "squeeze"]
    resize: Literal["area", "bilinear"]
    kth_split: Literal["svg", "mcnet"]
    kth_sequences: bool
    digits: Literal["sklearn", "mnist"]
    digits_dir: str | None
    num_digits: int = _within(minimum=1, maximum=4)
    digit_size: int = _within(minimum=4)
    speed: tuple[float, float] = _within(minimum=0)
    overlap: Literal["sum", "max"]
    train_videos: int = _within(minimum=1)
    test_videos: int = _within(minimum=1)
    train_length: int = _within(minimum=2)
    test_length: int = _within(minimum=2)


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """The training: `configs/base.yml` explains each key."""

    seed: int = _within(minimum=0, maximum=2**31 - 1)
    steps: int = _within(minimum=1)
    batch_size: int = _within(minimum=1)
    seq_len: int = _within(minimum=1)
    learning_rate: float = _within(above=0)
    adam_epsilon: float = _within(above=0)
    amsgrad: bool
    clip_norm: float = _within(above=0)
    precision: Literal["float32", "bfloat16"]
    accumulate: int = _within(minimum=1)
    gradient_checkpointing: int | None = _within(minimum=1)
    strategy: Literal["auto", "single", "mirrored", "multi_worker"]
    kernels: Literal["auto", "plain", "fast"]
    jit: Literal["auto"] | bool
    steps_per_call: int = _within(minimum=1)
    memory: float | None = _within(above=0)
    skip_limit: int = _within(minimum=1)
    init_from: str | None
    log_every: int = _within(minimum=1)
    video_every: int = _within(minimum=1)
    video_length: int = _within(minimum=2)
    save_every: int = _within(minimum=1)
    keep: int = _within(minimum=1)
    keep_every: int | None = _within(minimum=1)


@dataclasses.dataclass(frozen=True)
class EvaluationConfig:
    """The evaluation: `configs/base.yml` explains each key."""

    protocol: Literal["both", "standard", "cwvae2021"]
    seed: int = _within(minimum=0, maximum=2**31 - 1)
    context: int = _within(minimum=1)
    horizon: int = _within(minimum=1)
    num_videos: int = _within(minimum=1)
    num_samples: int = _within(minimum=1)
    batch_size: int = _within(minimum=1)
    observe_levels: str | None
    batch_statistics: bool
    readout: bool


@dataclasses.dataclass(frozen=True)
class Config:
    """A whole run, validated."""

    model: ModelConfig
    data: DataConfig
    training: TrainingConfig
    evaluation: EvaluationConfig

    def data_options(self) -> dict[str, Any]:
        """Returns the keyword arguments of `data_loaders.load`, all but the split."""
        frames = {"frame_size": self.model.frame_size, "channels": self.model.channels}
        return dataclasses.asdict(self.data) | frames
