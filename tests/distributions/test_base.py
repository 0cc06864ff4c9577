"""The rules for shapes, and the contract that every distribution satisfies."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from densities import FAMILY, WITH_DENSITY, B, gather, log_prob, sample
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from subsets import by_default

from vae_jax.distributions import base


def test_the_joint_shape_is_the_longest_of_shapes_that_share_their_end():
    assert base.joint_shape(1, (3,), (2, 4, 3), (4, 3)) == (2, 4, 3)
    assert base.joint_shape(2, (4, 3), (4, 3)) == (4, 3)


@pytest.mark.parametrize("shapes", [((4, 3), (3,)), ((2, 4, 3), (2, 3)), ((2, 4, 3), (1, 4, 3))])
def test_shapes_that_do_not_share_their_end_are_refused(shapes):
    with pytest.raises(ValueError, match=r"^shapes \[.*\] and \[.*\] may differ only by leading axes before"):
        base.joint_shape(2, *shapes)


def test_expand_repeats_along_new_leading_axes_and_sum_event_sums_over_the_last():
    (array,) = base.expand((2, 3), jnp.array([1.0, 2.0, 4.0]))
    np.testing.assert_array_equal(array, [[1, 2, 4], [1, 2, 4]])
    np.testing.assert_array_equal(base.sum_event(array, 1), [7, 7])
    np.testing.assert_array_equal(base.sum_event(array, 2), 14)


COMMON = ("normal", "categorical", "student t", "poisson", "colour mixture")  # different kinds of samples
DRAWS = (1_000,)  # the shape of the samples of most tests, which share one compiled program for each distribution


def example(density, index):
    """The distributions of some examples."""
    return jax.tree.map(lambda a: gather(a)[index], density)


@pytest.mark.parametrize("name", FAMILY)
def test_sample_shape_and_mean_shape(name):
    density = FAMILY[name]()
    one = jax.eval_shape(lambda key: density.sample(key), jax.random.key(0))
    assert one.shape == density.mean().shape == (B, *one.shape[1:])
    assert sample(density, jax.random.key(0), DRAWS).shape == (*DRAWS, *one.shape)
    assert jax.eval_shape(lambda key: density.sample(key, (2, 3)), jax.random.key(0)).shape == (2, 3, *one.shape)
    assert one.ndim == 1 + density.event_ndims


@pytest.mark.parametrize("name", FAMILY)
def test_the_batch_shape_is_that_of_independent_distributions(name):
    density = FAMILY[name]()
    assert density.batch_shape == (B,)
    assert example(density, 0).batch_shape == ()
    assert jax.tree.map(lambda a: np.broadcast_to(a, (2, *a.shape)), density).batch_shape == (2, B)


@pytest.mark.parametrize("name", by_default(COMMON.__contains__, [name for name in FAMILY if "mixture" not in name]))
def test_the_standard_deviation_is_that_of_samples(name):
    density = FAMILY[name]()
    mean, stddev = (gather(a) for a in jax.jit(lambda density: (density.mean(), density.stddev()))(density))
    assert stddev.shape == mean.shape
    deviations = (gather(sample(density, jax.random.key(0), DRAWS)) - mean) ** 2
    error = np.abs(deviations.mean(0) - stddev**2)
    assert np.all(error <= 5 * deviations.std(0) / np.sqrt(len(deviations)) + 1e-6)


@pytest.mark.parametrize("name", by_default(COMMON.__contains__, WITH_DENSITY))
def test_sample_and_log_prob_are_the_sample_and_its_log_prob(name):
    density, key = FAMILY[name](), jax.random.key(0)
    value, log_density = jax.jit(lambda density: density.sample_and_log_prob(key, DRAWS))(density)
    np.testing.assert_allclose(value, sample(density, key, DRAWS), rtol=1e-5, atol=1e-6)
    assert log_density.shape == (*DRAWS, B)
    np.testing.assert_allclose(log_density, log_prob(density, value), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", by_default(COMMON.__contains__, FAMILY))
def test_with_a_key_for_each_example_a_sample_depends_on_that_key_alone(name):
    density = FAMILY[name]()
    keys = jax.random.split(jax.random.key(0), (2, B))
    draws = gather(sample(density, keys, (2,)))
    one = gather(sample(example(density, 3), keys[1, 3]))
    np.testing.assert_allclose(one, draws[1, 3], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", WITH_DENSITY)
def test_keys_of_another_shape_than_that_of_the_samples_are_refused(name):
    keys = jax.random.split(jax.random.key(0), B - 1)
    with pytest.raises(ValueError, match=rf"^keys have shape \[{B - 1}\], which must be the beginning of \[{B}, "):
        FAMILY[name]().sample(keys)


@pytest.mark.parametrize("name", by_default(("normal", "poisson", "colour mixture").__contains__, FAMILY))
def test_same_key_same_draws_on_any_number_of_devices(name):
    density = FAMILY[name]()
    draws = gather(sample(density, jax.random.key(3), DRAWS))
    np.testing.assert_array_equal(draws, sample(density, jax.random.key(3), DRAWS))
    if name != "deterministic":
        assert np.any(draws != gather(sample(density, jax.random.key(4), DRAWS)))
    mesh = jax.make_mesh((8,), ("data",), (AxisType.Auto,))
    draw = jax.jit(
        lambda density, key: density.sample(key, DRAWS), out_shardings=NamedSharding(mesh, PartitionSpec(None, "data"))
    )
    result = draw(jax.device_put(density, NamedSharding(mesh, PartitionSpec("data"))), jax.random.key(3))
    assert len(result.sharding.device_set) == 8
    np.testing.assert_array_equal(gather(result), draws)


@pytest.mark.parametrize("name", by_default(COMMON.__contains__, WITH_DENSITY))
def test_draws_of_equal_examples_differ(name):
    equal = jax.tree.map(lambda a: np.broadcast_to(gather(a)[0], a.shape), FAMILY[name]())
    draws = gather(sample(equal, jax.random.key(0), DRAWS))[:4].reshape(4 * B, -1)
    assert len(np.unique(draws, axis=0)) == 4 * B


@pytest.mark.parametrize("name", by_default(COMMON.__contains__, WITH_DENSITY))
def test_vmap_equals_a_batch_and_a_density_is_a_pytree_that_jit_compiles_once(name):
    density = FAMILY[name]()
    value = gather(sample(density, jax.random.key(0), DRAWS))[0]
    traces = []

    @jax.jit
    def evaluate(density, value):
        traces.append(None)
        return density.log_prob(value), jax.vmap(lambda density, value: density.log_prob(value))(density, value)

    for _ in range(2):
        together, mapped = evaluate(density, value)
        assert together.shape == (B,)
        np.testing.assert_allclose(mapped, together, rtol=1e-5, atol=1e-5)
    assert len(traces) == 1  # event_ndims is static: the second call is cached


@pytest.mark.parametrize("name", by_default(COMMON.__contains__, WITH_DENSITY))
def test_leading_axes_align_from_the_right_even_if_they_have_equal_length(name):
    density = FAMILY[name]()
    value = gather(sample(density, jax.random.key(0), DRAWS))[:B]  # [K, B, ...] with K = B
    joint = log_prob(density, value)
    assert joint.shape == (B, B)
    by_hand = np.stack([log_prob(density, value[k]) for k in range(B)])
    np.testing.assert_allclose(joint, by_hand, rtol=1e-6, atol=1e-5)
    # One value against many densities: the value is the shorter one.
    one = value[0, 0]
    by_hand = np.stack([log_prob(example(density, b), one) for b in range(B)])
    np.testing.assert_allclose(log_prob(density, one), by_hand, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("name", WITH_DENSITY)
def test_shapes_that_would_broadcast_are_refused(name):
    density = FAMILY[name]()
    value = gather(sample(density, jax.random.key(0), DRAWS))[:2]  # [2, B, *event]
    wrong = {
        "one example against B": value[0, :1],
        "K where B belongs": value[:, 0],
        "[K, 1, ...]": value[:, :1],
        "an event axis of size one": value[..., :1, :],
        "a last axis of another size": np.concatenate([value, value], axis=-1),
        "less than one event": value[(0,) * (value.ndim - density.event_ndims + 1)],
    }
    for what, array in wrong.items():
        with pytest.raises(ValueError, match="leading axes"):
            pytest.fail(f"accepted {what}: {density.log_prob(array).shape}")
    first = jax.tree.map(lambda a: a[:1], density)
    with pytest.raises(ValueError, match="leading axes"):
        first.log_prob(value)


@pytest.mark.parametrize("name", WITH_DENSITY)
def test_integers_are_refused(name):
    density = FAMILY[name]()
    with pytest.raises(AssertionError):
        density.log_prob(jnp.zeros(density.mean().shape, jnp.uint8))


@pytest.mark.parametrize("name", by_default(COMMON.__contains__, WITH_DENSITY))
def test_an_example_has_no_gradient_to_another_example(name):
    density = FAMILY[name]()
    value = gather(sample(density, jax.random.key(0), DRAWS))[:2]  # [K, B, ...]

    def third(density, value):
        return log_prob(density, value)[:, 3].sum()

    for_density, for_value = jax.jit(jax.grad(third, argnums=(0, 1)))(density, value)
    for gradient in jax.tree.leaves(for_density):
        np.testing.assert_array_equal(np.delete(gradient, 3, axis=0), 0)
        assert gradient.size == 0 or np.any(gradient[3] != 0)
    np.testing.assert_array_equal(np.delete(for_value, 3, axis=1), 0)


@pytest.mark.parametrize("name", by_default(COMMON.__contains__, WITH_DENSITY))
def test_stop_gradient_and_tree_functions_keep_the_type(name):
    density = FAMILY[name]()
    value = gather(sample(density, jax.random.key(0), DRAWS))[0]

    @jax.jit
    @jax.grad
    def gradient(both):
        stopped, flowing = both
        return jnp.sum(log_prob(jax.lax.stop_gradient(stopped), value) + log_prob(flowing, value))

    stopped, flowing = gradient((density, density))
    assert type(stopped) is type(density)
    assert all(np.all(leaf == 0) for leaf in jax.tree.leaves(stopped))
    assert all(leaf.size == 0 or np.any(leaf != 0) for leaf in jax.tree.leaves(flowing))
    rebuilt = jax.tree.map(lambda a: a, density)
    assert rebuilt.event_ndims == density.event_ndims
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(density))
