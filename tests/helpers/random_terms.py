"""Random terms for tests of the objectives, and settings for each objective."""

import jax.numpy as jnp
import numpy as np

from vae_jax.distributions.normal import Normal, standard_normal
from vae_jax.inference.terms import Codes, Terms

K, B, L, D = 6, 4, 2, 3
SETTINGS = {
    "free-bits": {"free_bits": 1.0},
    "capacity": {"capacity": 2.0},
    "renyi": {"alpha": 0.3},
    "miwae": {"num_inner_samples": 2},
    "piwae": {"num_inner_samples": 2},
    "ciwae": {"elbo_weight": 0.25},
    "cubo": {"order": 3.0},
    "beta-tc": {"num_examples": 10, "beta": 4.0},
    "info-vae": {"mmd_weight": 20.0},
}
BATCH_OBJECTIVES = {"beta-tc", "info-vae"}  # they compare the examples of the batch


def random_terms(seed=0, shape=(K, B), layers=L, spread=1.0):
    rng = np.random.default_rng(seed)
    draw = lambda *s: jnp.asarray(spread * rng.normal(size=s), jnp.float32)  # noqa: E731
    terms = Terms(draw(*shape) - 50, draw(*shape), draw(*shape), jnp.abs(draw(layers, shape[1])) * 3)
    q = Normal(draw(shape[1], D), 0.3 * draw(shape[1], D))
    return terms._replace(codes=Codes(draw(*shape, D), q, standard_normal((D,))))
