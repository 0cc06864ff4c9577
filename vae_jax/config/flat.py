"""Configs as flat dictionaries {"section.field": value}: conversion in both directions, and comparison."""

import dataclasses
import difflib
import typing
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from vae_jax.config.schema import RESUMABLE, Config

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


def suggestion(word: str, choices: Iterable[str]) -> str:
    """Return the end of an error message that suggests the choice most similar to a word.

    Args:
      word: the word that is not one of the choices.
      choices: the words that are allowed.

    Returns:
      "; did you mean 'x'?" with the most similar choice x; "" if no choice is similar.
    """
    close = difflib.get_close_matches(word, list(choices), n=1)
    return f"; did you mean '{close[0]}'?" if close else ""


def flatten(config: "DataclassInstance", prefix: str = "") -> dict[str, Any]:
    """Return the settings of a config, or of one section of it, as one dictionary.

    Args:
      config: a config or a section.
      prefix: put in front of each name.

    Returns:
      {"section.field": value}, in the order of the fields.
    """
    flat = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        path = f"{prefix}{field.name}"
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            flat |= flatten(value, path + ".")
        else:
            flat[path] = value
    return flat


def flatten_mapping(items: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested dictionaries as one dictionary.

    Args:
      items: dictionaries that contain dictionaries, such as a parsed JSON file.
      prefix: put in front of each name.

    Returns:
      {"section.field": value}. An empty dictionary counts as a value.
    """
    flat = {}
    for name, value in items.items():
        nested = isinstance(value, dict) and value
        flat |= flatten_mapping(value, f"{prefix}{name}.") if nested else {f"{prefix}{name}": value}
    return flat


def _field_types(cls: type, prefix: str = "") -> dict[str, Any]:
    types = {}
    for name, annotation in typing.get_type_hints(cls).items():
        path = f"{prefix}{name}"
        nested = isinstance(annotation, type) and dataclasses.is_dataclass(annotation)
        types.update(_field_types(annotation, path + ".") if nested else {path: annotation})
    return types


FIELD_TYPES = _field_types(Config)  # {"section.field": annotation}
DEFAULTS = flatten(Config())


def unflatten(values: Mapping[str, Any]) -> Config:
    """Return the config of a flat dictionary that contains every setting, without validation."""
    sections: dict[str, Any] = {}
    for path, value in values.items():
        section, _, name = path.rpartition(".")
        value = tuple(value) if isinstance(value, list) else value  # JSON has no tuples
        sections.setdefault(section, {})[name] = value
    top = sections.pop("", {})
    hints = typing.get_type_hints(Config)
    return Config(**{name: hints[name](**fields) for name, fields in sections.items()}, **top)


def differences(old: Mapping[str, Any], new: Mapping[str, Any], *, ignore: frozenset[str] = RESUMABLE) -> list[str]:
    """Return the settings in which two flat configs differ.

    Args:
      old: a flat config.
      new: another flat config. A setting that only one of the two contains counts as a difference.
      ignore: settings that are not compared, by default those that may change when a run resumes.

    Returns:
      Sorted names "section.field".
    """
    return [p for p in sorted({*old, *new} - ignore) if p not in old or p not in new or old[p] != new[p]]
