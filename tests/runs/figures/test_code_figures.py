"""Figures of integer codes: what is counted, decoded and drawn; and that figures of real latents are left out."""

import jax
import numpy as np
import pytest
from code_models import code_experiment
from small_experiments import initial_params

from vae_jax.errors import InputError
from vae_jax.runs import image_grids, plots
from vae_jax.runs.figures import code_figures
from vae_jax.runs.generation.decoding import decode_codes, encode_examples, interpolate_linearly


@pytest.fixture(scope="module")
def model():
    experiment = code_experiment()
    return experiment, initial_params(experiment)


def test_the_figures_decode_the_most_frequent_codes_and_equal_probabilities(model, tmp_path, monkeypatch):
    experiment, params = model
    arrays, key = experiment.dataset("test").arrays, jax.random.key(1)
    drawn = {}
    monkeypatch.setattr(code_figures, "save_code_usage", lambda path, counts: drawn.update(usage=counts))
    monkeypatch.setattr(
        image_grids, "save_samples", lambda path, images, title: drawn.update({path.stem: images, title: 1})
    )
    paths = code_figures.plot_codes(experiment, params, tmp_path, arrays, key=key, of_preprocess=key, count=3)
    assert [path.stem for path in paths] == ["code_usage", "codebook", "uniform_samples"]
    codes = encode_examples(experiment, params, key, arrays, with_seen=False)["mean"]
    assert codes.dtype == np.int32
    counts = np.bincount(codes.reshape(-1), minlength=4)
    np.testing.assert_array_equal(drawn["usage"], counts[None])
    frequent = np.argsort(-counts, kind="stable")[:3]
    expected = decode_codes(experiment, params, np.repeat(frequent[:, None], 2, axis=1))
    np.testing.assert_allclose(drawn["codebook"], expected, rtol=1e-6)
    assert drawn["uniform_samples"].shape == (3, 8, 8, 1)


def test_usage_is_a_figure(tmp_path):
    code_figures.save_code_usage(tmp_path / "usage.png", np.array([[5, 0, 1, 20], [1, 1, 1, 0]]))
    assert (tmp_path / "usage.png").stat().st_size > 5000


def test_figures_of_real_latents_are_left_out(model, tmp_path, monkeypatch):
    monkeypatch.setattr(code_figures, "plot_codes", lambda *_, **__: [])
    names = {path.stem for path in plots.plot_all(*model, tmp_path)}
    assert names == {"samples", "reconstructions"}


@pytest.mark.fault
def test_there_are_no_codes_between_integers():
    with pytest.raises(InputError, match=r"^codes of the model are integers, which have no codes between them"):
        interpolate_linearly(np.zeros((1, 2), np.int32), np.ones((1, 2), np.int32), 3)
