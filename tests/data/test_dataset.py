"""The images of a config: in memory, or streamed if they would fill half of it."""

import numpy as np
import pytest

from vae_jax.config.building import override
from vae_jax.data import dataset
from vae_jax.data.loading import load
from vae_jax.data.records import Records
from vae_jax.errors import InputError
from vae_jax.runs import opening
from vae_jax.runtime import host


def test_images_are_streamed_if_they_would_fill_half_of_the_memory(small, monkeypatch, tmp_path):
    config = small()
    size = dataset.training_images(config).nbytes
    for available, streams in ((2 * size, False), (2 * size - 2, True), (None, False)):
        monkeypatch.setattr(host, "available_memory", lambda available=available: available)
        monkeypatch.setattr(host, "memory_limit", lambda sharers: None)
        run, images = opening.prepare_run(config, tmp_path / "run")
        assert run.streamed == isinstance(images, Records) == streams
        if available is not None:
            validation = run.images("validation")  # held out of the same records
            np.testing.assert_array_equal(validation, load("digits", "validation", data_dir=config.data.data_dir))
    monkeypatch.setattr(host, "available_memory", lambda: 2 * size - 2)
    assert not opening.prepare_run(override(config, data__streaming="never"), tmp_path / "run")[0].streamed
    static = override(config, data__binarization="static", model__likelihood="bernoulli")
    assert not opening.prepare_run(static, tmp_path / "run")[0].streamed


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"data__binarization": "static", "model__likelihood": "bernoulli"}, "binarization=static must be"),
        ({"data__streaming": "never", "data__workers": 2}, "data.workers=2 has no effect with data.streaming=never"),
        ({"data__workers": -1}, "data.workers=-1 must be 0 or more"),
        (
            {"data__name": "images.npy"},
            r"data\.streaming=always does not work with data\.name='images\.npy', which is a path; use auto",
        ),
    ],
)
def test_settings_that_exclude_streaming_are_refused(small, tmp_path, monkeypatch, settings, line):
    monkeypatch.chdir(tmp_path)
    np.save("images.npy", np.zeros((40, 8, 8), np.uint8))
    with pytest.raises(InputError, match=line):
        opening.prepare_run(small(**{"data__streaming": "always"} | settings), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_images_binarized_once_are_the_same_at_each_start(small, tmp_path):
    config = small(data__binarization="static", model__likelihood="bernoulli")
    once, twice = dataset.load_images(config, "train"), dataset.load_images(config, "train")
    np.testing.assert_array_equal(once, twice)
    assert set(np.unique(once)) == {0, 255}
    gray = dataset.load_images(small(), "train")
    assert not np.array_equal(dataset.load_images(override(config, seed=1), "train"), once)
    # Bernoulli(pixel / 255): the mean over images of each pixel, within 5 standard errors.
    error = 5 * np.sqrt(0.25 / len(gray))
    np.save(tmp_path / "gray.npy", np.full((300, 4, 4), 128, np.uint8))
    constant = override(config, data__name=str(tmp_path / "gray.npy"))
    train, test = (dataset.load_images(constant, split)[:20] for split in ("train", "test"))
    assert 0.3 < (train != test).mean() < 0.7  # the random numbers of the splits differ
    assert (np.abs(once.mean(axis=0) - gray.mean(axis=0)) / 255 < error).all()
