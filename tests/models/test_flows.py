"""Models with learned priors and flow posteriors: identity, training, bounds by quadrature, estimators, devices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flow_models import PAIRS, SHAPE, B, D, binary_batch, pair_model

from vae_jax import random
from vae_jax.config import choice
from vae_jax.distributions import (
    DiagonalAffine,
    Reverse,
    from_means,
    from_posterior,
    from_prior,
    from_values,
    standard_normal,
)
from vae_jax.inference import bound, iwae, sampled_elbo
from vae_jax.models import export
from vae_jax.models.flows import AffineCouplings, AutoregressiveTransforms, FlowPosterior, SplineCouplings
from vae_jax.models.posteriors import ConditionalNormal
from vae_jax.runtime import sharding

KEY = jax.random.key(0)

of_every_pair = pytest.mark.parametrize(("prior", "posterior"), PAIRS.items())


@functools.partial(jax.jit, static_argnames=("model", "objective", "estimator"))
def train(params, batch, *, model, objective, estimator="pathwise"):
    """Return the losses of five steps of Adam with the same noise, and the gradient at the end."""
    estimator = choice("estimator", estimator).build()
    loss = functools.partial(bound.negative_bound, model=model, objective=objective, num_samples=3, estimator=estimator)
    optimizer = optax.adam(0.03)

    def step(carry, _):
        params, state, _ = carry
        (value, _), gradient = jax.value_and_grad(loss, has_aux=True)(params, KEY, batch)
        updates, state = optimizer.update(gradient, state)
        return (optax.apply_updates(params, updates), state, gradient), value

    carry = (params, optimizer.init(params), params)
    (_, _, gradient), losses = jax.lax.scan(step, carry, length=5)
    return losses, gradient


@of_every_pair
def test_every_choice_trains_all_of_its_parameters(prior, posterior):
    model, params, _ = pair_model(prior, posterior)
    losses, gradient = train(params, binary_batch(), model=model, objective=iwae)
    assert np.isfinite(losses).all()
    assert losses[-1] < losses[0]
    for path, leaf in jax.tree.leaves_with_path(gradient):
        assert np.isfinite(leaf).all(), path
        assert np.abs(leaf).max() > 1e-7, path
    assert jax.tree.leaves(gradient["prior"])


@of_every_pair
def test_flows_start_at_the_identity(prior, posterior):
    model, params, _ = pair_model(prior, posterior)

    @jax.jit
    def start(params):
        q = model.apply({"params": params}, binary_batch(), method="encode")
        _, (latent,) = model.apply({"params": params}, from_prior(KEY, B), method="decode")
        base = getattr(q, "base", q)
        keys = random.example_keys(KEY, B)
        found, expected = ((p.sample_and_log_prob(keys), p.mean(), p.stddev()) for p in (q, base))
        return found, expected, latent.log_p, standard_normal((D,)).log_prob(latent.z)

    found, expected, log_p, standard = start(params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), found, expected)
    if prior not in ("mixture", "vamp"):
        np.testing.assert_allclose(log_p, standard, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", [1, 3])
def test_an_odd_number_of_transforms_or_latents_starts_at_the_identity(size):
    h = jnp.asarray(np.random.default_rng(0).normal(size=(4, 5)), jnp.float32)
    module = FlowPosterior(ConditionalNormal(size), AutoregressiveTransforms(size, 3, (4,)))
    q = module.apply(module.init(KEY, h), h)
    np.testing.assert_allclose(q.mean(), q.base.mean(), rtol=1e-6)
    (kernel,) = module.apply(module.init(KEY, h), method="kernels")
    assert kernel.shape == (5, size)


def test_each_transform_of_a_flow_follows_an_actnorm():
    h = jnp.ones((2, 4))
    for module in (AffineCouplings(3, 2, (4,), actnorm=True), AutoregressiveTransforms(3, 2, (4,), actnorm=True),
                   SplineCouplings(3, 2, (4,), 4, 2.0, actnorm=True)):  # fmt: skip
        transforms = module.apply(module.init(KEY, h), h)
        kinds = [isinstance(part, DiagonalAffine) for part in transforms if not isinstance(part, Reverse)]
        assert kinds == [True, False] * 2


@pytest.mark.parametrize(("prior", "posterior"), [("coupling", "iaf"), ("spline", "coupling"), ("mixture", "planar")])
def test_the_bound_by_samples_agrees_with_quadrature(prior, posterior):
    """E_q[log p(x, z) - log q(z)] over a grid, where log q of given values is computed by inversion."""
    model, _, params = pair_model(prior, posterior)
    count, side, half_width = 4000, 240, 15.0
    batch = binary_batch(2)

    @jax.jit
    def estimates(params):
        variables = {"params": params}
        evidence = model.apply(variables, batch, method="encode")
        terms = bound.sample_terms(params, KEY, batch, model=model, num_samples=count)
        log_w = terms.log_px_z + terms.log_pz - terms.log_qz
        values = (jnp.arange(side) + 0.5) * (2 * half_width / side) - half_width
        z = jnp.broadcast_to(jnp.stack(jnp.meshgrid(values, values), axis=-1).reshape(-1, 1, D), (side**2, 2, D))
        p_x, (latent,) = model.apply(variables, from_values({"z": z}, with_posterior=True), evidence, method="decode")
        weight = jnp.exp(latent.log_q) * (2 * half_width / side) ** 2
        bound_at = p_x.log_prob(batch["x"]) + latent.log_p - latent.log_q
        quadrature = [jnp.sum(weight * values, axis=0) for values in (bound_at, latent.log_q, jnp.ones_like(bound_at))]
        sampled = (sampled_elbo(terms), jnp.mean(terms.log_qz, axis=0))
        return sampled, (jnp.std(log_w, axis=0), jnp.std(terms.log_qz, axis=0)), quadrature

    sampled, deviations, (*quadrature, mass) = estimates(params)
    np.testing.assert_allclose(mass, 1, atol=3e-3)
    for found, deviation, expected in zip(sampled, deviations, quadrature, strict=True):  # the bound, E_q log q
        assert np.all(np.abs(found - expected) < 5 * deviation / np.sqrt(count) + 1e-2)
        assert (deviation > 0.1).all()


def test_the_gradient_of_the_encoder_in_a_vamp_prior_has_the_same_mean_under_every_estimator():
    model, _, params = pair_model("vamp", "gaussian")
    batch, count = binary_batch(3), 800

    @jax.jit
    def differences(params):
        def gradient(key, estimator):
            settings = {"model": model, "objective": iwae, "num_samples": 3, "estimator": estimator}
            return jax.grad(lambda params: bound.negative_bound(params, key, batch, **settings)[0])(params)

        estimators = [choice("estimator", name).build() for name in ("pathwise", "doubly-reparameterized")]
        a, b = ([jax.lax.map(lambda k, e=e: gradient(k, e), jax.random.split(jax.random.key(i), count), batch_size=100)
                 for i, e in enumerate(estimators)])  # fmt: skip
        moments = lambda x: (jnp.mean(x, axis=0), jnp.var(x, axis=0) / count)  # noqa: E731
        return jax.tree.map(moments, a), jax.tree.map(moments, b)

    is_pair = lambda x: isinstance(x, tuple)  # noqa: E731
    first, second = (jax.tree.leaves(tree, is_leaf=is_pair) for tree in differences(params))
    for (mean, variance), (other, other_variance) in zip(first, second, strict=True):
        assert np.abs((mean - other) / np.sqrt(variance + other_variance + 1e-12)).max() < 5
        assert np.abs(mean / np.sqrt(variance + 1e-12)).max() > 10


@pytest.mark.parametrize(("prior", "posterior"), [("vamp", "gaussian"), ("coupling", "iaf")])
def test_eight_devices_compute_what_one_does(prior, posterior):
    model, _, params = pair_model(prior, posterior)
    batch, results = binary_batch(), []
    loss = functools.partial(bound.negative_bound, model=model, objective=iwae, num_samples=2)
    step = jax.jit(jax.value_and_grad(loss, has_aux=True))
    for devices in (1, 8):
        mesh = sharding.make_mesh(devices)
        placed = jax.device_put(batch, sharding.batch_sharding(mesh))
        replicated = jax.device_put((params, KEY), sharding.replicated(mesh))
        results.append(jax.device_get(step(*replicated, placed)))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), *results)


def test_the_exported_programs_contain_the_flows():
    model, _, params = pair_model("autoregressive", "iaf")
    programs = export.export_programs(params, model=model, shape=SHAPE, value_range=(0, 1))
    keys, x = jax.random.split(KEY, 3), binary_batch(3)["x"]
    found = programs["sampler"].call(jax.random.key_data(keys))
    expected = jax.jit(functools.partial(export.sample, model=model, value_range=(0, 1)))(params, keys)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    codes = programs["encoder"].call(x)
    evidence = model.apply({"params": params}, {"x": x}, method="encode")
    np.testing.assert_allclose(codes["mean"], evidence.mean(), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(codes["scale"], evidence.stddev(), rtol=1e-4, atol=1e-5)


def test_means_and_samples_of_the_posterior_are_values_of_the_layer():
    model, _, params = pair_model("coupling", "iaf")

    @jax.jit
    def walks(params):
        evidence = model.apply({"params": params}, binary_batch(3), method="encode")
        draws = (from_means(), from_posterior(KEY, 3, 4))
        return [model.apply({"params": params}, draw, evidence, method="decode")[1][0] for draw in draws]

    for latent, lead in zip(walks(params), ((3,), (4, 3)), strict=True):
        assert latent.z.shape == (*lead, D)
        assert latent.log_p.shape == lead
        assert latent.kl is None
