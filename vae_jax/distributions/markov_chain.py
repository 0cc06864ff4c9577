"""A code of several stochastic layers as one distribution: each layer is Gaussian given the layer next to it."""

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import ClassVar, TypeVar

import jax
import jax.numpy as jnp

from vae_jax import random
from vae_jax.distributions.base import Array, Shape
from vae_jax.distributions.normal import Normal

T = TypeVar("T")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class MarkovChain:
    """Stochastic layers z_1, ..., z_L, concatenated to one code, each Gaussian given the one that is sampled before it.

    log p(z) = log p(z_first) + Σ log p(z_next | z_previous). A posterior samples upwards, z_1 first; a prior samples
    downwards, z_L first (Burda et al., arXiv 1509.00519).

    Attributes:
      first: the distribution of the layer that is sampled first, with parameters [*batch, D_first].
      conditionals: one pytree for each further layer, in the order of sampling. It maps codes [..., D] of the previous
        layer to a Normal, for example `jax.tree_util.Partial(network, parameters)`.
      sizes: (D_1, ..., D_L), static.
      downwards: whether z_L is sampled first, static.
    """

    first: Normal
    conditionals: tuple[Callable[[Array], Normal], ...]
    sizes: tuple[int, ...] = dataclasses.field(metadata={"static": True})
    downwards: bool = dataclasses.field(default=False, metadata={"static": True})
    event_ndims: ClassVar[int] = 1

    def sample(self, key: random.Key, sample_shape: Shape = ()) -> Array:
        """Return codes, sampled layer by layer, which have a gradient to all parameters.

        Args:
          key: a typed key, or a `random.RowsKey` whose rows are the last batch axis.
          sample_shape: leading axes of independent samples.

        Returns:
          [*sample_shape, *batch, D_1 + ... + D_L].
        """
        layers = [self.first.sample(random.fold_in(key, 0), sample_shape)]
        for i, conditional in enumerate(self.conditionals, start=1):
            layers.append(conditional(layers[-1]).sample(random.fold_in(key, i)))
        return jnp.concatenate(self._reordered(layers), axis=-1)

    def log_probs(self, value: Array) -> Array:
        """Return the log density of each layer given the layer that is sampled before it.

        Args:
          value: codes [..., D_1 + ... + D_L].

        Returns:
          [L, ...], in nats; row l is layer z_{l+1}.

        Raises:
          ValueError: the last axis has another length.
        """
        layers = self._reordered(self.split(value))
        densities = [self.first, *(c(z) for c, z in zip(self.conditionals, layers[:-1], strict=True))]
        return jnp.stack(self._reordered([p.log_prob(z) for p, z in zip(densities, layers, strict=True)]))

    def log_prob(self, value: Array) -> Array:
        """Return the log density of the complete code.

        Args:
          value: codes [..., D_1 + ... + D_L].

        Returns:
          [...], in nats.

        Raises:
          ValueError: the last axis has another length.
        """
        return jnp.sum(self.log_probs(value), axis=0)

    def split(self, value: Array) -> list[Array]:
        """Return the layers of codes.

        Args:
          value: codes [..., D_1 + ... + D_L].

        Returns:
          z_1 [..., D_1], ..., z_L [..., D_L].

        Raises:
          ValueError: the last axis has another length.
        """
        if value.shape[-1] != sum(self.sizes):
            raise ValueError(f"value has shape {list(value.shape)}; pass codes [..., {sum(self.sizes)}]")
        return jnp.split(value, list(itertools.accumulate(self.sizes[:-1])), axis=-1)

    def along_means(self) -> Normal:
        """Return the distribution of each layer given the *mean* of the layer before it, concatenated.

        It describes the chain by one Gaussian for each number. It is not the marginal distribution of the layers.

        Returns:
          A Normal with parameters [*batch, D_1 + ... + D_L].
        """
        densities = [self.first]
        for conditional in self.conditionals:
            densities.append(conditional(densities[-1].mean()))
        layers = self._reordered(densities)
        return Normal(
            loc=jnp.concatenate([layer.loc for layer in layers], axis=-1),
            log_scale=jnp.concatenate([layer.log_scale for layer in layers], axis=-1),
        )

    def mean(self) -> Array:
        """Return the means of `along_means`, [*batch, D_1 + ... + D_L]."""
        return self.along_means().loc

    def sampled_mean(self, key: random.Key, num_samples: int) -> tuple[Array, Array]:
        """Return an estimate of E[z], and the variance of the estimate.

        The mean of a layer given the layer before it is averaged over samples of the layer before it. The variance is
        estimated from the same samples. It is 0 for the layer that is sampled first, whose mean is exact.

        Args:
          key: a typed key, or a `random.RowsKey` whose rows are the last batch axis.
          num_samples: number of samples, 2 or more.

        Returns:
          Mean and variance, each [*batch, D_1 + ... + D_L].
        """
        means, variances = [self.first.loc], [jnp.zeros_like(self.first.loc)]
        z = self.first.sample(random.fold_in(key, 0), (num_samples,))
        for i, conditional in enumerate(self.conditionals, start=1):
            density = conditional(z)
            means.append(jnp.mean(density.loc, axis=0))
            variances.append(jnp.var(density.loc, axis=0, ddof=1) / num_samples)
            z = density.sample(random.fold_in(key, i))
        mean = jnp.concatenate(self._reordered(means), axis=-1)
        return mean, jnp.concatenate(self._reordered(variances), axis=-1)

    def _reordered(self, layers: Sequence[T]) -> list[T]:
        """Return the layers from the order of sampling in that of the code, or the reverse."""
        return list(layers[::-1]) if self.downwards else list(layers)
