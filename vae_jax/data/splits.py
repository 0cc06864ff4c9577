"""Which example belongs to which split: a pure function of its index, the same on every machine."""

from collections.abc import Mapping

import numpy as np

from vae_jax.errors import InputError, NoExamplesError

SPLITS = ("train", "validation", "test")


def splitmix64(counters: np.ndarray) -> np.ndarray:
    """Pseudo-random bits for uint64 counters of any shape, uint64 of the same shape (Steele, Lea & Flood, 2014).

    A bijection, so different counters never tie; and unlike a library's random generator it cannot change with a
    version.
    """
    z = (counters + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def hash_order(num_examples: int) -> np.ndarray:
    """The indices 0..N-1 in the order of their `splitmix64`, int64 [N]."""
    return np.argsort(splitmix64(np.arange(num_examples, dtype=np.uint64)))


def share(num_examples: int, holdout: float) -> int:
    """How many of N examples a held-out share is: the nearest whole number, at least one unless `holdout` is 0."""
    return max(1, int(num_examples * holdout + 0.5)) if holdout > 0 else 0


def check(split: str, holdout: float) -> None:
    """Raises InputError for a split that does not exist or a share outside [0, 1)."""
    if split not in SPLITS:
        raise InputError(f"split={split!r}: no such split; allowed are {', '.join(SPLITS)}")
    if isinstance(holdout, bool) or not isinstance(holdout, (int, float)) or not 0 <= holdout < 1:
        raise InputError(f"data.holdout={holdout!r}: must be a number from 0 up to, but not, 1, such as 0.1")


def select(sizes: Mapping[str, int], split: str, holdout: float) -> tuple[str, np.ndarray | None]:
    """Where the examples of `split` are: the split of the source, and the sorted indices in it (None: all).

    `sizes` counts the examples of each split that the source has. A missing test split is held out of the
    source's training examples first, then a missing validation split out of those left: the three are disjoint
    and cover everything.
    Raises NoExamplesError where the split is missing and nothing is held out for it, or nothing is left for it.
    """
    check(split, holdout)
    if split in sizes and split != "train":
        return split, None
    if "train" not in sizes:
        raise InputError(f"split={split!r}: the data set has no training examples; it has {', '.join(sizes)}")
    rest, parts = hash_order(sizes["train"]), {}
    for part in ("test", "validation"):
        held = 0 if part in sizes else share(len(rest), holdout)
        parts[part], rest = rest[:held], rest[held:]
    indices = rest if split == "train" else parts[split]
    if sizes["train"] and not len(indices):
        cure = "is above 0" if holdout == 0 else "leaves examples for each split"
        raise NoExamplesError(
            f"data.holdout={holdout}: no {split} examples out of {sizes['train']}; choose a share that {cure}"
        )
    return "train", None if len(indices) == sizes["train"] else np.sort(indices)
