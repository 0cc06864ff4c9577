"""An experiment whose codes are its data, so that their distribution is known."""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from hand_made import hand_made

from vae_jax.data import from_arrays
from vae_jax.distributions import ChosenCodes, Deterministic, Normal, UniformCodes, standard_normal


class Known(nn.Module):
    """z = x, or with noise z ~ N(x, σ²) with σ = noise exp(x / 1000), which differs between examples."""

    size: int
    noise: float = 0.0

    def setup(self):
        self.shift = self.param("shift", nn.initializers.zeros, (self.size,))

    def encode(self, batch):
        z = batch["x"] + jnp.broadcast_to(self.shift, batch["x"].shape)
        return Normal(z, jnp.log(self.noise) + z / 1000) if self.noise else Deterministic(z)

    def decode(self, draw, evidence=None, batch=None):
        posterior = None if evidence is None else lambda: evidence
        latent = draw("z", standard_normal((self.size,)), posterior)
        return Normal(latent.z, jnp.zeros_like(latent.z)), (latent,)


class KnownIntegers(Known):
    """z = x, integers of 0, ..., num_codes - 1."""

    num_codes: int = 3

    def encode(self, batch):
        return ChosenCodes(jnp.round(batch["x"]).astype(jnp.int32), self.num_codes)

    def decode(self, draw, evidence=None, batch=None):
        posterior = None if evidence is None else lambda: evidence
        latent = draw("z", UniformCodes(self.num_codes, self.size), posterior)
        loc = latent.z.astype(jnp.float32) + jnp.broadcast_to(self.shift, latent.z.shape)
        return Normal(loc, jnp.zeros_like(loc)), (latent,)


def known_integers(x, num_codes, *, holdout=0.3):
    """Return the experiment on integers x [N, G], which are its codes, and its parameters."""
    source = from_arrays(np.asarray(x, np.float32), holdout=holdout)
    experiment = hand_made(model=KnownIntegers(np.shape(x)[1], num_codes=num_codes), data=source)
    return experiment, {"shift": jnp.zeros(np.shape(x)[1])}


def known_experiment(x, *, noise=0.0, holdout=0.3):
    """Return the experiment on vectors x [N, D], and its parameters."""
    source = from_arrays(np.asarray(x, np.float32), holdout=holdout)
    return hand_made(model=Known(np.shape(x)[1], noise), data=source), {"shift": jnp.zeros(np.shape(x)[1])}
