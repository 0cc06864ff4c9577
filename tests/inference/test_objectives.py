import functools
import inspect
import typing

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from vae_jax.config.schema import OBJECTIVE_SETTINGS, ObjectiveConfig
from vae_jax.distributions.normal import Normal, standard_normal
from vae_jax.inference import aggregate, elbos, importance
from vae_jax.inference.objectives import OBJECTIVES
from vae_jax.inference.terms import Codes, Pair, Terms, bind

K, B, L, D = 6, 4, 2, 3
SETTINGS = {
    "free-bits": {"free_bits": 1.0},
    "capacity": {"capacity": 2.0},
    "renyi": {"alpha": 0.3},
    "miwae": {"num_inner_samples": 2},
    "piwae": {"num_inner_samples": 2},
    "ciwae": {"elbo_weight": 0.25},
    "cubo": {"order": 3.0},
    "beta-tc": {"num_examples": 10, "beta": 4.0},
    "info-vae": {"mmd_weight": 20.0},
}
WHOLE_BATCH = {"beta-tc", "info-vae"}
EVERY = [pytest.param(bind(f, **SETTINGS.get(name, {})), id=name) for name, f in OBJECTIVES.items()]


def random_terms(seed=0, shape=(K, B), layers=L, spread=1.0):
    rng = np.random.default_rng(seed)
    draw = lambda *s: jnp.asarray(spread * rng.normal(size=s), jnp.float32)  # noqa: E731
    terms = Terms(draw(*shape) - 50, draw(*shape), draw(*shape), jnp.abs(draw(layers, shape[1])) * 3)
    q = Normal(draw(shape[1], D), 0.3 * draw(shape[1], D))
    return terms._replace(codes=Codes(draw(*shape, D), q, standard_normal((D,))))


@functools.cache
def jacobian(objective):
    """Derivatives of the bound of each example to all that is in the terms."""
    return jax.jit(jax.jacobian(objective))(random_terms())


@pytest.mark.parametrize("objective", EVERY)
def test_one_value_per_example_that_depends_on_that_examples_terms_alone(objective):
    assert objective(random_terms()).shape == (B,)
    found = jacobian(objective)
    for leaf in jax.tree.leaves(found._replace(codes=None)):  # [B, K or L, B]
        across = np.asarray(leaf) * (1 - np.eye(B))[:, None, :]
        assert np.all(across == 0)
    assert np.any(np.asarray(found.log_px_z) != 0)


@pytest.mark.parametrize(("name", "objective"), [(p.id, *p.values) for p in EVERY])
def test_only_two_objectives_look_at_the_other_examples(name, objective):
    codes = jacobian(objective).codes  # z [B, K, B, D], posterior.loc [B, B, D]
    rows = np.concatenate([codes.z.sum(axis=1), codes.posterior.loc], axis=-1)  # [B, B, 2D]
    across = rows * (1 - np.eye(B))[:, :, None]
    assert np.any(across != 0) == (name in WHOLE_BATCH)


@pytest.mark.parametrize("objective", EVERY)
def test_jit_equals_eager_and_traces_once(objective):
    traced = jax.jit(objective)
    for seed in range(2):
        terms = random_terms(seed)
        np.testing.assert_allclose(traced(terms), objective(terms), rtol=1e-6)
    assert traced._cache_size() == 1


@pytest.mark.parametrize("objective", EVERY)
def test_wrong_shapes_are_refused(objective):
    terms = random_terms()
    with pytest.raises(AssertionError):
        objective(terms._replace(log_px_z=terms.log_px_z[0]))
    with pytest.raises(AssertionError):
        objective(terms._replace(log_pz=terms.log_pz[:, :1]))
    with pytest.raises(AssertionError):
        objective(terms._replace(kl=terms.kl[:, :1]))


def log_mean(powers, axis=0):
    """log of the mean of exp, in the precision of NumPy's long doubles."""
    return np.log(np.exp(powers.astype(np.longdouble)).mean(axis)).astype(np.float64)


def decomposition_in_numpy(codes, num_examples):
    """(log q(z_i), Σ_d log q(z_id)), each [K, B], one term of the mixture after another."""
    z, m, s = (np.asarray(t, np.float64) for t in (codes.z, codes.posterior.loc, np.exp(codes.posterior.log_scale)))
    k, b, d = z.shape
    joint, alone = np.zeros((k, b)), np.zeros((k, b, d))
    for i in range(b):
        for j in range(b):
            share = 1 / num_examples if i == j else (num_examples - 1) / num_examples / (b - 1)
            densities = stats.norm.pdf(z[:, i], m[j], s[j])  # [K, D]
            joint[:, i] += share * densities.prod(axis=-1)
            alone[:, i] += share * densities
    return np.log(joint), np.log(alone).sum(axis=-1)


def mmd_in_numpy(z):
    """[B]: the mean over K of the kernel's mean over other codes, minus twice that over p, plus that over p and p."""
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


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("spread", [0.01, 1.0, 5.0])
def test_against_a_computation_in_numpy(spread, seed):
    terms = random_terms(seed, spread=spread)
    x, pz, qz, kl = (np.asarray(t, np.float64) for t in terms[:4])
    w = x + pz - qz
    joint, alone = decomposition_in_numpy(terms.codes, 10)
    weighted = {
        "elbo": x.mean(0) - 0.5 * kl.sum(0),
        "sampled-elbo": (x + 0.5 * (pz - qz)).mean(0),
        "free-bits": x.mean(0) - 0.5 * np.maximum(kl.sum(0), 1.0),
        "capacity": x.mean(0) - 0.5 * np.abs(kl.sum(0) - 2.0),
        "beta-tc": (x - (qz - joint) - 0.5 * (joint - alone) - (alone - pz)).mean(0),
        "info-vae": x.mean(0) - 0.5 * kl.sum(0) - 20 * mmd_in_numpy(terms.codes.z),
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
        settings = SETTINGS.get(name, {}) | ({"beta": 0.5} if name in weighted else {})
        np.testing.assert_allclose(bind(OBJECTIVES[name], **settings)(terms), value, rtol=1e-5, err_msg=name)
    for order in (1.0, 2.0, 3.5):
        np.testing.assert_allclose(importance.cubo(terms, order=order), log_mean(order * w) / order, rtol=1e-5)
    for alpha in (-2.0, 0.0, 0.5, 0.999, 1.001, 2.0, 5.0):
        power = (1 - alpha) * w
        np.testing.assert_allclose(importance.renyi(terms, alpha=alpha), log_mean(power) / (1 - alpha), rtol=1e-5)


def test_the_names_of_config_are_those_of_the_registry_and_its_settings_are_the_functions_own():
    assert typing.get_args(typing.get_type_hints(ObjectiveConfig)["name"]) == tuple(OBJECTIVE_SETTINGS)
    assert set(OBJECTIVE_SETTINGS) == set(OBJECTIVES)
    for name, objective in OBJECTIVES.items():
        function = objective.inference if isinstance(objective, Pair) else objective
        keywords = [p.name for p in inspect.signature(function).parameters.values() if p.kind == p.KEYWORD_ONLY]
        assert set(keywords) - {"num_examples"} == set(OBJECTIVE_SETTINGS[name]), name


def test_a_pair_binds_its_settings_to_the_encoders_side_and_has_the_decoders_value():
    terms = random_terms()
    piwae, cubo = bind(OBJECTIVES["piwae"], num_inner_samples=3), bind(OBJECTIVES["cubo"], order=2.0)
    np.testing.assert_array_equal(piwae.inference(terms), importance.miwae(terms, num_inner_samples=3))
    np.testing.assert_array_equal(cubo.inference(terms), -importance.cubo(terms, order=2.0))
    for pair in (piwae, cubo):
        np.testing.assert_array_equal(pair(terms), importance.iwae(terms))


def test_identities_of_the_importance_weighted_bounds():
    terms = random_terms(spread=2.0)
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6)  # noqa: E731
    mean, iwae = elbos.sampled_elbo(terms), importance.iwae(terms)
    close(importance.renyi(terms, alpha=0.0), iwae)
    np.testing.assert_array_equal(importance.renyi(terms, alpha=1.0), mean)
    for alpha in (1 - 1e-6, 1 + 1e-6):
        close(importance.renyi(terms, alpha=alpha), mean)
    close(importance.cubo(terms, order=1.0), iwae)
    close(importance.cubo(terms, order=2.0), importance.renyi(terms, alpha=-1.0))
    close(importance.miwae(terms, num_inner_samples=1), mean)
    close(importance.miwae(terms, num_inner_samples=K), iwae)
    close(importance.ciwae(terms, elbo_weight=1.0), mean)
    close(importance.ciwae(terms, elbo_weight=0.0), iwae)
    one = jax.tree.map(lambda t: t[:1], terms._replace(codes=None))
    for objective in (importance.iwae, bind(importance.renyi, alpha=0.4), bind(importance.cubo, order=2.0)):
        close(objective(one), terms.log_weights(one)[0])


def test_order_of_the_bounds():
    terms = random_terms(spread=2.0)
    renyi = [importance.renyi(terms, alpha=alpha) for alpha in (3.0, 1.0, 0.5, 0.0, -1.0, -5.0)]
    miwae = [importance.miwae(terms, num_inner_samples=n) for n in (1, 2, 3, 6)]
    assert np.all(np.diff(renyi, axis=0) > 0)
    assert np.all(np.diff([miwae[0], miwae[2], miwae[3]], axis=0) > 0)
    assert np.all(np.diff([miwae[0], miwae[1], miwae[3]], axis=0) > 0)


def test_extreme_weights_give_finite_values_and_gradients():
    terms = random_terms(spread=300.0)._replace(kl=jnp.ones((L, B)))
    for name in ("iwae", "renyi", "miwae", "ciwae", "cubo"):
        objective = bind(OBJECTIVES[name], **SETTINGS.get(name, {}))
        objective = objective.inference if isinstance(objective, Pair) else objective
        value, gradient = jax.value_and_grad(lambda log_px_z, f=objective: f(terms._replace(log_px_z=log_px_z)).sum())(
            terms.log_px_z
        )
        assert np.isfinite(value)
        assert np.all(np.isfinite(gradient))
        np.testing.assert_allclose(np.abs(gradient).sum(axis=0), 1.0, rtol=1e-5)  # a shift of log p(x) shifts the bound


def test_samples_that_cannot_be_split_are_refused():
    with pytest.raises(ValueError, match="num_inner_samples=4 must divide the 6 samples"):
        importance.miwae(random_terms(), num_inner_samples=4)


class TestWholeBatch:
    def test_the_parts_of_the_kl_sum_to_it(self):
        terms = random_terms()
        parts = aggregate.kl_decomposition(terms, num_examples=10)
        np.testing.assert_allclose(sum(parts), (terms.log_qz - terms.log_pz).mean(0), rtol=1e-5)
        beta_one = aggregate.beta_tc(terms, num_examples=10, beta=1.0)
        np.testing.assert_allclose(beta_one, elbos.sampled_elbo(terms), rtol=1e-6)

    def test_the_mixture_is_exact_where_the_batch_is_the_data_set(self):
        """One-dimensional codes have no total correlation, and the mixture is that of all images."""
        terms = random_terms()
        codes = terms.codes
        q = Normal(codes.posterior.loc[:, :1], codes.posterior.log_scale[:, :1])
        terms = terms._replace(codes=Codes(codes.z[..., :1], q, standard_normal((1,))))
        information, correlation, _ = aggregate.kl_decomposition(terms, num_examples=B)
        np.testing.assert_allclose(correlation, 0, atol=1e-6)
        mixture = stats.norm.pdf(np.asarray(codes.z)[:, :, None, 0], q.loc[:, 0], np.exp(q.log_scale[:, 0])).mean(-1)
        np.testing.assert_allclose(information, (terms.log_qz - np.log(mixture)).mean(0), rtol=1e-5)

    def test_a_batch_of_a_larger_data_set_has_the_mixture_of_the_whole_on_average(self):
        """Over all batches {0, j} the mixture at a code of image 0 is, on average, that of the data set, exactly."""
        terms = random_terms(spread=0.5)
        z, q, prior = terms.codes
        mixtures = []
        for j in range(1, B):
            rows = np.asarray([0, j])
            codes = Codes(z[:1, rows], Normal(q.loc[rows], q.log_scale[rows]), prior)
            part = Terms(*(term[:1, rows] for term in terms[:3]), kl=None, codes=codes)
            information, *_ = aggregate.kl_decomposition(part, num_examples=B)
            mixtures.append(np.exp(part.log_qz[0, 0] - information[0]))
        whole = stats.norm.pdf(z[0, 0], q.loc, np.exp(q.log_scale)).prod(axis=-1).mean()
        np.testing.assert_allclose(np.mean(mixtures), whole, rtol=1e-5)

    def test_discrepancy_of_codes_from_the_prior_is_zero_on_average_and_else_positive(self):
        noise = np.random.default_rng(0).normal(size=(2000, 8, 2))
        zeros = jnp.zeros((1, 8))

        def discrepancy(z):  # [8, 2]: an estimate from one batch
            codes = Codes(z[None], posterior=None, prior=standard_normal((2,)))
            return aggregate.squared_mmd(Terms(zeros, zeros, zeros, kl=None, codes=codes)).mean()

        def in_errors(z):
            found = np.asarray(jax.vmap(discrepancy)(jnp.asarray(z, jnp.float32)))
            return found.mean() / (found.std() / np.sqrt(len(found)))

        assert abs(in_errors(noise)) < 4
        for shift, scale in ((0.5, 1.0), (0.0, 0.5), (0.0, 1.5)):
            assert in_errors(shift + scale * noise) > 10

    def test_what_cannot_be_compared_is_refused(self):
        terms = random_terms()
        one = random_terms(shape=(K, 1))
        for name in WHOLE_BATCH:
            objective = bind(OBJECTIVES[name], **SETTINGS[name])
            with pytest.raises(ValueError, match="no codes"):
                objective(terms._replace(codes=None))
            with pytest.raises(ValueError, match="2 examples or more"):
                objective(one)
        with pytest.raises(ValueError, match="num_examples=3 must be at least the 4"):
            aggregate.beta_tc(terms, num_examples=3)


def test_identities():
    terms = random_terms()
    np.testing.assert_array_equal(elbos.elbo(terms, beta=0.0), elbos.reconstruction(terms))
    np.testing.assert_allclose(elbos.free_bits(terms, free_bits=0.0), elbos.elbo(terms), rtol=1e-6)
    np.testing.assert_allclose(elbos.capacity(terms, capacity=0.0), elbos.elbo(terms), rtol=1e-6)
    np.testing.assert_allclose(elbos.sampled_elbo(terms), terms.log_weights(terms).mean(0), rtol=1e-6)
    assert np.all(elbos.free_bits(terms, free_bits=2.0) <= elbos.elbo(terms))


def test_free_bits_leaves_a_small_kl_without_gradient():
    terms = random_terms(layers=1)._replace(kl=jnp.asarray([[0.2, 3.0, 0.9, 1.1]]))
    grad = jax.grad(lambda kl: elbos.free_bits(terms._replace(kl=kl), free_bits=1.0).sum())(terms.kl)
    np.testing.assert_array_equal(grad, [[0.0, -1.0, 0.0, -1.0]])


def test_free_bits_are_those_of_the_divergence_not_of_a_layer_s_share_in_it():
    terms = random_terms()._replace(kl=jnp.asarray([[-2.0] * B, [2.5] * B]))  # q(z) near p(z): shares, of 0.5 in all
    for free, penalty in ((0.0, 0.5), (0.4, 0.5), (0.7, 0.7)):
        expected = elbos.reconstruction(terms) - penalty
        np.testing.assert_allclose(elbos.free_bits(terms, free_bits=free), expected, rtol=1e-6)


def test_capacity_pulls_the_kl_from_both_sides():
    terms = random_terms(layers=1)._replace(kl=jnp.asarray([[1.0, 3.0, 1.0, 3.0]]))
    grad = jax.grad(lambda kl: elbos.capacity(terms._replace(kl=kl), capacity=2.0, beta=5.0).sum())(terms.kl)
    np.testing.assert_array_equal(grad, [[5.0, -5.0, 5.0, -5.0]])


def test_what_does_not_exist_is_refused():
    point = random_terms()._replace(log_qz=None, kl=None)
    assert elbos.reconstruction(point).shape == (B,)
    with pytest.raises(ValueError, match="no density"):
        elbos.sampled_elbo(point)
    with pytest.raises(ValueError, match="no KL"):
        elbos.elbo(point)
