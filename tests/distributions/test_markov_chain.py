"""MarkovChain: its log density, its samples, its means and the codes that it accepts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial
from scipy.stats import norm
from vae_jax.distributions.markov_chain import MarkovChain

from vae_jax.distributions.normal import Normal, standard_normal


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


@pytest.mark.usefixtures("x64")
class TestMarkovChain:
    def chain(self, downwards):
        second = Partial(lambda scale, z: Normal(jnp.sin(z[..., :1]) * scale, z[..., :1] / 2), jnp.asarray(2.0))
        sizes = (1, 2) if downwards else (2, 1)
        return MarkovChain(Normal(jnp.array([0.3, -0.2]), jnp.array([-1.0, 0.1])), (second,), sizes, downwards)

    @pytest.mark.parametrize("downwards", [False, True])
    def test_log_prob_is_the_sum_over_layers_given_the_layer_before(self, downwards):
        first, second = np.array([0.5, -1.0]), np.array([0.7])
        value = np.concatenate([second, first] if downwards else [first, second])
        lower = norm.logpdf(first, [0.3, -0.2], np.exp([-1.0, 0.1])).sum()
        upper = norm.logpdf(second, 2 * np.sin(0.5), np.exp(0.25)).sum()
        chain = self.chain(downwards)
        np.testing.assert_allclose(chain.log_prob(jnp.asarray(value)), lower + upper, rtol=1e-9)
        expected = [upper, lower] if downwards else [lower, upper]
        np.testing.assert_allclose(chain.log_probs(jnp.asarray(value)), expected, rtol=1e-9)

    @pytest.mark.parametrize("downwards", [False, True])
    def test_samples_have_the_moments_of_the_distribution(self, downwards):
        chain, count = self.chain(downwards), 200_000
        z = np.asarray(chain.sample(jax.random.key(0), (count,)))
        first, second = (z[:, 1:], z[:, :1]) if downwards else (z[:, :2], z[:, 2:])
        np.testing.assert_allclose(first.mean(axis=0), [0.3, -0.2], atol=0.02)
        np.testing.assert_allclose(first.std(axis=0), np.exp([-1.0, 0.1]), rtol=0.02)
        standard = (second[:, 0] - 2 * np.sin(first[:, 0])) / np.exp(first[:, 0] / 2)
        np.testing.assert_allclose([standard.mean(), standard.std()], [0, 1], atol=0.02)
        assert abs(np.corrcoef(standard, first[:, 0])[0, 1]) < 0.02
        mean, variance = chain.sampled_mean(jax.random.key(1), count)
        expected = 4 * np.sin(first[:, 0]).var() / count
        np.testing.assert_allclose(variance, [expected, 0, 0] if downwards else [0, 0, expected], rtol=0.02)
        np.testing.assert_allclose(mean, z.mean(axis=0), atol=0.03)
        along = 2 * np.sin(0.3)  # not the mean of sin
        np.testing.assert_allclose(chain.mean(), [along, 0.3, -0.2] if downwards else [0.3, -0.2, along], rtol=1e-9)

    def test_the_mean_of_the_third_layer_averages_over_samples_of_the_second(self):
        constant = lambda z: jnp.zeros_like(z)  # noqa: E731
        copied = Partial(lambda z: Normal(z, constant(z)))
        squared = Partial(lambda z: Normal(z**2, constant(z)))
        chain = MarkovChain(standard_normal((1,)), (copied, squared), (1, 1, 1))
        mean, variance = chain.sampled_mean(jax.random.key(0), 200_000)
        np.testing.assert_allclose(mean[2], 2.0, atol=0.04)  # E z_2² for z_2 ~ N(0, 1 + 1)
        np.testing.assert_allclose(variance[2], 8 / 200_000, rtol=0.05)

    def test_a_code_of_another_length_is_refused(self):
        with pytest.raises(ValueError, match=r"^value has shape \[2\]; pass codes \[\.\.\., 3\]$"):
            self.chain(False).log_prob(jnp.zeros(2))


def test_a_chain_of_one_layer_equals_its_layer():
    chain = MarkovChain(standard_normal((2,)), (), (2,), True)
    z = jnp.array([[0.3, -1.0], [2.0, 0.0]])
    np.testing.assert_allclose(chain.log_prob(z), standard_normal((2,)).log_prob(z), rtol=1e-6)
