"""Fields of settings: default, help text and allowed values of one setting, stored where the setting is declared."""

import dataclasses
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
