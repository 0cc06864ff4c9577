"""All settings of a run: sections with fixed fields, and sections whose fields are those of a registered choice.

Every setting that can change a result is a field of `Config`, so the file `config.json` of a run directory describes
the run completely. `vae_jax.config.registry` explains choices.
"""

import dataclasses
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Literal

from vae_jax.config.fields import setting
from vae_jax.config.registry import choice

if TYPE_CHECKING:
    from vae_jax.data import PreprocessConfig
    from vae_jax.inference import EstimatorConfig, ObjectiveConfig
    from vae_jax.models import LikelihoodConfig, ModelConfig, NetworkConfig, PosteriorConfig, PriorConfig
    from vae_jax.training import OptimizerConfig, ScheduleConfig


@dataclass(frozen=True)
class DataConfig:
    """The data set."""

    name: str = setting(
        "digits",
        "digits, moons, sprites, mnist, another TFDS data set prepared as array_record, a .npy or .npz file, or a "
        "folder of images.",
    )
    kind: Literal["auto", "images", "vectors", "counts"] = setting(
        "auto",
        "What an example is. auto: images for arrays [N, H, W] and [N, H, W, C], vectors for floats [N, D], counts for "
        "integers [N, D].",
    )
    data_dir: str | None = setting(
        None,
        "Directory of the prepared TFDS data sets. Default: $TFDS_DATA_DIR, else ~/tensorflow_datasets.",
        resumable=True,
    )
    holdout: float = setting(
        0.1,
        "Fraction of the training examples held out for validation (and test) if the data set has no such split.",
        minimum=0,
        below=1,
    )
    duplicates: Literal["report", "together"] = setting(
        "report",
        "Identical examples in two splits. report: their number is reported; together: those that would be held out "
        "from each other stay in one split.",
        resumable=True,  # a run compares the checksums of its examples
    )
    resize: int | None = setting(
        None,
        "For a folder of images or a prepared dataset: their shorter side is scaled to so many pixels, and the centre "
        "is cropped.",
        minimum=1,
        resumable=True,  # as above
    )
    labelled: int = setting(
        0,
        "Number of training examples whose label a model that reads labels sees: as many of each class; 0: all that "
        "are known.",
        minimum=0,
    )
    labelled_draw: int = setting(
        0,
        "Number of the random choice of the labelled examples, which does not depend on the seed. It has an effect "
        "with labelled only.",
        minimum=0,
        batchable=True,
    )
    streaming: Literal["auto", "always", "never"] = setting(
        "auto",
        "always: training reads the examples from disk while it computes; never: they are kept in memory; auto: they "
        "are kept in memory if they fill at most half of it. Order and results are the same.",
        resumable=True,
    )
    workers: int = setting(
        0,
        "Number of processes that read and decode streamed examples; 0: threads of the training process.",
        minimum=0,
        resumable=True,
    )


@dataclass(frozen=True)
class TrainConfig:
    """Duration, intervals and stopping of training."""

    steps: int = setting(
        6000, "Total number of updates. A finished run continues if this is increased.", above=0, resumable=True
    )
    batch_size: int = setting(128, "Number of examples in a step, over all devices.", above=0)
    microbatches: int = setting(
        0,
        "Number of parts of a batch whose gradients are computed one after another and averaged, which needs less "
        "memory; the random numbers are the same. 0: one part; on a single CPU device as many as it takes to decode "
        "about a thousand codes at a time, whose arrays fit in the caches.",
        minimum=0,
        resumable=True,
    )
    log_every: int = setting(
        100, "Number of steps in one compiled program and in one row of metrics.jsonl.", above=0, maximum=10**6
    )
    evaluate_every: int = setting(
        1000, "Number of steps between validations; 0: no validation.", minimum=0, resumable=True
    )
    save_every: int = setting(1000, "Number of steps between checkpoints.", above=0, resumable=True)
    patience: int = setting(
        0,
        "Early stopping: training stops after this many consecutive validations without a new best bound, and keeps "
        "the last parameters; 0: no early stopping.",
        minimum=0,
        resumable=True,
    )
    ema_decay: float = setting(
        0.0,
        "Decay rate of an exponential moving average of the parameters, which evaluation then uses; 0: no average. In "
        "the first steps t = 0, 1, ... it is at most (1 + t) / (10 + t).",
        minimum=0,
        below=1,
    )
    label_dropout: float = setting(
        0.0,
        "Probability that a training step hides the label or the vector of an example from a model that reads it, so "
        "that the model can also be sampled without one.",
        minimum=0,
        below=1,
    )
    labelled_share: float = setting(
        0.5,
        "Fraction of a batch that is drawn from the data.labelled examples, equally many of each class; the other "
        "examples of a batch are drawn from all, without a label.",
        above=0,
        below=1,
    )
    nonfinite: Literal["stop", "skip"] = setting(
        "stop",
        "If the result of a step is not finite: stop the run before this step, or skip the update and count it.",
    )
    max_skips: int = setting(
        10,
        "Maximum number of consecutive skipped steps; the run stops at the next one. It has an effect with nonfinite "
        "skip only.",
        minimum=0,
    )


@dataclass(frozen=True)
class EvaluationConfig:
    """Evaluation on the test examples."""

    num_samples: int = setting(
        5000, "Number K of samples of the importance-sampled NLL; 0: no NLL.", minimum=0, resumable=True
    )
    class_samples: int = setting(
        100,
        "Number K of samples given each class, for -log p(x) and the class of an example without its label; 0: none. "
        "It has an effect with a model that reads labels only.",
        minimum=0,
        resumable=True,
    )
    chunk: int = setting(
        0,
        "Number of samples decoded at a time. An evaluation needs memory for chunk x batch_size examples. Its random "
        "numbers do not depend on this setting. 0: 20 on a CPU, because more do not fit in its caches, and 100 on "
        "another device, because fewer do not fill it.",
        minimum=0,
        resumable=True,
    )
    batch_size: int = setting(
        80,
        "Number of examples evaluated at a time. The random numbers do not depend on it.",
        above=0,
        resumable=True,
    )


@dataclass(frozen=True)
class MeshConfig:
    """The device mesh over which the batch and the training state are sharded: data x fsdp devices."""

    data: int = setting(
        0,
        "Number of device groups. Each holds a complete copy of the state and a part of the batch. 0: as many as the "
        "devices allow.",
        minimum=0,
        resumable=True,
    )
    fsdp: int = setting(
        1,
        "Number of devices in a group. The state (parameters, averages, moments) and the group's part of the batch are "
        "sharded over them; each device holds 1/fsdp.",
        above=0,
        resumable=True,
    )


@dataclass(frozen=True)
class Config:
    """All settings of a run.

    Attributes:
      data: the data set.
      preprocess: from stored examples to the inputs of the model.
      model: the latent-variable model; it uses the next four sections.
      network: the encoder and the decoder.
      posterior: q(z|x).
      prior: p(z).
      likelihood: p(x|z).
      objective: the bound that training maximizes, and its number of samples.
      estimator: the estimator of the encoder's gradient.
      optimizer: the optax optimizer and its learning rate.
      schedule: the learning rate over the steps.
      train: duration, intervals and stopping.
      evaluation: evaluation on the test examples.
      mesh: the device mesh.
      seed: all random numbers of the run are a function of the seed, the step, and the position in the batch.
    """

    data: DataConfig = field(default_factory=DataConfig)
    preprocess: "PreprocessConfig" = field(default_factory=partial(choice, "preprocess", "dynamic-binarization"))
    model: "ModelConfig" = field(default_factory=partial(choice, "model", "vae"))
    network: "NetworkConfig" = field(default_factory=partial(choice, "network", "mlp"))
    posterior: "PosteriorConfig" = field(default_factory=partial(choice, "posterior", "gaussian"))
    prior: "PriorConfig" = field(default_factory=partial(choice, "prior", "standard-normal"))
    likelihood: "LikelihoodConfig" = field(default_factory=partial(choice, "likelihood", "bernoulli"))
    objective: "ObjectiveConfig" = field(default_factory=partial(choice, "objective", "elbo"))
    estimator: "EstimatorConfig" = field(default_factory=partial(choice, "estimator", "pathwise"))
    optimizer: "OptimizerConfig" = field(default_factory=partial(choice, "optimizer", "adam"))
    schedule: "ScheduleConfig" = field(default_factory=partial(choice, "schedule", "cosine"))
    train: TrainConfig = field(default_factory=TrainConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)
    seed: int = setting(
        0,
        "All random numbers of the run are a function of the seed, the step, and the position in the batch.",
        minimum=0,
        below=2**32,
        batchable=True,
    )


SECTION_CLASSES: dict[str, type] = {
    "data": DataConfig,
    "train": TrainConfig,
    "evaluation": EvaluationConfig,
    "mesh": MeshConfig,
}
PARTS = ("network", "posterior", "prior", "likelihood")  # sections of which a model states whether it uses them
FIELD_NAMES = tuple(f.name for f in dataclasses.fields(Config))
DEFAULT_CHOICES: dict[str, str] = {  # section -> the name of its choice in `Config()`, without building one
    f.name: f.default_factory.args[1] for f in dataclasses.fields(Config) if isinstance(f.default_factory, partial)
}
