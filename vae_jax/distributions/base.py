"""Probability densities as pytrees: `sample`, `log_prob` in nats, `mean` in data units, and KL divergences.

A density is a frozen dataclass whose parameters are arrays `[*batch, *event]`, so a network can return it,
and `jit`, `vmap`, `grad` and `stop_gradient` pass through it. The last `event_ndims` axes are one
observation: `log_prob` sums over them and keeps every constant. A value and the parameters may differ only by
*leading* axes, `z [K, B, D]` against `loc [B, D]` or `loc [D]`; all axes they share must be equal, so that
neither K = B nor an axis of size one ever broadcasts silently. Arithmetic is done in the dtype of the
parameters: hand over float32, whatever the precision of the network.
"""

import dataclasses

import jax
import jax.numpy as jnp

Array = jax.Array
Shape = tuple[int, ...]

LOG_2PI = 1.8378770664093453


def event_ndims_field(default: int):
    """Returns a dataclass field for the number of trailing event axes: static, so never traced."""
    return dataclasses.field(default=default, metadata={"static": True})


def joint_shape(event_ndims: int, *shapes: Shape) -> Shape:
    """Returns the longest of the shapes; raises ValueError unless every other is the end of it."""
    longest = max(shapes, key=len)
    for shape in shapes:
        if len(shape) < event_ndims or shape != longest[len(longest) - len(shape) :]:
            raise ValueError(
                f"shapes may differ only by leading axes before the {event_ndims} event axes, got "
                + " and ".join(map(str, shapes))
            )
    return longest


def expand(shape: Shape, *arrays: Array) -> list[Array]:
    """Repeats each array along new leading axes, explicitly."""
    return [jnp.broadcast_to(array, shape) for array in arrays]


def sum_event(values: Array, event_ndims: int) -> Array:
    return jnp.sum(values, axis=tuple(range(-event_ndims, 0)))
