"""What tells one saved state from another: the digests of its arrays, and in words where two descriptions differ."""

import hashlib
import json
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from vae_jax.config import flatten_mapping

_ABSENT = object()
_LISTED = 5  # leaves that one error message names


def checksum(leaf: jax.Array) -> str:
    """SHA-256 over dtype (which names the generator of a key), shape and bytes, whatever the sharding."""
    content = jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf
    if not (content.is_fully_addressable or content.is_fully_replicated):
        content = multihost_utils.process_allgather(content, tiled=True)  # one leaf at a time
    content = np.ascontiguousarray(content).reshape(-1)
    found = hashlib.sha256(dtype_and_shape(leaf).encode())
    found.update(content.view(np.uint8))  # bfloat16 has no buffer of its own
    return found.hexdigest()


def dtype_and_shape(leaf: Any) -> str:
    """Dtype and shape as text, `float32[784, 200]`."""
    return f"{leaf.dtype}{list(leaf.shape)}"


def named_leaves(tree: Any) -> list[tuple[str, Any]]:
    """The leaves of a tree by their paths, `params.decoder.kernel`."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return [(jax.tree_util.keystr(path, simple=True, separator="."), leaf) for path, leaf in leaves]


def to_json_types(item: dict) -> dict:
    """A dictionary as it comes back from JSON: tuples are lists, keys are strings."""
    return json.loads(json.dumps(item))


def combined_checksum(*items: dict) -> str:
    """SHA-256 over dictionaries together, whatever the order of their keys."""
    return hashlib.sha256(json.dumps(items, sort_keys=True).encode()).hexdigest()


def mismatches(
    saved: dict, given: dict, name: str, *, ignore: frozenset[str] = frozenset(), show: Callable = json.dumps
) -> list[str]:
    """A line such as "model.latent_dim: 20 in checkpoint, 40 in config" for each field that differs."""
    saved, given = flatten_mapping(saved), flatten_mapping(given)
    lines = []
    for field in given | saved:
        if any(field == skipped or field.startswith(f"{skipped}.") for skipped in ignore):
            continue
        old, new = (show(item[field]) if field in item else "absent" for item in (saved, given))
        if old != new and saved.get(field, _ABSENT) != given.get(field, _ABSENT):
            lines.append(f"{field}: {old} in checkpoint, {new} in {name}")
    return lines


def first_few(lines: list[str]) -> list[str]:
    """The first lines of many, and how many more there are."""
    more = [f"and {len(lines) - _LISTED} more"] if len(lines) > _LISTED else []
    return [*lines[:_LISTED], *more]
