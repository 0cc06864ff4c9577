"""vae_jax/cli/encode.py: the codes of a split, and refused options."""

import numpy as np
import pytest

from vae_jax.data import load_labels


def test_encode_writes_mean_and_scale_of_every_example_and_its_label(copied, call, data_dir):
    directory, _ = copied
    result = call("encode", directory, "--split", "validation").result
    with np.load(result["codes"], allow_pickle=False) as codes:
        assert set(codes) == {"mean", "scale", "label"}
        assert codes["mean"].shape == codes["scale"].shape == (result["num_examples"], 2) == (144, 2)
        assert (codes["scale"] > 0).all()
        assert np.isfinite(codes["mean"]).all()
        np.testing.assert_array_equal(codes["label"], load_labels("digits", "validation", data_dir=data_dir))


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["encode", "RUN", "--split", "tset"], ["split='tset'"]),
        (["encode", "RUN", "--splt", "test"], ["--splt", "--split"]),
    ],
)
def test_encode_refuses(argv, words, refuses):
    refuses(argv, *words)


def test_data_without_labels_have_none_in_the_codes(trained_on_file, call):
    directory, *_ = trained_on_file
    with np.load(call("encode", directory).result["codes"], allow_pickle=False) as codes:
        assert set(codes) == {"mean", "scale"}


def test_codes_and_labels_of_counts(trained_on_counts, tmp_path, call):
    result = call("encode", trained_on_counts, "--split", "train", "--to", tmp_path).result
    with np.load(result["codes"], allow_pickle=False) as codes:
        assert codes["mean"].shape == (result["num_examples"], 2)
        assert set(codes["label"]) == {0, 1, 2}
