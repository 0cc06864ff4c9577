"""Checks of a config: the types and ranges of its settings, and the combinations that cannot be used.

A check that fails raises InputError with one line: `SETTING=VALUE`, what is wrong with it, and what to do. Ranges are
declared with each field (`vae_jax.setting`). What a choice needs of other choices is in its method `check`.
"""

from collections.abc import Sequence
from typing import Any

from vae_jax.config.fields import class_settings
from vae_jax.config.flat import flatten, selected_settings
from vae_jax.config.registry import SECTIONS
from vae_jax.config.schema import PARTS, SECTION_CLASSES, Config, DataConfig, EvaluationConfig, TrainConfig
from vae_jax.config.values import check_value, require
from vae_jax.errors import InputError


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
        check_value(path, values[path], annotation, rule)
    _check_training(config.train)
    _check_microbatches(config)
    if config.data.streaming == "never":
        require_default(config.data.workers == 0, "data.workers", config.data.workers, "with data.streaming=never",
                        "use auto or always")  # fmt: skip
    _check_labels(config)
    _check_unused_parts(config)
    for section in SECTIONS:
        getattr(config, section).check(config)
    return config


def validate_section(section: str, part: DataConfig | TrainConfig | EvaluationConfig) -> None:
    """Check one section without the rest of a config, such as the training of an experiment that is made by hand.

    Args:
      section: data, train or evaluation.
      part: its settings.

    Raises:
      InputError: the part is not of the section's class, a value has the wrong type or is out of range, or a value has
        no effect with the other settings of the section, or contradicts them.
    """
    if type(part) is not (cls := SECTION_CLASSES[section]):
        raise InputError(
            f"{section}={type(part).__name__} must be of type {cls.__name__}; use vae_jax.{cls.__name__}(...)"
        )
    for path, annotation, _, rule in class_settings(cls, section):
        check_value(path, getattr(part, path.removeprefix(f"{section}.")), annotation, rule)
    if isinstance(part, TrainConfig):
        _check_training(part)


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


def _check_training(train: TrainConfig) -> None:
    """Raise InputError if the settings of the training contradict each other, or one of them has no effect."""
    unit = train.log_every
    for name in ("evaluate_every", "save_every"):
        every = getattr(train, name)
        require(every % unit == 0, f"train.{name}", every, f"a multiple of train.log_every={unit}, for example "
                f"{max(1, round(every / unit)) * unit}")  # fmt: skip
    if parts := train.microbatches:
        divisors = (n for n in range(1, train.batch_size + 1) if train.batch_size % n == 0)
        nearest = min(divisors, key=lambda n: abs(n - parts))
        require(parts == nearest, "train.microbatches", parts,
                f"a divisor of train.batch_size={train.batch_size}, for example {nearest}")  # fmt: skip
    if train.patience:
        require_default(train.evaluate_every > 0, "train.patience", train.patience, "with train.evaluate_every=0",
                        "set train.evaluate_every")  # fmt: skip
    if train.nonfinite == "stop":
        require_default(train.max_skips == TrainConfig.max_skips, "train.max_skips", train.max_skips,
                        "with train.nonfinite=stop", "use skip")  # fmt: skip


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
        require(parts < 2, "train.microbatches", parts,
                f"1 with objective={objective.name}, which compares all codes of a batch")  # fmt: skip
