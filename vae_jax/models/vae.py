"""The VAE as three pure functions: encode(x) -> q(z|x), prior() -> p(z), decode(z) -> p(x|z).

    q = model.apply({"params": params}, x, method="encode")

The functions return densities and draw no samples. The caller samples a density with its key.
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

    With `latent_layers` a code is the concatenation of L stochastic layers, of which z_1 is next to the image. The
    decoder uses z_1 alone.

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
    def sizes(self) -> tuple[int, ...]:
        """The dimension of each stochastic layer of the code, D_1, ..., D_L, starting at the image."""
        return (*self.latent_layers, self.latent_dim)

    def setup(self) -> None:
        """Check the attributes, and create layers and parameters."""
        check_choices("model", posterior=self.posterior, scale_head=self.scale_head, likelihood=self.likelihood)
        for name in ("posterior_layers", "prior_layers"):
            if (length := len(getattr(self, name))) != len(self.latent_layers):
                layers = len(self.latent_layers)
                raise InputError(f"{name} has {length} modules; pass {layers}, one for each entry of latent_layers")
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
        """Return decode(mean of encode(x)); it uses every parameter, so `init` creates all of them."""
        self.prior()
        return self.decode(self.encode(x).mean())

    def encode(self, x: Array) -> Normal | Deterministic | MarkovChain:
        """Return q(z|x).

        Args:
          x: floats [B, H, W, C] in [0, 1]. `read_images` converts integers.

        Returns:
          A density over codes [B, D], in the dtype of `x`.

        Raises:
          InputError: `x` has another layout, which a dense layer would accept silently, or an integer dtype, which the
            densities would inherit.
        """
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
        q = _normal(mean, s, self.scale_head)
        return self._chain(q, self.posterior_layers, downwards=False) if self.latent_layers else q

    def prior(self) -> Normal | MarkovChain:
        """Return p(z) over codes [D]: N(0, I), or for several layers N(0, I) for z_L and a chain for those below it."""
        p = standard_normal((self.latent_dim,))
        return self._chain(p, self.prior_layers, downwards=True) if self.latent_layers else p

    def _chain(self, first: Normal, layers: Sequence[nn.Module], *, downwards: bool) -> MarkovChain:
        if self.is_initializing():
            for layer, size in zip(layers, self.sizes[:0:-1] if downwards else self.sizes[:-1], strict=True):
                layer(jnp.zeros((1, size)))  # creates its parameters
        # A density is used after this call, so each layer is stored as a function that contains its parameters.
        conditionals = tuple(Partial(layer.clone(parent=None, name=None).apply, layer.variables) for layer in layers)
        return MarkovChain(first, conditionals, self.sizes, downwards)

    def decode(self, z: Array) -> Normal | Bernoulli | DiscretizedLogisticMixture:
        """Return p(x|z).

        Args:
          z: floats [..., D]. If the code has several layers, z_1 alone is used.

        Returns:
          A density over images [..., H, W, C], in the dtype of `z`.

        Raises:
          InputError: `z` has an integer dtype, which the densities would inherit; or the output of the decoder has
            another shape than [..., H, W, F'].
        """
        if not jnp.issubdtype(z.dtype, jnp.floating):
            expected = f"floats [..., {sum(self.sizes)}]"
            raise InputError(f"codes have shape {list(z.shape)} and dtype {z.dtype}; pass {expected}")
        if self.latent_layers:
            chex.assert_axis_dimension(z, -1, sum(self.sizes))
            z = z[..., : self.sizes[0]]
        if isinstance(self.decoder, TiedDecoder):
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
