"""The flags of all settings, such as `--objective renyi --objective.alpha 0.5`.

The names of choices are read first, because they decide which settings, and therefore which flags, there are. Then a
class with these settings as fields is built for tyro.
"""

import dataclasses
import inspect
import re
from collections.abc import Collection, Mapping, Sequence
from difflib import get_close_matches
from typing import Annotated, Any, TypeVar

from vae_jax.config import (
    SECTIONS,
    Choice,
    Config,
    Setting,
    all_settings,
    choices,
    choices_with,
    flatten,
    replace_settings,
    selected_settings,
    unknown_setting_error,
)

T = TypeVar("T")


def flag_value(argv: Sequence[str], flag: str) -> str | None:
    """Return the last value of a flag that is needed before the others are parsed; None if it is absent."""
    value = None
    for i, word in enumerate(argv):
        if word == flag and i + 1 < len(argv):
            value = argv[i + 1]
        elif word.startswith(flag + "="):
            value = word.removeprefix(flag + "=")
    return value


def with_selected_choices(config: Config, argv: Sequence[str]) -> Config:
    """Return a config with the choices that flags name, such as `--objective renyi`.

    Args:
      config: the config to start from, a preset for example.
      argv: the arguments of a command.

    Returns:
      The config, not validated. The settings that an old and a new choice share keep their values.

    Raises:
      InputError: the name of a choice is unknown, or there is a flag for a setting of a choice that is not selected.
    """
    names = {section: name for section in SECTIONS if (name := flag_value(argv, f"--{section}")) is not None}
    selected = replace_settings(config, names)
    known = flatten(selected)
    for path in _setting_flags(argv):
        if path not in known and choices_with(path):
            raise unknown_setting_error(path, known)
    return selected


def _setting_flags(argv: Sequence[str]) -> list[str]:
    """Return the paths "section.field" of all flags that are settings of choices."""
    words = (word[2:].partition("=")[0].replace("-", "_") for word in argv if word.startswith("--"))
    paths = (path for path in words if path.partition(".")[0] in SECTIONS and "." in path)
    return [path.replace(".no_", ".", 1) for path in paths]


def similar_flags(flag: str, options: Sequence[str]) -> list[str]:
    """Return the flags that may have been intended by an unknown flag.

    Args:
      flag: the unknown flag, such as `--model.hidden`.
      options: flags that are no settings, and may be intended too.

    Returns:
      `--SECTION` for `--SECTION.name` of a choice; else the settings with the same last part, such as
      `--network.hidden`; else the most similar flag, if there is one.
    """
    section, _, field = flag.removeprefix("--").rpartition(".")
    if section in SECTIONS and field == "name":
        return [f"--{section}"]
    known = dict.fromkeys("--" + setting.path.replace("_", "-") for setting in all_settings())
    same = [other for other in known if re.split(r"--|\.", other)[-1] == field.replace("_", "-")]
    return same or get_close_matches(flag, [*options, *known], n=1)


def options_with_settings(
    cls: type[T], config: Config, *, command: str, only: Collection[str] | None = None, **defaults: Any
) -> T:
    """Return the options of a command together with all settings of a config, as the default for tyro.

    Args:
      cls: the dataclass of the command's options.
      config: the settings, whose values are the defaults of their flags.
      command: the command, for the help.
      only: the sections whose settings are options; None for all.
      **defaults: defaults of the command's options that differ from those of `cls`.

    Returns:
      An instance of a class derived from `cls`. It has a field for each section, whose fields are the settings.
    """
    import tyro

    values = flatten(config)
    sections: dict[str, list[Setting]] = {}
    for path, setting in selected_settings(values).items():
        section = path.partition(".")[0]
        if only is None or section in only:
            sections.setdefault(section, []).append(setting)
    fields = []
    for section, settings in sections.items():
        if len(settings) == 1 and section not in SECTIONS:  # the seed, which is no section
            fields.append((section, _annotated(settings[0]), values[section]))
        else:
            part = _section_class(section, settings, values, command, inspect.getdoc(getattr(config, section)))
            # The help is stated, because tyro would search for it in source code that a class made here does not have.
            fields.append((section, Annotated[part, tyro.conf.arg(help=part.__doc__)], part()))
    return _make_class(cls.__name__, fields, cls.__doc__, bases=(cls,))(**defaults)


def settings_of(options: Any, config: Config) -> dict[str, Any]:
    """Return the settings in parsed options, {"section.field": value}.

    Args:
      options: an instance of the class that `options_with_settings` made for the config.
      config: the config.
    """
    values = {}
    for path in flatten(config):
        section, _, name = path.partition(".")
        if not hasattr(options, section):
            continue
        part = getattr(options, section)
        values[path] = getattr(part, name or "name") if dataclasses.is_dataclass(part) else part
    return values


def _section_class(
    section: str, settings: Sequence[Setting], values: Mapping[str, Any], command: str, text: str | None
) -> type:
    """Return the class of a section, described by `text` or, if it is a choice, by the choice; `name` is its name."""
    fields = []
    for setting in settings:
        name = setting.path.partition(".")[2]
        if section in SECTIONS and not name:
            text = _summary(choices(section)[values[section]])
            text += f" `vae-jax {command} --{section} NAME --help` lists the settings of another choice."
        fields.append((name or "name", _annotated(setting), values[setting.path]))
    return _make_class(section, fields, text)


def _annotated(setting: Setting) -> Any:  # a type for tyro
    """Return the type of a setting with its help text and, for the name of a choice, its flag."""
    import tyro

    if setting.path in SECTIONS:
        argument = tyro.conf.arg(name=setting.path, prefix_name=False, help=setting.rule.help)
    else:
        argument = tyro.conf.arg(help=setting.rule.help)
    return Annotated[setting.annotation, argument]


def _make_class(
    name: str, fields: Sequence[tuple[str, Any, Any]], text: str | None, bases: tuple[type, ...] = ()
) -> type:
    """Return a frozen dataclass of fields (name, type, default) with a docstring."""
    declared = [(field, kind, dataclasses.field(default=default)) for field, kind, default in fields]
    return dataclasses.make_dataclass(name, declared, bases=bases, namespace={"__doc__": text}, frozen=True)


def _summary(cls: type[Choice]) -> str:
    """Return the first sentence of a docstring; "" if there is none, or only the one that dataclasses generate."""
    text = " ".join((cls.__doc__ or "").partition("\n\n")[0].split())
    return "" if text.startswith(f"{cls.__name__}(") else text
