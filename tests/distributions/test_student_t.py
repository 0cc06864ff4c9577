"""StudentT: log density, tails, limits, samples, gradients and refusals."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.special
import scipy.stats
from densities import B, D, gather, log_prob, normals, sample

from vae_jax.distributions.normal import Normal
from vae_jax.distributions.student_t import StudentT

value_and_grad = jax.jit(jax.value_and_grad(lambda density, value: density.log_prob(value).sum(), argnums=(0, 1)))


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


def scalars(loc, log_scale, log_df):
    return StudentT(*(jnp.atleast_1d(jnp.asarray(p)) for p in (loc, log_scale, log_df)), event_ndims=0)


def gradients_in_float64(value, loc, log_scale, log_df):
    """d log p / d (loc, log σ, log ν) by the digamma function."""
    value, loc, log_scale, log_df = (np.asarray(a, np.float64) for a in (value, loc, log_scale, log_df))
    df, z = np.exp(log_df), (value - loc) * np.exp(-log_scale)
    weight = (df + 1) / (df + z**2)
    half = scipy.special.digamma((df + 1) / 2) - scipy.special.digamma(df / 2)
    for_df = 0.5 * df * (half - 1 / df - np.log1p(z**2 / df) + weight * z**2 / df)
    return weight * z * np.exp(-log_scale), weight * z**2 - 1, for_df


@pytest.mark.parametrize("seed", range(3))
def test_student_t_equals_scipy(seed):
    loc, log_scale, log_df = (normals(seed + i, B, D) for i in (0, 10, 20))
    value = normals(seed + 30, B, D, scale=10.0)
    ours = StudentT(loc, log_scale, log_df).log_prob(value)
    scipys = scipy.stats.t.logpdf(*map(gather, (value, jnp.exp(log_df), loc, jnp.exp(log_scale)))).sum(-1)
    np.testing.assert_allclose(ours, scipys, rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("df", [1e-6, 0.3, 1.0, 2.5, 30.0, 1e5])
def test_student_t_equals_scipy_in_float64_with_its_gradients(df):
    z = np.array([0.0, 1e-8, 0.5, 1.0, -3.0, 40.0, -1e6, 1e15])
    loc, log_scale, log_df = np.full_like(z, 0.25), np.full_like(z, -0.7), np.full_like(z, np.log(df))
    value = loc + np.exp(log_scale) * z
    density = scalars(loc, log_scale, log_df)
    expected = scipy.stats.t.logpdf(value, df, loc, np.exp(log_scale))
    precision = 1e-12 if df < 10 else 1e-9  # of scipy, which takes a difference of log Γ
    np.testing.assert_allclose(density.log_prob(jnp.asarray(value)), expected, rtol=precision, atol=precision)
    _, (ours, for_value) = value_and_grad(density, jnp.asarray(value))
    theirs = gradients_in_float64(value, loc, log_scale, log_df)
    for our, their in zip((ours.loc, ours.log_scale, ours.log_df), theirs, strict=True):
        np.testing.assert_allclose(our, their, rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(for_value, -theirs[0], rtol=1e-9, atol=1e-30)


@pytest.mark.parametrize("log_df", [-5.0, 0.0, 1.0, 5.0, 10.0])
def test_student_t_in_float32_is_accurate_in_the_tails(log_df):
    z = np.array([0.0, 1e-3, 1.0, 10.0, -1e3, 1e6, -1e10, 1e15], np.float32)
    log_df = np.full_like(z, log_df)
    density = scalars(jnp.zeros(z.shape), jnp.zeros(z.shape), log_df)
    expected = scipy.stats.t.logpdf(z.astype(np.float64), np.exp(log_df.astype(np.float64)))
    np.testing.assert_allclose(density.log_prob(jnp.asarray(z)), expected, rtol=2e-6, atol=2e-6)
    _, (ours, _) = value_and_grad(density, jnp.asarray(z))
    theirs = gradients_in_float64(z, 0 * z, 0 * z, log_df)
    np.testing.assert_allclose(ours.loc, theirs[0], rtol=1e-5, atol=1e-30)
    np.testing.assert_allclose(ours.log_scale, theirs[1], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(ours.log_df, theirs[2], rtol=1e-5, atol=5e-6 + 1e-6 * np.abs(expected).max())


def test_student_t_is_finite_for_extreme_parameters():
    grid = jnp.meshgrid(jnp.array([0.0, 1.0, -1e15, 1e15]), *2 * [jnp.array([-40.0, -20.0, 0.0, 20.0, 40.0])])
    value, log_scale, log_df = (a.reshape(-1) for a in grid)
    density = scalars(jnp.full(value.shape, 0.5), log_scale, log_df)
    chex.assert_tree_all_finite(density.log_prob(value))
    _, gradients = value_and_grad(density, value)
    chex.assert_tree_all_finite(gradients)


@pytest.mark.parametrize("log_df", [15.0, 25.0])
def test_student_t_of_many_degrees_of_freedom_is_normal(log_df):
    loc, log_scale, value = normals(0, B, D), normals(1, B, D), normals(2, B, D, scale=3.0)
    student, normal = StudentT(loc, log_scale, jnp.full((B, D), log_df)), Normal(loc, log_scale)
    np.testing.assert_allclose(student.log_prob(value), normal.log_prob(value), rtol=1e-4, atol=1e-4)
    key = jax.random.fold_in(jax.random.key(3), 0)
    np.testing.assert_allclose(student.sample(jax.random.key(3)), normal.sample(key), rtol=1e-4, atol=1e-4)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("df", [0.5, 3.0])
def test_student_t_integrates_to_one(df):
    density = scalars(0.3, 0.4, np.log(df))
    angle = np.linspace(-np.pi / 2, np.pi / 2, 4001)[1:-1]  # x = sinh(tan(a)) reaches the tails
    tangent = np.clip(np.tan(angle), -80, 80)
    x = jnp.asarray(np.sinh(tangent))[:, None]
    integrand = np.exp(gather(log_prob(density, x)))[:, 0] * np.cosh(tangent) / np.cos(angle) ** 2
    np.testing.assert_allclose(scipy.integrate.simpson(integrand, x=angle), 1, rtol=1e-5)


@pytest.mark.parametrize("df", [0.5, 1.0, 4.0, 100.0])
def test_student_t_samples_have_the_quantiles_of_the_distribution(df):
    n = 40_000
    density = scalars(0.3, 0.4, np.float32(np.log(df)))
    draws = gather(sample(density, jax.random.key(2), (n,)))[:, 0]
    assert np.all(np.isfinite(draws))
    levels = np.array([1e-3, 0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99, 0.999])
    below = (draws[:, None] < scipy.stats.t.ppf(levels, df, 0.3, np.exp(0.4))).mean(0)
    assert np.all(np.abs(below - levels) < 5 * np.sqrt(levels * (1 - levels) / n))


def test_student_t_samples_have_the_moments_of_the_distribution():
    density, n = StudentT(normals(0, B, D), normals(1, B, D, scale=0.5), jnp.full((B, D), jnp.log(10.0))), 40_000
    draws = gather(sample(density, jax.random.key(2), (n,)))
    standardized = (draws - gather(density.mean())) / gather(density.stddev())
    assert np.all(np.abs(standardized.mean(0)) < 5 / np.sqrt(n))
    kurtosis = 3 + 6 / (10 - 4)
    assert np.all(np.abs((standardized**2).mean(0) - 1) < 5 * np.sqrt((kurtosis - 1) / n))
    pairs = np.corrcoef(standardized.reshape(n, -1).T) - np.eye(B * D)
    assert np.all(np.abs(pairs) < 5.5 / np.sqrt(n))  # all draws are independent


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("df", [0.5, 3.0, 50.0])
def test_student_t_samples_are_reparameterized(df):
    key, parameters = jax.random.key(2), np.array([0.3, 0.4, np.log(df)])
    x = gather(scalars(*parameters).sample(key, (20,)))
    jacobian = jax.jacobian(lambda q: q.sample(key, (20,))[:, 0])(scalars(*parameters))
    np.testing.assert_array_equal(jacobian.loc, 1.0)
    np.testing.assert_allclose(jacobian.log_scale, x - 0.3, rtol=1e-9)
    # t = n·sqrt((exp(y) − 1)/y) with y = (n² + m²)/ν, and dy / d log ν = −y
    n, m = (gather(jax.random.normal(jax.random.fold_in(key, i), (20, 1))) for i in range(2))
    y = (n**2 + m**2) / df
    slope = -0.5 * y * (np.exp(y) / np.expm1(y) - 1 / y)
    np.testing.assert_allclose(jacobian.log_df, slope * (x - 0.3), rtol=1e-7)


@pytest.mark.parametrize("log_df", [-1.0, 0.0, 20.0, 40.0])
def test_student_t_samples_have_finite_gradients(log_df):
    density = StudentT(*(jnp.full((1000,), p) for p in (0.3, 0.4, log_df)))
    chex.assert_tree_all_finite(jax.grad(lambda q: q.sample(jax.random.key(0)).sum())(density))


def test_student_t_mean_and_standard_deviation():
    df = np.array([0.5, 2.0, 2.5, 3.0, 100.0], np.float32)
    density = scalars(np.full_like(df, 0.3), np.full_like(df, 0.4), np.log(df))
    np.testing.assert_allclose(density.mean(), 0.3)
    expected = np.where(df > 2, scipy.stats.t.std(df.astype(np.float64), scale=np.exp(0.4)), np.inf)
    np.testing.assert_allclose(density.stddev(), expected, rtol=1e-5)
    gradient = jax.grad(lambda q: jnp.where(df > 2.1, q.stddev(), 0.0).sum())(density)
    chex.assert_tree_all_finite(gradient)


def test_student_t_refuses_parameters_of_two_shapes():
    for shapes in (((B, D), (D,), (B, D)), ((B, D), (B, D), (B, 1))):
        density = StudentT(*map(jnp.zeros, shapes))
        with pytest.raises(AssertionError):
            density.log_prob(jnp.zeros((B, D)))
        with pytest.raises(AssertionError):
            density.sample(jax.random.key(0))
