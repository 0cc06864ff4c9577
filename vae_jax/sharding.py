"""Where state and batches live: a mesh of named axes, and the shardings that `jax.jit` is given from outside."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax import Array
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from vae_jax.errors import InputError


def make_mesh(num_devices: int = 0) -> Mesh:
    """A mesh with the one axis `data` over the first `num_devices` devices; 0 takes all.

    Raises InputError where there are not that many.
    """
    devices = jax.devices()
    if num_devices > len(devices):
        raise InputError(f"mesh.data: {num_devices} given, must be at most the {len(devices)} devices here, or 0")
    chosen = np.asarray(devices[: num_devices or len(devices)])
    return Mesh(chosen, ("data",), axis_types=(AxisType.Auto,))


def check_batch_size(batch_size: int, mesh: Mesh, *, setting: str = "train.batch_size") -> None:
    """Refuses a batch that the mesh's `data` axis does not divide, naming the nearest size that it does."""
    share = mesh.shape["data"]
    if batch_size % share:
        nearest = max(1, round(batch_size / share)) * share
        raise InputError(
            f"{setting}: {batch_size} given, must be a multiple of the {share} devices, for example {nearest}"
        )


def replicated(mesh: Mesh) -> NamedSharding:
    """The whole of an array on each device."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The leading axis spread over `data`."""
    return NamedSharding(mesh, PartitionSpec("data"))


def place_batch(mesh: Mesh) -> Callable[[Array], Array]:
    """A function for inside a jitted program: its argument's leading axis is spread over `data`."""
    return lambda batch: jax.lax.with_sharding_constraint(batch, batch_sharding(mesh))


def compiler_options(mesh: Mesh) -> dict[str, int] | None:
    """What XLA is told when it compiles a training or an evaluation for the mesh: to use a CPU's vectors whole.

    Its own choice is half of AVX-512; where there is no AVX-512 it makes no difference.
    """
    return {"xla_cpu_prefer_vector_width": 512} if mesh.devices.flat[0].platform == "cpu" else None


def abstract(tree: Any, sharding: NamedSharding) -> Any:
    """The shapes and dtypes of `tree`, each to live under `sharding`: the target of a restore."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree)
