"""Every setting of a run: frozen dataclasses and their validation. No logic, no JAX.

A setting that changes a number is here and nowhere else, so `config.json` in a run directory says all of it.
"""

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from vae_jax.errors import InputError


@dataclass(frozen=True)
class DataConfig:
    """Which images, and how they are read."""

    name: str = "digits"
    """digits, moons, mnist, another TFDS name prepared on disk, a .npy or .npz file, or a folder of images."""
    data_dir: str | None = None
    """Where prepared TFDS data sets are; $TFDS_DATA_DIR or ~/tensorflow_datasets if not given."""
    holdout: float = 0.1
    """Share of the training examples held out for validation (and test) where the data has no such split."""
    binarization: Literal["dynamic", "static", "threshold", "none"] = "dynamic"
    """dynamic: Bernoulli(pixel/255) anew at each read; static: drawn once; threshold: pixel >= 128; none: pixel/255."""


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
    likelihood: Literal["bernoulli", "gaussian", "learned-gaussian", "logistic-mixture"] = "bernoulli"
    """p(x|z): bernoulli, gaussian with a fixed or one learned scale, discretised logistic mixture (8-bit)."""
    likelihood_scale: float = math.sqrt(0.5)
    """Standard deviation of the gaussian likelihood; at sqrt(1/2) a nat is one squared error."""
    mixture_components: int = 5
    """Logistics in the mixture of each pixel (likelihood logistic-mixture)."""
    tied: bool = False
    """The decoder uses the encoder's kernels, transposed (network mlp)."""


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
    """The weight beta rises linearly from 0 over this many steps; for capacity: the capacity does."""
    free_bits: float = 0.0
    """Nats of KL in each stochastic layer that cost nothing (objective free-bits)."""
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
    """Decay of the first moment; the momentum of sgd; the decay of rmsprop's average is b2."""
    b2: float = 0.999
    """Decay of the second moment."""
    eps: float = 1e-8
    """Added to the root of the second moment (adam, adamw, adamax, rmsprop)."""
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
    log_every: int = 100
    """Steps in one dispatched program, and in one row of metrics.jsonl."""
    evaluate_every: int = 1000
    """Steps between validation bounds; 0: never."""
    save_every: int = 1000
    """Steps between checkpoints."""
    patience: int = 0
    """Stop when this many validation bounds in a row bring no new best; 0: never."""
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
    chunk: int = 20
    """Samples decoded at a time: the memory of an evaluation is chunk x batch_size images; small ones stay in cache."""
    batch_size: int = 80
    """Examples evaluated at a time; the draws depend on it, and 80 is a multiple of 8 and of 16 devices."""


@dataclass(frozen=True)
class MeshConfig:
    """Over how many devices a batch is spread."""

    data: int = 0
    """Devices over which a batch is spread; 0: all."""


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

# A closed-form KL has no samples; beyond the ELBO, sticking the landing is biased, and for the ELBO the two are one.
_WEIGHTED = ("iwae", "renyi", "miwae", "ciwae", "piwae", "cubo")
_ESTIMATOR_OBJECTIVES = {"sticking-the-landing": ("sampled-elbo",), "doubly-reparameterized": _WEIGHTED}
_OF_ONE_LAYER = ("beta-tc", "info-vae")  # they compare codes, each latent with a Gaussian of its own

# Fields that may differ between the parts of one run: none of them changes what a step computes.
RESUMABLE = frozenset(
    {
        "data.data_dir",
        "train.steps",
        "train.evaluate_every",
        "train.save_every",
        "train.patience",
        "evaluation.num_samples",
        "evaluation.chunk",
        "evaluation.batch_size",
        "mesh.data",
    }
)

_POSITIVE = (
    "model.latent_dim", "model.noise_scale", "model.likelihood_scale", "model.mixture_components", "model.blocks",
    "objective.num_samples", "objective.num_inner_samples", "optimizer.learning_rate", "optimizer.eps",
    "optimizer.decay", "train.steps", "train.batch_size", "train.log_every", "train.save_every", "evaluation.chunk",
    "evaluation.batch_size",
)  # fmt: skip
_NOT_NEGATIVE = (
    "objective.beta", "objective.warmup_steps", "objective.free_bits", "objective.capacity", "objective.alpha",
    "objective.elbo_weight", "objective.mmd_weight", "optimizer.warmup_steps", "optimizer.final_fraction",
    "optimizer.weight_decay", "optimizer.clip_norm", "train.evaluate_every", "train.patience", "train.max_skips",
    "evaluation.num_samples", "mesh.data", "seed",
)  # fmt: skip
_BELOW_ONE = ("data.holdout", "optimizer.b1", "optimizer.b2", "train.ema_decay")


def validate(config: Config) -> Config:
    """Returns `config` if every setting can be used; raises InputError that names the setting if not."""
    values = flatten(config)
    for path, value in values.items():
        _check_type(path, value, _FIELD_TYPES[path])
        numbers = value if isinstance(value, tuple) else (value,)
        if any(isinstance(number, float) and not math.isfinite(number) for number in numbers):
            raise InputError(f"{path}: {value} given, must be finite")
    for path in _POSITIVE:
        _require(values[path] > 0, path, values[path], "greater than 0")
    for path in _NOT_NEGATIVE:
        _require(values[path] >= 0, path, values[path], "0 or more")
    for path in _BELOW_ONE:
        _require(0 <= values[path] < 1, path, values[path], "at least 0 and less than 1")
    _require(config.seed < 2**32, "seed", config.seed, "less than 2^32")
    for path in ("model.hidden", "model.latent_layers", "model.layer_hidden", "optimizer.milestones"):
        _require(all(v > 0 for v in values[path]), path, values[path], "numbers greater than 0")
    for path in ("train.evaluate_every", "train.save_every"):
        every, unit = values[path], config.train.log_every
        _require(every % unit == 0, path, every, f"a multiple of train.log_every ({unit}), for example "
                 f"{max(1, round(every / unit)) * unit}")  # fmt: skip
    _check_objective(config.objective, config.train.batch_size)
    _check_combinations(config)
    return config


def _check_combinations(config: Config) -> None:
    model, objective = config.model, config.objective
    if model.network != "mlp":
        _require(len(model.hidden) > 0, "model.hidden", "()", f"one level or more for network {model.network}")
        _require(not model.tied, "model.tied", True, "False for a network that is not mlp")
    if model.latent_layers:
        _require(model.posterior == "gaussian", "model.posterior", model.posterior, "gaussian with model.latent_layers")
        _require(not model.tied, "model.tied", True, "False with model.latent_layers")
        _require(objective.name not in _OF_ONE_LAYER, "objective.name", objective.name,
                 f"other than {' or '.join(_OF_ONE_LAYER)} with model.latent_layers")  # fmt: skip
    else:
        _require(not model.layer_hidden, "model.layer_hidden", model.layer_hidden, "empty without model.latent_layers")
    if model.posterior == "deterministic":
        _require(objective.name == "reconstruction", "objective.name", objective.name,
                 "reconstruction where model.posterior is deterministic: a point has no KL")  # fmt: skip
        _require(objective.num_samples == 1, "objective.num_samples", objective.num_samples,
                 "1 where model.posterior is deterministic")  # fmt: skip
    if model.likelihood == "logistic-mixture":
        _require(config.data.binarization == "none", "data.binarization", config.data.binarization,
                 "none where model.likelihood is logistic-mixture, which is a density of 8-bit pixels")  # fmt: skip
    if config.optimizer.schedule == "one-cycle":
        _require(config.optimizer.warmup_steps == 0, "optimizer.warmup_steps", config.optimizer.warmup_steps,
                 "0 for schedule one-cycle, which has a warm-up of its own")  # fmt: skip
    if config.train.patience:
        _require(config.train.evaluate_every > 0, "train.patience", config.train.patience,
                 "0 where train.evaluate_every is 0")  # fmt: skip


def _check_objective(objective: ObjectiveConfig, batch_size: int) -> None:
    taken = {"name", "num_samples", "estimator", *OBJECTIVE_SETTINGS[objective.name]}
    taken |= {"warmup_steps"} if "beta" in taken else set()
    for setting in dataclasses.fields(ObjectiveConfig):
        value = getattr(objective, setting.name)
        _require(setting.name in taken or value == setting.default, f"objective.{setting.name}", value,
                 f"{setting.default} for objective {objective.name}, which takes none")  # fmt: skip
    inner = objective.num_inner_samples
    _require(objective.num_samples % inner == 0, "objective.num_inner_samples", inner,
             f"a divisor of objective.num_samples ({objective.num_samples})")  # fmt: skip
    _require(objective.elbo_weight <= 1, "objective.elbo_weight", objective.elbo_weight, "at most 1")
    _require(objective.order >= 1, "objective.order", objective.order, "at least 1")
    takes = _ESTIMATOR_OBJECTIVES.get(objective.estimator, (objective.name,))
    _require(objective.name in takes, "objective.estimator", objective.estimator,
             f"pathwise for {objective.name}; it takes {', '.join(takes)}")  # fmt: skip
    if objective.name in _OF_ONE_LAYER:
        _require(batch_size > 1, "train.batch_size", 1, "2 or more, for codes to be compared")


def _require(condition: bool, path: str, value: Any, allowed: str) -> None:
    if not condition:
        raise InputError(f"{path}: {value} given, must be {allowed}")


def _check_type(path: str, value: Any, annotation: Any) -> None:
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Literal:
        _require(value in args, path, repr(value), "one of " + ", ".join(args) + suggestion(str(value), args))
    elif origin is tuple:
        good = isinstance(value, tuple) and all(type(v) is args[0] for v in value)
        _require(good, path, repr(value), f"a list of {args[0].__name__}")
    elif origin in (typing.Union, types.UnionType):
        _require(isinstance(value, args), path, repr(value), f"{annotation}")
    elif annotation is float:
        _require(type(value) in (int, float), path, repr(value), "a number")
    else:
        _require(type(value) is annotation, path, repr(value), f"of type {annotation.__name__}")


def suggestion(word: str, choices: typing.Iterable[str]) -> str:
    """`; did you mean 'x'?` if one of `choices` is close to `word`, else nothing."""
    close = difflib.get_close_matches(word, list(choices), n=1)
    return f"; did you mean '{close[0]}'?" if close else ""


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """The settings of a config (or a part of one) as `{"section.field": value}`."""
    flat = {}
    for f in dataclasses.fields(config):
        value = getattr(config, f.name)
        path = f"{prefix}{f.name}"
        flat.update(flatten(value, path + ".") if dataclasses.is_dataclass(value) else {path: value})
    return flat


def _field_types(cls: type, prefix: str = "") -> dict[str, Any]:
    found = {}
    for name, annotation in typing.get_type_hints(cls).items():
        path = f"{prefix}{name}"
        nested = dataclasses.is_dataclass(annotation)
        found.update(_field_types(annotation, path + ".") if nested else {path: annotation})
    return found


_FIELD_TYPES = _field_types(Config)


def from_flat(values: Mapping[str, Any]) -> Config:
    """The inverse of `flatten`; raises InputError for an unknown or a missing setting and validates the rest."""
    for path in values:
        if path not in _FIELD_TYPES:
            raise InputError(f"{path}: no such setting{suggestion(path, _FIELD_TYPES)}")
    for path in _FIELD_TYPES:
        if path not in values:
            raise InputError(f"{path}: missing")
    return validate(_from_flat(values))


def _from_flat(values: Mapping[str, Any]) -> Config:
    sections: dict[str, Any] = {}
    for path, value in values.items():
        section, _, name = path.rpartition(".")
        value = tuple(value) if isinstance(value, list) else value  # JSON has no tuples
        sections.setdefault(section, {})[name] = value
    top = sections.pop("", {})
    hints = typing.get_type_hints(Config)
    return Config(**{name: hints[name](**fields) for name, fields in sections.items()}, **top)


def override(config: Config, **values: Any) -> Config:
    """`config` with settings replaced by their path, dots written as two underscores: `train__steps=100`."""
    return from_flat(flatten(config) | {path.replace("__", "."): value for path, value in values.items()})


def with_numbers(config: Config, numbers: Mapping[str, Any]) -> Config:
    """`config` with settings replaced by their path, not validated: for numbers that a program is yet to be given."""
    return _from_flat(flatten(config) | numbers)


def parse_setting(path: str, text: str) -> Any:
    """The value of a number or a name as text; raises InputError where the setting is neither, or is not one."""
    if path not in _FIELD_TYPES:
        raise InputError(f"{path}: no such setting{suggestion(path, _FIELD_TYPES)}")
    annotation = _FIELD_TYPES[path]
    kind = str if typing.get_origin(annotation) is Literal else annotation
    if kind not in (int, float, str):
        raise InputError(f"{path}: a list of values can be given for numbers and names only")
    try:
        return kind(text)
    except ValueError:
        raise InputError(f"{path}: {text!r} given, must be of type {kind.__name__}") from None


def differences(old: Mapping[str, Any], new: Mapping[str, Any], *, ignore: frozenset[str] = RESUMABLE) -> list[str]:
    """The paths whose values differ between two flat configs, sorted, without those in `ignore`."""
    return [p for p in sorted({*old, *new} - ignore) if p not in old or p not in new or old[p] != new[p]]
