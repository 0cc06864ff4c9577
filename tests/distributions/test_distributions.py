"""Densities against independent oracles, identities between them, and the structure of their gradients."""

import itertools
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as npd
import pytest
import scipy.special
import scipy.stats
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from vae_jax.distributions.bernoulli import Bernoulli
from vae_jax.distributions.deterministic import Deterministic
from vae_jax.distributions.kl import kl_divergence
from vae_jax.distributions.logistic_mixture import DiscretizedLogisticMixture
from vae_jax.distributions.normal import Normal, standard_normal

B, D, M = 8, 5, 3  # as many examples as devices
IMAGE = (4, 3)  # H, W


def normals(seed, *shape, scale=1.0):
    return scale * jax.random.normal(jax.random.key(seed), shape)


def mixture(seed, *batch, channels=1, components=M):
    features = DiscretizedLogisticMixture.num_features(components, channels)
    return DiscretizedLogisticMixture.from_features(normals(seed, *batch, features) - 0.5, components, channels)


FAMILY = {
    "normal": lambda: Normal(normals(0, B, D), normals(1, B, D)),
    "deterministic": lambda: Deterministic(normals(0, B, D)),
    "bernoulli": lambda: Bernoulli(normals(0, B, *IMAGE, 2)),
    "grey mixture": lambda: mixture(0, B, *IMAGE),
    "colour mixture": lambda: mixture(0, B, *IMAGE, channels=3),
}
WITH_DENSITY = [name for name in FAMILY if name != "deterministic"]


@jax.jit
def log_prob(density, value):
    return density.log_prob(value)


@partial(jax.jit, static_argnums=2)
def sample(density, key, sample_shape=()):
    return density.sample(key, sample_shape)


def gather(array):
    """A sharded array as NumPy, so that arrays on different devices can be compared."""
    return np.asarray(jax.device_get(array))


# Every member of the family


@pytest.mark.parametrize("name", FAMILY)
def test_sample_shape_and_mean_shape(name):
    density = FAMILY[name]()
    one = sample(density, jax.random.key(0))
    assert one.shape == density.mean().shape == (B, *one.shape[1:])
    assert sample(density, jax.random.key(0), (2, 3)).shape == (2, 3, *one.shape)
    assert one.ndim == 1 + density.event_ndims


@pytest.mark.parametrize("name", FAMILY)
def test_same_key_same_draws(name):
    density = FAMILY[name]()
    draws = sample(density, jax.random.key(3), (4,))
    np.testing.assert_array_equal(draws, sample(density, jax.random.key(3), (4,)))
    if name != "deterministic":
        assert np.any(draws != sample(density, jax.random.key(4), (4,)))


@pytest.mark.parametrize("name", WITH_DENSITY)
def test_draws_of_equal_examples_differ(name):
    equal = jax.tree.map(lambda a: jnp.broadcast_to(a[0], a.shape), FAMILY[name]())
    draws = gather(sample(equal, jax.random.key(0), (4,))).reshape(4 * B, -1)
    assert len(np.unique(draws, axis=0)) == 4 * B


@pytest.mark.parametrize("name", WITH_DENSITY)
def test_jit_and_vmap_equal_eager(name):
    density = FAMILY[name]()
    value = density.sample(jax.random.key(0))
    eager = density.log_prob(value)
    assert eager.shape == (B,)
    traces = []

    @jax.jit
    def evaluate(density, value):
        traces.append(None)
        return density.log_prob(value)

    for _ in range(2):
        np.testing.assert_allclose(evaluate(density, value), eager, rtol=1e-5, atol=1e-5)
    assert len(traces) == 1  # a density is a pytree with static event_ndims: the second call is cached
    mapped = jax.vmap(lambda density, value: density.log_prob(value))(density, value)
    np.testing.assert_allclose(mapped, eager, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", WITH_DENSITY)
def test_leading_axes_align_from_the_right_also_where_they_have_equal_length(name):
    density = FAMILY[name]()
    value = sample(density, jax.random.key(0), (B,))  # [K, B, ...] with K = B
    joint = log_prob(density, value)
    assert joint.shape == (B, B)
    by_hand = jnp.stack([log_prob(density, value[k]) for k in range(B)])
    np.testing.assert_allclose(joint, by_hand, rtol=1e-6, atol=1e-5)
    # One value against many densities: the value is the shorter one.
    one = value[0, 0]
    by_hand = jnp.stack([log_prob(jax.tree.map(lambda a: a[b], density), one) for b in range(B)])  # noqa: B023
    np.testing.assert_allclose(log_prob(density, one), by_hand, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("name", WITH_DENSITY)
def test_shapes_that_would_broadcast_are_refused(name):
    density = FAMILY[name]()
    value = sample(density, jax.random.key(0), (2,))  # [2, B, *event]
    wrong = {
        "one example against B": value[0, :1],
        "K where B belongs": value[:, 0],
        "[K, 1, ...]": value[:, :1],
        "an event axis of size one": value[..., :1, :],
        "a last axis of another size": jnp.concatenate([value, value], axis=-1),
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


@pytest.mark.parametrize("name", WITH_DENSITY)
def test_an_example_has_no_gradient_to_another(name):
    density = FAMILY[name]()
    value = sample(density, jax.random.key(0), (2,))  # [K, B, ...]

    def third(density, value):
        return log_prob(density, value)[:, 3].sum()

    for_density, for_value = jax.grad(third, argnums=(0, 1))(density, value)
    for gradient in jax.tree.leaves(for_density):
        np.testing.assert_array_equal(np.delete(gradient, 3, axis=0), 0)
        assert gradient.size == 0 or np.any(gradient[3] != 0)
    np.testing.assert_array_equal(np.delete(for_value, 3, axis=1), 0)


@pytest.mark.parametrize("name", WITH_DENSITY)
def test_stop_gradient_and_tree_functions_keep_the_type(name):
    density = FAMILY[name]()
    value = sample(density, jax.random.key(0))
    stopped = jax.grad(lambda q: log_prob(jax.lax.stop_gradient(q), value).sum())(density)
    flowing = jax.grad(lambda q: log_prob(q, value).sum())(density)
    assert type(stopped) is type(density)
    assert all(np.all(leaf == 0) for leaf in jax.tree.leaves(stopped))
    assert all(leaf.size == 0 or np.any(leaf != 0) for leaf in jax.tree.leaves(flowing))
    rebuilt = jax.tree.map(lambda a: a, density)
    assert rebuilt.event_ndims == density.event_ndims
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(density))


@pytest.mark.parametrize("name", FAMILY)
def test_samples_do_not_depend_on_the_number_of_devices(name):
    density = FAMILY[name]()
    draws = {}
    for devices in (1, 8):
        mesh = jax.make_mesh((devices,), ("data",), (AxisType.Auto,), devices=jax.devices()[:devices])
        sharding = NamedSharding(mesh, PartitionSpec("data"))
        draw = jax.jit(
            lambda density, key: density.sample(key, (2,)),
            out_shardings=NamedSharding(mesh, PartitionSpec(None, "data")),
        )
        result = draw(jax.device_put(density, sharding), jax.random.key(0))
        assert len(result.sharding.device_set) == devices
        draws[devices] = gather(result)
    np.testing.assert_array_equal(draws[1], draws[8])


# Normal and Deterministic


@pytest.mark.parametrize("seed", range(5))
def test_normal_equals_scipy_and_numpyro(seed):
    loc, log_scale, value = normals(seed, B, D), normals(seed + 10, B, D), normals(seed + 20, B, D, scale=3.0)
    ours = Normal(loc, log_scale).log_prob(value)
    scipys = scipy.stats.norm.logpdf(gather(value), gather(loc), np.exp(gather(log_scale))).sum(-1)
    np.testing.assert_allclose(ours, scipys, rtol=1e-5, atol=1e-5)
    numpyros = npd.Normal(loc, jnp.exp(log_scale)).to_event(1).log_prob(value)
    np.testing.assert_allclose(ours, numpyros, rtol=1e-5, atol=1e-5)


def test_normal_sums_over_its_event_axes_only():
    loc, log_scale, value = normals(0, B, 4, 3, 2), normals(1, B, 4, 3, 2), normals(2, B, 4, 3, 2)
    whole = Normal(loc, log_scale, event_ndims=3).log_prob(value)
    assert whole.shape == (B,)
    np.testing.assert_allclose(whole, Normal(loc, log_scale).log_prob(value).sum((1, 2)), rtol=1e-5)


def test_standard_normal_is_the_prior():
    z = normals(0, 7, B, D)
    expected = scipy.stats.norm.logpdf(gather(z)).sum(-1)
    np.testing.assert_allclose(standard_normal((D,)).log_prob(z), expected, rtol=1e-5)
    np.testing.assert_allclose(standard_normal((B, D)).log_prob(z), expected, rtol=1e-5)
    assert standard_normal((4, 4, D), event_ndims=3).log_prob(normals(0, B, 4, 4, D)).shape == (B,)


@pytest.mark.parametrize("log_scale", [-40.0, -10.0, 10.0, 40.0])
def test_normal_is_finite_and_right_for_extreme_scales(log_scale):
    loc, value = jnp.array([0.25, 1.0, -3.0]), jnp.array([0.25, 1.5, 30.0])
    density = Normal(loc, jnp.full_like(loc, log_scale))
    expected = scipy.stats.norm.logpdf(gather(value), gather(loc), np.exp(log_scale)).sum()
    value_and_grad = jax.value_and_grad(log_prob, argnums=(0, 1))
    ours, gradients = value_and_grad(density, value)
    np.testing.assert_allclose(ours, expected, rtol=1e-5)
    chex.assert_tree_all_finite(gradients)
    chex.assert_tree_all_finite(jax.grad(lambda q: kl_divergence(q, standard_normal((3,))))(density))


def test_normal_samples_have_its_moments():
    density, n = Normal(normals(0, B, D), normals(1, B, D, scale=0.5)), 40_000
    draws = gather(sample(density, jax.random.key(2), (n,)))
    scale = np.exp(gather(density.log_scale))
    standardised = (draws - gather(density.loc)) / scale
    assert np.all(np.abs(standardised.mean(0)) < 5 / np.sqrt(n))
    assert np.all(np.abs((standardised**2).mean(0) - 1) < 5 * np.sqrt(2 / n))
    pairs = np.corrcoef(standardised.reshape(n, -1).T) - np.eye(B * D)
    assert np.all(np.abs(pairs) < 5.5 / np.sqrt(n))  # all draws are independent


def test_normal_samples_are_reparameterised():
    density = Normal(normals(0, B, D), normals(1, B, D))
    key = jax.random.key(2)
    gradient = jax.grad(lambda q: q.sample(key).sum())(density)
    np.testing.assert_array_equal(gradient.loc, 1.0)
    np.testing.assert_allclose(gradient.log_scale, density.sample(key) - density.loc, rtol=1e-4, atol=1e-5)


def test_normal_refuses_parameters_of_two_shapes():
    for loc, log_scale in ((jnp.zeros((B, D)), jnp.zeros(D)), (jnp.zeros((B, D)), jnp.zeros((B, 1)))):
        with pytest.raises(AssertionError):
            Normal(loc, log_scale).log_prob(jnp.zeros((B, D)))
        with pytest.raises(AssertionError):
            Normal(loc, log_scale).sample(jax.random.key(0))


def test_deterministic_repeats_its_point_and_has_no_density():
    density = Deterministic(normals(0, B, D))
    for draw in density.sample(jax.random.key(0), (3,)):
        np.testing.assert_array_equal(draw, density.loc)
    np.testing.assert_array_equal(density.mean(), density.loc)
    assert not hasattr(density, "log_prob")
    gradient = jax.grad(lambda q: q.sample(jax.random.key(0), (3,)).sum())(density)
    np.testing.assert_array_equal(gradient.loc, 3.0)


# Bernoulli


@pytest.mark.parametrize("seed", range(5))
def test_bernoulli_equals_scipy_and_numpyro(seed):
    logits = normals(seed, B, *IMAGE, 2, scale=3.0)
    value = jax.random.bernoulli(jax.random.key(seed + 10), 0.5, logits.shape).astype(jnp.float32)
    ours = Bernoulli(logits).log_prob(value)
    probability = scipy.special.expit(gather(logits).astype(np.float64))
    scipys = scipy.stats.bernoulli.logpmf(gather(value), probability).sum((1, 2, 3))
    np.testing.assert_allclose(ours, scipys, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(ours, npd.Bernoulli(logits=logits).to_event(3).log_prob(value), rtol=1e-5)


def test_bernoulli_probabilities_sum_to_one():
    images = jnp.array(list(itertools.product((0.0, 1.0), repeat=8))).reshape(-1, 2, 2, 2)
    probability = jnp.exp(log_prob(Bernoulli(normals(0, 2, 2, 2)), images))
    np.testing.assert_allclose(probability.sum(), 1.0, rtol=1e-5)


def test_bernoulli_of_intensities_is_the_expected_log_probability():
    density = Bernoulli(normals(0, 1, 1, 1, 1))
    intensity, ones = jnp.full((1, 1, 1, 1), 0.3), jnp.ones((1, 1, 1, 1))
    expected = 0.3 * log_prob(density, ones) + 0.7 * log_prob(density, 0 * ones)
    np.testing.assert_allclose(log_prob(density, intensity), expected, rtol=1e-6)


@pytest.mark.parametrize("logit", [0.0, 20.0, 88.0, 90.0, -90.0, 104.0, 1e4, -1e4])
@pytest.mark.parametrize("x", [0.0, 0.4, 1.0])
def test_bernoulli_is_finite_and_right_for_extreme_logits(logit, x):
    shape = (2, 2, 1)
    value_and_grad = jax.value_and_grad(log_prob, argnums=(0, 1))
    ours, (for_density, for_x) = value_and_grad(Bernoulli(jnp.full(shape, logit)), jnp.full(shape, x))
    expected = 4 * (x * logit - np.logaddexp(0.0, logit))
    np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(for_density.logits, x - scipy.special.expit(logit), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(for_x, logit)


def test_bernoulli_samples_are_binary_and_have_its_mean():
    density, n = Bernoulli(normals(0, B, *IMAGE, 1, scale=2.0)), 20_000
    draws = gather(sample(density, jax.random.key(1), (n,)))
    assert draws.dtype == np.float32
    assert set(np.unique(draws)) == {0.0, 1.0}
    mean = gather(density.mean())
    np.testing.assert_allclose(mean, scipy.special.expit(gather(density.logits)), rtol=1e-5)
    assert np.all(np.abs(draws.mean(0) - mean) < 5 * np.sqrt(mean * (1 - mean) / n))


# DiscretizedLogisticMixture


def grey_levels(*batch_and_channels):
    """All 256 values as [256, *batch_and_channels]."""
    levels = np.arange(256, dtype=np.float32).reshape(-1, *[1] * len(batch_and_channels)) / 255
    return jnp.array(np.broadcast_to(levels, (256, *batch_and_channels)))


def mixture_log_prob_in_float64(density, value):
    """Salimans et al. (2017) line by line, as differences of cdfs, in float64, a number for each image."""
    logits, loc, log_scale, coefficients = (gather(a).astype(np.float64) for a in jax.tree.leaves(density))
    bins = np.rint(255 * gather(value).astype(np.float64))[..., None, :]  # [..., H, W, 1, C]
    y = bins / 127.5 - 1
    centre = loc.copy()
    pairs = [(c, j) for c in range(loc.shape[-1]) for j in range(c)]
    for index, (c, j) in enumerate(pairs):
        centre[..., c] += coefficients[..., index] * y[..., j]
    scale = np.exp(np.maximum(log_scale, -7))
    a = np.where(bins == 0, -np.inf, (y - 1 / 255 - centre) / scale)
    b = np.where(bins == 255, np.inf, (y + 1 / 255 - centre) / scale)
    flip = a > 0  # differences of cdfs on the left, of survival functions on the right
    a, b = np.where(flip, -b, a), np.where(flip, -a, b)
    with np.errstate(divide="ignore"):  # far tails of narrow scales underflow even in float64
        log_channels = np.log(scipy.special.expit(b) - scipy.special.expit(a)).sum(-1)
    log_pi = logits - scipy.special.logsumexp(logits, axis=-1, keepdims=True)
    return scipy.special.logsumexp(log_pi + log_channels, axis=-1).sum((-2, -1))


def test_number_of_features():
    assert DiscretizedLogisticMixture.num_features(10, 1) == 30
    assert DiscretizedLogisticMixture.num_features(10, 3) == 100
    assert DiscretizedLogisticMixture.num_features(5, 2) == 30


def test_from_features_uses_each_feature_once():
    features = normals(0, B, *IMAGE, 20)
    density = DiscretizedLogisticMixture.from_features(features, 2, 3)
    np.testing.assert_array_equal(density.logits, features[..., :2])
    np.testing.assert_array_equal(density.loc[..., 1, :], features[..., 5:8])
    np.testing.assert_array_equal(density.log_scale[..., 0, :], features[..., 8:11])
    np.testing.assert_array_equal(density.coefficients[..., 1, :], jnp.tanh(features[..., 17:]))
    grey = DiscretizedLogisticMixture.from_features(features[..., :6], 2, 1)
    assert grey.coefficients.shape == (B, *IMAGE, 2, 0)


@pytest.mark.parametrize("shape", [(B, *IMAGE, 19), (B, *IMAGE, 21), (4, 20)])
def test_from_features_refuses_other_sizes(shape):
    with pytest.raises(ValueError, match="20"):
        DiscretizedLogisticMixture.from_features(jnp.zeros(shape), 2, 3)


def test_mixture_refuses_parameters_that_do_not_fit():
    logits, loc, empty = jnp.zeros((2, 2, M)), jnp.zeros((2, 2, M, 1)), jnp.zeros((2, 2, M, 0))
    wrong = ((logits, loc, loc[:1], empty), (logits[..., :1], loc, loc, empty), (logits, loc, loc, loc))
    for density in itertools.starmap(DiscretizedLogisticMixture, wrong):
        with pytest.raises(AssertionError):
            density.mean()
        with pytest.raises(AssertionError):
            density.sample(jax.random.key(0))
        with pytest.raises(AssertionError):
            density.log_prob(jnp.zeros((2, 2, 1)))


def test_grey_probabilities_sum_to_one():
    log_scales = [-20.0, -7.0, -5.0, -2.0, 0.0, 3.0, 10.0, 100.0]
    locs = [-30.0, -1.0, -0.3, 0.0, 1.0, 1.2]
    log_scale, loc = jnp.array(list(itertools.product(log_scales, locs))).T.reshape(2, -1, 1, 1, 1, 1)
    n = len(loc)
    density = DiscretizedLogisticMixture(
        logits=normals(0, n, 1, 1, M),
        loc=loc + normals(1, n, 1, 1, M, 1, scale=0.2),
        log_scale=log_scale + normals(2, n, 1, 1, M, 1, scale=0.2),
        coefficients=jnp.zeros((n, 1, 1, M, 0)),
    )
    probability = jnp.exp(log_prob(density, grey_levels(n, 1, 1, 1)))
    np.testing.assert_allclose(probability.sum(0), 1.0, atol=3e-6)


def first_channels(density, channels):
    """The marginal density of the first channels: the later ones have no say in them."""
    return DiscretizedLogisticMixture(
        density.logits,
        density.loc[..., :channels],
        density.log_scale[..., :channels],
        density.coefficients[..., : channels * (channels - 1) // 2],
    )


@pytest.mark.parametrize("channels", [2, 3, 4])
@pytest.mark.parametrize("seed", range(3))
def test_last_channel_of_a_colour_sums_to_one(seed, channels):
    density = mixture(seed, 1, 1, channels=channels)
    earlier = grey_levels(1, 1, channels - 1)[jnp.array([0, 255, 17, 130])]  # [4, 1, 1, C−1]
    earlier = earlier.at[:, 0, 0, -1].set(jnp.array([0, 3, 255, 77]) / 255)
    last = jnp.broadcast_to(grey_levels(1, 1, 1, 1), (256, 4, 1, 1, 1))
    values = jnp.concatenate([jnp.broadcast_to(earlier, (256, *earlier.shape)), last], axis=-1)
    total = jax.nn.logsumexp(log_prob(density, values), axis=0)
    marginal = log_prob(first_channels(density, channels - 1), earlier)
    np.testing.assert_allclose(total, marginal, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("log_scale", [-9.0, -7.0, -5.0, -3.0, -1.0, 1.0, 5.0])
def test_mixture_equals_float64(channels, log_scale):
    density = mixture(1, B, *IMAGE, channels=channels)
    density = DiscretizedLogisticMixture(
        density.logits, density.loc, 0.2 * density.log_scale + log_scale, density.coefficients
    )
    near = sample(density, jax.random.key(0))  # where the probability is, edge bins among them
    far = jnp.round(255 * jax.random.uniform(jax.random.key(1), near.shape)) / 255
    assert set(np.unique(near)) >= {0.0, 1.0}
    expected = mixture_log_prob_in_float64(density, near)
    np.testing.assert_allclose(log_prob(density, near), expected, rtol=2e-5, atol=1e-4)
    expected = mixture_log_prob_in_float64(density, far)
    finite = np.isfinite(expected)
    assert log_scale < -4 or finite.all()
    np.testing.assert_allclose(log_prob(density, far)[finite], expected[finite], rtol=1e-5, atol=1e-4)


def test_mixture_is_finite_for_extreme_parameters():
    log_scales, locs = [-1e4, -50.0, -7.0, 0.0, 30.0, 80.0, 1e4], [-1e4, -1.0, 0.0, 1.0, 1e4]
    parameters = jnp.array(list(itertools.product(log_scales, locs, [0.0, 1e4])))
    log_scale, loc, logit = parameters.T.reshape(3, -1, 1, 1, 1)
    n = len(loc)
    density = DiscretizedLogisticMixture(
        logits=jnp.concatenate([logit, -logit, 0 * logit], axis=-1),
        loc=jnp.broadcast_to(loc[..., None], (n, 1, 1, 3, 3)),
        log_scale=jnp.broadcast_to(log_scale[..., None], (n, 1, 1, 3, 3)),
        coefficients=jnp.full((n, 1, 1, 3, 3), 0.9),
    )
    values = grey_levels(n, 1, 1, 3)[jnp.array([0, 1, 128, 254, 255])]
    ours, pullback = jax.vjp(log_prob, density, values)
    chex.assert_tree_all_finite((ours, pullback(jnp.ones_like(ours))))
    assert np.all(ours <= 0)
    for image in (density.mean(), sample(density, jax.random.key(0), (10,))):
        assert np.all((image >= 0) & (image <= 1))


def test_mixture_reads_values_at_the_nearest_grey_level():
    density = mixture(0, *IMAGE)
    exact = sample(density, jax.random.key(0))
    np.testing.assert_array_equal(log_prob(density, exact + 1e-4), log_prob(density, exact))


def test_scale_is_at_least_exp_of_minus_seven():
    density = mixture(0, *IMAGE)
    at = [
        DiscretizedLogisticMixture(
            density.logits, density.loc, jnp.full_like(density.loc, log_scale), density.coefficients
        )
        for log_scale in (-8.0, -7.0, -6.9)
    ]
    value = sample(density, jax.random.key(0))
    below, edge, above = (log_prob(a, value) for a in at)
    assert below == edge != above


def test_grey_samples_follow_the_probabilities():
    density, n = mixture(5, 2, 2), 50_000
    draws = gather(sample(density, jax.random.key(1), (n,)))
    bins = np.rint(255 * draws).astype(int)
    np.testing.assert_allclose(draws, bins / 255, rtol=1e-6)
    for h, w in itertools.product(range(2), range(2)):
        pixel = jax.tree.map(lambda a: a[h : h + 1, w : w + 1], density)  # noqa: B023
        probability = np.exp(gather(log_prob(pixel, grey_levels(1, 1, 1))).astype(np.float64))
        counts = np.bincount(bins[:, h, w, 0], minlength=256)
        assert counts[0] > 100
        assert counts[255] > 100  # both tails are tested
        assert scipy.stats.chisquare(counts, n * probability / probability.sum()).pvalue > 1e-4


def test_colour_samples_follow_the_joint_probabilities():
    density, n = mixture(3, 1, 1, channels=2), 100_000
    levels = np.arange(256, dtype=np.float32) / 255
    pairs = np.stack(np.meshgrid(levels, levels, indexing="ij"), axis=-1)  # [256, 256, 2]
    probability = np.exp(gather(log_prob(density, jnp.array(pairs.reshape(-1, 1, 1, 2)))).astype(np.float64))
    probability = probability.reshape(256, 256)
    np.testing.assert_allclose(probability.sum(), 1.0, atol=1e-5)
    draws = np.rint(255 * gather(sample(density, jax.random.key(1), (n,)))).astype(int).reshape(n, 2)
    # Cells of 16 × 16 bins, then the four corners on their own.
    observed, _, _ = np.histogram2d(draws[:, 0], draws[:, 1], bins=[np.arange(0, 257, 16)] * 2)
    expected = n * probability.reshape(16, 16, 16, 16).sum((1, 3))
    enough = expected > 5
    statistic = ((observed - expected)[enough] ** 2 / expected[enough]).sum()
    assert enough.sum() > 50
    assert scipy.stats.chi2.sf(statistic, enough.sum()) > 1e-4
    for i, j in itertools.product((0, 255), (0, 255)):
        p = probability[i, j]
        assert abs((draws == (i, j)).all(-1).mean() - p) < 5 * np.sqrt(p / n)


def test_third_channel_is_shifted_by_both_earlier_ones():
    density = DiscretizedLogisticMixture(
        logits=jnp.zeros((1, 1, 1)),
        loc=jnp.array([0.0, 0.1, -0.2]).reshape(1, 1, 1, 3),
        log_scale=jnp.array([-2.0, -2.0, -7.0]).reshape(1, 1, 1, 3),
        coefficients=jnp.array([0.5, -0.3, 0.7]).reshape(1, 1, 1, 3),
    )
    y = 2 * gather(sample(density, jax.random.key(0), (1000,))).reshape(-1, 3) - 1
    np.testing.assert_allclose(y[:, 2], -0.2 - 0.3 * y[:, 0] + 0.7 * y[:, 1], atol=0.02)
    np.testing.assert_allclose(np.cov(y[:, 0], y[:, 1])[0, 1], 0.5 * y[:, 0].var(), rtol=0.2)


def test_mixture_mean_is_the_mean_of_narrow_components():
    density = mixture(4, *IMAGE, channels=3)
    density = DiscretizedLogisticMixture(
        density.logits, 0.2 * density.loc, jnp.full_like(density.loc, -4.0), 0.3 * density.coefficients
    )
    n = 20_000
    draws = gather(sample(density, jax.random.key(0), (n,)))
    error = np.abs(draws.mean(0) - gather(density.mean()))
    assert np.all(error < 5 * draws.std(0) / np.sqrt(n))
    assert np.all(draws.std(0) < 0.3)


# kl_divergence


@pytest.mark.parametrize("seed", range(3))
def test_kl_of_normals_equals_numpyro_and_the_log_variance_form(seed):
    q = Normal(normals(seed, B, D), normals(seed + 1, B, D))
    p = Normal(normals(seed + 2, B, D), normals(seed + 3, B, D))
    oracle = npd.kl_divergence(
        npd.Normal(q.loc, jnp.exp(q.log_scale)).to_event(1),
        npd.Normal(p.loc, jnp.exp(p.log_scale)).to_event(1),
    )
    np.testing.assert_allclose(kl_divergence(q, p), oracle, rtol=1e-5, atol=1e-5)
    s = 2 * q.log_scale
    by_hand = 0.5 * (jnp.exp(s) + q.loc**2 - 1 - s).sum(-1)
    np.testing.assert_allclose(kl_divergence(q, standard_normal((D,))), by_hand, rtol=1e-5, atol=1e-5)


def test_kl_of_bernoullis_equals_the_enumerated_sum():
    q, p = Bernoulli(normals(0, B, 2, 2, 1)), Bernoulli(normals(1, B, 2, 2, 1))
    images = jnp.array(list(itertools.product((0.0, 1.0), repeat=4))).reshape(-1, 1, 2, 2, 1)
    images = jnp.broadcast_to(images, (16, B, 2, 2, 1))
    log_q, log_p = log_prob(q, images), log_prob(p, images)
    expected = (jnp.exp(log_q) * (log_q - log_p)).sum(0)
    np.testing.assert_allclose(kl_divergence(q, p), expected, rtol=1e-5, atol=1e-5)


PAIRS = {
    "normal": lambda: (
        Normal(normals(0, B, D), normals(1, B, D)),
        Normal(normals(2, B, D), normals(3, B, D)),
    ),
    "bernoulli": lambda: (Bernoulli(normals(0, B, *IMAGE, 1)), Bernoulli(normals(1, B, *IMAGE, 1))),
}


@pytest.mark.parametrize("name", PAIRS)
def test_kl_equals_the_monte_carlo_estimate(name):
    q, p = PAIRS[name]()
    n = 20_000
    z = sample(q, jax.random.key(9), (n,))
    estimates = gather(log_prob(q, z) - log_prob(p, z))
    standard_error = estimates.std(0) / np.sqrt(n)
    assert np.all(np.abs(estimates.mean(0) - gather(kl_divergence(q, p))) < 5 * standard_error)
    assert kl_divergence(q, p).shape == (B,)


@pytest.mark.parametrize("name", PAIRS)
def test_kl_is_exactly_zero_for_equals_and_positive_otherwise(name):
    q, p = PAIRS[name]()
    np.testing.assert_array_equal(kl_divergence(q, q), 0)
    assert np.all(kl_divergence(q, p) > 0)
    gradients = jax.grad(lambda p: kl_divergence(q, p).sum())(q)
    chex.assert_trees_all_close(gradients, jax.tree.map(jnp.zeros_like, gradients), atol=1e-5)


@pytest.mark.parametrize("name", PAIRS)
def test_kl_takes_leading_axes_of_either_and_refuses_the_rest(name):
    q, p = PAIRS[name]()
    one = jax.tree.map(lambda a: a[2], p)
    repeated = jax.tree.map(lambda a: jnp.broadcast_to(a[2], a.shape), p)
    np.testing.assert_allclose(kl_divergence(q, one), kl_divergence(q, repeated), rtol=1e-6)
    np.testing.assert_allclose(kl_divergence(one, q), kl_divergence(repeated, q), rtol=1e-6)
    np.testing.assert_allclose(jax.jit(kl_divergence)(q, p), kl_divergence(q, p), rtol=1e-5)
    mapped = jax.vmap(kl_divergence, in_axes=(0, None))(q, one)
    np.testing.assert_allclose(mapped, kl_divergence(q, one), rtol=1e-5)
    for cut in (lambda a: a[:1], lambda a: a[:-1], lambda a: a[..., :-1], lambda a: a[None, :1]):
        with pytest.raises(ValueError, match="leading axes"):
            kl_divergence(q, jax.tree.map(cut, p))
        with pytest.raises(ValueError, match="leading axes"):
            kl_divergence(jax.tree.map(cut, q), p)


@pytest.mark.parametrize(("a", "b"), [(90.0, -90.0), (-1e4, 1e4), (1e4, 1e4 - 1), (1e4, 0.0), (0.0, -1e4)])
def test_kl_of_bernoullis_is_finite_for_extreme_logits(a, b):
    q, p = Bernoulli(jnp.full((1, 1, 1), a)), Bernoulli(jnp.full((1, 1, 1), b))
    value, gradients = jax.value_and_grad(kl_divergence, argnums=(0, 1))(q, p)
    chex.assert_tree_all_finite((value, gradients))
    one = scipy.special.expit(a)
    expected = one * (np.logaddexp(0, -b) - np.logaddexp(0, -a)) + (1 - one) * (np.logaddexp(0, b) - np.logaddexp(0, a))
    np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-6)


def test_kl_has_no_gradient_to_other_examples():
    for pair in PAIRS.values():
        q, p = pair()
        for gradient in jax.tree.leaves(jax.grad(lambda q, p: kl_divergence(q, p)[3], argnums=(0, 1))(q, p)):
            np.testing.assert_array_equal(np.delete(gradient, 3, axis=0), 0)
            assert np.all(gradient[3] != 0)


def test_kl_without_a_closed_form_names_both_types():
    normal, point = FAMILY["normal"](), FAMILY["deterministic"]()
    with pytest.raises(TypeError, match=r"Deterministic.*Normal"):
        kl_divergence(point, normal)
    with pytest.raises(TypeError, match=r"Normal.*DiscretizedLogisticMixture"):
        kl_divergence(normal, FAMILY["grey mixture"]())
    with pytest.raises(TypeError, match=r"Bernoulli.*Normal"):
        kl_divergence(FAMILY["bernoulli"](), normal)
    with pytest.raises(ValueError, match="event_ndims"):
        kl_divergence(normal, Normal(normal.loc, normal.log_scale, event_ndims=2))
