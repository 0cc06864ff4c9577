"""Parts and settings of an experiment that is made by hand, as config.json stores them for a resumed run to compare."""

import functools
import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from vae_jax.errors import InputError


def describe_part(part: Any) -> str:
    """Return a part of an experiment as text without addresses of memory, so that each start of a script has the same.

    Args:
      part: a module, a function, a `functools.partial` or a number.

    Returns:
      The name of a function, with the arguments of a partial; the repr of anything else.
    """
    if isinstance(part, functools.partial):
        given = [*map(describe_part, part.args)]
        given += [f"{name}={describe_part(value)}" for name, value in part.keywords.items()]
        return f"{describe_part(part.func)}({', '.join(given)})"
    named = getattr(part, "__qualname__", None)
    return named or " ".join(re.sub(r" at 0x[0-9a-f]+", "", repr(part)).split())


def described_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of an experiment that is made by hand as config.json stores them.

    Args:
      settings: {name: value}. A value is None, a text, a number, a bool, or a list, tuple or dictionary of these.
        Arrays and NumPy numbers of a single value are converted.

    Returns:
      {"settings.NAME": value}.

    Raises:
      InputError: a value has another type, or a number is not finite.
    """
    return {f"settings.{name}": _stored(f"settings.{name}", value) for name, value in settings.items()}


def _stored(path: str, value: Any) -> Any:
    """Return a value as JSON stores it; raise InputError if it cannot."""
    if isinstance(value, Mapping):
        return {str(name): _stored(f"{path}.{name}", entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_stored(path, entry) for entry in value]
    number = value.item() if hasattr(value, "dtype") and np.ndim(value) == 0 else value
    if isinstance(number, float) and not math.isfinite(number):
        raise InputError(f"{path}={number} must be finite")
    if not isinstance(number, bool | int | float | str | None):
        raise InputError(
            f"{path}={value!r} must be None, a text, a number, or a list or dictionary of these; convert it, for "
            "example with str(...)"
        )
    return number
