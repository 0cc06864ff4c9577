import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vae_jax import objectives
from vae_jax.objectives import OBJECTIVES, Terms

K, B, L = 3, 4, 2
SETTINGS = {"free-bits": {"free_bits": 1.0}, "capacity": {"capacity": 2.0}}


def random_terms(seed=0, shape=(K, B), layers=L):
    rng = np.random.default_rng(seed)
    draw = lambda *s: jnp.asarray(rng.normal(size=s), jnp.float32)  # noqa: E731
    return Terms(draw(*shape) - 50, draw(*shape), draw(*shape), jnp.abs(draw(layers, shape[1])) * 3)


def every_objective():
    return [pytest.param(functools.partial(f, **SETTINGS.get(name, {})), id=name) for name, f in OBJECTIVES.items()]


@pytest.mark.parametrize("objective", every_objective())
def test_one_value_per_example_that_depends_on_that_example_alone(objective):
    terms = random_terms()
    assert objective(terms).shape == (B,)
    jacobian = jax.jacobian(objective)(terms)
    for leaf in jax.tree.leaves(jacobian):  # [B, K or L, B]
        across = np.asarray(leaf) * (1 - np.eye(B))[:, None, :]
        assert np.all(across == 0)
    assert np.any(np.asarray(jacobian.log_px_z) != 0)


@pytest.mark.parametrize("objective", every_objective())
def test_jit_equals_eager_and_traces_once(objective):
    traced = jax.jit(objective)
    for seed in range(2):
        terms = random_terms(seed)
        np.testing.assert_allclose(traced(terms), objective(terms), rtol=1e-6)
    assert traced._cache_size() == 1


@pytest.mark.parametrize("objective", every_objective())
def test_wrong_shapes_are_refused(objective):
    terms = random_terms()
    with pytest.raises(AssertionError):
        objective(terms._replace(log_px_z=terms.log_px_z[0]))
    with pytest.raises(AssertionError):
        objective(terms._replace(log_pz=terms.log_pz[:, :1]))
    with pytest.raises(AssertionError):
        objective(terms._replace(kl=terms.kl[:, :1]))


def test_against_a_computation_in_numpy():
    terms = random_terms()
    x, pz, qz, kl = (np.asarray(t, np.float64) for t in terms)
    expected = {
        "reconstruction": x.mean(0),
        "elbo": x.mean(0) - 0.5 * kl.sum(0),
        "sampled-elbo": (x + 0.5 * (pz - qz)).mean(0),
        "free-bits": x.mean(0) - 0.5 * np.maximum(kl, 1.0).sum(0),
        "capacity": x.mean(0) - 0.5 * np.abs(kl.sum(0) - 2.0),
    }
    assert set(expected) == set(OBJECTIVES)
    for name, value in expected.items():
        beta = {} if name == "reconstruction" else {"beta": 0.5}
        np.testing.assert_allclose(OBJECTIVES[name](terms, **SETTINGS.get(name, {}), **beta), value, rtol=1e-6)


def test_identities():
    terms = random_terms()
    np.testing.assert_array_equal(objectives.elbo(terms, beta=0.0), objectives.reconstruction(terms))
    np.testing.assert_allclose(objectives.free_bits(terms, free_bits=0.0), objectives.elbo(terms), rtol=1e-6)
    np.testing.assert_allclose(objectives.capacity(terms, capacity=0.0), objectives.elbo(terms), rtol=1e-6)
    np.testing.assert_allclose(objectives.sampled_elbo(terms), objectives.log_weights(terms).mean(0), rtol=1e-6)
    assert np.all(objectives.free_bits(terms, free_bits=2.0) <= objectives.elbo(terms))


def test_free_bits_leaves_a_small_kl_without_gradient():
    terms = random_terms()._replace(kl=jnp.asarray([[0.2] * B, [3.0] * B]))
    grad = jax.grad(lambda kl: objectives.free_bits(terms._replace(kl=kl), free_bits=1.0).sum())(terms.kl)
    np.testing.assert_array_equal(grad, [[0.0] * B, [-1.0] * B])


def test_capacity_pulls_the_kl_from_both_sides():
    terms = random_terms(layers=1)._replace(kl=jnp.asarray([[1.0, 3.0, 1.0, 3.0]]))
    grad = jax.grad(lambda kl: objectives.capacity(terms._replace(kl=kl), capacity=2.0, beta=5.0).sum())(terms.kl)
    np.testing.assert_array_equal(grad, [[5.0, -5.0, 5.0, -5.0]])


def test_what_does_not_exist_is_refused():
    point = random_terms()._replace(log_qz=None, kl=None)
    assert objectives.reconstruction(point).shape == (B,)
    with pytest.raises(ValueError, match="no density"):
        objectives.sampled_elbo(point)
    with pytest.raises(ValueError, match="closed-form"):
        objectives.elbo(point)
