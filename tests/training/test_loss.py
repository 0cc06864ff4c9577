"""The loss of a run: settings of the objective at a step, and separate keys for binarization and noise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jitted import negative_bound, sample_terms
from small_model import binary_images, small_model

from vae_jax import random
from vae_jax.config.schema import DataConfig, ObjectiveConfig
from vae_jax.data.preprocess import read_images
from vae_jax.inference import elbos, objectives
from vae_jax.inference.terms import Pair, bind
from vae_jax.training.loss import make_loss, objective_at


class TestObjectiveAt:
    def terms(self):
        model, params = small_model()
        return sample_terms(params, jax.random.key(1), binary_images(), model=model)

    @pytest.mark.parametrize(("step", "weight"), [(0, 0.2), (4, 1.0), (99, 1.0)])
    def test_the_weight_of_the_kl_rises_during_the_warm_up(self, step, weight):
        config = ObjectiveConfig(beta=2.0, warmup_steps=5)
        expected = elbos.elbo(self.terms(), beta=2 * weight)
        np.testing.assert_allclose(objective_at(config, jnp.asarray(step))(self.terms()), expected, rtol=1e-6)

    def test_the_capacity_rises_during_the_warm_up_and_its_weight_does_not(self):
        config = ObjectiveConfig(name="capacity", beta=3.0, capacity=10.0, warmup_steps=4)
        expected = elbos.capacity(self.terms(), capacity=5.0, beta=3.0)
        np.testing.assert_allclose(objective_at(config, jnp.asarray(1))(self.terms()), expected, rtol=1e-6)

    @pytest.mark.parametrize(
        ("name", "settings"),
        [
            ("reconstruction", {}),
            ("sampled-elbo", {"beta": 0.5}),
            ("free-bits", {"beta": 0.5, "free_bits": 0.7}),
            ("iwae", {}),
            ("renyi", {"alpha": 0.2}),
            ("miwae", {"num_inner_samples": 2}),
            ("ciwae", {"elbo_weight": 0.2}),
            ("piwae", {"num_inner_samples": 2}),
            ("cubo", {"order": 3.0}),
            ("beta-tc", {"beta": 4.0}),
            ("info-vae", {"beta": 0.5, "mmd_weight": 30.0}),
        ],
    )
    def test_settings_reach_the_objective(self, name, settings):
        model, params = small_model()
        terms = sample_terms(params, jax.random.key(1), binary_images(), model=model, num_samples=4)
        found = objective_at(ObjectiveConfig(name=name, num_samples=4, **settings), jnp.asarray(0), num_examples=9)
        settings |= {"num_examples": 9} if name == "beta-tc" else {}
        expected = bind(objectives.OBJECTIVES[name], **settings)
        if isinstance(expected, Pair):
            found, expected = found.inference, expected.inference
        np.testing.assert_allclose(found(terms), expected(terms), rtol=1e-6)

    def test_beta_tc_needs_the_number_of_images_and_uses_it(self):
        config = ObjectiveConfig(name="beta-tc", beta=4.0)
        with pytest.raises(ValueError, match=r"^objective\.name=beta-tc needs num_examples; "):
            objective_at(config, jnp.asarray(0))
        model, params = small_model()
        arguments = params, jax.random.key(0), jnp.full((6, 4, 4, 1), 128, jnp.uint8), jnp.asarray(0)
        few, many = (jax.jit(make_loss(model, config, DataConfig(), n))(*arguments)[0] for n in (6, 6000))
        assert abs(few - many) > 1e-3


def test_binarization_and_posterior_noise_have_separate_keys():
    model, params = small_model()
    images = jnp.full((64, 4, 4, 1), 128, jnp.uint8)
    loss = jax.jit(make_loss(model, ObjectiveConfig(), DataConfig()))
    values = {float(loss(params, jax.random.key(k), images, jnp.asarray(0))[0]) for k in (0, 0, 1)}
    assert len(values) == 2
    keys = random.example_keys(jax.random.key(1), 64)
    x = read_images(random.fold_in(keys, 0), images, binarization="dynamic")
    expected, _ = negative_bound(params, random.fold_in(keys, 1), x, model=model, objective=elbos.elbo)
    assert float(expected) in (pytest.approx(value, rel=1e-6) for value in values)


def test_one_key_and_the_keys_of_the_examples_have_the_same_loss():
    """Images that are evaluated with the keys of their positions have the same numbers in any part of the batch."""
    model, params = small_model()
    images = jnp.asarray(np.random.default_rng(0).integers(0, 256, (12, 4, 4, 1)), jnp.uint8)
    loss = jax.jit(make_loss(model, ObjectiveConfig(name="iwae", num_samples=3), DataConfig()))
    batch, key, step = images, jax.random.key(2), jnp.asarray(0)
    keys = random.example_keys(key, 12)
    expected, _ = loss(params, key, batch, step)
    np.testing.assert_array_equal(loss(params, keys, batch, step)[0], expected)
    halves = [loss(params, keys[part], batch[part], step)[0] for part in (slice(6), slice(6, 12))]
    np.testing.assert_allclose(np.mean(halves), expected, rtol=1e-5)
    order = np.random.default_rng(1).permutation(12)
    np.testing.assert_allclose(loss(params, keys[order], batch[order], step)[0], expected, rtol=1e-5)
    with pytest.raises(ValueError, match=r"^key has shape \[11\]; pass one key, or a key for each example, \[12\]"):
        loss(params, keys[:11], batch, step)
