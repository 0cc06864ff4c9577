"""Convolutional encoder and decoder: changes of resolution, the start of a residual block, and their settings."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from built_models import built, model_config, random_images
from jitted import apply

from vae_jax.config import Config, override
from vae_jax.distributions import Normal
from vae_jax.errors import InputError
from vae_jax.models.build import build_model, init_params
from vae_jax.models.conv import ConvConfig, ResidualConfig, depth_to_space, space_to_depth


@pytest.mark.parametrize(
    ("sides", "side", "shape"),
    [((4, 6), 2, (2, 3, 12)), ((5, 3), 2, (3, 2, 12)), ((1, 1), 2, (1, 1, 12)), ((7, 3), 3, (3, 1, 27))],
)
def test_depth_to_space_inverts_space_to_depth(sides, side, shape):
    x = jax.random.normal(jax.random.key(0), (2, *sides, 3))
    deep = space_to_depth(x, side)
    assert deep.shape == (2, *shape)
    np.testing.assert_array_equal(deep[0, 0, 0, :3], x[0, 0, 0])
    np.testing.assert_array_equal(depth_to_space(deep, *sides, side), x)


def test_a_residual_block_starts_as_the_identity():
    shape = (8, 8, 1)
    model, params = built("residual", shape)
    blank = jax.tree.map(lambda leaf: leaf, params)
    for part in ("encoder", "decoder"):
        for name, block in blank[part].items():
            if name.startswith("ConvBlock"):
                block["Conv_0"]["kernel"] = block["Conv_0"]["kernel"] * 5
    same = [model.apply({"params": p}, {"x": random_images(shape)}).logits for p in (params, blank)]
    np.testing.assert_array_equal(*same)


def test_arrays_without_a_batch_axis_are_refused():
    image = random_images((4, 6, 1))[0]
    with pytest.raises(AssertionError):
        space_to_depth(image)
    with pytest.raises(AssertionError):
        depth_to_space(image, 4, 6)


@pytest.mark.parametrize("config", [ConvConfig, ResidualConfig])
def test_the_settings_are_those_of_both_networks(config):
    chosen = config(hidden=(4, 6), activation="elu", blocks=2, remat=True)
    networks = chosen.build((5, 3, 2), 7, training=True)
    for network in networks:
        assert network.channels == (4, 6)
        assert network.blocks == 2
        assert network.residual is (config is ResidualConfig)
        assert network.activation is jax.nn.elu
        assert network.remat
        assert network.dtype is None
    assert networks[1].sides == (5, 3)
    assert networks[1].features == 7
    assert not any(network.remat for network in chosen.build((5, 3, 2), 7, training=False))


def test_rematerialization_changes_no_gradient():
    shape, gradients = (4, 4, 1), []
    _, params = built("residual", shape)
    for remat in (False, True):
        networks = ResidualConfig(hidden=(8, 6), remat=remat).build(shape, 1, training=True)

        def total(params, networks=networks):
            h = networks[0].apply({"params": params["encoder"]}, random_images(shape))
            return jnp.sum(networks[1].apply({"params": params["decoder"]}, h[:, :3]) ** 2)

        gradients.append(jax.jit(jax.grad(total))({name: params[name] for name in ("encoder", "decoder")}))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), *gradients)
    assert any(np.any(leaf != 0) for leaf in jax.tree.leaves(gradients[0]))


@pytest.mark.fault
@pytest.mark.parametrize("network", ["conv", "residual"])
def test_settings_and_data_that_convolutions_do_not_support_are_refused(network):
    with pytest.raises(InputError, match=rf"^network\.hidden=\(\) must be one or more .* with network={network}, for"):
        override(Config(), network=network, network__hidden=())
    with pytest.raises(InputError, match=rf"^network={network} must be mlp for examples of shape \[5\], which are no"):
        built(network, (5,))
    for setting, value in {"tied": True, "log1p": True}.items():
        with pytest.raises(
            InputError, match=rf"^network\.{setting} has no effect with network={network}; remove it or"
        ):
            override(Config(), **{"network": network, f"network__{setting}": value})
    with pytest.raises(InputError, match=r"^network\.blocks=0 must be greater than 0"):
        override(Config(), network=network, network__blocks=0)


def test_leading_axes_of_codes_are_kept_in_order():
    model, params = built("conv", (4, 6, 1))
    z = jax.random.normal(jax.random.key(0), (2, 3, 4, 3))
    together = apply(model, params, z, method="decode").logits
    assert together.shape == (2, 3, 4, 4, 6, 1)
    np.testing.assert_allclose(together[1, 2], apply(model, params, z[1, 2], method="decode").logits, atol=1e-5)


@pytest.mark.parametrize("config", [ConvConfig, ResidualConfig])
def test_the_last_layer_is_a_convolution_of_all_pixels(config):
    """Without it the pixels of a 2x2 square are different functions of the same features: a fixed pattern."""
    _, decoder = config(hidden=(6, 8), output_channels=2).build((5, 4, 3), 7, training=False)
    z = jax.random.normal(jax.random.key(0), (2, 3))
    variables = jax.jit(decoder.init)(jax.random.key(1), z)
    image, layers = decoder.apply(variables, z, capture_intermediates=True)
    (last,) = layers["intermediates"]["Conv_0"]["__call__"]
    assert last.shape == (2, 5, 4, 7)
    np.testing.assert_array_equal(image, last)
    assert variables["params"]["Conv_0"]["kernel"].shape == (3, 3, 2, 7)


def test_without_output_channels_a_decoder_ends_in_a_change_of_resolution():
    _, decoder = ResidualConfig(hidden=(6, 8), output_channels=0).build((5, 4, 3), 7, training=False)
    variables = jax.jit(decoder.init)(jax.random.key(1), jnp.zeros((2, 3)))
    assert "Conv_0" not in variables["params"]
    assert variables["params"]["Dense_2"]["kernel"].shape == (6, 28)


@pytest.mark.parametrize("network", ["conv", "residual"])
def test_the_code_of_a_place_and_the_pixels_there_do_not_depend_on_distant_ones(network):
    """A level of 2x2 pixels and one 3x3 convolution: 4 pixels away."""
    shape, numbers = (5, 23, 1), 2
    settings = {"network__hidden": (4,), "network__spatial_code": True, "network__output_channels": 2}
    model, params = built(network, shape, model__latent_dim=numbers, **settings)
    x, first = random_images(shape), jnp.zeros((2, 3, 12, numbers)).at[:, 1, 0].set(1.0).reshape(2, -1)
    q, back = jax.vjp(lambda x: apply(model, params, x, method="encode"), x)
    assert q.loc.shape == q.log_scale.shape == (2, 3 * 12 * numbers)  # odd sides: half of them, rounded up
    (to_pixels,) = back(Normal(first, first))
    assert not np.any(to_pixels[:, :, 4:])
    assert np.any(to_pixels[:, :, :2])
    z = jax.random.normal(jax.random.key(0), (3, 2, 3 * 12 * numbers))
    p, back = jax.vjp(lambda z: apply(model, params, z, method="decode").logits, z)
    assert p.shape == (3, 2, *shape)
    (to_codes,) = back(jnp.zeros_like(p).at[:, :, :, -1].set(1.0))
    to_codes = to_codes.reshape(3, 2, 3, 12, numbers)
    assert not np.any(to_codes[:, :, :, :9])
    assert np.any(to_codes[:, :, :, 11])


def test_places_share_the_layers_of_a_spatial_code():
    """A larger image has more numbers in its code, and no more parameters."""
    kernels = []
    for shape in ((4, 6, 3), (9, 7, 3)):
        model = build_model(model_config(network="conv", network__spatial_code=True), shape)
        x = np.zeros((1, *shape), np.float32)
        params = jax.eval_shape(lambda model=model, x=x: init_params(model, jax.random.key(0), {"x": x}))["params"]
        kernels.append({name: jax.tree.map(jnp.shape, params[name]) for name in ("encoder", "posterior", "decoder")})
    assert kernels[0] == kernels[1]
    assert kernels[0]["decoder"]["Dense_0"]["kernel"] == (3, 6)


@pytest.mark.fault
@pytest.mark.parametrize(
    ("section", "choice"), [("model", "layered"), ("model", "conditional"), ("posterior", "iaf")], ids=str
)
def test_parts_that_have_no_spatial_code_refuse_it(section, choice):
    settings = {"network": "conv", "network__hidden": (4,), "network__spatial_code": True}
    assert override(Config(), **settings, posterior="fixed-noise").network.spatial_code  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(InputError, match=rf"^network\.spatial_code=True must be False with {section}={choice}$"):
        override(Config(), **settings, **{section: choice})
    with pytest.raises(InputError, match=r"^network\.spatial_code has no effect with network=mlp"):
        override(Config(), network__spatial_code=True)
