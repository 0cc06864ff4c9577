"""Examples from files: numbers are read without change, and unusable files are refused in one line."""

import functools
import io
import os
import zipfile

import numpy as np
import pytest
from inputs import SHARED, random_images, refused, save_array
from PIL import Image

from vae_jax.data import files, kinds, loading, splits
from vae_jax.data.loading import load, load_labels, open_records
from vae_jax.errors import InputError, StorageError, VaeJaxError
from vae_jax.runtime import host


@pytest.mark.parametrize("shape", [(5, 28, 20), (5, 28, 20, 1), (5, 4, 6, 3)])
@pytest.mark.parametrize("order", ["C", "F"])
def test_npy_pixels_are_unchanged(tmp_path, shape, order):
    x = random_images(*shape)
    loaded = load(save_array(tmp_path / "x.npy", np.asarray(x, order=order)), "train", holdout=0)
    assert loaded.dtype == np.uint8
    assert loaded.flags.c_contiguous
    np.testing.assert_array_equal(loaded, x if x.ndim == 4 else x[..., None])


@pytest.mark.parametrize("dtype", ["<f2", "<f4", ">f4", "<f8", np.longdouble])
def test_floats_are_rounded_to_eight_bits(tmp_path, dtype, monkeypatch):
    monkeypatch.setattr(kinds, "CHUNK", 100)
    x = random_images(7, 6, 5)
    loaded = load(save_array(tmp_path / "x.npy", (x / 255).astype(dtype)), "train", holdout=0)
    np.testing.assert_array_equal(loaded[..., 0], x)


def test_every_half_precision_number_is_rounded_once(tmp_path):
    x = np.arange(0x3C01, dtype=np.uint16).view(np.float16).reshape(-1, 1, 1)  # all of [0, 1]
    loaded = load(save_array(tmp_path / "x.npy", x), "train", holdout=0)
    np.testing.assert_array_equal(loaded[..., 0], np.rint(x.astype(np.float64) * 255))


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((2, 3, 4, 3), np.int64), ["int64", "uint8"]),
        (np.zeros((2, 3, 32, 32), np.uint8), ["[2, 3, 32, 32]", "[N, H, W, 1 or 3]"]),
        (np.zeros(784, np.uint8), ["[784]", "[N, D]"]),
        (np.zeros((2, 784, 1, 1, 1), np.uint8), ["[2, 784, 1, 1, 1]", "[N, D]"]),
        (np.zeros((0, 28, 28), np.uint8), ["empty"]),
        (np.zeros((2, 0, 28), np.uint8), ["[2, 0, 28]"]),
        (np.linspace(-1, 255, 8).reshape(2, 2, 2), ["-1", "255", "[0, 1]"]),
        (np.linspace(-0.25, 0.75, 8).reshape(2, 2, 2), ["-0.25", "0.75", "[0, 1]"]),
        (np.array([0.5, np.nan] * 4).reshape(2, 2, 2), ["nan", "[0, 1]"]),
        (np.array([0.5, np.inf] * 4).reshape(2, 2, 2), ["inf", "[0, 1]"]),
        (np.zeros((2, 2, 2), "u1,f4"), ["dtype"]),
    ],
)
def test_arrays_that_are_no_images_are_refused(tmp_path, array, words):
    with refused(InputError, f"data.name={str(tmp_path / 'x.npy')!r} ", *words):
        load(save_array(tmp_path / "x.npy", array), "train")
    np.savez_compressed(tmp_path / "x.npz", array)
    with refused(InputError, f"data.name={str(tmp_path / 'x.npz')!r} (arr_0.npy) ", *words):
        load(tmp_path / "x.npz", "train")


class Canary:
    """Creates a folder when it is unpickled."""

    def __reduce__(self):
        return os.mkdir, ("unpickled",)


@pytest.mark.fault
def test_a_pickle_is_refused_and_does_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    array = np.array([Canary()], dtype=object)
    np.savez(tmp_path / "x.npz", images=array)
    for path in (save_array(tmp_path / "x.npy", array, allow_pickle=True), tmp_path / "x.npz"):
        with refused(InputError, "pickle", "numbers"):
            load(path, "train")
    (tmp_path / "bare.npy").write_bytes(b"\x80\x04cos\nsystem\n.")
    with refused(InputError, ".npy format"):
        load(tmp_path / "bare.npy", "train")
    assert not (tmp_path / "unpickled").exists()


def npy_bytes(shape, descr="|u1", payload=b"\0" * 64):
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": descr, "fortran_order": False, "shape": shape})
    return file.getvalue() + payload


def zip_bytes(content, compression=zipfile.ZIP_STORED):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        archive.writestr("images.npy", content)
    return file.getvalue()


@pytest.mark.fault
@pytest.mark.parametrize("shape", [(1 << 40, 28, 28), (2, -28, 28), (1 << 62, 1 << 62, 1 << 62), (3, 5, 5)])
def test_a_header_that_declares_more_than_the_file_contains_allocates_nothing(tmp_path, shape, monkeypatch):
    monkeypatch.setattr(np, "empty", None)  # nothing may be allocated
    for suffix, content in {".npy": npy_bytes(shape), ".npz": zip_bytes(npy_bytes(shape))}.items():
        (tmp_path / f"x{suffix}").write_bytes(content)
        with refused(StorageError, "declares", "64 bytes"):
            load(tmp_path / f"x{suffix}", "train")


def test_bools_are_black_and_white_and_uint8_of_0_and_1_is_refused(tmp_path):
    bools = random_images(20, 4, 4) > 127
    np.testing.assert_array_equal(
        load(save_array(tmp_path / "x.npy", bools), "train", holdout=0.1)[..., 0].max(axis=0), 255 * np.ones((4, 4))
    )
    assert set(np.unique(load(tmp_path / "x.npy", "train", holdout=0.1))) == {0, 255}
    with refused(InputError, "has uint8 values of only 0 and 1, but white is 255; multiply them by 255"):
        load(save_array(tmp_path / "y.npy", bools.astype(np.uint8)), "train")


@pytest.mark.fault
def test_arrays_larger_than_the_memory_are_refused(tmp_path, monkeypatch):
    path = save_array(tmp_path / "x.npy", random_images(10, 10, 10))
    assert host.available_memory() > 1 << 20
    monkeypatch.setattr(host, "available_memory", lambda: 999)
    monkeypatch.setattr(np, "empty", None)
    with refused(InputError, "GiB of memory, but "):
        load(path, "train")


@pytest.mark.fault
@pytest.mark.parametrize("kind", ["folder", "records"])
def test_folders_and_records_larger_than_the_memory_are_refused(kind, tmp_path, data_dir, monkeypatch):
    monkeypatch.setattr(host, "available_memory", lambda: 999)
    if kind == "records":
        with refused(InputError, "GiB of memory, but "):
            open_records("digits", "train", data_dir=data_dir, holdout=0.1).read_all()
        return
    for i in range(10):
        Image.fromarray(random_images(10, 10, seed=i)).save(tmp_path / f"{i}.png")
    with refused(InputError, "GiB of memory, but "):
        load(tmp_path, "train")


@pytest.mark.fault
def test_zip_bombs_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "GIB", 1 << 20)
    (tmp_path / "x.npz").write_bytes(
        zip_bytes(npy_bytes((1 << 14, 32, 32), payload=bytes(1 << 24)), zipfile.ZIP_DEFLATED)
    )
    with refused(InputError, "bomb"):
        load(tmp_path / "x.npz", "train")


def test_the_arrays_of_an_npz_have_known_keys_or_the_examples_are_the_only_other_one(tmp_path):
    x, y, path = random_images(6, 4, 4), np.array([3, 1, 4, 1, 5, 9]), tmp_path / "x.npz"
    load = functools.partial(loading.load, path, "train", holdout=0)
    labels = functools.partial(load_labels, path, "train", holdout=0)
    for arrays, left_out in (
        ({"images": x, "other": x[:1], "labels": y}, "1 other array(s) left out: other.npy"),
        ({"x": x, "images": x[:1], "y": y, "labels": y[:1]}, "2 other array(s) left out: images.npy, labels.npy"),
        ({"anything": x, "labels": y}, None),
        ({"imgs": x, "label": y[:, None]}, None),
    ):
        np.savez(path, **arrays)
        parts, notes = files.load_file(path)
        np.testing.assert_array_equal(parts["train"].arrays["x"][..., 0], x)
        np.testing.assert_array_equal(parts["train"].arrays["y"], y)
        assert parts["train"].arrays["y"].dtype == np.int32
        assert [note.partition(": ")[2] for note in notes] == ([] if left_out is None else [left_out])
    np.savez(path, a=x, b=x)
    with refused(InputError, "['a', 'b']", "'x'", "'images'"):
        load()
    np.savez(path, images=x)
    with refused(InputError, f"data.name={str(path)!r} has no labels; use "):
        labels()
    for bad in (y[:5], y / 2, np.full(6, 2**31)):
        np.savez(path, images=x, labels=bad)
        with refused(InputError, "(labels.npy) has "):
            labels()
    with refused(InputError, "has no labels; use "):
        load_labels(save_array(tmp_path / "x.npy", x), "train")


@pytest.mark.parametrize(
    "keys",
    [
        {"train": ("x_train", "y_train"), "test": ("x_test", "y_test")},
        {"train": ("X_train", "Y_train"), "validation": ("X_val", "Y_val"), "test": ("X_test", "Y_test")},
        {"train": ("train_images", "train_labels"), "validation": ("val_images", "val_labels")},
        {"train": ("images", "labels"), "test": ("test_images", "test_labels")},
        {"train": ("train_x", "train_y"), "validation": ("x_valid", "y_valid"), "test": ("test_data", "test_label")},
    ],
)
def test_the_splits_of_an_npz_of_other_tools_are_read_by_their_keys(tmp_path, keys):
    images = {split: random_images(7, 4, 5, seed=i) for i, split in enumerate(keys)}
    labels = {split: np.arange(7) + i for i, split in enumerate(keys)}
    arrays = {x: images[split] for split, (x, _) in keys.items()} | {y: labels[split] for split, (_, y) in keys.items()}
    np.savez(tmp_path / "x.npz", **arrays)
    for split in keys:
        np.testing.assert_array_equal(load(tmp_path / "x.npz", split, holdout=0)[..., 0], images[split])
        np.testing.assert_array_equal(load_labels(tmp_path / "x.npz", split, holdout=0), labels[split])


@pytest.mark.parametrize("order", ["C", "F"])
def test_the_mask_of_an_npz_is_read_along(tmp_path, order):
    x = random_images(6, 4, 5)
    mask = np.asarray(x > 99, order=order)
    for given, expected in ((mask, mask[..., None]), (mask[:, 0, 0].astype(np.float64), mask[:, 0, 0])):
        np.savez(tmp_path / "x.npz", x=x, mask=given)
        found = files.load_file(tmp_path / "x.npz").parts["train"].arrays
        assert found.keys() == {"x", "mask"}
        assert found["mask"].dtype == bool
        np.testing.assert_array_equal(found["mask"], expected)
    np.savez(tmp_path / "x.npz", x=x, mask=mask[:5])
    with refused(InputError, "(mask.npy) has shape [5, 4, 5]; use [6] or [6, 4, 5, 1]"):
        files.load_file(tmp_path / "x.npz")


@pytest.mark.parametrize("key", ["conditions", "condition", "covariates"])
def test_the_conditions_of_an_npz_are_read_along(tmp_path, key):
    x, c = random_images(6, 4, 5), np.arange(12.0).reshape(6, 2)
    np.savez(tmp_path / "x.npz", **{"x_train": x, f"{key}_train": c, "test_x": x[:3], f"test_{key}": c[3:]})
    parts = files.load_file(tmp_path / "x.npz").parts
    np.testing.assert_array_equal(parts["train"].arrays["c"], c)
    np.testing.assert_array_equal(parts["test"].arrays["c"], c[3:])
    np.savez(tmp_path / "x.npz", x=x, **{key: c[:5]})
    with refused(InputError, f"({key}.npy) has shape [5, 2] and dtype float64; use numbers [6, C]"):
        files.load_file(tmp_path / "x.npz")


@pytest.mark.parametrize("order", ["C", "F"])
def test_two_axes_are_vectors_or_counts(tmp_path, order, monkeypatch):
    monkeypatch.setattr(kinds, "CHUNK", 100)
    numbers, path = np.random.default_rng(0), tmp_path / "x.npy"
    for kind, array in (("vectors", numbers.normal(size=(30, 7))), ("counts", numbers.poisson(3, size=(30, 7)))):
        np.save(path, np.asarray(array, order=order))
        found = files.load_file(path).parts["train"]
        assert (found.kind, found.arrays["x"].dtype) == (kind, kinds.KINDS[kind].dtype)
        assert found.arrays["x"].flags.c_contiguous
        np.testing.assert_array_equal(found.arrays["x"], array.astype(found.arrays["x"].dtype))
    counts = load(path, "train", holdout=0)
    np.testing.assert_array_equal(load(path, "train", holdout=0, kind="vectors"), counts.astype(np.float32))
    np.save(path, counts.astype(np.float64))
    assert files.load_file(path).parts["train"].kind == "vectors"
    np.testing.assert_array_equal(load(path, "train", holdout=0, kind="counts"), counts)
    with refused(InputError, "data.kind='words' must be one of auto, images, vectors, counts"):
        load(path, "train", kind="words")
    with refused(InputError, "has shape [30, 7]; use [N, H, W]"):
        load(path, "train", kind="images")


@pytest.mark.fault
@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_no_damaged_byte_of_an_npz_results_in_other_pixels_or_another_kind_of_error(tmp_path, compression):
    x = random_images(3, 4, 4)
    content, path = zip_bytes(npy_bytes((3, 4, 4), payload=x.tobytes()), compression), tmp_path / "x.npz"
    outcomes = []
    for flip in range(len(content)):
        damaged = bytearray(content)
        damaged[flip] ^= 0x5A
        path.write_bytes(damaged)
        try:
            outcomes.append(load(path, "train", holdout=0)[..., 0])
        except VaeJaxError as error:
            outcomes.append(str(error))
    messages = [outcome for outcome in outcomes if isinstance(outcome, str)]
    assert len(messages) > len(content) // 2
    assert not any("\n" in message for message in messages)
    for outcome in outcomes:
        np.testing.assert_array_equal(x if isinstance(outcome, str) else outcome, x)
    for length in range(0, len(content), 7):
        path.write_bytes(content[:length])
        with pytest.raises(VaeJaxError):
            load(path, "train")


@pytest.mark.fault
@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"", InputError),
        (b"hello", InputError),
        (b"\x93NUMPY\x07\x00" + bytes(100), InputError),
        (b"\x93NUMPY\x01\x00\x10\x00" + b"(" * 16, InputError),
        (b"\x93NUMPY\x01\x00\x20\x00{'descr': '|u1', 'shape': 'no'}\n", InputError),
        (npy_bytes((1, 8, 8), payload=bytes(63)), StorageError),
        (npy_bytes((1, 8, 8), payload=bytes(65)), StorageError),
    ],
)
def test_damaged_npy_files_are_refused(tmp_path, content, kind):
    (tmp_path / "x.npy").write_bytes(content)
    with refused(kind, "x.npy", "write it"):
        load(tmp_path / "x.npy", "train")


def test_paths_that_are_no_file_are_refused(tmp_path):
    with refused(InputError, "missing.npz' does not exist; use "):
        load(tmp_path / "missing.npz", "train")
    with refused(InputError, "missing' is not a folder; use "):
        load(str(tmp_path / "missing"), "train")
    os.mkfifo(tmp_path / "pipe.npy")
    with refused(StorageError, "not a plain file"):
        load(tmp_path / "pipe.npy", "train")


def test_colour_images_of_an_npz():
    path = SHARED / "cifar10_4k.npz"
    if not path.is_file():
        pytest.skip("cifar10_4k.npz is not in ../shared/data")
    parts = {split: load(path, split) for split in splits.SPLITS}
    assert {s: p.shape for s, p in parts.items()} == {
        "train": (3240, 32, 32, 3),
        "validation": (360, 32, 32, 3),
        "test": (400, 32, 32, 3),
    }
    with np.load(path) as original:
        np.testing.assert_array_equal(load(path, "train", holdout=0), original["images"])
