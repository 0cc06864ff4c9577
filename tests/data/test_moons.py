"""Rendered moons: the images have the parameters' properties at any size."""

import numpy as np
import pytest

from vae_jax.data.moons import GAP, RANGES, Moons, moon_parameters, render_moons


def moons(**columns):
    """Unshaded moons in the middle of the image, lit from the right, of half its size, but for `columns`."""
    base = Moons(lit_fraction=0.5, tilt=0.0, radius=0.6, x=0.0, y=0.0, shading=0.0)
    return Moons(*np.broadcast_arrays(*(np.atleast_1d(v) for v in base._replace(**columns))))


def lit_share(images, radius):
    """The sum of the pixels over the area of the disc."""
    unit = min(images.shape[1:3]) / 2
    return images.sum(axis=(1, 2, 3)) / 255 / (np.pi * (np.asarray(radius) * unit) ** 2)


def test_the_lit_share_of_the_pixels_is_the_parameter():
    expected = np.linspace(0, 1, 21)
    for tilt in (0.0, 0.4, -1.1, 3.0):
        for radius in (0.5, 0.75):
            got = lit_share(render_moons(moons(lit_fraction=expected, tilt=tilt, radius=radius)), radius)
            np.testing.assert_allclose(got, expected, atol=0.002)


def test_the_terminator_is_half_an_ellipse():
    (image,) = render_moons(moons(lit_fraction=[0.75]), (256, 256))[..., 0]
    x, y = (np.arange(256) + 0.5 - 128) / (0.6 * 128), -(np.arange(256) + 0.5 - 128)[:, None] / (0.6 * 128)
    lit = (x**2 + y**2 < 1) & ((x > 0) | ((x / 0.5) ** 2 + y**2 < 1))  # cos α = 0.5: the ellipse's half axis
    assert np.mean((image >= 128) != lit) < 0.001


def test_half_full_and_new_moons():
    half, full, new = render_moons(moons(lit_fraction=[0.5, 1.0, 0.0]))[..., 0]
    assert half[:, :16].max() < 128 == full.max() - 127
    np.testing.assert_allclose(half[:, 17:].astype(int), full[:, 17:], atol=4)  # the horns have soft tips
    np.testing.assert_array_equal(full, full.T)
    assert lit_share(new[None, ..., None], 0.6) < 0.002


@pytest.mark.parametrize("shape", [(32, 32), (15, 15), (24, 40)])
@pytest.mark.parametrize("turns", [1, 2, 3])
def test_a_quarter_turn_of_the_light_turns_the_image(shape, turns):
    before = moon_parameters(np.arange(20))
    x, y = before.x, before.y
    for _ in range(turns):
        x, y = -y, x
    after = before._replace(tilt=before.tilt + turns * np.pi / 2, x=x, y=y)
    turned = np.rot90(render_moons(before, shape), turns, axes=(1, 2)).astype(int)
    assert np.abs(render_moons(after, turned.shape[1:3]).astype(int) - turned).max() <= 1  # the rounding of the cosines


def test_the_moon_scales_with_the_image():
    parameters = moon_parameters(np.arange(20))
    small, large = (render_moons(parameters, (size, size)).astype(float) for size in (32, 96))
    shrunk = large.reshape(20, 32, 3, 32, 3, 1).mean(axis=(2, 4))
    assert np.abs(shrunk - small).mean() < 0.5
    assert np.abs(shrunk - small).max() < 32
    wide = render_moons(parameters, (32, 48))
    np.testing.assert_allclose(wide[:, :, 8:40], small, atol=1)
    assert wide.shape == (20, 32, 48, 1)


def test_the_centre_and_the_shading_are_the_parameters():
    (image,) = render_moons(moons(lit_fraction=1.0, x=0.2, y=0.1, shading=0.6), (64, 64))[..., 0] / 255.0
    column, row = (np.average(np.arange(64) + 0.5 - 32, weights=image.sum(axis)) for axis in (0, 1))
    np.testing.assert_allclose([column / 32, -row / 32], [0.2, 0.1], atol=1e-3)
    along = image[int(32 - 3.2), int(32 + 6.4) :]  # from the centre to the right
    assert along[0] == pytest.approx(1, abs=0.01)
    r = np.arange(1, 16) / (0.6 * 32)
    np.testing.assert_allclose(along[1:16], 0.4 + 0.6 * np.sqrt(1 - r**2), atol=0.02)  # 1 - 0.6 (1 - sqrt(1 - r²))


def test_images_change_smoothly_with_each_parameter():
    middle = Moons(*np.array(RANGES).mean(axis=1))
    for name, (low, high) in zip(Moons._fields, RANGES, strict=True):
        values = np.linspace(low, high, 200)
        images = render_moons(moons(**middle._asdict() | {name: values})).astype(int)
        assert np.abs(np.diff(images, axis=0)).max() < 32, name  # hard samples would jump by 64
        assert np.abs(images[-1] - images[0]).max() > 64, name


def test_a_moon_depends_on_its_number_alone():
    some, all_ = moon_parameters(np.array([7, 3])), moon_parameters(np.arange(10))
    for a, b in zip(some, all_, strict=True):
        np.testing.assert_array_equal(a, b[[7, 3]])
    np.testing.assert_array_equal(render_moons(some), render_moons(all_)[[7, 3]])
    np.testing.assert_allclose(
        moon_parameters(np.array([0])).lit_fraction, 0.1 + 0.9 * (0xE220A8397B1DCDAF / 2**64)
    )  # published


def test_the_parameters_are_uniform_and_independent():
    parameters = np.stack(moon_parameters(np.arange(20_000)))
    low, high = np.array(RANGES).T
    uniform = (parameters - low[:, None]) / (high - low)[:, None]
    for column in uniform:
        counts = np.histogram(column, bins=10, range=(0, 1))[0]
        assert counts.sum() == 20_000
        assert np.sum((counts - 2000) ** 2 / 2000) < 30  # chi-squared with 9 degrees of freedom: p = 0.0004
    assert np.abs(np.corrcoef(uniform) - np.eye(6)).max() < 5 / np.sqrt(20_000)


def test_the_phases_gap_and_full_and_half():
    gap = moon_parameters(np.arange(5000), phases="gap").lit_fraction
    assert not np.any((gap > GAP[0]) & (gap < GAP[1]))
    assert (gap.min(), gap.max()) == (pytest.approx(0.1, abs=0.01), pytest.approx(1, abs=0.01))
    assert np.mean(gap > GAP[1]) == pytest.approx(0.15 / 0.7, abs=0.02)
    only = moon_parameters(np.arange(5000), phases="full-and-half").lit_fraction
    assert set(only.tolist()) == {0.5, 1.0}
    assert only.mean() == pytest.approx(0.75, abs=0.02)
    with pytest.raises(ValueError, match="gap"):
        moon_parameters(np.arange(2), phases="gaps")
