"""Labels and other conditions that a model reads: which classes there are, and whether the data have them."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vae_jax.config import Config
from vae_jax.data import ArrayDataset, Dataset, LabelledRows, Records
from vae_jax.distributions import label_mask
from vae_jax.errors import InputError
from vae_jax.inference import known_labels


def num_classes(model: Any) -> int | None:
    """Return the number of classes of a model that reads labels, its attribute `num_classes`; None for another one."""
    return getattr(model, "num_classes", None)


def condition_dim(model: Any) -> int | None:
    """Return the number of numbers of a condition that a model reads, its attribute `condition_dim`; None if none."""
    return getattr(model, "condition_dim", None)


def reads_conditions(model: Any) -> bool:
    """Return whether a model reads labels, or vectors of numbers, in addition to x."""
    return num_classes(model) is not None or condition_dim(model) is not None


def spread_classes(count: int, classes: int) -> np.ndarray:
    """Return labels int32 [count] in ascending order, equally many of each class if `count` is a multiple."""
    return np.sort(np.arange(count, dtype=np.int32) % classes)


def num_summed_labels(model: Any, arrays: Mapping[str, np.ndarray]) -> int:
    """Return how many examples have a label that a semi-supervised model sums out in training; 0 for other models."""
    if not hasattr(model, "classify"):
        return 0
    labels = {name: jnp.asarray(arrays[name]) for name in ("y", "mask") if name in arrays}
    return int(np.sum(~np.asarray(known_labels(labels, len(arrays["x"])))))


def refuse_unknown_labels(model: Any, arrays: Mapping[str, np.ndarray], likelihood: str) -> None:
    """Raise InputError if a semi-supervised model sums out the label of an example, which a likelihood does not do."""
    if unknown := num_summed_labels(model, arrays):
        raise InputError(
            f"likelihood={likelihood} needs the labels of all examples, and {unknown:,} of {len(arrays['x']):,} have "
            "none, which the model sums out; evaluate examples with labels, or read nll_unlabelled of `vae-jax "
            "evaluate RUN`"
        )


def check_conditions(
    model: Any, dataset: Dataset, name: str, labelled: LabelledRows | None = None, *, split: str = "train"
) -> None:
    """Raise InputError unless a model that reads labels or vectors can read those of a data set.

    The values of labels that are streamed from disk are not read.

    Args:
      model: the model.
      dataset: the examples.
      name: the name of their source, for the error.
      labelled: the labels that training sees; None for all that are known.
      split: the split of the examples, for the error.

    Raises:
      InputError: there are no labels, labels of other classes, or too few of a class; or training sees some labels
        alone, and the examples are streamed, or their mask is one of numbers of x; or there are no conditions, or those
        of another size.
    """
    where = f"data.name={name}" if split == "train" else f"the split {split} of data.name={name}"
    if (size := condition_dim(model)) is not None:
        _check_vectors(size, dataset, where)
    classes = num_classes(model)
    if classes is None:
        return
    if "y" not in dataset.spec:
        remedy = "use data with labels" if split == "train" else f"add them, such as y_{split} to a .npz file"
        raise InputError(f"{where} has no labels, which the model reads; {remedy}, or use another model, such as vae")
    if labelled is not None and isinstance(dataset, Records):
        raise InputError(f"data.labelled={labelled.count} needs the labels in memory; use data.streaming=never")
    if not isinstance(dataset, ArrayDataset):
        return
    known = label_mask(dataset.arrays)
    labels = dataset.arrays["y"] if known is None else dataset.arrays["y"][known]
    low, high = (labels.min(), labels.max()) if len(labels) else (0, 0)
    if low < 0:
        raise InputError(
            f"{where} has the label {low}; use labels of at least 0, and a mask for examples without a label"
        )
    if high >= classes:
        raise InputError(
            f"model.num_classes={classes} must be greater than the largest label of {where}, {high}; use {high + 1}"
        )
    if labelled is not None:
        _check_labelled(labelled, dataset.arrays, name)


def _check_vectors(size: int, dataset: Dataset, where: str) -> None:
    """Raise InputError unless each example has a condition of so many numbers."""
    if "c" not in dataset.spec:
        raise InputError(
            f"{where} has no conditions, which the model reads; use a .npz file with an array `conditions` "
            "[N, C], or another model, such as vae"
        )
    (found,) = dataset.spec["c"].shape
    if found != size:
        raise InputError(f"model.condition_dim={size} must be {found}, the numbers of a condition of {where}")


def labelled_rows(config: Config) -> LabelledRows | None:
    """Return the labels that training sees, as the settings describe them; None for all that are known."""
    data = config.data
    if not data.labelled:
        return None
    classes: int = getattr(config.model, "num_classes")  # noqa: B009  # a setting of the models that read labels
    return LabelledRows(data.labelled, classes, config.train.labelled_share, data.labelled_draw)


def labelled_examples(labelled: LabelledRows, dataset: Dataset) -> np.ndarray:
    """Return the positions of the training examples whose labels are seen, int32 [C, n], with a row for each class.

    Args:
      labelled: the labels that training sees, such as `Experiment.labelled`.
      dataset: the training examples.
    """
    arrays = dataset.read_all()
    return np.asarray(jax.jit(labelled.choose)(arrays["y"], label_mask(arrays)))


def _check_labelled(labelled: LabelledRows, arrays: Mapping[str, np.ndarray], name: str) -> None:
    """Raise InputError unless each class has enough training examples with a known label."""
    known = label_mask(arrays)
    if known is None and "mask" in arrays:
        raise InputError(f"data.labelled={labelled.count} must be 0 for examples with a mask of the numbers of x")
    labels = arrays["y"] if known is None else arrays["y"][known]
    fewest = int(np.bincount(labels, minlength=labelled.num_classes).min())
    if fewest < labelled.of_each_class:
        raise InputError(
            f"data.labelled={labelled.count} must be at most {fewest * labelled.num_classes}: a class of data.name="
            f"{name} has {fewest} training examples with a label"
        )
