"""Figures of layers: the bars of KL and active units, and the rows of images decoded from the top layers."""

import jax
import numpy as np
from drawn_figures import assert_png, record_axes
from ladders import MLP, layered_experiment

from vae_jax.runs.figures import layer_figures
from vae_jax.runs.generation import decoding
from vae_jax.runs.generation.layers import LayerNumbers


def test_the_bars_are_the_numbers_of_the_layers_from_the_top(tmp_path, monkeypatch):
    axes = record_axes(monkeypatch)
    rows = [LayerNumbers("top", 0.25, 3, 8), LayerNumbers("level1, 1", 1.5, 1000, 2000)]
    layer_figures.save_layers(tmp_path / "layers.png", rows)
    left, right = axes
    assert [bar.get_width() for bar in left.patches] == [0.25, 1.5]
    assert [bar.get_width() for bar in right.patches] == [3, 1000]
    assert [tick.get_text() for tick in left.get_yticklabels()] == ["top", "level1, 1"]
    assert [text.get_text() for text in right.texts] == ["3 of 8", "1,000 of 2,000"]
    assert left.get_ylim()[0] > left.get_ylim()[1]  # the first layer is at the top
    assert left.get_title() == "KL given the layers above, 1.75 nats in all"
    assert_png(tmp_path / "layers.png")


def test_many_layers_have_no_label_each(tmp_path, monkeypatch):
    axes = record_axes(monkeypatch)
    layer_figures.save_layers(tmp_path / "layers.png", [LayerNumbers(f"level{i}", 1.0, 1, 2) for i in range(78)])
    assert [len(ax.texts) for ax in axes] == [0, 0]
    assert len(axes[0].patches) == 78


def test_a_model_with_one_layer_has_no_figure_of_layers(tmp_path):
    experiment, params = layered_experiment(model="vae", model__latent_dim=2, network__hidden=(5,))
    assert layer_figures.plot_layers(experiment, params, tmp_path, {"kl": 1.0, "active_units": 2}) is None
    assert not list(tmp_path.iterdir())


def test_the_rows_are_the_originals_samples_and_reconstructions(figures, one_device, tmp_path, monkeypatch):
    experiment, params = layered_experiment(**MLP)
    arrays, key = experiment.dataset("test").arrays, jax.random.key(0)
    layer_figures.plot_top_layers(experiment, params, tmp_path, arrays, one_device, key=key)
    (rows,) = figures["top_layers"][1]
    assert list(rows) == ["original", "top 0 of 3", "top 1 of 3", "top 2 of 3", "top 3 of 3"]
    codes = decoding.encode_examples(experiment, params, key, arrays, one_device)
    decoded = decoding.decode_codes(experiment, params, codes["mean"], one_device)
    np.testing.assert_allclose(rows["original"], codes["seen"])
    np.testing.assert_allclose(rows["top 3 of 3"], decoded, rtol=1e-5, atol=1e-6)
    monkeypatch.setattr(layer_figures, "MAX_ROWS", 2)
    layer_figures.plot_top_layers(experiment, params, tmp_path, arrays, one_device, key=key)
    assert list(figures["top_layers"][1][0]) == ["original", "top 0 of 3", "top 3 of 3"]


def test_draws_have_a_row_for_each_image(figures, one_device, tmp_path):
    experiment, params = layered_experiment(**MLP)
    arrays = experiment.dataset("test").arrays
    settings = {"key": jax.random.key(0), "keep_layers": 1, "num_draws": 3}
    path = layer_figures.plot_draws(experiment, params, tmp_path, arrays, one_device, **settings)
    assert path == tmp_path / "figures" / "draws.png"
    _, (seen, draws), options = figures["draws"]
    assert (seen.shape[1:], draws.shape[1:]) == ((4, 3, 1), (3, 4, 3, 1))
    assert options == {"title": "Draws of the layers below the top 1"}
    assert np.abs(draws[:, 0] - draws[:, 1]).max() > 1e-3
