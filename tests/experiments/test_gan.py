"""experiments/gan.py: spectral normalisation, and the two players' steps."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scripts import load

from vae_jax.config.schema import ModelConfig
from vae_jax.models.build import build_model


@pytest.fixture(scope="module")
def players():
    return load("gan")


@pytest.fixture(scope="module")
def gan(players):
    model = build_model(ModelConfig(network="conv", hidden=(4,), latent_dim=3, activation="gelu"), (6, 6, 1))
    return players.Gan(model, players.Discriminator((4,)), optax.sgd(0.1), optax.sgd(0.1))


@pytest.fixture(scope="module")
def state(players, gan):
    vae = jax.jit(gan.model.init)(jax.random.key(5), jnp.zeros((1, 6, 6, 1)))["params"]
    return jax.jit(functools.partial(players.init_gan, gan=gan))(jax.random.key(0), vae)


@pytest.fixture(scope="module")
def z():
    return jax.random.normal(jax.random.key(1), (8, 3))


@pytest.fixture(scope="module")
def x():
    return jax.random.uniform(jax.random.key(2), (8, 6, 6, 1))


def converged(players, params, directions):
    iterate = jax.jit(lambda _, directions: players.spectral_normalise(params, directions)[1])
    return jax.lax.fori_loop(0, 300, iterate, directions)


def test_the_power_iteration_finds_the_largest_singular_value(players):
    rng = np.random.default_rng(0)
    shapes = {"dense": (7, 4), "conv": (3, 3, 2, 5), "one": (6, 1)}
    params = {n: {"kernel": jnp.asarray(rng.normal(size=s)), "bias": jnp.ones(s[-1])} for n, s in shapes.items()}
    start = players.init_directions(jax.random.key(0), params)
    normalised, _ = players.spectral_normalise(params, converged(players, params, start))
    for name, shape in shapes.items():
        kernel = np.asarray(params[name]["kernel"])
        largest = np.linalg.svd(kernel.reshape(-1, shape[-1]), compute_uv=False)[0]
        np.testing.assert_allclose(normalised[name]["kernel"], kernel / largest, rtol=1e-4, atol=1e-6)
        np.testing.assert_array_equal(normalised[name]["bias"], 1)


def test_one_call_is_one_iteration(players):
    kernel = np.random.default_rng(0).normal(size=(7, 4)).astype(np.float32)
    v = np.array([1.0, 0, 0, 0], np.float32)
    normalised, found = players.spectral_normalise({"kernel": jnp.asarray(kernel)}, {"kernel": jnp.asarray(v)})
    u = kernel @ v / np.linalg.norm(kernel @ v)
    expected = kernel.T @ u / np.linalg.norm(kernel.T @ u)
    np.testing.assert_allclose(found["kernel"], expected, rtol=1e-5)
    np.testing.assert_allclose(normalised["kernel"], kernel / (u @ kernel @ expected), rtol=1e-5)


def test_gradients_flow_through_the_singular_value(players):
    rng = np.random.default_rng(0)
    kernel, weights = jnp.asarray(rng.normal(size=(2, 7, 4)), jnp.float32)
    params = {"kernel": kernel}
    start = players.init_directions(jax.random.key(0), params)

    def gradient(directions):
        loss = lambda p: jnp.sum(weights * players.spectral_normalise(p, directions)[0]["kernel"])  # noqa: E731
        return jax.grad(loss)(params)["kernel"]

    expected = jax.grad(lambda k: jnp.sum(weights * k / jnp.linalg.svd(k, compute_uv=False)[0]))(kernel)
    np.testing.assert_allclose(gradient(converged(players, params, start)), expected, rtol=1e-4, atol=1e-5)
    # Before it has converged, too, the directions are constants.
    u = kernel @ start["kernel"] / np.linalg.norm(kernel @ start["kernel"])
    v = kernel.T @ u / np.linalg.norm(kernel.T @ u)
    expected = jax.grad(lambda k: jnp.sum(weights * k / (u @ k @ v)))(kernel)
    np.testing.assert_allclose(gradient(start), expected, rtol=1e-4, atol=1e-5)


def test_the_generator_is_the_vae_s_decoder(players, gan, state, z):
    whole = jax.jit(gan.model.init)(jax.random.key(5), jnp.zeros((1, 6, 6, 1)))["params"]
    assert set(whole) - set(state.generator) == {"encoder", "posterior_mean", "posterior_log_variance"}
    expected = gan.model.apply({"params": whole}, z, method="decode").mean()
    np.testing.assert_array_equal(players.generate(state.generator, z, model=gan.model), expected)


def changed(old, new):
    """The fields of two states that differ in any number."""
    differs = {
        field: any(
            not np.array_equal(a, b)
            for a, b in zip(jax.tree.leaves(getattr(old, field)), jax.tree.leaves(getattr(new, field)), strict=True)
        )
        for field in old._fields
        if field != "key"
    }
    return {field for field, differ in differs.items() if differ}


def test_each_player_moves_in_its_own_step_only(players, gan, state, z, x):
    after, _ = jax.jit(functools.partial(players.discriminator_step, gan=gan))(state, z, x)
    assert changed(state, after) == {"discriminator", "directions"}
    after, _ = jax.jit(functools.partial(players.generator_step, gan=gan))(state, z)
    assert changed(state, after) == {"generator"}
    after, metrics = jax.jit(functools.partial(players.gan_step, gan=gan))(state, (255 * x).astype(jnp.uint8))
    assert changed(state, after) == {"discriminator", "directions", "generator", "step"}
    assert set(metrics) == {"discriminator_loss", "generator_loss"}


def test_the_players_see_codes_of_their_own(players, gan, state, x, monkeypatch):
    seen = []
    for name in ("discriminator_step", "generator_step"):
        step = getattr(players, name)

        def spy(state, z, *x, gan, step=step):
            seen.append(z)
            return step(state, z, *x, gan=gan)

        monkeypatch.setattr(players, name, spy)
    players.gan_step(state, (255 * x).astype(jnp.uint8), gan=gan)
    first, second = seen
    assert first.shape == second.shape == (8, 3)
    assert not np.any(np.asarray(first) == second)


def test_the_losses_are_those_of_the_paper(players, gan, state, z, x):
    normalised, _ = players.spectral_normalise(state.discriminator, state.directions)

    def odds(images):
        logits = gan.discriminator.apply({"params": normalised}, images)
        return 1 / (1 + np.exp(-np.asarray(logits, np.float64)))

    of_real, of_fake = odds(x), odds(players.generate(state.generator, z, model=gan.model))
    _, metrics = players.discriminator_step(state, z, x, gan=gan)
    expected = -np.log(of_real).mean() - np.log(1 - of_fake).mean()
    assert float(metrics["discriminator_loss"]) == pytest.approx(expected, rel=1e-4)
    _, metrics = players.generator_step(state, z, gan=gan)
    assert float(metrics["generator_loss"]) == pytest.approx(-np.log(of_fake).mean(), rel=1e-4)


def test_each_step_lowers_its_own_loss(players, gan, state, z, x):
    for step, name in (
        (jax.jit(lambda s: players.discriminator_step(s, z, x, gan=gan)), "discriminator_loss"),
        (jax.jit(lambda s: players.generator_step(s, z, gan=gan)), "generator_loss"),
    ):
        run, losses = state._replace(directions=converged(players, state.discriminator, state.directions)), []
        for _ in range(5):
            run, metrics = step(run)
            losses.append(float(metrics[name]))
        assert losses == sorted(losses, reverse=True)
        assert losses[-1] < losses[0] - 1e-3
