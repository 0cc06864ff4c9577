"""A linear-Gaussian VAE with two stochastic layers and its exact posterior."""

import jax
import jax.numpy as jnp
import numpy as np
from linear_gaussian import IMAGE_SHAPE, LATENT, SCALE
from scipy.stats import multivariate_normal

from vae_jax.models.layered import LayeredVAE
from vae_jax.models.likelihoods import GaussianLikelihoodConfig
from vae_jax.models.mlp import MLPDecoder, MLPEncoder
from vae_jax.models.networks import ACTIVATIONS
from vae_jax.models.posteriors import ConditionalNormal
from vae_jax.models.priors import StandardNormal

SLOPE, NOISE = np.array([0.8, -1.3]), np.array([0.5, 0.9])  # p(z_1|z_2) = N(slope z_2 + 0.1, noise²)


def affine(slope, offset, variance):
    """Return the parameters of a ConditionalNormal without hidden layers: N(slope z + offset, variance), diagonal."""
    zeros = jnp.zeros((LATENT, LATENT))
    return {
        "mean": {"kernel": jnp.diag(jnp.asarray(slope)), "bias": jnp.asarray(offset)},
        "log_variance": {"kernel": zeros, "bias": jnp.log(jnp.asarray(variance))},
    }


def two_layer_model():
    """Return (model, params, evidence): z_2 ~ N(0, I), then z_1 and x linear-Gaussian given the previous layer."""
    rng = np.random.default_rng(0)
    pixels = int(np.prod(IMAGE_SHAPE))
    orthogonal, _ = np.linalg.qr(rng.normal(size=(pixels, LATENT)))
    weights, offset = orthogonal * np.array([1.5, 0.6]), rng.normal(size=pixels)
    shift, spread = np.full(LATENT, 0.1), SLOPE**2 + NOISE**2  # mean and variance of z_1
    variance = 1 / (1 / spread + (weights**2).sum(0) / SCALE**2)  # of z_1 given x
    gain = weights * variance / SCALE**2
    upper = SLOPE / spread  # z_2 given z_1: N(upper (z_1 - shift), 1 - slope² / spread)
    model = LayeredVAE(
        encoder=MLPEncoder((), ACTIVATIONS["identity"]),
        decoder=MLPDecoder((), ACTIVATIONS["identity"], IMAGE_SHAPE[:2], 1),
        posterior=ConditionalNormal(LATENT),
        prior=StandardNormal(LATENT),
        likelihood=GaussianLikelihoodConfig(scale=SCALE),
        shape=IMAGE_SHAPE,
        posterior_layers=(ConditionalNormal(LATENT),),
        prior_layers=(ConditionalNormal(LATENT),),
    )
    params = {
        "posterior": {
            "mean": {"kernel": jnp.asarray(gain), "bias": jnp.asarray(shift * variance / spread - offset @ gain)},
            "log_variance": {"kernel": jnp.zeros_like(gain), "bias": jnp.log(jnp.asarray(variance))},
        },
        "posterior_layers_0": affine(upper, -upper * shift, 1 - SLOPE**2 / spread),
        "prior_layers_0": affine(SLOPE, shift, NOISE**2),
        "decoder": {"Dense_0": {"kernel": jnp.asarray(weights.T)}},
        "output_bias": jnp.asarray(offset).reshape(IMAGE_SHAPE),
    }
    covariance = weights @ np.diag(spread) @ weights.T + SCALE**2 * np.eye(pixels)
    evidence = multivariate_normal(offset + weights @ shift, covariance)
    return model, params, lambda x: evidence.logpdf(np.asarray(x, np.float64).reshape(len(x), -1))


def move_posterior(params):
    """Return the parameters with both layers of the exact posterior shifted, and the upper layer wider."""
    upper = jax.tree.map(lambda leaf: leaf + 0.2, params["posterior_layers_0"])
    lower, mean = params["posterior"], params["posterior"]["mean"]
    shifted = lower | {"mean": mean | {"bias": mean["bias"] + 0.3}}
    return params | {"posterior": shifted, "posterior_layers_0": upper}
