"""Figures of each class: which codes and labels they show."""

import jax
import numpy as np
from small_experiments import image_experiment, images

from vae_jax.runs import class_figures, decoding, image_grids, sampling

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
