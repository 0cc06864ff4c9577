"""Moments of a random gradient against NumPy, and the signal-to-noise ratio."""

import typing

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vae_jax.inference.gradient_statistics import gradient_statistics, signal_to_noise

pytestmark = pytest.mark.usefixtures("x64")


class TestGradientStatistics:
    params: typing.ClassVar = {"a": np.array([1.0, -2.0]), "b": np.array(0.5)}

    @staticmethod
    def loss(params, key):
        noise = jax.random.normal(key, (3,))
        return jnp.sum(params["a"] * (2 + noise[:2])) + params["b"] ** 2 * (1 + 0.1 * noise[2])

    @pytest.mark.parametrize("chunk", [1, 7, 84])
    def test_moments_are_those_of_numpy_for_any_chunk(self, chunk):
        keys = jax.random.split(jax.random.key(3), 84)
        reference = {"a": np.full(2, 2.0), "b": np.array(1.0)}
        found = gradient_statistics(self.loss, self.params, keys, chunk=chunk, reference=reference)
        gradients = jax.vmap(jax.grad(self.loss), in_axes=(None, 0))(self.params, keys)
        for name in ("a", "b"):
            each = np.asarray(gradients[name])
            np.testing.assert_allclose(found.mean[name], each.mean(axis=0), rtol=1e-12)
            np.testing.assert_allclose(found.variance[name], each.var(axis=0, ddof=1), rtol=1e-12)
            np.testing.assert_allclose(found.snr[name], np.abs(each.mean(axis=0)) / each.std(axis=0, ddof=1), rtol=1e-9)
            np.testing.assert_allclose(found.standard_error[name], each.std(axis=0, ddof=1) / np.sqrt(84), rtol=1e-9)
            np.testing.assert_allclose(found.bias[name], each.mean(axis=0) - reference[name], atol=1e-12)

    def test_without_a_reference_the_bias_is_none(self):
        keys = jax.random.split(jax.random.key(3), 8)
        assert gradient_statistics(self.loss, self.params, keys, chunk=4).bias is None

    def test_signal_to_noise_of_a_complete_gradient(self):
        keys = jax.random.split(jax.random.key(3), 20_000)
        ratio = signal_to_noise(gradient_statistics(self.loss, self.params, keys, chunk=1000), 20_000)
        np.testing.assert_allclose(ratio, np.sqrt((4 + 4 + 1) / (1 + 1 + 0.01)), rtol=0.02)

    def test_signal_to_noise_of_pure_noise_is_close_to_zero_with_few_keys(self):
        def noise(params, key):
            return jnp.sum(params["a"] * jax.random.normal(key, (2,))) + 0 * params["b"]

        @jax.vmap
        def ratios(seed):
            keys = jax.random.split(jax.random.key(seed), 10)
            found = gradient_statistics(noise, self.params, keys, chunk=10)
            naive = (found.mean["a"] ** 2).sum() / found.variance["a"].sum()
            return naive, signal_to_noise(found, 10) ** 2

        naive, ratio = ratios(jnp.arange(1000))
        assert np.mean(naive) > 0.08
        assert np.mean(ratio) < 0.05

    @pytest.mark.parametrize(("count", "chunk"), [(10, 3), (1, 1)])
    def test_numbers_of_keys_that_the_chunk_does_not_divide_are_refused(self, count, chunk):
        with pytest.raises(ValueError, match=f"chunk={chunk} must divide the number of keys, {count}"):
            gradient_statistics(self.loss, self.params, jax.random.split(jax.random.key(0), count), chunk=chunk)
