"""Labels of the examples of a model that reads them: which classes there are, and whether the data have them."""

from typing import Any

import numpy as np

from vae_jax.data import ArrayDataset, Dataset
from vae_jax.errors import InputError
from vae_jax.models import label_mask


def num_classes(model: Any) -> int | None:
    """Return the number of classes of a model that reads labels, its attribute `num_classes`; None for another one."""
    return getattr(model, "num_classes", None)


def spread_classes(count: int, classes: int) -> np.ndarray:
    """Return labels int32 [count] in ascending order, equally many of each class if `count` is a multiple."""
    return np.sort(np.arange(count, dtype=np.int32) % classes)


def check_labels(model: Any, dataset: Dataset, name: str) -> None:
    """Raise InputError unless a model that reads labels can read those of a data set.

    The values of labels that are streamed from disk are not read.

    Args:
      model: the model.
      dataset: the examples.
      name: the name of their source, for the error.

    Raises:
      InputError: there are no labels, or labels of other classes.
    """
    classes = num_classes(model)
    if classes is None:
        return
    if "y" not in dataset.spec:
        raise InputError(
            f"data.name={name} has no labels, which the model reads; use data with labels, or another model, such as "
            "vae"
        )
    if not isinstance(dataset, ArrayDataset):
        return
    known = label_mask(dataset.arrays)
    labels = dataset.arrays["y"] if known is None else dataset.arrays["y"][known]
    low, high = (labels.min(), labels.max()) if len(labels) else (0, 0)
    if low < 0:
        raise InputError(
            f"data.name={name} has the label {low}; use labels of at least 0, and a mask for examples without a label"
        )
    if high >= classes:
        raise InputError(
            f"model.num_classes={classes} must be greater than each label of data.name={name}, for example {high + 1}"
        )
