"""Every setting of a run: frozen dataclasses. No logic, no JAX; what values are allowed is in `settings`.

A setting that changes a number is here and nowhere else, so `config.json` in a run directory says all of it.
"""

import math
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class DataConfig:
    """Which images, and how they are read."""

    name: str = "digits"
    """digits, moons, mnist, another TFDS name prepared as array_record, a .npy or .npz file, or a folder of images."""
    data_dir: str | None = None
    """Where prepared TFDS data sets are; $TFDS_DATA_DIR or ~/tensorflow_datasets if not given."""
    holdout: float = 0.1
    """Share of the training examples held out for validation (and test) where the data has no such split."""
    binarization: Literal["dynamic", "static", "threshold", "none"] = "dynamic"
    """dynamic: Bernoulli(pixel/255) anew at each read; static: drawn once; threshold: pixel >= 128; none: pixel/255."""
    streaming: Literal["auto", "always", "never"] = "auto"
    """always: training reads its images from disk while it computes; never: they are held in memory; auto: they are
    unless they would fill half of it. The order and the numbers are the same."""
    workers: int = 0
    """Processes that read and decode streamed images; 0: threads of this one do."""


@dataclass(frozen=True)
class ModelConfig:
    """The networks, the posterior and the likelihood."""

    network: Literal["mlp", "conv", "residual"] = "mlp"
    """mlp; or conv, residual: a level of half the height and width for each entry of hidden, its channels."""
    hidden: tuple[int, ...] = (200, 200)
    """Encoder widths (mlp) or channels (conv, residual), from the image inwards; the decoder mirrors them."""
    blocks: int = 1
    """Blocks at each level: a convolution (conv), or two and a skip (residual)."""
    activation: Literal["tanh", "relu", "gelu", "silu", "elu", "softplus", "sigmoid", "identity"] = "tanh"
    """The nonlinearity between layers; identity makes an mlp linear."""
    latent_dim: int = 50
    """Numbers in the code z, or in its highest layer."""
    latent_layers: tuple[int, ...] = ()
    """Sizes of further stochastic layers between the image and the highest one, from the image upwards."""
    layer_hidden: tuple[int, ...] = ()
    """Widths of the network from a stochastic layer to the next; that of the way down mirrors them."""
    posterior: Literal["gaussian", "fixed-noise", "deterministic"] = "gaussian"
    """gaussian: z = m + exp(s/2) e; fixed-noise: z = m + noise_scale e; deterministic: z = m."""
    noise_scale: float = 1.0
    """Standard deviation of the code's noise (posterior fixed-noise)."""
    scale_head: Literal["log-variance", "log-scale"] = "log-variance"
    """What gives the σ of a gaussian posterior, and of layers given others: log-variance: σ = exp(s/2), with s = 0 at
    the start; log-scale: σ = exp(s), s drawn as the other layers are (Burda et al., arXiv 1509.00519)."""
    likelihood: Literal["bernoulli", "gaussian", "learned-gaussian", "logistic-mixture"] = "bernoulli"
    """p(x|z): bernoulli, gaussian with a fixed or one learned scale, discretised logistic mixture (8-bit)."""
    likelihood_scale: float = math.sqrt(0.5)
    """Standard deviation of the gaussian likelihood; at sqrt(1/2) a nat is one squared error."""
    mixture_components: int = 5
    """Logistics in the mixture of each pixel (likelihood logistic-mixture)."""
    tied: bool = False
    """The decoder uses the encoder's kernels, transposed (network mlp)."""
    compute_dtype: Literal["float32", "bfloat16"] = "float32"
    """Precision of the encoder's and decoder's layers in training; weights, densities and evaluations are float32."""
    remat: bool = False
    """Training computes the inside of a block again in the backward pass: less memory, more time (conv, residual)."""


@dataclass(frozen=True)
class ObjectiveConfig:
    """The bound that training maximises."""

    name: Literal["elbo", "sampled-elbo", "reconstruction", "free-bits", "capacity", "iwae", "renyi", "miwae", "ciwae",
                  "piwae", "cubo", "beta-tc", "info-vae"] = "elbo"  # fmt: skip
    """What training maximises; see vae_jax.objectives."""
    num_samples: int = 1
    """Posterior samples K for each example."""
    estimator: Literal["pathwise", "sticking-the-landing", "doubly-reparameterized"] = "pathwise"
    """How the gradient reaches the encoder; the others than pathwise vary less (vae_jax.estimators)."""
    beta: float = 1.0
    """Weight of the KL (for capacity: of its distance from the capacity; for beta-tc: of the total correlation)."""
    warmup_steps: int = 0
    """For this many steps the weight beta is (step + 1) / warmup_steps of itself; for capacity: the capacity is."""
    free_bits: float = 0.0
    """Nats of KL that cost nothing (objective free-bits)."""
    capacity: float = 0.0
    """Nats of KL that training aims at (objective capacity)."""
    alpha: float = 0.5
    """Order of the divergence (objective renyi): 1 gives the sampled ELBO, 0 gives iwae."""
    num_inner_samples: int = 1
    """Samples in each of the averaged IWAE bounds; a divisor of num_samples (objectives miwae, piwae)."""
    elbo_weight: float = 0.5
    """Weight of the ELBO against the IWAE bound (objective ciwae)."""
    order: float = 2.0
    """Order of the upper bound that the encoder brings down; 2 is the chi-square bound (objective cubo)."""
    mmd_weight: float = 100.0
    """Weight of the squared maximum mean discrepancy between codes and prior (objective info-vae)."""


@dataclass(frozen=True)
class OptimizerConfig:
    """The optimizer and its schedule."""

    name: Literal["adam", "adamw", "adamax", "rmsprop", "sgd", "lion"] = "adam"
    """The optax optimizer."""
    learning_rate: float = 1e-3
    """The highest learning rate of the schedule."""
    schedule: Literal["constant", "cosine", "one-cycle", "staged"] = "cosine"
    """constant; cosine to final_fraction; one-cycle: up over 30 % of the steps, then down; staged: see milestones."""
    warmup_steps: int = 0
    """Linear warm-up from 0 (constant, cosine and staged)."""
    final_fraction: float = 0.0
    """Learning rate at the end of the cosine, as a share of learning_rate."""
    milestones: tuple[int, ...] = ()
    """Steps at which the learning rate is multiplied by decay (schedule staged)."""
    decay: float = 0.1
    """The factor at each milestone (schedule staged)."""
    b1: float = 0.9
    """Decay of the first moment; the momentum of sgd (all but rmsprop)."""
    b2: float = 0.999
    """Decay of the second moment, or of what takes its place (all but sgd)."""
    eps: float = 1e-8
    """Added to the root of the second moment (adam, adamw), to the second moment (rmsprop), or to the largest gradient
    (adamax)."""
    weight_decay: float = 0.0
    """Decoupled weight decay (adamw, lion)."""
    clip_norm: float = 0.0
    """The gradient's global norm is clipped at this; 0 switches it off."""


@dataclass(frozen=True)
class TrainConfig:
    """How long, how often, and when to stop."""

    steps: int = 6000
    """Updates in all; a finished run goes on when more are asked for."""
    batch_size: int = 128
    """Examples in a step, over all devices."""
    microbatches: int = 0
    """Parts of a batch whose gradients are taken one after another: less memory, the same numbers. 0: one part, but on
    one CPU device so many that it decodes about a thousand codes at a time, whose arrays stay in its caches."""
    log_every: int = 100
    """Steps in one dispatched program, and in one row of metrics.jsonl."""
    evaluate_every: int = 1000
    """Steps between validation bounds; 0: never."""
    save_every: int = 1000
    """Steps between checkpoints."""
    patience: int = 0
    """Stop when this many validation bounds in a row bring no new best, and keep the last weights; 0: never."""
    ema_decay: float = 0.0
    """Decay of the moving average of the weights, which evaluation then uses; 0: none."""
    nonfinite: Literal["stop", "skip"] = "stop"
    """A step that is not finite: stop before it, or skip its update and count."""
    max_skips: int = 10
    """Skipped steps in a row before stopping (nonfinite skip)."""


@dataclass(frozen=True)
class EvaluationConfig:
    """How the test images are judged."""

    num_samples: int = 5000
    """K of the importance-sampled NLL; 0: no NLL."""
    chunk: int = 0
    """Samples decoded at a time: the memory of an evaluation is chunk x batch_size images; the draws depend on it.
    0: 20 on a CPU, where so many stay in its caches, and 100 on another device, which fewer do not fill."""
    batch_size: int = 80
    """Examples evaluated at a time; the draws depend on it, but not on how many devices they are spread over."""


@dataclass(frozen=True)
class MeshConfig:
    """Over how many devices a batch and the state are spread: data x fsdp in all."""

    data: int = 0
    """Groups of devices that each hold the whole state and a part of the batch; 0: as many as the devices make."""
    fsdp: int = 1
    """Devices in such a group: the state (weights, averages, moments) and the group's part of the batch are spread
    over them, and each holds 1/fsdp of it."""


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
    """All randomness of the run is a function of this, the step, and the position in the batch."""


# The settings that each objective takes; warmup_steps comes with beta, and any other must keep its default.
OBJECTIVE_SETTINGS: dict[str, tuple[str, ...]] = {
    "elbo": ("beta",), "sampled-elbo": ("beta",), "reconstruction": (), "free-bits": ("beta", "free_bits"),
    "capacity": ("beta", "capacity"), "iwae": (), "renyi": ("alpha",), "miwae": ("num_inner_samples",),
    "ciwae": ("elbo_weight",), "piwae": ("num_inner_samples",), "cubo": ("order",), "beta-tc": ("beta",),
    "info-vae": ("beta", "mmd_weight"),
}  # fmt: skip

SCHEDULES_SPANNING_STEPS = ("cosine", "one-cycle")  # schedules of the learning rate that depend on train.steps

# Fields that may differ between the parts of one run: none of them changes what a step computes, but for train.steps
# under a schedule that spans them, which is told and kept in the run's config.json.
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
