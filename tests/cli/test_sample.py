"""vae_jax/cli/sample.py: samples depend on the seed only, and refused options."""

import numpy as np
import pytest
from commands import read_png


def test_sample(copied, call):
    directory, _ = copied
    result = call("sample", directory, "--count", 7, "--seed", 3).result
    first = np.load(result["images"], allow_pickle=False)
    assert (first.shape, first.dtype) == ((7, 8, 8, 1), np.uint8)
    read_png(result["figure"])
    again, other = (
        np.load(call("sample", directory, "--count", 7, "--seed", seed).result["images"]) for seed in (3, 4)
    )
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_output_that_cannot_be_written_is_one_line_and_exit_code_5(copied, call):
    directory, _ = copied
    (directory / "samples.npy").mkdir()
    refused = call("sample", directory, "--count", 2)
    assert (refused.code, refused.out) == (5, [])
    assert refused.err == [f"vae-jax: cannot write {directory / 'samples.npy'}: Is a directory"]


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["sample", "EMPTY"], ["contains no run"]),
        (["sample", "RUN", "--count", "0"], ["--count=0"]),
        (["sample", "RUN", "--seed", "9" * 20], ["--seed=9999"]),
    ],
)
def test_sample_refuses(argv, words, refuses):
    refuses(argv, *words)
