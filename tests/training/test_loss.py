"""The loss of a run: the objective of the step, preprocessing, and separate keys for preprocessing and noise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jitted import negative_bound
from small_model import binary_images, small_model
from small_training import rows

from vae_jax import random
from vae_jax.config import choice
from vae_jax.data.preprocess import DynamicBinarizationConfig
from vae_jax.errors import InputError
from vae_jax.inference import elbos, estimators, importance
from vae_jax.runtime import sharding
from vae_jax.training.loss import hide_labels, make_loss, unprocessed

GREY = {"x": jnp.full((64, 4, 4, 1), 128, jnp.uint8)}
STEP = jnp.asarray(0)


def value(loss, params, key, batch, step=STEP):
    return jax.jit(loss)(params, {}, key, batch, step)[0]


def test_the_objective_is_that_of_the_step():
    model, params = small_model()
    config = choice("objective", "elbo", beta=2.0, warmup_steps=5)
    loss = make_loss(model, lambda step: config.at(step, 64))
    batch, key = {"x": binary_images(64)}, jax.random.key(0)
    keys = random.fold_in(random.example_keys(key, 64), 1)
    for step, beta in ((0, 0.4), (4, 2.0), (9, 2.0)):
        objective = lambda terms, beta=beta: elbos.elbo(terms, beta=beta)  # noqa: E731
        expected, _ = negative_bound(params, keys, batch, model=model, objective=objective)
        np.testing.assert_allclose(value(loss, params, key, batch, jnp.asarray(step)), expected, rtol=1e-6)


def test_samples_and_estimator_reach_the_bound():
    model, params = small_model()
    settings = {"num_samples": 3, "estimator": estimators.doubly_reparameterized}
    loss = make_loss(model, lambda step: importance.iwae, **settings)
    batch, key = {"x": binary_images(8)}, jax.random.key(0)
    keys = random.fold_in(random.example_keys(key, 8), 1)

    def reference(params):
        return negative_bound(params, keys, batch, model=model, objective=importance.iwae, **settings)[0]

    found, gradient = jax.jit(jax.value_and_grad(lambda p: loss(p, {}, key, batch, STEP)[0]))(params)
    expected, expected_gradient = jax.jit(jax.value_and_grad(reference))(params)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), gradient, expected_gradient)


def test_binarization_and_posterior_noise_have_separate_keys():
    model, params = small_model()
    preprocess = DynamicBinarizationConfig()
    loss = make_loss(model, lambda step: elbos.elbo, preprocess=preprocess)
    values = {float(value(loss, params, jax.random.key(k), GREY)) for k in (0, 0, 1)}
    assert len(values) == 2
    keys = random.example_keys(jax.random.key(1), 64)
    inputs = preprocess(random.fold_in(keys, 0), GREY)
    expected, _ = negative_bound(params, random.fold_in(keys, 1), inputs, model=model, objective=elbos.elbo)
    assert float(expected) in (pytest.approx(value, rel=1e-6) for value in values)


def test_one_key_and_the_keys_of_the_examples_have_the_same_loss():
    """Images that are evaluated with the keys of their positions have the same numbers in any part of the batch."""
    model, params = small_model()
    images = jnp.asarray(np.random.default_rng(0).integers(0, 256, (12, 4, 4, 1)), jnp.uint8)
    preprocess = DynamicBinarizationConfig()
    loss = jax.jit(make_loss(model, lambda step: importance.iwae, num_samples=3, preprocess=preprocess))
    key, step = jax.random.key(2), jnp.asarray(0)
    keys = random.example_keys(key, 12)
    run = lambda keys, rows: loss(params, {}, keys, {"x": images[rows]}, step)[0]  # noqa: E731
    every = slice(None)
    expected = run(key, every)
    np.testing.assert_array_equal(run(keys, every), expected)
    halves = [run(keys[part], part) for part in (slice(6), slice(6, 12))]
    np.testing.assert_allclose(np.mean(halves), expected, rtol=1e-5)
    order = np.random.default_rng(1).permutation(12)
    np.testing.assert_allclose(run(keys[order], order), expected, rtol=1e-5)
    with pytest.raises(ValueError, match=r"^key has shape \[11\]; pass one key, or a key for each example, \[12\]"):
        run(keys[:11], every)


def test_the_preprocessing_reads_and_returns_any_arrays_of_the_batch():
    """Noise of the inputs is drawn there, with the key of each example."""
    model, params = small_model()

    def preprocess(keys, batch):
        assert keys.shape == (64,)
        kept = random.drawn(lambda k, shape: jax.random.bernoulli(k, 0.8, shape), keys, batch["x"].shape)
        return {"x": batch["x"] * kept, "weight": batch["weight"]}

    weighted = lambda terms: elbos.elbo(terms)  # noqa: E731
    loss = make_loss(model, lambda step: weighted, preprocess=preprocess)
    batch = {"x": binary_images(64), "weight": jnp.ones(64)}
    noisy, plain = (
        value(one, params, jax.random.key(0), batch) for one in (loss, make_loss(model, lambda _: weighted))
    )
    assert abs(noisy - plain) > 0.01
    assert unprocessed(None, batch) is batch


def test_a_batch_that_is_no_mapping_is_refused():
    model, params = small_model()
    with pytest.raises(ValueError, match=r'^batch is not a mapping with data "x"'):
        make_loss(model, lambda step: elbos.elbo)(params, {}, jax.random.key(0), binary_images(), STEP)


@pytest.mark.parametrize("probability", [0.02, 0.3, 0.9])
def test_the_share_of_labels_is_hidden_that_the_probability_states(probability):
    count, key = 4000, jax.random.key(0)
    batch = {"x": jnp.zeros((count, 1)), "y": jnp.zeros(count, int)}
    shown = hide_labels(key, batch, probability)["mask"]
    assert abs(np.mean(~shown) - probability) < 4 * np.sqrt(probability * (1 - probability) / count)
    known = jnp.arange(count) % 2 == 0
    np.testing.assert_array_equal(hide_labels(key, batch | {"mask": known}, probability)["mask"], shown & known)


def test_conditions_are_hidden_like_labels():
    key, x = jax.random.key(3), binary_images(16)
    masks = [hide_labels(key, {"x": x, name: a}, 0.5)["mask"] for name, a in (("y", jnp.zeros(16, int)),
                                                                              ("c", jnp.ones((16, 2))))]  # fmt: skip
    np.testing.assert_array_equal(*masks)


def test_labels_are_hidden_by_the_keys_of_the_examples_on_any_devices_and_in_any_parts():
    model, params = small_model(model="conditional", model__num_classes=3)
    loss = jax.jit(make_loss(model, lambda step: elbos.elbo, label_dropout=0.5))
    batch = {"x": binary_images(16), "y": jnp.arange(16) % 3}
    keys = random.example_keys(jax.random.key(5), 16)
    found, _ = loss(params, {}, keys, batch, STEP)
    inputs = hide_labels(random.fold_in(keys, 2), batch, 0.5)
    assert 0 < inputs["mask"].sum() < 16
    same, _ = negative_bound(params, random.fold_in(keys, 1), inputs, model=model, objective=elbos.elbo)
    np.testing.assert_allclose(found, same, rtol=1e-6)
    placed = jax.device_put((keys, batch), sharding.batch_sharding(sharding.make_mesh()))
    np.testing.assert_allclose(loss(params, {}, *placed, STEP)[0], found, rtol=1e-5)
    parts = [loss(params, {}, keys[i : i + 4], rows(batch, slice(i, i + 4)), STEP)[0] for i in range(0, 16, 4)]
    np.testing.assert_allclose(np.mean(parts), found, rtol=1e-5)


@pytest.mark.fault
@pytest.mark.parametrize(
    ("arrays", "reason"),
    [({}, "no labels y"), ({"y": jnp.zeros(5, int), "mask": jnp.ones((5, 4, 4, 1), bool)}, "a mask of the numbers")],
)
def test_labels_cannot_be_hidden_without_labels_and_a_mask_of_them(arrays, reason):
    with pytest.raises(InputError, match=rf"^train\.label_dropout=0\.1 must be 0 for examples with {reason}"):
        hide_labels(jax.random.key(0), {"x": binary_images(5)} | arrays, 0.1)
