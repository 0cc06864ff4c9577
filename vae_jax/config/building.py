"""Build configs: from a flat dictionary, or from another config with some settings replaced."""

import dataclasses
import typing
from collections.abc import Mapping
from typing import Any, Literal

from vae_jax.config.flat import all_settings, flatten, selected_settings, unflatten, unknown_setting_error
from vae_jax.config.registry import SECTIONS, choice_class
from vae_jax.config.schema import PARTS, Config
from vae_jax.config.validation import validate
from vae_jax.config.values import suggestion
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
    known = selected_settings(values)
    for path in values:
        if path not in known:
            raise unknown_setting_error(path, values)
    for path in known:
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

    If the choice of a section is replaced, the settings that both choices have keep their values, and the others get
    their defaults. For example, `optimizer="adamw"` keeps the learning rate. The parts that a new model does not use,
    such as the network, get their defaults.

    Args:
      config: the config to start from; it is not changed.
      given: {"section.field": new value}, and {"section": name} for a choice.

    Returns:
      A new, validated config.

    Raises:
      InputError: a name is not a setting, or `validate` refuses a value.
    """
    return validate(replace_settings(config, given))


def replace_settings(config: Config, given: Mapping[str, Any]) -> Config:
    """Return `apply_overrides` without the validation of ranges and combinations."""
    old = flatten(config)
    names = {section: given.get(section, old[section]) for section in SECTIONS}
    model: Any = choice_class("model", names["model"])
    unused = set(PARTS) - set(model.parts)
    names |= {section: getattr(Config(), section).name for section in unused if section not in given}
    known = selected_settings(names)
    for path in given:
        if path not in known:
            raise unknown_setting_error(path, names)
    kept = {
        path: value
        for path, value in old.items()
        if path in known and path not in SECTIONS and path.partition(".")[0] not in unused
    }
    return unflatten(names | kept | dict(given))


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

    It is meant for values that are known only inside a compiled program.

    Args:
      config: the config to start from; it is not changed.
      values: {"section.field": new value}; each name must be a setting of the config.

    Returns:
      A new config.
    """
    top = {path: value for path, value in values.items() if "." not in path}
    fields: dict[str, dict[str, Any]] = {}
    for path, value in values.items():
        if path not in top:
            section, _, name = path.partition(".")
            fields.setdefault(section, {})[name] = value
    parts = {section: dataclasses.replace(getattr(config, section), **new) for section, new in fields.items()}
    return dataclasses.replace(config, **parts, **top)


_TRUTH = {"true": True, "false": False}


def parse_setting(path: str, text: str) -> bool | int | float | str:
    """Return the value that a text has as a setting, such as one of the values that a sweep varies.

    Args:
      path: name "section.field" of a setting that is a number, a name, True or False, of any registered choice.
      text: the value as text.

    Returns:
      A number for a numeric setting, a bool for True or False in any case, the text itself for a name. The range is not
      checked.

    Raises:
      InputError: the name is not a setting, the setting is of another type, or the text is not of its type.
    """
    annotations = {setting.path: setting.annotation for setting in all_settings()}
    if path not in annotations:
        raise InputError(f"{path} is not a setting{suggestion(path, annotations)}")
    kind = str if typing.get_origin(annotations[path]) is Literal else annotations[path]
    if kind not in (bool, int, float, str):
        raise InputError(f"{path} cannot be varied; vary a number, a name, or True and False")
    try:
        return _TRUTH[text.lower()] if kind is bool else kind(text)
    except (ValueError, KeyError):
        raise InputError(f"{path}={text!r} must be of type {kind.__name__}") from None
