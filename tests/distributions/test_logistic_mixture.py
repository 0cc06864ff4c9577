"""DiscretizedLogisticMixture: probabilities, samples, mean and extreme parameters."""

import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats
from densities import IMAGE, B, M, gather, log_prob, mixture, normals, sample

from vae_jax.distributions.logistic_mixture import DiscretizedLogisticMixture


def grey_levels(*batch_and_channels):
    """All 256 values as [256, *batch_and_channels]."""
    levels = np.arange(256, dtype=np.float32).reshape(-1, *[1] * len(batch_and_channels)) / 255
    return jnp.array(np.broadcast_to(levels, (256, *batch_and_channels)))


def mixture_log_prob_in_float64(density, value):
    """The formula of Salimans et al. (2017) as differences of cdfs in float64, one number for each image."""
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
    first, second = features[..., 2:5], features[..., 5:8]
    gains, start = np.array([1, 0.1, 0.1]), np.arctanh([0.9, 0, 0.9])  # of the pairs (1,0), (2,0), (2,1)
    np.testing.assert_array_equal(density.logits, features[..., :2])
    np.testing.assert_allclose(density.loc[..., 0, :], first * gains.reshape(1, 1, 1, 3), rtol=1e-6)
    np.testing.assert_allclose(density.loc[..., 1, :], (first + second) * gains.reshape(1, 1, 1, 3), rtol=1e-6)
    np.testing.assert_array_equal(density.log_scale[..., 0, :], features[..., 8:11] - 2)
    coefficients = np.tanh(0.1 * np.asarray(features[..., 17:]) + start)
    np.testing.assert_allclose(density.coefficients[..., 1, :], coefficients, rtol=1e-5, atol=1e-6)
    grey = DiscretizedLogisticMixture.from_features(features[..., :6], 2, 1)
    assert grey.coefficients.shape == (B, *IMAGE, 2, 0)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_initial_features_have_the_mean_with_equal_components(channels):
    mean = jax.random.uniform(jax.random.key(0), (*IMAGE, channels), minval=0.05, maxval=0.95)
    features = DiscretizedLogisticMixture.initial_features(mean, M)
    density = DiscretizedLogisticMixture.from_features(features, M, channels)
    np.testing.assert_allclose(density.mean(), mean, atol=1e-6)
    for parameter in (density.logits[..., None], density.loc, density.log_scale):
        np.testing.assert_array_equal(parameter, jnp.broadcast_to(parameter[..., :1, :], parameter.shape))


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
    """The marginal distribution of the first channels, which does not depend on the later ones."""
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


def test_values_off_the_grid_count_as_the_nearest_grey_level():
    density = mixture(0, *IMAGE)
    exact = sample(density, jax.random.key(0))
    np.testing.assert_array_equal(log_prob(density, exact + 1e-4), log_prob(density, exact))
    white = jnp.ones_like(exact)
    np.testing.assert_array_equal(log_prob(density, 1.2 * white), log_prob(density, white))
    np.testing.assert_array_equal(log_prob(density, -0.2 * white), log_prob(density, 0 * white))


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
    # Cells of 16 × 16 bins, then each of the four corners.
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
