"""vae_jax/inference/hamiltonian.py: a transition against NumPy in float64, its stationary distribution, rejections."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from vae_jax import random
from vae_jax.inference import hamiltonian
from vae_jax.inference.hamiltonian import State

PRECISION = np.array([1.0, 4.0])  # of the Gaussian target


def log_density(z):
    return -0.5 * jnp.sum(z * z * jnp.asarray(PRECISION, z.dtype)[None, None], axis=-1), jnp.sum(z, axis=-1)


@functools.partial(jax.jit, static_argnames=("num_leapfrog", "count"))
def run(z, key, *, step_size, num_leapfrog, count=1):
    def body(state, number):
        keys = random.fold_in(random.example_keys(key, z.shape[0] * z.shape[1]), number).reshape(z.shape[:2])
        return hamiltonian.transition(log_density, state, keys, step_size=step_size, num_leapfrog=num_leapfrog)

    return jax.lax.scan(body, State(z, log_density(z)[1]), jnp.arange(count))


def test_a_transition_is_the_leapfrog_of_numpy():
    z = np.random.default_rng(0).normal(size=(40, 5, 2)).astype(np.float32)
    state, probability = run(jnp.asarray(z), jax.random.key(1), step_size=jnp.float32(0.6), num_leapfrog=3)
    keys = random.fold_in(random.example_keys(jax.random.key(1), 200), 0).reshape(40, 5)
    start = np.asarray(random.normal(random.fold_in(keys, 0), z.shape), np.float64)
    position, momentum = z.astype(np.float64), start.copy()
    for _ in range(3):
        momentum -= 0.3 * PRECISION * position
        position += 0.6 * momentum
        momentum -= 0.3 * PRECISION * position
    energy = [0.5 * (PRECISION * a**2 + p**2).sum(-1) for a, p in ((z.astype(np.float64), start), (position, momentum))]
    expected = np.exp(np.minimum(energy[0] - energy[1], 0))
    np.testing.assert_allclose(probability[0], expected, rtol=2e-5)
    moved = np.any(np.asarray(state.z) != z, axis=-1)
    np.testing.assert_allclose(np.asarray(state.z)[moved], position[moved], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(state.aux, np.asarray(state.z).sum(-1), rtol=1e-5, atol=1e-5)
    assert (~moved).any()
    assert moved.mean() == np.clip(moved.mean(), expected.mean() - 0.1, expected.mean() + 0.1)


def test_samples_of_the_target_stay_samples_of_it():
    count = 20_000
    z = np.random.default_rng(1).normal(size=(count, 1, 2)) / np.sqrt(PRECISION)
    state, probability = run(
        jnp.asarray(z, jnp.float32), jax.random.key(0), step_size=jnp.float32(0.85), num_leapfrog=2, count=5
    )
    assert 0.5 < probability.mean() < 0.9  # without the rejections the variance would be that of another density
    found = np.asarray(state.z, np.float64)[:, 0] * np.sqrt(PRECISION)
    assert np.abs(found.mean(0)).max() < 4 / np.sqrt(count)
    assert np.abs((found**2).mean(0) - 1).max() < 4 * np.sqrt(2 / count)


def test_a_proposal_that_is_not_finite_is_rejected():
    z = jnp.ones((3, 2, 2))
    state, probability = run(z, jax.random.key(0), step_size=jnp.float32(1e30), num_leapfrog=3)
    np.testing.assert_array_equal(state.z, z)
    assert not np.asarray(probability).any()


def test_a_chain_leaves_a_point_of_density_0():
    def half(z):
        inside = z[..., 0] > 0
        return jnp.where(inside, -0.5 * jnp.sum(z * z, axis=-1), -jnp.inf), inside.astype(z.dtype)

    @jax.jit
    def move(z, keys):
        state = State(z, half(z)[1])
        return hamiltonian.transition(half, state, keys, step_size=jnp.float32(0.3), num_leapfrog=2)

    keys = random.example_keys(jax.random.key(0), 50).reshape(50, 1)
    moved, probability = move(jnp.full((50, 1, 1), -0.05), keys)
    inside = np.asarray(moved.z)[..., 0] > 0
    assert 0.2 < inside.mean() < 0.9
    np.testing.assert_array_equal(np.asarray(probability) > 0, inside)
