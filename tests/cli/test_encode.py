"""vae_jax/cli/encode.py: the codes of a split, and refused options."""

import numpy as np
import pytest


def test_encode_writes_mean_and_scale_of_every_image(copied, call):
    directory, _ = copied
    result = call("encode", directory, "--split", "validation").result
    with np.load(result["codes"], allow_pickle=False) as codes:
        assert set(codes) == {"mean", "scale"}
        assert codes["mean"].shape == codes["scale"].shape == (result["num_examples"], 2) == (144, 2)
        assert (codes["scale"] > 0).all()
        assert np.isfinite(codes["mean"]).all()


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["encode", "RUN", "--split", "tset"], ["split='tset'"]),
        (["encode", "RUN", "--splt", "test"], ["--splt", "--split"]),
    ],
)
def test_encode_refuses(argv, words, refuses):
    refuses(argv, *words)
