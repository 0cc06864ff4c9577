"""Device meshes and shardings of state and batches, applied through `jax.jit`."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax import Array
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from vae_jax.errors import InputError

AXES = ("data", "fsdp")
# Arrays with fewer elements are replicated: gathering them costs more in latency than their memory is worth.
MIN_SHARDED_SIZE = 1024


def make_mesh(data: int = 0, fsdp: int = 1) -> Mesh:
    """Return a mesh with the axes `data` and `fsdp` over the first `data` x `fsdp` devices.

    A batch is sharded over both axes. The state is sharded over `fsdp`, whose devices are neighbors.

    Args:
      data: The size of the axis `data`; 0 for all devices. Several processes always use all devices.
      fsdp: The size of the axis `fsdp`.

    Returns:
      The mesh, both axes of type `Auto`.

    Raises:
      InputError: If there are not enough devices, or `fsdp` does not divide their number. The message names the
        nearest valid value.
    """
    count, processes = jax.device_count(), jax.process_count()
    if data == 0 or processes > 1:
        nearest = min((n for n in range(1, count + 1) if count % n == 0), key=lambda n: abs(n - fsdp))
        if fsdp != nearest:
            raise InputError(f"mesh.fsdp={fsdp} must divide the {count} devices here, for example {nearest}")
        quotient = count // fsdp
        if data not in (0, quotient):
            raise InputError(f"mesh.data={data} must be {quotient} or 0, because {processes} processes use all devices")
        data = quotient
    if fsdp > count:
        raise InputError(f"mesh.fsdp={fsdp} must be at most the {count} devices here")
    if data * fsdp > count:
        limit = f"{count // fsdp} with mesh.fsdp={fsdp} on " if fsdp > 1 else ""
        raise InputError(f"mesh.data={data} must be at most {limit}the {count} devices here, or 0")
    devices = jax.devices()[: data * fsdp]
    if len(devices) == count:  # Neighbors are devices with a direct link.
        arranged = mesh_utils.create_device_mesh((data, fsdp), devices, allow_split_physical_axes=True)
    else:
        arranged = np.asarray(devices).reshape(data, fsdp)
    return Mesh(arranged, AXES, axis_types=(AxisType.Auto,) * 2)


def check_batch_size(batch_size: int, mesh: Mesh, *, setting: str = "train.batch_size") -> None:
    """Raise an error unless the devices of a mesh divide a batch.

    Args:
      batch_size: The number of examples in the batch.
      mesh: The mesh that the batch is sharded over.
      setting: The setting that the error message names.

    Raises:
      InputError: If the mesh size does not divide the batch. The message names the nearest valid batch size.
    """
    devices = mesh.size
    if batch_size % devices:
        nearest = max(1, round(batch_size / devices)) * devices
        raise InputError(f"{setting}={batch_size} must be a multiple of the {devices} devices, for example {nearest}")


def replicated(mesh: Mesh) -> NamedSharding:
    """Return the sharding that puts a complete copy of an array on each device.

    Args:
      mesh: The mesh whose devices hold the array.

    Returns:
      The sharding, for an array of any shape.
    """
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Return the sharding of a batch [B, ...]: the leading axis over all devices of the mesh.

    Args:
      mesh: The mesh, with the axes `data` and `fsdp`.

    Returns:
      The sharding. The mesh size must divide B.
    """
    return NamedSharding(mesh, PartitionSpec(AXES))


def steps_sharding(mesh: Mesh, *, microbatches: int = 1) -> NamedSharding:
    """Return the sharding of the batches of several steps: the axis of examples over all devices.

    Args:
      mesh: The mesh, with the axes `data` and `fsdp`.
      microbatches: The number M of microbatches.

    Returns:
      The sharding of an array [steps, B, ...], or [steps, M, B/M, ...] if M > 1.
    """
    return NamedSharding(mesh, PartitionSpec(*[None] * (2 if microbatches > 1 else 1), AXES))


def local_rows(mesh: Mesh, size: int) -> np.ndarray:
    """Return the sorted indices of the rows, of `size` under `batch_sharding`, that this process's devices hold."""
    indices = batch_sharding(mesh).addressable_devices_indices_map((size,)).values()
    return np.unique(np.concatenate([np.arange(size)[index] for index in indices]))


def fsdp_spec(shape: tuple[int, ...], size: int) -> PartitionSpec:
    """Return the partition of an array over the axis `fsdp`: along the largest dimension that `size` divides.

    Args:
      shape: The shape of the array.
      size: The size of the axis `fsdp`.

    Returns:
      The partition; of equal dimensions the first is sharded. `PartitionSpec()`, which replicates, if `size` divides
      no dimension, or the array has fewer than `MIN_SHARDED_SIZE` elements.
    """
    divisible = [n if n % size == 0 else 0 for n in shape]
    if size == 1 or np.prod(shape) < MIN_SHARDED_SIZE or not any(divisible):
        return PartitionSpec()
    return PartitionSpec(*[None] * int(np.argmax(divisible)), "fsdp")


def state_shardings(state: Any, mesh: Mesh) -> Any:
    """Return the shardings of a training state by `fsdp_spec`, the same rule for weights, averages and moments.

    Args:
      state: A pytree of arrays, or of anything else with a shape.
      mesh: The mesh, with the axes `data` and `fsdp`.

    Returns:
      A pytree of shardings, of the structure of `state`.
    """
    size = mesh.shape["fsdp"]
    return jax.tree.map(lambda leaf: NamedSharding(mesh, fsdp_spec(leaf.shape, size)), state)


def gather_params(loss: Callable[..., Any], mesh: Mesh) -> Callable[..., Any]:
    """Return a loss whose parameters are sharded over `fsdp` and are gathered on each device for the computation.

    The gradient is summed over all devices and sharded like the parameters, so the optimizer updates shards only
    (ZeRO, Rajbhandari et al., arXiv 1910.02054). Without this constraint XLA shards the layers' outputs instead, and
    communicates activations.

    Args:
      loss: A function loss(params, *arguments).
      mesh: The mesh, with the axes `data` and `fsdp`.

    Returns:
      A function with the same signature and value; `loss` itself if the axis `fsdp` has size 1.
    """
    if mesh.shape["fsdp"] == 1:
        return loss

    @jax.custom_vjp
    def gather(params: Any) -> Any:
        return jax.lax.with_sharding_constraint(params, replicated(mesh))

    def scatter(_: None, gradient: Any) -> tuple[Any]:
        return (jax.lax.with_sharding_constraint(gradient, state_shardings(gradient, mesh)),)

    gather.defvjp(lambda params: (gather(params), None), scatter)
    return lambda params, *rest: loss(gather(params), *rest)


def place_batch(mesh: Mesh) -> Callable[[Array], Array]:
    """Return a function, for use inside a jitted program, that shards the leading axis of an array over all devices.

    Args:
      mesh: The mesh, with the axes `data` and `fsdp`.

    Returns:
      A function from a batch [B, ...] to the same batch under `batch_sharding`.
    """
    return lambda batch: jax.lax.with_sharding_constraint(batch, batch_sharding(mesh))


def compiler_options(mesh: Mesh) -> dict[str, int] | None:
    """Return the XLA options for training and evaluation on a mesh: on a CPU, the full vector width.

    By default XLA uses half of the width of AVX-512. On a CPU without AVX-512 the option has no effect.

    Args:
      mesh: The mesh that the program is compiled for.

    Returns:
      The options for `jax.jit`, or None for the defaults.
    """
    return {"xla_cpu_prefer_vector_width": 512} if mesh.devices.flat[0].platform == "cpu" else None


def needs_static_step_count(mesh: Mesh) -> bool:
    """Return whether a program must be compiled for a fixed number of steps.

    On a GPU, a loop whose number of iterations is unknown at compile time waits in each iteration until the host has
    read the loop condition: a seventh of the time of a small step (docs/measurements.md). On other devices one program
    runs any number of steps.

    Args:
      mesh: The mesh that the program is compiled for.

    Returns:
      True for GPUs.
    """
    return mesh.devices.flat[0].platform == "gpu"


def trains_members_in_turn(mesh: Mesh) -> bool:
    """Return whether the models of a sweep that share a device are trained one after the other instead of by `vmap`.

    `vmap` turns their matrix products into batched ones, which are slower on a CPU (docs/measurements.md).
    """
    return mesh.devices.flat[0].platform == "cpu"


def shard_map_over_mesh(program: Callable[..., Any], mesh: Mesh, in_specs: tuple[Any, ...], out_specs: Any) -> Any:
    """Return `jax.shard_map` of a program(*arrays, count), whose `count` may be a Python integer and stays static.

    Args:
      program: The function of each device.
      mesh: The mesh.
      in_specs: The partitions of `arrays`.
      out_specs: The partitions of the results.

    Returns:
      A function with the signature of `program`.
    """

    def mapped(*arguments: Any) -> Any:
        *arrays, count = arguments
        if isinstance(count, int):
            return shard(lambda *arrays: program(*arrays, count), in_specs)(*arrays)
        return shard(program, (*in_specs, PartitionSpec()))(*arguments)

    def shard(function: Callable[..., Any], specs: tuple[Any, ...]) -> Callable[..., Any]:
        return jax.shard_map(function, mesh=mesh, in_specs=specs, out_specs=out_specs, check_vma=False)

    return mapped


def to_global_array(array: np.ndarray, sharding: NamedSharding) -> Array:
    """Return a global array from a NumPy array of which every process holds a complete copy.

    Args:
      array: The array, equal in all processes.
      sharding: The sharding of the result. Each process copies its part to its devices.

    Returns:
      The global array, of the shape of `array`.
    """
    return jax.make_array_from_process_local_data(sharding, array, array.shape)


def rows_to_global_array(local: np.ndarray, sharding: NamedSharding, shape: tuple[int, ...], rows: np.ndarray) -> Array:
    """Return a global array of which this process holds only the rows that its devices need.

    Args:
      local: The rows of this process, along the axis that `sharding` shards, the last of its partition.
      sharding: The sharding of the result.
      shape: The global shape.
      rows: The sorted global indices of the rows of `local`, from `local_rows`.

    Returns:
      The global array.
    """
    axis = len(sharding.spec) - 1

    def part(index: tuple[slice, ...] | None) -> np.ndarray:
        assert index is not None  # JAX calls it for the addressable devices, each with its index.
        start, stop, _ = index[axis].indices(shape[axis])
        selected = slice(*np.searchsorted(rows, (start, stop)))
        return local[(*index[:axis], selected, *index[axis + 1 :])]

    return jax.make_array_from_callback(shape, sharding, part)


def abstract_arrays(tree: Any, shardings: Any) -> Any:
    """Return the shapes and dtypes of a pytree of arrays with their shardings, for example as the target of a restore.

    Args:
      tree: A pytree of arrays, or of shapes with dtypes.
      shardings: A pytree of shardings, of the same structure.

    Returns:
      A pytree of `jax.ShapeDtypeStruct`.
    """
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), tree, shardings)


def communication_bytes(params: Any, data: int, fsdp: int) -> int:
    """Return the bytes that each device sends in a training step on a mesh of `data` x `fsdp` devices, by rings.

    With d = `data`, f = `fsdp`, n = d f, P bytes of sharded and Q bytes of replicated parameters, it is the sum of

    - all-gather of the parameters: (f-1)/f P,
    - reduce-scatter of their gradient: (f-1)/f P,
    - all-reduce of its shards over `data`: 2(d-1)/d P/f,
    - all-reduce of the gradient of the replicated parameters: 2(n-1)/n Q.

    Args:
      params: The parameters, a pytree of arrays or of shapes with dtypes.
      data: The size of the axis `data`.
      fsdp: The size of the axis `fsdp`.

    Returns:
      The number of bytes, rounded.
    """
    sharded_bytes = replicated_bytes = 0
    for leaf in jax.tree.leaves(params):
        size = leaf.size * leaf.dtype.itemsize
        if fsdp_spec(leaf.shape, fsdp) == PartitionSpec():
            replicated_bytes += size
        else:
            sharded_bytes += size
    n = data * fsdp
    gradient = 2 * (data - 1) / data * sharded_bytes / fsdp + 2 * (n - 1) / n * replicated_bytes
    return round(2 * (fsdp - 1) / fsdp * sharded_bytes + gradient)
