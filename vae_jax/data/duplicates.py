"""Equal examples, found by their content: how many fall into two splits, and which belong together."""

import itertools
from collections.abc import Iterator, Mapping

import numpy as np

from vae_jax.data.dataset import ArrayDataset
from vae_jax.data.splits import splitmix64

CHUNK_BYTES = 1 << 24  # hashed or compared at once


def hash_examples(x: np.ndarray) -> np.ndarray:
    """Return a hash of each example, uint64 [N]; equal examples have equal hashes, and the reverse nearly always.

    The hash is the sum of the mixed words of 64 bits, each times an odd number, modulo 2^64. Without the mixing, the
    last bytes of a word would only change the first bits of the hash.

    Args:
      x: Examples [N, ...].
    """
    rows = np.ascontiguousarray(x).reshape(len(x), -1).view(np.uint8)
    num_words = -(-rows.shape[1] // 8)
    weights = splitmix64(np.arange(num_words, dtype=np.uint64)) | np.uint64(1)
    hashes = np.empty(len(rows), np.uint64)
    for chunk in _chunks(len(rows), rows.shape[1]):
        words = np.zeros((len(rows[chunk]), 8 * num_words), np.uint8)
        words[:, : rows.shape[1]] = rows[chunk]
        hashes[chunk] = splitmix64(words.view(np.uint64)) @ weights
    return hashes


def group_equal(x: np.ndarray) -> np.ndarray:
    """Return for each of the examples x, [N, ...], the position of the first one that is equal to it, int64 [N]."""
    _, first, group = np.unique(hash_examples(x), return_index=True, return_inverse=True)
    positions, found = np.arange(len(x)), first[group]
    return np.where(_equal(x, positions, x, found), found, positions)


def count_shared(x: np.ndarray, other: np.ndarray) -> int:
    """Return how many of the examples x, [N, ...], are equal to one of some other examples, [M, ...]."""
    hashes, first = np.unique(hash_examples(other), return_index=True)
    found = hash_examples(x)
    place = np.minimum(np.searchsorted(hashes, found), len(hashes) - 1)
    candidates = np.flatnonzero(hashes[place] == found)
    return int(_equal(x, candidates, other, first[place[candidates]]).sum())


def _equal(x: np.ndarray, positions: np.ndarray, other: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Return whether each of some examples of x is equal to one of `other`, bool [n]."""
    equal, axes = np.empty(len(positions), bool), tuple(range(1, x.ndim))
    for chunk in _chunks(len(positions), x[:1].nbytes):
        equal[chunk] = (x[positions[chunk]] == other[places[chunk]]).all(axis=axes)
    return equal


def _chunks(length: int, size: int) -> Iterator[slice]:
    """Yield slices of so many examples of a size in bytes."""
    step = max(1, CHUNK_BYTES // max(1, size))
    return (slice(start, min(start + step, length)) for start in range(0, length, step))


def describe_duplicates(splits: Mapping[str, ArrayDataset], name: str) -> list[str]:
    """Return a line for each two splits that share examples, with their number; none for counts, equal by chance.

    Args:
      splits: The splits of a source.
      name: The value of `data.name`.
    """
    lines = []
    for (one, first), (two, second) in itertools.combinations(splits.items(), 2):
        if first is second or first.kind == "counts" or first.arrays["x"].shape[1:] != second.arrays["x"].shape[1:]:
            continue
        if count := count_shared(second.arrays["x"], first.arrays["x"]):
            lines.append(
                f"data.name={name!r}: {count} of the {len(second)} {two} examples are identical to {one} examples, so "
                "their scores are not those of new examples; data.duplicates=together avoids it in splits that are "
                "held out"
            )
    return lines
