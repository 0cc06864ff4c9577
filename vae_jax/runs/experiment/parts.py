"""Checks of the parts of an experiment: those that are given by hand, and those of a config for a kind of data."""

from collections.abc import Mapping
from typing import Any

from vae_jax.config import Config, Rule, check_value, validate_section
from vae_jax.errors import InputError

_NUM_SAMPLES = Rule("Number K of posterior samples.", above=0)


def check_parts(parts: Mapping[str, Any]) -> None:
    """Raise InputError unless the parts of an experiment that is made by hand can be used.

    Args:
      parts: the fields of `Experiment`.

    Raises:
      InputError: a setting of the training or of the evaluation, or the number of samples, has the wrong type or is out
        of range.
    """
    validate_section("train", parts["training"])
    validate_section("evaluation", parts["evaluation"])
    check_value("num_samples", parts["num_samples"], int, _NUM_SAMPLES)


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
