import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jitted import apply, init, log_prob

from vae_jax import kernels
from vae_jax.config.schema import ModelConfig
from vae_jax.distributions.bernoulli import Bernoulli
from vae_jax.distributions.deterministic import Deterministic
from vae_jax.distributions.logistic_mixture import DiscretizedLogisticMixture
from vae_jax.distributions.normal import Normal
from vae_jax.errors import InputError
from vae_jax.models.build import ACTIVATIONS, build_model
from vae_jax.models.conv import depth_to_space, space_to_depth
from vae_jax.models.vae import with_output_bias

BASE = ModelConfig(hidden=(8, 6), latent_dim=3, activation="gelu")
SHAPES = [(8, 8, 1), (28, 20, 1), (7, 5, 3), (1, 9, 1)]
NETWORKS = ["mlp", "conv", "residual"]


@functools.cache
def made(network, shape, **changes):
    model = build_model(dataclasses.replace(BASE, network=network, **dict(changes)), shape)
    return model, init(model, jax.random.key(0), jnp.zeros((1, *shape)))["params"]


def picture(shape, count=2):
    return jax.random.uniform(jax.random.key(1), (count, *shape))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("network", NETWORKS)
def test_any_image_size_and_any_leading_axes(network, shape):
    model, params = made(network, shape)
    q = apply(model, params, picture(shape), method="encode")
    assert isinstance(q, Normal)
    assert q.mean().shape == (2, 3)
    z = jax.random.normal(jax.random.key(2), (4, 2, 3))
    p = apply(model, params, z, method="decode")
    assert p.mean().shape == (4, 2, *shape)
    assert log_prob(p, picture(shape)).shape == (4, 2)


@pytest.mark.parametrize("network", NETWORKS)
def test_each_code_is_decoded_alone(network):
    shape = (8, 8, 1)
    model, params = made(network, shape)
    z = jax.random.normal(jax.random.key(2), (4, 2, 3))
    whole = apply(model, params, z, method="decode").logits
    for k in range(4):
        for b in range(2):
            one = apply(model, params, z[k, b][None], method="decode").logits[0]
            np.testing.assert_allclose(whole[k, b], one, atol=1e-5)


@pytest.mark.parametrize(
    ("likelihood", "kind"),
    [
        ("bernoulli", Bernoulli),
        ("gaussian", Normal),
        ("learned-gaussian", Normal),
        ("logistic-mixture", DiscretizedLogisticMixture),
    ],
)
@pytest.mark.parametrize("network", NETWORKS)
def test_every_likelihood_with_every_network(network, likelihood, kind):
    shape = (6, 4, 3)
    model, params = made(network, shape, likelihood=likelihood)
    p = apply(model, params, jnp.zeros((2, 3)), method="decode")
    assert isinstance(p, kind)
    assert p.mean().shape == (2, *shape)
    assert np.all(np.isfinite(log_prob(p, picture(shape))))


def test_the_gaussian_scales_are_those_asked_for():
    shape = (6, 4, 1)
    model, params = made("mlp", shape, likelihood="gaussian", likelihood_scale=0.25)
    p = apply(model, params, jnp.zeros((2, 3)), method="decode")
    np.testing.assert_allclose(jnp.exp(p.log_scale), 0.25, rtol=1e-6)
    model, params = made("mlp", shape, likelihood="learned-gaussian")
    density = lambda w: log_prob(apply(model, w, jnp.zeros((2, 3)), method="decode"), picture(shape)).sum()  # noqa: E731
    assert jax.jit(jax.grad(density))(params)["likelihood_log_scale"] != 0


def test_posteriors():
    shape = (8, 8, 1)
    model, params = made("mlp", shape, posterior="deterministic")
    assert isinstance(apply(model, params, picture(shape), method="encode"), Deterministic)
    assert "posterior_log_variance" not in params
    prior = model.apply({"params": params}, method="prior")
    np.testing.assert_array_equal(prior.mean(), np.zeros(3))
    np.testing.assert_array_equal(prior.log_scale, np.zeros(3))


def test_a_tied_decoder_has_biases_only_and_uses_the_encoders_kernels():
    shape = (4, 4, 1)
    model, params = made(
        "mlp", shape, tied=True, posterior="deterministic", activation="identity", likelihood="gaussian"
    )
    assert all(name.startswith("bias") for name in params["decoder"])
    z = jax.random.normal(jax.random.key(2), (2, 3))
    first, second = (params["encoder"][f"layers_{i}"]["kernel"] for i in range(2))
    expected = z @ params["posterior_mean"]["kernel"].T @ second.T @ first.T
    decoded = apply(model, params, z, method="decode").mean()
    np.testing.assert_allclose(decoded.reshape(2, -1), expected, atol=1e-5)


def test_a_residual_block_begins_as_the_identity():
    shape = (8, 8, 1)
    model, params = made("residual", shape)
    blank = jax.tree.map(lambda leaf: leaf, params)
    for part in ("encoder", "decoder"):
        for name, block in blank[part].items():
            if name.startswith("ConvBlock"):
                block["Conv_0"]["kernel"] = block["Conv_0"]["kernel"] * 5
    same = [model.apply({"params": p}, picture(shape)).logits for p in (params, blank)]
    np.testing.assert_array_equal(*same)


def test_activations_are_those_of_their_names():
    x = jnp.linspace(-3, 3, 7)
    for name, function in ACTIVATIONS.items():
        expected = {"identity": lambda v: v, "tanh": jnp.tanh}.get(name) or getattr(jax.nn, name)
        np.testing.assert_allclose(function(x), expected(x), rtol=1e-6)


class TestConvolve:
    x = jax.random.normal(jax.random.key(0), (3, 5, 4, 2))
    kernel = jax.random.normal(jax.random.key(1), (3, 3, 2, 6))

    def test_against_a_sum_over_shifts(self):
        padded = np.pad(self.x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        expected = sum(
            np.einsum("bhwc,cd->bhwd", padded[:, i : i + 5, j : j + 4], self.kernel[i, j])
            for i in range(3)
            for j in range(3)
        )
        np.testing.assert_allclose(kernels.convolve(self.x, self.kernel), expected, atol=1e-5)

    def test_both_forms_of_the_gradient_are_the_gradient(self):
        grad = jax.random.normal(jax.random.key(2), (3, 5, 4, 6))
        with jax.enable_x64(True):
            arguments = [jnp.asarray(a, jnp.float64) for a in (self.x, self.kernel, grad)]
            ours = kernels._same_form_gradients(*arguments)
            transposed = kernels._transposed_gradients(*arguments)
            for a, b in zip(ours, transposed, strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10)

            def dotted(x):
                return jnp.vdot(kernels.convolve(x, arguments[1]), arguments[2])

            step = 1e-6 * arguments[0]
            slope = (dotted(arguments[0] + step) - dotted(arguments[0] - step)) / 2e-6
            np.testing.assert_allclose(jnp.vdot(ours[0], arguments[0]), slope, rtol=1e-7)

    def test_per_example_gradients(self):
        def loss(kernel, x):
            return jnp.sum(kernels.convolve(x[None], kernel) ** 2)

        rows = jax.vmap(jax.grad(loss), in_axes=(None, 0))(self.kernel, self.x)
        whole = jax.grad(lambda kernel: jnp.sum(kernels.convolve(self.x, kernel) ** 2))(self.kernel)
        np.testing.assert_allclose(rows.sum(axis=0), whole, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("sides", [(4, 6), (5, 3), (1, 1)])
def test_depth_to_space_undoes_space_to_depth(sides):
    x = jax.random.normal(jax.random.key(0), (2, *sides, 3))
    deep = space_to_depth(x)
    assert deep.shape == (2, -(-sides[0] // 2), -(-sides[1] // 2), 12)
    np.testing.assert_array_equal(depth_to_space(deep, *sides), x)


@pytest.mark.parametrize(
    ("likelihood", "mean"),
    [("bernoulli", 0.3), ("gaussian", 0.3), ("learned-gaussian", 0.3), ("logistic-mixture", 0.5)],
)
def test_the_output_starts_at_the_mean_image(likelihood, mean):
    shape = (6, 4, 1)
    model, params = made("mlp", shape, likelihood=likelihood)
    params = with_output_bias(params, jnp.full(shape, 0.3), likelihood=likelihood)
    silent = jax.tree.map(jnp.zeros_like, params["decoder"])
    p = model.apply({"params": params | {"decoder": silent}}, jnp.ones((2, 3)), method="decode")
    np.testing.assert_allclose(p.mean(), mean, rtol=1e-5)


def test_a_pixel_that_is_always_off_or_on_starts_at_a_thousandth():
    shape = (1, 3, 1)
    _, params = made("mlp", shape)
    biased = with_output_bias(params, jnp.array([0.0, 0.002, 1.0]).reshape(shape), likelihood="bernoulli")
    expected = np.log([0.001 / 0.999, 0.002 / 0.998, 0.999 / 0.001])
    np.testing.assert_allclose(biased["output_bias"].ravel(), expected, rtol=1e-4)


@pytest.mark.fault
@pytest.mark.parametrize("kind", ["uint8", "int32", "bool"])
def test_images_and_codes_that_are_no_floats_are_refused(kind):
    shape = (4, 3, 1)
    model, params = made("mlp", shape)
    with pytest.raises(InputError, match=rf"^images={kind}\[2, 4, 3, 1\] must be floats \[B, 4, 3, 1\]"):
        apply(model, params, jnp.ones((2, *shape), kind), method="encode")
    with pytest.raises(InputError, match=rf"^codes={kind}\[2, 3\] must be floats \[..., 3\]"):
        apply(model, params, jnp.ones((2, 3), kind), method="decode")


@pytest.mark.fault
def test_a_name_that_there_is_not_is_refused_where_the_model_is_made():
    for name, value in {"network": "con", "likelihood": "gausian", "activation": "tan", "posterior": "point"}.items():
        with pytest.raises(InputError, match=rf"^model\.{name}='{value}' must be one of "):
            made("mlp", (4, 4, 1), **{name: value}) if name != "network" else made(value, (4, 4, 1))
    own = build_model(BASE, (4, 4, 1)).clone(likelihood="poisson")
    with pytest.raises(InputError, match=r"^model\.likelihood: 'poisson' given"):
        own.init(jax.random.key(0), picture((4, 4, 1)))


def test_a_mean_image_of_another_shape_is_refused():
    _, params = made("mlp", (6, 4, 1))
    with pytest.raises(AssertionError):
        with_output_bias(params, jnp.zeros((1, 1, 1)), likelihood="bernoulli")


def test_a_log_scale_head_is_drawn_like_the_other_layers_and_gives_the_scale_itself():
    shape = (4, 4, 1)
    model, params = made("mlp", shape, latent_layers=(3,), layer_hidden=(5,), scale_head="log-scale")
    heads = {
        "posterior": params["posterior_log_scale"],
        "upwards": params["posterior_layers_0"]["log_scale"],
        "downwards": params["prior_layers_0"]["log_scale"],
    }
    for name, head in heads.items():
        bound = np.sqrt(6 / sum(head["kernel"].shape))  # Glorot's
        assert bound / 2 < np.abs(head["kernel"]).max() <= bound, name
        np.testing.assert_array_equal(head["bias"], 0, err_msg=name)
    x, shift = picture(shape), 0.3
    before = apply(model, params, x, method="encode").along_means()
    head = heads["posterior"]
    params = params | {"posterior_log_scale": head | {"bias": head["bias"] + shift}}
    after = apply(model, params, x, method="encode").along_means()
    np.testing.assert_allclose((after.log_scale - before.log_scale)[:, :3], shift, rtol=1e-4)
