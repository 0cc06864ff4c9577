"""Build configs: from a flat dictionary, or from another config with some settings replaced."""

import dataclasses
import typing
from collections.abc import Collection, Mapping
from typing import Any, Literal

from vae_jax.config.flat import DEFAULTS, FIELD_TYPES, flatten, suggestion, unflatten
from vae_jax.config.schema import Config
from vae_jax.config.validation import unused_settings, validate
from vae_jax.errors import InputError


def from_flat(values: Mapping[str, Any]) -> Config:
    """Return the validated config of a flat dictionary: the inverse of `flatten`.

    Args:
      values: {"section.field": value} with every setting. Lists are converted to tuples, so parsed JSON is accepted.

    Returns:
      The config.

    Raises:
      InputError: a name is not a setting, a setting is missing, or `validate` refuses a value.
    """
    for path in values:
        _check_name(path)
    for path in FIELD_TYPES:
        if path not in values:
            raise InputError(f"{path} is missing; add it")
    return validate(unflatten(values))


def override(config: Config, **values: Any) -> Config:
    """Return the config with some settings replaced, as `apply_overrides` does, for example `train__steps=100`.

    Args:
      config: the config to start from; it is not changed.
      **values: the new values. Two underscores in a name replace the dot between section and field.

    Returns:
      A new, validated config.

    Raises:
      InputError: a name is not a setting, or `validate` refuses a value.
    """
    return apply_overrides(config, {path.replace("__", "."): value for path, value in values.items()})


def apply_overrides(config: Config, given: Mapping[str, Any]) -> Config:
    """Return the config with some settings replaced.

    A setting that has no effect after the replacement, and that is not one of the replaced settings, gets its default.
    For example, a preset's weight decay gets its default if the optimizer is replaced by one without weight decay.

    Args:
      config: the config to start from; it is not changed.
      given: {"section.field": new value}.

    Returns:
      A new, validated config.

    Raises:
      InputError: a name is not a setting, or `validate` refuses a value.
    """
    values = flatten(config) | dict(given)
    return from_flat(values | defaults_of_unused(values, given))


def defaults_of_unused(values: Mapping[str, Any], given: Collection[str]) -> dict[str, Any]:
    """Return the defaults of the settings that have no effect, except those that the user chose.

    Args:
      values: a flat config.
      given: names "section.field" of the settings that the user chose.

    Returns:
      {"section.field": default}.
    """
    return {path: DEFAULTS[path] for path in unused_settings(values) if path not in given}


def steps_only(config: Config, *, log_every: int | None = None) -> Config:
    """Return the config for training steps alone, without evaluations and checkpoints between them.

    The result is not validated. Its intervals agree with each other, so that none of them can be the reason for a
    refusal.

    Args:
      config: the config to start from; it is not changed.
      log_every: steps in one dispatched program; None keeps the config's `train.log_every`.

    Returns:
      A new config.
    """
    unit = config.train.log_every if log_every is None else log_every
    intervals: dict[str, int] = {"log_every": unit, "save_every": unit, "evaluate_every": 0, "patience": 0}
    return dataclasses.replace(config, train=dataclasses.replace(config.train, **intervals))


def replace_unvalidated(config: Config, values: Mapping[str, Any]) -> Config:
    """Return the config with some settings replaced, without validation.

    It is meant for two cases: values that are known only inside a compiled program, and values that an older version
    accepted.

    Args:
      config: the config to start from; it is not changed.
      values: {"section.field": new value}; each name must be a setting.

    Returns:
      A new config.
    """
    return unflatten(flatten(config) | dict(values))


def parse_setting(path: str, text: str) -> int | float | str:
    """Return the value that a text has as a setting, such as one of the values that a sweep varies.

    Args:
      path: name "section.field" of a setting that is a number or a name.
      text: the value as text.

    Returns:
      A number for a numeric setting, the text itself for a name. The range is not checked.

    Raises:
      InputError: the name is not a setting, the setting is neither a number nor a name, or the text is not a number.
    """
    _check_name(path)
    annotation = FIELD_TYPES[path]
    kind = str if typing.get_origin(annotation) is Literal else annotation
    if kind not in (int, float, str):
        raise InputError(f"{path} cannot be varied; use a setting that is a number or a name")
    try:
        return kind(text)
    except ValueError:
        raise InputError(f"{path}={text!r} must be of type {kind.__name__}") from None


def _check_name(path: str) -> None:
    if path not in FIELD_TYPES:
        raise InputError(f"{path} is not a setting{suggestion(path, FIELD_TYPES)}")
