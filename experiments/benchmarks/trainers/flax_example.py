"""Plain Flax, as in Flax's VAE example: a jitted step for each batch, in a Python loop over NumPy batches.

The keys are split in the loop. Imports nothing of vae_jax.
"""

from collections.abc import Callable
from typing import Any

REQUIREMENTS = ("flax", "optax")
VERSIONS = ("flax", "jax", "optax")


def trainers(train: Any, test: Any, steps: int, task: dict[str, Any]) -> dict[str, Callable[[], tuple]]:
    """Return {row: make}, where make() returns the functions (epoch, test_elbo) that peers.py calls."""
    import flax.linen as nn
    import jax
    import jax.numpy as jnp
    import numpy as np
    import optax
    from flax.training.train_state import TrainState

    batch_size, (hidden,) = task["batch_size"], task["hidden"]
    images, test_images = (x.reshape(len(x), -1).astype(np.float32) / 255 for x in (train, test))  # [N, D]

    class VAE(nn.Module):
        @nn.compact
        def __call__(self, x, key):
            h = nn.relu(nn.Dense(hidden)(x))
            mean, log_variance = nn.Dense(task["latent_dim"])(h), nn.Dense(task["latent_dim"])(h)
            z = mean + jnp.exp(0.5 * log_variance) * jax.random.normal(key, mean.shape)
            logits = nn.Dense(x.shape[-1])(nn.relu(nn.Dense(hidden)(z)))
            return logits, mean, log_variance

    model = VAE()

    def loss_of(params, x, key):
        logits, mean, log_variance = model.apply({"params": params}, x, key)
        cross_entropy = optax.sigmoid_binary_cross_entropy(logits, x).sum(-1).mean()
        kl = -0.5 * (1 + log_variance - mean**2 - jnp.exp(log_variance)).sum(-1).mean()
        return cross_entropy + kl

    @jax.jit
    def train_step(state, x, key):
        loss, grads = jax.value_and_grad(loss_of)(state.params, x, key)
        return state.apply_gradients(grads=grads), loss

    def make() -> tuple[Callable[[], float], Callable[[], float]]:
        key, init_key = jax.random.split(jax.random.key(0))
        params = model.init(init_key, images[:1], key)["params"]
        state = TrainState.create(apply_fn=model.apply, params=params, tx=optax.adam(task["learning_rate"]))
        shuffle = np.random.default_rng(0)
        evaluate = jax.jit(loss_of)

        def epoch() -> float:
            nonlocal state, key
            order, losses = shuffle.permutation(len(images)), []
            for i in range(steps):
                # The last batch is completed with the first examples.
                x = images[order.take(range(i * batch_size, (i + 1) * batch_size), mode="wrap")]
                key, step_key = jax.random.split(key)
                state, loss = train_step(state, x, step_key)
                losses.append(loss)
            return float(np.mean([float(loss) for loss in losses]))

        def test_elbo() -> float:
            return -float(evaluate(state.params, test_images, jax.random.key(1)))

        return epoch, test_elbo

    return {"flax-example": make}
