"""A generative adversarial network whose generator is the decoder of a VAE, with one update step for each network.

The discriminator has the architecture of the VAE's encoder, with one output and spectral normalization (Miyato et al.,
arXiv 1802.05957). The generator has the non-saturating loss (Goodfellow et al., arXiv 1406.2661). Losses are in nats.
"""

import functools
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax import Array

from vae_jax import random
from vae_jax.data import ScaleConfig
from vae_jax.distributions import Batch, from_values
from vae_jax.inference import Metrics, Params, decode
from vae_jax.models import VAE, ConvEncoder


class Discriminator(nn.Module):
    """The log odds [B] that images [B, H, W, C] are real: the VAE's encoder with leaky ReLUs and one output."""

    channels: tuple[int, ...]

    @nn.compact
    def __call__(self, x: Array) -> Array:
        activation = functools.partial(jax.nn.leaky_relu, negative_slope=0.2)
        h = ConvEncoder(self.channels, blocks=1, activation=activation, residual=False)(x)
        return nn.Dense(1)(h)[:, 0]


class Gan(NamedTuple):
    """The two networks and their optimizers, without arrays. The generator is the decoder of `model`."""

    model: VAE
    discriminator: Discriminator
    generator_optimizer: optax.GradientTransformation
    discriminator_optimizer: optax.GradientTransformation


class GanState(NamedTuple):
    """The state that a step of a GAN's training updates: arrays only, as in `TrainState`."""

    step: Array  # int32 []
    generator: Params
    discriminator: Params
    directions: Params  # for each kernel of the discriminator: the estimate of its first right singular vector
    generator_opt_state: optax.OptState
    discriminator_opt_state: optax.OptState
    key: Array


def generate(params: Params, z: Array, *, model: VAE) -> Array:
    """Decode codes z [B, D] to images [B, H, W, C] in [0, 1]: the mean of p(x|z), sigmoid(decoder(z) + bias)."""
    p_x, _ = decode(params, from_values({"z": z}), model=model)
    return p_x.mean()


def spectral_normalize(params: Params, directions: Params) -> tuple[Params, Params]:
    """Return (params with each kernel divided by its largest singular value, directions after one power iteration).

    A kernel W is reshaped to a matrix [inputs, outputs]: u = W v / |W v|, v' = Wᵀ u / |Wᵀ u|, σ = uᵀ W v'. Gradients
    flow through the W of σ, not through u and v'. Biases are unchanged (Miyato et al., arXiv 1802.05957).
    """

    def normalize(kernel: Array, v: Array) -> tuple[Array, Array]:
        if kernel.ndim == 1:
            return kernel, v
        matrix = kernel.reshape(-1, kernel.shape[-1])  # [inputs, outputs]
        fixed = jax.lax.stop_gradient(matrix)
        u = _unit(fixed @ v)
        v = _unit(u @ fixed)
        return kernel / (u @ matrix @ v), v

    pairs = jax.tree.map(normalize, params, directions)
    return jax.tree.transpose(jax.tree.structure(params), jax.tree.structure((0, 0)), pairs)


def init_directions(key: Array, params: Params) -> Params:
    """Return the start of the power iterations: a random unit vector [outputs] for each kernel, [0] for a bias."""
    leaves, structure = jax.tree.flatten(params)
    keys = jax.random.split(key, len(leaves))
    sizes = [leaf.shape[-1] if leaf.ndim > 1 else 0 for leaf in leaves]
    vectors = [_unit(jax.random.normal(key, (size,))) for key, size in zip(keys, sizes, strict=True)]
    return jax.tree.unflatten(structure, vectors)


def _unit(vector: Array) -> Array:
    return vector / jnp.linalg.norm(vector)


def init_gan(key: Array, vae: Params, *, gan: Gan) -> GanState:
    """Return the state before the first step; the generator starts from the decoder in a VAE's parameters."""
    generator = {name: vae[name] for name in ("decoder", "output_bias")}
    keys = jax.random.split(jax.random.fold_in(key, random.INIT_STREAM), 2)
    discriminator = gan.discriminator.init(keys[0], jnp.zeros((1, *gan.model.shape)))["params"]
    return GanState(
        step=jnp.zeros((), jnp.int32),
        generator=generator,
        discriminator=discriminator,
        directions=init_directions(keys[1], discriminator),
        generator_opt_state=gan.generator_optimizer.init(generator),
        discriminator_opt_state=gan.discriminator_optimizer.init(discriminator),
        key=key,
    )


def discriminator_step(state: GanState, z: Array, x: Array, *, gan: Gan) -> tuple[GanState, Metrics]:
    """Update the discriminator only, with codes z [B, D] and real images x [B, H, W, C] in [0, 1].

    The loss is -E log D(x) - E log(1 - D(G(z))). It is 2 log 2 for a discriminator that cannot distinguish generated
    images from real ones (Goodfellow et al., arXiv 1406.2661).
    """
    fake = generate(state.generator, z, model=gan.model)

    def loss(params: Params) -> tuple[Array, Params]:
        normalized, directions = spectral_normalize(params, state.directions)
        logits = gan.discriminator.apply({"params": normalized}, jnp.concatenate([x, fake]))
        real_logits, fake_logits = jnp.split(logits, 2)
        return jnp.mean(jax.nn.softplus(-real_logits)) + jnp.mean(jax.nn.softplus(fake_logits)), directions

    (value, directions), grads = jax.value_and_grad(loss, has_aux=True)(state.discriminator)
    updates, opt_state = gan.discriminator_optimizer.update(grads, state.discriminator_opt_state, state.discriminator)
    params = optax.apply_updates(state.discriminator, updates)
    state = state._replace(discriminator=params, directions=directions, discriminator_opt_state=opt_state)
    return state, {"discriminator_loss": value}


def generator_step(state: GanState, z: Array, *, gan: Gan) -> tuple[GanState, Metrics]:
    """Update the generator only, with codes z [B, D]; its loss is -E log D(G(z)), the non-saturating loss."""
    normalized, _ = spectral_normalize(state.discriminator, state.directions)

    def loss(params: Params) -> Array:
        logits = gan.discriminator.apply({"params": normalized}, generate(params, z, model=gan.model))
        return jnp.mean(jax.nn.softplus(-logits))

    value, grads = jax.value_and_grad(loss)(state.generator)
    updates, opt_state = gan.generator_optimizer.update(grads, state.generator_opt_state, state.generator)
    params = optax.apply_updates(state.generator, updates)
    return state._replace(generator=params, generator_opt_state=opt_state), {"generator_loss": value}


def gan_step(state: GanState, batch: Batch, *, gan: Gan) -> tuple[GanState, Metrics]:
    """Update the discriminator with images {"x": uint8 [B, H, W, C]}, then the generator; a step for `train_steps`."""
    key = jax.random.fold_in(jax.random.fold_in(state.key, random.NOISE_STREAM), state.step)
    z = jax.random.normal(key, (2, batch["x"].shape[0], gan.model.posterior.size))
    state, metrics = discriminator_step(state, z[0], ScaleConfig()(key, batch)["x"], gan=gan)
    state, generator_metrics = generator_step(state, z[1], gan=gan)
    return state._replace(step=state.step + 1), metrics | generator_metrics
