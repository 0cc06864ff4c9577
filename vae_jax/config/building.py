"""config.building."""

import dataclasses
import typing
from collections.abc import Collection, Mapping
from typing import Any, Literal

from vae_jax.config.flat import _DEFAULTS, FIELD_TYPES, flatten, suggestion, unflatten
from vae_jax.config.schema import Config
from vae_jax.config.validation import unused_settings, validate
from vae_jax.errors import InputError


def from_flat(values: Mapping[str, Any]) -> Config:
    """The inverse of `flatten`; raises InputError for an unknown or a missing setting and validates the rest."""
    for path in values:
        if path not in FIELD_TYPES:
            raise InputError(f"{path}: no such setting{suggestion(path, FIELD_TYPES)}")
    for path in FIELD_TYPES:
        if path not in values:
            raise InputError(f"{path}: missing")
    return validate(unflatten(values))


def override(config: Config, **values: Any) -> Config:
    """`config` with settings replaced by their path, dots written as two underscores: `train__steps=100`."""
    return apply_overrides(config, {path.replace("__", "."): value for path, value in values.items()})


def apply_overrides(config: Config, given: Mapping[str, Any]) -> Config:
    """`config` with settings replaced by their path; raises InputError as `validate` does.

    What is not given, and belongs to another choice than the one that is, falls to its default: the weight decay of a
    preset where another optimizer is asked for that has none.
    """
    values = flatten(config) | given
    return from_flat(values | defaults_of_unused(values, given))


def defaults_of_unused(values: Mapping[str, Any], given: Collection[str]) -> dict[str, Any]:
    """The defaults of those settings that nothing reads and that were not given."""
    return {path: _DEFAULTS[path] for path in unused_settings(values) if path not in given}


def steps_only(config: Config, *, log_every: int | None = None) -> Config:
    """`config` for steps alone, `log_every` in a dispatch, not validated: it neither evaluates nor saves between them,
    so that no interval of either can refuse it."""
    unit = config.train.log_every if log_every is None else log_every
    alone = {"log_every": unit, "save_every": unit, "evaluate_every": 0, "patience": 0}
    return dataclasses.replace(config, train=dataclasses.replace(config.train, **alone))


def replace_unvalidated(config: Config, numbers: Mapping[str, Any]) -> Config:
    """`config` with settings replaced by their path, not validated: for numbers that a program is yet to be given,
    and what an older version held for valid."""
    return unflatten(flatten(config) | numbers)


def parse_setting(path: str, text: str) -> Any:
    """The value of a number or a name as text; raises InputError where the setting is neither, or is not one."""
    if path not in FIELD_TYPES:
        raise InputError(f"{path}: no such setting{suggestion(path, FIELD_TYPES)}")
    annotation = FIELD_TYPES[path]
    kind = str if typing.get_origin(annotation) is Literal else annotation
    if kind not in (int, float, str):
        raise InputError(f"{path}: a list of values can be given for numbers and names only")
    try:
        return kind(text)
    except ValueError:
        raise InputError(f"{path}={text!r} must be of type {kind.__name__}") from None
