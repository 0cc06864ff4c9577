"""Checks of a config: the types and ranges of its settings, and the combinations that cannot be used.

A check that fails raises InputError with one line: `SETTING=VALUE`, what is wrong with it, and what to do. Ranges are
declared with each field (`vae_jax.setting`). What a choice needs of other choices is in its method `check`.
"""

import math
import struct
import types
import typing
from collections.abc import Sequence
from typing import Any, Literal

from vae_jax.config.fields import Rule
from vae_jax.config.flat import flatten, selected_settings
from vae_jax.config.registry import SECTIONS, suggestion
from vae_jax.config.schema import PARTS, Config
from vae_jax.errors import InputError

MAX_INT = 2**31 - 1  # of a number inside a compiled program
MIN_FLOAT, MAX_FLOAT = 2.0**-126, (2 - 2.0**-23) * 2.0**127  # normal numbers in float32


def validate(config: Config) -> Config:
    """Return the config unchanged if every setting can be used.

    Args:
      config: the config to check.

    Returns:
      The same object.

    Raises:
      InputError: a value has the wrong type or is out of range, has no effect with the other settings, or contradicts
        them.
    """
    values = flatten(config)
    for path, (_, annotation, _, rule) in selected_settings(values).items():
        _check_type(path, values[path], annotation)
        _check_range(path, values[path], rule)
    for path in ("train.evaluate_every", "train.save_every"):
        every, unit = values[path], config.train.log_every
        require(every % unit == 0, path, every, f"a multiple of train.log_every={unit}, for example "
                f"{max(1, round(every / unit)) * unit}")  # fmt: skip
    _check_microbatches(config)
    if config.data.streaming == "never":
        require_default(config.data.workers == 0, "data.workers", config.data.workers, "with data.streaming=never",
                        "use auto or always")  # fmt: skip
    if config.train.patience:
        require_default(config.train.evaluate_every > 0, "train.patience", config.train.patience,
                        "with train.evaluate_every=0", "set train.evaluate_every")  # fmt: skip
    _check_labels(config)
    if config.train.nonfinite == "stop":
        default = type(config.train).max_skips
        require_default(config.train.max_skips == default, "train.max_skips", config.train.max_skips,
                        "with train.nonfinite=stop", "use skip")  # fmt: skip
    _check_unused_parts(config)
    for section in SECTIONS:
        getattr(config, section).check(config)
    return config


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


def require_default(condition: bool, path: str, value: Any, reason: str, remedy: str) -> None:
    """Raise InputError unless the condition holds: the value of a setting that has no effect is not ignored.

    Args:
      condition: what must hold.
      path: the setting.
      value: its value.
      reason: with what the setting has no effect.
      remedy: what to do except for removing it.

    Raises:
      InputError: `PATH=VALUE has no effect REASON; remove it or REMEDY`.
    """
    if not condition:
        raise InputError(f"{path}={value} has no effect {reason}; remove it or {remedy}")


def any_of(options: Sequence[str]) -> str:
    """Return "a", "a or b", or "a, b or c"."""
    return " or ".join(filter(None, (", ".join(options[:-1]), options[-1])))


def _check_labels(config: Config) -> None:
    data, training, model = config.data, config.train, config.model
    if not model.reads_labels:
        settings = (("data", "labelled"), ("evaluation", "class_samples"))
        for section, name in settings if model.reads_vectors else (("train", "label_dropout"), *settings):
            _refuse_other_value(config, section, name, f"with model={model.name}, which reads no labels",
                                "use model=conditional, m2 or sdgm")  # fmt: skip
    if not data.labelled:
        for section, name in (("data", "labelled_draw"), ("train", "labelled_share")):
            _refuse_other_value(config, section, name, "with data.labelled=0", "set data.labelled")
        return
    classes = getattr(model, "num_classes", 1)  # a setting of each model that reads labels
    require(
        data.labelled % classes == 0,
        "data.labelled",
        data.labelled,
        f"a multiple of model.num_classes={classes}, for example {classes * max(1, data.labelled // classes)}",
    )
    require(data.streaming != "always", "data.labelled", data.labelled,
            "0 with data.streaming=always, since it needs all labels in memory")  # fmt: skip
    require(training.batch_size > 1, "train.batch_size", training.batch_size,
            "2 or more with data.labelled, for examples with a label and without one")  # fmt: skip


def _refuse_other_value(config: Config, section: str, name: str, reason: str, remedy: str) -> None:
    """Raise InputError unless a setting has its default."""
    part = getattr(config, section)
    value = getattr(part, name)
    require_default(value == getattr(type(part), name), f"{section}.{name}", value, reason, remedy)


def _check_unused_parts(config: Config) -> None:
    """Raise InputError if a part of the model, such as the network, is set although the model does not use it."""
    default = Config()
    for section in PARTS:
        part = getattr(config, section)
        if section not in config.model.parts:
            require_default(part == getattr(default, section), section, part.name,
                            f"with model={config.model.name}", "use another model")  # fmt: skip


def _check_microbatches(config: Config) -> None:
    parts, batch_size, objective = config.train.microbatches, config.train.batch_size, config.objective
    if objective.compares_examples:
        require(batch_size > 1, "train.batch_size", 1,
                f"2 or more with objective={objective.name}, which compares the codes of a batch")  # fmt: skip
    if not parts:
        return
    nearest = min((n for n in range(1, batch_size + 1) if batch_size % n == 0), key=lambda n: abs(n - parts))
    require(parts == nearest, "train.microbatches", parts,
            f"a divisor of train.batch_size={batch_size}, for example {nearest}")  # fmt: skip
    if objective.compares_examples:
        require(parts == 1, "train.microbatches", parts,
                f"1 with objective={objective.name}, which compares all codes of a batch")  # fmt: skip


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
