"""Copies and checksums of arrays, checksums of descriptions, and readable lists of the differences between two."""

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

_ABSENT = object()
_MAX_LISTED = 5  # differences that one error message lists


def checksum(leaf: jax.Array) -> str:
    """Return SHA-256 over dtype (for a key: with the name of its generator), shape and bytes, for any sharding."""
    content = jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf
    if not (content.is_fully_addressable or content.is_fully_replicated):
        content = multihost_utils.process_allgather(content, tiled=True)  # one leaf at a time
    content = np.ascontiguousarray(content).reshape(-1)
    digest = hashlib.sha256(dtype_and_shape(leaf).encode())
    digest.update(content.view(np.uint8).data)  # as bytes: bfloat16 does not export a buffer
    return digest.hexdigest()


def dtype_and_shape(leaf: Any) -> str:
    """Return dtype and shape as text, such as `float32[784, 200]`."""
    return f"{leaf.dtype}{list(leaf.shape)}"


def named_leaves(tree: Any) -> list[tuple[str, Any]]:
    """Return the leaves of a tree with their paths, such as `params.decoder.kernel`."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return [(jax.tree_util.keystr(path, simple=True, separator="."), leaf) for path, leaf in leaves]


def describe_leaves(tree: Any) -> dict[str, dict[str, str]]:
    """Return path -> {"spec": dtype and shape, "sha256": checksum} for the leaves of a tree."""
    return {path: {"spec": dtype_and_shape(leaf), "sha256": checksum(leaf)} for path, leaf in named_leaves(tree)}


@jax.jit
def copy_and_check(tree: Any) -> tuple[Any, Any]:
    """Return a tree of arrays in new buffers with the same shardings, and for each leaf whether it is finite."""

    def finite(x: jax.Array) -> jax.Array:
        return jnp.isfinite(x).all() if jnp.issubdtype(x.dtype, jnp.inexact) else jnp.array(True)

    return jax.tree.map(jnp.copy, tree), jax.tree.map(finite, tree)


def to_json_types(item: dict[str, Any]) -> dict[str, Any]:
    """Return a dictionary as it is after a round trip through JSON: tuples are lists, keys are strings."""
    return json.loads(json.dumps(item))


def flatten_mapping(items: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested dictionaries as one dictionary.

    Args:
      items: dictionaries that contain dictionaries, such as a parsed JSON file.
      prefix: put in front of each name.

    Returns:
      {"section.field": value}. An empty dictionary counts as a value.
    """
    flat = {}
    for name, value in items.items():
        nested = isinstance(value, dict) and value
        flat |= flatten_mapping(value, f"{prefix}{name}.") if nested else {f"{prefix}{name}": value}
    return flat


def combined_checksum(*items: dict[str, Any]) -> str:
    """Return SHA-256 over several dictionaries, for any order of their keys."""
    return hashlib.sha256(json.dumps(items, sort_keys=True).encode()).hexdigest()


def mismatches(
    saved: dict[str, Any],
    given: dict[str, Any],
    name: str,
    *,
    ignore: frozenset[str] = frozenset(),
    show: Callable[[Any], str] = json.dumps,
) -> list[str]:
    """Return a line for each field that differs, such as "model.latent_dim: 20 in checkpoint, 40 in config".

    Args:
      saved: the description in the checkpoint, possibly nested.
      given: the description to compare it with.
      name: what to call `given` in the lines.
      ignore: fields, or sections with all of their fields, that are not compared.
      show: converts a value to text.
    """
    saved, given = flatten_mapping(saved), flatten_mapping(given)
    lines = []
    for field in given | saved:
        if any(field == skipped or field.startswith(f"{skipped}.") for skipped in ignore):
            continue
        old, new = (show(item[field]) if field in item else "absent" for item in (saved, given))
        if old != new and saved.get(field, _ABSENT) != given.get(field, _ABSENT):
            lines.append(f"{field}: {old} in checkpoint, {new} in {name}")
    return lines


def leaf_mismatches(leaves: Mapping[str, Mapping[str, str]], target: Any) -> list[str]:
    """Return a line for each leaf whose dtype or shape differs between `describe_leaves` of a state and a target."""
    saved = {path: leaf["spec"] for path, leaf in leaves.items()}
    given = {path: dtype_and_shape(leaf) for path, leaf in named_leaves(target)}
    return mismatches(saved, given, "state", show=str)


def first_few(lines: list[str]) -> list[str]:
    """Return the first lines of many, and a line with the number of the others."""
    more = [f"and {len(lines) - _MAX_LISTED} more"] if len(lines) > _MAX_LISTED else []
    return [*lines[:_MAX_LISTED], *more]
