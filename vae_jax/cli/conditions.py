"""The option `--condition` of the commands on a run: a class, a vector of numbers, or no condition."""

import contextlib
import hashlib
import math
from typing import TYPE_CHECKING

from vae_jax.errors import InputError

if TYPE_CHECKING:
    import numpy as np

    from vae_jax.runs import Experiment

_MAX_NAMED = 60  # characters of a condition in the name of a file


def repeat_condition(experiment: "Experiment", condition: str, count: int) -> "dict[str, np.ndarray]":
    """Return the arrays of `count` examples that have one condition, {} for no condition.

    Args:
      experiment: its model reads the condition.
      condition: a class such as "7", numbers such as "0.3,1.2", or "none".
      count: the number N of examples.

    Returns:
      Labels {"y": int32 [N]}, or vectors {"c": float32 [N, C]}.

    Raises:
      InputError: the model reads no conditions, or others; or its embedding for no condition is not trained.
    """
    import numpy as np

    from vae_jax.runs import condition_dim, num_classes

    classes, size = num_classes(experiment.model), condition_dim(experiment.model)
    if classes is None and size is None:
        raise InputError(f"--condition={condition} has no effect with a model that reads no labels; remove it")
    if condition == "none":
        _require_trained_without_condition(experiment)
        return {}
    numbers: list[float] = []
    with contextlib.suppress(ValueError):
        numbers = [float(word) for word in condition.split(",")]
    if size is not None:
        if len(numbers) != size or not all(map(math.isfinite, numbers)):
            raise InputError(
                f"--condition={condition} must be numbers separated by commas, as many as model.condition_dim={size}, "
                "or none"
            )
        return {"c": np.tile(np.array(numbers, np.float32), (count, 1))}
    if not (condition.isdecimal() and len(numbers) == 1):
        raise InputError(f"--condition={condition} must be a class of the model, or none")
    if not numbers[0] < (classes or 0):
        raise InputError(f"--condition={condition} must be at least 0 and less than model.num_classes={classes}")
    return {"y": np.full(count, int(condition), np.int32)}


def condition_variant(condition: str | None) -> str:
    """Return the end of the names of files for a condition; "" for None. That of a long one is a checksum."""
    if condition is None:
        return ""
    is_long = len(condition) > _MAX_NAMED
    return f"condition-{hashlib.sha256(condition.encode()).hexdigest()[:8] if is_long else condition}"


def _require_trained_without_condition(experiment: "Experiment") -> None:
    """Raise InputError if all training examples have a condition, so that the embedding for none is not trained."""
    has_unknown = experiment.training.label_dropout or experiment.labelled or "mask" in experiment.example_batch
    if not has_unknown and not hasattr(experiment.model, "classify"):
        raise InputError(
            "--condition=none needs a model that is trained with train.label_dropout, for example 0.1; train it again"
        )
