"""The settings of a configuration: sections, keys, types, ranges, other properties. No TensorFlow.

`configs/base.yml` explains each key next to its default; for models other than CW-VAE, the files in
`configs/models/` do.
"""

import dataclasses
from typing import Any, ClassVar, Literal


@dataclasses.dataclass(frozen=True)
class Properties:
    """Facts about a setting, besides its type, that other modules ask for.

    Attributes:
      minimum: Smallest value allowed; it holds for each number of a list, as the other limits do.
      above: Largest value that is too small.
      maximum: Largest value allowed.
      below: Smallest value that is too large.
      resumable: Whether it may change when a run is resumed.
      steers_training: Whether a resumable setting decides what the weights become. The weights do
        not depend on the others (with batch normalization they do depend on `accumulate` and
        `strategy`).
      shapes_weights: Whether the shapes of the model's weights depend on it.
      changes_test_videos: Whether the pixels of the test videos depend on it. Settings of the data
        only.
      is_path: Whether it names a file or folder, whose path is made absolute when a run starts.
    """

    minimum: float | None = None
    above: float | None = None
    maximum: float | None = None
    below: float | None = None
    resumable: bool = False
    steers_training: bool = False
    shapes_weights: bool = False
    changes_test_videos: bool = True
    is_path: bool = False


def setting(**properties: Any) -> Any:
    """Declares a setting with properties other than the defaults of `Properties`."""
    return dataclasses.field(metadata={"properties": Properties(**properties)})


def properties(section: Any) -> dict[str, Properties]:
    """Returns the properties of a section's settings by name; takes a section or its class."""
    fields = dataclasses.fields(section)
    return {field.name: field.metadata.get("properties", Properties()) for field in fields}


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The settings that every model has, and what other modules need to know about a model.

    Attributes:
      batch_normalized: Whether batch normalization couples the clips of a batch.
      kl_terms: Number of KL terms in the loss, each with its `beta`.
      hierarchy: Number of levels that `evaluation.observe_levels` selects from; 0 for a model
        without levels.
      shortest: Length in frames of the shortest clip that has a loss.
    """

    name: str = setting(shapes_weights=True)
    frame_size: int = setting(shapes_weights=True)
    channels: int = setting(shapes_weights=True)
    beta: float | tuple[float, ...] = setting(minimum=0)

    batch_normalized: ClassVar[bool] = False
    kl_terms: ClassVar[int] = 1
    hierarchy: ClassVar[int] = 0
    shortest: ClassVar[int] = 1


@dataclasses.dataclass(frozen=True)
class CWVAEConfig(ModelConfig):
    """The Clockwork VAE. `configs/base.yml` explains each key."""

    levels: int = setting(minimum=1, shapes_weights=True)
    factor: int | tuple[int, ...] = setting(minimum=1)
    stochastic_size: int = setting(minimum=1, shapes_weights=True)
    deterministic_size: int = setting(minimum=1, shapes_weights=True)
    hidden_size: int = setting(minimum=1, shapes_weights=True)
    mlp_size: int = setting(minimum=1, shapes_weights=True)
    channel_multiplier: float = setting(above=0, shapes_weights=True)
    decoder_stddev: float = setting(above=0)
    min_stddev: float = setting(minimum=0)
    mean_only: bool
    free_nats: float = setting(minimum=0)
    kl_balance: float | None = setting(minimum=0, maximum=1)

    kl_terms = hierarchy = property(lambda self: self.levels)


@dataclasses.dataclass(frozen=True)
class SVGConfig(ModelConfig):
    """SVG-LP. `configs/models/svg.yml` explains each key."""

    network: Literal["dcgan", "vgg"] = setting(shapes_weights=True)
    channel_multiplier: float = setting(above=0, shapes_weights=True)
    feature_size: int = setting(minimum=1, shapes_weights=True)
    hidden_size: int = setting(minimum=1, shapes_weights=True)
    stochastic_size: int = setting(minimum=1, shapes_weights=True)
    context: int = setting(minimum=1)
    decoder_stddev: float | None = setting(above=0)
    mse_beta: float | None = setting(above=0)
    free_nats: float = setting(minimum=0)

    batch_normalized: ClassVar[bool] = True
    shortest: ClassVar[int] = 2  # The first frame is given, not predicted.


@dataclasses.dataclass(frozen=True)
class VTAConfig(ModelConfig):
    """VTA. `configs/models/vta.yml` explains each key."""

    belief_size: int = setting(minimum=1, shapes_weights=True)
    state_size: int = setting(minimum=1, shapes_weights=True)
    feature_size: int = setting(minimum=1, shapes_weights=True)
    decoder_stddev: float = setting(above=0)
    init_size: int = setting(minimum=1)
    max_segments: int = setting(minimum=1)
    max_segment_length: int = setting(minimum=1)
    temperature_steps: float = setting(above=0)

    batch_normalized: ClassVar[bool] = True
    kl_terms: ClassVar[int] = 3  # Abstractions, observations and boundaries.
    # The frames at either end only feed the encoders; one is left in the middle.
    shortest = property(lambda self: 2 * self.init_size + 1)
    # The term of the boundaries is a sample estimate, which may be negative.
    free_nats: ClassVar[float] = 0.0


MODELS = {"cwvae": CWVAEConfig, "svg": SVGConfig, "vta": VTAConfig}


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """The data. `configs/base.yml` explains each key."""

    name: str = setting(changes_test_videos=False)
    seed: int = setting(minimum=0)
    data_dir: str | None = setting(resumable=True, changes_test_videos=False, is_path=True)
    archives_dir: str | None = setting(resumable=True, changes_test_videos=False, is_path=True)
    windows: Literal["random", "chunks"] = setting(changes_test_videos=False)
    videos_dir: str | None = setting(changes_test_videos=False, is_path=True)
    train_list: str | None = setting(changes_test_videos=False, is_path=True)
    test_list: str | None = setting(changes_test_videos=False, is_path=True)
    test_fraction: float = setting(above=0, maximum=0.9)
    fps: float | None = setting(above=0)
    array_axes: str | None
    array_key: str | None
    fit: Literal["crop", "squeeze"]
    resize: Literal["area", "bilinear"]
    kth_split: Literal["svg", "mcnet"]
    kth_sequences: bool
    digits: Literal["sklearn", "mnist"]
    digits_dir: str | None = setting(resumable=True, changes_test_videos=False, is_path=True)
    num_digits: int = setting(minimum=1, maximum=4)
    digit_size: int = setting(minimum=4)
    speed: tuple[float, float] = setting(minimum=0)
    overlap: Literal["sum", "max"]
    train_videos: int = setting(minimum=1, changes_test_videos=False)
    test_videos: int = setting(minimum=1)
    train_length: int = setting(minimum=2, changes_test_videos=False)
    test_length: int = setting(minimum=2, resumable=True)


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """The training. `configs/base.yml` explains each key."""

    seed: int = setting(minimum=0, maximum=2**31 - 1)
    steps: int = setting(minimum=1, resumable=True, steers_training=True)
    batch_size: int = setting(minimum=1)
    seq_len: int = setting(minimum=1)
    learning_rate: float = setting(above=0, resumable=True, steers_training=True)
    schedule: Literal["constant", "cosine"] = setting(resumable=True, steers_training=True)
    warmup: int = setting(minimum=0, resumable=True, steers_training=True)
    ema: float | None = setting(above=0, below=1, resumable=True, steers_training=True)
    adam_epsilon: float = setting(above=0)
    amsgrad: bool
    clip_norm: float = setting(above=0, resumable=True, steers_training=True)
    precision: Literal["auto", "float32", "bfloat16"]
    kernels: Literal["auto", "plain", "fast"] = setting(resumable=True)
    accumulate: int = setting(minimum=1, resumable=True)
    gradient_checkpointing: int | None = setting(minimum=1, resumable=True)
    strategy: Literal["auto", "single", "mirrored", "multi_worker"] = setting(resumable=True)
    jit: Literal["auto"] | bool = setting(resumable=True)
    steps_per_call: int = setting(minimum=1, resumable=True)
    memory: float | None = setting(above=0, resumable=True)
    skip_limit: int = setting(minimum=1, resumable=True)
    init_from: str | None
    log_every: int = setting(minimum=1, resumable=True)
    video_every: int = setting(minimum=1, resumable=True)
    video_length: int = setting(minimum=2, resumable=True)
    save_every: int = setting(minimum=1, resumable=True)
    keep: int = setting(minimum=1, resumable=True)
    keep_every: int | None = setting(minimum=1, resumable=True)


@dataclasses.dataclass(frozen=True)
class EvaluationConfig:
    """The evaluation. `configs/base.yml` explains each key."""

    protocol: Literal["both", "standard", "cwvae2021"] = setting(resumable=True)
    seed: int = setting(minimum=0, maximum=2**31 - 1, resumable=True)
    context: int = setting(minimum=1, resumable=True)
    horizon: int = setting(minimum=1, resumable=True)
    num_videos: int = setting(minimum=1, resumable=True)
    num_samples: int = setting(minimum=1, resumable=True)
    batch_size: int = setting(minimum=1, resumable=True)
    observe_levels: str | None = setting(resumable=True)
    ema: bool = setting(resumable=True)
    batch_statistics: bool = setting(resumable=True)
    readout: bool = setting(resumable=True)
    lpips: Literal["auto"] | bool = setting(resumable=True)
    fvd: Literal["auto"] | bool = setting(resumable=True)


@dataclasses.dataclass(frozen=True)
class Config:
    """The configuration of a run, validated."""

    model: ModelConfig
    data: DataConfig
    training: TrainingConfig
    evaluation: EvaluationConfig

    def data_options(self) -> dict[str, Any]:
        """Returns the keyword arguments of `data_loaders.load`, except the split."""
        frames = {"frame_size": self.model.frame_size, "channels": self.model.channels}
        return dataclasses.asdict(self.data) | frames

    def with_precision(self, precision: str) -> "Config":
        """Returns the configuration with a precision instead of `auto`; another one stays."""
        if self.training.precision != "auto":
            return self
        training = dataclasses.replace(self.training, precision=precision)
        return dataclasses.replace(self, training=training)
