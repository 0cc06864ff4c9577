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
