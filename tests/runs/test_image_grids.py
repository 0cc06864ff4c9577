"""Figures, read back from their PNG files."""

import gzip
import math

import matplotlib.axes
import numpy as np
import pytest
from inputs import SHARED
from PIL import Image

from vae_jax.errors import StorageError
from vae_jax.runs import curves, image_grids


def _read(path):
    return np.asarray(Image.open(path))


def _find(sheet, image, scale):
    """Positions (top, left) at which `image`, enlarged `scale` times, stands in the sheet."""
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
    assert (grid[height + 4 :, 2 * (width + 4) :] == 255).all()  # the cell left over


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
def test_what_is_not_an_image_is_refused(images):
    with pytest.raises(ValueError, match="images must"):
        image_grids.image_grid(images, 2)


def test_png_is_whole_or_absent(tmp_path):
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


def test_reconstructions_stand_below_their_originals(tmp_path):
    originals, reconstructed = _images(7, 8, 8, 1), _images(7, 8, 8, 1, seed=1)
    image_grids.save_reconstructions(tmp_path / "r.png", originals, reconstructed, columns=5)
    sheet = _read(tmp_path / "r.png")
    places = [(_find(sheet, a, 6), _find(sheet, b, 6)) for a, b in zip(originals, reconstructed, strict=True)]
    for [(top, left)], [below] in places:
        assert below == (top + 52, left)
    (top, left), (next_top, next_left) = places[0][0][0], places[5][0][0]
    assert next_left == left
    assert next_top > top + 2 * 52  # pairs of rows are set apart
    assert _has_ink(sheet[top : top + 48, :left])
    assert _has_ink(sheet[top + 52 : top + 100, :left])
    with pytest.raises(ValueError, match="shapes differ"):
        image_grids.save_reconstructions(tmp_path / "r.png", originals, reconstructed[:3])


def test_samples_are_about_square(tmp_path):
    images = _images(10, 8, 8, 3)
    image_grids.save_samples(tmp_path / "s.png", images)
    places = [_find(_read(tmp_path / "s.png"), image, 6) for image in images]
    assert {len(p) for p in places} == {1}
    assert len({p[0][1] for p in places}) == 4
    assert places == sorted(places)


def test_interpolation_ends_are_set_apart(tmp_path):
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


def test_manifold_points_right_and_up(tmp_path):
    grid = _images(3, 3, 8, 8, 1)
    image_grids.save_manifold(tmp_path / "m.png", grid, [-1, 0, 1])
    places = np.array([[_find(_read(tmp_path / "m.png"), image, 6)[0] for image in row] for row in grid])
    assert (np.diff(places[..., 0], axis=0) == -52).all()
    assert (np.diff(places[..., 1], axis=1) == 52).all()


def _rows():
    rows = [
        {
            "step": s,
            "bound": -100 - 50_000 / s,
            "reconstruction": -80.0,
            "kl": 20 + 900 / s,
            "grad_norm": 1e3 / s,
        }
        for s in range(10, 10_001, 10)
    ]
    rows[500]["bound"] = None
    rows[501]["kl"] = math.nan
    rows[502]["bound"] = -1e9
    return [*rows, *({"step": s, "validation_bound": -105.0 - s / 1e4} for s in (5000, 10_000))]


@pytest.fixture
def drawn(monkeypatch):
    """The axes that a figure was drawn with."""
    axes = []
    original = matplotlib.axes.Axes.__init__

    def record(self, *arguments, **keywords):
        original(self, *arguments, **keywords)
        axes.append(self)

    monkeypatch.setattr(matplotlib.axes.Axes, "__init__", record)
    return axes


def test_curves_show_how_training_ends(tmp_path, drawn):
    curves.save_curves(tmp_path / "figures" / "c.png", _rows(), title="run")
    bound, reconstruction, kl, grad_norm = drawn
    assert [axes.get_ylabel() for axes in (bound, reconstruction, kl)] == ["nats per example"] * 3
    assert all(axes.get_xlabel() == "step" for axes in drawn)
    assert [text.get_text() for text in bound.get_legend().get_texts()] == ["training", "validation"]
    training, validation = bound.lines
    assert len(training.get_xdata()) == 999
    assert validation.get_ydata().tolist() == [-105.5, -106.0]
    low, high = bound.get_ylim()
    assert -300 < low < -150 < -105 < high < -80
    assert kl.get_ylim()[1] < 25
    assert grad_norm.get_yscale() == "log"
    assert _read(tmp_path / "figures" / "c.png").shape[2] == 4


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [{"step": 1, "bound": math.nan, "kl": None}],
        [{"step": 100, "bound": -120.1, "reconstruction": -100.2, "kl": 0.0, "grad_norm": 0.0}],
        [{"step": 5, "validation_bound": -3.0}],
    ],
)
def test_curves_of_few_rows(tmp_path, drawn, rows):
    curves.save_curves(tmp_path / "c.png", rows)
    assert _read(tmp_path / "c.png").size
    for axes in drawn:
        for line in axes.lines:
            assert line.get_marker() == "o"
            assert axes.get_ylim()[0] < line.get_ydata()[0] < axes.get_ylim()[1]


def test_figures_are_the_same_bytes_twice(tmp_path):
    for name in ("a", "b"):
        curves.save_curves(tmp_path / f"{name}.png", _rows())
        image_grids.save_traversals(tmp_path / f"{name}_t.png", _images(2, 2, 8, 8, 1), ["z0", "z1"], [0, 1])
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert (tmp_path / "a_t.png").read_bytes() == (tmp_path / "b_t.png").read_bytes()


@pytest.mark.parametrize("name", ["mnist", "cifar10"])
def test_figures_of_real_images(tmp_path, name):
    path = SHARED / {"mnist": "mnist/t10k-images-idx3-ubyte.gz", "cifar10": "cifar10_4k.npz"}[name]
    if not path.exists():
        pytest.skip("the images are not on this machine")
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
    image_grids.save_manifold(tmp_path / "m.png", frames[:, :4], range(4))
    assert len(list(tmp_path.iterdir())) == 5
    assert len(_find(_read(tmp_path / "s.png"), np.round(images[0] * 255).astype(np.uint8), 2)) == 1
