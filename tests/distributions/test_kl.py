"""kl_divergence: oracles, identities, gradients and refusals."""

import dataclasses
import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as npd
import pytest
import scipy.special
from densities import FAMILY, IMAGE, B, D, gather, log_prob, normals, sample

from vae_jax.distributions.bernoulli import Bernoulli
from vae_jax.distributions.categorical import Categorical
from vae_jax.distributions.kl import kl_divergence
from vae_jax.distributions.normal import Normal, standard_normal


@pytest.mark.parametrize("seed", range(3))
def test_kl_of_normals_equals_numpyro_and_the_log_variance_form(seed):
    q = Normal(normals(seed, B, D), normals(seed + 1, B, D))
    p = Normal(normals(seed + 2, B, D), normals(seed + 3, B, D))
    oracle = npd.kl_divergence(
        npd.Normal(q.loc, jnp.exp(q.log_scale)).to_event(1),
        npd.Normal(p.loc, jnp.exp(p.log_scale)).to_event(1),
    )
    np.testing.assert_allclose(kl_divergence(q, p), oracle, rtol=1e-5, atol=1e-5)
    s = 2 * q.log_scale
    by_hand = 0.5 * (jnp.exp(s) + q.loc**2 - 1 - s).sum(-1)
    np.testing.assert_allclose(kl_divergence(q, standard_normal((D,))), by_hand, rtol=1e-5, atol=1e-5)


def test_kl_of_bernoullis_equals_the_enumerated_sum():
    q, p = Bernoulli(normals(0, B, 2, 2, 1)), Bernoulli(normals(1, B, 2, 2, 1))
    images = jnp.array(list(itertools.product((0.0, 1.0), repeat=4))).reshape(-1, 1, 2, 2, 1)
    images = jnp.broadcast_to(images, (16, B, 2, 2, 1))
    log_q, log_p = log_prob(q, images), log_prob(p, images)
    expected = (jnp.exp(log_q) * (log_q - log_p)).sum(0)
    np.testing.assert_allclose(kl_divergence(q, p), expected, rtol=1e-5, atol=1e-5)


def test_kl_of_categoricals_equals_the_enumerated_sum_and_scipy():
    q, p = Categorical(normals(0, B, 2, 3)), Categorical(normals(1, B, 2, 3))
    pairs = jnp.array(list(itertools.product(range(3), repeat=2)))
    vectors = jnp.broadcast_to(jax.nn.one_hot(pairs, 3)[:, None], (9, B, 2, 3))
    log_q, log_p = log_prob(q, vectors), log_prob(p, vectors)
    expected = (jnp.exp(log_q) * (log_q - log_p)).sum(0)
    np.testing.assert_allclose(kl_divergence(q, p), expected, rtol=1e-5, atol=1e-5)
    probabilities = [scipy.special.softmax(gather(d.logits).astype(np.float64), axis=-1) for d in (q, p)]
    entropies = scipy.special.rel_entr(*probabilities).sum((-1, -2))
    np.testing.assert_allclose(kl_divergence(q, p), entropies, rtol=1e-5, atol=1e-6)


PAIRS = {
    "normal": lambda: (
        Normal(normals(0, B, D), normals(1, B, D)),
        Normal(normals(2, B, D), normals(3, B, D)),
    ),
    "bernoulli": lambda: (Bernoulli(normals(0, B, *IMAGE, 1)), Bernoulli(normals(1, B, *IMAGE, 1))),
    "categorical": lambda: (Categorical(normals(0, B, 4, 3)), Categorical(normals(1, B, 4, 3))),
}


@pytest.mark.parametrize("name", PAIRS)
def test_kl_equals_the_monte_carlo_estimate(name):
    q, p = PAIRS[name]()
    n = 20_000
    z = sample(q, jax.random.key(9), (n,))
    estimates = gather(log_prob(q, z) - log_prob(p, z))
    standard_error = estimates.std(0) / np.sqrt(n)
    assert np.all(np.abs(estimates.mean(0) - gather(kl_divergence(q, p))) < 5 * standard_error)
    assert kl_divergence(q, p).shape == (B,)


@pytest.mark.parametrize("name", PAIRS)
def test_kl_is_exactly_zero_for_equals_and_positive_otherwise(name):
    q, p = PAIRS[name]()
    np.testing.assert_array_equal(kl_divergence(q, q), 0)
    assert np.all(kl_divergence(q, p) > 0)
    gradients = jax.grad(lambda p: kl_divergence(q, p).sum())(q)
    chex.assert_trees_all_close(gradients, jax.tree.map(jnp.zeros_like, gradients), atol=1e-5)


@pytest.mark.parametrize("name", PAIRS)
def test_kl_accepts_leading_axes_of_either_and_refuses_other_shapes(name):
    q, p = PAIRS[name]()
    one = jax.tree.map(lambda a: a[2], p)
    repeated = jax.tree.map(lambda a: jnp.broadcast_to(a[2], a.shape), p)
    np.testing.assert_allclose(kl_divergence(q, one), kl_divergence(q, repeated), rtol=1e-6)
    np.testing.assert_allclose(kl_divergence(one, q), kl_divergence(repeated, q), rtol=1e-6)
    np.testing.assert_allclose(jax.jit(kl_divergence)(q, p), kl_divergence(q, p), rtol=1e-5)
    mapped = jax.vmap(kl_divergence, in_axes=(0, None))(q, one)
    np.testing.assert_allclose(mapped, kl_divergence(q, one), rtol=1e-5)
    for cut in (lambda a: a[:1], lambda a: a[:-1], lambda a: a[..., :-1], lambda a: a[None, :1]):
        with pytest.raises(ValueError, match="leading axes"):
            kl_divergence(q, jax.tree.map(cut, p))
        with pytest.raises(ValueError, match="leading axes"):
            kl_divergence(jax.tree.map(cut, q), p)


@pytest.mark.parametrize(("a", "b"), [(90.0, -90.0), (-1e4, 1e4), (1e4, 1e4 - 1), (1e4, 0.0), (0.0, -1e4)])
def test_kl_of_bernoullis_is_finite_for_extreme_logits(a, b):
    q, p = Bernoulli(jnp.full((1, 1, 1), a)), Bernoulli(jnp.full((1, 1, 1), b))
    value, gradients = jax.value_and_grad(kl_divergence, argnums=(0, 1))(q, p)
    chex.assert_tree_all_finite((value, gradients))
    one = scipy.special.expit(a)
    expected = one * (np.logaddexp(0, -b) - np.logaddexp(0, -a)) + (1 - one) * (np.logaddexp(0, b) - np.logaddexp(0, a))
    np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("a", "b"), [(90.0, -90.0), (-1e4, 1e4), (1e4, 0.0), (0.0, -1e4)])
def test_kl_of_categoricals_of_two_classes_is_that_of_bernoullis(a, b):
    two = [Categorical(jnp.array([[logit, 0.0]])) for logit in (a, b)]
    value, gradients = jax.value_and_grad(kl_divergence, argnums=(0, 1))(*two)
    one = [Bernoulli(jnp.array([logit]), event_ndims=1) for logit in (a, b)]
    expected, expected_gradients = jax.value_and_grad(kl_divergence, argnums=(0, 1))(*one)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    for ours, theirs in zip(gradients, expected_gradients, strict=True):
        np.testing.assert_allclose(ours.logits[0, 0], theirs.logits[0], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(ours.logits[0, 1], -theirs.logits[0], rtol=1e-5, atol=1e-6)


def test_kl_has_no_gradient_to_other_examples():
    for pair in PAIRS.values():
        q, p = pair()
        for gradient in jax.tree.leaves(jax.grad(lambda q, p: kl_divergence(q, p)[3], argnums=(0, 1))(q, p)):
            np.testing.assert_array_equal(np.delete(gradient, 3, axis=0), 0)
            assert np.all(gradient[3] != 0)


def test_kl_without_a_closed_form_is_none():
    normal, point = FAMILY["normal"](), FAMILY["deterministic"]()
    assert kl_divergence(point, normal) is None
    assert kl_divergence(normal, point) is None
    assert kl_divergence(normal, FAMILY["grey mixture"]()) is None
    assert kl_divergence(FAMILY["bernoulli"](), normal) is None
    assert kl_divergence(FAMILY["categorical"](), normal) is None


def test_kl_of_events_of_different_ranks_is_refused():
    normal = FAMILY["normal"]()
    with pytest.raises(ValueError, match=r"^q\.event_ndims=1 must equal p\.event_ndims=2$"):
        kl_divergence(normal, Normal(normal.loc, normal.log_scale, event_ndims=2))


@pytest.mark.fault
@pytest.mark.parametrize("name", PAIRS)
def test_a_subclass_does_not_inherit_the_closed_form_of_its_parent(name):
    q, p = PAIRS[name]()
    inherited = dataclasses.make_dataclass("Inherited", [], bases=(type(q),), frozen=True, eq=False)
    child = [inherited(**vars(d)) for d in (q, p)]
    assert kl_divergence(q, p) is not None
    assert kl_divergence(child[0], p) is None
    assert kl_divergence(q, child[1]) is None
    assert kl_divergence(*child) is None
