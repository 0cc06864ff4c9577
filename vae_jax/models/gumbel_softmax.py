"""Codes that are samples of a categorical posterior, with the gradient of their Gumbel-softmax relaxation."""

import dataclasses
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array, lax

from vae_jax.config import Config, any_of, choices, register, require, require_default, setting
from vae_jax.distributions import Draw, GumbelCodes, GumbelNoise, Latent
from vae_jax.models.codes import PlaceProjection, QuantizerConfig, straight_through
from vae_jax.models.vector_quantization import VectorCodes


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Relaxed:
    """What the posterior reads of B examples.

    Attributes:
      logits: [B, P, C], of q(z|x).
      codebook: the vectors of the codes, with one level.
      temperature: t of the relaxation softmax((logits + noise) / t), [].
    """

    logits: Array
    codebook: VectorCodes
    temperature: float | Array

    def walk(self, draw: Draw, prior: Any) -> tuple[Latent, Array]:
        """Return the layer "z" of codes, and their vectors [..., P, D].

        The values are those of the codes z = argmax(logits + noise). In derivatives the relaxation takes the place of
        the one-hot vectors of z: in the vectors, in log q(z|x) and in log p(z). The KL and its gradient are exact.

        Args:
          draw: the answer to the question for a layer.
          prior: p(z), with a KL in closed form. Another one leaves the layer without a gradient, which `pathwise`
            refuses.
        """
        noise = draw("z/noise", None, lambda: GumbelNoise(self.logits.shape)).z  # [..., P, C]
        q = GumbelCodes(self.logits, noise)
        latent = draw("z", prior, lambda: q)
        soft = jax.nn.softmax((jnp.broadcast_to(self.logits, noise.shape) + noise) / self.temperature)
        vectors = straight_through(self.codebook.embed(latent.z), soft @ self.codebook.vectors[0])
        if latent.kl is None:
            return latent, vectors
        log_q = latent.log_q + _derivative_through(soft, self.logits)  # pyright: ignore[reportOptionalOperand]
        log_p = latent.log_p
        if hasattr(prior, "logits"):
            log_p = log_p + _derivative_through(soft, prior.logits)  # pyright: ignore[reportOptionalOperand]
        return dataclasses.replace(latent, log_q=log_q, log_p=log_p, posterior=lax.stop_gradient(q)), vectors


def _derivative_through(soft: Array, logits: Array) -> Array:
    """Return 0 with the derivative of Σ soft · log softmax(logits) through soft [..., P, C] alone, [...]."""
    log_probability = jax.nn.log_softmax(lax.stop_gradient(logits))
    expected = jnp.sum(soft * jnp.broadcast_to(log_probability, soft.shape), axis=(-2, -1))
    return expected - lax.stop_gradient(expected)


class GumbelQuantizer(nn.Module):
    """A categorical posterior of the code of each of P places.

    Jang et al., arXiv 1611.01144; Maddison et al., arXiv 1611.00712.

    Attributes:
      places: P.
      num_codes: C.
      size: D, of the vector of a code.
      temperature: t_0, of the relaxation at the first step.
      final_temperature: t_1, from step N on.
      annealing_steps: N; at step n the temperature is t_0 (t_1 / t_0)^(n / N). 0: it is t_0 at all steps. The steps are
        counted in the collection "temperature", which changes in training steps alone.
      from_places: see `PlaceProjection`.
    """

    places: int
    num_codes: int
    size: int
    temperature: float = 1.0
    final_temperature: float = 0.5
    annealing_steps: int = 0
    from_places: bool = False

    def setup(self) -> None:
        """Create the dense layer, the codebook and the counter of steps."""
        if self.annealing_steps:
            self.steps = self.variable("temperature", "steps", jnp.zeros, (), jnp.int32)
        self.projection = PlaceProjection(self.places, self.num_codes, self.from_places)
        self.vectors = self.param("vectors", nn.initializers.normal(1.0), (self.num_codes, self.size))

    def codebook(self) -> VectorCodes:
        """Return the vectors of the codes."""
        return VectorCodes(self.vectors[None])

    def __call__(self, features: Array) -> Relaxed:
        """Return the posterior of features [B, F]; a training step is counted."""
        return Relaxed(self.projection(features), self.codebook(), self._next_temperature())

    def _next_temperature(self) -> float | Array:
        """Return the temperature of this step."""
        if not self.annealing_steps:
            return self.temperature
        done = jnp.minimum(self.steps.value / self.annealing_steps, 1.0)
        if self.is_mutable_collection("temperature") and not self.is_initializing():
            self.steps.value += 1
        return self.temperature * (self.final_temperature / self.temperature) ** done


@register("posterior", "gumbel-softmax")
@dataclasses.dataclass(frozen=True)
class GumbelSoftmaxConfig(QuantizerConfig):
    """Samples of categorical distributions, with the gradient of a Gumbel-softmax relaxation."""

    is_certain: ClassVar[bool] = False

    codebook_size: int = setting(64, "Number of codes.", minimum=2)
    code_dim: int = setting(16, "Dimension of the vector of a code.", above=0)
    temperature: float = setting(
        1.0, "Temperature of the relaxation: a smaller one has less bias and more variance.", above=0
    )
    final_temperature: float = setting(0.5, "Temperature of the relaxation after annealing_steps.", above=0)
    annealing_steps: int = setting(
        0, "Steps in which temperature becomes final_temperature, by a constant factor; 0: it is constant.", minimum=0
    )

    @property
    def num_codes(self) -> int:
        """The size of the codebook."""
        return self.codebook_size

    def build(self, latent_dim: int) -> GumbelQuantizer:
        """Return a `GumbelQuantizer` of `latent_dim` places."""
        schedule = self.temperature, self.final_temperature, self.annealing_steps
        return GumbelQuantizer(latent_dim, self.codebook_size, self.code_dim, *schedule)

    def check(self, config: Config) -> None:
        """Raise InputError for a KL without a closed form, or an unused setting."""
        super().check(config)
        usable = [name for name, cls in choices("prior").items() if getattr(cls, "has_closed_kl", False)]
        require(config.prior.name in usable, "prior", config.prior.name,
                f"{any_of(usable)} with posterior={self.name}, whose KL must be in closed form; fit another one by "
                "`vae-jax fit-prior`")  # fmt: skip
        default = type(self)().final_temperature
        require_default(self.annealing_steps > 0 or self.final_temperature == default, "posterior.final_temperature",
                        self.final_temperature, "with posterior.annealing_steps=0", "set annealing_steps")  # fmt: skip
