"""A prior of standardized codes, and a model whose prior is replaced.

A density that is fitted to the codes of a trained model is such a prior: the first of two stages is the model, the
second the density (Dai & Wipf, arXiv 1903.05789; Ghosh et al., arXiv 1903.12436).
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array, lax

from vae_jax.distributions import Batch, Distribution, Draw, Flow, Latent, LowerCholeskyAffine, Observed
from vae_jax.errors import InputError


class StandardizedPrior(nn.Module):
    """p(z) of z = loc + L e with e from another prior. The parameters `loc` and `scale_tril` have no gradient.

    Attributes:
      prior: the module of the other prior.
      size: D, the dimension of z.
      family: the name of the other prior, for errors.
    """

    prior: nn.Module
    size: int
    family: str

    @nn.compact
    def __call__(self, posterior_of: Callable[[Array], Distribution] | None = None) -> Flow:
        """Return p(z), a flow whose last transform is affine; `posterior_of` is not used.

        Raises:
          InputError: the other prior depends on the posterior.
        """
        del posterior_of
        density: Any = self.prior(self._refuse_posterior)
        base, transforms = (density.base, density.transforms) if isinstance(density, Flow) else (density, ())
        loc = self.param("loc", nn.initializers.zeros, (self.size,))
        scale_tril = self.param("scale_tril", lambda _, size: jnp.eye(size), self.size)
        affine = LowerCholeskyAffine(lax.stop_gradient(loc), lax.stop_gradient(scale_tril))
        return Flow(base, (*transforms, affine))

    def _refuse_posterior(self, x: Array) -> Distribution:
        del x
        raise InputError(
            f"prior={self.family} is made of posteriors of the encoder, so it cannot be fitted to codes; use another "
            "prior, or train the model with it"
        )


class FittedCodes(nn.Module):
    """p(z) of integer codes, from another prior of codes.

    Attributes:
      prior: the module of the other prior.
      size: G, the number of codes.
      num_codes: C; a code is 0, ..., C - 1.
      family: the name of the other prior, for errors.
    """

    prior: nn.Module
    size: int
    num_codes: int
    family: str

    def __call__(self, posterior_of: Any = None) -> Any:
        """Return p(z), a density of int32 [G]."""
        return self.prior(posterior_of)


@dataclasses.dataclass(frozen=True)
class _ReplacedPrior:
    """A drawer for which p(z) is another density."""

    draw: Draw
    prior: Distribution

    @property
    def posterior_first(self) -> bool:
        return self.draw.posterior_first

    def __call__(
        self,
        name: str,
        prior: Distribution | None,
        posterior: Any = None,
        *,
        observed: Observed | None = None,
        index: Array | None = None,
    ) -> Latent:
        replaced = None if prior is None else self.prior  # noise of a model has no prior
        return self.draw(name, replaced, posterior, observed=observed, index=index)


class WithPrior(nn.Module):
    """A model with one stochastic layer, whose p(z) is replaced.

    Its parameters are {"model": those of the model, "prior": those of p(z)}.

    Attributes:
      model: any Linen module with the methods `encode` and `decode`, and one stochastic layer.
      prior: any Linen module that returns p(z).
    """

    model: nn.Module
    prior: nn.Module

    @property
    def likelihood(self) -> Any:
        """The family of p(x|z); None if the model does not state it."""
        return getattr(self.model, "likelihood", None)

    def encode(self, batch: Batch) -> Any:
        """Return what the posterior of the model reads of the data."""
        return self.model.encode(batch)  # pyright: ignore[reportAttributeAccessIssue]

    def decode(
        self, draw: Draw, evidence: Any = None, batch: Batch | None = None
    ) -> tuple[Distribution, tuple[Latent, ...]]:
        """Return p(x|z) and the stochastic layer, whose prior is the other one."""
        replaced = _ReplacedPrior(draw, self.prior())
        return self.model.decode(replaced, evidence, batch)  # pyright: ignore[reportAttributeAccessIssue]
