"""Checks of the parts of an experiment: those that are given by hand, and those of a config for a kind of data."""

from collections.abc import Mapping
from typing import Any

from vae_jax.config import Config, Rule, check_value, require, validate_section
from vae_jax.errors import InputError
from vae_jax.inference import ObjectiveConfig

_NUM_SAMPLES = Rule("Number K of posterior samples.", above=0)
_FUNCTIONS = {
    "objective": "vae_jax.elbo or vae_jax.choice('objective', NAME)",
    "preprocess": "vae_jax.choice('preprocess', NAME)",
}


def check_parts(parts: Mapping[str, Any]) -> None:
    """Raise InputError unless the parts of an experiment that is made by hand can be used.

    Args:
      parts: the fields of `Experiment`.

    Raises:
      InputError: the source, the objective, the optimizer, the preprocessing or the estimator is something else; or a
        setting of the training or of the evaluation, or the number of samples, has the wrong type or is out of range.
    """
    source, optimizer, estimator = parts["source"], parts["optimizer"], parts["estimator"]
    _require_part(_has_methods(source, "split", "training"), "source", source,
                  "a source of data; use vae_jax.from_arrays(x) or vae_jax.open_source(NAME)")  # fmt: skip
    for name, example in _FUNCTIONS.items():
        function = parts[name]
        _require_part(callable(function) or isinstance(function, ObjectiveConfig), name, function,
                      f"a function; use {example}")  # fmt: skip
    _require_part(_has_methods(optimizer, "init", "update"), "optimizer", optimizer,
                  "an optax gradient transformation; use one such as optax.adam(1e-3)")  # fmt: skip
    _require_part(callable(estimator), "estimator", estimator,
                  "a function; use vae_jax.pathwise or vae_jax.choice('estimator', NAME).build()")  # fmt: skip
    validate_section("train", parts["training"])
    validate_section("evaluation", parts["evaluation"])
    check_value("num_samples", parts["num_samples"], int, _NUM_SAMPLES)


def _has_methods(part: Any, *names: str) -> bool:
    return all(callable(getattr(part, name, None)) for name in names)


def _require_part(condition: bool, name: str, part: Any, allowed: str) -> None:
    """Raise InputError unless the condition holds; a text is shown, and of another object its type."""
    shown = repr(part) if isinstance(part, str) else type(part).__name__
    require(condition, name, shown, allowed)


def check_kind(config: Config, kind: str) -> None:
    """Raise InputError if a part of the model is not made for this kind of data; no data are read.

    Args:
      config: the settings.
      kind: images, vectors or counts.

    Raises:
      InputError: the preprocessing, the likelihood or the network does not work with the data, or with each other.
    """
    for part in (config.preprocess, config.likelihood):
        if kind not in part.kinds:
            raise InputError(
                f"{part.section}={part.name} does not work with {kind}, which {config.data.name} contains; use another "
                f"{part.section}, or set data.kind"
            )
    for part in (config.likelihood, config.network):
        part.check_values(config.preprocess, kind)
