"""The split that each example belongs to: a pure function of its index, the same on every machine."""

from collections.abc import Mapping

import numpy as np

from vae_jax.errors import InputError, NoExamplesError

SPLITS = ("train", "validation", "test")
ALL = "all"  # the name of all splits together, in the order of the source


def splitmix64(counters: np.ndarray) -> np.ndarray:
    """Return pseudo-random bits for uint64 counters, uint64 of the same shape (Steele, Lea & Flood, 2014).

    The function is a bijection, so different counters never have the same bits. Unlike a library's random generator,
    it cannot change between versions.
    """
    z = (counters + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def hash_order(num_examples: int) -> np.ndarray:
    """Return the indices 0..N-1 sorted by their `splitmix64`, int64 [N]."""
    return np.argsort(splitmix64(np.arange(num_examples, dtype=np.uint64)))


def num_held_out(num_examples: int, holdout: float) -> int:
    """Return N `holdout`, rounded to the nearest integer, and at least 1 unless `holdout` is 0."""
    return max(1, int(num_examples * holdout + 0.5)) if holdout > 0 else 0


def check(split: str, holdout: float) -> None:
    """Raise InputError for an unknown split, or for a `holdout` outside [0, 1)."""
    if split not in SPLITS:
        raise InputError(f"split={split!r} is not a split; use {', '.join(SPLITS[:-1])} or {SPLITS[-1]}")
    if isinstance(holdout, bool) or not isinstance(holdout, (int, float)) or not 0 <= holdout < 1:
        raise InputError(f"data.holdout={holdout!r} must be a number at least 0 and less than 1, for example 0.1")


def select(
    sizes: Mapping[str, int], split: str, holdout: float, groups: np.ndarray | None = None
) -> tuple[str, np.ndarray | None]:
    """Return where the examples of `split` are: the split of the source, and the sorted indices in it (None: all).

    A missing test split is held out of the source's training examples first, and a missing validation split out of
    the remaining ones. The three splits are disjoint and contain every example. The exception is a source with too few
    training examples to hold out any, see `too_few`: each missing split is equal to the training examples.

    Args:
      sizes: The number of examples of each split of the source.
      split: train, validation or test.
      holdout: The share of the training examples that is held out for a missing split.
      groups: A number for each training example, [N]; those with the same number stay in one split, and `holdout` is
        the share of the groups. None: each example is a group.

    Raises:
      InputError: If `split` or `holdout` is not allowed, or the source has no training examples.
      NoExamplesError: If the source does not have the split, and nothing is held out for it or remains for it.
    """
    check(split, holdout)
    if split in sizes and split != "train":
        return split, None
    if "train" not in sizes:
        raise InputError(
            f"split={split!r} needs training examples, but the dataset has only the splits {', '.join(sizes)}; "
            "use a dataset with a split train"
        )
    if too_few(sizes):
        return "train", None
    names, members = (None, None) if groups is None else np.unique(groups, return_inverse=True)
    remaining, parts = hash_order(sizes["train"] if names is None else len(names)), {}
    for part in ("test", "validation"):
        size = 0 if part in sizes else num_held_out(len(remaining), holdout)
        parts[part], remaining = remaining[:size], remaining[size:]
    indices = remaining if split == "train" else parts[split]
    if sizes["train"] and not len(indices):
        advice = "above 0" if holdout == 0 else "that keeps examples for each split"
        raise NoExamplesError(
            f"data.holdout={holdout} results in no {split} examples out of {sizes['train']}; use a share {advice}"
        )
    if members is not None:
        indices = np.flatnonzero(np.isin(members, indices))
    return "train", None if len(indices) == sizes["train"] else np.sort(indices)


def first_index(part: str, sizes: Mapping[str, int]) -> int:
    """Return the index of the first example of a part among all examples of a source, in the order of `SPLITS`."""
    return sum(sizes.get(name, 0) for name in SPLITS[: SPLITS.index(part)])


def too_few(sizes: Mapping[str, int]) -> bool:
    """Return whether a source has one training example or two, from which no example can be held out for each split."""
    return 0 < sizes.get("train", 0) <= len(set(SPLITS) - set(sizes))
