"""Affine transforms: Gaussians of full and of diagonal covariance, and numbers above the diagonal."""

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats
from flow_cases import cholesky, numbers

from vae_jax.distributions.affine import DiagonalAffine, LowerCholeskyAffine
from vae_jax.distributions.flow import Flow
from vae_jax.distributions.gaussian_mixture import GaussianMixture
from vae_jax.distributions.normal import Normal, standard_normal

D = 4


@jax.jit
def evaluate(transform, z):
    """Return log p(z) of the Gaussian, and its derivative by `transform`."""
    return jax.value_and_grad(lambda t: jnp.sum(Flow(standard_normal((D,)), (t,)).log_prob(z)))(transform)


def test_a_flow_of_it_alone_is_the_gaussian_of_full_covariance():
    transform, z = cholesky(D, 1), numbers(3, 2, 5, D)
    scale = np.asarray(transform.scale_tril, np.float64)
    expected = scipy.stats.multivariate_normal(np.asarray(transform.loc), scale @ scale.T).logpdf(z)
    found, gradient = evaluate(transform, z)
    np.testing.assert_allclose(found, expected.sum(), rtol=1e-5)
    used = np.abs(gradient.scale_tril) > 0
    np.testing.assert_array_equal(used, np.tri(D, dtype=bool))


def test_numbers_above_the_diagonal_have_no_effect():
    transform, z = cholesky(D, 1), numbers(3, 2, 5, D)
    above = LowerCholeskyAffine(transform.loc, transform.scale_tril + jnp.triu(jnp.ones((D, D)), 1))
    np.testing.assert_array_equal(evaluate(transform, z)[0], evaluate(above, z)[0])
    np.testing.assert_array_equal(*(jax.jit(LowerCholeskyAffine.forward)(t, z)[0] for t in (transform, above)))


def test_a_flow_of_the_diagonal_transform_alone_is_a_normal():
    loc, log_scale, z = numbers(1, D), numbers(2, D, scale=0.5), numbers(3, 2, 5, D)

    @jax.jit
    def densities(transform, normal):
        flow = Flow(standard_normal((D,)), (transform,))
        sample, log_p = flow.sample_and_log_prob(jax.random.key(0), (7,))
        return (flow.log_prob(z), log_p, sample), (normal.log_prob(z), normal.log_prob(sample),
                                                   normal.sample(jax.random.key(0), (7,)))  # fmt: skip

    for found, expected in zip(*densities(DiagonalAffine(loc, log_scale), Normal(loc, log_scale)), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_a_flow_of_a_mixture_has_the_density_of_the_transformed_mixture():
    transform = cholesky(2, 1)
    mixture = GaussianMixture(numbers(1, 3), numbers(2, 3, 2), numbers(4, 3, 2, scale=0.3))

    @jax.jit
    def densities(mixture, transform):
        density = Flow(mixture, (transform,))
        z, log_p = density.sample_and_log_prob(jax.random.key(0), (6,))
        return z, log_p, density.log_prob(z), density.log_prob(z[0]), density.mean()

    z, log_p, by_inversion, of_one, mean = densities(mixture, transform)
    scale = np.asarray(transform.scale_tril, np.float64)
    weights = np.exp(mixture.logits) / np.exp(mixture.logits).sum()
    parts = [
        weight * scipy.stats.multivariate_normal(
            transform.loc + scale @ loc, scale @ np.diag(np.exp(2 * log_scale)) @ scale.T
        ).pdf(z)
        for weight, loc, log_scale in zip(weights, mixture.loc, mixture.log_scale, strict=True)
    ]  # fmt: skip
    np.testing.assert_allclose(by_inversion, np.log(np.sum(parts, axis=0)), rtol=1e-4)
    np.testing.assert_allclose(log_p, by_inversion, rtol=1e-4)
    np.testing.assert_allclose(of_one, by_inversion[0], rtol=1e-5)
    np.testing.assert_allclose(mean, transform.loc + scale @ (weights @ mixture.loc), rtol=1e-4)
