"""Fields of settings: default, help text and allowed values of one setting, stored where the setting is declared."""

import dataclasses
import functools
import typing
from collections.abc import Mapping
from typing import Any, NamedTuple

_KEY = "setting"  # of a field's metadata


class Rule(NamedTuple):
    """What is allowed for a setting. For a tuple the limits apply to each entry.

    Attributes:
      help: the help text, which `vae-jax train --help` prints.
      above: the value must be greater.
      minimum: the value must be at least this.
      below: the value must be less.
      maximum: the value must be at most this.
      resumable: whether the setting may change when a run resumes, because it does not change the result of a step.
      batchable: whether no shape, branch or data set depends on the setting, so that one program can train models that
        differ in it.
    """

    help: str
    above: float | None = None
    minimum: float | None = None
    below: float | None = None
    maximum: float | None = None
    resumable: bool = False
    batchable: bool = False


def setting(
    default: Any,
    help: str,
    *,
    above: float | None = None,
    minimum: float | None = None,
    below: float | None = None,
    maximum: float | None = None,
    resumable: bool = False,
    batchable: bool = False,
) -> Any:  # a dataclass field has the type of its value
    """Return a dataclass field that is a setting, with the attributes of `Rule`.

    Args:
      default: the default value.
      help: the help text, which `vae-jax train --help` prints.
      above: the value must be greater.
      minimum: the value must be at least this.
      below: the value must be less.
      maximum: the value must be at most this.
      resumable: whether the setting may change when a run resumes.
      batchable: whether one program can train models that differ in the setting.

    Returns:
      The field.
    """
    rule = Rule(help, above, minimum, below, maximum, resumable, batchable)
    return dataclasses.field(default=default, metadata={_KEY: rule})


def rule_of(metadata: Mapping[str, Any], name: str) -> Rule:
    """Return the rule of a dataclass field; raise TypeError if the field is not made by `setting`."""
    rule = metadata.get(_KEY)
    if rule is None:
        raise TypeError(f"field {name} has no rule; declare it as `{name}: TYPE = vae_jax.setting(DEFAULT, HELP)`")
    return rule


class Setting(NamedTuple):
    """One setting of a config.

    Attributes:
      path: "section.field"; "section" for the name of a choice; or "seed".
      annotation: its type.
      default: its default.
      rule: its help text and limits.
    """

    path: str
    annotation: Any
    default: Any
    rule: Rule


@functools.cache
def class_settings(cls: type, section: str) -> tuple[Setting, ...]:
    """Return the settings that the fields of a dataclass declare.

    Args:
      cls: a section's class, such as `TrainConfig`, or the class of a choice.
      section: the section, the beginning of each path.

    Returns:
      The settings, in the order of the fields.
    """
    hints = typing.get_type_hints(cls)
    fields = dataclasses.fields(cls)
    return tuple(
        Setting(f"{section}.{f.name}", hints[f.name], f.default, rule_of(f.metadata, f"{cls.__name__}.{f.name}"))
        for f in fields
    )
