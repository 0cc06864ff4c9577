"""A linear-Gaussian VAE with its exact posterior: every log weight equals log p(x). The reference for all bounds."""

import jax.numpy as jnp
import numpy as np
from scipy.stats import multivariate_normal

from vae_jax.models.likelihoods import GaussianLikelihoodConfig
from vae_jax.models.mlp import MLPDecoder, MLPEncoder
from vae_jax.models.networks import ACTIVATIONS
from vae_jax.models.posteriors import ConditionalNormal
from vae_jax.models.priors import StandardNormal
from vae_jax.models.vae import VAE

IMAGE_SHAPE = (2, 3, 1)
LATENT = 2
SCALE = 0.7
SHIFT, STRETCH = np.array([0.3, -0.2]), np.array([1.2, 1.1])  # of the posterior that is not exact


def exact_model(seed=0):
    """Return (model, params, evidence) of z ~ N(0, I), x = W z + b + 0.7 e.

    The columns of W are orthogonal, so the posterior is diagonal.
    """
    rng = np.random.default_rng(seed)
    pixels = int(np.prod(IMAGE_SHAPE))
    orthogonal, _ = np.linalg.qr(rng.normal(size=(pixels, LATENT)))
    weights = orthogonal * np.array([1.5, 0.6])  # [pixels, D]
    offset = rng.normal(size=pixels)
    variance = 1 / (1 + (weights**2).sum(0) / SCALE**2)  # [D], of the posterior
    gain = weights * variance / SCALE**2  # [pixels, D]: posterior mean = (x - b) gain
    identity = ACTIVATIONS["identity"]
    model = VAE(
        encoder=MLPEncoder((), identity),
        decoder=MLPDecoder((), identity, IMAGE_SHAPE[:2], 1),
        posterior=ConditionalNormal(LATENT),
        prior=StandardNormal(LATENT),
        likelihood=GaussianLikelihoodConfig(scale=SCALE),
        shape=IMAGE_SHAPE,
    )
    params = {
        "posterior": {
            "mean": {"kernel": jnp.asarray(gain), "bias": jnp.asarray(-offset @ gain)},
            "log_variance": {"kernel": jnp.zeros_like(gain), "bias": jnp.asarray(np.log(variance))},
        },
        "decoder": {"Dense_0": {"kernel": jnp.asarray(weights.T)}},
        "output_bias": jnp.asarray(offset).reshape(IMAGE_SHAPE),
    }
    evidence = multivariate_normal(offset, weights @ weights.T + SCALE**2 * np.eye(pixels))
    return model, params, lambda x: evidence.logpdf(np.asarray(x, np.float64).reshape(len(x), -1))


def shifted_model():
    """Return (model, params, evidence, exact standard deviations), with a shifted and wider posterior."""
    model, params, evidence = exact_model()
    mean, log_variance = (params["posterior"][name] for name in ("mean", "log_variance"))
    posterior = {
        "mean": mean | {"bias": mean["bias"] + SHIFT},
        "log_variance": log_variance | {"bias": log_variance["bias"] + 2 * np.log(STRETCH)},
    }
    return model, params | {"posterior": posterior}, evidence, np.exp(np.asarray(log_variance["bias"]) / 2)


def images(count=4, seed=1):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(count, *IMAGE_SHAPE)))


def log_moment(t, deviation):
    """Return log E_q[(p(z|x) / q(z|x))^t] of the shifted model, by the Gaussian integral of p^t q^(1-t)."""
    p, q = deviation, deviation * STRETCH
    precision = t / p**2 + (1 - t) / q**2
    exponent = -0.5 * (t / p**2) * ((1 - t) / q**2) / precision * SHIFT**2
    return np.sum(-t * np.log(p) - (1 - t) * np.log(q) - 0.5 * np.log(precision) + exponent)
