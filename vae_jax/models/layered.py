"""A VAE with several stochastic layers, each a vector."""

import dataclasses
from typing import Any, ClassVar

import flax.linen as nn
from jax import Array

from vae_jax.config import Config, any_of, choices, register, require, setting
from vae_jax.distributions import Batch, Distribution, Draw, Latent, Shape
from vae_jax.errors import InputError
from vae_jax.models.choices import ModelConfig, require_layers_allowed
from vae_jax.models.vae import VAE


class LayeredVAE(VAE):
    """A VAE with L stochastic layers, from "z1" next to the data to "zL" (Burda et al., arXiv 1509.00519).

    The posterior draws z_1 first, the prior z_L. The decoder uses z_1 alone. The modules `posterior` and `prior` are
    q(z_1|x) and p(z_L).

    Attributes:
      posterior_layers: L - 1 modules, z_1 to q(z_2|z_1), and so on.
      prior_layers: L - 1 modules, z_L to p(z_{L-1}|z_L), and so on.
    """

    posterior_layers: tuple[nn.Module, ...]
    prior_layers: tuple[nn.Module, ...]

    def setup(self) -> None:
        """Check the parts, and create the parameters that belong to none of them."""
        super().setup()
        upwards, downwards = len(self.posterior_layers), len(self.prior_layers)
        if upwards != downwards:
            raise InputError(f"posterior_layers has {upwards} modules and prior_layers {downwards}; pass equal numbers")

    def decode(
        self, draw: Draw, evidence: Distribution | None = None, batch: Batch | None = None
    ) -> tuple[Any, tuple[Latent, ...]]:
        """Return p(x|z_1) and the stochastic layers, starting at the data: see `VAE.decode`."""
        del batch
        prior = self.prior(self._posterior_of)
        if draw.posterior_first:
            latents = self._draw_upwards(draw, prior, evidence)
        else:
            latents = self._draw_downwards(draw, prior)
        return self._likelihood_of(latents[0].z), latents

    def _posterior_of(self, x: Array) -> Distribution:
        """Return q(z_L | means of the layers below) of inputs x [N, *shape]."""
        q = self.encode({"x": x})
        for layer in self.posterior_layers:
            q = layer(q.mean())
        return q

    def _draw_upwards(self, draw: Draw, prior: Distribution, evidence: Distribution | None) -> tuple[Latent, ...]:
        """Return the layers drawn from the data upwards, as the posterior is factorized."""
        latents: list[Latent] = []
        top = len(self.posterior_layers)
        for i in range(top + 1):
            q = self.posterior_layers[i - 1](latents[-1].z) if i else evidence
            posterior = None if q is None else lambda q=q: q
            latents.append(draw(f"z{i + 1}", prior if i == top else None, posterior))
        for i in reversed(range(top)):  # the prior of a layer depends on the layer above it
            latents[i] = latents[i].with_prior(self.prior_layers[-1 - i](latents[i + 1].z))
        return tuple(latents)

    def _draw_downwards(self, draw: Draw, prior: Distribution) -> tuple[Latent, ...]:
        """Return the layers drawn from the top, as the prior is factorized."""
        top = len(self.prior_layers)
        latents = [draw(f"z{top + 1}", prior)]
        for i, layer in zip(reversed(range(top)), self.prior_layers, strict=True):
            latents.insert(0, draw(f"z{i + 1}", layer(latents[0].z)))
        return tuple(latents)


@register("model", "layered")
@dataclasses.dataclass(frozen=True)
class LayeredConfig(ModelConfig):
    """A VAE with several stochastic layers. The defaults are the model with two layers of Burda et al."""

    supports_tied: ClassVar[bool] = False

    latent_dim: int = setting(50, "Dimension of the highest stochastic layer.", above=0)
    latent_layers: tuple[int, ...] = setting(
        (100,),
        "Dimensions of the stochastic layers between the data and the highest one, in the order from the data upwards.",
        above=0,
    )
    layer_hidden: tuple[int, ...] = setting(
        (100, 100),
        "Hidden widths of the network from a stochastic layer to the next higher one; the network in the other "
        "direction has the same in reverse order.",
        above=0,
    )

    def build(self, config: Config, shape: Shape, *, training: bool) -> LayeredVAE:
        """Return the `LayeredVAE`."""
        encoder, decoder = config.network.build(shape, config.likelihood.num_features(shape[-1]), training=training)
        sizes = (*self.latent_layers, self.latent_dim)
        activation, layer = config.network.activation_function, config.posterior.build_layer
        upwards, downwards = self.layer_hidden, self.layer_hidden[::-1]
        return LayeredVAE(
            encoder=encoder,
            decoder=decoder,
            posterior=config.posterior.build(sizes[0]),
            prior=config.prior.build(self.latent_dim, shape),
            likelihood=config.likelihood,
            shape=shape,
            posterior_layers=tuple(layer(size, upwards, activation) for size in sizes[1:]),
            prior_layers=tuple(layer(size, downwards, activation) for size in sizes[-2::-1]),
        )

    def check(self, config: Config) -> None:
        """Raise InputError if there is one layer, or if another choice does not support several."""
        require(len(self.latent_layers) > 0, "model.latent_layers", "()",
                f"one or more dimensions with model={self.name}, for example (100,)")  # fmt: skip
        usable = [name for name, cls in choices("posterior").items() if getattr(cls, "supports_layers", False)]
        require(config.posterior.supports_layers, "posterior", config.posterior.name,
                f"{any_of(usable)} with model={self.name}")  # fmt: skip
        require_layers_allowed(config)
