"""Figures of an experiment: which arrays they show, on untrained parameters, and which figures a kind of data has."""

import hand_made
import jax
import numpy as np
import pytest
from small_experiments import (
    count_experiment,
    counts,
    examples_of,
    image_experiment,
    images,
    initial_params,
    vector_experiment,
    vectors,
)
from subsets import by_default

from vae_jax.data import ArrayDataset
from vae_jax.runs import image_grids, plots
from vae_jax.runs.generation import decoding, sampling


def test_previews_of_a_training_use_the_same_codes_each_time(bernoulli_experiment, one_device):
    experiment, params = bernoulli_experiment
    key, arrays = jax.random.key(0), examples_of(experiment, 5)
    first = plots.preview_images(experiment, params, key, arrays, one_device)
    assert {name: (image.dtype, image.shape[-1]) for name, image in first.items()} == {
        "samples": (np.uint8, 3), "reconstructions": (np.uint8, 3),
    }  # fmt: skip
    codes = sampling.sample_prior(experiment, params, key, 36, one_device)
    decoded = decoding.decode_codes(experiment, params, codes, one_device)
    np.testing.assert_array_equal(first["samples"], image_grids.image_grid(decoded, 6))
    again = plots.preview_images(experiment, params, key, arrays, one_device)
    np.testing.assert_array_equal(first["reconstructions"], again["reconstructions"])
    seen, least, most = (
        first["reconstructions"][:48],
        *(image_grids.image_grid((255 * m).astype(np.uint8), 5) for m in (arrays["x"] == 255, arrays["x"] > 0)),
    )  # each pixel between the least and the most that the binarization can produce
    assert (least <= seen).all()
    assert (seen[:, :48] <= most[:, :48]).all()
    for none in ({}, {name: array[:0] for name, array in arrays.items()}):
        assert list(plots.preview_images(experiment, params, key, none, one_device)) == ["samples"]


def test_interpolations_go_from_each_image_to_its_partner(bernoulli_experiment, figures, one_device, tmp_path):
    experiment, params = bernoulli_experiment
    arrays, key = examples_of(experiment, 7), jax.random.key(0)  # the seventh has no partner
    plots.plot_interpolations(experiment, params, tmp_path, arrays, one_device, key=key, frames=4)
    _, (left, frames, right), _ = figures["interpolations"]
    codes = decoding.encode_examples(experiment, params, key, examples_of(experiment, 6), one_device)
    np.testing.assert_array_equal(left, codes["seen"][:3])
    np.testing.assert_array_equal(right, codes["seen"][3:])
    assert frames.shape == (3, 4, 8, 8, 1)
    ends = decoding.decode_codes(experiment, params, codes["mean"], one_device)
    np.testing.assert_allclose(frames[:, 0], ends[:3], rtol=1e-5)
    np.testing.assert_allclose(frames[:, -1], ends[3:], rtol=1e-5)


IMAGES = {"samples", "reconstructions", "traversals", "interpolations", "manifold", "prior_map"}
CATEGORIES = {"preprocess": "one-hot", "preprocess__num_categories": 9, "likelihood": "categorical"}
FIGURES = [
    (lambda: image_experiment(images(labels=False)), IMAGES),
    (lambda: image_experiment(images()), IMAGES | {"latent_map"}),
    (lambda: image_experiment(images(), model__latent_dim=3), IMAGES - {"manifold", "prior_map"} | {"latent_map"}),
    (lambda: image_experiment(images(), model="conditional", model__num_classes=2, model__latent_dim=3),
     IMAGES - {"manifold", "prior_map"} | {"latent_map", "samples_by_class", "styles", "reliability"}),
    (lambda: image_experiment(images(labels=False), model="layered", model__latent_dim=2, model__latent_layers=(3,)),
     IMAGES - {"manifold", "prior_map"} | {"top_layers"}),
    (count_experiment, {"mean_variance", "zero_fractions", "latent_map", "prior_map"}),
    (lambda: count_experiment(counts(labels=False), model__latent_dim=3),
     {"mean_variance", "zero_fractions", "latent_map"}),
    (lambda: count_experiment(preprocess="log1p", likelihood="gaussian", network__log1p=False),
     {"marginals", "pairs", "latent_map", "prior_map"}),
    (vector_experiment, {"marginals", "pairs", "latent_map", "prior_map"}),
    (lambda: vector_experiment(vectors(dimensions=1), model__latent_dim=1), {"marginals", "latent_map"}),
    (hand_made.hand_made, {"marginals", "pairs", "latent_map", "prior_map"}),  # its decoder needs labels
]  # fmt: skip


@pytest.mark.parametrize(
    ("make", "expected"),
    by_default(lambda case: not case[1] & {"latent_map"} or case[1] & {"styles", "zero_fractions", "pairs"}, FIGURES),
)
def test_every_figure_of_the_kind_of_data_is_plotted(make, expected, figures, one_device, tmp_path):
    experiment = make()
    paths = plots.plot_all(experiment, initial_params(experiment), tmp_path, one_device)
    assert {path.stem for path in paths} == expected == set(figures)
    assert len(paths) == len(expected)
    assert all(path.parent == tmp_path / "figures" for path in paths)


def test_categories_are_compared_as_numbers(figures, one_device, tmp_path):
    source = counts()
    clipped = {part: dict(arrays, x=np.minimum(arrays["x"], 8)) for part, arrays in source.parts.items()}
    experiment = count_experiment(type(source)(clipped, "counts", 0.3), **CATEGORIES, network__log1p=False)
    plots.plot_all(experiment, initial_params(experiment), tmp_path, one_device)
    (samples,) = figures["marginals"][1]
    np.testing.assert_array_equal(samples["data"], examples_of(experiment)["x"])
    assert all(x.shape == samples["data"].shape and set(np.unique(x)) <= set(range(9)) for x in samples.values())


def test_a_single_image_has_no_interpolation(bernoulli_experiment, figures, one_device, tmp_path, monkeypatch):
    experiment, params = bernoulli_experiment
    single = ArrayDataset(examples_of(experiment, 1), "images")
    monkeypatch.setattr(type(experiment), "dataset", lambda self, split: single)
    assert "interpolations" not in {path.stem for path in plots.plot_all(experiment, params, tmp_path, one_device)}


def test_the_curves_are_plotted_if_the_run_has_metrics(figures, one_device, tmp_path):
    experiment = vector_experiment()
    (tmp_path / "metrics.jsonl").write_text('{"step": 5, "bound": -1.0}\n')
    paths = plots.plot_all(experiment, initial_params(experiment), tmp_path, one_device)
    assert paths[-1] == tmp_path / "figures" / "curves.png"
    _, (rows,), keywords = figures["curves"]
    assert list(rows) == [{"step": 5, "bound": -1.0}]
    assert keywords == {"title": tmp_path.name}


def test_data_are_compared_with_as_many_samples(one_device, monkeypatch):
    experiment = count_experiment()
    params, arrays, key = initial_params(experiment), examples_of(experiment), jax.random.key(0)
    samples = sampling.compare_samples(experiment, params, arrays, one_device, key=key)
    np.testing.assert_array_equal(samples["data"], arrays["x"])
    assert [x.shape for x in samples.values()] == [arrays["x"].shape] * 3
    fresh = sampling.sample_examples(experiment, params, key, len(arrays["x"]), one_device)
    np.testing.assert_array_equal(samples["samples of the model"], fresh)
    labelled = hand_made.hand_made()
    context = labelled, initial_params(labelled), examples_of(labelled), one_device
    usual, given = (
        sampling.compare_samples(*context, key=key, conditions=conditions)
        for conditions in (None, {"y": np.zeros(len(context[2]["x"]), np.int32)})
    )
    assert [np.array_equal(usual[name], given[name]) for name in usual] == [True, True, False]
    monkeypatch.setattr(sampling, "MAX_SAMPLED_NUMBERS", 30)
    few = sampling.compare_samples(experiment, params, arrays, one_device, key=key)
    assert [len(x) for x in few.values()] == [5] * 3  # of six numbers each


@pytest.mark.parametrize("function", ["plot_all", "preview_images"])
def test_the_binarization_and_the_codes_use_different_keys(function, figures, monkeypatch, one_device, tmp_path):
    experiment = image_experiment(
        model="layered", model__latent_layers=(2,), model__layer_hidden=(4,), model__latent_dim=3
    )
    params = initial_params(experiment)
    used = {"sample_means": set(), "encode_examples": set()}
    for name, keys in used.items():
        original = getattr(plots, name)

        def spy(experiment, params, key, *rest, original=original, keys=keys, **conditions):
            derived = [key, *(jax.random.fold_in(key, i) for i in range(20))]  # of codes, of images
            keys.update(tuple(jax.random.key_data(k).tolist()) for k in derived)
            return original(experiment, params, key, *rest, **conditions)

        monkeypatch.setattr(plots, name, spy)
    if function == "plot_all":
        plots.plot_all(experiment, params, tmp_path, one_device)
    else:
        plots.preview_images(experiment, params, jax.random.key(0), examples_of(experiment, 4), one_device)
    assert used["sample_means"]
    assert used["encode_examples"]
    assert not used["sample_means"] & used["encode_examples"]


@pytest.mark.fault
def test_a_figure_of_large_images_shows_fewer_of_them(figures, one_device, tmp_path, monkeypatch):
    monkeypatch.setattr(plots, "MAX_DRAWN_NUMBERS", 64 * 26)  # 26 images of 8 x 8
    experiment = image_experiment(model__latent_dim=2)
    params, arrays = initial_params(experiment), examples_of(experiment)
    plots.plot_kind(experiment, params, tmp_path, arrays, one_device, key=jax.random.key(0))
    shown = {name: arguments[0].shape[:-3] for name, (_, arguments, _) in figures.items()}
    assert shown == {
        "samples": (26,), "reconstructions": (13,), "traversals": (2, 11), "interpolations": (2,), "manifold": (5, 5),
    }  # fmt: skip
    previews = plots.preview_images(experiment, params, jax.random.key(0), arrays, one_device)
    assert previews["reconstructions"].shape[1] == 13 * 48 + 12 * 4
