"""Data: what is loaded is exactly what is on disk, the splits are stable, and bad input is refused in one line."""

import functools
import gzip
import hashlib
import http.server
import io
import json
import os
import shutil
import subprocess
import sys
import threading
import time
import zipfile
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vae_jax import data, host
from vae_jax.data import cache, catalog, files, preparing, splits
from vae_jax.errors import InputError, NoExamplesError, StorageError, VaeJaxError

SHARED = Path(__file__).parents[1] / ".." / "shared" / "data"
MD5 = {  # of the uncompressed archives
    "train-images-idx3-ubyte.gz": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte.gz": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte.gz": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte.gz": "27ae3e4e09519cfbb04c329615203637",
}


@contextmanager
def refused(kind, *words):
    """Expects an error of this kind, on one line, that says these words."""
    with pytest.raises(kind) as caught:
        yield
    message = str(caught.value)
    assert type(caught.value) is kind
    assert "\n" not in message
    assert all(word in message for word in words), message


@pytest.fixture(scope="session")
def archives():
    folder = SHARED / "mnist"
    if not folder.is_dir():
        pytest.skip("the MNIST archives are not in ../shared/data")
    return folder


@pytest.fixture(scope="session")
def mnist_dir(archives, tmp_path_factory):
    folder = tmp_path_factory.mktemp("mnist")
    assert data.prepare("mnist", source=archives, data_dir=folder)["already_prepared"] is False
    return folder


@pytest.fixture(scope="session")
def digits_master(tmp_path_factory):
    folder = tmp_path_factory.mktemp("digits")
    data.load("digits", "train", data_dir=folder)
    return folder


@pytest.fixture
def digits_dir(digits_master, tmp_path):
    """A copy to damage. It has no cache: the copied files are new, so an old cache would not count."""
    shutil.copytree(digits_master / "digits", tmp_path / "data" / "digits")
    return tmp_path / "data"


def images_like(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def save(path, array, **kwargs):
    np.save(path, array, **kwargs)
    return path


# ---------------------------------------------------------------------------------------------------------- splits


def test_the_order_of_the_hash_is_pinned():
    def splitmix64(x):  # in Python's integers, independent of NumPy
        z = (x + 1) * 0x9E3779B97F4A7C15 % 2**64
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ z >> 27) * 0x94D049BB133111EB % 2**64
        return z ^ z >> 31

    assert splitmix64(0) == 0xE220A8397B1DCDAF  # the published first output for the seed 0
    order = splits.hash_order(1000)
    assert order.tolist() == sorted(range(1000), key=splitmix64)
    assert order[:4].tolist() == [410, 821, 366, 503]


@pytest.mark.parametrize("sizes", [{"train": 101}, {"train": 101, "test": 7}, {"train": 101, "validation": 7}])
@pytest.mark.parametrize("holdout", [0.1, 0.5])
def test_splits_are_disjoint_and_cover_everything(sizes, holdout):
    picked = {split: splits.select(sizes, split, holdout) for split in splits.SPLITS}
    from_train = [index for source, index in picked.values() if source == "train"]
    assert np.sort(np.concatenate(from_train)).tolist() == list(range(101))
    assert all(np.all(np.diff(index) > 0) for index in from_train)
    for split in sizes.keys() - {"train"}:
        assert picked[split] == (split, None)


def test_the_share_held_out_is_that_of_the_examples_left():
    count = {s: len(splits.select({"train": 1000}, s, 0.1)[1]) for s in splits.SPLITS}
    assert count == {"test": 100, "validation": 90, "train": 810}
    assert len(splits.select({"train": 60000, "test": 10000}, "validation", 0.1)[1]) == 6000
    assert splits.select({"train": 60000, "test": 10000}, "train", 0.0) == ("train", None)


def test_bad_splits_and_shares_are_refused():
    with refused(InputError, "split='dev'", "train, validation, test"):
        data.load("digits", "dev")
    for holdout in (-0.1, 1.0, float("nan"), False, "0.1"):
        with refused(InputError, "data.holdout", repr(holdout)):
            data.load("digits", "train", holdout=holdout)
    with refused(NoExamplesError, "data.holdout=0", "validation"):
        splits.select({"train": 10, "test": 2}, "validation", 0)
    with refused(NoExamplesError, "data.holdout=0", "test"):
        splits.select({"train": 10}, "test", 0)
    with refused(NoExamplesError, "data.holdout=0.1", "train"):
        splits.select({"train": 2}, "train", 0.1)
    with refused(InputError, "no training examples", "test"):
        splits.select({"test": 2}, "train", 0.1)


# ------------------------------------------------------------------------------------------------------ .npy, .npz


@pytest.mark.parametrize("shape", [(5, 28, 20), (5, 28, 20, 1), (5, 4, 6, 3)])
@pytest.mark.parametrize("order", ["C", "F"])
def test_npy_gives_the_pixels_as_they_are(tmp_path, shape, order):
    x = images_like(*shape)
    loaded = data.load(save(tmp_path / "x.npy", np.asarray(x, order=order)), "train", holdout=0)
    assert loaded.dtype == np.uint8
    assert loaded.flags.c_contiguous
    np.testing.assert_array_equal(loaded, x if x.ndim == 4 else x[..., None])


@pytest.mark.parametrize("dtype", ["<f2", "<f4", ">f4", "<f8", np.longdouble])
def test_floats_are_rounded_to_eight_bits(tmp_path, dtype, monkeypatch):
    monkeypatch.setattr(files, "CHUNK", 100)
    x = images_like(7, 6, 5)
    loaded = data.load(save(tmp_path / "x.npy", (x / 255).astype(dtype)), "train", holdout=0)
    np.testing.assert_array_equal(loaded[..., 0], x)


def test_every_half_precision_number_is_rounded_once(tmp_path):
    x = np.arange(0x3C01, dtype=np.uint16).view(np.float16).reshape(-1, 1, 1)  # all of [0, 1]
    loaded = data.load(save(tmp_path / "x.npy", x), "train", holdout=0)
    np.testing.assert_array_equal(loaded[..., 0], np.rint(x.astype(np.float64) * 255))


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((2, 3, 4, 3), np.int64), ["int64", "uint8"]),
        (np.zeros((2, 3, 32, 32), np.uint8), ["[2, 3, 32, 32]", "[N, H, W, 1 or 3]"]),
        (np.zeros((2, 784), np.uint8), ["[2, 784]"]),
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
    with refused(InputError, "data.name", "x.npy", *words):
        data.load(save(tmp_path / "x.npy", array), "train")
    np.savez_compressed(tmp_path / "x.npz", array)
    with refused(InputError, "data.name", "x.npz", *words):
        data.load(tmp_path / "x.npz", "train")


class Canary:
    def __reduce__(self):
        return os.mkdir, ("unpickled",)


@pytest.mark.fault
def test_a_pickle_is_refused_and_does_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    array = np.array([Canary()], dtype=object)
    np.savez(tmp_path / "x.npz", images=array)
    for path in (save(tmp_path / "x.npy", array, allow_pickle=True), tmp_path / "x.npz"):
        with refused(InputError, "pickle", "uint8"):
            data.load(path, "train")
    (tmp_path / "bare.npy").write_bytes(b"\x80\x04cos\nsystem\n.")
    with refused(InputError, ".npy format"):
        data.load(tmp_path / "bare.npy", "train")
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
def test_a_header_that_declares_more_than_there_is_takes_no_memory(tmp_path, shape, monkeypatch):
    monkeypatch.setattr(np, "empty", None)  # nothing may be allocated
    for suffix, content in {".npy": npy_bytes(shape), ".npz": zip_bytes(npy_bytes(shape))}.items():
        (tmp_path / f"x{suffix}").write_bytes(content)
        with refused(StorageError, "declares", "64 bytes"):
            data.load(tmp_path / f"x{suffix}", "train")


def test_pages_of_files_that_give_way_do_not_count_against_a_group_of_processes(tmp_path, monkeypatch):
    """What was read of data and checkpoints lies in a container's page cache, and counts as its memory."""
    monkeypatch.setattr(host, "GROUP", tmp_path)
    assert host._of_group() is None
    (tmp_path / "memory.max").write_text("1000\n")
    (tmp_path / "memory.current").write_text("990\n")
    (tmp_path / "memory.stat").write_text("anon 300\nfile 690\ninactive_file 600\nactive_file 90\n")
    assert host._of_group() == 610
    assert host.available_memory() == 610
    (tmp_path / "memory.max").write_text("max\n")
    assert host._of_group() is None


@pytest.mark.fault
@pytest.mark.parametrize("kind", ["folder", "records"])
def test_pictures_and_records_larger_than_the_memory_are_refused(kind, tmp_path, data_dir, monkeypatch):
    monkeypatch.setattr(host, "available_memory", lambda: 999)
    if kind == "records":
        with refused(InputError, "memory"):
            data.open_records("digits", "train", data_dir=data_dir, holdout=0.1).read_all()
        return
    for i in range(10):
        Image.fromarray(images_like(10, 10, seed=i)).save(tmp_path / f"{i}.png")
    with refused(InputError, "memory"):
        data.load(tmp_path, "train")


def test_truth_values_are_black_and_white_and_bytes_of_0_and_1_are_refused(tmp_path):
    truth = images_like(20, 4, 4) > 127
    np.testing.assert_array_equal(
        data.load(save(tmp_path / "x.npy", truth), "train", holdout=0.1)[..., 0].max(axis=0), 255 * np.ones((4, 4))
    )
    assert set(np.unique(data.load(tmp_path / "x.npy", "train", holdout=0.1))) == {0, 255}
    with refused(InputError, "values of 0 and 1 given as uint8, whose white is 255; multiply them by 255"):
        data.load(save(tmp_path / "y.npy", truth.astype(np.uint8)), "train")


def test_what_is_kept_quiet_in_two_threads_ends_in_both():
    inside, out = threading.Event(), sys.stdout

    def first():
        with catalog.quiet():
            inside.set()
            time.sleep(0.1)

    def second():
        inside.wait()
        with catalog.quiet():
            time.sleep(0.2)

    both = [threading.Thread(target=f) for f in (first, second)]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join()
    assert sys.stdout is out


@pytest.mark.fault
def test_arrays_larger_than_the_memory_are_refused(tmp_path, monkeypatch):
    path = save(tmp_path / "x.npy", images_like(10, 10, 10))
    assert host.available_memory() > 1 << 20
    monkeypatch.setattr(host, "available_memory", lambda: 999)
    monkeypatch.setattr(np, "empty", None)
    with refused(InputError, "memory"):
        data.load(path, "train")


@pytest.mark.fault
def test_zip_bombs_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "GIB", 1 << 20)
    (tmp_path / "x.npz").write_bytes(
        zip_bytes(npy_bytes((1 << 14, 32, 32), payload=bytes(1 << 24)), zipfile.ZIP_DEFLATED)
    )
    with refused(InputError, "bomb"):
        data.load(tmp_path / "x.npz", "train")


def test_the_array_of_an_npz_is_found_by_its_key_or_by_being_alone(tmp_path):
    x, y = images_like(6, 4, 4), np.array([3, 1, 4, 1, 5, 9])
    load = functools.partial(data.load, tmp_path / "x.npz", "train", holdout=0)
    labels = functools.partial(data.load_labels, tmp_path / "x.npz", "train", holdout=0)
    for arrays in ({"images": x, "other": x[:1], "labels": y}, {"anything": x, "labels": y}):
        np.savez(tmp_path / "x.npz", **arrays)
        np.testing.assert_array_equal(load()[..., 0], x)
        np.testing.assert_array_equal(labels(), y)
        assert labels().dtype == np.int32
    np.savez(tmp_path / "x.npz", a=x, b=x)
    with refused(InputError, "['a', 'b']", "'images'"):
        load()
    np.savez(tmp_path / "x.npz", images=x)
    with refused(InputError, "'labels'"):
        labels()
    for bad in (y[:5], y / 2, np.full(6, 2**31)):
        np.savez(tmp_path / "x.npz", images=x, labels=bad)
        with refused(InputError, "labels"):
            labels()
    with refused(InputError, "labels"):
        data.load_labels(save(tmp_path / "x.npy", x), "train")


def test_labels_stay_with_their_images(tmp_path):
    y = np.arange(50)
    np.savez(tmp_path / "x.npz", images=np.broadcast_to(y.astype(np.uint8)[:, None, None], (50, 2, 2)), labels=y)
    for split in splits.SPLITS:
        x = data.load(tmp_path / "x.npz", split, holdout=0.2)
        np.testing.assert_array_equal(x[:, 0, 0, 0], data.load_labels(tmp_path / "x.npz", split, holdout=0.2))


@pytest.mark.fault
@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_no_damaged_byte_of_an_npz_gives_other_pixels_or_a_foreign_error(tmp_path, compression):
    x = images_like(2, 4, 4)
    content, path = zip_bytes(npy_bytes((2, 4, 4), payload=x.tobytes()), compression), tmp_path / "x.npz"
    outcomes = []
    for flip in range(len(content)):
        damaged = bytearray(content)
        damaged[flip] ^= 0x5A
        path.write_bytes(damaged)
        try:
            outcomes.append(data.load(path, "train", holdout=0)[..., 0])
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
            data.load(path, "train")


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
        data.load(tmp_path / "x.npy", "train")


def test_paths_that_lead_nowhere(tmp_path):
    with refused(InputError, "no such file"):
        data.load(tmp_path / "missing.npz", "train")
    with refused(InputError, "no such folder"):
        data.load(str(tmp_path / "missing"), "train")
    os.mkfifo(tmp_path / "pipe.npy")
    with refused(StorageError, "not a plain file"):
        data.load(tmp_path / "pipe.npy", "train")


def test_colour_images_of_an_npz():
    path = SHARED / "cifar10_4k.npz"
    if not path.is_file():
        pytest.skip("cifar10_4k.npz is not in ../shared/data")
    parts = {split: data.load(path, split) for split in splits.SPLITS}
    assert {s: p.shape for s, p in parts.items()} == {
        "train": (3240, 32, 32, 3),
        "validation": (360, 32, 32, 3),
        "test": (400, 32, 32, 3),
    }
    with np.load(path) as original:
        np.testing.assert_array_equal(data.load(path, "train", holdout=0), original["images"])


# --------------------------------------------------------------------------------------------------------- folders


def picture(path, array, mode=None):
    from PIL import Image

    image = Image.fromarray(array)
    (image.convert(mode) if mode else image).save(path)


def test_a_folder_is_read_in_the_order_of_its_names(tmp_path):
    x = images_like(3, 28, 20)
    for name, image in zip(("b.png", "a.PNG", "c.bmp"), x[[1, 0, 2]], strict=True):
        picture(tmp_path / name, image)
    (tmp_path / "notes.txt").write_text("not a picture")
    (tmp_path / ".hidden.png").write_text("not a picture")
    loaded = data.load(tmp_path, "train", holdout=0)
    assert loaded.shape == (3, 28, 20, 1)
    np.testing.assert_array_equal(loaded[..., 0], x)


def test_transparency_is_dropped_and_grey_among_colour_becomes_colour(tmp_path):
    grey, colour = images_like(4, 6), images_like(4, 6, 4, seed=1)
    picture(tmp_path / "a.png", grey)
    picture(tmp_path / "b.png", np.stack([grey, grey], -1))
    assert data.load(tmp_path, "train", holdout=0).shape == (2, 4, 6, 1)
    np.testing.assert_array_equal(data.load(tmp_path, "train", holdout=0)[1, ..., 0], grey)
    picture(tmp_path / "c.png", colour)
    picture(tmp_path / "d.png", np.full((4, 6, 3), [255, 0, 0], np.uint8), mode="P")
    loaded = data.load(tmp_path, "train", holdout=0)
    np.testing.assert_array_equal(loaded[0], np.repeat(grey[..., None], 3, -1))
    np.testing.assert_array_equal(loaded[2], colour[..., :3])
    assert loaded[3].reshape(-1, 3).tolist() == [[255, 0, 0]] * 24


def test_bad_folders_are_refused(tmp_path):
    with refused(InputError, "no pictures", ".png"):
        data.load(tmp_path, "train")
    picture(tmp_path / "a.png", images_like(4, 6))
    picture(tmp_path / "b.png", images_like(4, 7))
    with refused(InputError, "b.png is 7x4", "a.png is 6x4"):
        data.load(tmp_path, "train")
    picture(tmp_path / "b.png", images_like(4, 6).astype(np.uint16))
    with refused(InputError, "b.png", "I;16", "8 bits"):
        data.load(tmp_path, "train")
    picture(tmp_path / "b.png", images_like(4, 6))
    for damaged in ((tmp_path / "b.png").read_bytes()[:-30], b"<html>", b""):
        (tmp_path / "b.png").write_bytes(damaged)
        with refused(StorageError, "b.png"):
            data.load(tmp_path, "train")
    (tmp_path / "b.png").unlink()
    os.mkfifo(tmp_path / "b.png")
    with refused(StorageError, "b.png", "not a plain file"):
        data.load(tmp_path, "train")
    with refused(InputError, "labels"):
        data.load_labels(tmp_path, "train")


# ---------------------------------------------------------------------------------------------------------- digits


def test_digits_are_the_embedded_ones_exactly(digits_master):
    from sklearn.datasets import load_digits

    digits = load_digits()
    x = np.concatenate([data.load("digits", s, data_dir=digits_master) for s in splits.SPLITS])
    y = np.concatenate([data.load_labels("digits", s, data_dir=digits_master) for s in splits.SPLITS])
    assert x.dtype == np.uint8
    assert x.shape == (1797, 8, 8, 1)
    assert (x.min(), x.max()) == (0, 255)
    original = np.rint(x[..., 0].astype(float) * 16 / 255)  # the documented way back
    got = sorted((image.tobytes(), int(label)) for image, label in zip(original, y, strict=True))
    assert got == sorted((i.tobytes(), int(label)) for i, label in zip(digits.images, digits.target, strict=True))
    assert x[np.rint(x * (16 / 255)) == 8].tolist().count(128) == np.sum(original == 8)  # 127.5 is rounded up


def test_digits_have_a_test_split_of_every_class(digits_master):
    y = data.load_labels("digits", "test", data_dir=digits_master)
    assert len(y) == 359
    assert np.bincount(y, minlength=10).min() > 20
    assert len(data.load("digits", "validation", data_dir=digits_master)) == 144


def test_digits_are_read_by_plain_tfds(digits_dir):
    with catalog.quiet():
        import tensorflow_datasets as tfds

        source = tfds.data_source("digits", split="train", data_dir=digits_dir)
        records = [source[i] for i in range(5)]
    train = data.load("digits", "train", data_dir=digits_dir, holdout=0)
    labels = data.load_labels("digits", "train", data_dir=digits_dir, holdout=0)
    for record, image, label in zip(records, train, labels, strict=False):
        np.testing.assert_array_equal(record["image"], image)
        assert record["label"] == label


def test_two_processes_may_prepare_at_once(tmp_path):
    code = (
        "import sys; from vae_jax import data; print(data.prepare('digits', data_dir=sys.argv[1])['already_prepared'])"
    )
    runs = [
        subprocess.Popen([sys.executable, "-c", code, tmp_path], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for _ in range(2)
    ]
    answers = [run.communicate(timeout=120) for run in runs]
    assert sorted(out.split()[0] for out, _ in answers) == [b"False", b"True"]
    assert [err for _, err in answers] == [b"", b""]


@pytest.mark.fault
def test_what_a_killed_process_left_is_cleared(tmp_path):
    rubbish = tmp_path / catalog.HIDDEN / "staging" / "digits" / "1.0.0"
    rubbish.mkdir(parents=True)
    (rubbish / "dataset_info.json").write_text("{")
    assert data.prepare("digits", data_dir=tmp_path)["splits"] == {"train": 1438, "test": 359}
    assert not (tmp_path / catalog.HIDDEN / "staging").exists()


@pytest.mark.fault
def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path):
    code = """if True:
        import resource, signal, sys
        from vae_jax import data
        from vae_jax.errors import StorageError
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
        try:
            data.prepare("digits", data_dir=sys.argv[1])
        except StorageError as error:
            print(error)
    """
    run = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True)
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout.count("\n") == 1
    assert "data.data_dir" in run.stdout
    assert [p.name for p in tmp_path.rglob("*")] == [catalog.HIDDEN, "prepare.lock"]


@pytest.mark.fault
def test_a_data_dir_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with refused(StorageError, "data.data_dir", "file"):
        data.load("digits", "train", data_dir=tmp_path / "file")


# ----------------------------------------------------------------------------------------------------------- MNIST


@pytest.mark.parametrize("split", ["train", "test"])
def test_mnist_is_the_published_one(archives, mnist_dir, split):
    """TFDS shuffles by the hash of a key, so pixels and labels are compared as a multiset of pairs."""
    raw = {n: gzip.decompress((archives / n).read_bytes()) for n in catalog.BUILTIN["mnist"].archives[split]}
    assert {name: hashlib.md5(content).hexdigest() for name, content in raw.items()} == {n: MD5[n] for n in raw}
    images, labels = raw.values()
    x = data.load("mnist", split, data_dir=mnist_dir, holdout=0)
    y = data.load_labels("mnist", split, data_dir=mnist_dir, holdout=0)
    assert x.shape == (len(labels) - 8, 28, 28, 1)
    expected = np.frombuffer(images, np.uint8, offset=16).reshape(-1, 784)
    pairs = sorted(image.tobytes() + bytes([label]) for image, label in zip(expected, labels[8:], strict=True))
    assert sorted(image.tobytes() + bytes([label]) for image, label in zip(x, y, strict=True)) == pairs


def test_the_validation_split_of_mnist_is_held_out_of_training(mnist_dir):
    parts = [data.load("mnist", split, data_dir=mnist_dir) for split in ("train", "validation")]
    assert [len(part) for part in parts] == [54000, 6000]
    whole = data.load("mnist", "train", data_dir=mnist_dir, holdout=0)
    held = splits.select({"train": 60000, "test": 10000}, "validation", 0.1)[1]
    np.testing.assert_array_equal(parts[1], whole[held])
    np.testing.assert_array_equal(parts[0], np.delete(whole, held, axis=0))
    with refused(NoExamplesError, "data.holdout"):
        data.load("mnist", "validation", data_dir=mnist_dir, holdout=0)


def test_mnist_is_the_stock_data_set_to_tfds(mnist_dir):
    with catalog.quiet():
        import tensorflow_datasets as tfds

        source = tfds.data_source("mnist:3.0.1", split="test", data_dir=mnist_dir)
        assert len(source) == 10000
        np.testing.assert_array_equal(source[7]["image"], data.load("mnist", "test", data_dir=mnist_dir)[7])
        assert tfds.builder("mnist", data_dir=mnist_dir).info.full_name == "mnist/3.0.1"


def test_a_cached_read_is_fast_and_imports_next_to_nothing(mnist_dir):
    data.load("mnist", "train", data_dir=mnist_dir)
    code = """if True:
        import sys, time
        from vae_jax import data
        start = time.perf_counter()
        assert len(data.load("mnist", "train", data_dir=sys.argv[1])) == 54000
        assert len(data.load_labels("mnist", "train", data_dir=sys.argv[1])) == 54000
        seconds = time.perf_counter() - start
        print(seconds, *{"tensorflow_datasets", "tensorflow", "jax", "sklearn", "PIL"} & set(sys.modules))
    """
    out = subprocess.run([sys.executable, "-c", code, mnist_dir], capture_output=True, text=True, check=True).stdout
    seconds, *imported = out.split()
    assert not imported
    assert float(seconds) < 2  # 0.1 s where nothing else runs; decoding takes 5 s


def test_decoding_does_not_import_tensorflow_and_prints_nothing(digits_dir):
    code = """if True:
        import sys
        from vae_jax import data
        data.load("digits", "train", data_dir=sys.argv[1])
        data.prepare("digits", data_dir=sys.argv[1] + "/new")
        assert "tensorflow_datasets" in sys.modules
        assert not {"tensorflow", "jax"} & set(sys.modules)
    """
    run = subprocess.run([sys.executable, "-Werror", "-c", code, digits_dir], capture_output=True, text=True)
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")


def test_decoding_pictures_prints_nothing(mnist_dir):
    code = """if True:
        import sys
        from pathlib import Path
        from vae_jax.data import catalog, sources
        arrays = sources._decode(catalog.find("mnist", Path(sys.argv[1])), "test")
        assert {key: len(array) for key, array in arrays.items()} == {"image": 10000, "label": 10000}
    """
    run = subprocess.run([sys.executable, "-Werror", "-c", code, mnist_dir], capture_output=True, text=True)
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")


def test_unprepared_and_unknown_names_are_refused_in_one_line(tmp_path, digits_dir):
    with refused(InputError, "`vae-jax data prepare mnist`", str(tmp_path)):
        data.load("mnist", "train", data_dir=tmp_path)
    with refused(InputError, "'mnits'", "did you mean 'mnist'", "digits"):
        data.load("mnits", "train", data_dir=tmp_path)
    shutil.copytree(digits_dir / "digits", digits_dir / "flowers")
    with refused(InputError, "did you mean 'flowers'"):
        data.load("flower", "train", data_dir=digits_dir)
    for name in ("cifar10", "", "a b", "digits:9.9.9", "digits/none", "x\ny", "../digits", "digits:1.0"):
        with refused(InputError, "data.name"):
            data.load(name, "train", data_dir=digits_dir)
    with refused(InputError, "did you mean 'mnist'", "digits, mnist"):
        data.prepare("mnits", data_dir=tmp_path)
    with refused(InputError, "source"):
        data.prepare("digits", source=tmp_path, data_dir=tmp_path)


# --------------------------------------------------------------------------------------- other prepared data sets


def write_data_set(folder, name, features, records):
    """Prepares a data set of another builder with a train and a validation split of these records."""
    with catalog.quiet(), preparing._temporary_files_in(folder):
        import tensorflow_datasets as tfds

        class Other(tfds.core.GeneratorBasedBuilder, skip_registration=True):
            VERSION = tfds.core.Version("2.0.0")

            def _info(self):
                return tfds.core.DatasetInfo(
                    builder=self, features=tfds.features.FeaturesDict(features(tfds)), disable_shuffling=True
                )

            def _split_generators(self, dl_manager):
                return {"train": self._generate_examples(10), "validation": self._generate_examples(3)}

            def _generate_examples(self, num):
                yield from ((i, records(i)) for i in range(num))

        Other.name = name
        tfds.disable_progress_bar()
        Other(data_dir=folder).download_and_prepare(
            file_format="array_record", download_config=tfds.download.DownloadConfig(try_download_gcs=False)
        )


def test_the_image_feature_of_another_data_set_is_found(tmp_path):
    x = images_like(10, 5, 6, 3)
    write_data_set(
        tmp_path,
        "other",
        lambda tfds: {"picture": tfds.features.Tensor(shape=(5, 6, 3), dtype=np.uint8), "size": np.int64},
        lambda i: {"picture": x[i], "size": i},
    )
    np.testing.assert_array_equal(data.load("other", "validation", data_dir=tmp_path), x[:3])
    held = splits.select({"train": 10, "validation": 3}, "test", 0.2)[1]
    np.testing.assert_array_equal(data.load("other", "test", data_dir=tmp_path, holdout=0.2), x[held])
    with refused(InputError, "no labels", "picture, size"):
        data.load_labels("other", "train", data_dir=tmp_path)
    assert data.available(tmp_path)[-1] == {
        "name": "other",
        "version": "2.0.0",
        "prepared": True,
        "splits": {"train": 10, "validation": 3},
        "shape": [5, 6, 3],
        "directory": str(tmp_path / "other" / "2.0.0"),
    }


def test_data_sets_that_cannot_serve_are_refused(tmp_path):
    def pair(tfds):
        return {key: tfds.features.Tensor(shape=(2, 2, 1), dtype=np.uint8) for key in ("left", "right")}

    def varying(tfds):
        return {"image": tfds.features.Tensor(shape=(None, 2, 1), dtype=np.uint8)}

    def deep(tfds):
        return {"image": tfds.features.Tensor(shape=(2, 2, 4), dtype=np.uint8)}

    write_data_set(tmp_path, "pair", pair, lambda i: dict.fromkeys(("left", "right"), np.zeros((2, 2, 1), np.uint8)))
    write_data_set(tmp_path, "varying", varying, lambda i: {"image": np.zeros((1 + i, 2, 1), np.uint8)})
    write_data_set(tmp_path, "deep", deep, lambda i: {"image": np.zeros((2, 2, 4), np.uint8)})
    with refused(InputError, "left, right", "'image'"):
        data.load("pair", "train", data_dir=tmp_path)
    with refused(InputError, "image 1", "(2, 2, 1)", "(1, 2, 1)"):
        data.load("varying", "train", data_dir=tmp_path)
    with refused(InputError, "[10, 2, 2, 4]"):
        data.load("deep", "train", data_dir=tmp_path)
    shapes = {entry["name"]: entry["shape"] for entry in data.available(tmp_path)}
    made = {name: shapes.pop(name) for name in ("pair", "varying", "deep")}
    assert made == {"pair": None, "varying": [-1, 2, 1], "deep": [2, 2, 4]}
    assert shapes == dict.fromkeys(catalog.BUILTIN)


def edit_info(folder, **changes):
    info = json.loads((folder / "dataset_info.json").read_text())
    (folder / "dataset_info.json").write_text(json.dumps(info | changes))


def test_names_with_config_and_version(digits_dir):
    for config in ("big", "small"):
        for version in ("1.9.0", "1.10.0"):
            folder = digits_dir / "digits2" / config / version
            shutil.copytree(digits_dir / "digits" / "1.0.0", folder)
            edit_info(folder, name="digits2", configName=config, version=version)

    def found(name):
        return catalog.find(name, digits_dir).directory.relative_to(digits_dir).as_posix()

    assert found("digits") == found("digits:1.*.*") == "digits/1.0.0"
    assert found("digits2/small") == "digits2/small/1.10.0"
    assert found("digits2/big:1.9.0") == "digits2/big/1.9.0"
    assert catalog.find("digits2/small:2.0.0", digits_dir) is None
    with refused(InputError, "big, small"):
        catalog.find("digits2", digits_dir)
    (digits_dir / "digits2" / ".config").mkdir()
    (digits_dir / "digits2" / ".config" / "metadata.json").write_text('{"default_config_name": "small"}')
    assert found("digits2") == "digits2/small/1.10.0"
    assert {entry["name"] for entry in data.available(digits_dir)} >= {"digits2/big", "digits2/small"}


def test_other_formats_are_refused(digits_dir):
    edit_info(digits_dir / "digits" / "1.0.0", fileFormat="tfrecord")
    for call in (functools.partial(data.load, split="train"), data.prepare):
        with refused(InputError, "tfrecord", "array_record", "data.data_dir"):
            call("digits", data_dir=digits_dir)


def test_available_lists_the_built_in_ones_first_of_all(tmp_path):
    entries = data.available(tmp_path / "nowhere")
    assert [(e["name"], e["version"], e["prepared"]) for e in entries] == [
        ("digits", "1.0.0", False),
        ("mnist", "3.0.1", False),
        ("moons", "1.0.0", False),
        ("moons_full_half", "1.0.0", False),
        ("moons_gap", "1.0.0", False),
    ]


def test_the_data_dir_comes_from_the_environment(digits_dir, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(digits_dir))
    assert data.available()[0]["directory"] == str(digits_dir / "digits" / "1.0.0")
    monkeypatch.delenv("TFDS_DATA_DIR")
    assert catalog.resolve_data_dir(None) == Path.home() / "tensorflow_datasets"


def test_the_table_agrees_with_the_builders(tmp_path):
    with catalog.quiet():
        from vae_jax.data import builders

        for name, builtin in catalog.BUILTIN.items():
            builder = getattr(builders, builtin.builder)
            assert (builder.name, str(builder.VERSION)) == (name, builtin.version)
        assert catalog.BUILTIN["mnist"].url == builders.Mnist.URL
        assert len(builders.Mnist.url_infos) == 4


def test_a_bare_name_is_a_data_set_and_a_dotted_one_a_folder(digits_dir, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("digits", "pictures"):
        (tmp_path / name).mkdir()
        picture(tmp_path / name / "a.png", images_like(4, 6))
    assert data.load("digits", "train", data_dir=digits_dir).shape[1:] == (8, 8, 1)
    with refused(InputError, "not prepared"):
        (tmp_path / "mnist").mkdir()
        data.load("mnist", "train", data_dir=digits_dir)
    for name in ("./digits", "pictures", Path("digits")):
        assert data.load(name, "train", data_dir=digits_dir, holdout=0).shape == (1, 4, 6, 1)


# ------------------------------------------------------------------------------------------------ cache and damage


def cached(folder):
    return sorted((folder / catalog.HIDDEN / "digits" / "1.0.0").glob("*"))


@pytest.mark.fault
def test_damaged_caches_are_rebuilt_in_silence(digits_dir, capfd):
    load = functools.partial(data.load, "digits", "train", data_dir=digits_dir)
    expected = load()
    array, beside = cached(digits_dir)[1], cached(digits_dir)[0]
    assert (array.name, beside.name) == ("train-image.npy", "train-image.json")
    good = {array: array.read_bytes(), beside: beside.read_bytes()}
    for path in (array, beside):
        content = good[path]
        flipped = bytearray(content)
        flipped[len(content) * 2 // 3] ^= 1
        for damaged in (bytes(flipped), content[: len(content) // 2], b"", b"null", None):
            path.unlink() if damaged is None else path.write_bytes(damaged)
            np.testing.assert_array_equal(load(), expected)
            assert (array.read_bytes(), beside.read_bytes()) == (good[array], good[beside])
    assert sorted(p.suffix for p in cached(digits_dir)) == [".json", ".json", ".npy", ".npy"]
    assert capfd.readouterr() == ("", "")


def test_the_cache_is_used_and_outdated_when_the_data_change(digits_dir, monkeypatch):
    load = functools.partial(data.load, "digits", "train", data_dir=digits_dir, holdout=0)
    expected = load()
    stamp = cache.stamp(digits_dir / "digits" / "1.0.0")
    path = cached(digits_dir)[1]
    cache.write(path, 255 - expected, stamp)  # a mark to know the cache by
    np.testing.assert_array_equal(load(), 255 - expected)
    shard = next((digits_dir / "digits" / "1.0.0").glob("*train*"))
    os.utime(shard, ns=(0, 0))
    np.testing.assert_array_equal(load(), expected)
    cache.write(path, 255 - expected, stamp)
    (digits_dir / "digits" / "1.0.0" / "more").write_text("")
    np.testing.assert_array_equal(load(), expected)


@pytest.mark.fault
def test_a_cache_that_cannot_be_written_is_no_error(digits_dir, digits_master):
    (digits_dir / catalog.HIDDEN).write_text("in the way")
    expected = data.load("digits", "train", data_dir=digits_master)
    np.testing.assert_array_equal(data.load("digits", "train", data_dir=digits_dir), expected)


@pytest.mark.fault
@pytest.mark.parametrize("damage", ["flip", "truncate", "remove", "info", "features"])
def test_damaged_data_sets_are_refused(digits_dir, damage, capfd):
    folder = digits_dir / "digits" / "1.0.0"
    shard = next(folder.glob("*train*"))
    content = bytearray(shard.read_bytes())
    if damage == "flip":
        content[len(content) // 2] ^= 1
        shard.write_bytes(content)
    elif damage == "truncate":
        shard.write_bytes(content[: len(content) // 2])
    elif damage == "remove":
        shard.unlink()
    else:
        (folder / {"info": "dataset_info.json", "features": "features.json"}[damage]).write_text('{"splits": 3}')
    named = str(shard) if damage in ("flip", "truncate", "remove") else str(folder)
    with refused(StorageError, named, "prepare it again"):
        data.load("digits", "train", data_dir=digits_dir)
    listed = [entry["name"] for entry in data.available(digits_dir)]
    assert listed == ["digits", "mnist", "moons", "moons_full_half", "moons_gap"]
    assert capfd.readouterr() == ("", "")


def test_fingerprints_tell_pixels_shape_and_type_apart():
    x = images_like(4, 6, 6, 1)
    changed = x.copy()
    changed[3, 5, 5, 0] ^= 1
    others = [changed, x.reshape(4, 36, 1, 1), x.view(np.int8), x[:3], x[::-1]]
    assert len({data.fingerprint(a) for a in (x, *others)}) == 6
    assert data.fingerprint(x) == data.fingerprint(np.asfortranarray(x)) == data.fingerprint(x.copy())
    digest = hashlib.sha256(b"|u1 (1, 2)" + bytes([7, 9])).hexdigest()
    assert data.fingerprint(np.array([[7, 9]], np.uint8)) == digest


# ------------------------------------------------------------------------------------------------- preparing MNIST


@pytest.fixture
def source(archives, tmp_path):
    shutil.copytree(archives, tmp_path / "source")
    for path in (tmp_path / "source", *(tmp_path / "source").iterdir()):
        path.chmod(0o755)
    return tmp_path / "source"


def alter(path, position):
    content = bytearray(gzip.decompress(path.read_bytes()))
    content[position] ^= 1
    path.write_bytes(gzip.compress(content, 1))


DAMAGES = {
    "html": (lambda p: p.write_text("<html>Not found</html>"), "not the official archive"),
    "truncated": (lambda p: p.write_bytes(p.read_bytes()[:-9]), "not the official archive"),
    "short": (lambda p: p.write_bytes(gzip.compress(gzip.decompress(p.read_bytes())[:-1], 1)), "ends early"),
    "missing": (lambda p: p.unlink(), "has no file t10k-images-idx3-ubyte.gz"),
    "swapped": (lambda p: p.write_bytes((p.parent / "t10k-labels-idx1-ubyte.gz").read_bytes()), "magic number"),
    "counts": (
        lambda p: p.write_bytes((p.parent / "train-images-idx3-ubyte.gz").read_bytes()),
        "holds 60000 images, but",
    ),
    "one pixel": (lambda p: alter(p, 5000), "wrong SHA-256"),  # only the SHA-256 can tell
}


@pytest.mark.fault
@pytest.mark.parametrize("damage", DAMAGES)
def test_archives_that_are_not_the_official_ones_are_refused(source, tmp_path, damage, capfd):
    change, word = DAMAGES[damage]
    change(source / "t10k-images-idx3-ubyte.gz")
    before = {path.name: path.read_bytes() for path in source.iterdir()}
    with refused(InputError, "t10k-images-idx3-ubyte.gz", word):
        data.prepare("mnist", source=source, data_dir=tmp_path / "data")
    assert {path.name: path.read_bytes() for path in source.iterdir()} == before
    left = [p.relative_to(tmp_path / "data").as_posix() for p in (tmp_path / "data").rglob("*")]
    assert set(left) <= {catalog.HIDDEN, f"{catalog.HIDDEN}/prepare.lock"}
    assert capfd.readouterr() == ("", "")


def test_preparing_again_does_nothing(mnist_dir, tmp_path):
    folder = mnist_dir / "mnist" / "3.0.1"
    before = cache.stamp(folder)
    assert data.prepare("mnist", source=tmp_path, data_dir=mnist_dir) == {
        "name": "mnist",
        "version": "3.0.1",
        "prepared": True,
        "splits": {"train": 60000, "test": 10000},
        "shape": [28, 28, 1],
        "directory": str(folder),
        "already_prepared": True,
    }
    assert cache.stamp(folder) == before
    assert sorted(p.name for p in mnist_dir.iterdir()) == [catalog.HIDDEN, "mnist"]
    assert not (mnist_dir / catalog.HIDDEN / "staging").exists()


@contextmanager
def served(folder, monkeypatch):
    """Serves a folder over HTTP in the place of the mirror."""
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=folder)
    handler.func.log_message = lambda *args: None
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        builtin = replace(catalog.BUILTIN["mnist"], url=f"http://127.0.0.1:{server.server_port}/")
        monkeypatch.setitem(catalog.BUILTIN, "mnist", builtin)
        yield
        server.shutdown()


@pytest.mark.fault
def test_downloads_are_checked_and_cleared_away(source, tmp_path, monkeypatch):
    with served(source, monkeypatch):
        preparing._download("mnist", tmp_path / "archives")
        assert {p.name: p.read_bytes() for p in (tmp_path / "archives").iterdir()} == {
            p.name: p.read_bytes() for p in source.iterdir()
        }
        alter(source / "t10k-images-idx3-ubyte.gz", 5000)
        with refused(InputError, "wrong SHA-256"):
            data.prepare("mnist", data_dir=tmp_path / "other")
        (source / "t10k-images-idx3-ubyte.gz").unlink()
        with refused(InputError, "cannot be downloaded", "404", "--from"):
            data.prepare("mnist", data_dir=tmp_path / "other")
    with refused(InputError, "cannot be downloaded", "refused", "--from"):  # the server is gone
        data.prepare("mnist", data_dir=tmp_path / "other")
    assert [p.name for p in (tmp_path / "other").rglob("*")] == [catalog.HIDDEN, "prepare.lock"]


def test_importing_the_package_is_cheap():
    code = """if True:
        import sys
        import vae_jax.data
        print(*{"tensorflow_datasets", "tensorflow", "jax", "sklearn", "PIL", "array_record"} & set(sys.modules))
    """
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "\n"
