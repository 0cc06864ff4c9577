"""Vector quantization: nearest codes, losses, moving averages, restarts and k-means, against NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from code_models import code_config
from jitted import init

from vae_jax.errors import InputError
from vae_jax.models.vector_quantization import (
    CodebookLevel,
    VectorCodes,
    VectorQuantizer,
    _added,
    _multiplied,
    _rows,
    nearest_codes,
    restart_codes,
    start_by_kmeans,
)

RNG = np.random.default_rng(0)
FEATURES = RNG.normal(size=(6, 4)).astype(np.float32)
PLACES, CODES, SIZE = 2, 5, 3


def nearest_by_loops(z, vectors):
    """Return the number of the nearest vector in double precision."""
    return [min(range(len(vectors)), key=lambda c: ((row - vectors[c]) ** 2).sum()) for row in z.astype(np.float64)]


def quantizer(**settings):
    """Return (module, variables) of a small quantizer at its initial values."""
    module = VectorQuantizer(PLACES, CODES, SIZE, **settings)
    return module, dict(init(module, jax.random.key(0), FEATURES))


def trained_once(module, variables, features=FEATURES):
    """Return the result of a training step and the new collection."""
    apply = jax.jit(lambda v, f: module.apply(v, f, mutable=["codebook"]))
    result, updated = apply(variables, features)
    return result, updated["codebook"]


def rows_of(z):
    return np.asarray(z).reshape(-1, SIZE)


@pytest.mark.parametrize("offset", [0.0, 3000.0])
def test_the_nearest_code_is_that_of_a_double_loop_also_far_from_zero(offset):
    vectors = (RNG.normal(size=(20, 4)) + offset).astype(np.float32)
    z = (RNG.normal(size=(60, 4)) + offset).astype(np.float32)
    found = jax.jit(nearest_codes)(z.reshape(6, 10, 4), vectors)
    assert found.dtype == jnp.int32
    np.testing.assert_array_equal(found.reshape(-1), nearest_by_loops(z, vectors.astype(np.float64)))


def test_distances_are_float32_at_the_highest_precision_of_any_device():
    vectors = jnp.asarray(1 + np.arange(8)[:, None] / 512, jnp.float32)  # bfloat16 has 8 bits: all are 1 in it
    z = jnp.ones((1, 1), jnp.bfloat16)
    np.testing.assert_array_equal(nearest_codes(z, vectors), [0])
    np.testing.assert_array_equal(nearest_codes(vectors, vectors), np.arange(8))
    equations = jax.make_jaxpr(nearest_codes)(z, vectors).eqns
    (product,) = (equation for equation in equations if equation.primitive.name == "dot_general")
    assert product.params["precision"] == (jax.lax.Precision.HIGHEST,) * 2
    assert {v.aval.dtype for v in product.invars} == {jnp.dtype(jnp.float32)}


@pytest.mark.parametrize("form", [_added, _multiplied])
def test_the_sums_of_each_code_are_those_of_a_loop_on_a_cpu_and_on_accelerators(form):
    rows, indices = RNG.normal(size=(30, SIZE)).astype(np.float32), RNG.integers(0, CODES - 1, 30)
    expected = np.zeros((CODES, SIZE))
    for row, index in zip(rows, indices, strict=True):
        expected[index] += row
    found = jax.jit(functools.partial(form, num_codes=CODES))(rows, indices)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_the_vector_of_a_place_is_the_sum_over_the_levels():
    vectors = RNG.normal(size=(2, CODES, SIZE)).astype(np.float32)
    codes = jnp.array([[0, 4, 3, 1]])
    found = VectorCodes(jnp.asarray(vectors)).embed(codes)
    expected = [[vectors[0, 0] + vectors[1, 4], vectors[0, 3] + vectors[1, 1]]]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("update", ["ema", "gradient"])
def test_the_commitment_moves_the_encoder_and_the_codebook_loss_the_vectors(update):
    module, variables = quantizer(update=update, commitment=0.3, kmeans_steps=0, restart_below=0.0)

    @jax.jit
    def losses(params, z):
        return jnp.sum(module.apply({**variables, "params": params}, z, method="quantize").penalty)

    z = RNG.normal(size=(6, PLACES, SIZE)).astype(np.float32)
    penalty, (of_params, of_z) = jax.value_and_grad(losses, argnums=(0, 1))(variables["params"], z)
    vectors = np.asarray(module.apply(variables, method="codebook").vectors[0])
    codes = np.array(nearest_by_loops(rows_of(z), vectors))
    difference = rows_of(z) - vectors[codes]
    weight = 0.3 + (update == "gradient")
    np.testing.assert_allclose(penalty, weight * (difference**2).sum(), rtol=1e-5)  # sums, in nats like log p(x|z)
    np.testing.assert_allclose(rows_of(of_z), 2 * 0.3 * difference, rtol=1e-4, atol=1e-6)
    if update == "gradient":
        expected = np.zeros((CODES, SIZE))
        np.add.at(expected, codes, -2 * difference)
        np.testing.assert_allclose(of_params["vectors"][0], expected, rtol=1e-4, atol=1e-5)
    else:
        assert "vectors" not in variables["params"]  # neither the optimizer nor the average of the weights moves them


def test_a_training_step_moves_the_averages_and_an_evaluation_does_not():
    module, variables = quantizer(decay=0.9, kmeans_steps=0, restart_below=0.0)
    result, updated = trained_once(module, variables)
    z, old = rows_of(result.encoding), np.asarray(variables["codebook"]["offset"][0])
    codes = np.array(nearest_by_loops(z, old))
    np.testing.assert_array_equal(result.posterior.indices.reshape(-1), codes)
    np.testing.assert_array_equal(result.codebook.vectors[0], old)  # those with which z was compared
    chosen = np.eye(CODES)[codes]
    usage = 0.9 / CODES + 0.1 * chosen.mean(axis=0)
    sums = 0.9 * old / CODES + 0.1 * chosen.T @ z / len(z)
    np.testing.assert_allclose(updated["usage"][0], usage, rtol=1e-5)
    np.testing.assert_allclose(updated["offset"][0], sums / usage[:, None], rtol=1e-4, atol=1e-6)
    assert int(updated["updates"]) == 1
    second, again = trained_once(module, {**variables, "codebook": updated})
    codes = np.array(nearest_by_loops(z, np.asarray(updated["offset"][0])))
    np.testing.assert_array_equal(second.posterior.indices.reshape(-1), codes)
    np.testing.assert_allclose(again["usage"][0], 0.9 * usage + 0.1 * np.eye(CODES)[codes].mean(axis=0), rtol=1e-5)
    assert isinstance(module.apply({**variables, "codebook": updated}, FEATURES), type(result))  # nothing is mutable


def test_dead_codes_restart_at_different_encodings_of_the_batch():
    usage = jnp.array([0.3, 1e-4, 0.5, 0.0, 0.1999])
    vectors = jnp.zeros((CODES, SIZE))
    r = RNG.normal(size=(12, SIZE)).astype(np.float32)
    found = jax.jit(restart_codes, static_argnums=2)(CodebookLevel(vectors, usage, vectors), r, 0.1, jax.random.key(3))
    alive = [0, 2, 4]
    np.testing.assert_array_equal(found.usage[jnp.array(alive)], usage[jnp.array(alive)])
    np.testing.assert_array_equal(found.vectors[jnp.array(alive)], np.zeros((3, SIZE)))
    restarted = np.asarray(found.vectors)[[1, 3]]
    positions = [int((r == row).all(axis=-1).nonzero()[0][0]) for row in restarted]
    assert len(set(positions)) == 2
    np.testing.assert_allclose(found.usage[jnp.array([1, 3])], 1 / CODES)
    np.testing.assert_allclose(np.asarray(found.sums)[[1, 3]], restarted / CODES, rtol=1e-6)


def test_of_more_dead_codes_than_encodings_the_others_restart_in_the_next_step():
    usage, vectors, r = jnp.zeros(CODES), jnp.zeros((CODES, SIZE)), RNG.normal(size=(3, SIZE)).astype(np.float32)
    restart = jax.jit(restart_codes, static_argnums=2)
    once = restart(CodebookLevel(vectors, usage, vectors), r, 0.1, jax.random.key(3))
    assert len(np.unique(once.vectors[:3], axis=0)) == 3
    np.testing.assert_array_equal(once.vectors[3:], np.zeros((2, SIZE)))
    np.testing.assert_allclose(once.usage, [1 / CODES] * 3 + [0] * 2)
    twice = restart(once, r + 10, 0.1, jax.random.key(4))
    np.testing.assert_array_equal(twice.vectors[:3], once.vectors[:3])
    assert len(np.unique(twice.vectors[3:], axis=0)) == 2
    assert twice.vectors[3:].min() > 5


def test_a_code_without_an_encoding_in_the_first_batch_restarts_at_one_of_the_second():
    module, variables = quantizer(kmeans_steps=2, restart_below=0.5)
    variables = variables | {"codebook": trained_once(module, variables, FEATURES[:2])[1]}  # 4 encodings, 5 codes
    result, updated = trained_once(module, variables, 3 * FEATURES[2:4])
    distances = np.abs(rows_of(result.encoding) - np.asarray(updated["offset"][0, -1])).max(axis=1)
    assert np.sum(distances < 1e-5) == 1


def test_more_codes_than_encodings_stay_among_the_encodings():
    """Codes without an encoding have no weight at the start; a weight would multiply them when one has them first."""
    module, variables = quantizer(kmeans_steps=2, restart_below=0.0)
    result, updated = trained_once(module, variables, FEATURES[:2])  # 4 encodings, 5 codes
    np.testing.assert_array_equal(updated["usage"][0, -1], 0)
    chosen = rows_of(result.encoding)[0]
    moved = updated["offset"].at[0, :-1].add(100.0).at[0, -1].set(chosen)  # the last code is the nearest one now
    _, again = trained_once(module, variables | {"codebook": updated | {"offset": moved}}, FEATURES[:2])
    encodings = rows_of(result.encoding)
    np.testing.assert_allclose(again["offset"][0, -1], encodings.mean(axis=0), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("usage", [1e-37, 1e-25, 0.0])  # of 1e-37, float32 represents 100 times, but not 0.03 times
def test_a_code_that_is_not_used_keeps_its_vector(usage):
    module, variables = quantizer(kmeans_steps=0, restart_below=0.0)
    unused = jnp.arange(CODES) == 2
    codebook = variables["codebook"] | {"updates": jnp.int32(9)}
    vectors = codebook["offset"].at[0, 2].set(jnp.array([100.0, -0.03, 0.7]))  # far from all encodings
    codebook = codebook | {"offset": vectors, "usage": jnp.where(unused, usage, codebook["usage"])}
    codebook["sums"] = codebook["usage"][..., None] * vectors
    _, updated = trained_once(module, variables | {"codebook": codebook})
    np.testing.assert_array_equal(updated["offset"][0, 2], vectors[0, 2])


@pytest.mark.parametrize("num_codes", [64, 100, 256, 3000])
def test_codes_start_at_encodings_of_all_places(num_codes):
    """With a distance of 8 rows between them, all would be encodings of two of the 16 places."""
    rows = np.asarray(_rows(jnp.arange(num_codes), 2048, num_codes, jax.random.key(0)))
    assert len(np.unique(rows)) == min(num_codes, 2048)
    assert set(rows % 16) == set(range(16))


def test_kmeans_finds_separate_clusters_and_starts_the_codebook():
    centres = np.array([[0, 0], [20, 0], [0, 20]], np.float32)
    r = np.repeat(centres, 10, axis=0) + RNG.normal(size=(30, 2)).astype(np.float32)
    found = jax.jit(start_by_kmeans, static_argnums=1)(r, 3, jnp.int32(5), jax.random.key(0))
    order = np.argsort(np.asarray(found) @ [1, 2])
    np.testing.assert_allclose(np.asarray(found)[order], r.reshape(3, 10, 2).mean(axis=1), rtol=1e-4)


@pytest.mark.parametrize("update", ["ema", "gradient"])
def test_the_first_step_starts_by_kmeans_and_later_ones_do_not(update):
    module, variables = quantizer(update=update, kmeans_steps=4, restart_below=0.0, decay=0.0)
    result, updated = trained_once(module, variables)
    z = rows_of(result.encoding)
    started = np.asarray(result.codebook.vectors[0])
    codes = np.asarray(result.posterior.indices).reshape(-1)
    np.testing.assert_array_equal(codes, nearest_by_loops(z, started))
    assert len(set(codes)) == CODES  # a random start uses fewer
    variables = {**variables, "codebook": updated}
    stored = np.asarray(module.apply(variables, method="codebook").vectors[0])
    expected = [z[codes == c].mean(axis=0) for c in range(CODES)] if update == "ema" else started
    np.testing.assert_allclose(stored, expected, rtol=1e-4, atol=1e-5)
    later, _ = trained_once(module, variables, 2 * FEATURES)
    np.testing.assert_allclose(later.codebook.vectors[0], stored, rtol=1e-6)


def test_a_level_quantizes_what_the_levels_before_it_have_left():
    module, variables = quantizer(depth=3, kmeans_steps=0)
    q = module.apply(variables, FEATURES)
    assert (q.posterior.indices.shape, q.posterior.depth) == ((6, PLACES * 3), 3)
    rest, vectors = rows_of(q.encoding), np.asarray(variables["codebook"]["offset"])
    penalty = 0
    for level in range(3):
        codes = np.asarray(q.posterior.indices)[:, level::3].reshape(-1)
        np.testing.assert_array_equal(codes, nearest_by_loops(rest, vectors[level]))
        rest = rest - vectors[level][codes]
        penalty += 0.25 * (rest**2).reshape(6, -1).sum(axis=1)
    np.testing.assert_allclose(q.penalty, penalty, rtol=1e-5)
    np.testing.assert_allclose(rows_of(q.encoding - q.codebook.embed(q.posterior.indices)), rest, rtol=1e-4, atol=1e-5)


@pytest.mark.fault
def test_settings_without_an_effect_and_parts_of_a_batch_are_refused():
    code_config(posterior="vq", posterior__update="gradient", posterior__decay=0.9)
    with pytest.raises(InputError, match=r"^posterior.decay=0.9 has no effect with posterior.update=gradient and"):
        code_config(posterior="vq", posterior__update="gradient", posterior__decay=0.9, posterior__restart_below=0.0)
    for name in ("vq", "residual-vq"):
        with pytest.raises(InputError, match=rf"^train.microbatches=2 must be 0 or 1 with posterior={name}, which"):
            code_config(posterior=name, train__microbatches=2)
    assert VectorQuantizer(1, 2, 1, update="gradient", restart_below=0.0, kmeans_steps=0).moves_codes is False
