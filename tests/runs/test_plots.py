"""Figures of a run: which arrays they show, on untrained parameters and without drawing."""

import jax
import numpy as np
import pytest
from scipy.stats import norm

from vae_jax.runs import curves, decoding, image_grids, plots, run as run_module


@pytest.fixture
def figures(monkeypatch):
    """{name of a figure: (path, arguments)} of the figures that are requested; no file is written."""
    requested = {}
    grids = ("samples", "reconstructions", "interpolations", "traversals", "manifold")
    for name, module in (dict.fromkeys(grids, image_grids) | {"curves": curves}).items():

        def record(path, *args, name=name, **kwargs):
            del kwargs
            requested[name] = path, args

        monkeypatch.setattr(module, f"save_{name}", record)
    return requested


def test_previews_of_a_training_use_the_same_codes_each_time(bernoulli_run):
    run, params = bernoulli_run
    images = run.images("validation")[:5]
    first = plots.preview_images(run, params, jax.random.key(0), images)
    assert {name: (image.dtype, image.shape[-1]) for name, image in first.items()} == {
        "samples": (np.uint8, 3), "reconstructions": (np.uint8, 3),
    }  # fmt: skip
    codes = decoding.sample_prior(run, params, jax.random.key(0), 36)
    np.testing.assert_array_equal(
        first["samples"], image_grids.image_grid(decoding.decode_images(run, params, codes), 6)
    )
    again = plots.preview_images(run, params, jax.random.key(0), images)
    np.testing.assert_array_equal(first["reconstructions"], again["reconstructions"])
    seen, least, most = (
        first["reconstructions"][:48],
        *(image_grids.image_grid((255 * mask).astype(np.uint8), 5) for mask in (images == 255, images > 0)),
    )  # each pixel between the least and the most that the binarization can produce
    assert (least <= seen).all()
    assert (seen[:, :48] <= most[:, :48]).all()
    assert list(plots.preview_images(run, params, jax.random.key(0), images[:0])) == ["samples"]


def test_interpolations_go_from_each_image_to_its_partner(bernoulli_run, figures):
    run, params = bernoulli_run
    images = run.images("test")[:7]  # the seventh has no partner
    plots.plot_interpolations(run, params, images, key=jax.random.key(0), frames=4)
    _, (left, frames, right) = figures["interpolations"]
    codes = decoding.encode_images(run, params, jax.random.key(0), images[:6])
    np.testing.assert_array_equal(left, codes["seen"][:3])
    np.testing.assert_array_equal(right, codes["seen"][3:])
    assert frames.shape == (3, 4, 8, 8, 1)
    ends = decoding.decode_images(run, params, codes["mean"])
    np.testing.assert_allclose(frames[:, 0], ends[:3], rtol=1e-5)
    np.testing.assert_allclose(frames[:, -1], ends[3:], rtol=1e-5)


def test_traversals_move_one_latent_at_a_time_most_varied_first(make_run, figures):
    run, params = make_run(model__latent_dim=12)
    images = run.images("test")
    plots.plot_traversals(run, params, images, key=jax.random.key(0))
    path, (frames, labels, values) = figures["traversals"]
    assert path == run.directory / "figures" / "traversals.png"
    assert frames.shape == (10, 11, 8, 8, 1)
    means = decoding.encode_images(run, params, jax.random.key(0), images)["mean"]
    order = np.argsort(-means.var(axis=0))[:10]
    assert labels == [f"z{latent + 1}, var {means[:, latent].var():.2f}" for latent in order]
    z = means[0].copy()
    z[order[3]] = values[8]
    np.testing.assert_allclose(frames[3, 8], decoding.decode_images(run, params, z[None])[0], rtol=1e-4, atol=1e-6)


def test_the_manifold_is_spaced_by_equal_shares_of_the_prior(bernoulli_run, figures):
    run, params = bernoulli_run
    plots.plot_manifold(run, params, side=6)
    _, (frames, values) = figures["manifold"]
    np.testing.assert_allclose(norm.cdf(values), (np.arange(6) + 0.5) / 6, rtol=1e-5)
    assert frames.shape == (6, 6, 8, 8, 1)
    z = np.array([[values[4], values[1]]])  # row 1, column 4: the first latent runs along the columns
    np.testing.assert_allclose(frames[1, 4], decoding.decode_images(run, params, z)[0], rtol=1e-5)


@pytest.mark.parametrize(("images", "expected"), [
    (1, {"samples", "reconstructions", "traversals", "manifold", "curves"}),
    (5, {"samples", "reconstructions", "traversals", "manifold", "curves", "interpolations"}),
])  # fmt: skip
def test_every_figure_with_enough_images_is_plotted(images, expected, bernoulli_run, figures, monkeypatch):
    run, params = bernoulli_run
    test = run.images("test")[:images]
    monkeypatch.setattr(run_module, "load_images", lambda config, split: test)
    monkeypatch.setattr(plots, "read_metrics", lambda path: [])
    paths = plots.plot_all(run, params)
    assert {path.stem for path in paths} == expected == set(figures)
    assert len(paths) == len(expected)


@pytest.mark.parametrize("function", ["plot_all", "preview_images"])
def test_the_binarization_and_the_codes_use_different_keys(function, make_run, figures, monkeypatch):
    run, params = make_run(model__latent_layers=(3,), model__layer_hidden=(4,))
    monkeypatch.setattr(plots, "read_metrics", lambda path: [])
    used = {"sample_prior": set(), "encode_images": set()}
    for name, keys in used.items():
        original = getattr(plots, name)

        def spy(run, params, key, *rest, original=original, keys=keys):
            derived = [key, *(jax.random.fold_in(key, i) for i in range(20))]  # of codes, of images
            keys.update(tuple(jax.random.key_data(k).tolist()) for k in derived)
            return original(run, params, key, *rest)

        monkeypatch.setattr(plots, name, spy)
    if function == "plot_all":
        plots.plot_all(run, params)
    else:
        plots.preview_images(run, params, jax.random.key(0), run.images("test")[:4])
    assert used["sample_prior"]
    assert used["encode_images"]
    assert not used["sample_prior"] & used["encode_images"]


def test_a_manifold_needs_two_latents(make_run, figures, monkeypatch):
    run, params = make_run(model__latent_dim=3)
    monkeypatch.setattr(plots, "read_metrics", lambda path: [])
    assert "manifold" not in {path.stem for path in plots.plot_all(run, params)}
