"""The registry of objectives: the name on the command line -> the function of `Terms`."""

from vae_jax.inference.aggregate import beta_tc, info_vae
from vae_jax.inference.elbos import capacity, elbo, free_bits, reconstruction, sampled_elbo
from vae_jax.inference.importance import ciwae, iwae, miwae, negative_cubo, renyi
from vae_jax.inference.terms import Objective, Pair

OBJECTIVES: dict[str, Objective | Pair] = {
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
    "cubo": Pair(generative=iwae, inference=negative_cubo),  # a decoder does not minimize an upper bound
    "beta-tc": beta_tc,
    "info-vae": info_vae,
}
