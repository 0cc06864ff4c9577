"""inference.objectives."""

from collections.abc import Callable

from jax import Array

from vae_jax.inference.aggregate import beta_tc, info_vae
from vae_jax.inference.elbos import capacity, elbo, free_bits, reconstruction, sampled_elbo
from vae_jax.inference.importance import ciwae, iwae, miwae, negative_cubo, renyi
from vae_jax.inference.terms import Pair

OBJECTIVES: dict[str, Callable[..., Array] | Pair] = {
    "reconstruction": reconstruction,
    "elbo": elbo,
    "sampled-elbo": sampled_elbo,
    "free-bits": free_bits,
    "capacity": capacity,
    "iwae": iwae,
    "renyi": renyi,
    "miwae": miwae,
    "ciwae": ciwae,
    "piwae": Pair(generative=iwae, inference=miwae),  # Rainforth et al., arXiv 1802.04537
    "cubo": Pair(generative=iwae, inference=negative_cubo),  # an upper bound is no aim for a decoder
    "beta-tc": beta_tc,
    "info-vae": info_vae,
}
