"""Random terms for tests of the objectives, and settings for each objective."""

import dataclasses

import jax.numpy as jnp
import numpy as np

from vae_jax.config import choice
from vae_jax.distributions import Latent, Normal, standard_normal
from vae_jax.inference.terms import Terms

K, B, L, D = 6, 4, 2, 3
SETTINGS = {
    "free-bits": {"free_bits": 1.0},
    "capacity": {"capacity": 2.0},
    "renyi": {"alpha": 0.3},
    "miwae": {"num_inner_samples": 2},
    "piwae": {"num_inner_samples": 2},
    "ciwae": {"elbo_weight": 0.25},
    "cubo": {"order": 3.0},
    "beta-tc": {"beta": 4.0},
    "info-vae": {"mmd_weight": 20.0},
}
NUM_EXAMPLES = 10
BATCH_OBJECTIVES = {"beta-tc", "info-vae"}  # they compare the examples of the batch


def objective_named(name, num_examples=NUM_EXAMPLES, step=0, **settings):
    """Return a registered objective with `SETTINGS` and the given settings at a step."""
    return choice("objective", name, **SETTINGS.get(name, {}) | settings).at(jnp.asarray(step), num_examples)


def random_terms(seed=0, shape=(K, B), layers=L, spread=1.0):
    """Return terms of unrelated densities; the KL of the first layer is [B], that of the others [K, B]."""
    rng = np.random.default_rng(seed)
    draw = lambda *s: jnp.asarray(spread * rng.normal(size=s), jnp.float32)  # noqa: E731

    def latent(layer):
        q = Normal(draw(shape[1], D), 0.3 * draw(shape[1], D))
        kl = jnp.abs(draw(*shape[1:] if layer == 0 else shape)) * 3
        values = {"z": draw(*shape, D), "log_p": draw(*shape), "log_q": draw(*shape), "kl": kl}
        return Latent(f"z{layer + 1}", **values, prior=standard_normal((D,)), posterior=q)

    return Terms(draw(*shape) - 50, tuple(latent(layer) for layer in range(layers)))


def terms_for(name, seed=0, **settings):
    """Return `random_terms` for a registered objective: of one layer if it compares the codes of a batch."""
    return random_terms(seed, layers=1 if name in BATCH_OBJECTIVES else L, **settings)


def change_layer(terms, layer=0, **fields):
    """Return terms with other fields of one layer."""
    latents = list(terms.latents)
    latents[layer] = dataclasses.replace(latents[layer], **fields)
    return terms._replace(latents=tuple(latents))


def with_kl(terms, kl):
    """Return terms with a given KL, [L, B], or without the closed form."""
    rows = [None] * len(terms.latents) if kl is None else kl
    for layer, row in enumerate(rows):
        terms = change_layer(terms, layer, kl=row)
    return terms


def terms_of_weights(log_w):
    """Return terms of one layer with these log weights, [K, B]."""
    zeros = jnp.zeros_like(log_w)
    return Terms(log_w, (Latent("z", zeros, log_p=zeros, log_q=zeros),))
