import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jitted import init
from linear_gaussian import IMAGE_SHAPE, exact_model
from scipy.stats import multivariate_normal

from vae_jax.config.schema import ModelConfig
from vae_jax.models.build import build_model
from vae_jax.runtime import sharding
from vae_jax.training import evaluator
from vae_jax.training.evaluator import Evaluator, evaluate_examples, padded_batches
from vae_jax.training.metrics import bits_per_dim, peak_signal_to_noise

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


def test_each_batch_has_a_key_of_its_own():
    def per_example(params, key, images):
        return {"draw": jax.random.uniform(key, (len(images),))}

    values = evaluate_examples(per_example, None, jax.random.key(0), IMAGES, batch_size=5)
    assert len(np.unique(values["draw"])) == 23
    expected = jax.random.uniform(jax.random.fold_in(jax.random.key(0), 1), (5,))
    np.testing.assert_array_equal(values["draw"][5:10], expected)


def exact():
    model, params, evidence = exact_model()
    return model, jax.tree.map(lambda p: p.astype(jnp.float32), params), evidence(IMAGES / 255)


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
@pytest.mark.parametrize("impl", ["threefry2x32", "rbg"])
def test_devices_that_do_not_divide_the_batch_change_no_draw(layers, impl):
    assert jax.device_count() == 8
    model = build_model(ModelConfig(hidden=(6,), latent_dim=2, latent_layers=layers), IMAGE_SHAPE)
    params = init(model, jax.random.key(0), jnp.zeros((1, *IMAGE_SHAPE)))["params"]
    params = jax.tree.map(lambda p: p + 0.3 * jax.random.normal(jax.random.key(p.size), p.shape), params)
    key, whole = jax.random.key(1, impl=impl), IMAGES[:23]
    found = []
    for devices in (1, 3, 8):
        evaluator = Evaluator(model, "dynamic", 10, sharding.batch_sharding(sharding.make_mesh(devices)))
        values = evaluator.likelihood(params, key, whole, num_samples=7, chunk=3) | evaluator.bound(params, key, whole)
        found.append({name: value for name, value in values.items() if isinstance(value, float)})
    assert found[1] == pytest.approx(found[0], rel=1e-5)
    assert found[2] == pytest.approx(found[0], rel=1e-5)
    other = Evaluator(model, "dynamic", 12).bound(params, key, whole)["elbo"]
    assert abs(other - found[0]["elbo"]) > 1e-3


def test_active_units_are_counted_by_the_variance_of_their_mean():
    model, params, _ = exact()
    gain = params["posterior_mean"]["kernel"]
    images = np.random.default_rng(1).integers(0, 2, size=(50, *IMAGE_SHAPE), dtype=np.uint8) * 255
    assert Evaluator(model, "none", 10).bound(params, jax.random.key(0), images)["active_units"] == 2
    asleep = params | {"posterior_mean": params["posterior_mean"] | {"kernel": gain.at[:, 0].set(0)}}
    assert Evaluator(model, "none", 10).bound(asleep, jax.random.key(0), images)["active_units"] == 1


def test_a_unit_is_active_from_a_hundredth():
    """Of a posterior mean that is one pixel, off or on in half of the images, and of gain a the variance is a²/4."""
    model, params, _ = exact()
    images = np.zeros((40, *IMAGE_SHAPE), np.uint8)
    images[::2, 0, 0] = 255
    kernel = jnp.zeros_like(params["posterior_mean"]["kernel"])
    gains = {0: 2 * np.sqrt(0.0099), 1: 2 * np.sqrt(0.0101)}
    for unit, gain in gains.items():
        kernel = kernel.at[0, unit].set(gain)
    params = params | {"posterior_mean": params["posterior_mean"] | {"kernel": kernel}}
    assert Evaluator(model, "none", 10).bound(params, jax.random.key(0), images)["active_units"] == 1


def test_bound_and_likelihood_are_of_the_same_draw_of_an_image():
    """The decoder of the exact model at the prior's mean, for all codes: both are log p(x|0) of what was drawn."""
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


def test_the_same_key_gives_the_same_numbers_and_one_compilation_serves():
    model, params, _ = exact()
    evaluator = Evaluator(model, "dynamic", 10)
    first, again = (evaluator.bound(params, jax.random.key(4), IMAGES) for _ in range(2))
    other = evaluator.bound(params, jax.random.key(5), IMAGES)
    assert first == again
    assert first != other
    assert evaluator._elbo._cache_size() == 1


def test_bits_per_dim():
    pixels = multivariate_normal([0.0], [[1.0]]).entropy()  # any number of nats
    assert bits_per_dim(float(pixels) * 12, (2, 2, 3)) == pytest.approx(float(pixels) / np.log(2))
    assert bits_per_dim(np.log(256) * 3072, (32, 32, 3)) == pytest.approx(8)


def test_the_squared_error_is_that_of_decoding_the_mean_and_the_psnr_follows():
    model, params, _ = exact()
    found = Evaluator(model, "none", 10).bound(params, jax.random.key(0), IMAGES)
    x = jnp.asarray(IMAGES / 255, jnp.float32)
    missed = x - model.apply({"params": params}, x).mean()
    expected = float(jnp.square(missed).sum(axis=(1, 2, 3)).mean())
    assert found["squared_error"] == pytest.approx(expected, rel=1e-4)
    assert found["psnr"] == pytest.approx(-10 * np.log10(expected / IMAGES[0].size), rel=1e-4)


def test_psnr():
    assert peak_signal_to_noise(7.84, (28, 28, 1)) == pytest.approx(20)
    assert peak_signal_to_noise(0.0, (28, 28, 1)) is None
