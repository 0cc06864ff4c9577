"""Data: what is loaded is exactly what is on disk, the splits are stable, and bad input is refused in one line."""

import functools
import gzip
import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from inputs import images_like, picture, refused

from vae_jax.data import builders, cache, catalog, loading, preparation, splits
from vae_jax.data.cache import fingerprint
from vae_jax.data.loading import load, load_labels
from vae_jax.data.preparation import available, prepare
from vae_jax.errors import InputError, NoExamplesError, StorageError

MD5 = {  # of the uncompressed archives
    "train-images-idx3-ubyte.gz": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte.gz": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte.gz": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte.gz": "27ae3e4e09519cfbb04c329615203637",
}


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
        load("digits", "dev")
    for holdout in (-0.1, 1.0, float("nan"), False, "0.1"):
        with refused(InputError, "data.holdout", repr(holdout)):
            load("digits", "train", holdout=holdout)
    with refused(NoExamplesError, "data.holdout=0", "validation"):
        splits.select({"train": 10, "test": 2}, "validation", 0)
    with refused(NoExamplesError, "data.holdout=0", "test"):
        splits.select({"train": 10}, "test", 0)
    with refused(NoExamplesError, "data.holdout=0.1", "train"):
        splits.select({"train": 2}, "train", 0.1)
    with refused(InputError, "no training examples", "test"):
        splits.select({"test": 2}, "train", 0.1)


# ---------------------------------------------------------------------------------------------------------- digits


def test_digits_are_the_embedded_ones_exactly(data_dir):
    from sklearn.datasets import load_digits

    digits = load_digits()
    x = np.concatenate([load("digits", s, data_dir=data_dir) for s in splits.SPLITS])
    y = np.concatenate([load_labels("digits", s, data_dir=data_dir) for s in splits.SPLITS])
    assert x.dtype == np.uint8
    assert x.shape == (1797, 8, 8, 1)
    assert (x.min(), x.max()) == (0, 255)
    original = np.rint(x[..., 0].astype(float) * 16 / 255)  # the documented way back
    got = sorted((image.tobytes(), int(label)) for image, label in zip(original, y, strict=True))
    assert got == sorted((i.tobytes(), int(label)) for i, label in zip(digits.images, digits.target, strict=True))
    assert x[np.rint(x * (16 / 255)) == 8].tolist().count(128) == np.sum(original == 8)  # 127.5 is rounded up


def test_digits_have_a_test_split_of_every_class(data_dir):
    y = load_labels("digits", "test", data_dir=data_dir)
    assert len(y) == 359
    assert np.bincount(y, minlength=10).min() > 20
    assert len(load("digits", "validation", data_dir=data_dir)) == 144


def test_digits_are_read_by_plain_tfds(digits_dir):
    with catalog.quiet():
        import tensorflow_datasets as tfds

        source = tfds.data_source("digits", split="train", data_dir=digits_dir)
        records = [source[i] for i in range(5)]
    train = load("digits", "train", data_dir=digits_dir, holdout=0)
    labels = load_labels("digits", "train", data_dir=digits_dir, holdout=0)
    for record, image, label in zip(records, train, labels, strict=False):
        np.testing.assert_array_equal(record["image"], image)
        assert record["label"] == label


# ----------------------------------------------------------------------------------------------------------- MNIST


@pytest.mark.parametrize("split", ["train", "test"])
def test_mnist_is_the_published_one(archives, mnist_dir, split):
    """TFDS shuffles by the hash of a key, so pixels and labels are compared as a multiset of pairs."""
    raw = {n: gzip.decompress((archives / n).read_bytes()) for n in catalog.BUILTIN["mnist"].archives[split]}
    assert {name: hashlib.md5(content).hexdigest() for name, content in raw.items()} == {n: MD5[n] for n in raw}
    images, labels = raw.values()
    x = load("mnist", split, data_dir=mnist_dir, holdout=0)
    y = load_labels("mnist", split, data_dir=mnist_dir, holdout=0)
    assert x.shape == (len(labels) - 8, 28, 28, 1)
    expected = np.frombuffer(images, np.uint8, offset=16).reshape(-1, 784)
    pairs = sorted(image.tobytes() + bytes([label]) for image, label in zip(expected, labels[8:], strict=True))
    assert sorted(image.tobytes() + bytes([label]) for image, label in zip(x, y, strict=True)) == pairs


def test_the_validation_split_of_mnist_is_held_out_of_training(mnist_dir):
    parts = [load("mnist", split, data_dir=mnist_dir) for split in ("train", "validation")]
    assert [len(part) for part in parts] == [54000, 6000]
    whole = load("mnist", "train", data_dir=mnist_dir, holdout=0)
    held = splits.select({"train": 60000, "test": 10000}, "validation", 0.1)[1]
    np.testing.assert_array_equal(parts[1], whole[held])
    np.testing.assert_array_equal(parts[0], np.delete(whole, held, axis=0))
    with refused(NoExamplesError, "data.holdout"):
        load("mnist", "validation", data_dir=mnist_dir, holdout=0)


def test_mnist_is_the_stock_data_set_to_tfds(mnist_dir):
    with catalog.quiet():
        import tensorflow_datasets as tfds

        source = tfds.data_source("mnist:3.0.1", split="test", data_dir=mnist_dir)
        assert len(source) == 10000
        np.testing.assert_array_equal(source[7]["image"], load("mnist", "test", data_dir=mnist_dir)[7])
        assert tfds.builder("mnist", data_dir=mnist_dir).info.full_name == "mnist/3.0.1"


def test_a_cached_read_is_fast_and_imports_next_to_nothing(mnist_dir):
    load("mnist", "train", data_dir=mnist_dir)
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
        from vae_jax.data import catalog, loading
        arrays = loading._decode(catalog.find("mnist", Path(sys.argv[1])), "test")
        assert {key: len(array) for key, array in arrays.items()} == {"image": 10000, "label": 10000}
    """
    run = subprocess.run([sys.executable, "-Werror", "-c", code, mnist_dir], capture_output=True, text=True)
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")


def test_unprepared_and_unknown_names_are_refused_in_one_line(tmp_path, digits_dir):
    with refused(InputError, "`vae-jax data prepare mnist`", str(tmp_path)):
        load("mnist", "train", data_dir=tmp_path)
    with refused(InputError, "'mnits'", "did you mean 'mnist'", "digits"):
        load("mnits", "train", data_dir=tmp_path)
    shutil.copytree(digits_dir / "digits", digits_dir / "flowers")
    with refused(InputError, "did you mean 'flowers'"):
        load("flower", "train", data_dir=digits_dir)
    for name in ("cifar10", "", "a b", "digits:9.9.9", "digits/none", "x\ny", "../digits", "digits:1.0"):
        with refused(InputError, "data.name"):
            load(name, "train", data_dir=digits_dir)
    with refused(InputError, "did you mean 'mnist'", "digits, mnist"):
        prepare("mnits", data_dir=tmp_path)
    with refused(InputError, "source"):
        prepare("digits", source=tmp_path, data_dir=tmp_path)


# --------------------------------------------------------------------------------------- other prepared data sets


def write_data_set(folder, name, features, records):
    """Prepares a data set of another builder with a train and a validation split of these records."""
    with catalog.quiet(), preparation._temporary_files_in(folder):
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
    np.testing.assert_array_equal(load("other", "validation", data_dir=tmp_path), x[:3])
    held = splits.select({"train": 10, "validation": 3}, "test", 0.2)[1]
    np.testing.assert_array_equal(load("other", "test", data_dir=tmp_path, holdout=0.2), x[held])
    with refused(InputError, "no labels", "picture, size"):
        load_labels("other", "train", data_dir=tmp_path)
    assert available(tmp_path)[-1] == {
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
        load("pair", "train", data_dir=tmp_path)
    with refused(InputError, "image 1", "(2, 2, 1)", "(1, 2, 1)"):
        load("varying", "train", data_dir=tmp_path)
    with refused(InputError, "[10, 2, 2, 4]"):
        load("deep", "train", data_dir=tmp_path)
    shapes = {entry["name"]: entry["shape"] for entry in available(tmp_path)}
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
    assert {entry["name"] for entry in available(digits_dir)} >= {"digits2/big", "digits2/small"}


def test_other_formats_are_refused(digits_dir):
    edit_info(digits_dir / "digits" / "1.0.0", fileFormat="tfrecord")
    for call in (functools.partial(load, split="train"), prepare):
        with refused(InputError, "tfrecord", "array_record", "data.data_dir"):
            call("digits", data_dir=digits_dir)


def test_available_lists_the_built_in_ones_first_of_all(tmp_path):
    entries = available(tmp_path / "nowhere")
    assert [(e["name"], e["version"], e["prepared"]) for e in entries] == [
        ("digits", "1.0.0", False),
        ("mnist", "3.0.1", False),
        ("moons", "1.0.0", False),
        ("moons_full_half", "1.0.0", False),
        ("moons_gap", "1.0.0", False),
    ]


def test_the_data_dir_comes_from_the_environment(digits_dir, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(digits_dir))
    assert available()[0]["directory"] == str(digits_dir / "digits" / "1.0.0")
    monkeypatch.delenv("TFDS_DATA_DIR")
    assert catalog.resolve_data_dir(None) == Path.home() / "tensorflow_datasets"


def test_the_table_agrees_with_the_builders(tmp_path):
    with catalog.quiet():
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
    assert load("digits", "train", data_dir=digits_dir).shape[1:] == (8, 8, 1)
    with refused(InputError, "not prepared"):
        (tmp_path / "mnist").mkdir()
        load("mnist", "train", data_dir=digits_dir)
    for name in ("./digits", "pictures", Path("digits")):
        assert load(name, "train", data_dir=digits_dir, holdout=0).shape == (1, 4, 6, 1)


# ------------------------------------------------------------------------------------------------ cache and damage


def cached(folder):
    return sorted((folder / catalog.HIDDEN / "digits" / "1.0.0").glob("*"))


@pytest.mark.fault
def test_damaged_caches_are_rebuilt_in_silence(digits_dir, capfd):
    load = functools.partial(loading.load, "digits", "train", data_dir=digits_dir)
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
    load = functools.partial(loading.load, "digits", "train", data_dir=digits_dir, holdout=0)
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
def test_a_cache_that_cannot_be_written_is_no_error(digits_dir, data_dir):
    (digits_dir / catalog.HIDDEN).write_text("in the way")
    expected = load("digits", "train", data_dir=data_dir)
    np.testing.assert_array_equal(load("digits", "train", data_dir=digits_dir), expected)


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
        load("digits", "train", data_dir=digits_dir)
    listed = [entry["name"] for entry in available(digits_dir)]
    assert listed == ["digits", "mnist", "moons", "moons_full_half", "moons_gap"]
    assert capfd.readouterr() == ("", "")


def test_fingerprints_tell_pixels_shape_and_type_apart():
    x = images_like(4, 6, 6, 1)
    changed = x.copy()
    changed[3, 5, 5, 0] ^= 1
    others = [changed, x.reshape(4, 36, 1, 1), x.view(np.int8), x[:3], x[::-1]]
    assert len({fingerprint(a) for a in (x, *others)}) == 6
    assert fingerprint(x) == fingerprint(np.asfortranarray(x)) == fingerprint(x.copy())
    digest = hashlib.sha256(b"|u1 (1, 2)" + bytes([7, 9])).hexdigest()
    assert fingerprint(np.array([[7, 9]], np.uint8)) == digest


def test_importing_the_package_is_cheap():
    code = """if True:
        import sys
        import vae_jax.data
        print(*{"tensorflow_datasets", "tensorflow", "jax", "sklearn", "PIL", "array_record"} & set(sys.modules))
    """
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "\n"
