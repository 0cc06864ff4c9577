"""Functions of every example of a data set, computed in batches of one size, on one device or on several."""

import functools
import operator
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import NamedSharding

from vae_jax import random
from vae_jax.distributions import Batch
from vae_jax.inference import Params

POLL_SECONDS = 0.05

T = TypeVar("T")
Arrays = Mapping[str, np.ndarray]  # name -> [N, ...]
PerExample = Callable[[Params, Array, Batch], dict[str, Array]]  # (params, keys [B], batch) -> name -> [B, ...]


def padded_batches(
    arrays: Arrays, batch_size: int, *, multiple: int = 1
) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
    """Yield all examples in batches of one size.

    Args:
      arrays: {name: [N, ...]}.
      batch_size: how many of the examples a batch contains; the last batch can contain fewer.
      multiple: the number of rows of a batch is `batch_size`, rounded up to a multiple of this.

    Yields:
      The number of examples in the batch, and the batch {name: [B, ...]}. Its remaining rows repeat the last example.
    """
    size = _num_rows(batch_size, multiple)
    for start in range(0, _num_examples(arrays), batch_size):
        batch = {name: array[start : start + batch_size] for name, array in arrays.items()}
        count = _num_examples(batch)
        yield count, {name: _pad(array, size - count) for name, array in batch.items()}


def _num_rows(batch_size: int, multiple: int) -> int:
    return -(-batch_size // multiple) * multiple


def _num_examples(arrays: Arrays) -> int:
    """Return N; raise ValueError if the arrays have unequal lengths."""
    sizes = {name: len(array) for name, array in arrays.items()}
    if len(set(sizes.values())) != 1:
        raise ValueError(f"arrays have {sizes} examples; pass arrays with equal leading axes")
    return next(iter(sizes.values()))


def _pad(array: np.ndarray, missing: int) -> np.ndarray:
    return np.concatenate([array, np.repeat(array[-1:], missing, axis=0)]) if missing else array


def evaluate_examples(
    per_example: PerExample,
    params: Params,
    key: Array,
    arrays: Arrays,
    *,
    batch_size: int,
    fixed_size: bool = False,
    first: int = 0,
    placement: NamedSharding | None = None,
    report: Callable[[int], None] | None = None,
    poll: Callable[[], None] | None = None,
    take: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]] = lambda values: values,
) -> dict[str, np.ndarray]:
    """Return the values of `per_example` for all examples, each exactly once; they do not depend on `batch_size`.

    Each batch is dispatched before the values of the previous one are read.

    Args:
      per_example: (params, keys [B], {name: [B, ...]}) -> {name: [B, ...]}.
      params: parameters of the model, or its `Variables`.
      key: a typed key; that of example i is fold_in(key, first + i).
      arrays: {name: [N, ...]}.
      batch_size: how many examples a batch contains at most.
      fixed_size: whether fewer examples are a batch of this size, too, so that all calls use one compiled program.
      first: position of the first example, if the arrays are a part of a data set.
      placement: the sharding of the rows of a batch over a mesh; None for one device. Rows are added where needed.
      report: receives the number of examples so far, after each batch.
      poll: called several times a second during a batch; it may raise an error to end the evaluation.
      take: receives the values of each batch, and returns those of them that the result contains.

    Returns:
      {name: [N, ...]} as NumPy arrays.

    Raises:
      ValueError: there are no examples, the arrays have unequal lengths, or `batch_size` is less than 1.
    """
    rows: list[dict[str, np.ndarray]] = []
    batches = _keyed_batches(key, arrays, _checked_size(arrays, batch_size, fixed=fixed_size), first, placement)
    for count, values in _one_ahead(_dispatch(per_example, params, batches, placement)):
        _wait_for(values, poll)
        rows.append(take({name: np.asarray(value)[:count] for name, value in values.items()}))
        if report is not None:
            report(sum(map(_num_examples, rows)))
    return {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}


def _dispatch(
    per_example: PerExample,
    params: Params,
    batches: Iterator[tuple[int, Array, dict[str, np.ndarray]]],
    placement: NamedSharding | None,
) -> Iterator[tuple[int, dict[str, Array]]]:
    """Yield (number of examples, values [B]) of each batch, which the devices may still compute."""
    for count, keys, batch in batches:
        with jax.default_matmul_precision("highest"):
            values = per_example(params, keys, _place_batch(batch, placement))
        yield count, values


def _one_ahead(items: Iterator[T]) -> Iterator[T]:
    """Yield each item after the next one is requested."""
    previous = next(items)
    for item in items:
        yield previous
        previous = item
    yield previous


def _wait_for(values: Mapping[str, Any], poll: Callable[[], None] | None) -> None:
    """Wait for arrays if a function is to be called meanwhile."""
    ready = operator.methodcaller("is_ready")  # a method of arrays that the annotations of JAX do not have
    while poll is not None and not all(map(ready, values.values())):
        poll()
        time.sleep(POLL_SECONDS)


def _checked_size(arrays: Arrays, batch_size: int, *, fixed: bool) -> int:
    """Return the size of the batches, at most the number of examples unless it is fixed."""
    if not arrays or not _num_examples(arrays):
        raise ValueError("arrays have length 0; pass one example or more")
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size} must be 1 or more")
    return batch_size if fixed else min(batch_size, _num_examples(arrays))


def _keyed_batches(
    key: Array, arrays: Arrays, batch_size: int, first: int, placement: NamedSharding | None
) -> Iterator[tuple[int, Array, dict[str, np.ndarray]]]:
    """Yield (number of examples, keys [B], batch [B, ...]); the devices of `placement` divide the rows of a batch."""
    multiple = 1 if placement is None else placement.mesh.size
    size = _num_rows(batch_size, multiple)
    for i, (count, batch) in enumerate(padded_batches(arrays, batch_size, multiple=multiple)):
        yield count, _batch_keys(size, placement)(key, np.uint32(first + i * batch_size)), batch


@functools.lru_cache(maxsize=16)
def _batch_keys(size: int, placement: NamedSharding | None) -> Callable[[Array, np.uint32], Array]:
    """Return a program (key, position of the first example) -> keys [size], placed like the rows of a batch."""

    def keys(key: Array, first: Array) -> Array:
        return random.example_keys(key, size, first=first)

    return jax.jit(keys, out_shardings=placement)


def _place_batch(batch: Arrays, placement: NamedSharding | None) -> dict[str, Array]:
    def place(array: np.ndarray) -> Array:
        if placement is None:
            return jnp.asarray(array)
        return jax.make_array_from_process_local_data(placement, array, array.shape)  # each process has all rows

    return {name: place(array) for name, array in batch.items()}
