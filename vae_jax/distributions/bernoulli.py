"""distributions.bernoulli."""

import dataclasses

import chex
import jax

from vae_jax import kernels
from vae_jax.distributions.base import Array, Shape, event_ndims_field, expand, joint_shape


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Bernoulli:
    """Independent binary pixels with P(x = 1) = sigmoid(logits).

    Attributes:
      logits: `[*batch, *event]`, log-odds.
      event_ndims: how many trailing axes form one observation, three for images `[H, W, C]`.
    """

    logits: Array
    event_ndims: int = event_ndims_field(3)

    def sample(self, key: Array, sample_shape: Shape = ()) -> Array:
        """Draws 0.0 or 1.0, `[*sample_shape, *batch, *event]`; no gradient flows through the draw."""
        (probability,) = expand((*sample_shape, *self.logits.shape), self.mean())
        return jax.random.bernoulli(key, probability).astype(self.logits.dtype)

    def log_prob(self, value: Array) -> Array:
        """Returns Σ x·l − log(1 + exp(l)) over the event, in nats, each pixel's finite for every finite logit l.

        For x in {0, 1} this is the log probability. For intensities in (0, 1) it is minus the cross entropy,
        the expected log probability of a random binarisation of x: usable as a reconstruction loss, but no
        normalised density over [0, 1], so bounds on log p(x) hold for binary x only.
        Raises ValueError where `value` and `logits` differ by more than leading axes.
        """
        chex.assert_type(value, float)
        shape = joint_shape(self.event_ndims, value.shape, self.logits.shape)
        value, logits = expand(shape, value, self.logits)
        pixels = (*shape[: len(shape) - self.event_ndims], -1)
        return kernels.bernoulli_log_prob(value.reshape(pixels), logits.reshape(pixels))

    def mean(self) -> Array:
        """Returns P(x = 1), `[*batch, *event]`."""
        return jax.nn.sigmoid(self.logits)
