"""Evaluations: every example once, for any batch size and any number of devices, against exact models."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jitted import init
from linear_gaussian import IMAGE_SHAPE, LATENT, exact_model
from two_layer_gaussian import affine, two_layer_model

from vae_jax.config.schema import ModelConfig
from vae_jax.models.build import ACTIVATIONS, build_model
from vae_jax.models.vae import ConditionalNormal
from vae_jax.runtime import sharding
from vae_jax.training import evaluator
from vae_jax.training.evaluator import Evaluator, evaluate_examples, padded_batches

IMAGES = np.random.default_rng(0).integers(0, 256, size=(23, *IMAGE_SHAPE), dtype=np.uint8)


@pytest.mark.parametrize("batch_size", [1, 5, 23, 24, 100])
def test_every_example_is_evaluated_once_and_in_order(batch_size):
    def per_example(params, key, images):
        del params, key
        return {"sum": jnp.sum(images.astype(jnp.int32), axis=(1, 2, 3))}

    done = []
    values = evaluate_examples(per_example, None, jax.random.key(0), IMAGES, batch_size=batch_size, report=done.append)
    np.testing.assert_array_equal(values["sum"], IMAGES.astype(np.int32).sum(axis=(1, 2, 3)))
    assert done[-1] == 23
    assert all(batch.shape == (batch_size, *IMAGE_SHAPE) for _, batch in padded_batches(IMAGES, batch_size))


@pytest.mark.parametrize("devices", [1, 3, 8])
@pytest.mark.parametrize("batch_size", [1, 5, 23, 24])
def test_each_example_has_the_key_of_its_position_for_any_batch_size_and_devices(batch_size, devices):
    def per_example(params, keys, images):
        del params
        assert keys.shape == (len(images),)
        assert keys.sharding.is_equivalent_to(placement, 1)
        return {"key": jax.random.key_data(keys)}

    placement = sharding.batch_sharding(sharding.make_mesh(devices))
    key = jax.random.key(0)
    values = evaluate_examples(per_example, None, key, IMAGES, batch_size=batch_size, placement=placement)
    expected = [jax.random.key_data(jax.random.fold_in(key, i)) for i in range(23)]
    np.testing.assert_array_equal(values["key"], expected)


def exact():
    model, params, evidence = exact_model()
    return model, jax.tree.map(lambda p: p.astype(jnp.float32), params), evidence(IMAGES / 255)


def perturbed(layers=()):
    """Return (model, params) away from the initial parameters."""
    model = build_model(ModelConfig(hidden=(6,), latent_dim=2, latent_layers=layers), IMAGE_SHAPE)
    params = init(model, jax.random.key(0), jnp.zeros((1, *IMAGE_SHAPE)))["params"]
    return model, jax.tree.map(lambda p: p + 0.3 * jax.random.normal(jax.random.key(p.size), p.shape), params)


@pytest.mark.parametrize("batch_size", [5, 23])
def test_numbers_of_the_exact_model(batch_size):
    model, params, log_px = exact()
    evaluator = Evaluator(model, "none", batch_size)
    likelihood = evaluator.likelihood(params, jax.random.key(0), IMAGES, num_samples=10, chunk=4)
    np.testing.assert_allclose(likelihood["nll"], -log_px.mean(), rtol=1e-5)
    np.testing.assert_allclose(likelihood["nll_se"], log_px.std(ddof=1) / np.sqrt(23), rtol=1e-4)
    np.testing.assert_allclose(likelihood["ess"], 10, rtol=1e-3)
    bound = evaluator.bound(params, jax.random.key(0), IMAGES)
    np.testing.assert_allclose(bound["elbo"], bound["reconstruction"] - bound["kl"], rtol=1e-6)
    assert abs(bound["elbo"] - log_px.mean()) < 5 * bound["elbo_se"] + 1


@pytest.mark.parametrize("layers", [(), (5,)])
@pytest.mark.parametrize(
    ("impl", "batch_size"),
    [
        ("threefry2x32", 10),
        ("rbg", 24),
        ("rbg", 10),
    ],
)
def test_devices_that_do_not_divide_the_batch_change_no_random_number(layers, impl, batch_size):
    assert jax.device_count() == 8
    model, params = perturbed(layers)
    key = jax.random.key(1, impl=impl)
    found = []
    for devices in (1, 3, 8):
        evaluator = Evaluator(model, "dynamic", batch_size, sharding.batch_sharding(sharding.make_mesh(devices)))
        values = evaluator.likelihood(params, key, IMAGES, num_samples=7, chunk=3) | evaluator.bound(
            params, key, IMAGES
        )
        found.append({name: value for name, value in values.items() if isinstance(value, float)})
    assert found[1] == pytest.approx(found[0], rel=1e-5)
    assert found[2] == pytest.approx(found[0], rel=1e-5)
    other = Evaluator(model, "dynamic", batch_size).bound(params, jax.random.key(2, impl=impl), IMAGES)["elbo"]
    assert abs(other - found[0]["elbo"]) > 1e-3


@pytest.mark.parametrize("layers", [(), (5,)])
def test_batch_size_and_chunk_change_no_random_number(layers):
    model, params = perturbed(layers)
    found = []
    for batch_size, chunk in ((23, 7), (10, 3), (5, 1), (100, 100)):
        evaluator, key = Evaluator(model, "dynamic", batch_size), jax.random.key(1)
        values = evaluator.likelihood(params, key, IMAGES, num_samples=7, chunk=chunk)
        values |= evaluator.bound(params, key, IMAGES)
        found.append({name: value for name, value in values.items() if isinstance(value, float)})
    for other in found[1:]:
        assert other == pytest.approx(found[0], rel=1e-5)


def test_a_padded_batch_has_the_same_bits_as_a_full_one():
    """The last batch of 7 images and the first 7 of 10 images are rows of one program."""
    model, params = perturbed()
    settings = {"model": model, "binarization": "dynamic"}
    for per_example in (
        functools.partial(evaluator.elbo_terms, **settings),
        functools.partial(evaluator.likelihood_terms, **settings, num_samples=5, chunk=2),
    ):
        program = jax.jit(per_example)
        full, padded = (
            evaluate_examples(program, params, jax.random.key(1), IMAGES[:count], batch_size=10) for count in (10, 7)
        )
        assert program._cache_size() == 1
        for name, values in padded.items():
            np.testing.assert_array_equal(values, full[name][:7], err_msg=name)


def test_active_units_are_counted_by_the_variance_of_their_mean():
    model, params, _ = exact()
    gain = params["posterior_mean"]["kernel"]
    images = np.random.default_rng(1).integers(0, 2, size=(50, *IMAGE_SHAPE), dtype=np.uint8) * 255
    assert Evaluator(model, "none", 10).bound(params, jax.random.key(0), images)["active_units"] == 2
    inactive = params | {"posterior_mean": params["posterior_mean"] | {"kernel": gain.at[:, 0].set(0)}}
    assert Evaluator(model, "none", 10).bound(inactive, jax.random.key(0), images)["active_units"] == 1


def test_a_unit_is_active_above_a_variance_of_one_hundredth():
    """A posterior mean that is a times a pixel, which is on in half of the images, has the variance a²/4."""
    model, params, _ = exact()
    images = np.zeros((40, *IMAGE_SHAPE), np.uint8)
    images[::2, 0, 0] = 255
    kernel = jnp.zeros_like(params["posterior_mean"]["kernel"])
    gains = {0: 2 * np.sqrt(0.0099), 1: 2 * np.sqrt(0.0101)}
    for unit, gain in gains.items():
        kernel = kernel.at[0, unit].set(gain)
    params = params | {"posterior_mean": params["posterior_mean"] | {"kernel": kernel}}
    assert Evaluator(model, "none", 10).bound(params, jax.random.key(0), images)["active_units"] == 1


def test_bound_and_likelihood_use_the_same_binarized_images():
    """With a decoder that ignores the code, both are log p(x|0) of the binarized images."""
    model, params, _ = exact()
    params = params | {"decoder": jax.tree.map(jnp.zeros_like, params["decoder"])}
    params["posterior_mean"] = jax.tree.map(jnp.zeros_like, params["posterior_mean"])
    params["posterior_log_variance"] = jax.tree.map(jnp.zeros_like, params["posterior_log_variance"])
    evaluator, key = Evaluator(model, "dynamic", 10), jax.random.key(3)
    bound = evaluator.bound(params, key, IMAGES)
    likelihood = evaluator.likelihood(params, key, IMAGES, num_samples=2, chunk=2)
    assert bound["elbo"] == pytest.approx(-likelihood["nll"], rel=1e-5)
    assert bound["elbo_se"] == pytest.approx(likelihood["nll_se"], rel=1e-4)


def test_the_effective_sample_size_is_the_median_over_the_images(monkeypatch):
    found = {"log_px": np.zeros(5), "ess": np.array([1.0, 2.0, 3.0, 10.0, 10.0])}
    monkeypatch.setattr(evaluator, "evaluate_examples", lambda *_, **__: found)
    model, params, _ = exact()
    result = Evaluator(model, "none", 5).likelihood(params, jax.random.key(0), IMAGES, num_samples=10, chunk=5)
    assert result["ess"] == 3


def test_equal_keys_have_equal_results_and_one_compilation():
    model, params, _ = exact()
    evaluator = Evaluator(model, "dynamic", 10)
    first, again = (evaluator.bound(params, jax.random.key(4), IMAGES) for _ in range(2))
    other = evaluator.bound(params, jax.random.key(5), IMAGES)
    assert first == again
    assert first != other
    assert evaluator._elbo._cache_size() == 1


def test_the_squared_error_is_that_of_decoding_the_mean_and_the_psnr_follows():
    model, params, _ = exact()
    found = Evaluator(model, "none", 10).bound(params, jax.random.key(0), IMAGES)
    x = jnp.asarray(IMAGES / 255, jnp.float32)
    residual = x - model.apply({"params": params}, {"x": x}).mean()
    expected = float(jnp.square(residual).sum(axis=(1, 2, 3)).mean())
    assert found["squared_error"] == pytest.approx(expected, rel=1e-4)
    assert found["psnr"] == pytest.approx(-10 * np.log10(expected / IMAGES[0].size), rel=1e-4)


def test_an_upper_layer_without_information_about_the_image_is_not_active():
    """Its mean given the layer below varies, but a unit is active only if the mean varies with the image."""
    model, params, _ = two_layer_model()
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), params)
    pixels = np.random.default_rng(1).integers(0, 2, size=(400, *IMAGE_SHAPE), dtype=np.uint8) * 255
    units = lambda p: Evaluator(model, "none", 50).bound(p, jax.random.key(0), pixels)["active_units_by_layer"]  # noqa: E731
    assert units(params) == [2, 2]
    head = params["posterior_mean"]
    uninformed = params | {"posterior_mean": head | {"kernel": jnp.zeros_like(head["kernel"])}}
    uninformed["posterior_log_variance"] = jax.tree.map(jnp.zeros_like, params["posterior_log_variance"])
    uninformed["posterior_layers_0"] = affine(np.array([1.0, -2.0]), np.zeros(2), np.ones(2))
    assert units(jax.tree.map(lambda leaf: leaf.astype(jnp.float32), uninformed)) == [0, 0]
    # z_1 has one mean for all images and a width for each. z_2 is its positive part, whose mean depends on the width.
    rectified = ConditionalNormal((LATENT,), ACTIVATIONS["relu"], LATENT)
    model = model.clone(posterior_layers=(rectified,))
    uninformed["posterior_log_variance"] = {"kernel": head["kernel"] * 3, "bias": jnp.zeros(LATENT)}
    plain = affine(np.array([1.0, 1.0]), np.zeros(2), np.ones(2))
    uninformed["posterior_layers_0"] = plain | {"Dense_0": plain["mean"]}
    assert units(jax.tree.map(lambda leaf: leaf.astype(jnp.float32), uninformed)) == [0, 2]
