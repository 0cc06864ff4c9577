"""Figures of a latent space of real numbers: which codes they decode and show, on untrained parameters."""

import jax
import numpy as np
from scipy.stats import norm
from small_experiments import examples_of, far_mixture, image_experiment, images, initial_params

from vae_jax.runs.figures import latent_figures
from vae_jax.runs.generation import decoding


def test_traversals_move_one_latent_at_a_time_most_varied_first(figures, one_device, tmp_path):
    experiment = image_experiment(model__latent_dim=12)
    params, arrays, key = initial_params(experiment), examples_of(experiment), jax.random.key(0)
    latent_figures.plot_traversals(experiment, params, tmp_path, arrays, one_device, key=key)
    path, (frames, labels, values), _ = figures["traversals"]
    assert path == tmp_path / "figures" / "traversals.png"
    assert frames.shape == (10, 11, 8, 8, 1)
    means = decoding.encode_examples(experiment, params, key, arrays, one_device)["mean"]
    order = np.argsort(-means.var(axis=0))[:10]
    assert labels == [f"z{latent + 1}, var {means[:, latent].var():.2f}" for latent in order]
    z = means[0].copy()
    z[order[3]] = values[8]
    expected = decoding.decode_codes(experiment, params, z[None], one_device)[0]
    np.testing.assert_allclose(frames[3, 8], expected, rtol=1e-4, atol=1e-6)


def test_the_manifold_is_spaced_by_equal_shares_of_the_prior(bernoulli_experiment, figures, one_device, tmp_path):
    experiment, params = bernoulli_experiment
    one, key = examples_of(experiment, 1), jax.random.key(0)
    latent_figures.plot_manifold(experiment, params, tmp_path, one, one_device, key=key, side=6)
    _, (frames, values), _ = figures["manifold"]
    np.testing.assert_allclose(norm.cdf(values), np.tile((np.arange(6) + 0.5) / 6, (2, 1)), rtol=1e-5)
    assert frames.shape == (6, 6, 8, 8, 1)


def test_the_manifold_of_a_learned_prior_follows_each_of_its_numbers(figures, one_device, tmp_path):
    experiment, params = far_mixture()
    latent_figures.plot_manifold(
        experiment, params, tmp_path, examples_of(experiment, 1), one_device, key=jax.random.key(0), side=6
    )
    _, (frames, values), _ = figures["manifold"]
    z = np.array([[values[0, 4], values[1, 1]]])  # row 1, column 4: the first latent runs along the columns
    np.testing.assert_allclose(frames[1, 4], decoding.decode_codes(experiment, params, z, one_device)[0], rtol=1e-5)
    assert np.abs(values[0] - 5).max() < 2 < 3 < np.abs(values[1] - 5).min()


def test_the_latent_map_shows_the_means_of_the_first_layer_and_the_known_labels(figures, one_device, tmp_path):
    source = images()
    known = np.random.default_rng(0).random(60) < 0.5
    masked = {part: dict(arrays, mask=known) for part, arrays in source.parts.items()}
    experiment = image_experiment(
        type(source)(masked, "images", 0.3), model="layered", model__latent_layers=(2,), model__layer_hidden=(4,),
        model__latent_dim=3,
    )  # fmt: skip
    params, arrays, key = initial_params(experiment), examples_of(experiment), jax.random.key(0)
    latent_figures.plot_latent_map(experiment, params, tmp_path, arrays, one_device, key=key)
    _, (codes, labels), keywords = figures["latent_map"]
    means = decoding.encode_examples(experiment, params, key, arrays, one_device)["mean"]
    np.testing.assert_array_equal(codes, means[:, :2])
    np.testing.assert_array_equal(labels, arrays["y"])
    np.testing.assert_array_equal(keywords["known"], arrays["mask"])
    pixels = arrays | {"mask": np.ones(arrays["x"].shape, bool)}  # a mask of numbers, not of labels
    latent_figures.plot_latent_map(experiment, params, tmp_path, pixels, one_device, key=key)
    assert figures["latent_map"][2]["known"] is None
