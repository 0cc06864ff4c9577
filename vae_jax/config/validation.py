"""Checks of a config: the types and ranges of its settings, and the combinations that cannot be used.

A check that fails raises InputError with one line: `SETTING=VALUE`, what is wrong with it, and what to do.
"""

import dataclasses
import math
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from vae_jax.config.flat import DEFAULTS, FIELD_TYPES, flatten, suggestion
from vae_jax.config.schema import OBJECTIVE_SETTINGS, Config, ObjectiveConfig
from vae_jax.errors import InputError

# The objectives that an estimator supports; `pathwise` supports all. A KL in closed form uses no samples. For
# objectives beyond the ELBO sticking-the-landing is biased. For the ELBO both estimators are the same.
_IMPORTANCE_WEIGHTED = ("iwae", "renyi", "miwae", "ciwae", "piwae", "cubo")
_ESTIMATOR_OBJECTIVES = {"sticking-the-landing": ("sampled-elbo",), "doubly-reparameterized": _IMPORTANCE_WEIGHTED}
# Objectives that compare the codes of a batch, and need independent Gaussian latent dimensions for it.
SINGLE_LAYER_OBJECTIVES = ("beta-tc", "info-vae")

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


# Setting -> another setting, and the choices of it with which the first setting has an effect. With any other choice
# the first setting must have its default, so that no value is ignored.
_READ_BY: dict[str, tuple[str, tuple[str, ...]]] = {
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
    """Return the config unchanged if every setting can be used.

    Args:
      config: the config to check.

    Returns:
      The same object.

    Raises:
      InputError: a value has the wrong type or is out of range, has no effect with the other settings, or contradicts
        them.
    """
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
        _require(every % unit == 0, path, every, f"a multiple of train.log_every={unit}, for example "
                 f"{max(1, round(every / unit)) * unit}")  # fmt: skip
    _check_objective(config.objective, config.train.batch_size)
    _check_microbatches(config)
    _check_streaming(config)
    for path in unused_settings(values):
        other, choices = _READ_BY[path]
        _require_default(values[path] == DEFAULTS[path], path, values[path], f"with {other}={values[other]}",
                         f"use {_any_of(choices)}")  # fmt: skip
    _check_combinations(config)
    return config


def unused_settings(values: Mapping[str, Any]) -> list[str]:
    """Return the settings of a flat config that have no effect, whatever their value.

    Args:
      values: a flat config. Settings that it lacks are ignored.

    Returns:
      Names "section.field".
    """
    present = {path: rule for path, rule in _READ_BY.items() if {path, rule[0]} <= values.keys()}
    return [path for path, (other, choices) in present.items() if values[other] not in choices]


def check_choices(section: str, **values: Any) -> None:
    """Raise InputError if one of the values is not an allowed choice of its setting.

    For public functions whose arguments are names of choices that `validate` has not seen.

    Args:
      section: section of the settings.
      **values: values by field name. Fields that are not a choice between names are ignored.

    Raises:
      InputError: a value is not one of the choices of its field.
    """
    for name, value in values.items():
        path = f"{section}.{name}"
        if typing.get_origin(FIELD_TYPES[path]) is Literal:
            _check_type(path, value, FIELD_TYPES[path])


def _check_streaming(config: Config) -> None:
    if config.data.streaming == "always":
        _require(config.data.binarization != "static", "data.binarization", "static", "dynamic, threshold or none "
                 "with data.streaming=always, since static keeps all images in memory")  # fmt: skip
    elif config.data.streaming == "never":
        _require_default(config.data.workers == 0, "data.workers", config.data.workers, "with data.streaming=never",
                         "use auto or always")  # fmt: skip


def _check_combinations(config: Config) -> None:
    model, objective = config.model, config.objective
    _require(model.network == "mlp" or len(model.hidden) > 0, "model.hidden", "()",
             f"one or more numbers of channels with model.network={model.network}, for example (32, 64)")  # fmt: skip
    if model.latent_layers:
        layers = f"with model.latent_layers={model.latent_layers}"
        _require(model.posterior == "gaussian", "model.posterior", model.posterior, f"gaussian {layers}")
        _require(not model.tied, "model.tied", True, f"False {layers}")
        _require(objective.name not in SINGLE_LAYER_OBJECTIVES, "objective.name", objective.name,
                 f"another objective {layers}; {objective.name} needs a single stochastic layer")  # fmt: skip
    else:
        _require_default(not model.layer_hidden, "model.layer_hidden", model.layer_hidden,
                         "without model.latent_layers", "set model.latent_layers")  # fmt: skip
    if model.posterior == "deterministic":
        _require(objective.name == "reconstruction", "objective.name", objective.name,
                 "reconstruction with model.posterior=deterministic, which has no KL")  # fmt: skip
        _require(objective.num_samples == 1, "objective.num_samples", objective.num_samples,
                 "1 with model.posterior=deterministic, whose samples are all equal")  # fmt: skip
    if model.likelihood == "logistic-mixture":
        _require(not model.tied, "model.tied", True, "False with model.likelihood=logistic-mixture, "
                 "whose decoder has more outputs than the image has numbers")  # fmt: skip
        _require(config.data.binarization == "none", "data.binarization", config.data.binarization,
                 "none with model.likelihood=logistic-mixture, a density of 8-bit pixels")  # fmt: skip
    if config.train.patience:
        _require_default(config.train.evaluate_every > 0, "train.patience", config.train.patience,
                         "with train.evaluate_every=0", "set train.evaluate_every")  # fmt: skip


def _check_objective(objective: ObjectiveConfig, batch_size: int) -> None:
    for field in dataclasses.fields(ObjectiveConfig):
        if field.name in ("name", "num_samples", "estimator"):
            continue
        value, objectives = getattr(objective, field.name), _objectives_with(field.name)
        _require_default(objective.name in objectives or value == field.default, f"objective.{field.name}", value,
                         f"with objective.name={objective.name}", f"use {_any_of(objectives)}")  # fmt: skip
    inner = objective.num_inner_samples
    _require(objective.num_samples % inner == 0, "objective.num_inner_samples", inner,
             f"a divisor of objective.num_samples={objective.num_samples}")  # fmt: skip
    _require(objective.elbo_weight <= 1, "objective.elbo_weight", objective.elbo_weight, "at most 1")
    _require(objective.order >= 1, "objective.order", objective.order, "at least 1")
    supported = _ESTIMATOR_OBJECTIVES.get(objective.estimator, (objective.name,))
    _require(objective.name in supported, "objective.estimator", objective.estimator,
             f"pathwise with objective.name={objective.name}; "
             f"{objective.estimator} needs {_any_of(supported)}")  # fmt: skip
    if objective.name in SINGLE_LAYER_OBJECTIVES:
        _require(batch_size > 1, "train.batch_size", 1,
                 f"2 or more with objective.name={objective.name}, which compares the codes of a batch")  # fmt: skip


def _objectives_with(setting: str) -> tuple[str, ...]:
    """Return the objectives that use a setting; those with a weight beta use `warmup_steps`, too."""
    setting = "beta" if setting == "warmup_steps" else setting
    return tuple(name for name, settings in OBJECTIVE_SETTINGS.items() if setting in settings)


def _check_microbatches(config: Config) -> None:
    parts, batch_size = config.train.microbatches, config.train.batch_size
    if not parts:
        return
    nearest = min((n for n in range(1, batch_size + 1) if batch_size % n == 0), key=lambda n: abs(n - parts))
    _require(parts == nearest, "train.microbatches", parts,
             f"a divisor of train.batch_size={batch_size}, for example {nearest}")  # fmt: skip
    if config.objective.name in SINGLE_LAYER_OBJECTIVES:
        _require(parts == 1, "train.microbatches", parts,
                 f"1 with objective.name={config.objective.name}, which compares all codes of a batch")  # fmt: skip


def _require(condition: bool, path: str, value: Any, allowed: str) -> None:
    if not condition:
        raise InputError(f"{path}={value} must be {allowed}")


def _require_default(condition: bool, path: str, value: Any, reason: str, remedy: str) -> None:
    """Raise InputError unless the condition holds: the value of a setting that has no effect is not ignored."""
    if not condition:
        raise InputError(f"{path}={value} has no effect {reason}; remove it or {remedy}")


def _any_of(choices: Sequence[str]) -> str:
    """Return "a", "a or b", or "a, b or c"."""
    return " or ".join(filter(None, (", ".join(choices[:-1]), choices[-1])))


def _check_type(path: str, value: Any, annotation: Any) -> None:
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Literal:
        _require(value in args, path, repr(value), "one of " + ", ".join(args) + suggestion(str(value), args))
    elif origin is tuple:
        valid = isinstance(value, tuple) and all(type(v) is args[0] for v in value)
        _require(valid, path, repr(value), f"a list of {args[0].__name__}")
    elif origin in (typing.Union, types.UnionType):
        _require(isinstance(value, args), path, repr(value), "of type " + str(annotation).replace(" | ", " or "))
    elif annotation is float:
        _require(type(value) in (int, float), path, repr(value), "a number")
    else:
        _require(type(value) is annotation, path, repr(value), f"of type {annotation.__name__}")
