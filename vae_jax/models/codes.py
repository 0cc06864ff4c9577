"""A VAE whose latent is a grid of integer codes: its posterior quantizes the outputs of the encoder."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, ClassVar, Protocol

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array, lax

from vae_jax.config import Config, any_of, choices, register, require, setting
from vae_jax.distributions import Batch, ChosenCodes, Draw, Latent, Shape
from vae_jax.errors import InputError
from vae_jax.models.choices import ModelConfig, PosteriorConfig, PriorConfig, require_layers_allowed
from vae_jax.models.vae import VAE


def straight_through(value: Array, gradient_to: Array) -> Array:
    """Return a value whose gradient is passed unchanged to another array (Bengio et al., arXiv 1308.3432).

    v + (a - a) with a constant v and a constant second a: the value is exactly v, and the derivative that of a.

    Args:
      value: [*lead, *shape], for example quantized numbers.
      gradient_to: [*shape], for example the numbers before they are quantized, which are finite.

    Returns:
      [*lead, *shape].
    """
    through = gradient_to - lax.stop_gradient(gradient_to)
    return lax.stop_gradient(value) + jnp.broadcast_to(through, value.shape)


class Codebook(Protocol):
    """A pytree that maps integer codes to the vectors that the decoder reads."""

    def embed(self, indices: Array) -> Array:
        """Return the vectors [..., P, D] of codes [..., G]."""
        ...


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Quantized:
    """What a quantizer makes of the features of B examples.

    Attributes:
      posterior: the codes, int32 [B, G].
      encoding: [B, P, D], the numbers before they are quantized, which receive the gradient of the decoder.
      codebook: the vectors of the codes.
      penalty: [B], a term of the loss that is no probability, such as a commitment loss; None if there is none.
    """

    posterior: ChosenCodes
    encoding: Array
    codebook: Any
    penalty: Array | None = None

    def walk(self, draw: Draw, prior: Any) -> tuple[Latent, Array]:
        """Return the layer "z" of codes, and their vectors [..., P, D] with the gradient of the encoding.

        Args:
          draw: the answer to the question for a layer.
          prior: p(z).
        """
        latent = draw("z", prior, lambda: self.posterior)
        if self.penalty is not None:
            latent = dataclasses.replace(latent, penalty=jnp.broadcast_to(self.penalty, latent.z.shape[:-1]))
        # A step that moves the codes decodes those that the encodings were compared with.
        return latent, straight_through(self.codebook.embed(latent.z), self.encoding)


class PlaceProjection(nn.Module):
    """A dense layer from the features of an encoder to D numbers at each of P places.

    Attributes:
      places: P.
      size: D.
      from_places: whether the features are those of P places side by side, which share the layer.
    """

    places: int
    size: int
    from_places: bool = False

    @nn.compact
    def __call__(self, features: Array) -> Array:
        """Return [B, P, D] for features [B, F]."""
        if self.from_places:
            return nn.Dense(self.size)(features.reshape(features.shape[0], self.places, -1))
        return nn.Dense(self.places * self.size)(features).reshape(-1, self.places, self.size)


class CodesVAE(VAE):
    """A VAE of x and a grid of codes (van den Oord et al., arXiv 1711.00937; Mentzer et al., arXiv 2309.15505).

    The stochastic layer "z" is int32 [..., G]. Given x the codes are certain, so -log p(x) <= -log p(x|z) - log p(z),
    in nats. The gradient of the decoder passes to the encoder by `straight_through`.

    Its `posterior` maps features [B, F'] to `Quantized`, or another object with its method `walk`, and has a method
    `codebook`. Its `prior` is a density of codes
    int32 [G]. Its `decoder` reads the vectors of the codes side by side, [..., P D].
    """

    @property
    def compares_examples(self) -> bool:
        """Whether a training step needs the complete batch, because its encodings move or restart codes."""
        return getattr(self.posterior, "moves_codes", False)

    def codebook(self) -> Any:
        """Return the vectors of the codes, with the method `embed`."""
        return self.posterior.codebook()  # pyright: ignore[reportAttributeAccessIssue]  # a quantizer

    def decode(self, draw: Draw, evidence: Any = None, batch: Batch | None = None) -> tuple[Any, tuple[Latent, ...]]:
        """Return p(x|z) and the layer of codes: see `VAE.decode`; the evidence is like `Quantized`."""
        del batch
        prior = self.prior(self._posterior_of)
        if evidence is None:
            latent = draw("z", prior)
            vectors = self.codebook().embed(latent.z)  # [..., P, D]
        else:
            latent, vectors = evidence.walk(draw, prior)
        return self._likelihood_of(vectors.reshape(*vectors.shape[:-2], -1)), (latent,)


@dataclasses.dataclass(frozen=True)
class QuantizerConfig(PosteriorConfig):
    """The base of posteriors over codes. `build(P)` returns a module of P places, see `CodesVAE`.

    Attributes:
      moves_codes: whether a training step moves codes or restarts them by the encodings of its batch.
    """

    has_codes: ClassVar[bool] = True
    moves_codes: ClassVar[bool] = False

    is_certain: ClassVar[bool] = True  # whether q(z|x) has one value

    @property
    def num_codes(self) -> int:
        """C, the number of different codes."""
        raise NotImplementedError

    @property
    def depth(self) -> int:
        """Q, the number of codes of each place."""
        return 1

    def check(self, config: Config) -> None:
        """Raise InputError if the model has no codes, or the encoder no gradient, or if several samples are equal."""
        require(config.model.has_codes, "model", config.model.name, f"codes with posterior={self.name}")
        require(config.estimator.name == "pathwise", "estimator", config.estimator.name,
                f"pathwise with posterior={self.name}")  # fmt: skip
        require(not config.objective.is_pair, "objective", config.objective.name,
                f"one with equal bounds for encoder and decoder with posterior={self.name}")  # fmt: skip
        samples = config.objective.num_samples
        require(samples == 1 or not self.is_certain, "objective.num_samples", samples,
                f"1 with posterior={self.name}, whose samples are all equal")  # fmt: skip
        parts = config.train.microbatches
        require(parts < 2 or not self.moves_codes, "train.microbatches", parts,
                f"0 or 1 with posterior={self.name}, which moves its codes by all examples of a batch")  # fmt: skip


@dataclasses.dataclass(frozen=True)
class CodePriorConfig(PriorConfig):
    """The base of densities of codes.

    Attributes:
      has_closed_kl: whether KL(q || p) of independent codes is in closed form.
    """

    has_closed_kl: ClassVar[bool] = False
    has_codes: ClassVar[bool] = True
    context: ClassVar[Mapping[str, str]] = {"model": "codes", "posterior": "fsq"}

    def build_codes(self, count: int, num_codes: int) -> nn.Module:
        """Return a Linen module whose result is a density of codes int32 [count].

        Args:
          count: G.
          num_codes: C; a code is 0, ..., C - 1.
        """
        raise NotImplementedError

    def check(self, config: Config) -> None:
        """Raise InputError if the model has no codes."""
        require(config.model.has_codes, "model", config.model.name, f"codes with prior={self.name}")


@register("model", "codes")
@dataclasses.dataclass(frozen=True)
class CodesConfig(ModelConfig):
    """A VAE whose latent is a grid of integer codes."""

    has_codes: ClassVar[bool] = True

    places: int = setting(
        16,
        "Number of places of the grid of codes; 0: the places of the last feature map of a convolutional encoder.",
        minimum=0,
    )

    def build(self, config: Config, shape: Shape, *, training: bool) -> CodesVAE:
        """Return the `CodesVAE`; raise InputError if the network has no feature map and `places` is 0."""
        encoder, decoder = config.network.build(shape, config.likelihood.num_features(shape[-1]), training=training)
        posterior: Any = config.posterior
        places, from_places = self.places, not self.places
        if from_places:
            sides = config.network.places(shape)
            if sides is None:
                raise InputError(f"model.places=0 must be greater than 0 with network={config.network.name}, which has "
                                 "no feature map")  # fmt: skip
            places, decoder = math.prod(sides), decoder.clone(from_places=True)
        prior: Any = config.prior
        return CodesVAE(
            encoder=encoder,
            decoder=decoder,
            posterior=posterior.build(places).clone(from_places=from_places),
            prior=prior.build_codes(places * posterior.depth, posterior.num_codes),
            likelihood=config.likelihood,
            shape=shape,
        )

    def check(self, config: Config) -> None:
        """Raise InputError if another part has no codes, or if the objective needs real numbers."""
        for section in ("posterior", "prior"):
            part = getattr(config, section)
            usable = [name for name, cls in choices(section).items() if getattr(cls, "has_codes", False)]
            require(part.has_codes, section, part.name, f"{any_of(usable)} with model={self.name}")
        objective = config.objective
        require(not objective.needs_normal_prior, "objective", objective.name,
                f"another objective with model={self.name}; {objective.name} needs a normal prior")  # fmt: skip
        require_layers_allowed(config)
