"""vae_jax/training/image_classifier.py: features of scaled images, and shifts are rolls."""

import jax
import numpy as np
import pytest

from vae_jax.training import train_classifier
from vae_jax.training.image_classifier import shift_images


def stripes(count=60, seed=0):
    """Noisy images with a bright row (label 0) or a bright column (label 1) at a random place."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(2, size=count)
    x = rng.integers(0, 60, (count, 6, 6, 1), np.uint8)
    for image, label, place in zip(x, labels, rng.integers(6, size=count), strict=True):
        image.swapaxes(0, label)[place] = 255
    return x, labels


@pytest.fixture(scope="module")
def trained():
    return train_classifier(*stripes(), channels=(8,), steps=60, max_shift=1, batch_size=32)


def test_a_classifier_learns_and_its_features_contain_the_class(trained):
    x, labels = stripes(seed=1)
    assert trained.accuracy(x, labels) > 0.9
    assert trained.accuracy(x, 1 - labels) < 0.1
    features = trained.features(x)
    assert features.shape == (60, 64)
    expected, _ = trained.module.apply({"params": trained.params}, x / np.float32(255))
    np.testing.assert_allclose(features, expected, atol=1e-5)


def test_a_shift_rolls_each_image_by_its_offset():
    x = np.tile(np.arange(5 * 5).reshape(1, 5, 5, 1), (40, 1, 1, 1))
    keys = jax.random.split(jax.random.key(0), 40)
    rolls = [(i, j) for i in range(-2, 3) for j in range(-2, 3)]
    rolled = {np.roll(x[0], offset, (0, 1)).tobytes(): offset for offset in rolls}
    found = np.array([rolled[image.tobytes()] for image in np.asarray(shift_images(keys, x, 2), x.dtype)])
    assert (found.min(axis=0) == -2).all()
    assert (found.max(axis=0) == 2).all()
    np.testing.assert_array_equal(shift_images(keys, x, 0), x)


def test_images_and_labels_of_other_shapes_are_refused():
    x, labels = stripes(4)
    for images, targets in ((x[..., 0], labels), (x, labels[:3])):
        with pytest.raises(AssertionError):
            train_classifier(images, targets)
