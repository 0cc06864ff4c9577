"""Rendered sprites: the images have the factors' properties at any size."""

import numpy as np
import pytest

from vae_jax.data.sprites import NUM_SPRITES, RADII, REACH, SIZES, Sprites, render_sprites, sprite_factors

AREAS = (2.0, np.pi / 2)  # of the square and the ellipse in a circle of radius 1


def sprites(**columns):
    """Large squares in the middle of the image (between two of the positions) but for `columns`."""
    base = Sprites(shape=0, scale=5, rotation=0, x=0, y=0)
    return Sprites(*np.broadcast_arrays(*(np.atleast_1d(v) for v in base._replace(**columns))))


def centre(images):
    """x and y of the mean white pixel in units of half of the image."""
    size = images.shape[1]
    place = (np.arange(size) + 0.5 - size / 2) / (size / 2)
    weights = images[..., 0] / images.sum(axis=(1, 2, 3))[:, None, None]
    return weights.sum(axis=1) @ place, -weights.sum(axis=2) @ place


def test_every_combination_has_a_number_and_its_factors():
    factors = np.stack(sprite_factors(np.arange(NUM_SPRITES)), axis=1)
    assert len(np.unique(factors, axis=0)) == NUM_SPRITES == 92_160
    np.testing.assert_array_equal(factors.max(axis=0) + 1, SIZES)
    np.testing.assert_array_equal(factors[[1, 16, 256, 5120, 30720]], np.eye(5, dtype=int)[::-1])
    with pytest.raises(ValueError, match="out of bounds"):
        sprite_factors(np.array([NUM_SPRITES]))


def test_area_and_centre_are_the_factors():
    for shape, area in enumerate(AREAS):
        for rotation in (0, 3):
            images = render_sprites(sprites(shape=shape, rotation=rotation, scale=np.arange(6), x=10, y=3), (200, 200))
            radius = np.linspace(*RADII, 6)
            np.testing.assert_allclose(images.sum(axis=(1, 2, 3)) / 255 / 100**2, area * radius**2, rtol=0.04)
            for found, number in zip(centre(images), (10, 3), strict=True):
                np.testing.assert_allclose(found, REACH * (2 * number / 15 - 1), atol=0.005)


def test_a_quarter_turn_of_the_sprite_turns_the_image():
    before = sprites(shape=[0, 1, 2, 2], rotation=[1, 2, 3, 19], x=[2, 5, 9, 14], y=[3, 12, 7, 0])
    after = before._replace(rotation=(before.rotation + 5) % 20, x=15 - before.y, y=before.x)
    turned = np.rot90(render_sprites(before, (64, 64)), axes=(1, 2))
    assert np.mean(render_sprites(after, (64, 64)) != turned) < 2e-4


def test_shapes_have_their_symmetries_alone():
    def turned(shape, steps):
        first, other = render_sprites(sprites(shape=shape, rotation=[1, 1 + steps], x=8, y=8), (64, 64))
        return np.mean(first != other)

    assert max(turned(0, 5), turned(1, 10)) < 2e-3 < min(turned(0, 3), turned(1, 5), turned(2, 5), turned(2, 10))
    (heart,) = render_sprites(sprites(shape=2, x=7, y=7), (97, 97))[..., 0]
    rows = np.flatnonzero(heart.any(axis=1))
    assert np.count_nonzero(heart[rows[-3]]) < np.count_nonzero(heart[rows[len(rows) // 3]])  # the tip is below
    columns = np.flatnonzero(heart.any(axis=0))
    assert heart[rows[0], (columns[0] + columns[-1]) // 2] == 0  # the notch is above


def test_no_sprite_is_cut_off_and_pixels_are_black_or_white():
    x, y = (np.tile(np.repeat(column, 10), 3) for column in ([0, 15, 0, 15], [0, 0, 15, 15]))
    corners = sprites(shape=np.repeat([0, 1, 2], 40), rotation=np.tile(np.arange(10), 12), x=x, y=y)
    images = render_sprites(corners, (100, 100))
    assert np.unique(images).tolist() == [0, 255]
    assert images[:, [0, -1]].max() == images[:, :, [0, -1]].max() == 0


def test_a_sprite_depends_on_its_factors_alone_and_other_sizes_show_the_same():
    numbers = np.random.default_rng(0).integers(NUM_SPRITES, size=60)
    images = render_sprites(sprite_factors(numbers))
    np.testing.assert_array_equal(render_sprites(sprite_factors(numbers[[7, 3]])), images[[7, 3]])
    large = render_sprites(sprite_factors(numbers), (128, 128)).reshape(60, 32, 4, 32, 4).mean(axis=(2, 4))
    assert np.mean((large >= 127.5) != (images[..., 0] == 255)) < 1e-3  # fewer points decide at the edges
    wide = render_sprites(sprite_factors(numbers), (32, 48))
    np.testing.assert_array_equal(wide[:, :, 8:40], images)
    assert images.shape == (60, 32, 32, 1)
