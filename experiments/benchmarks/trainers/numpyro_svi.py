"""numpyro: SVI with TraceMeanField_ELBO (closed-form KL) over Flax networks, an epoch in one jitted loop.

This is numpyro's VAE example. Imports nothing of vae_jax.
"""

from collections.abc import Callable
from typing import Any

REQUIREMENTS = ("numpyro", "flax")
VERSIONS = ("numpyro", "jax", "flax")


def trainers(train: Any, test: Any, steps: int, task: dict[str, Any]) -> dict[str, Callable[[], tuple]]:
    """Return {row: make}, where make() returns the functions (epoch, test_elbo) that peers.py calls."""
    import flax.linen as nn
    import jax
    import jax.numpy as jnp
    import numpyro
    import numpyro.distributions as dist
    from numpyro.contrib.module import flax_module
    from numpyro.infer import SVI, TraceMeanField_ELBO

    batch_size, (hidden,), latent = task["batch_size"], task["hidden"], task["latent_dim"]
    images, test_images = (jnp.asarray(x.reshape(len(x), -1), jnp.float32) / 255 for x in (train, test))  # [N, D]
    pixels = images.shape[1]

    class Encoder(nn.Module):
        @nn.compact
        def __call__(self, x):
            h = nn.relu(nn.Dense(hidden)(x))
            return nn.Dense(latent)(h), jnp.exp(0.5 * nn.Dense(latent)(h))

    class Decoder(nn.Module):
        @nn.compact
        def __call__(self, z):
            return nn.Dense(pixels)(nn.relu(nn.Dense(hidden)(z)))

    def model(x):
        decode = flax_module("decoder", Decoder(), input_shape=(1, latent))
        with numpyro.plate("batch", len(x)):
            z = numpyro.sample("z", dist.Normal(0.0, jnp.ones(latent)).to_event(1))
            # The pixels are intensities, not binary: the Bernoulli's log probability is then the cross entropy.
            numpyro.sample("x", dist.Bernoulli(logits=decode(z), validate_args=False).to_event(1), obs=x)

    def guide(x):
        encode = flax_module("encoder", Encoder(), input_shape=(1, pixels))
        with numpyro.plate("batch", len(x)):
            numpyro.sample("z", dist.Normal(*encode(x)).to_event(1))

    def make() -> tuple[Callable[[], float], Callable[[], float]]:
        svi = SVI(model, guide, numpyro.optim.Adam(task["learning_rate"]), TraceMeanField_ELBO())
        state, key = svi.init(jax.random.key(0), images[:batch_size]), jax.random.key(1)

        @jax.jit
        def many_updates(state, key):
            order = jax.random.permutation(key, len(images))

            def body(i, carry):
                state, total = carry
                # The last batch is completed with the first examples.
                indices = order[(i * batch_size + jnp.arange(batch_size)) % len(images)]
                state, loss = svi.update(state, images[indices])
                return state, total + loss

            return jax.lax.fori_loop(0, steps, body, (state, 0.0))

        evaluate = jax.jit(svi.evaluate)

        def epoch() -> float:
            nonlocal state, key
            key, epoch_key = jax.random.split(key)
            state, total = many_updates(state, epoch_key)
            return float(total) / steps / batch_size

        def test_elbo() -> float:
            return -float(evaluate(state, test_images)) / len(test_images)

        return epoch, test_elbo

    return {"numpyro": make}
