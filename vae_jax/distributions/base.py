"""What the distributions share: the rules for shapes, and helpers that apply them.

A distribution is a frozen dataclass and a pytree whose parameters are arrays [*batch, *event]. A network can therefore
return it, and `jit`, `vmap`, `grad` and `stop_gradient` accept it. It has the methods `sample`, `log_prob` (in nats)
and `mean` (in the units of the data).

The last `event_ndims` axes of an array are one observation: `log_prob` sums over them and includes every constant. A
value and the parameters may differ only by *leading* axes, for example z [K, B, D] and loc [B, D] or loc [D]. All axes
that both have must be equal, so that neither K = B nor an axis of length 1 is ever broadcast silently. Computations use
the dtype of the parameters: pass float32, whatever the precision of the network.
"""

import dataclasses
from typing import Any, ClassVar, Protocol

import jax
import jax.numpy as jnp

Array = jax.Array
Shape = tuple[int, ...]


class Distribution(Protocol):
    """What models, drawers and objectives use of a distribution.

    A distribution that is only a likelihood has no `stddev`. A distribution without a density, such as a point, returns
    None as the log density of its samples, and has no `log_prob`.
    """

    @property
    def batch_shape(self) -> Shape:
        """[*batch], the shape of independent distributions."""
        ...

    def sample(self, key: Array, sample_shape: Shape = ()) -> Array:
        """Return samples [*sample_shape, *batch, *event]."""
        ...

    def sample_and_log_prob(self, key: Array, sample_shape: Shape = ()) -> tuple[Array, Array | None]:
        """Return samples, and their log density [*sample_shape, *batch] in nats, None if there is none."""
        ...

    def log_prob(self, value: Array) -> Array:
        """Return the log density of values, in nats."""
        ...

    def mean(self) -> Array:
        """Return the mean, [*batch, *event]."""
        ...

    def stddev(self) -> Array:
        """Return the standard deviation of each number, [*batch, *event]."""
        ...


class Density:
    """The method that distributions with a density inherit; a normalizing flow overrides it.

    Attributes:
      is_discrete: whether `log_prob` is the logarithm of a probability, so that values have no gradient.
    """

    is_discrete: ClassVar[bool] = False

    def sample_and_log_prob(self: Any, key: Array, sample_shape: Shape = ()) -> tuple[Array, Array]:
        """Return samples and their log density, computed from the samples.

        Args:
          key: a typed key, or keys whose shape is the beginning of that of the samples.
          sample_shape: leading axes of independent samples.

        Returns:
          Samples [*sample_shape, *batch, *event], and their log density [*sample_shape, *batch] in nats.
        """
        value = self.sample(key, sample_shape)
        return value, self.log_prob(value)


LOG_2PI = 1.8378770664093453


def event_ndims_field(default: int) -> Any:  # a dataclass field has the type of its value
    """Return a dataclass field for the number of trailing event axes. It is static, so it is never traced."""
    return dataclasses.field(default=default, metadata={"static": True})


def joint_shape(event_ndims: int, *shapes: Shape) -> Shape:
    """Return the longest of the shapes.

    Args:
      event_ndims: number of trailing event axes, which every shape must have.
      *shapes: the shapes of the arrays that are combined.

    Returns:
      The longest shape.

    Raises:
      ValueError: one of the shapes is not the end of the longest one, or has fewer axes than an event.
    """
    longest = max(shapes, key=len)
    for shape in shapes:
        if len(shape) < event_ndims or shape != longest[len(longest) - len(shape) :]:
            shapes_text = " and ".join(str(list(shape)) for shape in shapes)
            raise ValueError(
                f"shapes {shapes_text} may differ only by leading axes before the {event_ndims} axes of an event"
            )
    return longest


def expand(shape: Shape, *arrays: Array) -> list[Array]:
    """Return each array repeated along new leading axes, so that all have the given shape."""
    return [jnp.broadcast_to(array, shape) for array in arrays]


def sum_event(values: Array, event_ndims: int) -> Array:
    """Return the sum over the last `event_ndims` axes."""
    return jnp.sum(values, axis=tuple(range(-event_ndims, 0)))
