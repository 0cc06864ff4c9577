"""Sources of data: the splits train, validation and test of a data set. Here those of a user's arrays."""

import contextlib
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np

from vae_jax.data import kinds, splits
from vae_jax.data.dataset import ArrayDataset, Arrays, Dataset
from vae_jax.errors import InputError, NoExamplesError

NAMES = ("x", "y", "mask", "c")  # of the arrays of a data set


class Source(Protocol):
    """The splits of a data set.

    Attributes:
      name: a short name for messages.
    """

    @property
    def name(self) -> str:
        """A short name for messages."""
        ...

    def split(self, split: str) -> ArrayDataset:
        """Return the examples of a split in memory.

        Args:
          split: train, validation or test.

        Raises:
          InputError: the split or the data cannot be used, or the data do not fit in memory.
          NoExamplesError: the split is empty: the source does not have it, and `holdout` results in no examples.
          StorageError: the data are damaged.
        """
        ...

    def training(self) -> Dataset:
        """Return what training reads: the examples of the split train, in memory or streamed.

        Raises:
          InputError: as `split`, or the data cannot be streamed although they must be.
          StorageError: the data are damaged.
        """
        ...


@dataclasses.dataclass(frozen=True, eq=False)
class ArraySource:
    """A source in memory; `from_arrays` and `from_splits` check and convert the arrays.

    Attributes:
      parts: {split: stored arrays}, at least of the split train.
      kind: a name in `KINDS`.
      holdout: fraction of the training examples that is held out for a validation or test split that is missing.
      name: a short name for messages.
    """

    parts: Mapping[str, Arrays]
    kind: str
    holdout: float = 0.1
    name: str = "arrays"

    def split(self, split: str) -> ArrayDataset:
        """Return the examples of a split.

        Args:
          split: train, validation or test.

        Returns:
          The examples, in the order of the arrays.

        Raises:
          InputError: an unknown split, or `holdout` is not allowed.
          NoExamplesError: the split is missing, and `holdout` results in no examples.
        """
        sizes = {part: len(arrays["x"]) for part, arrays in self.parts.items()}
        part, indices = splits.select(sizes, split, self.holdout)
        return ArrayDataset(self.parts[part], self.kind).select(indices, first_index=splits.first_index(part, sizes))

    def training(self) -> ArrayDataset:
        """Return the examples of the split train."""
        return self.split("train")


def _is_same(data: ArrayDataset, other: ArrayDataset) -> bool:
    """Return whether two splits contain the same examples of their source."""
    if data is other:
        return True
    stated = "index" in data.origin and "index" in other.origin
    return stated and np.array_equal(data.origin["index"], other.origin["index"])


def join_splits(split: Callable[[str], ArrayDataset], name: str) -> ArrayDataset:
    """Return the examples of all splits of a source, once each, in the order of the source.

    Args:
      split: returns the examples of train, validation or test, as `Source.split`. If they do not state their index in
        the source, the order is train, validation, test.
      name: a short name of the source for messages.

    Returns:
      The examples. Their origin contains `split`, the name of the split of each.

    Raises:
      InputError: a split cannot be used, or its arrays differ from those of the others.
      StorageError: a split is damaged.
    """
    found: dict[str, ArrayDataset] = {}
    for part in splits.SPLITS:
        with contextlib.suppress(NoExamplesError):
            data = split(part)
            if not any(_is_same(data, other) for other in found.values()):  # too few examples: the splits are the same
                found[part] = data
    shapes = {part: {key: array.shape[1:] for key, array in data.arrays.items()} for part, data in found.items()}
    if any(shape != next(iter(shapes.values())) for shape in shapes.values()):
        raise InputError(f"{name}: its splits have arrays {shapes}; use splits with equal arrays")
    datasets = list(found.values())
    labelled = [{"split": np.full(len(data), part), **data.origin} for part, data in found.items()]
    arrays, origin = (
        {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
        for parts in ([data.arrays for data in datasets], labelled)
    )
    joined = ArrayDataset(arrays, datasets[0].kind, origin)
    if "index" not in origin:
        return joined.select(None)
    order = np.argsort(origin["index"], kind="stable")
    return ArrayDataset(joined.read(order), joined.kind, {key: array[order] for key, array in origin.items()})


def from_arrays(
    x: Any,
    y: Any = None,
    mask: Any = None,
    c: Any = None,
    *,
    kind: str = "auto",
    holdout: float = 0.1,
    validation: Mapping[str, Any] | None = None,
    test: Mapping[str, Any] | None = None,
) -> ArraySource:
    """Return the source of arrays in memory.

    Args:
      x: training examples, an array or what `numpy.asarray` converts to one. Images [N, H, W] or [N, H, W, 1 or 3],
        uint8, bool, or floats in [0, 1], which are stored as uint8; vectors [N, D], finite floats, stored as float32;
        counts [N, D], integers of at least 0, stored as int32. A sparse matrix is converted to an array.
      y: labels, integers [N]; None if there are none.
      mask: bools: [N], which examples have a known label or condition, or of the shape of x; None if there is none.
      c: conditions, finite numbers [N] or [N, C], stored as float32 [N, C]; None if there are none.
      kind: images, vectors or counts; auto infers it as `infer_kind`.
      holdout: fraction of the training examples that is held out for validation, and for test, if they are None.
      validation: {"x": ..., "y": ..., "mask": ..., "c": ...} of the validation examples, with the same names as for
        training.
      test: the same of the test examples.

    Returns:
      The source.

    Raises:
      InputError: the arrays contradict each other, or have another shape, dtype or values than their kind.
    """
    train = {name: array for name, array in zip(NAMES, (x, y, mask, c), strict=True) if array is not None}
    given = {"train": train, "validation": validation, "test": test}
    return from_splits({part: arrays for part, arrays in given.items() if arrays is not None}, kind=kind,
                       holdout=holdout)  # fmt: skip


def from_splits(
    parts: Mapping[str, Mapping[str, Any]],
    *,
    kind: str = "auto",
    holdout: float = 0.1,
    name: str = "arrays",
    where: str = "",
) -> ArraySource:
    """Return the source of arrays by split.

    Args:
      parts: {"train": {"x": ..., "y": ..., "mask": ..., "c": ...}, "validation": ..., "test": ...}; only the x of the
        split train is required. Arrays as for `from_arrays`.
      kind: as for `from_arrays`.
      holdout: as for `from_arrays`.
      name: a short name for messages.
      where: the data set, at the start of an error message, with a space at its end.

    Returns:
      The source.

    Raises:
      InputError: as `from_arrays`; or `parts` has other names than these, or no training examples.
    """
    if kind not in ("auto", *kinds.KINDS):
        raise InputError(f"kind={kind!r} must be one of auto, {', '.join(kinds.KINDS)}")
    splits.check("train", holdout)
    if not isinstance(parts, Mapping) or "train" not in parts:
        raise InputError(f'{where or "the data set "}has no training examples; use {{"train": {{"x": ...}}, ...}}')
    stored: dict[str, dict[str, np.ndarray]] = {}
    for part, arrays in sorted(parts.items(), key=lambda item: item[0] != "train"):  # the first one decides the kind
        splits.check(part, holdout)
        prefix = where + ("" if part == "train" else f"{part} ")
        stored[part], kind = _stored(arrays, kind, prefix)
        _check_equal(stored[part], stored["train"], prefix)
    return ArraySource(stored, kind, holdout, name)


def _stored(arrays: Any, kind: str, prefix: str) -> tuple[dict[str, np.ndarray], str]:
    """Return the arrays of one split as they are stored, and their kind."""
    if not isinstance(arrays, Mapping) or "x" not in arrays or set(arrays) - set(NAMES):
        found = f"the arrays {sorted(map(str, arrays))}" if isinstance(arrays, Mapping) else type(arrays).__name__
        raise InputError(f'{prefix}examples are {found}; use {{"x": ...}}, with "y", "mask" and "c" if there are any')
    numbers = {name: _as_array(array, prefix + name) for name, array in arrays.items()}
    x = numbers["x"]
    is_inferred = kind == "auto"
    kind = kinds.infer_kind(x.dtype, x.shape) if is_inferred else kind
    stored = {"x": kinds.check_examples(x, kind, f"{prefix}x")}
    if is_inferred:
        kinds.check_inferred(stored["x"], x.dtype, f"{prefix}x")
    if "y" in numbers:
        stored["y"] = kinds.check_labels(numbers["y"], len(x), f"{prefix}y")
    if "mask" in numbers:
        stored["mask"] = kinds.check_mask(numbers["mask"], stored["x"].shape, f"{prefix}mask")
    if "c" in numbers:
        stored["c"] = kinds.check_conditions(numbers["c"], len(x), f"{prefix}c")
    return stored, kind


def _as_array(array: Any, where: str) -> np.ndarray:
    """Return a NumPy array; a sparse matrix, which NumPy would make an object of, is converted."""
    try:
        return np.asarray(array.toarray() if hasattr(array, "toarray") else array)
    except ValueError:
        raise InputError(f"{where} has rows of different lengths; use an array") from None


def _check_equal(arrays: Arrays, train: Arrays, prefix: str) -> None:
    """Raise InputError if the examples of a split differ in names or shapes from those of the training split."""
    if arrays.keys() != train.keys():
        raise InputError(
            f"{prefix}examples have the arrays {', '.join(arrays)}, but training examples have {', '.join(train)}; "
            "use the same"
        )
    for name in {"x", "c"} & arrays.keys():
        if arrays[name].shape[1:] != train[name].shape[1:]:
            raise InputError(
                f"{prefix}{name} has examples of shape {list(arrays[name].shape[1:])}, but training examples have "
                f"shape {list(train[name].shape[1:])}; use the same"
            )
