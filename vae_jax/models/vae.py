"""The VAE as two pure functions: encode(batch) -> q(z|x), and decode(draw, q) -> (p(x|z), latents).

    q = model.apply({"params": params}, {"x": x}, method="encode")
    p_x, latents = model.apply({"params": params}, draw, q, method="decode")

`decode` asks `draw` for each stochastic layer: see `vae_jax.distributions.drawers`. The model draws no samples.
"""

import dataclasses
import inspect
from collections.abc import Mapping
from typing import Any, ClassVar

import chex
import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from vae_jax.config import Config, register, setting
from vae_jax.distributions import Batch, Distribution, Draw, Latent, Shape, from_means
from vae_jax.errors import InputError
from vae_jax.models.choices import LikelihoodConfig, ModelConfig
from vae_jax.models.posteriors import SpatialPosterior


class VAE(nn.Module):
    """A latent-variable model (Kingma & Welling, arXiv 1312.6114), with autoencoders as special cases.

    The shape of an example x is (*sides, C): (H, W, C) for images, (D,) for vectors and counts. The stochastic layer is
    named "z". The output of the decoder is added to the parameter `output_bias` [*sides, F], which `with_output_bias`
    can set to the mean of the data. Parameters of the likelihood are named `likelihood_NAME`. `init` and `apply` raise
    InputError for a decoder with an output of another shape.

    Attributes:
      encoder: any Linen module that maps x [B, *shape] to [B, F'].
      decoder: any Linen module that maps [..., D] to [..., *sides, F] with F = `likelihood.num_features(C)`.
      posterior: any Linen module that maps [B, F'] to q(z|x), such as `ConditionalNormal`.
      prior: any Linen module that returns p(z) when it is called with the function x -> q(z|x).
      likelihood: the family of p(x|z).
      shape: of one example x.
    """

    encoder: nn.Module
    decoder: nn.Module
    posterior: nn.Module
    prior: nn.Module
    likelihood: LikelihoodConfig
    shape: Shape

    def setup(self) -> None:
        """Check the parts, and create the parameters that belong to none of them."""
        for name, argument in _PARTS.items():
            check_part(name, getattr(self, name), argument)
        if not isinstance(self.likelihood, LikelihoodConfig):
            kind = type(self.likelihood).__name__
            raise InputError(f'likelihood is a {kind}; use `vae_jax.choice("likelihood", NAME)`')
        for name in ("encoder", "posterior") if self._is_tied else ():
            part = getattr(self, name)
            if not hasattr(part, "kernels"):
                kind = type(part).__name__
                raise InputError(f"{name} {kind} has no method kernels, which the tied decoder needs; add it")
        self.output_bias, self.likelihood_parameters = likelihood_parameters(self, self.likelihood, self.shape)

    @property
    def _is_tied(self) -> bool:
        return getattr(self.decoder, "uses_encoder_kernels", False)

    def __call__(self, batch: Batch) -> Distribution:
        """Return p(x | mean of z); it uses every parameter, so `init` creates all of them."""
        return self.decode(from_means(), self.encode(batch), batch)[0]

    def encode(self, batch: Batch) -> Any:
        """Return q(z|x).

        Args:
          batch: {"x": floats [B, *shape]}, preprocessed.

        Returns:
          A distribution over codes [B, D], in the dtype of `x`.

        Raises:
          InputError: `x` has another layout, which a dense layer would accept silently, or an integer dtype, which the
            densities would inherit.
        """
        checked_examples(batch["x"], self.shape)
        return self.posterior(self._features_of(batch))

    def _features_of(self, batch: Batch, *context: Array) -> Array:
        """Return the features that the posterior reads, [B, F']; the context is what the encoder reads besides x."""
        x = batch["x"]
        # Densities have the precision of the data, for any dtype of the layers.
        return self.encoder(x, *context).astype(x.dtype)

    def decode(
        self, draw: Draw, evidence: Distribution | None = None, batch: Batch | None = None
    ) -> tuple[Any, tuple[Latent, ...]]:
        """Return p(x|z) and the stochastic layers, starting at the data.

        Args:
          draw: the answer to the question for a layer, such as `from_posterior(key, B)`.
          evidence: the result of `encode`; None if `draw` needs no posterior.
          batch: not used.

        Returns:
          A distribution over x [..., *shape] in the dtype of the codes, and the layers.

        Raises:
          InputError: given codes have an integer dtype, which the densities would inherit, or another size than the
            layer; or the output of the decoder has another shape than [..., *sides, F].
        """
        del batch
        latent = draw("z", self.prior(self._posterior_of), None if evidence is None else lambda: evidence)
        return self._likelihood_of(latent.z), (latent,)

    def _posterior_of(self, x: Array) -> Distribution:
        """Return q(z|x) of inputs x [N, *shape]."""
        return self.encode({"x": x})

    def _likelihood_of(self, z: Array, *context: Array) -> Any:
        """Return p(x|z) for codes z [..., D]; the context is what the decoder reads besides z."""
        if self._is_tied:
            features = self.decoder(z, [*self.encoder.kernels(), *self.posterior.kernels()])
        else:
            features = self.decoder(z, *context)
        if features.shape != (expected := (*z.shape[:-1], *self.output_bias.shape)):
            raise InputError(
                f"decoder returned shape {list(features.shape)} for codes {list(z.shape)}; return {list(expected)}"
            )
        features = features.astype(z.dtype)
        return likelihood_of(features, self.output_bias, self.likelihood_parameters, self.likelihood, self.shape)


_PARTS = {"encoder": "x", "decoder": "z", "posterior": "features", "prior": "posterior_of"}  # part -> its argument


def check_linen(name: str, part: Any) -> None:
    """Raise InputError unless a part of a model is a Linen module: Flax does not train the parameters of another one.

    Args:
      name: the name of the part, for the error.
      part: the part.

    Raises:
      InputError: it is a function, or a module of another kind.
    """
    if not isinstance(part, nn.Module):
        raise InputError(
            f"{name} is a {type(part).__name__}, whose parameters would not be trained; use a Linen module "
            "(flax.linen.Module); `flax.nnx.bridge.to_linen` makes one of an nnx class"
        )


def checked_examples(x: Array, shape: Shape) -> Array:
    """Return examples x unchanged; raise InputError unless they are floats [B, *shape]."""
    if x.shape[1:] != tuple(shape) or not jnp.issubdtype(x.dtype, jnp.floating):
        expected = f"floats [B, {', '.join(map(str, shape))}]"
        raise InputError(f"examples x have shape {list(x.shape)} and dtype {x.dtype}; pass {expected}")
    return x


def likelihood_parameters(
    module: nn.Module, likelihood: LikelihoodConfig, shape: Shape
) -> tuple[Array, dict[str, Array]]:
    """Create the parameters of a model that belong to p(x|z) and are no part of a network.

    Args:
      module: the model, in its `setup`.
      likelihood: the family of p(x|z).
      shape: of one example x.

    Returns:
      `output_bias` [*sides, F], which `with_output_bias` can set, and the parameters of the likelihood by name.
    """
    *sides, channels = shape
    bias = module.param("output_bias", nn.initializers.zeros, (*sides, likelihood.num_features(channels)))
    initial = likelihood.parameters(shape).items()
    return bias, {name: module.param(f"likelihood_{name}", lambda _, value=value: value) for name, value in initial}


def likelihood_of(
    features: Array, output_bias: Array, parameters: Mapping[str, Array], likelihood: LikelihoodConfig, shape: Shape
) -> Any:
    """Return p(x|z).

    Args:
      features: [..., *sides, F], the outputs of the decoder, in the precision of the density.
      output_bias: [*sides, F], see `likelihood_parameters`.
      parameters: those of the likelihood by name.
      likelihood: the family.
      shape: of one example x.
    """
    return likelihood.distribution(features + jnp.broadcast_to(output_bias, features.shape), parameters, shape)


def check_part(name: str, part: Any, *arguments: str) -> None:
    """Raise InputError unless a part of a model is a Linen module that can be called with the arguments.

    Args:
      name: the name of the part, for the error.
      part: the part.
      *arguments: the names of the arguments; a tied decoder has `kernels` in addition.

    Raises:
      InputError: it is a function, a module of another kind, or one with other arguments.
    """
    check_linen(name, part)
    arguments = (*arguments, "kernels") if getattr(part, "uses_encoder_kernels", False) else arguments
    try:
        inspect.signature(type(part).__call__).bind(part, *arguments)
    except TypeError as error:
        raise InputError(
            f"{name} {type(part).__name__} cannot be called with ({', '.join(arguments)}): {error}; give its other "
            "arguments as attributes of the module, or with defaults"
        ) from None


@register("model", "vae")
@dataclasses.dataclass(frozen=True)
class VAEConfig(ModelConfig):
    """A VAE with one stochastic layer."""

    supports_tied: ClassVar[bool] = True
    supports_spatial: ClassVar[bool] = True

    latent_dim: int = setting(
        50, "Dimension of the code z; with network.spatial_code that of each place of the map.", above=0
    )

    def build(self, config: Config, shape: Shape, *, training: bool) -> VAE:
        """Return the `VAE`."""
        encoder, decoder = config.network.build(shape, config.likelihood.num_features(shape[-1]), training=training)
        places, posterior = config.network.code_places(shape), config.posterior.build(self.latent_dim)
        return VAE(
            encoder=encoder,
            decoder=decoder,
            posterior=posterior if places == 1 else SpatialPosterior(places, posterior),
            prior=config.prior.build(places * self.latent_dim, shape),
            likelihood=config.likelihood,
            shape=shape,
        )


def with_output_bias(params: Any, mean: Array, *, likelihood: LikelihoodConfig) -> Any:
    """Return the parameters with the output bias that fits the mean of the data if the code has no effect.

    For example, it is the logit of the mean for a Bernoulli likelihood, and the mean for a Gaussian one: see
    `LikelihoodConfig.initial_bias`. Without it, the first epochs are spent on learning the mean.

    Args:
      params: parameters of a `VAE`.
      mean: [*shape], the mean of x over the data set.
      likelihood: the family of p(x|z).

    Returns:
      A copy of `params` with another `output_bias`; `params` if the mean does not determine the bias.

    Raises:
      AssertionError: `mean` has another shape than an example.
    """
    bias = likelihood.initial_bias(mean)
    if bias is None:
        return params
    chex.assert_equal_shape([bias, params["output_bias"]])
    return params | {"output_bias": bias.astype(params["output_bias"].dtype)}
