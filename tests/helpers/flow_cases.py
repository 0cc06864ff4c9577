"""Flows of every transform with random parameters, for vectors of any dimension, with and without examples."""

import jax
import jax.numpy as jnp

from vae_jax.distributions.affine import DiagonalAffine, LowerCholeskyAffine
from vae_jax.distributions.autoregressive import MaskedAutoregressive
from vae_jax.distributions.conditioners import Conditioner
from vae_jax.distributions.coupling import AffineCoupling, SplineCoupling, coupling_order
from vae_jax.distributions.flow import Flow, Inverse, Reverse
from vae_jax.distributions.normal import Normal
from vae_jax.distributions.planar import Planar

WIDTH, BINS, BOUND = 6, 4, 3.0


def numbers(seed, *shape, scale=1.0):
    return scale * jax.random.normal(jax.random.key(seed), shape)


def conditioner(seed, inputs, outputs, batch=(), scale=0.3):
    sizes = (inputs, WIDTH, WIDTH, outputs)
    kernels = tuple(numbers(seed + i, *sizes[i : i + 2], scale=scale) for i in range(3))
    biases = tuple(numbers(seed + 3 + i, sizes[i + 1], scale=scale) for i in range(3))
    return Conditioner(kernels, biases, numbers(seed + 7, *batch, WIDTH, scale=0.5) if batch else None)


def affine(size, layer, batch):
    half = size // 2
    return AffineCoupling(conditioner(10 * layer, half, 2 * (size - half), batch), coupling_order(size, layer))


def spline(size, layer, batch):
    outputs = (3 * BINS - 1) * (size - size // 2)
    return SplineCoupling(conditioner(10 * layer, size // 2, outputs, batch), coupling_order(size, layer), BOUND)


def autoregressive(size, layer, batch):
    return MaskedAutoregressive(conditioner(10 * layer, size, 2 * size, batch))


def cholesky(size, layer):
    scale_tril = jnp.tril(numbers(10 * layer, size, size, scale=0.5), -1) + jnp.diag(
        jnp.exp(numbers(layer, size, scale=0.5))
    )
    return LowerCholeskyAffine(numbers(10 * layer + 1, size), scale_tril)


def diagonal(size):
    return DiagonalAffine(numbers(30, size, scale=0.5), numbers(31, size, scale=0.1))


def planar(size, layer, batch):
    return Planar(
        numbers(10 * layer, *batch, size, scale=0.6), numbers(10 * layer + 1, *batch, size), numbers(layer, *batch)
    )


TRANSFORMS = {
    "affine": lambda size, batch: [affine(size, i, batch) for i in range(2)],
    "spline": lambda size, batch: [spline(size, 0, batch)],
    "autoregressive": lambda size, batch: [autoregressive(size, 1, batch), Reverse(), autoregressive(size, 2, batch)],
    "inverse autoregressive": lambda size, batch: [Inverse(autoregressive(size, 1, batch))],
    "cholesky": lambda size, batch: [affine(size, 0, batch), cholesky(size, 1)],
    "diagonal": lambda size, batch: [diagonal(size), affine(size, 0, batch)],
    "planar": lambda size, batch: [planar(size, i, batch) for i in range(1, 4)],
}


def flow(name, size, batch=()):
    """Return a flow over vectors [size] for each of a batch of examples."""
    base = Normal(numbers(1, *batch, size, scale=0.5), numbers(2, *batch, size, scale=0.3))
    return Flow(base, tuple(TRANSFORMS[name](size, batch)))


def normalization(density, half_width=12.0, side=400):
    """Return the integral of a density over a square around the origin, by the midpoint rule."""
    step = 2 * half_width / side
    values = (jnp.arange(side) + 0.5) * step - half_width
    points = jnp.stack(jnp.meshgrid(values, values), axis=-1)
    return jnp.sum(jnp.exp(density.log_prob(points))) * step**2
