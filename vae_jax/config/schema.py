"""All settings of a run, as frozen dataclasses. `validation` defines the allowed values.

The string below a field is its help text: `vae-jax train --help` prints it. Every setting that can change a result is a
field of `Config`, so the file `config.json` of a run directory describes the run completely.
"""

import math
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class DataConfig:
    """The data set and its preprocessing."""

    name: str = "digits"
    """digits, moons, mnist, another TFDS data set prepared as array_record, a .npy or .npz file, or a folder of
    images."""
    data_dir: str | None = None
    """Directory of the prepared TFDS data sets. Default: $TFDS_DATA_DIR, else ~/tensorflow_datasets."""
    holdout: float = 0.1
    """Fraction of the training examples held out for validation (and test) if the data set has no such split."""
    binarization: Literal["dynamic", "static", "threshold", "none"] = "dynamic"
    """dynamic: sampled from Bernoulli(pixel/255) each time an image is used; static: sampled once; threshold:
    pixel >= 128; none: pixel/255."""
    streaming: Literal["auto", "always", "never"] = "auto"
    """always: training reads the images from disk while it computes; never: the images are kept in memory; auto: they
    are kept in memory if they fill at most half of it. Order and results are the same."""
    workers: int = 0
    """Number of processes that read and decode streamed images; 0: threads of the training process."""


@dataclass(frozen=True)
class ModelConfig:
    """The networks, the posterior and the likelihood."""

    network: Literal["mlp", "conv", "residual"] = "mlp"
    """Encoder and decoder: mlp, or conv or residual, in which each entry of hidden is a level with that number of
    channels and half the height and width of the level before."""
    hidden: tuple[int, ...] = (200, 200)
    """Widths (mlp) or channels (conv, residual) of the encoder's layers, from the image to the code; the decoder has
    the same in reverse order."""
    blocks: int = 1
    """Blocks in each level. A block is one convolution (conv), or two and a skip connection (residual)."""
    activation: Literal["tanh", "relu", "gelu", "silu", "elu", "softplus", "sigmoid", "identity"] = "tanh"
    """Activation function between layers; with identity an mlp is linear."""
    latent_dim: int = 50
    """Dimension of the code z, or of its highest stochastic layer."""
    latent_layers: tuple[int, ...] = ()
    """Dimensions of additional stochastic layers between the image and the highest one, in the order from the image
    upwards."""
    layer_hidden: tuple[int, ...] = ()
    """Hidden widths of the network from a stochastic layer to the next higher one; the network in the other direction
    has the same in reverse order."""
    posterior: Literal["gaussian", "fixed-noise", "deterministic"] = "gaussian"
    """gaussian: z = m + exp(s/2) e; fixed-noise: z = m + noise_scale e; deterministic: z = m; with e ~ N(0, I)."""
    noise_scale: float = 1.0
    """Standard deviation of the noise of the code (posterior fixed-noise)."""
    scale_head: Literal["log-variance", "log-scale"] = "log-variance"
    """Output s of the network that sets the σ of a gaussian posterior and of the conditional stochastic layers.
    log-variance: σ = exp(s/2), with s = 0 at initialization; log-scale: σ = exp(s), with s initialized as the other
    layers are (Burda et al., arXiv 1509.00519)."""
    likelihood: Literal["bernoulli", "gaussian", "learned-gaussian", "logistic-mixture"] = "bernoulli"
    """p(x|z): bernoulli; gaussian with a fixed scale, or with one learned scale; or a discretized logistic mixture for
    8-bit pixels."""
    likelihood_scale: float = math.sqrt(0.5)
    """Standard deviation of the gaussian likelihood. At sqrt(1/2) one nat is a squared error of 1."""
    mixture_components: int = 5
    """Number of logistic components for each pixel (likelihood logistic-mixture)."""
    tied: bool = False
    """The decoder uses the transposed weight matrices of the encoder (network mlp)."""
    compute_dtype: Literal["float32", "bfloat16"] = "float32"
    """Precision of the encoder's and decoder's layers in training. Parameters, densities and evaluation are float32."""
    remat: bool = False
    """Rematerialization: the backward pass computes the activations inside a block again, which needs less memory and
    more time (conv, residual)."""


@dataclass(frozen=True)
class ObjectiveConfig:
    """The objective that training maximizes."""

    name: Literal["elbo", "sampled-elbo", "reconstruction", "free-bits", "capacity", "iwae", "renyi", "miwae", "ciwae",
                  "piwae", "cubo", "beta-tc", "info-vae"] = "elbo"  # fmt: skip
    """The objective that training maximizes; see `vae_jax.OBJECTIVES`."""
    num_samples: int = 1
    """Number K of posterior samples for each example."""
    estimator: Literal["pathwise", "sticking-the-landing", "doubly-reparameterized"] = "pathwise"
    """Estimator of the encoder's gradient; those other than pathwise have less variance. See `vae_jax.ESTIMATORS`."""
    beta: float = 1.0
    """Weight of the KL; for capacity: of the distance between KL and capacity; for beta-tc: of the total
    correlation."""
    warmup_steps: int = 0
    """Number of steps over which beta increases linearly: in each of them it is multiplied by
    (step + 1) / warmup_steps. For objective capacity, the capacity increases instead."""
    free_bits: float = 0.0
    """KL in nats that is not penalized (objective free-bits)."""
    capacity: float = 0.0
    """Target of the KL in nats (objective capacity)."""
    alpha: float = 0.5
    """Order of the Rényi divergence (objective renyi): 1 is the sampled ELBO, 0 is iwae."""
    num_inner_samples: int = 1
    """Number of samples in each of the IWAE bounds that are averaged; a divisor of num_samples (objectives miwae,
    piwae)."""
    elbo_weight: float = 0.5
    """Weight of the ELBO, from 0 to 1; the IWAE bound has the rest (objective ciwae)."""
    order: float = 2.0
    """Order of the upper bound that the encoder minimizes; 2 is the chi-square bound (objective cubo)."""
    mmd_weight: float = 100.0
    """Weight of the squared maximum mean discrepancy (MMD) between codes and prior (objective info-vae)."""


@dataclass(frozen=True)
class OptimizerConfig:
    """The optimizer and the learning-rate schedule."""

    name: Literal["adam", "adamw", "adamax", "rmsprop", "sgd", "lion"] = "adam"
    """Name of the optax optimizer."""
    learning_rate: float = 1e-3
    """Maximum learning rate of the schedule."""
    schedule: Literal["constant", "cosine", "one-cycle", "staged"] = "cosine"
    """constant; cosine: decay to final_fraction; one-cycle: increase over 30 % of the steps, then decay; staged: decay
    at the milestones."""
    warmup_steps: int = 0
    """Number of steps in which the learning rate increases linearly from 0 (schedules constant, cosine, staged)."""
    final_fraction: float = 0.0
    """Learning rate at the end of the schedule, as a fraction of learning_rate (schedule cosine)."""
    milestones: tuple[int, ...] = ()
    """Steps at which the learning rate is multiplied by decay (schedule staged)."""
    decay: float = 0.1
    """Factor by which the learning rate is multiplied at each milestone (schedule staged)."""
    b1: float = 0.9
    """Decay rate of the first moment; for sgd: the momentum; for lion: the weight of the momentum in an update (all but
    rmsprop)."""
    b2: float = 0.999
    """Decay rate of the second moment; for adamax: of the infinity norm; for lion: of the momentum (all but sgd)."""
    eps: float = 1e-8
    """Constant added to the root of the second moment (adam, adamw), to the second moment (rmsprop), or to the infinity
    norm (adamax)."""
    weight_decay: float = 0.0
    """Decoupled weight decay (adamw, lion)."""
    clip_norm: float = 0.0
    """Maximum global norm of the gradient; 0: no clipping."""


@dataclass(frozen=True)
class TrainConfig:
    """Duration, intervals and stopping of training."""

    steps: int = 6000
    """Total number of updates. A finished run continues if this is increased."""
    batch_size: int = 128
    """Number of examples in a step, over all devices."""
    microbatches: int = 0
    """Number of parts of a batch whose gradients are computed one after another and averaged, which needs less memory;
    the random numbers are the same. 0: one part; on a single CPU device as many as it takes to decode about a thousand
    codes at a time, whose arrays fit in the caches."""
    log_every: int = 100
    """Number of steps in one compiled program and in one row of metrics.jsonl."""
    evaluate_every: int = 1000
    """Number of steps between validations; 0: no validation."""
    save_every: int = 1000
    """Number of steps between checkpoints."""
    patience: int = 0
    """Early stopping: training stops after this many consecutive validations without a new best bound, and keeps the
    last parameters; 0: no early stopping."""
    ema_decay: float = 0.0
    """Decay rate of an exponential moving average of the parameters, which evaluation then uses; 0: no average."""
    nonfinite: Literal["stop", "skip"] = "stop"
    """If the result of a step is not finite: stop the run before this step, or skip the update and count it."""
    max_skips: int = 10
    """Maximum number of consecutive skipped steps; the run stops at the next one (nonfinite skip)."""


@dataclass(frozen=True)
class EvaluationConfig:
    """Evaluation on the test images."""

    num_samples: int = 5000
    """Number K of samples of the importance-sampled NLL; 0: no NLL."""
    chunk: int = 0
    """Number of samples decoded at a time. An evaluation needs memory for chunk x batch_size images. Its random numbers
    do not depend on this setting. 0: 20 on a CPU, because more do not fit in its caches, and 100 on another device,
    because fewer do not fill it."""
    batch_size: int = 80
    """Number of examples evaluated at a time. The random numbers do not depend on it."""


@dataclass(frozen=True)
class MeshConfig:
    """The device mesh over which the batch and the training state are sharded: data x fsdp devices."""

    data: int = 0
    """Number of device groups. Each holds a complete copy of the state and a part of the batch. 0: as many as the
    devices allow."""
    fsdp: int = 1
    """Number of devices in a group. The state (parameters, averages, moments) and the group's part of the batch are
    sharded over them; each device holds 1/fsdp."""


@dataclass(frozen=True)
class Config:
    """All settings of a run."""

    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)
    seed: int = 0
    """All random numbers of the run are a function of the seed, the step, and the position in the batch."""


# The settings that each objective uses. Objectives with beta use warmup_steps, too. Any other must have its default.
OBJECTIVE_SETTINGS: dict[str, tuple[str, ...]] = {
    "elbo": ("beta",), "sampled-elbo": ("beta",), "reconstruction": (), "free-bits": ("beta", "free_bits"),
    "capacity": ("beta", "capacity"), "iwae": (), "renyi": ("alpha",), "miwae": ("num_inner_samples",),
    "ciwae": ("elbo_weight",), "piwae": ("num_inner_samples",), "cubo": ("order",), "beta-tc": ("beta",),
    "info-vae": ("beta", "mmd_weight"),
}  # fmt: skip

SCHEDULES_SPANNING_STEPS = ("cosine", "one-cycle")  # learning-rate schedules that depend on train.steps

# Settings that may change when a run resumes, because they do not change the result of a step. The exception is
# train.steps with a schedule that depends on it: that change is reported, and recorded in the run's config.json.
RESUMABLE = frozenset(
    {
        "data.data_dir",
        "data.streaming",
        "data.workers",
        "train.steps",
        "train.evaluate_every",
        "train.save_every",
        "train.patience",
        "train.microbatches",
        "evaluation.num_samples",
        "evaluation.chunk",
        "evaluation.batch_size",
        "mesh.data",
        "mesh.fsdp",
    }
)
