"""Settings by their path, `section.field`: which values are allowed, and configs to and from flat dictionaries."""

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal

from vae_jax.config.flat import _DEFAULTS, FIELD_TYPES, flatten, suggestion
from vae_jax.config.schema import OBJECTIVE_SETTINGS, Config, ObjectiveConfig
from vae_jax.errors import InputError

# A closed-form KL has no samples; beyond the ELBO, sticking the landing is biased, and for the ELBO the two are one.
_WEIGHTED = ("iwae", "renyi", "miwae", "ciwae", "piwae", "cubo")
_ESTIMATOR_OBJECTIVES = {"sticking-the-landing": ("sampled-elbo",), "doubly-reparameterized": _WEIGHTED}
SINGLE_LAYER_OBJECTIVES = ("beta-tc", "info-vae")  # they compare codes, each latent with a Gaussian of its own

_POSITIVE = (
    "model.latent_dim", "model.noise_scale", "model.likelihood_scale", "model.mixture_components", "model.blocks",
    "objective.num_samples", "objective.num_inner_samples", "optimizer.learning_rate", "optimizer.eps",
    "optimizer.decay", "train.steps", "train.batch_size", "train.log_every",
    "train.save_every", "evaluation.batch_size", "mesh.fsdp",
)  # fmt: skip
_NOT_NEGATIVE = (
    "objective.beta", "objective.warmup_steps", "objective.free_bits", "objective.capacity", "objective.alpha",
    "objective.elbo_weight", "objective.mmd_weight", "optimizer.warmup_steps", "optimizer.final_fraction",
    "optimizer.weight_decay", "optimizer.clip_norm", "train.microbatches", "train.evaluate_every", "train.patience",
    "train.max_skips", "evaluation.num_samples", "evaluation.chunk", "mesh.data", "data.workers", "seed",
)  # fmt: skip
_BELOW_ONE = ("data.holdout", "optimizer.b1", "optimizer.b2", "train.ema_decay")


# Settings that only some choices of another read: elsewhere they must keep their defaults, so as not to be ignored.
_READ_WITH: dict[str, tuple[str, tuple[str, ...]]] = {
    "model.blocks": ("model.network", ("conv", "residual")),
    "model.remat": ("model.network", ("conv", "residual")),
    "model.tied": ("model.network", ("mlp",)),
    "model.noise_scale": ("model.posterior", ("fixed-noise",)),
    "model.scale_head": ("model.posterior", ("gaussian",)),
    "model.likelihood_scale": ("model.likelihood", ("gaussian",)),
    "model.mixture_components": ("model.likelihood", ("logistic-mixture",)),
    "optimizer.warmup_steps": ("optimizer.schedule", ("constant", "cosine", "staged")),
    "optimizer.final_fraction": ("optimizer.schedule", ("cosine",)),
    "optimizer.milestones": ("optimizer.schedule", ("staged",)),
    "optimizer.decay": ("optimizer.schedule", ("staged",)),
    "optimizer.b1": ("optimizer.name", ("adam", "adamw", "adamax", "sgd", "lion")),
    "optimizer.b2": ("optimizer.name", ("adam", "adamw", "adamax", "rmsprop", "lion")),
    "optimizer.eps": ("optimizer.name", ("adam", "adamw", "adamax", "rmsprop")),
    "optimizer.weight_decay": ("optimizer.name", ("adamw", "lion")),
    "train.max_skips": ("train.nonfinite", ("skip",)),
}


def validate(config: Config) -> Config:
    """Returns `config` if every setting can be used; raises InputError that names the setting if not."""
    values = flatten(config)
    for path, value in values.items():
        _check_type(path, value, FIELD_TYPES[path])
        numbers = value if isinstance(value, tuple) else (value,)
        if any(isinstance(number, float) and not math.isfinite(number) for number in numbers):
            raise InputError(f"{path}={value} must be finite")
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
    _check_microbatches(config)
    _check_streaming(config)
    for path in unused_settings(values):
        decides, _ = _READ_WITH[path]
        _require(values[path] == _DEFAULTS[path], path, values[path],
                 f"{_DEFAULTS[path]} where {decides} is {values[decides]}, which does not read it")  # fmt: skip
    _check_combinations(config)
    return config


def unused_settings(values: Mapping[str, Any]) -> list[str]:
    """The paths of a flat config whose values nothing reads, given its other settings."""
    there = {path: rule for path, rule in _READ_WITH.items() if {path, rule[0]} <= values.keys()}
    return [path for path, (decides, choices) in there.items() if values[decides] not in choices]


def _check_streaming(config: Config) -> None:
    if config.data.streaming == "always":
        _require(config.data.binarization != "static", "data.binarization", "static",
                 "dynamic, threshold or none where data.streaming is always: one draw for all is held")  # fmt: skip
    elif config.data.streaming == "never":
        _require(config.data.workers == 0, "data.workers", config.data.workers, "0 where data.streaming is never")


def _check_combinations(config: Config) -> None:
    model, objective = config.model, config.objective
    _require(model.network == "mlp" or len(model.hidden) > 0, "model.hidden", "()",
             f"one level or more for network {model.network}")  # fmt: skip
    if model.latent_layers:
        _require(model.posterior == "gaussian", "model.posterior", model.posterior, "gaussian with model.latent_layers")
        _require(not model.tied, "model.tied", True, "False with model.latent_layers")
        _require(objective.name not in SINGLE_LAYER_OBJECTIVES, "objective.name", objective.name,
                 f"other than {' or '.join(SINGLE_LAYER_OBJECTIVES)} with model.latent_layers")  # fmt: skip
    else:
        _require(not model.layer_hidden, "model.layer_hidden", model.layer_hidden, "empty without model.latent_layers")
    if model.posterior == "deterministic":
        _require(objective.name == "reconstruction", "objective.name", objective.name,
                 "reconstruction where model.posterior is deterministic: a point has no KL")  # fmt: skip
        _require(objective.num_samples == 1, "objective.num_samples", objective.num_samples,
                 "1 where model.posterior is deterministic")  # fmt: skip
    if model.likelihood == "logistic-mixture":
        _require(not model.tied, "model.tied", True,
                 "False where model.likelihood is logistic-mixture, which has more features than an image")  # fmt: skip
        _require(config.data.binarization == "none", "data.binarization", config.data.binarization,
                 "none where model.likelihood is logistic-mixture, which is a density of 8-bit pixels")  # fmt: skip
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
    if objective.name in SINGLE_LAYER_OBJECTIVES:
        _require(batch_size > 1, "train.batch_size", 1, "2 or more, for codes to be compared")


def _check_microbatches(config: Config) -> None:
    parts, batch_size = config.train.microbatches, config.train.batch_size
    if not parts:
        return
    nearest = min((n for n in range(1, batch_size + 1) if batch_size % n == 0), key=lambda n: abs(n - parts))
    _require(parts == nearest, "train.microbatches", parts,
             f"a divisor of train.batch_size ({batch_size}), for example {nearest}")  # fmt: skip
    if config.objective.name in SINGLE_LAYER_OBJECTIVES:
        _require(parts == 1, "train.microbatches", parts,
                 f"1 for objective {config.objective.name}, which compares the codes of a whole batch")  # fmt: skip


def _require(condition: bool, path: str, value: Any, allowed: str) -> None:
    if not condition:
        raise InputError(f"{path}={value} must be {allowed}")


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


def check_choices(section: str, **values: Any) -> None:
    """Raises InputError where a setting of `section` that is one of several names is given another name.

    For public functions that take such names as they come, without a config that has been validated.
    """
    for name, value in values.items():
        path = f"{section}.{name}"
        if typing.get_origin(FIELD_TYPES[path]) is Literal:
            _check_type(path, value, FIELD_TYPES[path])
