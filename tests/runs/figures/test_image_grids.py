"""Image grids, read back from their PNG files."""

import gzip
import math

import numpy as np
import pytest
from inputs import SHARED
from PIL import Image

from vae_jax.errors import StorageError
from vae_jax.runs import image_grids


def _read(path):
    return np.asarray(Image.open(path))


def _find(sheet, image, scale):
    """Return the positions (top, left) of `image`, enlarged `scale` times, in the sheet."""
    image = np.broadcast_to(image, (*image.shape[:2], 3)).repeat(scale, 0).repeat(scale, 1)
    height, width = image.shape[:2]
    corners = np.argwhere((sheet[: -height + 1, : -width + 1] == image[0, 0]).all(-1))
    return [(t, l) for t, l in corners.tolist() if (sheet[t : t + height, l : l + width] == image).all()]


def _images(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


@pytest.mark.parametrize(("shape", "scale"), [((8, 8, 1), 6), ((28, 20, 1), 3), ((32, 32, 3), 2), ((64, 48, 3), 1)])
def test_grid_holds_every_image_in_order(shape, scale):
    images = _images(5, *shape)
    grid = image_grids.image_grid(images, 3)
    height, width = scale * shape[0], scale * shape[1]
    assert (grid.dtype, grid.shape) == (np.uint8, (2 * height + 4, 3 * width + 8, 3))
    for index, image in enumerate(images):
        place = (index // 3 * (height + 4), index % 3 * (width + 4))
        assert _find(grid, image, scale) == [place]
    assert (grid[height + 4 :, 2 * (width + 4) :] == 255).all()  # the empty cell


def test_grid_of_floats_and_booleans():
    floats = np.array([-1.0, 0.0, 0.2, 1.0, 7.0, math.nan, math.inf, -math.inf]).reshape(1, 2, 4, 1)
    grid = image_grids.image_grid(floats, 1, scale=1)
    assert grid[..., 0].tolist() == [[0, 0, 51, 255], [255, 0, 255, 0]]
    np.testing.assert_array_equal(image_grids.image_grid(floats > 0.5, 1, scale=1)[..., 1].max(), 255)
    np.testing.assert_array_equal(image_grids.image_grid(floats.astype(np.float16), 1, scale=1), grid)


@pytest.mark.parametrize(
    "images",
    [np.zeros((2, 4, 4)), np.zeros((2, 4, 4, 2)), np.zeros((0, 4, 4, 1)), np.zeros((2, 4, 4, 1), int)],
)
def test_arrays_that_are_not_images_are_refused(images):
    with pytest.raises(ValueError, match=r"^images has (shape|dtype) .*; pass "):
        image_grids.image_grid(images, 2)


def test_a_png_file_is_complete_or_absent(tmp_path):
    path = tmp_path / "new" / "a.png"
    array = _images(5, 4, 1)
    image_grids.save_png(path, array)
    np.testing.assert_array_equal(_read(path), array[..., 0])
    image_grids.save_png(path, _images(5, 4, 3))
    assert _read(path).shape == (5, 4, 3)
    assert [p.name for p in path.parent.iterdir()] == ["a.png"]
    (tmp_path / "folder.png" / "x").mkdir(parents=True)
    with pytest.raises(StorageError, match="cannot write"):
        image_grids.save_png(tmp_path / "folder.png", array)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["folder.png", "new"]


def _has_ink(region):
    return (region < 100).all(-1).any()


def test_reconstructions_are_below_their_originals(tmp_path):
    originals, reconstructed = _images(7, 8, 8, 1), _images(7, 8, 8, 1, seed=1)
    image_grids.save_reconstructions(tmp_path / "r.png", originals, reconstructed, columns=5)
    sheet = _read(tmp_path / "r.png")
    places = [(_find(sheet, a, 6), _find(sheet, b, 6)) for a, b in zip(originals, reconstructed, strict=True)]
    for [(top, left)], [below] in places:
        assert below == (top + 52, left)
    (top, left), (next_top, next_left) = places[0][0][0], places[5][0][0]
    assert next_left == left
    assert next_top > top + 2 * 52  # a gap between pairs of rows
    assert _has_ink(sheet[top : top + 48, :left])
    assert _has_ink(sheet[top + 52 : top + 100, :left])
    with pytest.raises(ValueError, match=r"^originals has shape .*; pass the same shape"):
        image_grids.save_reconstructions(tmp_path / "r.png", originals, reconstructed[:3])


def test_samples_are_about_square(tmp_path):
    images = _images(10, 8, 8, 3)
    image_grids.save_samples(tmp_path / "s.png", images)
    places = [_find(_read(tmp_path / "s.png"), image, 6) for image in images]
    assert {len(p) for p in places} == {1}
    assert len({p[0][1] for p in places}) == 4
    assert places == sorted(places)


def test_a_gap_separates_the_ends_of_an_interpolation(tmp_path):
    left, right, frames = _images(2, 8, 8, 1), _images(2, 8, 8, 1, seed=1), _images(2, 5, 8, 8, 1, seed=2)
    image_grids.save_interpolations(tmp_path / "i.png", left, frames, right)
    sheet = _read(tmp_path / "i.png")
    for a, path, b in zip(left, frames, right, strict=True):
        [(top, first)], [(_, last)] = _find(sheet, a, 6), _find(sheet, b, 6)
        steps = np.diff([first, *(_find(sheet, frame, 6)[0][1] for frame in path), last])
        assert steps.tolist() == [68, 52, 52, 52, 52, 68]
    assert _has_ink(sheet[top - 80 : top - 60, first : first + 48])


def test_traversals_label_rows_and_columns(tmp_path):
    frames = _images(3, 4, 8, 8, 1)
    image_grids.save_traversals(tmp_path / "t.png", frames, ["z0", "z1", "a long label"], [-2, -1, 1, 2])
    sheet = _read(tmp_path / "t.png")
    for row in frames:
        [(top, left)] = _find(sheet, row[0], 6)
        assert [_find(sheet, frame, 6) for frame in row] == [[(top, left + 52 * j)] for j in range(4)]
        assert _has_ink(sheet[top : top + 48, :left])
    [(top, left)] = _find(sheet, frames[0, 0], 6)
    for j in range(4):
        assert _has_ink(sheet[top - 30 : top, left + 52 * j : left + 52 * j + 48])
    with pytest.raises(ValueError, match="zip"):
        image_grids.save_traversals(tmp_path / "t.png", frames, ["z0", "z1"], [-2, -1, 1, 2])


def test_each_class_is_a_row_with_its_label(tmp_path):
    images, labels = _images(5, 8, 8, 1), np.array([0, 0, 2, 3, 3])
    image_grids.save_samples_by_class(tmp_path / "c.png", images, labels)
    sheet = _read(tmp_path / "c.png")
    places = [place for image in images for place in _find(sheet, image, 6)]
    top, left = places[0]
    assert [(t - top, l - left) for t, l in places] == [(0, 0), (0, 52), (52, 0), (104, 0), (104, 52)]
    assert all(_has_ink(sheet[t : t + 48, :left]) for t in (top, top + 52, top + 104))
    assert (sheet[top + 52 : top + 100, left + 52 :] == 255).all()  # there is one image of the class 2


def test_a_gap_separates_an_image_from_its_code_under_each_class(tmp_path):
    originals, decoded = _images(2, 8, 8, 1), _images(2, 3, 8, 8, 1, seed=1)
    image_grids.save_styles(tmp_path / "s.png", originals, decoded)
    sheet = _read(tmp_path / "s.png")
    for x, row in zip(originals, decoded, strict=True):
        [(top, left)] = _find(sheet, x, 6)
        places = [place for image in row for place in _find(sheet, image, 6)]
        assert places == [(top, left + 68 + 52 * j) for j in range(3)]
    assert _has_ink(sheet[top - 82 : top - 52, left + 68 : left + 116])


def test_manifold_points_right_and_up(tmp_path):
    grid = _images(3, 3, 8, 8, 1)
    image_grids.save_manifold(tmp_path / "m.png", grid, np.array([[-1, 0, 1], [2, 3, 4]]))
    places = np.array([[_find(_read(tmp_path / "m.png"), image, 6)[0] for image in row] for row in grid])
    assert (np.diff(places[..., 0], axis=0) == -52).all()
    assert (np.diff(places[..., 1], axis=1) == 52).all()


def test_a_comparison_has_a_row_for_each_label_and_a_gap_between_groups(tmp_path):
    first, second, third = (_images(3, 8, 8, 1, seed=seed) for seed in range(3))
    groups = [{"original": first, "model A": second}, {"model B": third}]
    image_grids.save_comparison(tmp_path / "c.png", groups, title="comparison")
    sheet = _read(tmp_path / "c.png")
    (tops, lefts) = zip(*[_find(sheet, row[0], 6)[0] for row in (first, second, third)], strict=True)
    assert np.diff(tops).tolist() == [52, 68]
    assert len(set(lefts)) == 1
    assert all(_has_ink(sheet[top : top + 48, : lefts[0]]) for top in tops)


def test_grids_are_the_same_bytes_twice(tmp_path):
    for name in ("a", "b"):
        image_grids.save_traversals(tmp_path / f"{name}.png", _images(2, 2, 8, 8, 1), ["z0", "z1"], [0, 1])
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


@pytest.mark.parametrize("name", ["mnist", "cifar10"])
def test_grids_of_real_images(tmp_path, name):
    path = SHARED / {"mnist": "mnist/t10k-images-idx3-ubyte.gz", "cifar10": "cifar10_4k.npz"}[name]
    if not path.exists():
        pytest.skip("the images are not in ../shared/data")
    if name == "mnist":
        images = np.frombuffer(gzip.decompress(path.read_bytes()), np.uint8, offset=16).reshape(-1, 28, 28, 1)
    else:
        images = np.load(path)["images"]
    images = images[:20] / np.float32(255)
    image_grids.save_samples(tmp_path / "s.png", images)
    image_grids.save_reconstructions(tmp_path / "r.png", images[:10], images[10:])
    frames = images.reshape(4, 5, *images.shape[1:])
    image_grids.save_interpolations(tmp_path / "i.png", images[:4], frames, images[4:8])
    image_grids.save_traversals(tmp_path / "t.png", frames, [f"z{i}" for i in range(4)], range(5))
    image_grids.save_manifold(tmp_path / "m.png", frames[:, :4], np.arange(8).reshape(2, 4))
    assert len(list(tmp_path.iterdir())) == 5
    assert len(_find(_read(tmp_path / "s.png"), np.round(images[0] * 255).astype(np.uint8), 2)) == 1


@pytest.mark.fault
@pytest.mark.parametrize(
    "shape", [(1, 30_000, 1), (30_000, 1, 3), (1500, 1200, 3), (1, 1, 1), (2, 700, 1), (64, 48, 3), (513, 511, 1)]
)
def test_a_figure_is_bounded_for_any_shape_of_images(shape, tmp_path):
    images = np.broadcast_to(np.asarray([0, 200], np.uint8)[:, None, None, None], (2, *shape))
    grid = image_grids.image_grid(images, 2)
    height, width = grid.shape[0], (grid.shape[1] - 4) // 2
    assert max(height, width) <= 512
    assert max(height, width) >= 48
    scale = max(height, width) / max(shape)
    np.testing.assert_allclose((height, width), np.maximum(1, scale * np.asarray(shape[:2])), atol=1)
    assert (grid[:, :width] == 0).all()
    assert (grid[:, -width:] == 200).all()
    many = np.broadcast_to(images[:1], (5, 40, *shape)) if math.prod(shape) < 1e5 else images[None]
    image_grids.save_traversals(tmp_path / "t.png", many, [""] * len(many), range(many.shape[1]))
    assert max(_read(tmp_path / "t.png").shape) < 9000


def test_a_reduced_image_has_the_means_of_the_original():
    image = _images(1, 1024, 512, 3)
    expected = image[0].reshape(512, 2, 256, 2, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(image_grids.image_grid(image, 1), expected, atol=1)
