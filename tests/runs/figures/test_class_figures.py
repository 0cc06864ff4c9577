"""Figures of each class: which codes and labels they show."""

import jax
import numpy as np
import pytest
from drawn_figures import assert_png, legend_of, record_axes
from small_experiments import image_experiment, images

from vae_jax.runs import image_grids
from vae_jax.runs.evaluation import evaluation
from vae_jax.runs.figures import class_figures
from vae_jax.runs.generation import decoding, sampling
from vae_jax.training import Reliability

SETTINGS = {"model": "conditional", "model__num_classes": 3, "model__embedding": 4, "model__latent_dim": 3}


def moved(experiment):
    """Return parameters away from the initial ones, where p(z|y) does not depend on y."""
    params = experiment.evaluation_params(experiment.initial_state(experiment.key))
    return jax.jit(lambda params: jax.tree.map(lambda p: p + 0.2, params))(params)


def test_samples_and_codes_are_decoded_under_their_classes(one_device, tmp_path, monkeypatch):
    shown = {}
    for name in ("samples_by_class", "styles"):
        monkeypatch.setattr(image_grids, f"save_{name}", lambda path, *args, name=name: shown.update({name: args}))
    monkeypatch.setattr(class_figures, "MAX_STYLES", 2)
    experiment, key = image_experiment(images(), **SETTINGS), jax.random.key(2)
    params, arrays = moved(experiment), {n: a[:4] for n, a in experiment.dataset("test").arrays.items()}
    class_figures.plot_classes(experiment, params, tmp_path, one_device, key=key, count=5)
    class_figures.plot_styles(experiment, params, tmp_path, arrays, one_device, key=key)

    samples, labels = shown["samples_by_class"]
    np.testing.assert_array_equal(labels, [0, 0, 1, 1, 2])
    conditions = {"y": np.array([0, 0, 1, 1, 2], np.int32)}
    codes = sampling.sample_prior(experiment, params, key, 5, one_device, conditions=conditions)
    means = decoding.decode_codes(experiment, params, codes, one_device, conditions=conditions)
    np.testing.assert_allclose(samples, means, rtol=1e-5)

    seen, decoded = shown["styles"]
    encoded = decoding.encode_examples(experiment, params, key, arrays, one_device)
    np.testing.assert_array_equal(seen, encoded["seen"])
    assert decoded.shape == (4, 2, 8, 8, 1)
    for label in range(2):
        y = {"y": np.full(4, label, np.int32)}
        under = decoding.decode_codes(experiment, params, encoded["mean"], one_device, conditions=y)
        np.testing.assert_allclose(decoded[:, label], under, rtol=1e-5)
    assert np.abs(decoded[:, 0] - decoded[:, 1]).max() > 1e-3


@pytest.mark.parametrize(("model", "name"), [("m2", "q(y|x)"), ("conditional", "p(y|x), K = 20")])
def test_the_reliability_is_that_of_the_examples_with_a_label(one_device, tmp_path, monkeypatch, model, name):
    shown = []
    monkeypatch.setattr(class_figures, "save_reliability", lambda path, *found: shown.append(found))
    experiment, key = image_experiment(images(), **SETTINGS | {"model": model}), jax.random.key(2)
    params, arrays = moved(experiment), dict(experiment.dataset("test").arrays)
    known = np.arange(len(arrays["y"])) % 3 > 0
    hidden = arrays | {"mask": known, "y": np.where(known, arrays["y"], -1).astype(np.int32)}
    class_figures.plot_reliability(experiment, params, tmp_path, hidden, one_device, key=key)
    ((found, bins),) = shown
    assert found == name
    few = {n: a[known] for n, a in arrays.items()}
    evaluator = evaluation.make_evaluator(experiment, one_device)
    metrics = evaluator.classes(params, key, few, num_samples=20, chunk=20)
    prefix = "classifier" if model == "m2" else "generative"
    np.testing.assert_allclose(bins.calibration_error, metrics[f"{prefix}_calibration_error"], rtol=1e-5)
    assert bins.examples.sum() == known.sum()
    nothing = hidden | {"mask": np.zeros(len(known), bool)}
    assert class_figures.plot_reliability(experiment, params, tmp_path, nothing, one_device, key=key) is None


def test_a_model_without_a_classifier_and_a_density_has_no_reliability(one_device, tmp_path):
    point = {"model__condition_prior": False, "posterior": "deterministic", "objective": "reconstruction"}
    experiment = image_experiment(images(), **SETTINGS, **point)
    arrays, key = experiment.dataset("test").arrays, jax.random.key(2)
    assert class_figures.plot_reliability(experiment, moved(experiment), tmp_path, arrays, one_device, key=key) is None


def test_the_figure_of_reliability_shows_the_filled_bins(tmp_path, monkeypatch):
    axes, examples = record_axes(monkeypatch), np.zeros(15, int)
    examples[[6, 14]] = 3, 5
    found = Reliability(examples, np.where(examples == 3, 0.45, 0.98), np.where(examples == 3, 1 / 3, 0.8))
    class_figures.save_reliability(tmp_path / "reliability.png", "q(y|x)", found)
    assert_png(tmp_path / "reliability.png")
    curve = axes[0].lines[1]
    np.testing.assert_allclose(curve.get_xydata(), [[0.45, 1 / 3], [0.98, 0.8]])
    assert legend_of(axes[0]) == ["calibrated", "q(y|x), expected calibration error 0.156"]
    assert [bar.get_height() for bar in axes[1].patches] == examples.tolist()
