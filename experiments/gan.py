"""A generative adversarial network whose generator is a VAE's decoder: two players, each with an update of its own.

The discriminator is built as the VAE's encoder is, with one number out and spectral normalisation (Miyato et al., arXiv
1802.05957); the generator has the non-saturating loss (Goodfellow et al., arXiv 1406.2661). Losses are in nats.
"""

import functools
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax import Array

from vae_jax import random
from vae_jax.data import read_images
from vae_jax.inference import Metrics, Params
from vae_jax.models import VAE, ConvEncoder


class Discriminator(nn.Module):
    """The log odds [B] that images [B, H, W, C] are real: the VAE's encoder with leaky ReLUs and one number out."""

    channels: tuple[int, ...]

    @nn.compact
    def __call__(self, x: Array) -> Array:
        activation = functools.partial(jax.nn.leaky_relu, negative_slope=0.2)
        h = ConvEncoder(self.channels, blocks=1, activation=activation, residual=False)(x)
        return nn.Dense(1)(h)[:, 0]


class Gan(NamedTuple):
    """The two players: networks and optimizers, no arrays. The generator is the decoder of `model`."""

    model: VAE
    discriminator: Discriminator
    generator_optimizer: optax.GradientTransformation
    discriminator_optimizer: optax.GradientTransformation


class GanState(NamedTuple):
    """Everything that the training of a GAN carries from step to step: arrays only, as in `TrainState`."""

    step: Array  # int32 []
    generator: Params
    discriminator: Params
    directions: Params  # of each of the discriminator's kernels: its first right singular vector, as estimated so far
    generator_opt_state: optax.OptState
    discriminator_opt_state: optax.OptState
    key: Array


def generate(params: Params, z: Array, *, model: VAE) -> Array:
    """The images [B, H, W, C] in [0, 1] of codes z [B, D]: the mean of p(x|z), sigmoid(decoder(z) + bias)."""
    return model.apply({"params": params}, z, method="decode").mean()


def spectral_normalise(params: Params, directions: Params) -> tuple[Params, Params]:
    """(params with each kernel over its largest singular value, directions after one more power iteration).

    A kernel W is read as a matrix [inputs, outputs]: u = W v / |W v|, v' = Wᵀ u / |Wᵀ u|, σ = uᵀ W v'. Gradients
    flow through the W of σ, not through u and v'. Biases stay as they are (Miyato et al., arXiv 1802.05957).
    """

    def normalise(kernel: Array, v: Array) -> tuple[Array, Array]:
        if kernel.ndim == 1:
            return kernel, v
        matrix = kernel.reshape(-1, kernel.shape[-1])  # [inputs, outputs]
        fixed = jax.lax.stop_gradient(matrix)
        u = _unit(fixed @ v)
        v = _unit(u @ fixed)
        return kernel / (u @ matrix @ v), v

    pairs = jax.tree.map(normalise, params, directions)
    return jax.tree.transpose(jax.tree.structure(params), jax.tree.structure((0, 0)), pairs)


def init_directions(key: Array, params: Params) -> Params:
    """Where the power iterations start: a random unit vector [outputs] for each kernel, and [0] for a bias."""
    leaves, structure = jax.tree.flatten(params)
    keys = jax.random.split(key, len(leaves))
    sizes = [leaf.shape[-1] if leaf.ndim > 1 else 0 for leaf in leaves]
    vectors = [_unit(jax.random.normal(key, (size,))) for key, size in zip(keys, sizes, strict=True)]
    return jax.tree.unflatten(structure, vectors)


def _unit(vector: Array) -> Array:
    return vector / jnp.linalg.norm(vector)


def init_gan(key: Array, vae: Params, *, gan: Gan) -> GanState:
    """The state before the first step: the generator is the decoder among a VAE's parameters."""
    generator = {name: vae[name] for name in ("decoder", "output_bias")}
    keys = jax.random.split(jax.random.fold_in(key, random.INIT_STREAM), 2)
    discriminator = gan.discriminator.init(keys[0], jnp.zeros((1, *gan.model.image_shape)))["params"]
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
    """One update of the discriminator alone, by codes z [B, D] and real images x [B, H, W, C] in [0, 1].

    It minimises -E log D(x) - E log(1 - D(G(z))), 2 log 2 where it cannot tell (Goodfellow et al., arXiv 1406.2661).
    """
    fake = generate(state.generator, z, model=gan.model)

    def loss(params: Params) -> tuple[Array, Params]:
        normalised, directions = spectral_normalise(params, state.directions)
        logits = gan.discriminator.apply({"params": normalised}, jnp.concatenate([x, fake]))
        of_real, of_fake = jnp.split(logits, 2)
        return jnp.mean(jax.nn.softplus(-of_real)) + jnp.mean(jax.nn.softplus(of_fake)), directions

    (value, directions), grads = jax.value_and_grad(loss, has_aux=True)(state.discriminator)
    updates, opt_state = gan.discriminator_optimizer.update(grads, state.discriminator_opt_state, state.discriminator)
    params = optax.apply_updates(state.discriminator, updates)
    state = state._replace(discriminator=params, directions=directions, discriminator_opt_state=opt_state)
    return state, {"discriminator_loss": value}


def generator_step(state: GanState, z: Array, *, gan: Gan) -> tuple[GanState, Metrics]:
    """One update of the generator alone, by codes z [B, D]: it minimises -E log D(G(z)), the non-saturating loss."""
    normalised, _ = spectral_normalise(state.discriminator, state.directions)

    def loss(params: Params) -> Array:
        logits = gan.discriminator.apply({"params": normalised}, generate(params, z, model=gan.model))
        return jnp.mean(jax.nn.softplus(-logits))

    value, grads = jax.value_and_grad(loss)(state.generator)
    updates, opt_state = gan.generator_optimizer.update(grads, state.generator_opt_state, state.generator)
    params = optax.apply_updates(state.generator, updates)
    return state._replace(generator=params, generator_opt_state=opt_state), {"generator_loss": value}


def gan_step(state: GanState, images: Array, *, gan: Gan) -> tuple[GanState, Metrics]:
    """An update of the discriminator by uint8 images [B, H, W, C], then one of the generator: `train_steps`' step."""
    key = jax.random.fold_in(jax.random.fold_in(state.key, random.NOISE_STREAM), state.step)
    z = jax.random.normal(key, (2, images.shape[0], gan.model.latent_dim))
    state, judged = discriminator_step(state, z[0], read_images(key, images, binarization="none"), gan=gan)
    state, made = generator_step(state, z[1], gan=gan)
    return state._replace(step=state.step + 1), judged | made
