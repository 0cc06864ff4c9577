"""Checksums of arrays, and the comparison of descriptions."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from vae_jax.runs.storage import checksums


@pytest.mark.fault
def test_a_checksum_covers_bytes_shape_dtype_and_generator():
    zeros = [jnp.zeros(4), jnp.zeros((2, 2)), jnp.zeros(4, jnp.int32), jnp.zeros(4).at[0].set(-0.0)]
    keys = [jax.random.wrap_key_data(jnp.zeros(4, jnp.uint32), impl=impl) for impl in ("rbg", "unsafe_rbg")]
    assert len({checksums.checksum(leaf) for leaf in zeros + keys}) == 6
    mesh = jax.make_mesh((8,), ("data",), (AxisType.Auto,))
    replicated = jnp.arange(16.0)
    shards = jax.device_put(replicated, NamedSharding(mesh, PartitionSpec("data")))
    assert checksums.checksum(shards) == checksums.checksum(replicated)


def test_a_combined_checksum_depends_on_every_item_and_not_on_the_order_of_keys():
    first = checksums.combined_checksum({"a": 1, "b": 2}, {"c": 3})
    assert checksums.combined_checksum({"b": 2, "a": 1}, {"c": 3}) == first
    others = [({"a": 1, "b": 2}, {"c": 4}), ({"a": 1}, {"c": 3}), ({"c": 3}, {"a": 1, "b": 2})]
    assert first not in {checksums.combined_checksum(*items) for items in others}


def test_leaves_are_named_by_their_paths():
    tree = {"params": {"decoder": {"kernel": jnp.zeros((3, 2))}}, "step": jnp.int32(0)}
    named = {path: checksums.dtype_and_shape(leaf) for path, leaf in checksums.named_leaves(tree)}
    assert named == {"params.decoder.kernel": "float32[3, 2]", "step": "int32[]"}


def test_types_of_json():
    assert checksums.to_json_types({"hidden": (64, 64), 2: "two"}) == {"hidden": [64, 64], "2": "two"}


def test_mismatches_name_the_field_and_both_values():
    saved, given = {"model": {"latent_dim": 20, "depth": 1}, "seed": 0}, {"model": {"latent_dim": 40}, "seed": 1}
    lines = ["model.latent_dim: 20 in checkpoint, 40 in config", "model.depth: 1 in checkpoint, absent in config"]
    seed = "seed: 0 in checkpoint, 1 in config"
    assert sorted(checksums.mismatches(saved, given, "config")) == sorted([*lines, seed])
    ignored = frozenset({"model"})
    assert checksums.mismatches(saved, given, "config", ignore=ignored) == [seed]
    assert checksums.mismatches(saved, saved, "config") == []


def test_nested_names_are_joined_by_dots_and_flat_names_stay():
    nested = {"a": {"b": 1, "c": {"d": [2]}}, "e": {}, "f.g": 3}
    assert checksums.flatten_mapping(nested) == {"a.b": 1, "a.c.d": [2], "e": {}, "f.g": 3}
    assert checksums.flatten_mapping({"data": {"x": 1}}, "run.") == {"run.data.x": 1}


def test_a_long_list_is_shortened():
    assert checksums.first_few(list("abcde")) == list("abcde")
    assert checksums.first_few(list("abcdefg")) == [*"abcde", "and 2 more"]
