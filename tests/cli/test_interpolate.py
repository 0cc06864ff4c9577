"""vae_jax/cli/interpolate.py: the number of frames in the figure, and refused options."""

import pytest
from commands import read_png


def test_the_figure_widens_with_the_number_of_frames(copied, call):
    directory, _ = copied
    narrow = read_png(call("interpolate", directory, "--pairs", 2, "--frames", 3).result["figure"])
    wide = read_png(call("interpolate", directory, "--pairs", 2, "--frames", 9).result["figure"])
    assert narrow.shape[1] < wide.shape[1]


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["interpolate", "RUN", "--pairs", "180"], ["--pairs=180", "at most 179: the split test has 359 image"]),
        (["interpolate", "RUN", "--frames", "1"], ["--frames=1 must be at least 2"]),
    ],
)
def test_interpolate_refuses(argv, words, refuses):
    refuses(argv, *words)
