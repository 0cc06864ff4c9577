"""The type and the range of one setting: a value that is refused raises InputError with one line, `PATH=VALUE ...`."""

import math
import struct
import types
import typing
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import Any, Literal

from vae_jax.config.fields import Rule
from vae_jax.errors import InputError

MAX_INT = 2**31 - 1  # of a number inside a compiled program
MIN_FLOAT, MAX_FLOAT = 2.0**-126, (2 - 2.0**-23) * 2.0**127  # normal numbers in float32


def check_value(path: str, value: Any, annotation: Any, rule: Rule) -> None:
    """Raise InputError unless a setting has a value of its type and in its range.

    Args:
      path: the setting, such as "train.steps".
      value: its value.
      annotation: its type.
      rule: its limits.

    Raises:
      InputError: `PATH=VALUE must be ALLOWED`.
    """
    _check_type(path, value, annotation)
    _check_range(path, value, rule)


def require(condition: bool, path: str, value: Any, allowed: str) -> None:
    """Raise InputError unless the condition holds.

    Args:
      condition: what must hold.
      path: the setting.
      value: its value.
      allowed: what the value must be.

    Raises:
      InputError: `PATH=VALUE must be ALLOWED`.
    """
    if not condition:
        raise InputError(f"{path}={value} must be {allowed}")


def suggestion(word: str, known: Iterable[str]) -> str:
    """Return the end of an error message that suggests the choice most similar to a word.

    Args:
      word: the word that is not one of the choices.
      known: the words that are allowed.

    Returns:
      "; did you mean 'x'?" with the most similar choice x; "" if no choice is similar.
    """
    close = get_close_matches(word, list(known), n=1)
    return f"; did you mean '{close[0]}'?" if close else ""


def _check_range(path: str, value: Any, rule: Rule) -> None:
    """Raise InputError if a number, or an entry of a tuple, is outside of its limits, as given or in 32 bits."""
    numbers = value if isinstance(value, tuple) else (value,)
    numbers = [n for n in numbers if isinstance(n, int | float) and not isinstance(n, bool)]
    if not all(math.isfinite(n) for n in numbers if isinstance(n, float)):
        raise InputError(f"{path}={value} must be finite")
    if any(abs(n) > MAX_INT and not isinstance(n, float) for n in numbers) and rule.below is None:
        raise InputError(f"{path}={value} must be at most {MAX_INT}: integers have 32 bits")
    _check_limits(path, value, numbers, rule)
    for number in numbers:
        if isinstance(number, float):
            _check_float32(path, number, rule)


def _check_float32(path: str, value: float, rule: Rule) -> None:
    """Raise InputError if a number is infinite or zero in float32, or is rounded to a limit that it must not reach."""
    try:
        (rounded,) = struct.unpack("<f", struct.pack("<f", value))
    except OverflowError:
        raise InputError(f"{path}={value} must be at most {MAX_FLOAT:.1e}, the largest number in float32") from None
    if value and abs(rounded) < MIN_FLOAT:  # smaller numbers are flushed to zero
        raise InputError(f"{path}={value} must be 0 or at least {MIN_FLOAT:.1e}: in float32 it is 0")
    for limit, words in ((rule.below, "less than"), (rule.above, "greater than")):
        require(rounded != limit, path, value, f"{words} {limit} also in float32, which has 7 digits")


def _check_limits(path: str, value: Any, numbers: Sequence[float], rule: Rule) -> None:
    entries = "numbers " if isinstance(value, tuple) else ""
    limits = (
        (rule.above, lambda n, limit: n > limit, "greater than"),
        (rule.minimum, lambda n, limit: n >= limit, "at least"),
        (rule.below, lambda n, limit: n < limit, "less than"),
        (rule.maximum, lambda n, limit: n <= limit, "at most"),
    )
    stated = [f"{words} {limit}" for limit, _, words in limits if limit is not None]
    inside = all(holds(n, limit) for n in numbers for limit, holds, _ in limits if limit is not None)
    require(inside, path, value, entries + " and ".join(stated))


def _check_type(path: str, value: Any, annotation: Any) -> None:
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Literal:
        require(value in args, path, repr(value), "one of " + ", ".join(args) + suggestion(str(value), args))
    elif origin is tuple:
        valid = isinstance(value, tuple) and all(type(v) is args[0] for v in value)
        require(valid, path, repr(value), f"a list of {args[0].__name__}")
    elif origin in (typing.Union, types.UnionType):
        require(isinstance(value, args), path, repr(value), "of type " + str(annotation).replace(" | ", " or "))
    elif annotation is float:
        require(type(value) in (int, float), path, repr(value), "a number")
    else:
        require(type(value) is annotation, path, repr(value), f"of type {annotation.__name__}")
