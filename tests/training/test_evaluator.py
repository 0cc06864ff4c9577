"""Evaluations: every example once, for any batch size and any number of devices, against exact models."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jitted import init
from linear_gaussian import IMAGE_SHAPE, LATENT, exact_model
from subsets import by_default
from two_layer_gaussian import affine, two_layer_model

from vae_jax.config import Config, apply_overrides
from vae_jax.data.preprocess import DynamicBinarizationConfig, IdentityConfig, Log1pConfig, ScaleConfig
from vae_jax.distributions import Normal, from_means, standard_normal
from vae_jax.inference import decode, encode
from vae_jax.models.build import build_model
from vae_jax.models.networks import ACTIVATIONS
from vae_jax.models.posteriors import ConditionalNormal
from vae_jax.runtime import sharding
from vae_jax.training import evaluator
from vae_jax.training.evaluator import Evaluator
from vae_jax.training.example_batches import evaluate_examples

PIXELS = np.random.default_rng(0).integers(0, 256, size=(23, *IMAGE_SHAPE), dtype=np.uint8)
IMAGES = {"x": PIXELS}
DYNAMIC, SCALE = DynamicBinarizationConfig(), ScaleConfig()


def exact():
    model, params, evidence = exact_model()
    return model, jax.tree.map(lambda p: p.astype(jnp.float32), params), evidence(PIXELS / 255)


def with_mean_kernel(params, kernel):
    """Return the parameters with another linear map from an image to the posterior mean."""
    posterior = params["posterior"]
    return params | {"posterior": posterior | {"mean": posterior["mean"] | {"kernel": kernel}}}


def perturbed(layers=()):
    """Return (model, params) away from the initial parameters."""
    given = {"network.hidden": (6,), "model.latent_dim": 2}
    given |= {"model": "layered", "model.latent_layers": layers} if layers else {}
    model = build_model(apply_overrides(Config(), given), IMAGE_SHAPE)
    params = init(model, jax.random.key(0), jnp.zeros((1, *IMAGE_SHAPE)))["params"]
    return model, jax.tree.map(lambda p: p + 0.3 * jax.random.normal(jax.random.key(p.size), p.shape), params)


@pytest.mark.parametrize("batch_size", [5, 23])
def test_numbers_of_the_exact_model(batch_size):
    model, params, log_px = exact()
    evaluator = Evaluator(model, SCALE, batch_size=batch_size)
    likelihood = evaluator.likelihood(params, jax.random.key(0), IMAGES, num_samples=10, chunk=4)
    np.testing.assert_allclose(likelihood["nll"], -log_px.mean(), rtol=1e-5)
    np.testing.assert_allclose(likelihood["nll_se"], log_px.std(ddof=1) / np.sqrt(23), rtol=1e-4)
    np.testing.assert_allclose(likelihood["ess"], 10, rtol=1e-3)
    bound = evaluator.bound(params, jax.random.key(0), IMAGES)
    np.testing.assert_allclose(bound["elbo"], bound["reconstruction"] - bound["kl"], rtol=1e-6)
    assert abs(bound["elbo"] - log_px.mean()) < 5 * bound["elbo_se"] + 1


@pytest.mark.parametrize(
    ("impl", "layers"),
    by_default(lambda case: not case[1], [("threefry2x32", ()), ("threefry2x32", (5,)), ("rbg", ())]),
)
def test_devices_that_do_not_divide_the_batch_change_no_random_number(impl, layers):
    assert jax.device_count() == 8
    batch_size = 10
    model, params = perturbed(layers)
    key = jax.random.key(1, impl=impl)
    found = []
    for devices in (1, 8):
        evaluator = Evaluator(
            model, DYNAMIC, batch_size=batch_size, placement=sharding.batch_sharding(sharding.make_mesh(devices))
        )
        values = evaluator.likelihood(params, key, IMAGES, num_samples=7, chunk=3) | evaluator.bound(
            params, key, IMAGES
        )
        found.append({name: value for name, value in values.items() if isinstance(value, float)})
    assert found[1] == pytest.approx(found[0], rel=1e-5)
    other = evaluator.bound(params, jax.random.key(2, impl=impl), IMAGES)["elbo"]
    assert abs(other - found[0]["elbo"]) > 1e-3


@pytest.mark.parametrize("layers", [(), pytest.param((5,), marks=pytest.mark.thorough)])
def test_batch_size_and_chunk_change_no_random_number(layers):
    model, params = perturbed(layers)
    found = []
    for batch_size, chunk in ((23, 7), (10, 3), (5, 1), (100, 100)):
        evaluator, key = Evaluator(model, DYNAMIC, batch_size=batch_size), jax.random.key(1)
        values = evaluator.likelihood(params, key, IMAGES, num_samples=7, chunk=chunk)
        values |= evaluator.bound(params, key, IMAGES)
        found.append({name: value for name, value in values.items() if isinstance(value, float)})
    for other in found[1:]:
        assert other == pytest.approx(found[0], rel=1e-5)


def test_a_padded_batch_has_the_same_bits_as_a_full_one():
    """The last 7 of 17 images, and the same ones among 20, are rows of one program."""
    model, params = perturbed()
    settings = {"model": model, "preprocess": DYNAMIC}
    for per_example in (
        functools.partial(evaluator.elbo_terms, **settings, kind="images"),
        functools.partial(evaluator.likelihood_terms, **settings, num_samples=5, chunk=2),
    ):
        program = jax.jit(per_example)
        full, padded = (
            evaluate_examples(program, params, jax.random.key(1), {"x": PIXELS[:count]}, batch_size=10)
            for count in (20, 17)
        )
        assert program._cache_size() == 1
        for name, values in padded.items():
            np.testing.assert_array_equal(values, full[name][:17], err_msg=name)


def test_active_units_are_counted_by_the_variance_of_their_mean():
    model, params, _ = exact()
    gain = params["posterior"]["mean"]["kernel"]
    images = np.random.default_rng(1).integers(0, 2, size=(50, *IMAGE_SHAPE), dtype=np.uint8) * 255
    assert Evaluator(model, SCALE, batch_size=10).bound(params, jax.random.key(0), {"x": images})["active_units"] == 2
    inactive = with_mean_kernel(params, gain.at[:, 0].set(0))
    assert Evaluator(model, SCALE, batch_size=10).bound(inactive, jax.random.key(0), {"x": images})["active_units"] == 1


def test_a_unit_is_active_above_a_variance_of_one_hundredth():
    """A posterior mean that is a times a pixel, which is on in half of the images, has the variance a²/4."""
    model, params, _ = exact()
    images = np.zeros((40, *IMAGE_SHAPE), np.uint8)
    images[::2, 0, 0] = 255
    kernel = jnp.zeros_like(params["posterior"]["mean"]["kernel"])
    gains = {0: 2 * np.sqrt(0.0099), 1: 2 * np.sqrt(0.0101)}
    for unit, gain in gains.items():
        kernel = kernel.at[0, unit].set(gain)
    params = with_mean_kernel(params, kernel)
    assert Evaluator(model, SCALE, batch_size=10).bound(params, jax.random.key(0), {"x": images})["active_units"] == 1


def test_bound_and_likelihood_use_the_same_binarized_images():
    """With a decoder that ignores the code, both are log p(x|0) of the binarized images."""
    model, params, _ = exact()
    params = params | {"decoder": jax.tree.map(jnp.zeros_like, params["decoder"])}
    params["posterior"] = jax.tree.map(jnp.zeros_like, params["posterior"])
    evaluator, key = Evaluator(model, DYNAMIC, batch_size=10), jax.random.key(3)
    bound = evaluator.bound(params, key, IMAGES)
    likelihood = evaluator.likelihood(params, key, IMAGES, num_samples=2, chunk=2)
    assert bound["elbo"] == pytest.approx(-likelihood["nll"], rel=1e-5)
    assert bound["elbo_se"] == pytest.approx(likelihood["nll_se"], rel=1e-4)


def test_the_effective_sample_size_is_the_median_over_the_images(monkeypatch):
    found = {"log_px": np.zeros(5), "ess": np.array([1.0, 2.0, 3.0, 10.0, 10.0])}
    found["pareto_k"] = np.array([0.1, 0.2, 0.3, 0.71, 0.9])
    monkeypatch.setattr(evaluator, "evaluate_examples", lambda *_, **__: found)
    model, params, _ = exact()
    result = Evaluator(model, SCALE, batch_size=5).likelihood(
        params, jax.random.key(0), IMAGES, num_samples=10, chunk=5
    )
    assert result["ess"] == 3
    assert (result["pareto_k"], result["pareto_k_above"]) == (0.3, 0.4)


def test_equal_keys_have_equal_results_and_one_compilation():
    model, params, _ = exact()
    evaluator = Evaluator(model, DYNAMIC, batch_size=10)
    first, again = (evaluator.bound(params, jax.random.key(4), IMAGES) for _ in range(2))
    other = evaluator.bound(params, jax.random.key(5), IMAGES)
    assert first == again
    assert first != other
    assert evaluator._elbo._cache_size() == 1


def test_the_squared_error_is_that_of_decoding_the_mean_and_the_psnr_follows():
    model, params, _ = exact()
    found = Evaluator(model, SCALE, batch_size=10).bound(params, jax.random.key(0), IMAGES)
    x = jnp.asarray(PIXELS / 255, jnp.float32)
    evidence = encode(params, {"x": x}, model=model)
    residual = x - decode(params, from_means(), evidence, model=model)[0].mean()
    expected = float(jnp.square(residual).sum(axis=(1, 2, 3)).mean())
    assert found["squared_error"] == pytest.approx(expected, rel=1e-4)
    assert found["psnr"] == pytest.approx(-10 * np.log10(expected / PIXELS[0].size), rel=1e-4)


def test_an_upper_layer_without_information_about_the_image_is_not_active():
    """Its mean given the layer below varies, but a unit is active only if the mean varies with the image."""
    model, params, _ = two_layer_model()
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), params)
    pixels = np.random.default_rng(1).integers(0, 2, size=(400, *IMAGE_SHAPE), dtype=np.uint8) * 255

    def units(params):
        found = Evaluator(model, SCALE, batch_size=50).bound(params, jax.random.key(0), {"x": pixels})
        return found["active_units_by_layer"]

    assert units(params) == [2, 2]
    kernel = params["posterior"]["mean"]["kernel"]
    uninformed = with_mean_kernel(params, jnp.zeros_like(kernel))
    uninformed["posterior"]["log_variance"] = jax.tree.map(jnp.zeros_like, params["posterior"]["log_variance"])
    uninformed["posterior_layers_0"] = affine(np.array([1.0, -2.0]), np.zeros(2), np.ones(2))
    assert units(jax.tree.map(lambda leaf: leaf.astype(jnp.float32), uninformed)) == [0, 0]
    # z_1 has one mean for all images and a width for each. z_2 is its positive part, whose mean depends on the width.
    rectified = ConditionalNormal(LATENT, hidden=(LATENT,), activation=ACTIVATIONS["relu"])
    model = model.clone(posterior_layers=(rectified,))
    uninformed["posterior"]["log_variance"] = {"kernel": kernel * 3, "bias": jnp.zeros(LATENT)}
    plain = affine(np.array([1.0, 1.0]), np.zeros(2), np.ones(2))
    uninformed["posterior_layers_0"] = plain | {"Dense_0": plain["mean"]}
    assert units(jax.tree.map(lambda leaf: leaf.astype(jnp.float32), uninformed)) == [0, 2]


class ConstantMean:
    """A model of vectors [B, 3] whose reconstruction is a constant; its code has no effect."""

    def __init__(self, value):
        self.value = value

    def apply(self, variables, *arguments, method):
        if method == "encode":
            (batch,) = arguments
            zeros = jnp.zeros((batch["x"].shape[0], 2))
            return Normal(zeros, zeros)
        draw, evidence, _ = arguments
        latent = draw("z", standard_normal((2,)), lambda: evidence)
        loc = jnp.full((*latent.z.shape[:-1], 3), self.value)
        return Normal(loc, jnp.zeros_like(loc)), (latent,)


@pytest.mark.parametrize(
    ("kind", "preprocess", "names"),
    [
        ("vectors", IdentityConfig(), {"squared_error", "explained_variance"}),
        ("counts", IdentityConfig(), {"squared_error", "log_squared_error"}),
        ("counts", Log1pConfig(), {"squared_error"}),
        ("counts", lambda key, batch: {"x": batch["x"].astype(jnp.float32)}, {"squared_error", "log_squared_error"}),
    ],
)
def test_each_kind_of_data_has_its_metrics(kind, preprocess, names):
    x = np.random.default_rng(0).poisson(4, (30, 3))
    stored = x.astype(np.int32 if kind == "counts" else np.float32)
    found = Evaluator(ConstantMean(2.0), preprocess, kind=kind, batch_size=7).bound(
        {}, jax.random.key(0), {"x": stored}
    )
    assert names == {name for name in found if name.endswith(("error", "variance", "psnr"))}
    inputs = np.log1p(x) if isinstance(preprocess, Log1pConfig) else x
    squared = np.square(inputs - 2).sum(axis=1).mean()
    assert found["squared_error"] == pytest.approx(squared, rel=1e-5)
    if kind == "vectors":
        assert found["explained_variance"] == pytest.approx(1 - squared / x.var(axis=0).sum(), rel=1e-4)
    if "log_squared_error" in names:
        assert found["log_squared_error"] == pytest.approx(
            np.square(np.log1p(x) - np.log(3)).sum(axis=1).mean(), rel=1e-5
        )


@pytest.mark.fault
def test_a_small_split_costs_what_it_has():
    seen = []

    def per_example(params, keys, batch):
        seen.append((keys.shape, batch["x"].shape))
        return {"x": batch["x"]}

    x = np.arange(3.0, dtype=np.float32)
    for placement, rows in ((None, 3), (sharding.batch_sharding(sharding.make_mesh(2)), 4)):
        found = evaluate_examples(per_example, {}, jax.random.key(0), {"x": x}, batch_size=80, placement=placement)
        np.testing.assert_array_equal(found["x"], x)
        assert seen.pop() == ((rows,), (rows,))
