"""Fully connected encoder and decoder: tied kernels, sample axes of length one, counts, and their settings."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from built_models import built
from jitted import apply, init

from vae_jax.config import Config, override
from vae_jax.data import from_arrays
from vae_jax.errors import InputError
from vae_jax.models.mlp import MLPConfig, MLPDecoder, MLPEncoder, TiedDecoder
from vae_jax.runs import build_experiment


def test_a_tied_decoder_has_biases_only_and_uses_the_encoders_kernels():
    shape = (4, 4, 1)
    linear = {"network__tied": True, "network__activation": "identity"}
    model, params = built("mlp", shape, posterior="deterministic", likelihood="gaussian", **linear)
    assert all(name.startswith("bias") for name in params["decoder"])
    z = jax.random.normal(jax.random.key(2), (2, 3))
    first, second = (params["encoder"][f"layers_{i}"]["kernel"] for i in range(2))
    expected = z @ params["posterior"]["mean"]["kernel"].T @ second.T @ first.T
    image = apply(model, params, z, method="decode").mean()
    np.testing.assert_allclose(image.reshape(2, -1), expected, atol=1e-5)


def test_an_encoder_flattens_the_image_and_applies_its_kernels():
    encoder = MLPEncoder((5, 4), jnp.tanh)
    x = jax.random.normal(jax.random.key(0), (3, 2, 3, 1))
    params = init(encoder, jax.random.key(1), x)["params"]
    kernels = encoder.apply({"params": params}, method=lambda net: (net(x), net.kernels())[1])
    assert [kernel.shape for kernel in kernels] == [(6, 5), (5, 4)]
    expected = np.tanh(np.tanh(np.asarray(x).reshape(3, 6) @ kernels[0]) @ kernels[1])
    np.testing.assert_allclose(encoder.apply({"params": params}, x), expected, rtol=1e-5, atol=1e-6)


def test_a_sample_axis_of_length_one_changes_the_shape_only():
    decoder = MLPDecoder((5,), jnp.tanh, (2, 3), 2)
    z = jax.random.normal(jax.random.key(0), (1, 4, 3))
    params = init(decoder, jax.random.key(1), z)["params"]
    features = decoder.apply({"params": params}, z)
    assert features.shape == (1, 4, 2, 3, 2)
    np.testing.assert_allclose(features[0], decoder.apply({"params": params}, z[0]), rtol=1e-6)


def test_layers_compute_in_their_dtype_and_store_float32():
    decoder = MLPDecoder((5,), jnp.tanh, (2, 3), 2, dtype=jnp.bfloat16)
    params = init(decoder, jax.random.key(1), jnp.zeros((4, 3)))["params"]
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype(jnp.float32)}
    assert decoder.apply({"params": params}, jnp.zeros((4, 3))).dtype == jnp.bfloat16


@pytest.mark.parametrize("posterior", ["gaussian", "fixed-noise"])
def test_a_tied_decoder_uses_the_kernel_of_the_mean_of_every_posterior(posterior):
    model, params = built("mlp", (5,), posterior=posterior, network__tied=True, network__hidden=(4,))
    z = jnp.ones((2, 3))
    logits = apply(model, params, z, method="decode").logits
    first, second = params["encoder"]["layers_0"]["kernel"], params["posterior"]["mean"]["kernel"]
    np.testing.assert_allclose(logits, jax.nn.gelu(z @ second.T) @ first.T, rtol=1e-4, atol=1e-6)


def test_the_encoder_of_counts_reads_their_logarithm():
    x = jnp.array([[0.0, 3.0, 1000.0]])
    plain, logarithmic = (
        MLPConfig(hidden=(4,), log1p=flag).build((3,), 3, training=False)[0] for flag in (False, True)
    )
    params = init(plain, jax.random.key(0), x)["params"]
    found = logarithmic.apply({"params": params}, x)
    np.testing.assert_allclose(found, plain.apply({"params": params}, jnp.log(1 + x)), rtol=1e-5)


def test_a_gated_layer_is_multiplied_by_the_sigmoid_of_another_one():
    encoder, decoder = MLPConfig(hidden=(4, 2), activation="relu", gated=True).build((3,), 3, training=False)
    x = jax.random.normal(jax.random.key(0), (5, 3))
    params = init(encoder, jax.random.key(1), x)["params"]
    h = np.asarray(x)
    for i, width in enumerate((4, 2)):
        h = h @ params[f"layers_{i}"]["kernel"]  # biases start at 0
        assert h.shape == (5, 2 * width)
        h = np.maximum(h[:, :width], 0) / (1 + np.exp(-h[:, width:]))
    np.testing.assert_allclose(encoder.apply({"params": params}, x), h, rtol=1e-5, atol=1e-6)
    params = init(decoder, jax.random.key(1), h)["params"]
    assert [params[f"Dense_{i}"]["kernel"].shape for i in range(3)] == [(2, 4), (2, 8), (4, 3)]
    h = jnp.ones((1, 2)) @ params["Dense_0"]["kernel"]
    h = jax.nn.relu(h[:, :2]) * jax.nn.sigmoid(h[:, 2:]) @ params["Dense_1"]["kernel"]
    h = jax.nn.relu(h[:, :4]) * jax.nn.sigmoid(h[:, 4:]) @ params["Dense_2"]["kernel"]
    np.testing.assert_allclose(decoder.apply({"params": params}, jnp.ones((1, 2))), h, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", [(3,), (4, 2), (2, 3, 1)])
def test_the_settings_are_those_of_both_networks(shape):
    chosen = MLPConfig(hidden=(8, 6), activation="elu", compute_dtype="bfloat16")
    encoder, decoder = chosen.build(shape, 5, training=True)
    assert (encoder.hidden, decoder.hidden) == ((8, 6), (6, 8))
    assert encoder.activation is decoder.activation is jax.nn.elu
    assert encoder.dtype == decoder.dtype == jnp.bfloat16
    assert (decoder.sides, decoder.features) == (shape[:-1], 5)
    _, tied = MLPConfig(hidden=(8, 6), tied=True).build(shape, shape[-1], training=False)
    assert tied == TiedDecoder(jnp.tanh, shape[:-1], shape[-1])


@pytest.mark.fault
@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"model": "layered"}, "False with model=layered"),
        ({"network__gated": True}, "False with network.gated, whose layers have two kernels"),
        (
            {"likelihood": "logistic-mixture", "preprocess": "scale"},
            "False with likelihood=logistic-mixture, whose dec",
        ),
        (
            {"likelihood": "zero-inflated-negative-binomial", "preprocess": "identity"},
            "False with likelihood=zero-inflated-negative-binomial, whose decoder has more outputs than an example has",
        ),
    ],
)
def test_a_tied_decoder_is_refused_where_the_kernels_do_not_fit(settings, reason):
    with pytest.raises(InputError, match=rf"^network\.tied=True must be {reason}"):
        override(Config(), network__tied=True, **settings)


@pytest.mark.fault
def test_only_the_encoder_of_counts_reads_a_logarithm():
    override(Config(), preprocess="identity", likelihood="poisson", network__log1p=True)
    with pytest.raises(
        InputError, match=r"^network\.log1p=True must be False with preprocess=scale, which does not ret"
    ):
        override(Config(), preprocess="scale", network__log1p=True)


@pytest.mark.fault
def test_the_logarithm_of_numbers_that_are_no_counts_is_refused():
    """log(1 + x) of a vector below -1 is NaN."""
    settings = {"preprocess": "identity", "likelihood": "gaussian", "network__log1p": True}
    config = override(Config(), **settings, data__kind="auto")
    words = r"^network.log1p=True must be False with preprocess=identity, which does not return counts for vectors$"
    with pytest.raises(InputError, match=words):
        override(config, data__kind="vectors")
    with pytest.raises(InputError, match=words):
        build_experiment(config, source=from_arrays(np.random.default_rng(0).normal(size=(20, 6)).astype(np.float32)))
