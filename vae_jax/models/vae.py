"""The model in three pure functions: encode(x) -> q(z|x), prior() -> p(z), decode(z) -> p(x|z).

    q = model.apply({"params": params}, x, method="encode")

Nothing here draws a sample: densities go out, and the caller samples them with a key of its own.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import chex
import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jax.tree_util import Partial

from vae_jax.config import check_choices
from vae_jax.distributions import (
    Bernoulli,
    Deterministic,
    DiscretizedLogisticMixture,
    MarkovChain,
    Normal,
    standard_normal,
)
from vae_jax.errors import InputError
from vae_jax.models.mlp import TiedDecoder

_glorot = nn.initializers.glorot_uniform()

ScaleHead = Literal["log-variance", "log-scale"]


def _scale_layer(head: ScaleHead, size: int, **name: str) -> nn.Dense:
    """The layer of the number s that gives σ: as log-variance it starts at s = 0, the prior's own width."""
    return nn.Dense(size, kernel_init=_glorot if head == "log-scale" else nn.initializers.zeros, **name)


def _parameter_name(head: ScaleHead) -> str:
    return head.replace("-", "_")


def _normal(mean: Array, s: Array, head: ScaleHead) -> Normal:
    return Normal(mean, s if head == "log-scale" else 0.5 * s)


class ConditionalNormal(nn.Module):
    """p(z' | z): codes [..., D] through dense layers to a Normal over codes [..., `size`].

    With the head `log-variance` it starts at σ = 1.
    """

    hidden: Sequence[int]
    activation: Callable[[Array], Array]
    size: int
    scale_head: ScaleHead = "log-variance"

    @nn.compact
    def __call__(self, z: Array) -> Normal:
        for width in self.hidden:
            z = self.activation(nn.Dense(width, kernel_init=_glorot)(z))
        mean = nn.Dense(self.size, kernel_init=_glorot, name="mean")(z)
        s = _scale_layer(self.scale_head, self.size, name=_parameter_name(self.scale_head))(z)
        return _normal(mean, s, self.scale_head)


class VAE(nn.Module):
    """A latent-variable model of images (Kingma & Welling, arXiv 1312.6114), and the autoencoders on the way to it.

    `encoder` maps [B, H, W, C] to [B, F]; `decoder` maps [..., D] to [..., H, W, F'], where F' is
    `likelihood_features(likelihood, ...)`. Any pair of Linen modules with these shapes will do. What the decoder puts
    out is added to `output_bias` [H, W, F'], which `with_output_bias` can set to what the data are on average.

    A name that there is not, or a decoder of another shape, raises InputError, in `init` and `apply`.

    With `latent_layers` the code has L stochastic layers, side by side, z_1 next to the image: `posterior_layers` maps
    z_1 to q(z_2|z_1) and so on, `prior_layers` z_L to p(z_{L-1}|z_L) and so on, and the decoder reads z_1 alone.
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
    def sizes(self) -> tuple[int, ...]:
        """Numbers in each stochastic layer of the code, D_1, ..., D_L, from the image upwards."""
        return (*self.latent_layers, self.latent_dim)

    def setup(self) -> None:
        check_choices("model", posterior=self.posterior, scale_head=self.scale_head, likelihood=self.likelihood)
        for name in ("posterior_layers", "prior_layers"):
            if (given := len(getattr(self, name))) != len(self.latent_layers):
                raise InputError(f"{name}={given} must be {len(self.latent_layers)}, as latent_layers has")
        self.posterior_mean = nn.Dense(self.sizes[0], kernel_init=_glorot)
        if self.posterior == "gaussian":
            layer = _scale_layer(self.scale_head, self.sizes[0])
            setattr(self, f"posterior_{_parameter_name(self.scale_head)}", layer)
        *sides, channels = self.image_shape
        features = likelihood_features(self.likelihood, channels, self.mixture_components)
        self.output_bias = self.param("output_bias", nn.initializers.zeros, (*sides, features))
        if self.likelihood == "learned-gaussian":
            self.likelihood_log_scale = self.param("likelihood_log_scale", nn.initializers.zeros, ())

    def __call__(self, x: Array) -> Normal | Bernoulli | DiscretizedLogisticMixture:
        """decode(mean of encode(x)), [B]: touches every parameter, so that `init` makes them all."""
        self.prior()
        return self.decode(self.encode(x).mean())

    def encode(self, x: Array) -> Normal | Deterministic | MarkovChain:
        """q(z|x) over codes [B, D] for images [B, H, W, C] of floats in [0, 1].

        Raises InputError for another layout, which a dense layer would take in silence, and for integers, whose kind
        the densities would be of: `read_images` makes floats of them.
        """
        if x.shape[-3:] != tuple(self.image_shape) or not jnp.issubdtype(x.dtype, jnp.floating):
            expected = f"floats [B, {', '.join(map(str, self.image_shape))}]"
            raise InputError(f"images={x.dtype}{list(x.shape)} must be {expected}")
        h = self.encoder(x).astype(x.dtype)  # densities are of the images' precision, whatever the layers'
        mean = self.posterior_mean(h)
        if self.posterior == "deterministic":
            return Deterministic(mean)
        if self.posterior == "fixed-noise":
            return Normal(mean, jnp.full_like(mean, math.log(self.noise_scale)))
        s = getattr(self, f"posterior_{_parameter_name(self.scale_head)}")(h)
        q = _normal(mean, s, self.scale_head)
        return self._chain(q, self.posterior_layers, downwards=False) if self.latent_layers else q

    def prior(self) -> Normal | MarkovChain:
        """p(z) over codes [D]: N(0, I), or N(0, I) for z_L and the layers below it given those above."""
        p = standard_normal((self.latent_dim,))
        return self._chain(p, self.prior_layers, downwards=True) if self.latent_layers else p

    def _chain(self, first: Normal, layers: Sequence[nn.Module], *, downwards: bool) -> MarkovChain:
        if self.is_initializing():
            for layer, size in zip(layers, self.sizes[:0:-1] if downwards else self.sizes[:-1], strict=True):
                layer(jnp.zeros((1, size)))  # which makes its parameters
        # A density outlives the call that made it, so each layer goes along as a function of its parameters.
        conditionals = tuple(Partial(layer.clone(parent=None, name=None).apply, layer.variables) for layer in layers)
        return MarkovChain(first, conditionals, self.sizes, downwards)

    def decode(self, z: Array) -> Normal | Bernoulli | DiscretizedLogisticMixture:
        """p(x|z) over images [..., H, W, C] for codes [..., D]; of several layers z_1 alone is read.

        Raises InputError for codes of integers, whose kind the densities would be of.
        """
        if not jnp.issubdtype(z.dtype, jnp.floating):
            raise InputError(f"codes={z.dtype}{list(z.shape)} must be floats [..., {sum(self.sizes)}]")
        if self.latent_layers:
            chex.assert_axis_dimension(z, -1, sum(self.sizes))
            z = z[..., : self.sizes[0]]
        if isinstance(self.decoder, TiedDecoder):
            mean_kernel = self.posterior_mean.variables["params"]["kernel"]
            features = self.decoder(z, [*self.encoder.kernels(), mean_kernel])
        else:
            features = self.decoder(z)
        if features.shape != (expected := (*z.shape[:-1], *self.output_bias.shape)):
            raise InputError(f"decoder: {list(features.shape)} for codes {list(z.shape)}, must be {list(expected)}")
        features = features.astype(z.dtype) + jnp.broadcast_to(self.output_bias, features.shape)
        if self.likelihood == "bernoulli":
            return Bernoulli(features)
        if self.likelihood == "gaussian":
            return Normal(features, jnp.full_like(features, math.log(self.likelihood_scale)), event_ndims=3)
        if self.likelihood == "learned-gaussian":
            return Normal(features, jnp.full_like(features, self.likelihood_log_scale), event_ndims=3)
        return DiscretizedLogisticMixture.from_features(features, self.mixture_components, self.image_shape[-1])


def likelihood_features(likelihood: str, num_channels: int, mixture_components: int) -> int:
    """How many features for each pixel a decoder must put out for the likelihood."""
    if likelihood == "logistic-mixture":
        return DiscretizedLogisticMixture.num_features(mixture_components, num_channels)
    return num_channels


def with_output_bias(params: Any, mean_image: Array, *, likelihood: str) -> Any:
    """`params` with the output's bias where the likelihood alone would put it: at the mean image [H, W, C].

    Bernoulli: logit of the mean, kept within [0.001, 0.999] (Burda et al., arXiv 1509.00519); Gaussian: the mean; a
    mixture is left as it is. The first epochs are then not spent on learning where ink ever is.
    """
    if likelihood == "logistic-mixture":
        return params
    bias = mean_image
    if likelihood == "bernoulli":
        clipped = jnp.clip(mean_image, 0.001, 0.999)
        bias = jnp.log(clipped) - jnp.log1p(-clipped)
    chex.assert_equal_shape([bias, params["output_bias"]])
    return params | {"output_bias": bias.astype(params["output_bias"].dtype)}
