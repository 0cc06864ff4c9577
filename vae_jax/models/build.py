"""The model that a `ModelConfig` describes."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from vae_jax.config import ModelConfig, check_choices
from vae_jax.models.conv import ConvDecoder, ConvEncoder
from vae_jax.models.mlp import MLPDecoder, MLPEncoder, TiedDecoder
from vae_jax.models.vae import VAE, ConditionalNormal, likelihood_features

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "tanh": jnp.tanh,
    "relu": jax.nn.relu,
    "gelu": jax.nn.gelu,
    "silu": jax.nn.silu,
    "elu": jax.nn.elu,
    "softplus": jax.nn.softplus,
    "sigmoid": jax.nn.sigmoid,
    "identity": lambda x: x,
}


def build_model(config: ModelConfig, image_shape: tuple[int, int, int], *, training: bool = False) -> VAE:
    """Return the model that `config` describes.

    Parameters and densities are those of float32 layers.

    Args:
      config: network, likelihood, posterior and sizes.
      image_shape: (H, W, C).
      training: whether the layers compute in `config.compute_dtype`. If `config.remat`, the interior of a block is then
        computed again for its gradient instead of being stored.

    Returns:
      The model, without parameters.

    Raises:
      InputError: an unknown name in `config`.
    """
    check_choices("model", **vars(config))
    dtype = jnp.bfloat16 if training and config.compute_dtype == "bfloat16" else None
    height, width, channels = image_shape
    activation, head = ACTIVATIONS[config.activation], config.scale_head
    sizes = (*config.latent_layers, config.latent_dim)
    features = likelihood_features(config.likelihood, channels, config.mixture_components)
    if config.network == "mlp":
        encoder: nn.Module = MLPEncoder(config.hidden, activation, dtype)
        if config.tied:
            # A chain of the encoder's kernels. Its last product has H·W·C rows, so the features are the channels.
            decoder: nn.Module = TiedDecoder(activation, (height, width), channels, dtype)
        else:
            decoder = MLPDecoder(config.hidden[::-1], activation, (height, width), features, dtype)
    else:
        options = {"residual": config.network == "residual", "dtype": dtype, "remat": training and config.remat}
        encoder = ConvEncoder(config.hidden, config.blocks, activation, **options)
        decoder = ConvDecoder(config.hidden, config.blocks, activation, (height, width), features, **options)
    return VAE(
        encoder=encoder,
        decoder=decoder,
        latent_dim=config.latent_dim,
        image_shape=image_shape,
        posterior=config.posterior,
        noise_scale=config.noise_scale,
        scale_head=config.scale_head,
        likelihood=config.likelihood,
        likelihood_scale=config.likelihood_scale,
        mixture_components=config.mixture_components,
        latent_layers=config.latent_layers,
        posterior_layers=tuple(ConditionalNormal(config.layer_hidden, activation, s, head) for s in sizes[1:]),
        prior_layers=tuple(ConditionalNormal(config.layer_hidden[::-1], activation, s, head) for s in sizes[-2::-1]),
    )
