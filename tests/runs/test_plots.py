"""Arrays that people look at: what is decoded, encoded and laid out, on untrained weights and without drawing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm

from vae_jax.runs import decoding, image_grids, opening, plots


@pytest.fixture(scope="module")
def make(small, tmp_path_factory):
    """make(settings) -> (run, weights), each trained by no step."""

    def make(**settings):
        run, _ = opening.prepare_run(small(**settings), tmp_path_factory.mktemp("runs") / "run")
        return run, run.initial_state(run.key).params

    return make


@pytest.fixture(scope="module")
def plane(make):
    return make(data__binarization="dynamic", model__likelihood="bernoulli")


@pytest.fixture
def drawn(monkeypatch):
    """{name of a figure: the arguments it was asked for}; no file is written."""
    found = {}
    for name in ("samples", "reconstructions", "interpolations", "traversals", "manifold", "curves"):
        monkeypatch.setattr(image_grids, name, lambda path, *args, name=name, **kw: found.update({name: (path, args)}))
    return found


def test_decoding_keeps_the_order_whatever_the_batch(plane):
    run, params = plane
    z = np.random.default_rng(0).normal(size=(3, 71, 2)).astype(np.float32)  # 213 codes: two batches and a part
    images = decoding.decode_images(run, params, z)
    assert images.shape == (3, 71, 8, 8, 1)
    assert images.dtype == np.float32
    assert 0 <= images.min() < images.max() <= 1
    p = run.model.apply({"params": params}, jnp.asarray(z[2, 70]), method="decode")
    np.testing.assert_allclose(images[2, 70], p.mean(), rtol=1e-5)
    assert not np.allclose(images[2, 70], images[2, 69])


def test_decoded_images_are_clipped(make):
    run, params = make()  # a Gaussian likelihood: its means know no bounds
    z = 100 * np.random.default_rng(0).normal(size=(50, 2))
    means = run.model.apply({"params": params}, jnp.asarray(z, jnp.float32), method="decode").mean()
    assert means.min() < 0
    assert means.max() > 1
    images = decoding.decode_images(run, params, z)
    np.testing.assert_allclose(images, np.clip(means, 0, 1), atol=1e-6)


def test_codes_are_the_posterior_of_what_the_model_saw(plane):
    run, params = plane
    images = run.images("test")[:130]
    codes = decoding.encode_images(run, params, jax.random.key(0), images)
    assert set(np.unique(codes["seen"])) == {0, 1}  # binarised, by a draw that follows the grey values
    assert codes["seen"][images == 255].all()
    assert not codes["seen"][images == 0].any()
    q = run.model.apply({"params": params}, codes["seen"], method="encode")
    np.testing.assert_allclose(codes["mean"], q.mean(), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(codes["scale"], jnp.exp(q.log_scale), rtol=1e-5)
    assert codes["mean"].std(axis=0).min() > 0


def test_the_scale_of_a_point_is_zero(make):
    run, params = make(model__posterior="deterministic", objective__name="reconstruction")
    codes = decoding.encode_images(run, params, jax.random.key(0), run.images("test")[:3])
    np.testing.assert_array_equal(codes["scale"], np.zeros((3, 2)))
    np.testing.assert_allclose(codes["seen"], run.images("test")[:3] / 255, rtol=1e-6)


def test_codes_from_the_prior_are_standard_normal(plane):
    codes = decoding.sample_prior(*plane, jax.random.key(0), 4000)
    assert codes.shape == (4000, 2)
    assert np.abs(codes.mean(axis=0)).max() < 5 / np.sqrt(4000)
    assert np.abs(np.cov(codes.T) - np.eye(2)).max() < 5 * np.sqrt(2 / 4000)
    assert not np.array_equal(codes, decoding.sample_prior(*plane, jax.random.key(1), 4000))


def test_pictures_of_a_training_come_from_the_same_codes_each_time(plane):
    run, params = plane
    images = run.images("validation")[:5]
    first = plots.preview_images(run, params, jax.random.key(0), images)
    assert {name: (picture.dtype, picture.shape[-1]) for name, picture in first.items()} == {
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
    )  # each pixel between the least and the most that a draw can make of it
    assert (least <= seen).all()
    assert (seen[:, :48] <= most[:, :48]).all()
    assert list(plots.preview_images(run, params, jax.random.key(0), images[:0])) == ["samples"]


def test_straight_paths():
    left, right = np.random.default_rng(0).normal(size=(2, 3, 2)).astype(np.float32)
    paths = decoding.interpolate_linearly(left, right, 5)
    assert paths.shape == (3, 5, 2)
    np.testing.assert_array_equal(paths[:, 0], left)
    np.testing.assert_array_equal(paths[:, -1], right)
    steps = np.diff(paths, axis=1)
    np.testing.assert_allclose(steps, np.broadcast_to((right - left)[:, None] / 4, steps.shape), atol=1e-6)


def test_interpolations_go_from_each_image_to_its_partner(plane, drawn):
    run, params = plane
    images = run.images("test")[:7]  # the seventh has no partner
    plots.plot_interpolations(run, params, images, key=jax.random.key(0), frames=4)
    _, (left, frames, right) = drawn["interpolations"]
    codes = decoding.encode_images(run, params, jax.random.key(0), images[:6])
    np.testing.assert_array_equal(left, codes["seen"][:3])
    np.testing.assert_array_equal(right, codes["seen"][3:])
    assert frames.shape == (3, 4, 8, 8, 1)
    ends = decoding.decode_images(run, params, codes["mean"])
    np.testing.assert_allclose(frames[:, 0], ends[:3], rtol=1e-5)
    np.testing.assert_allclose(frames[:, -1], ends[3:], rtol=1e-5)


def test_traversals_move_one_latent_at_a_time_most_varied_first(make, drawn):
    run, params = make(model__latent_dim=12)
    images = run.images("test")
    plots.plot_traversals(run, params, images, key=jax.random.key(0))
    path, (frames, labels, values) = drawn["traversals"]
    assert path == run.directory / "figures" / "traversals.png"
    assert frames.shape == (10, 11, 8, 8, 1)
    means = decoding.encode_images(run, params, jax.random.key(0), images)["mean"]
    order = np.argsort(-means.var(axis=0))[:10]
    assert labels == [f"z{latent + 1}, var {means[:, latent].var():.2f}" for latent in order]
    z = means[0].copy()
    z[order[3]] = values[8]
    np.testing.assert_allclose(frames[3, 8], decoding.decode_images(run, params, z[None])[0], rtol=1e-4, atol=1e-6)


def test_the_manifold_lies_at_equal_shares_of_the_prior(plane, drawn):
    run, params = plane
    plots.plot_manifold(run, params, side=6)
    _, (frames, values) = drawn["manifold"]
    np.testing.assert_allclose(norm.cdf(values), (np.arange(6) + 0.5) / 6, rtol=1e-5)
    assert frames.shape == (6, 6, 8, 8, 1)
    z = np.array([[values[4], values[1]]])  # row 1, column 4: the first latent runs along the columns
    np.testing.assert_allclose(frames[1, 4], decoding.decode_images(run, params, z)[0], rtol=1e-5)


@pytest.mark.parametrize(("images", "expected"), [
    (1, {"samples", "reconstructions", "traversals", "manifold", "curves"}),
    (5, {"samples", "reconstructions", "traversals", "manifold", "curves", "interpolations"}),
])  # fmt: skip
def test_every_figure_that_there_are_images_for(images, expected, plane, drawn, monkeypatch):
    run, params = plane
    test = run.images("test")[:images]
    monkeypatch.setattr(run, "load_images", lambda config, split: test)
    monkeypatch.setattr(plots, "read_metrics", lambda path: [])
    paths = plots.plot_all(run, params)
    assert {path.stem for path in paths} == expected == set(drawn)
    assert len(paths) == len(expected)


@pytest.mark.parametrize("draw", ["draw_all", "pictures"])
def test_what_is_seen_is_drawn_apart_from_the_codes(draw, make, drawn, monkeypatch):
    run, params = make(model__latent_layers=(3,), model__layer_hidden=(4,))
    monkeypatch.setattr(plots, "read_metrics", lambda path: [])
    used = {"prior_codes": set(), "encode_images": set()}
    for name, keys in used.items():
        function = getattr(plots, name)

        def spy(run, params, key, *rest, function=function, keys=keys):
            derived = [key, *(jax.random.fold_in(key, i) for i in range(20))]  # of layers, of batches
            keys.update(tuple(jax.random.key_data(k).tolist()) for k in derived)
            return function(run, params, key, *rest)

        monkeypatch.setattr(plots, name, spy)
    if draw == "draw_all":
        plots.plot_all(run, params)
    else:
        plots.preview_images(run, params, jax.random.key(0), run.images("test")[:4])
    assert used["prior_codes"]
    assert used["encode_images"]
    assert not used["prior_codes"] & used["encode_images"]


def test_a_manifold_needs_two_latents(make, drawn, monkeypatch):
    run, params = make(model__latent_dim=3)
    monkeypatch.setattr(plots, "read_metrics", lambda path: [])
    assert "manifold" not in {path.stem for path in plots.plot_all(run, params)}
