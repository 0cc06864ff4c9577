"""vae_jax/inference/annealing.py: exact log-likelihoods, weights of mean one, bounds that meet, and acceptance."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from code_models import code_config
from families import FAMILIES, batch_for
from jitted import sample_terms
from ladders import MLP, ladder
from linear_gaussian import images, shifted_model
from small_model import binary_images, small_model
from two_layer_gaussian import move_posterior, two_layer_model

from vae_jax import random
from vae_jax.distributions import from_values
from vae_jax.errors import InputError
from vae_jax.inference import annealing, decode
from vae_jax.inference.annealing import Annealing
from vae_jax.inference.terms import log_weights
from vae_jax.models.build import build_model

STATIC = ("model", "settings")
estimate = jax.jit(annealing.annealed_log_likelihood, static_argnames=STATIC)
bounds = jax.jit(annealing.bidirectional_bounds, static_argnames=STATIC)


def single(params):
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), params)


@pytest.fixture(scope="module")
def gaussian():
    model, params, evidence, _ = shifted_model()
    return model, single(params), evidence


def test_the_schedule_goes_from_zero_to_one_with_small_steps_at_both_ends():
    times = annealing.schedule(100)
    assert (len(times), times[0], times[-1]) == (101, 0, 1)
    steps = np.diff(times)
    assert (steps > 0).all()
    np.testing.assert_allclose(steps, steps[::-1], rtol=1e-4)
    assert steps[0] < 0.2 / 100 < 1.5 / 100 < steps[50]
    assert annealing.schedule(1).tolist() == [0, 1]


@pytest.mark.parametrize("start", ["encoder", pytest.param("prior", marks=pytest.mark.thorough)])
def test_the_estimate_is_the_exact_log_likelihood_within_its_error(gaussian, start):
    model, params, evidence = gaussian
    x = np.asarray(images(16), np.float32)
    settings = Annealing(num_distributions=30, num_chains=24, start=start, num_leapfrog=4)
    found = estimate(params, jax.random.key(0), {"x": x}, model=model, settings=settings)
    deviation = (np.asarray(found.log_px, np.float64) - evidence(x)) / np.asarray(found.error)
    assert np.abs(deviation).max() < 5
    assert np.abs(deviation.mean()) < 4 / np.sqrt(16)
    assert np.asarray(found.error).max() < 0.5
    acceptance = np.asarray(found.acceptance).mean(axis=1)  # of each transition
    assert acceptance.shape == (29,)
    assert 0.5 < acceptance.min() < acceptance.max() < 0.8


def test_several_layers_have_their_exact_log_likelihood():
    model, params, evidence = two_layer_model()
    x = np.asarray(images(12), np.float32)
    settings = Annealing(num_distributions=30, num_chains=24, num_leapfrog=4)
    found = estimate(single(move_posterior(params)), jax.random.key(0), {"x": x}, model=model, settings=settings)
    assert np.abs((np.asarray(found.log_px) - evidence(x)) / np.asarray(found.error)).max() < 5


def log_likelihood_by_quadrature(model, params, x, *, width=6.0, count=121):
    """Return log ∫ p(z) p(x|z) dz of a model of two latents, [B], on a grid."""
    grid = np.linspace(-width, width, count)
    z = np.stack(np.meshgrid(grid, grid), axis=-1).reshape(-1, 2)

    @jax.jit
    def log_px_z(z):
        p_x, layers = decode(params, from_values({"z": jnp.broadcast_to(z[:, None], (len(z), len(x), 2))}), model=model)
        return p_x.log_prob(x) + layers["z"].log_p

    values = np.asarray(log_px_z(jnp.asarray(z, jnp.float32)), np.float64)
    return np.log(np.exp(values - values.max(0)).sum(0) * (grid[1] - grid[0]) ** 2) + values.max(0)


@pytest.mark.parametrize("start", ["encoder", pytest.param("prior", marks=pytest.mark.thorough)])
def test_the_weights_have_mean_p_of_x(start):
    """The model is no Gaussian one; its p(x) is an integral over two latents. Many chains, few distributions."""
    model, params = small_model(model__latent_dim=2)
    params = params | {"decoder": jax.tree.map(lambda leaf: 2 * leaf, params["decoder"])}
    x = binary_images(4)
    settings = Annealing(num_distributions=4, num_chains=4000, start=start, num_leapfrog=2, num_pilot=8)
    found = estimate(params, jax.random.key(2), {"x": x}, model=model, settings=settings)
    ratio = np.exp(np.asarray(found.log_px, np.float64) - log_likelihood_by_quadrature(model, params, x))
    assert np.abs(ratio - 1).max() < 5 * np.asarray(found.error).max()
    assert np.asarray(found.error).max() < 0.1
    assert (np.asarray(found.ess) < 3999).all()


def test_one_distribution_is_importance_sampling(gaussian):
    model, params, _ = gaussian
    x = np.asarray(images(5), np.float32)
    found = estimate(params, jax.random.key(3), {"x": x}, model=model, settings=Annealing(1, num_chains=6))
    keys = random.fold_in(random.fold_in(random.example_keys(jax.random.key(3), 5), annealing._FORWARD), 0)
    w = np.exp(np.asarray(log_weights(sample_terms(params, keys, x, model=model, num_samples=6)), np.float64))
    np.testing.assert_allclose(found.log_px, np.log(w.mean(0)), rtol=1e-5)
    np.testing.assert_allclose(found.error, w.std(0, ddof=1) / w.mean(0) / np.sqrt(6), rtol=1e-3)
    np.testing.assert_allclose(found.ess, w.sum(0) ** 2 / (w**2).sum(0), rtol=1e-3)
    assert found.acceptance.shape == (0, 5)


def test_the_bounds_meet_as_the_number_of_distributions_grows(gaussian):
    model, params, _ = gaussian
    gaps = []
    for count in (1, 30):
        settings = Annealing(count, num_chains=4, start="prior", num_leapfrog=4, num_pilot=8)
        lower, upper = bounds(params, jax.random.key(0), {"x": images(64)}, model=model, settings=settings)
        gaps.append(float(np.mean(upper.log_px - lower.log_px)))
    assert gaps[0] > 1
    assert -0.1 < gaps[1] < 0.3


def test_blocks_of_a_hierarchy_keep_their_values():
    model, params = ladder((6,), **MLP, likelihood="gaussian", preprocess="identity")
    x = jnp.asarray(np.random.default_rng(0).normal(size=(3, 6)), jnp.float32)
    keys = random.example_keys(jax.random.key(0), 3)
    path = annealing._Path(params, keys, {"x": x}, model, Annealing(start="prior"))
    assert path.blocks
    values = {
        name: np.arange(np.prod(shape.shape) * 2, dtype=np.float32).reshape(
            *((shape.shape[0], 2, *shape.shape[2:]) if name in path.blocks else (2, *shape.shape[1:]))
        )
        for name, shape in path.shapes.items()
    }
    for name, z in path._unflatten(path._flatten(values)).items():
        np.testing.assert_array_equal(z, values[name])


@pytest.mark.thorough
def test_a_hierarchy_has_bounds():
    model, params = ladder((6,), **MLP, likelihood="gaussian", preprocess="identity")
    x = jnp.zeros((3, 6))
    settings = Annealing(3, num_chains=2, num_leapfrog=2, num_pilot=2)
    lower, upper = bounds(params, jax.random.key(1), {"x": x}, model=model, settings=settings)
    assert np.isfinite([lower.log_px, upper.log_px]).all()
    assert lower.acceptance.shape == (2, 3)


def test_an_example_does_not_depend_on_the_others(gaussian):
    model, params, _ = gaussian
    x, keys = np.asarray(images(4), np.float32), random.example_keys(jax.random.key(0), 4)
    settings = Annealing(4, num_chains=3, num_leapfrog=2, num_pilot=2)
    together = estimate(params, keys, {"x": x}, model=model, settings=settings)
    alone = estimate(params, keys[2:], {"x": x[2:]}, model=model, settings=settings)
    np.testing.assert_allclose(together.log_px[2:], alone.log_px, rtol=1e-4)


def of_codes(prior):
    return build_model(code_config(prior=prior), (4, 4, 1)), {"x": jnp.zeros((2, 4, 4, 1))}


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: (FAMILIES["partly labelled"], batch_for(FAMILIES["partly labelled"])), "y"),
        *((functools.partial(of_codes, f"{kind}-codes"), "z") for kind in ("uniform", "categorical", "transformer")),
    ],
)
def test_a_discrete_layer_is_refused(make, name):
    model, batch = make()
    params = jax.eval_shape(model.init, jax.random.key(0), batch)["params"]
    with pytest.raises(InputError, match=rf"^layer '{name}' is discrete, .* use importance sampling"):
        jax.eval_shape(functools.partial(annealing.annealed_log_likelihood, model=model, settings=Annealing(2)),
                       params, jax.random.key(0), batch)  # fmt: skip


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"start": "enocder"}, "start=enocder must be encoder or prior"),
        ({"num_distributions": 0}, "num_distributions=0 must be 1 or more"),
        ({"num_leapfrog": 0}, "num_leapfrog=0"),
        ({"num_chains": 0}, "num_chains=0"),
        ({"num_pilot": 0}, "num_pilot=0"),
    ],
)
def test_wrong_settings_are_refused(wrong, text):
    with pytest.raises(InputError, match=text):
        Annealing(**wrong)


def test_parameters_of_32_bits_are_possible_where_64_are_enabled(gaussian):
    model, params, _ = gaussian
    x, settings = np.asarray(images(2), np.float32), Annealing(3, num_chains=2, num_leapfrog=2, num_pilot=2)
    with jax.enable_x64(True):
        found = estimate(params, jax.random.key(0), {"x": x}, model=model, settings=settings)
        assert found.acceptance.dtype == jnp.float32
    assert np.isfinite(found.log_px).all()
