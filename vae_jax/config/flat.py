"""config.flat."""

import dataclasses
import difflib
import typing
from collections.abc import Mapping
from typing import Any

from vae_jax.config.schema import RESUMABLE, Config


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


def flatten_mapping(items: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries as one, `{"section.field": value}`; an empty one is a value."""
    flat = {}
    for name, value in items.items():
        nested = isinstance(value, dict) and value
        flat |= flatten_mapping(value, f"{prefix}{name}.") if nested else {f"{prefix}{name}": value}
    return flat


def _field_types(cls: type, prefix: str = "") -> dict[str, Any]:
    found = {}
    for name, annotation in typing.get_type_hints(cls).items():
        path = f"{prefix}{name}"
        nested = dataclasses.is_dataclass(annotation)
        found.update(_field_types(annotation, path + ".") if nested else {path: annotation})
    return found


FIELD_TYPES = _field_types(Config)
_DEFAULTS = flatten(Config())


def unflatten(values: Mapping[str, Any]) -> Config:
    sections: dict[str, Any] = {}
    for path, value in values.items():
        section, _, name = path.rpartition(".")
        value = tuple(value) if isinstance(value, list) else value  # JSON has no tuples
        sections.setdefault(section, {})[name] = value
    top = sections.pop("", {})
    hints = typing.get_type_hints(Config)
    return Config(**{name: hints[name](**fields) for name, fields in sections.items()}, **top)


def differences(old: Mapping[str, Any], new: Mapping[str, Any], *, ignore: frozenset[str] = RESUMABLE) -> list[str]:
    """The paths whose values differ between two flat configs, sorted, without those in `ignore`."""
    return [p for p in sorted({*old, *new} - ignore) if p not in old or p not in new or old[p] != new[p]]
