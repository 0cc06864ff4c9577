"""experiments/image_scores.py: scores of images, and their sharpness, in cases with a known value."""

import numpy as np
import pytest
from scripts import load


@pytest.fixture(scope="module")
def script():
    return load("image_scores")


def test_recall_falls_with_a_missing_mode_and_precision_with_wrong_images(script):
    """Half of the test images are dark and half bright: images of one kind have precision 1 and recall 0.5."""

    class Pixels:
        @staticmethod
        def apply(variables, x):
            return x.reshape(len(x), -1), x.reshape(len(x), -1)

    rng = np.random.default_rng(0)
    dark, bright = (rng.integers(low, low + 40, (60, 3, 3, 1), np.uint8) for low in (108, 210))
    scorer = script.Scorer(Pixels, {}, np.concatenate([dark, bright]))
    one = scorer.scores(dark)["grey"]
    assert (one["precision"], one["recall"]) == (1.0, 0.5)
    more = scorer.scores(np.concatenate([dark, bright, np.zeros((120, 3, 3, 1), np.uint8)]))["grey"]
    assert (more["precision"], more["recall"]) == (0.5, 1.0)


def test_sharpness(script):
    x = np.zeros((2, 5, 5, 1))
    x[0, 2, 2] = 1  # Laplacian: -4 there, 1 at its four neighbors
    assert script.sharpness(x) == pytest.approx((20 / 25 + 0) / 2, rel=1e-6)
    assert script.sharpness(np.full((1, 5, 5, 1), 0.7)) == pytest.approx(0, abs=1e-12)
