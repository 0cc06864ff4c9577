"""experiments/gan.py: spectral normalization, and the update steps of both networks."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scripts import load

from vae_jax.config import Config, override
from vae_jax.distributions.drawers import from_values
from vae_jax.models.build import build_model, init_params


@pytest.fixture(scope="module")
def script():
    return load("gan")


@pytest.fixture(scope="module")
def gan(script):
    settings = {"network__hidden": (4,), "network__activation": "gelu", "model__latent_dim": 3}
    model = build_model(override(Config(), network="conv", **settings), (6, 6, 1))
    return script.Gan(model, script.Discriminator((4,)), optax.sgd(0.1), optax.sgd(0.1))


@pytest.fixture(scope="module")
def vae(gan):
    init = jax.jit(functools.partial(init_params, gan.model))
    return init(jax.random.key(5), {"x": jnp.zeros((1, 6, 6, 1))})["params"]


@pytest.fixture(scope="module")
def state(script, gan, vae):
    return jax.jit(functools.partial(script.init_gan, gan=gan))(jax.random.key(0), vae)


@pytest.fixture(scope="module")
def z():
    return jax.random.normal(jax.random.key(1), (8, 3))


@pytest.fixture(scope="module")
def x():
    return jax.random.uniform(jax.random.key(2), (8, 6, 6, 1))


def converged(script, params, directions):
    iterate = jax.jit(lambda _, directions: script.spectral_normalize(params, directions)[1])
    return jax.lax.fori_loop(0, 300, iterate, directions)


def test_the_power_iteration_finds_the_largest_singular_value(script):
    rng = np.random.default_rng(0)
    shapes = {"dense": (7, 4), "conv": (3, 3, 2, 5), "one": (6, 1)}
    params = {n: {"kernel": jnp.asarray(rng.normal(size=s)), "bias": jnp.ones(s[-1])} for n, s in shapes.items()}
    start = script.init_directions(jax.random.key(0), params)
    normalized, _ = script.spectral_normalize(params, converged(script, params, start))
    for name, shape in shapes.items():
        kernel = np.asarray(params[name]["kernel"])
        largest = np.linalg.svd(kernel.reshape(-1, shape[-1]), compute_uv=False)[0]
        np.testing.assert_allclose(normalized[name]["kernel"], kernel / largest, rtol=1e-4, atol=1e-6)
        np.testing.assert_array_equal(normalized[name]["bias"], 1)


def test_one_call_is_one_iteration(script):
    kernel = np.random.default_rng(0).normal(size=(7, 4)).astype(np.float32)
    v = np.array([1.0, 0, 0, 0], np.float32)
    normalized, found = script.spectral_normalize({"kernel": jnp.asarray(kernel)}, {"kernel": jnp.asarray(v)})
    u = kernel @ v / np.linalg.norm(kernel @ v)
    expected = kernel.T @ u / np.linalg.norm(kernel.T @ u)
    np.testing.assert_allclose(found["kernel"], expected, rtol=1e-5)
    np.testing.assert_allclose(normalized["kernel"], kernel / (u @ kernel @ expected), rtol=1e-5)


def test_gradients_flow_through_the_singular_value(script):
    rng = np.random.default_rng(0)
    kernel, weights = jnp.asarray(rng.normal(size=(2, 7, 4)), jnp.float32)
    params = {"kernel": kernel}
    start = script.init_directions(jax.random.key(0), params)

    def gradient(directions):
        loss = lambda p: jnp.sum(weights * script.spectral_normalize(p, directions)[0]["kernel"])  # noqa: E731
        return jax.grad(loss)(params)["kernel"]

    expected = jax.grad(lambda k: jnp.sum(weights * k / jnp.linalg.svd(k, compute_uv=False)[0]))(kernel)
    np.testing.assert_allclose(gradient(converged(script, params, start)), expected, rtol=1e-4, atol=1e-5)
    # The directions are constants before they converge too.
    u = kernel @ start["kernel"] / np.linalg.norm(kernel @ start["kernel"])
    v = kernel.T @ u / np.linalg.norm(kernel.T @ u)
    expected = jax.grad(lambda k: jnp.sum(weights * k / (u @ k @ v)))(kernel)
    np.testing.assert_allclose(gradient(start), expected, rtol=1e-4, atol=1e-5)


def test_the_generator_is_the_decoder_of_the_vae(script, gan, vae, state, z):
    assert set(vae) - set(state.generator) == {"encoder", "posterior"}
    expected = gan.model.apply({"params": vae}, from_values({"z": z}), method="decode")[0].mean()
    np.testing.assert_array_equal(script.generate(state.generator, z, model=gan.model), expected)


def changed(old, new):
    """The fields in which two states differ."""
    differs = {
        field: any(
            not np.array_equal(a, b)
            for a, b in zip(jax.tree.leaves(getattr(old, field)), jax.tree.leaves(getattr(new, field)), strict=True)
        )
        for field in old._fields
        if field != "key"
    }
    return {field for field, differ in differs.items() if differ}


def test_each_step_updates_one_network_only(script, gan, state, z, x):
    after, _ = jax.jit(functools.partial(script.discriminator_step, gan=gan))(state, z, x)
    assert changed(state, after) == {"discriminator", "directions"}
    after, _ = jax.jit(functools.partial(script.generator_step, gan=gan))(state, z)
    assert changed(state, after) == {"generator"}
    after, metrics = jax.jit(functools.partial(script.gan_step, gan=gan))(state, {"x": (255 * x).astype(jnp.uint8)})
    assert changed(state, after) == {"discriminator", "directions", "generator", "step"}
    assert set(metrics) == {"discriminator_loss", "generator_loss"}


def test_both_networks_receive_different_codes(script, gan, state, x, monkeypatch):
    seen = []
    for name in ("discriminator_step", "generator_step"):
        step = getattr(script, name)

        def spy(state, z, *x, gan, step=step):
            seen.append(z)
            return step(state, z, *x, gan=gan)

        monkeypatch.setattr(script, name, spy)
    script.gan_step(state, {"x": (255 * x).astype(jnp.uint8)}, gan=gan)
    first, second = seen
    assert first.shape == second.shape == (8, 3)
    assert not np.any(np.asarray(first) == second)


def test_the_losses_are_those_of_the_paper(script, gan, state, z, x):
    normalized, _ = script.spectral_normalize(state.discriminator, state.directions)

    def odds(images):
        logits = gan.discriminator.apply({"params": normalized}, images)
        return 1 / (1 + np.exp(-np.asarray(logits, np.float64)))

    real_odds, fake_odds = odds(x), odds(script.generate(state.generator, z, model=gan.model))
    _, metrics = script.discriminator_step(state, z, x, gan=gan)
    expected = -np.log(real_odds).mean() - np.log(1 - fake_odds).mean()
    assert float(metrics["discriminator_loss"]) == pytest.approx(expected, rel=1e-4)
    _, metrics = script.generator_step(state, z, gan=gan)
    assert float(metrics["generator_loss"]) == pytest.approx(-np.log(fake_odds).mean(), rel=1e-4)


def test_each_step_lowers_the_loss_of_its_network(script, gan, state, z, x):
    for step, name in (
        (jax.jit(lambda s: script.discriminator_step(s, z, x, gan=gan)), "discriminator_loss"),
        (jax.jit(lambda s: script.generator_step(s, z, gan=gan)), "generator_loss"),
    ):
        run, losses = state._replace(directions=converged(script, state.discriminator, state.directions)), []
        for _ in range(5):
            run, metrics = step(run)
            losses.append(float(metrics[name]))
        assert losses == sorted(losses, reverse=True)
        assert losses[-1] < losses[0] - 1e-3
