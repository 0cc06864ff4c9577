"""vae_jax/cli/reconstruct.py: the number of images in the figure, and refused options."""

import numpy as np
import pytest
from commands import read_png
from inputs import random_images


def test_the_figure_grows_with_the_number_of_images(copied, call):
    directory, _ = copied
    small = read_png(call("reconstruct", directory, "--count", 2).result["figure"])
    assert small.size < read_png(call("reconstruct", directory, "--count", 20).result["figure"]).size


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["reconstruct", "RUN", "--split", "tset"], ["split='tset'"]),
        (["reconstruct", "RUN", "--count", "360"], ["--count=360", "at most 359: the split test has 359 image"]),
        (["reconstruct", "RUN", "--count", "0"], ["--count=0"]),
    ],
)
def test_reconstruct_refuses(argv, words, refuses):
    refuses(argv, *words)


def test_other_images_are_reconstructed(trained_on_file, call):
    directory, *_ = trained_on_file
    np.save("new.npy", random_images(4, 6, 6, seed=5))
    call("reconstruct", directory, "--data.name", "new.npy", "--to", directory.parent / "to")
    assert read_png(directory.parent / "to" / "figures" / "reconstructions.png").size
