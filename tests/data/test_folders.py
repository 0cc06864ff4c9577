"""Folders of images: classes, splits, sizes, and what is left out or refused."""

import os

import numpy as np
import pytest
from inputs import random_images, refused, save_image

from vae_jax.data import folders
from vae_jax.data.loading import load, load_labels
from vae_jax.errors import InputError, StorageError


def test_a_folder_is_read_in_the_order_of_its_file_names(tmp_path):
    x = random_images(3, 28, 20)
    for name, image in zip(("b.png", "a.PNG", "c.bmp"), x[[1, 0, 2]], strict=True):
        save_image(tmp_path / name, image)
    (tmp_path / "notes.txt").write_text("not an image")
    (tmp_path / ".hidden.png").write_text("not an image")
    with pytest.warns(UserWarning, match=r"1 other file\(s\) left out: notes.txt"):
        loaded = load(tmp_path, "train", holdout=0)
    assert loaded.shape == (3, 28, 20, 1)
    np.testing.assert_array_equal(loaded[..., 0], x)


def test_grey_among_colour_becomes_colour(tmp_path):
    grey, colour = random_images(4, 6), random_images(4, 6, 3, seed=1)
    save_image(tmp_path / "a.png", grey)
    save_image(tmp_path / "b.png", np.stack([grey, np.full_like(grey, 255)], -1))
    assert load(tmp_path, "train", holdout=0).shape == (2, 4, 6, 1)
    np.testing.assert_array_equal(load(tmp_path, "train", holdout=0)[1, ..., 0], grey)
    save_image(tmp_path / "c.png", colour)
    save_image(tmp_path / "d.png", np.full((4, 6, 3), [255, 0, 0], np.uint8), mode="P")
    loaded = load(tmp_path, "train", holdout=0)
    np.testing.assert_array_equal(loaded[0], np.repeat(grey[..., None], 3, -1))
    np.testing.assert_array_equal(loaded[2], colour[..., :3])
    assert loaded[3].reshape(-1, 3).tolist() == [[255, 0, 0]] * 24


def test_unusable_folders_are_refused(tmp_path):
    with refused(InputError, "contains no images, neither directly nor in a folder for each class; add ", ".png"):
        load(tmp_path, "train")
    save_image(tmp_path / "a.png", random_images(4, 6))
    save_image(tmp_path / "b.png", random_images(4, 7))
    with refused(InputError, "b.png is 7x4", "a.png is 6x4"):
        load(tmp_path, "train")
    save_image(tmp_path / "b.png", random_images(4, 6).astype(np.uint16))
    with refused(InputError, "b.png", "I;16", "8 bits"):
        load(tmp_path, "train")
    save_image(tmp_path / "b.png", random_images(4, 6))
    for damaged in ((tmp_path / "b.png").read_bytes()[:-30], b"<html>", b""):
        (tmp_path / "b.png").write_bytes(damaged)
        with refused(StorageError, "b.png"):
            load(tmp_path, "train")
    (tmp_path / "b.png").unlink()
    os.mkfifo(tmp_path / "b.png")
    with refused(StorageError, "b.png", "not a plain file"):
        load(tmp_path, "train")
    (tmp_path / "b.png").unlink()
    save_image(tmp_path / "b.png", random_images(4, 6))
    with refused(InputError, "has no labels; use "):
        load_labels(tmp_path, "train", holdout=0)


def test_the_folders_of_a_folder_are_the_classes(tmp_path):
    x = random_images(5, 4, 6)
    for name, image in zip(("cat/b.png", "cat/a.png", "Dog/z.PNG", "ant/y.png", "ant/x.bmp"), x, strict=True):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        save_image(tmp_path / name, image)
    (tmp_path / "empty").mkdir()
    (tmp_path / ".hidden").mkdir()
    save_image(tmp_path / ".hidden" / "a.png", x[0])
    np.testing.assert_array_equal(load(tmp_path, "train", holdout=0)[..., 0], x[[2, 4, 3, 1, 0]])
    labels = load_labels(tmp_path, "train", holdout=0)
    assert (labels.tolist(), labels.dtype) == ([0, 1, 1, 2, 2], np.int32)  # Dog, ant, cat
    save_image(tmp_path / "a.png", x[0])
    with refused(InputError, "contains both images and folders of images (Dog, ant, cat); keep "):
        load(tmp_path, "train")


def save_all(root, names, seed=0):
    """Save a different image under each name; return them by name."""
    images = {name: random_images(4, 6, seed=seed + i) for i, name in enumerate(names)}
    for name, image in images.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        save_image(root / name, image)
    return images


def test_a_class_includes_the_folders_below_it(tmp_path):
    names = ["cat/a.png", "cat/indoor/b.png", "cat/indoor/old/c.png", "dog/d.png"]
    images = save_all(tmp_path, names)
    os.symlink(tmp_path / "cat", tmp_path / "cat" / "loop")
    parts, notes = folders.load_folder(tmp_path)
    assert parts["train"].origin["file_name"].tolist() == names
    assert parts["train"].arrays["y"].tolist() == [0, 0, 0, 1]
    np.testing.assert_array_equal(parts["train"].arrays["x"][..., 0], np.stack(list(images.values())))
    assert notes == ()
    save_all(tmp_path, ["cat/1/2/3/deep.png"])
    parts, (note,) = folders.load_folder(tmp_path)
    assert len(parts["train"]) == 4
    assert "1 other file(s) left out: cat/1/2/3" in note


@pytest.mark.parametrize("validation", ["val", "valid", "Validation"])
@pytest.mark.parametrize("classes", [True, False])
def test_folders_named_like_splits_are_the_splits(tmp_path, validation, classes):
    inner = ["cat/1.png", "dog/2.png", "dog/3.png"] if classes else ["1.png", "2.png", "3.png"]
    names = {"train": inner, validation: inner[:1], "test": inner[1:]}
    images = {split: save_all(tmp_path / split, found, seed=10 * i) for i, (split, found) in enumerate(names.items())}
    for split, folder in (("train", "train"), ("validation", validation), ("test", "test")):
        np.testing.assert_array_equal(load(tmp_path, split)[..., 0], np.stack(list(images[folder].values())))
        if classes:
            labels = [name.startswith("dog") for name in names[folder]]
            assert load_labels(tmp_path, split).tolist() == labels


def test_a_class_can_be_named_train(tmp_path):
    save_all(tmp_path, ["car/1.png", "train/2.png"])
    assert folders.load_folder(tmp_path)[0]["train"].arrays["y"].tolist() == [0, 1]


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (
            ["train/1.png", "test/2.png", "cat/3.png"],
            ["has the folders cat, test, train, of which test, train are named"],
        ),
        (["val/1.png", "test/2.png"], ["named like splits", "with at least train"]),
        (["test/2.png"], ["named like splits", "with at least train"]),
        (["train/1.png", "val/2.png", "valid/3.png"], ["named like splits"]),
        (
            ["train/cat/1.png", "train/dog/1.png", "test/2.png"],
            ["has no folders of classes for test; use them for all"],
        ),
        (
            ["train/cat/1.png", "train/2.png", "test/3.png"],
            ["(train) contains both images and folders of images (cat)"],
        ),
        (["1.png", "more/2.png"], ["contains both images and folders of images (more)"]),
    ],
)
def test_mixed_folders_are_refused(tmp_path, names, words):
    save_all(tmp_path, names)
    with refused(InputError, *words):
        load(tmp_path, "train")


def test_images_of_different_sizes_are_resized_on_request(tmp_path):
    for i, shape in enumerate(((12, 20), (30, 16, 3), (8, 8))):
        save_image(tmp_path / f"{i}.png", random_images(*shape))
    with refused(InputError, "1.png is 16x30, 0.png is 20x12", "set data.resize=8, which scales the shorter side to 8"):
        load(tmp_path, "train")
    (tmp_path / "large").mkdir()
    for i, shape in enumerate(((90, 80), (70, 200))):
        save_image(tmp_path / "large" / f"{i}.png", random_images(*shape))
    with refused(InputError, "1.png is 200x70, 0.png is 80x90", "set data.resize=64, which scales"):
        load(tmp_path / "large", "train")
    for path in (*(tmp_path / "large").iterdir(), tmp_path / "large"):
        path.rmdir() if path.is_dir() else path.unlink()
    loaded = load(tmp_path, "train", holdout=0, resize=8)
    assert loaded.shape == (3, 8, 8, 3)
    np.testing.assert_array_equal(loaded[2, ..., 0], random_images(8, 8))  # already of the size


def test_the_progress_of_decoding_is_reported(tmp_path, monkeypatch):
    monkeypatch.setattr(folders, "INTERVAL", 0)
    save_all(tmp_path, ["a.png", "b.png"])
    lines = []
    folders.load_folder(tmp_path, log=lines.append)
    assert [line.split(": ")[1] for line in lines] == [f"{i} of 2 images decoded, 0 s left" for i in (1, 2)]
