"""The VAE as two pure functions: encode(batch) -> q(z|x), and decode(draw, q) -> (p(x|z), latents).

    q = model.apply({"params": params}, {"x": x}, method="encode")
    p_x, latents = model.apply({"params": params}, draw, q, method="decode")

`decode` asks `draw` for each stochastic layer: see `vae_jax.distributions.drawers`. The model draws no samples.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import chex
import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from vae_jax.config import check_choices
from vae_jax.distributions import (
    Batch,
    Bernoulli,
    Deterministic,
    DiscretizedLogisticMixture,
    Draw,
    Latent,
    Normal,
    from_means,
    standard_normal,
)
from vae_jax.errors import InputError

_glorot = nn.initializers.glorot_uniform()

ScaleHead = Literal["log-variance", "log-scale"]


def _scale_layer(head: ScaleHead, size: int, name: str | None = None) -> nn.Dense:
    """Return the layer of the number s that determines σ; as log-variance it starts at s = 0, the prior's scale."""
    return nn.Dense(size, kernel_init=_glorot if head == "log-scale" else nn.initializers.zeros, name=name)


def _parameter_name(head: ScaleHead) -> str:
    return head.replace("-", "_")


def _normal(mean: Array, s: Array, head: ScaleHead) -> Normal:
    return Normal(mean, s if head == "log-scale" else 0.5 * s)


class ConditionalNormal(nn.Module):
    """p(z' | z), a Normal over codes [..., size] whose parameters are dense layers of codes [..., D].

    With the head `log-variance` it starts at σ = 1.

    Attributes:
      hidden: the widths of the hidden layers.
      activation: applied after each hidden layer.
      size: the dimension of z'.
      scale_head: whether the last layer returns log σ² or log σ.
    """

    hidden: Sequence[int]
    activation: Callable[[Array], Array]
    size: int
    scale_head: ScaleHead = "log-variance"

    @nn.compact
    def __call__(self, z: Array) -> Normal:
        """Return p(z' | z) for codes z [..., D]."""
        for width in self.hidden:
            z = self.activation(nn.Dense(width, kernel_init=_glorot)(z))
        mean = nn.Dense(self.size, kernel_init=_glorot, name="mean")(z)
        s = _scale_layer(self.scale_head, self.size, name=_parameter_name(self.scale_head))(z)
        return _normal(mean, s, self.scale_head)


class VAE(nn.Module):
    """A latent-variable model of images (Kingma & Welling, arXiv 1312.6114), with autoencoders as special cases.

    The output of the decoder is added to the parameter `output_bias` [H, W, F'], which `with_output_bias` can set to
    the mean of the data. `init` and `apply` raise InputError for an unknown name, and for a decoder with an output of
    another shape.

    The stochastic layer is named "z". With `latent_layers` there are L layers, from "z1" next to the image to "zL"
    (Burda et al., arXiv 1509.00519). The posterior draws z_1 first, the prior z_L. The decoder uses z_1 alone.

    Attributes:
      encoder: any Linen module that maps [B, H, W, C] to [B, F].
      decoder: any Linen module that maps [..., D] to [..., H, W, F'] with F' = `likelihood_features(likelihood, ...)`.
      latent_dim: dimension of the code, or of its last layer z_L.
      image_shape: (H, W, C).
      posterior: `gaussian`; `fixed-noise` with σ = `noise_scale`; or `deterministic`, a point.
      noise_scale: σ of the posterior `fixed-noise`.
      scale_head: whether a network returns log σ² or log σ of a Gaussian code.
      likelihood: the family of p(x|z).
      likelihood_scale: σ of the likelihood `gaussian`.
      mixture_components: of the likelihood `logistic-mixture`.
      latent_layers: dimensions of z_1, ..., z_{L-1}; empty if the code has one layer.
      posterior_layers: L - 1 modules, z_1 to q(z_2|z_1), and so on.
      prior_layers: L - 1 modules, z_L to p(z_{L-1}|z_L), and so on.
    """

    encoder: nn.Module
    decoder: nn.Module
    latent_dim: int
    image_shape: tuple[int, int, int]
    posterior: Literal["gaussian", "fixed-noise", "deterministic"] = "gaussian"
    noise_scale: float = 1.0
    scale_head: ScaleHead = "log-variance"
    likelihood: Literal["bernoulli", "gaussian", "learned-gaussian", "logistic-mixture"] = "bernoulli"
    likelihood_scale: float = math.sqrt(0.5)
    mixture_components: int = 5
    latent_layers: tuple[int, ...] = ()
    posterior_layers: tuple[nn.Module, ...] = ()
    prior_layers: tuple[nn.Module, ...] = ()

    @property
    def latent_sizes(self) -> dict[str, int]:
        """The dimension of each stochastic layer by name, starting at the image."""
        sizes = (*self.latent_layers, self.latent_dim)
        return {"z": sizes[0]} if len(sizes) == 1 else {f"z{i}": size for i, size in enumerate(sizes, start=1)}

    def setup(self) -> None:
        """Check the attributes, and create layers and parameters."""
        check_choices("model", posterior=self.posterior, scale_head=self.scale_head, likelihood=self.likelihood)
        for name in ("posterior_layers", "prior_layers"):
            if (length := len(getattr(self, name))) != len(self.latent_layers):
                layers = len(self.latent_layers)
                raise InputError(f"{name} has {length} modules; pass {layers}, one for each entry of latent_layers")
        first_size = next(iter(self.latent_sizes.values()))
        self.posterior_mean = nn.Dense(first_size, kernel_init=_glorot)
        if self.posterior == "gaussian":
            layer = _scale_layer(self.scale_head, first_size)
            setattr(self, f"posterior_{_parameter_name(self.scale_head)}", layer)
        *sides, channels = self.image_shape
        features = likelihood_features(self.likelihood, channels, self.mixture_components)
        self.output_bias = self.param("output_bias", nn.initializers.zeros, (*sides, features))
        if self.likelihood == "learned-gaussian":
            self.likelihood_log_scale = self.param("likelihood_log_scale", nn.initializers.zeros, ())

    def __call__(self, batch: Batch) -> Normal | Bernoulli | DiscretizedLogisticMixture:
        """Return p(x | mean of z); it uses every parameter, so `init` creates all of them."""
        return self.decode(from_means(), self.encode(batch), batch)[0]

    def encode(self, batch: Batch) -> Normal | Deterministic:
        """Return q(z|x), or q(z_1|x) if there are several layers.

        Args:
          batch: {"x": floats [B, H, W, C] in [0, 1]}. `read_images` converts integers.

        Returns:
          A density over codes [B, D], in the dtype of `x`.

        Raises:
          InputError: `x` has another layout, which a dense layer would accept silently, or an integer dtype, which the
            densities would inherit.
        """
        x = batch["x"]
        if x.shape[-3:] != tuple(self.image_shape) or not jnp.issubdtype(x.dtype, jnp.floating):
            expected = f"floats [B, {', '.join(map(str, self.image_shape))}]"
            raise InputError(f"images have shape {list(x.shape)} and dtype {x.dtype}; pass {expected}")
        h = self.encoder(x).astype(x.dtype)  # densities have the precision of the images, for any dtype of the layers
        mean = self.posterior_mean(h)
        if self.posterior == "deterministic":
            return Deterministic(mean)
        if self.posterior == "fixed-noise":
            return Normal(mean, jnp.full_like(mean, math.log(self.noise_scale)))
        s = getattr(self, f"posterior_{_parameter_name(self.scale_head)}")(h)
        return _normal(mean, s, self.scale_head)

    def decode(
        self, draw: Draw, evidence: Normal | Deterministic | None = None, batch: Batch | None = None
    ) -> tuple[Normal | Bernoulli | DiscretizedLogisticMixture, tuple[Latent, ...]]:
        """Return p(x|z) and the stochastic layers, starting at the image.

        Args:
          draw: the answer to the question for a layer, such as `from_posterior(key, B)`.
          evidence: the result of `encode`; None if `draw` needs no posterior.
          batch: not used.

        Returns:
          A density over images [..., H, W, C] in the dtype of the codes, and the layers.

        Raises:
          InputError: given codes have an integer dtype, which the densities would inherit, or another size than the
            layer; or the output of the decoder has another shape than [..., H, W, F'].
        """
        del batch
        latents = self._draw_upwards(draw, evidence) if draw.posterior_first else self._draw_downwards(draw)
        return self._likelihood(latents[0].z), latents

    def _draw_upwards(self, draw: Draw, evidence: Normal | Deterministic | None) -> tuple[Latent, ...]:
        """Return the layers drawn from the data upwards, as the posterior is factorized."""
        latents: list[Latent] = []
        names = list(self.latent_sizes)
        for i, name in enumerate(names):
            q = self.posterior_layers[i - 1](latents[-1].z) if i else evidence
            prior = standard_normal((self.latent_dim,)) if name == names[-1] else None
            latents.append(draw(name, prior, None if q is None else lambda q=q: q))
        for i in reversed(range(len(names) - 1)):  # the prior of a layer depends on the layer above it
            latents[i] = latents[i].with_prior(self.prior_layers[-1 - i](latents[i + 1].z))
        return tuple(latents)

    def _draw_downwards(self, draw: Draw) -> tuple[Latent, ...]:
        """Return the layers drawn from the top, as the prior is factorized."""
        *names, top = self.latent_sizes
        latents = [draw(top, standard_normal((self.latent_dim,)))]
        for name, layer in zip(reversed(names), self.prior_layers, strict=True):
            latents.insert(0, draw(name, layer(latents[0].z)))
        return tuple(latents)

    def _likelihood(self, z: Array) -> Normal | Bernoulli | DiscretizedLogisticMixture:
        """Return p(x | z_1) for codes z_1 [..., D]."""
        if getattr(self.decoder, "uses_encoder_kernels", False):
            mean_kernel = self.posterior_mean.variables["params"]["kernel"]
            features = self.decoder(z, [*self.encoder.kernels(), mean_kernel])
        else:
            features = self.decoder(z)
        if features.shape != (expected := (*z.shape[:-1], *self.output_bias.shape)):
            raise InputError(
                f"decoder returned shape {list(features.shape)} for codes {list(z.shape)}; return {list(expected)}"
            )
        features = features.astype(z.dtype) + jnp.broadcast_to(self.output_bias, features.shape)
        if self.likelihood == "bernoulli":
            return Bernoulli(features)
        if self.likelihood == "gaussian":
            return Normal(features, jnp.full_like(features, math.log(self.likelihood_scale)), event_ndims=3)
        if self.likelihood == "learned-gaussian":
            return Normal(features, jnp.full_like(features, self.likelihood_log_scale), event_ndims=3)
        return DiscretizedLogisticMixture.from_features(features, self.mixture_components, self.image_shape[-1])


def likelihood_features(likelihood: str, num_channels: int, mixture_components: int) -> int:
    """Return F', the number of features of each pixel that a likelihood needs from a decoder.

    Args:
      likelihood: the name of the family of p(x|z).
      num_channels: C.
      mixture_components: of the likelihood `logistic-mixture`.

    Returns:
      F'.
    """
    if likelihood == "logistic-mixture":
        return DiscretizedLogisticMixture.num_features(mixture_components, num_channels)
    return num_channels


def with_output_bias(params: Any, mean_image: Array, *, likelihood: str) -> Any:
    """Return the parameters with the output bias that fits the mean image if the code has no effect.

    For a Bernoulli likelihood it is the logit of the mean, clipped to [0.001, 0.999] (Burda et al., arXiv 1509.00519).
    For a Gaussian likelihood it is the mean. For a mixture it is not changed. Without it, the first epochs are spent on
    learning the mean image.

    Args:
      params: parameters of a `VAE`.
      mean_image: [H, W, C], the mean of the images as floats in [0, 1].
      likelihood: the name of the family of p(x|z).

    Returns:
      A copy of `params` with another `output_bias`.

    Raises:
      AssertionError: `mean_image` has another shape than the bias.
    """
    if likelihood == "logistic-mixture":
        return params
    bias = mean_image
    if likelihood == "bernoulli":
        clipped = jnp.clip(mean_image, 0.001, 0.999)
        bias = jnp.log(clipped) - jnp.log1p(-clipped)
    chex.assert_equal_shape([bias, params["output_bias"]])
    return params | {"output_bias": bias.astype(params["output_bias"].dtype)}
