"""vae_jax/runs/evaluation/scores.py: scores of examples survive the file, with what identifies the examples."""

import numpy as np
import pytest
from inputs import random_images

from vae_jax.data import from_arrays
from vae_jax.runs.evaluation.scores import identify_examples, read_scores, write_scores


def test_scores_are_read_as_they_were_written(tmp_path):
    dataset = from_arrays(random_images(20, 4, 4), np.arange(20) % 3, holdout=0.0).split("train")
    scores = {"nll": np.linspace(0, 1, 20, dtype=np.float32)}
    write_scores(tmp_path / "new" / "scores.npz", scores, dataset)
    found = read_scores(tmp_path / "new" / "scores.npz")
    assert found["nll"].dtype == np.float32
    np.testing.assert_array_equal(found["nll"], scores["nll"])
    for name, values in identify_examples(dataset).items():
        np.testing.assert_array_equal(found[name], values)
    np.testing.assert_array_equal(found["label"], np.arange(20) % 3)


@pytest.mark.fault
@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 no archive", b"text"])
def test_another_file_has_no_scores(content, tmp_path):
    (tmp_path / "scores.npz").write_bytes(content)
    assert read_scores(tmp_path / "scores.npz") == {}
    assert read_scores(tmp_path / "absent.npz") == {}
    np.save(tmp_path / "array.npy", np.zeros(3))
    assert read_scores(tmp_path / "array.npy") == {}
