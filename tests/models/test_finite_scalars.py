"""Finite scalar quantization: nearest values, integer arithmetic of codes, gradients, limits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jitted import init

from vae_jax.config import Config, override
from vae_jax.errors import InputError
from vae_jax.models.finite_scalars import MAX_CODES, FiniteScalarConfig, FiniteScalarQuantizer, FiniteScalars

LEVELS = (3, 4, 2)
RNG = np.random.default_rng(0)


@jax.jit
def quantized(y):
    codebook = FiniteScalars(LEVELS)
    digits = codebook.digits(y)
    return digits, codebook.indices(digits), codebook.values(digits)


def test_digits_are_those_of_the_nearest_value():
    y = RNG.uniform(-1, 1, (50, 3)).astype(np.float32)
    digits, indices, values = quantized(y)
    for row in range(50):
        expected = [np.abs(np.linspace(-1, 1, size) - y[row, d]).argmin() for d, size in enumerate(LEVELS)]
        np.testing.assert_array_equal(digits[row], expected)
        nearest = [np.linspace(-1, 1, size)[k] for size, k in zip(LEVELS, expected, strict=True)]
        np.testing.assert_allclose(values[row], nearest, atol=1e-6)
        assert indices[row] == expected[0] + 3 * (expected[1] + 4 * expected[2])


def test_every_code_has_one_vector_and_returns():
    codebook = FiniteScalars(LEVELS)
    codes = jnp.arange(24)
    vectors, back = jax.jit(lambda c: (codebook.embed(c), codebook.indices(codebook.digits(codebook.embed(c)))))(codes)
    np.testing.assert_array_equal(back, codes)
    assert len({tuple(v) for v in np.asarray(vectors)}) == 24
    assert float(jnp.min(vectors)) == -1
    assert float(jnp.max(vectors)) == 1


@pytest.mark.parametrize("levels", [(16,) * 5, (1024, 1024), (2,) * 30, (MAX_CODES,)])
def test_the_arithmetic_of_codes_is_exact(levels):
    codebook, size = FiniteScalars(levels), int(np.prod(levels, dtype=np.int64))
    codes = np.unique(np.r_[0:50, size // 2 : size // 2 + 50, size - 50 : size])
    digits = np.stack(np.unravel_index(codes, levels[::-1])[::-1], axis=-1).astype(np.int32)  # the first is the fastest
    found = jax.jit(codebook.indices)(digits)
    assert found.dtype == jnp.int32
    np.testing.assert_array_equal(found, codes)
    if max(levels) < 2**20:  # float32 values of a number; of more levels, neighbours are equal
        np.testing.assert_array_equal(
            jax.jit(lambda c: codebook.indices(codebook.digits(codebook.embed(c))))(codes), codes
        )


def test_the_quantizer_rounds_the_tanh_of_a_dense_layer():
    features = RNG.normal(size=(4, 6)).astype(np.float32)
    module = FiniteScalarQuantizer(2, LEVELS)
    params = init(module, jax.random.key(0), features)["params"]
    q = module.apply({"params": params}, features)
    dense = jax.device_get(params["projection"]["Dense_0"])
    y = np.tanh(features @ dense["kernel"] + dense["bias"]).reshape(4, 2, 3)
    np.testing.assert_allclose(q.encoding, y, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(q.posterior.indices, quantized(y)[1])
    assert (q.posterior.num_codes, q.posterior.depth, q.penalty) == (24, 1, None)
    shared = FiniteScalarQuantizer(2, LEVELS, from_places=True)
    params = init(shared, jax.random.key(0), features)["params"]
    assert params["projection"]["Dense_0"]["kernel"].shape == (3, 3)  # half of the features to the numbers of a place


def test_more_codes_than_32_bits_are_refused():
    given = {"model": "codes", "posterior": "fsq", "prior": "uniform-codes"}
    assert FiniteScalarConfig((2,) * 30).num_codes == 2**30
    override(Config(), **given, posterior__levels=(2,) * 30)
    for levels, reason in (
        ((2,) * 31, "2147483647: codes have 32 bits"),
        ((), "one number or more"),
        ((1,), "least 2"),
    ):
        with pytest.raises(InputError, match=f"^posterior.levels=.*{reason}"):
            override(Config(), **given, posterior__levels=levels)
