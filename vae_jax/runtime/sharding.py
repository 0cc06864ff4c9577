"""Where state and batches live: a mesh of named axes, and the shardings that `jax.jit` is given from outside."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax import Array
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from vae_jax.errors import InputError

AXES = ("data", "fsdp")
MIN_SHARDED_SIZE = (
    1024  # an array of fewer numbers is whole on each device: its bytes weigh less than the messages would
)


def make_mesh(data: int = 0, fsdp: int = 1) -> Mesh:
    """A mesh with the axes `data` and `fsdp` over the first `data` x `fsdp` devices; data = 0 takes all.

    A batch is spread over both axes, the state over `fsdp`, whose devices are neighbours. Raises InputError, with the
    nearest value that can be had, where the devices do not suffice; several processes use all that they have.
    """
    count, processes = jax.device_count(), jax.process_count()
    if data == 0 or processes > 1:
        nearest = min((n for n in range(1, count + 1) if count % n == 0), key=lambda n: abs(n - fsdp))
        if fsdp != nearest:
            raise InputError(f"mesh.fsdp={fsdp} must divide the {count} devices here, for example {nearest}")
        share = count // fsdp
        if data not in (0, share):
            raise InputError(f"mesh.data={data} must be {share}, or 0: {processes} processes use all devices")
        data = share
    if fsdp > count:
        raise InputError(f"mesh.fsdp={fsdp} must be at most the {count} devices here")
    if data * fsdp > count:
        most = f"{count // fsdp} with mesh.fsdp {fsdp} on " if fsdp > 1 else ""
        raise InputError(f"mesh.data={data} must be at most {most}the {count} devices here, or 0")
    devices = jax.devices()[: data * fsdp]
    if len(devices) == count:  # neighbours are those that have a link
        arranged = mesh_utils.create_device_mesh((data, fsdp), devices, allow_split_physical_axes=True)
    else:
        arranged = np.asarray(devices).reshape(data, fsdp)
    return Mesh(arranged, AXES, axis_types=(AxisType.Auto,) * 2)


def check_batch_size(batch_size: int, mesh: Mesh, *, setting: str = "train.batch_size") -> None:
    """Refuses a batch that the devices of the mesh do not divide, naming the nearest size that they do."""
    share = mesh.size
    if batch_size % share:
        nearest = max(1, round(batch_size / share)) * share
        raise InputError(f"{setting}={batch_size} must be a multiple of the {share} devices, for example {nearest}")


def replicated(mesh: Mesh) -> NamedSharding:
    """The whole of an array on each device."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The leading axis spread over all devices."""
    return NamedSharding(mesh, PartitionSpec(AXES))


def steps_sharding(mesh: Mesh, *, microbatches: int = 1) -> NamedSharding:
    """The batches of several steps, [steps, B, ...], or [steps, M, B/M, ...]: each, or each part, over all devices."""
    return NamedSharding(mesh, PartitionSpec(*[None] * (2 if microbatches > 1 else 1), AXES))


def local_rows(mesh: Mesh, size: int) -> np.ndarray:
    """Which of the `size` rows of `batch_sharding` the devices of this process hold, sorted."""
    held = batch_sharding(mesh).addressable_devices_indices_map((size,)).values()
    return np.unique(np.concatenate([np.arange(size)[index] for index in held]))


def fsdp_spec(shape: tuple[int, ...], size: int) -> PartitionSpec:
    """Which dimension of an array is spread over the `size` devices of `fsdp`: the largest that `size` divides.

    None where there is no such dimension, or the array has fewer than `SMALL` numbers. Of equal dimensions, the first.
    """
    divided = [n if n % size == 0 else 0 for n in shape]
    if size == 1 or np.prod(shape) < MIN_SHARDED_SIZE or not any(divided):
        return PartitionSpec()
    return PartitionSpec(*[None] * int(np.argmax(divided)), "fsdp")


def state_shardings(state: Any, mesh: Mesh) -> Any:
    """For each leaf (anything with a shape) the sharding of `fsdp_spec`: weights, averages and moments alike."""
    size = mesh.shape["fsdp"]
    return jax.tree.map(lambda leaf: NamedSharding(mesh, fsdp_spec(leaf.shape, size)), state)


def gather_params(loss: Callable[..., Any], mesh: Mesh) -> Callable[..., Any]:
    """A loss(params, ...) whose parameters lie spread over `fsdp`: each device gathers them whole to use them.

    Their gradient is summed over all devices and spread as they are, so that the optimizer works on shards alone
    (ZeRO, arXiv 1910.02054). Left to itself XLA would rather spread the layers' outputs, and send activations.
    """
    if mesh.shape["fsdp"] == 1:
        return loss

    @jax.custom_vjp
    def gather(params: Any) -> Any:
        return jax.lax.with_sharding_constraint(params, replicated(mesh))

    def spread(_: None, gradient: Any) -> tuple[Any]:
        return (jax.lax.with_sharding_constraint(gradient, state_shardings(gradient, mesh)),)

    gather.defvjp(lambda params: (gather(params), None), spread)
    return lambda params, *rest: loss(gather(params), *rest)


def place_batch(mesh: Mesh) -> Callable[[Array], Array]:
    """A function for inside a jitted program: its argument's leading axis is spread over all devices."""
    return lambda batch: jax.lax.with_sharding_constraint(batch, batch_sharding(mesh))


def compiler_options(mesh: Mesh) -> dict[str, int] | None:
    """What XLA is told when it compiles a training or an evaluation for the mesh: to use a CPU's vectors whole.

    Its own choice is half of AVX-512; where there is no AVX-512 it makes no difference.
    """
    return {"xla_cpu_prefer_vector_width": 512} if mesh.devices.flat[0].platform == "cpu" else None


def needs_static_step_count(mesh: Mesh) -> bool:
    """Whether a program is compiled for its number of steps, or is told it when it runs.

    A GPU's loop of a number that its compiler does not know waits in every turn for the host, which reads whether there
    is another: a seventh of a small step (docs/performance.md). Elsewhere one program serves every number.
    """
    return mesh.devices.flat[0].platform == "gpu"


def trains_members_in_turn(mesh: Mesh) -> bool:
    """Whether models that share a device are trained one after the other there, or as one `vmap`.

    A `vmap` makes batches of products of their products, which a CPU takes longer for (docs/performance.md).
    """
    return mesh.devices.flat[0].platform == "cpu"


def shard_map_over_mesh(program: Callable[..., Any], mesh: Mesh, in_specs: tuple[Any, ...], out_specs: Any) -> Any:
    """`jax.shard_map` of a program(*arrays, count), `in_specs` those of its arrays; a number of Python's stays one."""

    def mapped(*arguments: Any) -> Any:
        *arrays, count = arguments
        if isinstance(count, int):
            return spread(lambda *arrays: program(*arrays, count), in_specs)(*arrays)
        return spread(program, (*in_specs, PartitionSpec()))(*arguments)

    def spread(function: Callable[..., Any], specs: tuple[Any, ...]) -> Callable[..., Any]:
        return jax.shard_map(function, mesh=mesh, in_specs=specs, out_specs=out_specs, check_vma=False)

    return mapped


def to_global_array(array: np.ndarray, sharding: NamedSharding) -> Array:
    """An array that every process holds whole, on the devices: each process puts down the part of its own."""
    return jax.make_array_from_process_local_data(sharding, array, array.shape)


def rows_to_global_array(local: np.ndarray, sharding: NamedSharding, shape: tuple[int, ...], rows: np.ndarray) -> Array:
    """An array of which this process holds some rows only, `local_rows` along the axis that `sharding` spreads."""
    axis = len(sharding.spec) - 1

    def part(index: tuple[slice, ...]) -> np.ndarray:
        start, stop, _ = index[axis].indices(shape[axis])
        own = slice(*np.searchsorted(rows, (start, stop)))
        return local[(*index[:axis], own, *index[axis + 1 :])]

    return jax.make_array_from_callback(shape, sharding, part)


def abstract_arrays(tree: Any, shardings: Any) -> Any:
    """The shapes and dtypes of `tree`, each to live under its sharding: the target of a restore."""
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), tree, shardings)


def communication_bytes(params: Any, data: int, fsdp: int) -> int:
    """Bytes that each device sends in a training step on a mesh of `data` x `fsdp` devices, by rings.

    Of P bytes of parameters that are spread and Q that are whole: gathering (f-1)/f P, summing and spreading the
    gradient (f-1)/f P, summing it over the groups 2(d-1)/d P/f, and that of the others 2(n-1)/n Q, where n = d f.
    """
    spread = whole = 0
    for leaf in jax.tree.leaves(params):
        size = leaf.size * leaf.dtype.itemsize
        if fsdp_spec(leaf.shape, fsdp) == PartitionSpec():
            whole += size
        else:
            spread += size
    n = data * fsdp
    gradient = 2 * (data - 1) / data * spread / fsdp + 2 * (n - 1) / n * whole
    return round(2 * (fsdp - 1) / fsdp * spread + gradient)
