"""The registry of choices: for each section of a config, the settings classes by name, each next to its function.

A choice is a frozen dataclass whose fields are its settings. It is registered where the code that reads them stands:

    @register("objective", "renyi")
    @dataclasses.dataclass(frozen=True)
    class RenyiConfig(ObjectiveConfig):
        alpha: float = setting(0.5, "Order of the Rényi divergence.", minimum=0)

`objective=renyi` then selects the class, and `objective.alpha` is a setting. Modules of this package register their
choices when they are imported, which the first look into a section causes; `vae-jax --import MODULE` imports others.
"""

import dataclasses
import importlib
import pkgutil
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from vae_jax.config.fields import class_settings, rule_of
from vae_jax.config.values import check_value, suggestion
from vae_jax.errors import InputError

if TYPE_CHECKING:
    from vae_jax.config.schema import Config

# The modules that declare the choices of each section: all modules of a folder, or one module.
_HOMES = {
    "preprocess": "vae_jax.data.preprocess",
    "model": "vae_jax.models",
    "network": "vae_jax.models",
    "posterior": "vae_jax.models",
    "prior": "vae_jax.models",
    "likelihood": "vae_jax.models",
    "objective": "vae_jax.inference",
    "estimator": "vae_jax.inference",
    "optimizer": "vae_jax.training",
    "schedule": "vae_jax.training",
}
SECTIONS = tuple(_HOMES)
_registered: dict[str, dict[str, type["Choice"]]] = {section: {} for section in SECTIONS}
_imported: set[str] = set()


@dataclasses.dataclass(frozen=True)
class Choice:
    """The base of all settings classes that are selected by name.

    Attributes:
      section: the section of the config, such as "objective"; set by `register`.
      name: the name that selects the class, such as "renyi"; set by `register`.
    """

    section: ClassVar[str] = ""
    name: ClassVar[str] = ""

    def check(self, config: "Config") -> None:
        """Raise InputError if the choice cannot be used with the other settings of a config."""


C = TypeVar("C", bound=type[Choice])


def register(section: str, name: str) -> Callable[[C], C]:
    """Return a class decorator that makes a settings class known under a name, in every command and in config.json.

    Args:
      section: one of `SECTIONS`.
      name: the name that selects the class.

    Returns:
      The decorator. It raises TypeError if the class is not a frozen dataclass derived from `Choice` whose fields are
      made by `setting` and have other names than `section` and `name`, and InputError if the section is unknown or
      another class has the name.
    """
    if section not in _registered:
        raise InputError(f"section={section!r} must be one of {', '.join(SECTIONS)}{suggestion(section, SECTIONS)}")

    def decorate(cls: C) -> C:
        if not (issubclass(cls, Choice) and "__dataclass_params__" in vars(cls)):
            raise TypeError(f"{cls.__qualname__} must be a frozen dataclass derived from the base of its section")
        for field in dataclasses.fields(cls):
            rule_of(field.metadata, f"{cls.__qualname__}.{field.name}")
            if field.name in ("section", "name"):
                raise TypeError(f"{cls.__qualname__}.{field.name} is set by `register`; rename the setting")
        other = _registered[section].get(name)
        if other is not None and (other.__module__, other.__qualname__) != (cls.__module__, cls.__qualname__):
            raise InputError(f"{section}={name} is already the name of {other.__module__}.{other.__qualname__}; rename")
        cls.section, cls.name = section, name
        _registered[section][name] = cls
        return cls

    return decorate


def choices(section: str) -> Mapping[str, type[Choice]]:
    """Return the registered classes of a section by name.

    Args:
      section: one of `SECTIONS`.

    Returns:
      {name: class}, in the order of registration.
    """
    _import_home(_HOMES[section])
    return _registered[section]


def choice(section: str, name: str, **fields: Any) -> Any:
    """Return a choice by name.

    Args:
      section: one of `SECTIONS`.
      name: the name of a registered class.
      **fields: its settings; the others have their defaults. Lists are converted to tuples. Arrays, such as a number
        that is known only inside a compiled program, are not checked.

    Returns:
      An instance of the class.

    Raises:
      InputError: no class of the section has the name, or a setting is unknown, of another type or out of range.
    """
    cls = choice_class(section, name)
    known = {setting.path: setting for setting in class_settings(cls, section)}
    given = {field: tuple(value) if isinstance(value, list) else value for field, value in fields.items()}
    for field, value in given.items():
        path = f"{section}.{field}"
        if path not in known:
            raise InputError(f"{path} is not a setting of {section}={name}{suggestion(path, known)}")
        if not hasattr(value, "dtype"):
            check_value(path, value, known[path].annotation, known[path].rule)
    return cls(**given)


def choice_class(section: str, name: str) -> type[Choice]:
    """Return the class of a choice by name.

    Args:
      section: one of `SECTIONS`.
      name: the name of a registered class.

    Raises:
      InputError: no class of the section has the name.
    """
    known = choices(section)
    if not isinstance(name, str) or name not in known:
        raise InputError(
            f"{section}={name!r} must be one of {', '.join(known)}, or one that a module registers, which "
            f"`vae-jax --import MODULE` imports{suggestion(str(name), known)}"
        )
    return known[name]


def _import_home(home: str) -> None:
    """Import a module, or all modules of a folder, so that their choices are registered."""
    if home in _imported:
        return
    _imported.add(home)  # first, because an imported module may look into the same section
    module = importlib.import_module(home)
    for info in pkgutil.iter_modules(getattr(module, "__path__", ())):
        importlib.import_module(f"{home}.{info.name}")
