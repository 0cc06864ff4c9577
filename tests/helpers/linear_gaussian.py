"""A VAE whose posterior is exact, so that every log weight equals log p(x): the yardstick of the bounds."""

import jax.numpy as jnp
import numpy as np
from scipy.stats import multivariate_normal

from vae_jax.models.build import ACTIVATIONS
from vae_jax.models.mlp import MLPDecoder, MLPEncoder
from vae_jax.models.vae import VAE

IMAGE_SHAPE = (2, 3, 1)
LATENT = 2
SCALE = 0.7
SHIFT, STRETCH = np.array([0.3, -0.2]), np.array([1.2, 1.1])  # of a posterior that is not exact


def exact_model(seed=0):
    """(model, params): z ~ N(0, I), x = W z + b + 0.7 e with orthogonal columns of W, so the posterior is diagonal."""
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
        latent_dim=LATENT,
        image_shape=IMAGE_SHAPE,
        likelihood="gaussian",
        likelihood_scale=SCALE,
    )
    params = {
        "posterior_mean": {"kernel": jnp.asarray(gain), "bias": jnp.asarray(-offset @ gain)},
        "posterior_log_variance": {"kernel": jnp.zeros_like(gain), "bias": jnp.asarray(np.log(variance))},
        "decoder": {"Dense_0": {"kernel": jnp.asarray(weights.T)}},
        "output_bias": jnp.asarray(offset).reshape(IMAGE_SHAPE),
    }
    evidence = multivariate_normal(offset, weights @ weights.T + SCALE**2 * np.eye(pixels))
    return model, params, lambda x: evidence.logpdf(np.asarray(x, np.float64).reshape(len(x), -1))


def shifted_model():
    """(model, params, evidence, standard deviations of the exact posterior), the posterior shifted and stretched."""
    model, params, evidence = exact_model()
    bias = params["posterior_log_variance"]["bias"]
    wrong = params | {
        "posterior_mean": params["posterior_mean"] | {"bias": params["posterior_mean"]["bias"] + SHIFT},
        "posterior_log_variance": params["posterior_log_variance"] | {"bias": bias + 2 * np.log(STRETCH)},
    }
    return model, wrong, evidence, np.exp(np.asarray(bias) / 2)


def images(count=4, seed=1):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(count, *IMAGE_SHAPE)))
