"""Configs as flat dictionaries {"section.field": value}: conversion in both directions, rules, and comparison.

The name of a choice is the value of its section: {"objective": "renyi", "objective.alpha": 0.5}.
"""

import dataclasses
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, Literal

from vae_jax.config.fields import Rule, Setting, class_settings, rule_of
from vae_jax.config.registry import SECTIONS, Choice, choice_class, choices
from vae_jax.config.schema import DEFAULT_CHOICES, FIELD_NAMES, SECTION_CLASSES, Config
from vae_jax.config.values import suggestion
from vae_jax.errors import InputError


def name_setting(section: str) -> Setting:
    """Return the setting that selects the choice of a section."""
    names, default = tuple(choices(section)), DEFAULT_CHOICES[section]
    return Setting(
        section,
        Literal[names],
        default,
        Rule(f"Name of the {'preprocessing' if section == 'preprocess' else section}."),
    )


def selected_settings(names: Mapping[str, Any]) -> dict[str, Setting]:
    """Return the settings of configs with some choices.

    Args:
      names: the name of the choice of each section, and any other entries of a flat config.

    Returns:
      {path: setting}, in the order of `Config`.

    Raises:
      InputError: a section has no name, or an unknown one.
    """
    settings = []
    for name in FIELD_NAMES:
        if name in SECTION_CLASSES:
            settings += class_settings(SECTION_CLASSES[name], name)
        elif name in SECTIONS:
            if name not in names:
                raise InputError(f"{name} is missing; add it")
            settings += [name_setting(name), *class_settings(choice_class(name, names[name]), name)]
        else:
            (field,) = (f for f in dataclasses.fields(Config) if f.name == name)
            settings.append(Setting(name, int, field.default, rule_of(field.metadata, name)))
    return {setting.path: setting for setting in settings}


def flatten(config: Config) -> dict[str, Any]:
    """Return the settings of a config as one dictionary.

    Args:
      config: the config.

    Returns:
      {"section.field": value}, in the order of the fields; {"section": name} for a choice.
    """
    flat: dict[str, Any] = {}
    for name in FIELD_NAMES:
        value = getattr(config, name)
        if isinstance(value, Choice):
            flat[name] = value.name
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            flat |= {f"{name}.{field.name}": getattr(value, field.name) for field in dataclasses.fields(value)}
        else:
            flat[name] = value
    return flat


def unflatten(values: Mapping[str, Any]) -> Config:
    """Return the config of a flat dictionary, without validation; absent settings have their defaults.

    Args:
      values: {"section.field": value}. Lists are converted to tuples, because JSON has no tuples.

    Returns:
      The config.

    Raises:
      InputError: an unknown choice, or a setting that the choices do not have.
    """
    names = {section: values.get(section, DEFAULT_CHOICES[section]) for section in SECTIONS}
    known = selected_settings(names)
    fields: dict[str, dict[str, Any]] = {name: {} for name in FIELD_NAMES}
    top: dict[str, Any] = {}
    for path, value in values.items():
        if path not in known:
            raise unknown_setting_error(path, names)
        section, _, name = path.partition(".")
        if name:
            fields[section][name] = tuple(value) if isinstance(value, list) else value
        elif section not in SECTIONS:
            top[section] = value
    parts: dict[str, Any] = {name: choice_class(name, names[name])(**fields[name]) for name in SECTIONS}
    return Config(**parts, **{name: cls(**fields[name]) for name, cls in SECTION_CLASSES.items()}, **top)


def choices_with(path: str) -> list[str]:
    """Return the names of the choices of a section that have a setting, such as "objective.alpha"."""
    section, _, field = path.partition(".")
    if section not in SECTIONS:
        return []
    return [name for name, cls in choices(section).items() if field in (f.name for f in dataclasses.fields(cls))]


def unknown_setting_error(path: str, names: Mapping[str, Any]) -> InputError:
    """Return the error for a setting that a config with these choices does not have."""
    if owners := choices_with(path):
        section = path.partition(".")[0]
        use = f"{section}={' or '.join(owners)}"
        return InputError(f"{path} has no effect with {section}={names[section]}; remove it or use {use}")
    return InputError(f"{path} is not a setting{suggestion(path, selected_settings(names))}")


def all_settings() -> Iterator[Setting]:
    """Yield the settings of all registered choices and sections; a path occurs once for each choice that has it."""
    for section, cls in SECTION_CLASSES.items():
        yield from class_settings(cls, section)
    for section in SECTIONS:
        yield name_setting(section)
        for cls in choices(section).values():
            yield from class_settings(cls, section)
    yield selected_settings(flatten(Config()))["seed"]


def paths_where(holds: Callable[[Rule], bool]) -> frozenset[str]:
    """Return the paths of all settings whose rule has a property.

    Args:
      holds: rule -> whether the setting counts.

    Returns:
      Names "section.field", of all registered choices.
    """
    return frozenset(setting.path for setting in all_settings() if holds(setting.rule))


def resumable_settings() -> frozenset[str]:
    """Return the settings that may change when a run resumes, because they do not change the result of a step.

    The exception is train.steps with a schedule that depends on it: that change is reported, and recorded in the run's
    config.json.
    """
    return paths_where(lambda rule: rule.resumable)


def batchable_settings() -> frozenset[str]:
    """Return the settings in which the models that one program trains may differ."""
    return paths_where(lambda rule: rule.batchable)


def differences(old: Mapping[str, Any], new: Mapping[str, Any], *, ignore: Collection[str] = ()) -> list[str]:
    """Return the settings in which two flat configs differ.

    Args:
      old: a flat config.
      new: another flat config. A setting that only one of the two contains counts as a difference.
      ignore: settings that are not compared, such as `resumable_settings()`.

    Returns:
      Sorted names "section.field".
    """
    ignored = set(ignore)
    return [p for p in sorted({*old, *new} - ignored) if p not in old or p not in new or old[p] != new[p]]
