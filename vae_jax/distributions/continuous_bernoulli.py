"""The continuous Bernoulli distribution of intensities in [0, 1]."""

import dataclasses

import chex
import jax
import jax.numpy as jnp

from vae_jax import random
from vae_jax.distributions.base import Array, Density, Shape, event_ndims_field, expand, joint_shape, sum_event

# B_2n / (2n)! for n = 1, ..., 7 with the Bernoulli numbers B: coefficients of the expansions around l = 0.
_COEFFICIENTS = (1 / 12, -1 / 720, 1 / 30240, -1 / 1209600, 1 / 47900160, -691 / 1307674368000, 1 / 74724249600)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class ContinuousBernoulli(Density):
    """Independent intensities x in [0, 1] with the density p(x) = exp(l·x)·l / (exp(l) − 1) for logits l.

    It is the Bernoulli likelihood of intensities, normalized to a density: p(x) ∝ λ^x (1 − λ)^(1−x) with
    λ = sigmoid(l). The constant and its gradient are accurate for every finite l; around l = 0, where the density is
    uniform, they are computed by a Taylor expansion.

    Loaiza-Ganem & Cunningham, The continuous Bernoulli, arXiv 1907.06845.

    Attributes:
      logits: [*batch, *event], l.
      event_ndims: number of trailing axes of one observation, three for images [H, W, C].
    """

    logits: Array
    event_ndims: int = event_ndims_field(3)

    def sample(self, key: Array, sample_shape: Shape = ()) -> Array:
        """Return samples x = log(1 + u (exp(l) − 1)) / l with uniform u, which have a gradient to the logits.

        Args:
          key: a typed key, or keys whose shape is the beginning of that of the samples.
          sample_shape: leading axes of independent samples.

        Returns:
          [*sample_shape, *batch, *event] in [0, 1].
        """
        (logits,) = expand((*sample_shape, *self.logits.shape), self.logits)
        u = random.drawn(lambda k, s: jax.random.uniform(k, s, logits.dtype), key, logits.shape)
        return _quantile(u, logits)

    def log_prob(self, value: Array) -> Array:
        """Return Σ l·x − log((exp(l) − 1) / l) over the event.

        Args:
          value: floats [..., *event] in [0, 1]; its shape and that of `logits` may differ only by leading axes.

        Returns:
          The shape of the longer of both without the event axes, in nats.

        Raises:
          ValueError: the shapes of `value` and `logits` differ by more than leading axes.
          AssertionError: `value` is not an array of floats.
        """
        chex.assert_type(value, float)
        shape = joint_shape(self.event_ndims, value.shape, self.logits.shape)
        value, logits = expand(shape, value, self.logits)
        near, small, size = _split(logits, 1.0)
        series = small * small * _polynomial(small, [c / (2 * n) for n, c in enumerate(_COEFFICIENTS, start=1)])
        around_zero = small * (value - 0.5) - series
        # exp(l·x)·l / (exp(l) − 1) = exp(−|l|·d)·|l| / (1 − exp(−|l|)), where d is the distance to the likelier end.
        distance = jnp.where(logits > 0, 1 - value, value)
        in_tails = jnp.log(size) - jnp.log1p(-jnp.exp(-size)) - size * distance
        return sum_event(jnp.where(near, around_zero, in_tails), self.event_ndims)

    def mean(self) -> Array:
        """Return 1 / (1 − exp(−l)) − 1/l, [*batch, *event]; ½ for l = 0."""
        near, small, size = _split(self.logits, 1.0)
        around_zero = 0.5 + small * _polynomial(small, _COEFFICIENTS)
        distance = 1 / size + jnp.exp(-size) / jnp.expm1(-size)  # expected distance to the likelier end
        return jnp.where(near, around_zero, jnp.where(self.logits > 0, 1 - distance, distance))

    def stddev(self) -> Array:
        """Return sqrt(1/l² − exp(−l) / (1 − exp(−l))²), [*batch, *event]; sqrt(1/12) for l = 0."""
        near, small, size = _split(self.logits, 1.0)
        around_zero = _polynomial(small, [(2 * n - 1) * c for n, c in enumerate(_COEFFICIENTS, start=1)])
        in_tails = size**-2 - jnp.exp(-size) / jnp.expm1(-size) ** 2
        return jnp.sqrt(jnp.where(near, around_zero, in_tails))

    @property
    def batch_shape(self) -> Shape:
        """[*batch], the shape of independent distributions."""
        return self.logits.shape[: self.logits.ndim - self.event_ndims]


def _split(logits: Array, limit: float) -> tuple[Array, Array, Array]:
    """Return |l| < limit; l where this is true, else 0; and |l| where it is false, else the limit.

    An expansion around zero is evaluated at the second array and a closed form at the third one, so that neither has an
    infinite gradient where the other one is selected.
    """
    near = jnp.abs(logits) < limit
    return near, jnp.where(near, logits, 0.0), jnp.where(near, limit, jnp.abs(logits))


def _polynomial(l: Array, coefficients: list[float] | tuple[float, ...]) -> Array:
    """Return Σ_n c_n·l^(2n)."""
    total = jnp.zeros_like(l)
    for coefficient in reversed(coefficients):
        total = total * l * l + coefficient
    return total


def _quantile(u: Array, logits: Array) -> Array:
    """Return log(1 + u (exp(l) − 1)) / l; for |l| < ¼ by Σ_n κ_n·l^(n−1) / n! with the cumulants κ of Bernoulli(u)."""
    near, small, size = _split(logits, 0.25)
    v, skew = u * (1 - u), 1 - 2 * u
    cumulants = (u, v, v * skew, v * (1 - 6 * v), v * skew * (1 - 12 * v), v * (1 - 30 * v + 120 * v * v))
    around_zero = jnp.zeros_like(u)
    for n, cumulant in reversed(list(enumerate(cumulants, start=1))):
        around_zero = around_zero * small / (n + 1) + cumulant
    # The distance to the likelier end has no finite derivative where the probability of a shorter one rounds to one.
    positive = logits > 0
    probability = jnp.minimum(jnp.where(positive, 1 - u, u), 1 - jnp.finfo(u.dtype).eps / 2)
    distance = -jnp.log1p(probability * jnp.expm1(-size)) / size
    return jnp.clip(jnp.where(near, around_zero, jnp.where(positive, 1 - distance, distance)), 0, 1)
