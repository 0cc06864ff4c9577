"""IDX archives of MNIST and its relatives."""

import gzip

import numpy as np
import pytest
from inputs import random_images, refused

from vae_jax.data import idx
from vae_jax.data.loading import load, load_labels, resolve_name
from vae_jax.errors import InputError, StorageError


def save_idx(path, array):
    content = np.array([0x800 + array.ndim, *array.shape], ">u4").tobytes() + array.tobytes()
    path.write_bytes(gzip.compress(content, 1) if path.suffix == ".gz" else content)


def save_dataset(folder, prefix="", test="t10k", suffix=".gz", labels=True):
    """Save 20 training and 5 test images; return them, and the labels."""
    folder.mkdir(exist_ok=True)
    x, y = random_images(25, 6, 5), np.arange(25, dtype=np.uint8) % 10
    for name, part in (("train", slice(20)), (test, slice(20, 25))):
        save_idx(folder / f"{prefix}{name}-images-idx3-ubyte{suffix}", x[part])
        if labels:
            save_idx(folder / f"{prefix}{name}-labels-idx1-ubyte{suffix}", y[part])
    return x, y


@pytest.mark.parametrize(
    "names", [{}, {"suffix": ""}, {"prefix": "emnist-letters-", "test": "test"}, {"labels": False}]
)
def test_archives_of_other_data_sets_are_read(tmp_path, names):
    x, y = save_dataset(tmp_path / "x", **names)
    np.testing.assert_array_equal(load(tmp_path / "x", "train", holdout=0)[..., 0], x[:20])
    np.testing.assert_array_equal(load(tmp_path / "x", "test")[..., 0], x[20:])
    if names.get("labels", True):
        np.testing.assert_array_equal(load_labels(tmp_path / "x", "train", holdout=0), y[:20])
        np.testing.assert_array_equal(load_labels(tmp_path / "x", "test"), y[20:])


def test_one_of_several_data_sets_in_a_folder_is_selected_by_its_archive(tmp_path):
    x, _ = save_dataset(tmp_path, "emnist-letters-", "test")
    save_dataset(tmp_path, "emnist-digits-", "test")
    names = "use the path of emnist-digits-train-images-idx3-ubyte.gz or emnist-letters-train-images-idx3-ubyte.gz"
    with refused(InputError, "has archives of several data sets", names):
        load(tmp_path, "train")
    path = tmp_path / "emnist-letters-train-images-idx3-ubyte.gz"
    np.testing.assert_array_equal(load(path, "test")[..., 0], x[20:])
    assert resolve_name(str(path)) == str(path)


def test_an_archive_may_be_there_twice_and_its_labels_may_be_unzipped(tmp_path):
    x, y = save_dataset(tmp_path)
    plain = tmp_path / "train-images-idx3-ubyte"
    save_idx(plain, x[19::-1])
    for path, expected in ((plain, x[19::-1]), (plain.with_name(f"{plain.name}.gz"), x[:20]), (tmp_path, x[:20])):
        np.testing.assert_array_equal(load(path, "train", holdout=0)[..., 0], expected)
    labels = tmp_path / "train-labels-idx1-ubyte.gz"
    save_idx(labels.with_suffix(""), y[:20])
    labels.unlink()
    np.testing.assert_array_equal(load_labels(tmp_path, "train", holdout=0), y[:20])


def test_archives_that_are_missing_or_damaged_are_refused(tmp_path):
    for name, shape in (("images-idx3", (0, 6, 5)), ("labels-idx1", (0,))):
        (tmp_path / "empty").mkdir(exist_ok=True)
        save_idx(tmp_path / f"empty/train-{name}-ubyte", np.zeros(shape, np.uint8))
    with refused(InputError, "has no images in train-images-idx3-ubyte; download it again"):
        load(tmp_path / "empty", "train")
    save_dataset(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte.gz").unlink()
    with refused(InputError, "has labels of some splits, but no file t10k-labels-idx1-ubyte.gz; add it"):
        load(tmp_path, "train")
    (tmp_path / "train-images-idx3-ubyte.gz").unlink()
    with refused(InputError, "has no archive of training images; add train-images-idx3-ubyte.gz"):
        load(tmp_path, "train")
    with refused(InputError, "train-images-idx3-ubyte.gz' does not exist"):
        load(tmp_path / "train-images-idx3-ubyte.gz", "train")
    path = tmp_path / "train-images-idx3-ubyte"
    for content in (b"", b"hello", np.array([0x803, 2, 3, 3], ">u4").tobytes() + bytes(17)):
        path.write_bytes(content)
        with refused(InputError, "train-images-idx3-ubyte", "is not the official archive"):
            idx.read_idx(path, 3, "data.name='x'")


def test_a_folder_that_cannot_be_listed_is_refused(tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(type(tmp_path), "iterdir", refuse)
    with refused(StorageError, f"{tmp_path} cannot be listed (", "check its permissions"):
        idx.find_archives(tmp_path)
