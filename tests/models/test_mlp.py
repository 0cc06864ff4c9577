"""Fully connected encoder and decoder: tied kernels, and sample axes of length one."""

import jax
import jax.numpy as jnp
import numpy as np
from built_models import built
from jitted import apply, init

from vae_jax.models.mlp import MLPDecoder, MLPEncoder


def test_a_tied_decoder_has_biases_only_and_uses_the_encoders_kernels():
    shape = (4, 4, 1)
    model, params = built(
        "mlp", shape, tied=True, posterior="deterministic", activation="identity", likelihood="gaussian"
    )
    assert all(name.startswith("bias") for name in params["decoder"])
    z = jax.random.normal(jax.random.key(2), (2, 3))
    first, second = (params["encoder"][f"layers_{i}"]["kernel"] for i in range(2))
    expected = z @ params["posterior_mean"]["kernel"].T @ second.T @ first.T
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
