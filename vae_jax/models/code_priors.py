"""Families of p(z) over grids of integer codes."""

import dataclasses
from typing import Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from vae_jax.config import Config, register, require
from vae_jax.distributions import CategoricalCodes, UniformCodes
from vae_jax.models.codes import CodePriorConfig


class UniformCodePrior(nn.Module):
    """p(z) with equal probabilities.

    Attributes:
      count: G, the number of codes.
      num_codes: C.
    """

    count: int
    num_codes: int

    def __call__(self, posterior_of: Any = None) -> UniformCodes:
        """Return p(z); the posterior is not used."""
        del posterior_of
        return UniformCodes(self.num_codes, self.count)


@register("prior", "uniform-codes")
@dataclasses.dataclass(frozen=True)
class UniformCodesConfig(CodePriorConfig):
    """Each code has the same probability 1/C, so log p(z) is a constant."""

    has_closed_kl: ClassVar[bool] = True

    def build_codes(self, count: int, num_codes: int) -> UniformCodePrior:
        """Return a `UniformCodePrior`."""
        return UniformCodePrior(count, num_codes)


class CategoricalCodePrior(nn.Module):
    """p(z) of independent codes with learned probabilities for each position. They are equal initially.

    Attributes:
      count: G, the number of codes.
      num_codes: C.
    """

    count: int
    num_codes: int

    @nn.compact
    def __call__(self, posterior_of: Any = None) -> CategoricalCodes:
        """Return p(z); the posterior is not used."""
        del posterior_of
        return CategoricalCodes(self.param("logits", nn.initializers.zeros, (self.count, self.num_codes)))


@dataclasses.dataclass(frozen=True)
class LearnedCodePriorConfig(CodePriorConfig):
    """The base of densities of codes with parameters."""

    def check(self, config: Config) -> None:
        """Raise InputError if the model has no codes, or if the objective does not train p(z)."""
        super().check(config)
        objective = config.objective
        require(objective.needs_density, "prior", self.name,
                f"uniform-codes with objective={objective.name}, which does not depend on p(z)")  # fmt: skip


@register("prior", "categorical-codes")
@dataclasses.dataclass(frozen=True)
class CategoricalCodesConfig(LearnedCodePriorConfig):
    """Independent codes with learned probabilities for each position."""

    has_closed_kl: ClassVar[bool] = True

    def build_codes(self, count: int, num_codes: int) -> CategoricalCodePrior:
        """Return a `CategoricalCodePrior`."""
        return CategoricalCodePrior(count, num_codes)

    def start_from(self, params: Any, codes: Array) -> Any:
        """Return the shares of the codes at each position, with half a code more of each, as logits."""
        count, num_codes = params["logits"].shape
        totals = jnp.zeros((count, num_codes)).at[jnp.broadcast_to(jnp.arange(count), codes.shape), codes].add(1)
        return params | {"logits": jnp.log(totals + 0.5)}
