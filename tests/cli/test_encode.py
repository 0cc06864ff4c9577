"""vae_jax/cli/encode.py: the codes of a split, and refused options."""

import numpy as np
import pytest
from inputs import random_images, save_image

from vae_jax.data import load_labels
from vae_jax.runs import encode_examples


def test_encode_writes_mean_and_scale_of_every_example_and_its_label(copied, call, data_dir, monkeypatch):
    directory, _ = copied
    encoded = []

    def record(*args, **options):
        encoded.append(encode_examples(*args, **options))
        return encoded[-1]

    monkeypatch.setattr("vae_jax.runs.encode_examples", record)
    result = call("encode", directory, "--split", "validation").result
    with np.load(result["codes"], allow_pickle=False) as codes:
        assert set(codes) == {"mean", "scale", "label", "index"}
        assert codes["mean"].shape == codes["scale"].shape == (result["num_examples"], 2) == (144, 2)
        assert (codes["scale"] > 0).all()
        assert np.isfinite(codes["mean"]).all()
        assert encoded[0].keys() == {"mean", "scale"}  # no copy of the images
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
        assert set(codes) == {"mean", "scale", "index"}


@pytest.mark.thorough
def test_codes_and_labels_of_counts(trained_on_counts, tmp_path, call):
    result = call("encode", trained_on_counts, "--split", "train", "--to", tmp_path).result
    with np.load(result["codes"], allow_pickle=False) as codes:
        assert codes["mean"].shape == (result["num_examples"], 2)
        assert set(codes["label"]) == {0, 1, 2}


def test_all_examples_and_those_of_other_data_are_encoded(trained_on_file, call):
    directory, *_ = trained_on_file
    with np.load(call("encode", directory, "--split", "all").result["codes"], allow_pickle=False) as codes:
        assert codes["index"].tolist() == list(range(60))
        assert {name: (codes["split"] == name).sum() for name in ("train", "validation", "test")} == {
            "train": 49, "validation": 5, "test": 6,
        }  # fmt: skip
        first = codes["mean"][codes["split"] == "test"]
    (directory.parent / "new").mkdir()
    for i in range(3):
        save_image(directory.parent / "new" / f"{i}.png", random_images(6, 6, seed=i))
    result = call("encode", directory, "--data.name", "new").result
    assert (result["num_examples"], result["codes"]) == (3, str(directory / "codes-new-all.npz"))
    with np.load(result["codes"], allow_pickle=False) as codes:
        assert codes["file_name"].tolist() == ["0.png", "1.png", "2.png"]
        assert codes["index"].tolist() == [0, 1, 2]
    assert first.shape == (6, 2)
    save_image(directory.parent / "new" / "0.png", random_images(6, 7))
    save_image(directory.parent / "new" / "1.png", random_images(6, 7))
    save_image(directory.parent / "new" / "2.png", random_images(6, 7))
    refused = call("encode", directory, "--data.name", "new")
    assert refused.code == 2
    shapes = "{'x': [6, 7, 1]}, but the training examples have {'x': [6, 6, 1]}"
    assert f"the split validation has arrays {shapes}" in refused.err[-1]
