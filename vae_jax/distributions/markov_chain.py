"""A code of several stochastic layers as one density: each layer Gaussian given its neighbour."""

import dataclasses
import itertools
from collections.abc import Callable
from typing import ClassVar

import jax
import jax.numpy as jnp

from vae_jax import random
from vae_jax.distributions.base import Array, Shape
from vae_jax.distributions.normal import Normal


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class MarkovChain:
    """Layers z_1, ..., z_L of one code, side by side, each Gaussian given the one that was drawn before it.

    log p(z) = log p(z_first) + Σ log p(z_next | z_before). A posterior draws upwards, z_1 first; a prior draws
    downwards, z_L first (Burda et al., arXiv 1509.00519).

    Attributes:
      first: the density of the layer that is drawn first, `[*batch, D]`.
      conditionals: for each further layer, in the order of drawing, a pytree that maps codes `[..., D]` of the layer
        before it to a Normal: `jax.tree_util.Partial(network, parameters)`.
      sizes: `(D_1, ..., D_L)`, static.
      downwards: whether z_L is drawn first, static.
    """

    first: Normal
    conditionals: tuple[Callable[[Array], Normal], ...]
    sizes: tuple[int, ...] = dataclasses.field(metadata={"static": True})
    downwards: bool = dataclasses.field(default=False, metadata={"static": True})
    event_ndims: ClassVar[int] = 1

    def sample(self, key: random.Key, sample_shape: Shape = ()) -> Array:
        """Draws a layer at a time, through which gradients flow: `[*sample_shape, *batch, D_1 + ... + D_L]`."""
        layers = [self.first.sample(random.fold_in(key, 0), sample_shape)]
        for i, conditional in enumerate(self.conditionals, start=1):
            layers.append(conditional(layers[-1]).sample(random.fold_in(key, i)))
        return jnp.concatenate(self._ordered(layers), axis=-1)

    def log_probs(self, value: Array) -> Array:
        """Returns the log density of each layer given the one before it, in nats, `[L, ...]` for values `[..., D]`."""
        layers = self._ordered(self.split(value))
        densities = [self.first, *(c(z) for c, z in zip(self.conditionals, layers[:-1], strict=True))]
        return jnp.stack(self._ordered([p.log_prob(z) for p, z in zip(densities, layers, strict=True)]))

    def log_prob(self, value: Array) -> Array:
        """Returns the log density of the whole code, in nats."""
        return jnp.sum(self.log_probs(value), axis=0)

    def split(self, value: Array) -> list[Array]:
        """The layers z_1, ..., z_L of codes `[..., D]`; raises ValueError where D is not the sum of the sizes."""
        if value.shape[-1] != sum(self.sizes):
            raise ValueError(f"a code has {sum(self.sizes)} numbers, got {value.shape[-1]}")
        return jnp.split(value, list(itertools.accumulate(self.sizes[:-1])), axis=-1)

    def along_means(self) -> Normal:
        """Each layer's density given the *mean* of the one before it, side by side: a picture of the chain, no
        marginal of it."""
        densities = [self.first]
        for conditional in self.conditionals:
            densities.append(conditional(densities[-1].mean()))
        parts = self._ordered(densities)
        return Normal(*(jnp.concatenate([getattr(p, name) for p in parts], axis=-1) for name in ("loc", "log_scale")))

    def mean(self) -> Array:
        """Returns the means of `along_means`, `[*batch, D_1 + ... + D_L]`."""
        return self.along_means().loc

    def sampled_mean(self, key: random.Key, num_samples: int) -> tuple[Array, Array]:
        """Returns E[z], the mean of each layer over draws of those before it, and the variance that this estimate has.

        Both `[*batch, D_1 + ... + D_L]`; the variance, estimated by the same draws, is 0 for the layer drawn first.
        `num_samples` is 2 or more.
        """
        means, variances = [self.first.loc], [jnp.zeros_like(self.first.loc)]
        z = self.first.sample(random.fold_in(key, 0), (num_samples,))
        for i, conditional in enumerate(self.conditionals, start=1):
            density = conditional(z)
            means.append(jnp.mean(density.loc, axis=0))
            variances.append(jnp.var(density.loc, axis=0, ddof=1) / num_samples)
            z = density.sample(random.fold_in(key, i))
        return jnp.concatenate(self._ordered(means), axis=-1), jnp.concatenate(self._ordered(variances), axis=-1)

    def _ordered(self, layers: list) -> list:
        """From the order of drawing to that of the code, and back."""
        return layers[::-1] if self.downwards else layers
