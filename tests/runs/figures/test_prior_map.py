"""The map of a prior: its density, samples and codes, and the axes of the figure."""

import hand_made
import jax
import numpy as np
import pytest
from drawn_figures import assert_png, record_axes
from scipy.stats import multivariate_normal, norm
from small_experiments import far_mixture

from vae_jax.runs.figures import prior_map
from vae_jax.runs.generation import decoding, sampling

KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def mapped(one_device):
    """(experiment, parameters, test examples, their map) of a mixture with two components."""
    experiment, params = far_mixture()
    arrays = experiment.dataset("test").arrays
    return experiment, params, arrays, prior_map.map_prior(experiment, params, arrays, one_device, key=KEY)


def log_mixture(z):
    parts = [multivariate_normal((5, 1), 0.2**2).logpdf(z), multivariate_normal((5, -3), 0.4**2).logpdf(z)]
    return np.logaddexp(parts[0] + np.log(0.25), parts[1] + np.log(0.75))


def test_the_grid_covers_codes_and_samples_and_has_the_density_of_the_prior(mapped, one_device):
    experiment, params, arrays, found = mapped
    z = np.stack(np.meshgrid(*found.ticks), axis=-1)
    np.testing.assert_allclose(found.log_density, log_mixture(z), rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(found.log_prior, log_mixture(found.prior), rtol=1e-4, atol=1e-3)
    lower = (found.prior[:, 1] < -1).mean()
    assert abs(lower - 0.75) < 5 * np.sqrt(0.75 * 0.25 / prior_map.NUM_SAMPLES)
    for codes in (found.means, found.posterior, found.prior):
        inside = (codes > found.ticks[:, 0]) & (codes < found.ticks[:, -1])
        assert inside.all(axis=1).mean() > 0.97
    steps = np.diff(found.ticks, axis=1)
    np.testing.assert_allclose(steps, steps[0, 0], rtol=1e-4)  # equal scales of both axes
    codes = decoding.encode_examples(experiment, params, sampling.preprocess_key(KEY), arrays, one_device)
    np.testing.assert_array_equal(found.means, codes["mean"])
    assert np.abs((found.posterior - codes["mean"]) / codes["scale"]).max() < 6


def test_quantiles_are_those_of_each_number(mapped, one_device):
    experiment, params, arrays, _ = mapped
    shares = np.array([0.1, 0.5, 0.9])
    first, second = prior_map.prior_quantiles(experiment, params, arrays, shares, one_device, key=KEY)
    cumulative = [
        0.25 * norm.cdf(z, loc, 0.2) + 0.75 * norm.cdf(z, other, 0.4)
        for z, loc, other in ((first, 5, 5), (second, 1, -3))
    ]
    np.testing.assert_allclose(cumulative, [shares] * 2, atol=5 * 0.5 / np.sqrt(prior_map.NUM_SAMPLES))


def test_a_model_of_labels_is_mapped_under_the_label_of_the_first_example(one_device):
    experiment = hand_made.hand_made()
    arrays = experiment.dataset("test").arrays
    params = experiment.initial_state(experiment.key).params
    found = prior_map.map_prior(experiment, params, arrays, one_device, key=KEY)
    np.testing.assert_allclose(found.log_prior, norm.logpdf(found.prior).sum(axis=1), rtol=1e-4, atol=1e-4)


def test_the_panels_share_axes_and_contours(mapped, tmp_path, monkeypatch):
    *_, arrays, found = mapped
    axes = record_axes(monkeypatch)
    bad = found._replace(means=np.where(np.arange(len(found.means))[:, None] == 0, np.nan, found.means))
    prior_map.save_prior_map(tmp_path / "a.png", bad, arrays["y"])
    assert_png(tmp_path / "a.png")
    density, means, samples, _ = axes  # and the colour bar
    assert density.get_xlim() == means.get_xlim() == samples.get_xlim() == tuple(found.ticks[0, [0, -1]])
    np.testing.assert_allclose(means.collections[0].get_offsets(), found.means[1:])
    under, over = samples.collections[:2]
    np.testing.assert_allclose(under.get_offsets(), found.prior[: len(found.posterior)])
    np.testing.assert_allclose(over.get_offsets(), found.posterior)
    for panel in (density, means, samples):
        (contours,) = [drawn for drawn in panel.collections if hasattr(drawn, "levels")]
        shares = [(log_mixture(found.prior) > level).mean() for level in contours.levels]
        np.testing.assert_allclose(shares, sorted(prior_map.SHARES, reverse=True), atol=1e-3)


def test_a_prior_of_one_density_everywhere_has_no_contour(mapped, tmp_path):
    *_, found = mapped
    constant = found._replace(log_density=np.zeros_like(found.log_density), log_prior=np.zeros_like(found.log_prior))
    prior_map.save_prior_map(tmp_path / "a.png", constant)
    assert_png(tmp_path / "a.png")
