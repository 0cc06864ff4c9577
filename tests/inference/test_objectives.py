"""Every registered objective: its settings, shapes, dependence on other examples, NumPy oracles, exact posterior."""

import dataclasses
import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jitted import negative_bound, sample_terms
from linear_gaussian import SCALE, exact_model, images
from random_terms import BATCH_OBJECTIVES, NUM_EXAMPLES, SETTINGS, B, change_layer, objective_named, terms_for
from scipy import stats

from vae_jax.config import Config, apply_overrides, choice, choices, register, setting, validate
from vae_jax.errors import InputError
from vae_jax.inference import aggregate, elbos, importance
from vae_jax.inference.objectives import ObjectiveConfig, WeightedConfig
from vae_jax.inference.terms import Pair

OBJECTIVES = choices("objective")
EVERY = [pytest.param(name, objective_named(name), id=name) for name in OBJECTIVES]
FUNCTIONS = {
    "reconstruction": elbos.reconstruction,
    "elbo": elbos.elbo,
    "sampled-elbo": elbos.sampled_elbo,
    "free-bits": elbos.free_bits,
    "capacity": elbos.capacity,
    "beta-tc": aggregate.beta_tc,
    "info-vae": aggregate.info_vae,
    "iwae": importance.iwae,
    "renyi": importance.renyi,
    "miwae": importance.miwae,
    "ciwae": importance.ciwae,
    "piwae": Pair(importance.iwae, importance.miwae),
    "cubo": Pair(importance.iwae, importance.negative_cubo),
}
# Objectives that equal log p(x) for the exact posterior.
BOUNDS = {
    "sampled-elbo": {},
    "iwae": {},
    "renyi": {"alpha": 0.5},
    "miwae": {"num_inner_samples": 2},
    "ciwae": {"elbo_weight": 0.5},
    "piwae": {"num_inner_samples": 2},
    "cubo": {"order": 2.0},
    "beta-tc": {"beta": 1.0},
}


@functools.cache
def jacobian(name, objective):
    """Return the derivatives of the bound of each example with respect to every term."""
    return jax.jit(jax.jacobian(objective))(terms_for(name))


@pytest.mark.parametrize(("name", "objective"), EVERY)
def test_one_value_per_example_that_depends_on_that_examples_terms_alone(name, objective):
    assert objective(terms_for(name)).shape == (B,)
    found = jacobian(name, objective)
    terms = [(latent.log_p, latent.log_q, latent.kl) for latent in found.latents]
    for leaf in jax.tree.leaves((found.log_px_z, terms)):  # [B, K, B] or [B, B]
        across = np.asarray(leaf).reshape(B, -1, B) * (1 - np.eye(B))[:, None, :]
        assert np.all(across == 0)
    assert np.any(np.asarray(found.log_px_z) != 0)


@pytest.mark.parametrize(("name", "objective"), EVERY)
def test_only_two_objectives_depend_on_the_codes_of_other_examples(name, objective):
    codes = jacobian(name, objective).latents[0]  # z [B, K, B, D], posterior.loc [B, B, D]
    rows = np.concatenate([codes.z.sum(axis=1), codes.posterior.loc], axis=-1)  # [B, B, 2D]
    across = rows * (1 - np.eye(B))[:, :, None]
    assert np.any(across != 0) == (name in BATCH_OBJECTIVES)


@pytest.mark.parametrize(("name", "objective"), EVERY)
def test_jit_equals_eager_and_traces_once(name, objective):
    traced = jax.jit(objective)
    for seed in range(2):
        terms = terms_for(name, seed)
        np.testing.assert_allclose(traced(terms), objective(terms), rtol=1e-6)
    assert traced._cache_size() == 1


@pytest.mark.parametrize(("name", "objective"), EVERY)
def test_wrong_shapes_are_refused(name, objective):
    terms = terms_for(name)
    with pytest.raises(AssertionError):
        objective(terms._replace(log_px_z=terms.log_px_z[0]))
    for layer, latent in enumerate(terms.latents):
        for field in ("log_p", "log_q", "kl"):
            with pytest.raises(AssertionError):
                objective(change_layer(terms, layer, **{field: getattr(latent, field)[..., :1]}))


def log_mean(powers, axis=0):
    """Return log of the mean of exp, in the precision of NumPy's long doubles."""
    return np.log(np.exp(powers.astype(np.longdouble)).mean(axis)).astype(np.float64)


def decomposition_in_numpy(terms, num_examples):
    """Return log q(z_i) and Σ_d log q(z_id), each [K, B], with a loop over the components of the mixture."""
    (codes,) = terms.latents
    z, m, s = (np.asarray(t, np.float64) for t in (codes.z, codes.posterior.loc, np.exp(codes.posterior.log_scale)))
    k, b, d = z.shape
    joint, alone = np.zeros((k, b)), np.zeros((k, b, d))
    for i in range(b):
        for j in range(b):
            weight = 1 / num_examples if i == j else (num_examples - 1) / num_examples / (b - 1)
            densities = stats.norm.pdf(z[:, i], m[j], s[j])  # [K, D]
            joint[:, i] += weight * densities.prod(axis=-1)
            alone[:, i] += weight * densities
    return np.log(joint), np.log(alone).sum(axis=-1)


def mmd_in_numpy(z):
    """Return the kernel's mean over other codes, minus twice that over p, plus that over p and p; mean over K, [B]."""
    z = np.asarray(z, np.float64)
    k, b, d = z.shape
    kernel = lambda distance: np.exp(-0.5 * distance**2 / d)  # noqa: E731  of one dimension
    y = np.linspace(-9, 9, 4001)
    weight = stats.norm.pdf(y) * (y[1] - y[0])
    other = [[np.mean([kernel(z[l, i] - z[l, j]).prod() for j in range(b) if j != i]) for i in range(b)]
             for l in range(k)]  # fmt: skip
    prior = (kernel(z[..., None] - y) * weight).sum(-1).prod(-1)
    within = (kernel(y[:, None] - y) * weight * weight[:, None]).sum() ** d
    return (np.asarray(other) - 2 * prior).mean(axis=0) + within


def in_numpy(terms):
    """Return log p(x|z), log p(z) and log q(z|x), each [K, B], and the KL of all layers, [B]."""
    columns = ([getattr(latent, name) for latent in terms.latents] for name in ("log_p", "log_q"))
    log_p, log_q = (np.sum(np.asarray(column, np.float64), axis=0) for column in columns)
    first, *others = (np.asarray(latent.kl, np.float64) for latent in terms.latents)
    return np.asarray(terms.log_px_z, np.float64), log_p, log_q, first + sum(kl.mean(axis=0) for kl in others)


@pytest.mark.parametrize(("spread", "seed"), [(0.01, 0), (1.0, 1), (5.0, 2)])
def test_against_a_computation_in_numpy(spread, seed):
    x, pz, qz, kl = in_numpy(terms_for("elbo", seed, spread=spread))
    w = x + pz - qz
    single = terms_for("beta-tc", seed, spread=spread)  # of one layer
    x1, pz1, qz1, kl1 = in_numpy(single)
    joint, alone = decomposition_in_numpy(single, 10)
    weighted = {
        "elbo": x.mean(0) - 0.5 * kl,
        "sampled-elbo": (x + 0.5 * (pz - qz)).mean(0),
        "free-bits": x.mean(0) - 0.5 * np.maximum(kl, 1.0),
        "capacity": x.mean(0) - 0.5 * np.abs(kl - 2.0),
        "beta-tc": (x1 - (qz1 - joint) - 0.5 * (joint - alone) - (alone - pz1)).mean(0),
        "info-vae": x1.mean(0) - 0.5 * kl1 - 20 * mmd_in_numpy(single.latents[0].z),
    }
    expected = weighted | {
        "reconstruction": x.mean(0),
        "iwae": log_mean(w),
        "renyi": log_mean(0.7 * w) / 0.7,
        "miwae": log_mean(w.reshape(3, 2, B), axis=1).mean(0),
        "ciwae": 0.25 * w.mean(0) + 0.75 * log_mean(w),
        "piwae": log_mean(w),
        "cubo": log_mean(w),
    }
    assert set(expected) == set(OBJECTIVES)
    for name, value in expected.items():
        objective = objective_named(name, **({"beta": 0.5} if name in weighted else {}))
        terms = terms_for(name, seed, spread=spread)
        np.testing.assert_allclose(objective(terms), value, rtol=1e-5, err_msg=name)
    terms = terms_for("iwae", seed, spread=spread)
    for order in (1.0, 2.0, 3.5):
        np.testing.assert_allclose(importance.cubo(terms, order=order), log_mean(order * w) / order, rtol=1e-5)
    for alpha in (-2.0, 0.0, 0.5, 0.999, 1.001, 2.0, 5.0):
        power = (1 - alpha) * w
        np.testing.assert_allclose(importance.renyi(terms, alpha=alpha), log_mean(power) / (1 - alpha), rtol=1e-5)


def parts(objective):
    """Return (function, keyword arguments) for an objective, and for both objectives of a pair."""
    if isinstance(objective, Pair):
        return parts(objective.generative) + parts(objective.inference)
    return [(objective.func, objective.keywords)] if isinstance(objective, functools.partial) else [(objective, {})]


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_settings_of_each_objective_are_the_arguments_of_its_function(name):
    config = OBJECTIVES[name](**SETTINGS.get(name, {}))
    found = parts(objective_named(name))
    assert [function for function, _ in found] == [function for function, _ in parts(FUNCTIONS[name])]
    arguments = {}
    for function, keywords in found:
        parameters = inspect.signature(function).parameters.values()
        assert set(keywords) == {p.name for p in parameters if p.kind == p.KEYWORD_ONLY}
        arguments |= keywords
    settings = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    rest = {key: value for key, value in settings.items() if key not in ("num_samples", "warmup_steps")}
    assert arguments == rest | ({"num_examples": NUM_EXAMPLES} if name == "beta-tc" else {})


def test_objectives_state_what_a_run_must_know_of_them():
    assert set(OBJECTIVES) == set(FUNCTIONS)
    assert {name for name, cls in OBJECTIVES.items() if cls().compares_examples} == BATCH_OBJECTIVES
    assert {name for name, cls in OBJECTIVES.items() if cls.needs_single_layer} == BATCH_OBJECTIVES
    assert {name for name, cls in OBJECTIVES.items() if not cls.needs_density} == {"reconstruction"}
    metrics = {name: cls.validation_metric for name, cls in OBJECTIVES.items()}
    assert metrics == dict.fromkeys(OBJECTIVES, "elbo") | {"reconstruction": "reconstruction"}


class TestWarmUp:
    @pytest.mark.parametrize(("step", "weight"), [(0, 0.2), (4, 1.0), (99, 1.0)])
    @pytest.mark.parametrize("name", ["elbo", "sampled-elbo", "free-bits", "beta-tc", "info-vae"])
    def test_the_weight_rises_linearly(self, name, step, weight):
        terms = terms_for(name)
        expected = objective_named(name, beta=2 * weight)(terms)
        found = objective_named(name, beta=2.0, warmup_steps=5, step=step)(terms)
        np.testing.assert_allclose(found, expected, rtol=1e-6)

    def test_the_capacity_rises_and_its_weight_does_not(self):
        terms = terms_for("capacity")
        found = objective_named("capacity", beta=3.0, capacity=10.0, warmup_steps=4, step=1)(terms)
        np.testing.assert_allclose(found, elbos.capacity(terms, capacity=5.0, beta=3.0), rtol=1e-6)


def test_beta_tc_uses_the_number_of_examples():
    terms = terms_for("beta-tc")
    few, many = (objective_named("beta-tc", num_examples=n)(terms) for n in (10, 10_000))
    assert np.abs(few - many).min() > 1e-3


@pytest.mark.parametrize(
    "settings",
    [
        {"name": "elbo", "beta": 0.5, "warmup_steps": 4},
        {"name": "capacity", "beta": 0.5, "capacity": 3.0, "warmup_steps": 4},
        {"name": "free-bits", "free_bits": 2.0},
        {"name": "ciwae", "elbo_weight": 0.3},
        {"name": "info-vae", "mmd_weight": 7.0},
    ],
    ids=lambda settings: settings["name"],
)
def test_numbers_and_the_step_may_be_known_only_inside_a_program(settings):
    """A sweep trains models that differ in these numbers in one program."""
    name, warmup = settings["name"], {k: v for k, v in settings.items() if k == "warmup_steps"}
    numbers = {key: value for key, value in settings.items() if key not in ("name", "warmup_steps")}
    terms = terms_for(name)

    @jax.jit
    def traced(numbers, step):
        return choice("objective", name, **warmup, **numbers).at(step, NUM_EXAMPLES)(terms)

    expected = choice("objective", name, **warmup, **numbers).at(jnp.asarray(1), NUM_EXAMPLES)(terms)
    np.testing.assert_allclose(traced(numbers, jnp.asarray(1)), expected, rtol=1e-6)


def test_a_user_defined_objective_has_settings_and_a_warm_up():
    name = "test-squared-elbo"
    try:

        @register("objective", name)
        @dataclasses.dataclass(frozen=True)
        class SquaredConfig(WeightedConfig):
            power: float = setting(2.0, "Power of the KL.", minimum=1)

            def at(self, step, num_examples):
                del num_examples
                return lambda terms: elbos.reconstruction(terms) - self.weight(step) * terms.kl.sum(0) ** self.power

        config = apply_overrides(Config(), {"objective": name, "objective.power": 3.0, "objective.beta": 0.5})
        terms = terms_for("elbo")
        expected = elbos.reconstruction(terms) - 0.5 * terms.kl.sum(0) ** 3
        np.testing.assert_allclose(config.objective.at(jnp.asarray(0), 1)(terms), expected, rtol=1e-6)
        with pytest.raises(InputError, match=r"^objective\.power=0\.5 must be at least 1$"):
            apply_overrides(Config(), {"objective": name, "objective.power": 0.5})
    finally:
        OBJECTIVES.pop(name, None)


def test_an_objective_without_its_function_is_refused():
    with pytest.raises(NotImplementedError, match=r"^ObjectiveConfig has no method `at`; return a function"):
        ObjectiveConfig().at(jnp.asarray(0), 1)


@pytest.mark.parametrize(
    ("name", "field", "value", "allowed"),
    [
        ("elbo", "beta", -0.1, "at least 0"),
        ("elbo", "num_samples", 0, "greater than 0"),
        ("ciwae", "elbo_weight", 1.5, "at least 0 and at most 1"),
        ("cubo", "order", 0.5, "at least 1"),
        ("renyi", "alpha", -0.5, "at least 0"),
        ("info-vae", "mmd_weight", -1.0, "at least 0"),
    ],
)
def test_settings_out_of_range_are_refused(name, field, value, allowed):
    config = dataclasses.replace(Config(), objective=choices("objective")[name](**{field: value}))
    with pytest.raises(InputError, match=rf"^objective\.{field}={value} must be {allowed}$"):
        validate(config)


def bound_named(name):
    return choice("objective", name, **BOUNDS[name]).at(jnp.asarray(0), 100)


def log_evidence(params, x):
    """Return log N(x; b, W Wᵀ + σ² I) of the linear decoder, [B], differentiable."""
    weights, offset = params["decoder"]["Dense_0"]["kernel"], params["output_bias"].reshape(-1)  # [D, P], [P]
    covariance = weights.T @ weights + SCALE**2 * jnp.eye(len(offset))
    density = lambda row: jax.scipy.stats.multivariate_normal.logpdf(row, offset, covariance)  # noqa: E731
    return jax.vmap(density)(x.reshape(len(x), -1))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", BOUNDS)
def test_with_the_exact_posterior_every_bound_is_the_evidence(name):
    model, params, evidence = exact_model()
    x = images()
    terms = sample_terms(params, jax.random.key(0), x, model=model, num_samples=4)
    objective = bound_named(name)
    np.testing.assert_allclose(objective(terms), evidence(x), rtol=1e-9)
    if isinstance(objective, Pair):
        np.testing.assert_allclose(np.abs(objective.inference(terms)), np.abs(evidence(x)), rtol=1e-9)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", BOUNDS)
def test_with_the_exact_posterior_every_expected_gradient_is_that_of_the_evidence(name):
    model, params, _ = exact_model()
    x = images()
    decoder = ("decoder", "output_bias")
    exact = jax.grad(lambda p: log_evidence(p, x).mean())(params)
    loss = functools.partial(negative_bound, model=model, objective=bound_named(name), num_samples=4)
    gradient = jax.grad(lambda p, key: -loss(p, key, x)[0])
    found = jax.jit(jax.vmap(gradient, in_axes=(None, 0)))(params, jax.random.split(jax.random.key(0), 4000))
    for part in params:
        target = exact[part] if part in decoder else jax.tree.map(jnp.zeros_like, params[part])  # q is optimal
        for each, truth in zip(jax.tree.leaves(found[part]), jax.tree.leaves(target), strict=True):
            error = each.std(axis=0) / np.sqrt(len(each))
            np.testing.assert_array_less(np.abs(each.mean(axis=0) - truth), 5 * error + 1e-12)
            assert part not in decoder or np.all(error < 0.1 * np.abs(truth).max())  # the test can detect a difference
