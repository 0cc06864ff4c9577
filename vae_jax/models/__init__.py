"""Encoders, decoders and the VAE that joins them: the only folder that imports flax.linen."""

from vae_jax.models.networks import ConvDecoder, ConvEncoder, MLPDecoder, MLPEncoder, TiedDecoder
from vae_jax.models.vae import VAE, ConditionalNormal, build_model, likelihood_features, with_output_bias

__all__ = [
    "VAE",
    "ConditionalNormal",
    "ConvDecoder",
    "ConvEncoder",
    "MLPDecoder",
    "MLPEncoder",
    "TiedDecoder",
    "build_model",
    "likelihood_features",
    "with_output_bias",
]
