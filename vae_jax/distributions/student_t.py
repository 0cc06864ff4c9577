"""Student's t distribution, a likelihood with heavy tails."""

import dataclasses

import chex
import jax
import jax.numpy as jnp

from vae_jax import random
from vae_jax.distributions.base import LOG_2PI, Array, Density, Shape, event_ndims_field, expand, joint_shape, sum_event


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class StudentT(Density):
    """Independent numbers loc + σ·t, where t has Student's distribution with ν degrees of freedom.

    The scale is σ = exp(log_scale), and ν = exp(log_df). ν = 1 is the Cauchy distribution, and ν → ∞ the normal
    distribution. The influence of an outlier on `loc` is bounded: |d log p / d loc| ≤ (ν + 1) / (2σ·sqrt(ν)).

    Attributes:
      loc: [*batch, *event], the medians.
      log_scale: the same shape, log σ. σ is the standard deviation divided by sqrt(ν / (ν − 2)).
      log_df: the same shape, log ν. The log density of each number and its gradient are finite for |log σ| ≤ 40,
        |log ν| ≤ 40 and |x − loc| ≤ 10^15.
      event_ndims: number of trailing axes of one observation.
    """

    loc: Array
    log_scale: Array
    log_df: Array
    event_ndims: int = event_ndims_field(1)

    def sample(self, key: Array, sample_shape: Shape = ()) -> Array:
        """Return samples x = loc + σ·n·sqrt((exp(y) − 1)/y) with y = (n² + m²)/ν and n, m ~ N(0, I).

        The samples have a gradient to all parameters. They are finite in float32 for ν ≥ ⅓ and σ = 1.
        Bailey, Polar generation of random variates with the t-distribution, Mathematics of Computation 62, 1994.

        Args:
          key: a typed key, or keys whose shape is the beginning of that of the samples.
          sample_shape: leading axes of independent samples.

        Returns:
          [*sample_shape, *batch, *event].

        Raises:
          AssertionError: the parameters have different shapes.
        """
        chex.assert_equal_shape([self.loc, self.log_scale, self.log_df])
        shape, dtype = (*sample_shape, *self.loc.shape), self.loc.dtype
        loc, scale, df = expand(shape, self.loc, jnp.exp(self.log_scale), jnp.exp(self.log_df))
        n, m = (random.normal(random.fold_in(key, i), shape, dtype) for i in range(2))
        y = jnp.maximum((n * n + m * m) / df, jnp.finfo(dtype).eps ** 2)  # y^−2 in the gradient does not overflow
        return loc + scale * n * jnp.exp(0.5 * y) * jnp.sqrt(-jnp.expm1(-y) / y)

    def log_prob(self, value: Array) -> Array:
        """Return Σ log Γ((ν+1)/2) − log Γ(ν/2) − ½ log(πν) − log σ − ½(ν+1) log(1 + ((x − loc)/σ)²/ν) over the event.

        Args:
          value: floats [..., *event]; its shape and that of `loc` may differ only by leading axes.

        Returns:
          The shape of the longer of both without the event axes, in nats.

        Raises:
          ValueError: the shapes of `value` and `loc` differ by more than leading axes.
          AssertionError: the parameters have different shapes, or `value` is not an array of floats.
        """
        chex.assert_equal_shape([self.loc, self.log_scale, self.log_df])
        chex.assert_type(value, float)
        shape = joint_shape(self.event_ndims, value.shape, self.loc.shape)
        constant = _log_gamma_ratio(0.5 * jnp.exp(self.log_df)) - 0.5 * LOG_2PI - self.log_scale
        value, loc, constant, log_scale, log_df = expand(shape, value, self.loc, constant, self.log_scale, self.log_df)
        tail = _log1p_square(value - loc, log_scale + 0.5 * log_df)
        return sum_event(constant - 0.5 * (jnp.exp(log_df) + 1) * tail, self.event_ndims)

    def mean(self) -> Array:
        """Return loc, [*batch, *event]. It is the median for every ν, and the mean for ν > 1."""
        return self.loc

    def stddev(self) -> Array:
        """Return σ·sqrt(ν / (ν − 2)), [*batch, *event]; infinity for ν ≤ 2."""
        df = jnp.exp(self.log_df)
        finite = df > 2
        ratio = df / jnp.where(finite, df - 2, 1)
        return jnp.where(finite, jnp.exp(self.log_scale) * jnp.sqrt(ratio), jnp.inf)

    @property
    def batch_shape(self) -> Shape:
        """[*batch], the shape of independent distributions."""
        return self.loc.shape[: self.loc.ndim - self.event_ndims]


def _log1p_square(distance: Array, log_width: Array) -> Array:
    """Return log(1 + u²) with u = distance·exp(−log_width); it is 2 log|u| + log(1 + u^−2) for |u| > 1.

    No term overflows, and neither form has an infinite gradient where the other one is selected.
    """
    large = jnp.abs(distance) > jnp.exp(log_width)
    u = jnp.where(large, 0.0, distance) * jnp.exp(-log_width)
    far, log_far_width = jnp.where(large, jnp.abs(distance), 1.0), jnp.where(large, log_width, 0.0)
    tail = 2 * (jnp.log(far) - log_far_width) + jnp.log1p((jnp.exp(log_far_width) / far) ** 2)
    return jnp.where(large, tail, jnp.log1p(u**2))


def _log_gamma_ratio(a: Array) -> Array:
    """Return log Γ(a + ½) − log Γ(a) − ½ log a, which tends to zero for large a, without a difference of large numbers.

    Γ(a + ½) / Γ(a) = Γ(a + 8 + ½) / Γ(a + 8) / Π_{k<8} (1 + ½/(a + k)), and the ratio at a + 8 has an asymptotic series
    that is accurate to 10^−12.
    """
    product = jnp.ones_like(a)
    for k in range(8):
        product *= 1 + 0.5 / (a + k)
    y = 1 / (a + 8)
    y2 = y * y
    series = y * (-1 / 8 + y2 * (1 / 192 + y2 * (-1 / 640 + y2 * (17 / 14336 - y2 * 31 / 18432))))
    return 0.5 * jnp.log1p(8 / a) + series - jnp.log(product)
