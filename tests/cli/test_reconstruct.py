"""vae_jax/cli/reconstruct.py: the number of images in the figure, draws of the lower layers, and refused options."""

import numpy as np
import pytest
from commands import read_png
from inputs import random_images

from vae_jax.runs import image_grids


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
        (["reconstruct", "RUN", "--draws", "3"], ["--draws=3 has no effect without --keep-layers; remove it or add"]),
        (["reconstruct", "RUN", "--keep-layers", "0", "--condition", "1"], ["--keep-layers and --condition excl"]),
        (["reconstruct", "RUN", "--keep-layers", "0", "--draws", "0"], ["--draws=0 must be greater than 0"]),
        (["reconstruct", "RUN", "--keep-layers", "2"], ["keep_layers=2 must be from 0 to 1, the number of stochast"]),
    ],
)
def test_reconstruct_refuses(argv, words, refuses):
    refuses(argv, *words)


def test_other_images_are_reconstructed(trained_on_file, call):
    directory, *_ = trained_on_file
    np.save("new.npy", random_images(4, 6, 6, seed=5))
    own = (directory / "figures" / "reconstructions.png").read_bytes()
    result = call("reconstruct", directory, "--data.name", "new.npy").result
    assert result["figure"] == str(directory / "figures" / "reconstructions-new-all.png")
    assert read_png(result["figure"]).size
    assert (directory / "figures" / "reconstructions.png").read_bytes() == own


def test_with_kept_layers_each_image_has_a_row_of_draws(copied, call, monkeypatch):
    directory, _ = copied
    rows = []
    save = image_grids.save_draws
    monkeypatch.setattr(
        image_grids, "save_draws", lambda *values, **text: rows.append(values[1:]) or save(*values, **text)
    )
    result = call("reconstruct", directory, "--keep-layers", 0, "--draws", 2, "--count", 3).result
    ((seen, draws),) = rows
    assert result["figure"] == str(directory / "figures" / "draws.png")
    assert read_png(result["figure"]).size
    assert (seen.shape, draws.shape) == ((3, 8, 8, 1), (3, 2, 8, 8, 1))
    assert np.abs(draws[:, 0] - draws[:, 1]).max() > 1e-4
