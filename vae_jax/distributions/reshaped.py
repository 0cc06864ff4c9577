"""A density of vectors as one of arrays of another shape, such as feature maps."""

import dataclasses
import math
from typing import Any

import chex
import jax

from vae_jax.distributions.base import Array, Density, Shape


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Reshaped(Density):
    """A density of arrays [*event] whose numbers, as a vector in row-major order, have the density `base`.

    Attributes:
      base: a density of vectors [*batch, D], such as a flow.
      event_shape: [*event], with D numbers; static.
    """

    base: Any
    event_shape: Shape = dataclasses.field(metadata={"static": True})

    def sample(self, key: Array, sample_shape: Shape = ()) -> Array:
        """Return samples, [*sample_shape, *batch, *event]: see that of `base`."""
        return self._as_event(self.base.sample(key, sample_shape))

    def sample_and_log_prob(self, key: Array, sample_shape: Shape = ()) -> tuple[Array, Array]:
        """Return samples and their log density in nats: see that of `base`."""
        value, log_density = self.base.sample_and_log_prob(key, sample_shape)
        return self._as_event(value), log_density

    def log_prob(self, value: Array) -> Array:
        """Return the log density of values.

        Args:
          value: floats [..., *event].

        Returns:
          [...], in nats.

        Raises:
          AssertionError: the last axes of `value` are not [*event].
        """
        chex.assert_shape(value, (..., *self.event_shape))
        lead = value.shape[: value.ndim - self.event_ndims]
        return self.base.log_prob(value.reshape(*lead, math.prod(self.event_shape)))

    def mean(self) -> Array:
        """Return the mean of `base`, [*batch, *event]."""
        return self._as_event(self.base.mean())

    def stddev(self) -> Array:
        """Return the standard deviations of `base`, [*batch, *event]."""
        return self._as_event(self.base.stddev())

    def tempered(self, temperature: float | Array) -> "Reshaped":
        """Return the density with `base` at a temperature."""
        return dataclasses.replace(self, base=self.base.tempered(temperature))

    @property
    def event_ndims(self) -> int:
        """The number of trailing axes of one observation."""
        return len(self.event_shape)

    @property
    def batch_shape(self) -> Shape:
        """[*batch], the shape of independent distributions."""
        return self.base.batch_shape

    def _as_event(self, value: Array) -> Array:
        return value.reshape(*value.shape[:-1], *self.event_shape)
