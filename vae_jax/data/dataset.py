"""Data sets: examples that are read by position, arrays by name. Here those that are in memory."""

import contextlib
import dataclasses
import functools
import hashlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from vae_jax.data.cache import fingerprint
from vae_jax.errors import NoExamplesError

if TYPE_CHECKING:
    import jax

    from vae_jax.data.source import Source

Arrays = Mapping[str, np.ndarray]  # {"x": [N, ...], "y": [N], "mask": [N, ...], "c": [N, C]}; only "x" is in each


class Summary(NamedTuple):
    """Statistics of all examples, which a run needs before it reads them.

    Attributes:
      fingerprints: {name: `cache.fingerprint` of all examples as one array}.
      sums: `example_sums` of x, [2, ...].
    """

    fingerprints: dict[str, str]
    sums: np.ndarray


class Dataset(Protocol):
    """Examples that are read by position.

    Attributes:
      kind: a name in `KINDS`.
      spec: {name: shape and dtype of ONE stored example}.
      nbytes: the size of all arrays, in bytes.
      summary: fingerprints and sums.
    """

    @property
    def kind(self) -> str:
        """A name in `KINDS`."""
        ...

    @property
    def spec(self) -> "dict[str, jax.ShapeDtypeStruct]":
        """Shape and dtype of one stored example, by the names of the arrays."""
        ...

    @property
    def nbytes(self) -> int:
        """The size of all arrays, in bytes."""
        ...

    @property
    def summary(self) -> Summary:
        """Fingerprints and sums of all examples."""
        ...

    def __len__(self) -> int:
        """Return the number of examples."""
        ...

    def read(self, positions: np.ndarray) -> dict[str, np.ndarray]:
        """Return the examples at some positions.

        Args:
          positions: integers [n].

        Returns:
          {name: [n, ...]}.
        """
        ...

    def read_all(self) -> dict[str, np.ndarray]:
        """Return all examples, {name: [N, ...]}."""
        ...


@dataclasses.dataclass(frozen=True, eq=False)
class ArrayDataset:
    """A data set in memory. `from_arrays` checks and converts arrays of a user.

    Attributes:
      arrays: {"x": uint8 [N, H, W, C], float32 [N, D] or int32 [N, D]}, with "y", int32 [N], "mask", bool [N, ...],
        and "c", float32 [N, C], if the source has them.
      kind: a name in `KINDS`.
      origin: where each example is from, {name: [N]}; `index`, its position among all examples of the source, and for
        images of a folder `file_name`, their paths relative to it. No model reads these arrays.
    """

    arrays: Arrays
    kind: str
    origin: Arrays = dataclasses.field(default_factory=dict)

    def __len__(self) -> int:
        """Return the number of examples."""
        return len(self.arrays["x"])

    @property
    def spec(self) -> "dict[str, jax.ShapeDtypeStruct]":
        """Shape and dtype of one stored example, by the names of the arrays."""
        return example_spec({name: (array.shape[1:], array.dtype) for name, array in self.arrays.items()})

    @property
    def nbytes(self) -> int:
        """The size of all arrays, in bytes."""
        return sum(array.nbytes for array in self.arrays.values())

    @property
    def summary(self) -> Summary:
        """Fingerprints and sums of all examples, computed once."""
        return self._summary

    @functools.cached_property
    def _summary(self) -> Summary:
        return Summary({name: fingerprint(a) for name, a in self.arrays.items()}, example_sums(self.arrays["x"]))

    def read(self, positions: np.ndarray) -> dict[str, np.ndarray]:
        """Return the examples at some positions.

        Args:
          positions: integers [n].

        Returns:
          {name: [n, ...]}.
        """
        return {name: array[positions] for name, array in self.arrays.items()}

    def read_all(self) -> dict[str, np.ndarray]:
        """Return all examples, {name: [N, ...]}; the arrays themselves."""
        return dict(self.arrays)

    def select(self, positions: np.ndarray | None, *, first_index: int = 0) -> "ArrayDataset":
        """Return some examples of a part of a source, and their origin.

        Args:
          positions: integers [n]; None for all examples, whose arrays are not copied.
          first_index: the index of the first example of the part in the source.
        """
        index = np.arange(len(self)) if positions is None else positions
        origin = {"index": first_index + index} | {name: array[index] for name, array in self.origin.items()}
        arrays = self.arrays if positions is None else self.read(positions)
        return ArrayDataset(arrays, self.kind, origin)


class LoadedParts(NamedTuple):
    """What a file or a folder contains.

    Attributes:
      parts: the splits that it has, at least train.
      notes: lines about what a person should know, such as the files that are left out.
    """

    parts: dict[str, ArrayDataset]
    notes: tuple[str, ...]


def example_spec(examples: "Mapping[str, tuple[tuple[int, ...], Any]]") -> "dict[str, jax.ShapeDtypeStruct]":
    """Return {name: ShapeDtypeStruct} for {name: (shape, dtype)}. JAX is imported here, because reading needs none."""
    import jax

    return {name: jax.ShapeDtypeStruct(shape, dtype) for name, (shape, dtype) in examples.items()}


def example_sums(x: np.ndarray) -> np.ndarray:
    """Return sums over the examples x, [N, ...].

    Args:
      x: the stored examples.

    Returns:
      For uint8 the sum of each pixel and how often it is >= 128, uint64 [2, ...]; else the sum of each number and
      zeros, float64 [2, ...].
    """
    if x.dtype == np.uint8:
        return np.stack([x.sum(axis=0, dtype=np.uint64), (x >= 128).sum(axis=0, dtype=np.uint64)])
    sums = x.sum(axis=0, dtype=np.float64)
    return np.stack([sums, np.zeros_like(sums)])


def describe_held_out(source: "Source") -> dict[str, Any]:
    """Return the description of the validation and test examples that a run stores.

    Args:
      source: the source.

    Returns:
      A JSON object {split: {"num_examples", "sha256"}} of the splits that the source has. The hash is
      `checksum_of_examples`.

    Raises:
      InputError: a split cannot be used.
      StorageError: a split is damaged.
    """
    described = {}
    for split in ("validation", "test"):
        with contextlib.suppress(NoExamplesError):
            dataset = source.split(split)
            described[split] = {"num_examples": len(dataset), "sha256": checksum_of_examples(dataset)}
    return described


def checksum_of_examples(dataset: ArrayDataset) -> str:
    """Return the SHA-256 of the hashes of all arrays of a data set, in hexadecimal digits."""
    hashes = {name: fingerprint(array) for name, array in sorted(dataset.arrays.items())}
    return hashlib.sha256(json.dumps(hashes).encode()).hexdigest()


def describe(dataset: Dataset) -> dict[str, Any]:
    """Return the description of the training data that a run stores; a resumed run refuses different data.

    Args:
      dataset: the data set.

    Returns:
      A JSON object: `kind`; `num_examples`; `arrays`, {name: {"shape": of one example, "dtype", "sha256"}}.

    Raises:
      StorageError: the data set is streamed, and damaged.
    """
    fingerprints = dataset.summary.fingerprints
    return {
        "kind": dataset.kind,
        "num_examples": len(dataset),
        "arrays": {
            name: {"shape": list(spec.shape), "dtype": str(spec.dtype), "sha256": fingerprints[name]}
            for name, spec in dataset.spec.items()
        },
    }
