"""Loading: exactly the examples on disk, in memory or streamed, and unknown names are refused in one line."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from inputs import random_images, refused, save_image
from prepared_datasets import write_dataset

from vae_jax.data import catalog, splits
from vae_jax.data.loading import load, load_labels, resolve_name
from vae_jax.data.preparation import available, prepare
from vae_jax.errors import InputError, NoExamplesError, StorageError


def test_the_validation_split_of_mnist_is_held_out_of_training(mnist_dir):
    parts = [load("mnist", split, data_dir=mnist_dir) for split in ("train", "validation")]
    assert [len(part) for part in parts] == [54000, 6000]
    complete = load("mnist", "train", data_dir=mnist_dir, holdout=0)
    held_out = splits.select({"train": 60000, "test": 10000}, "validation", 0.1)[1]
    np.testing.assert_array_equal(parts[1], complete[held_out])
    np.testing.assert_array_equal(parts[0], np.delete(complete, held_out, axis=0))
    with refused(NoExamplesError, "data.holdout"):
        load("mnist", "validation", data_dir=mnist_dir, holdout=0)


def test_labels_belong_to_their_images(tmp_path):
    y = np.arange(50)
    np.savez(tmp_path / "x.npz", images=np.broadcast_to(y.astype(np.uint8)[:, None, None], (50, 2, 2)), labels=y)
    for split in splits.SPLITS:
        x = load(tmp_path / "x.npz", split, holdout=0.2)
        np.testing.assert_array_equal(x[:, 0, 0, 0], load_labels(tmp_path / "x.npz", split, holdout=0.2))


def test_a_cached_read_is_fast_and_imports_no_large_library(mnist_dir):
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
    assert float(seconds) < 2  # 0.1 s on an idle machine; decoding takes 5 s


def test_unprepared_and_unknown_names_are_refused_in_one_line(tmp_path, digits_dir):
    with refused(InputError, "data.name='mnist' is not prepared", "`vae-jax data prepare mnist`", str(tmp_path)):
        load("mnist", "train", data_dir=tmp_path)
    with refused(InputError, "'mnits'", "did you mean 'mnist'", "digits"):
        load("mnits", "train", data_dir=tmp_path)
    shutil.copytree(digits_dir / "digits", digits_dir / "flowers")
    with refused(InputError, "did you mean 'flowers'"):
        load("flower", "train", data_dir=digits_dir)
    for name in ("cifar10", "", "a b", "digits:9.9.9", "digits/none", "x\ny", "../digits", "digits:1.0"):
        with refused(InputError, f"data.name={name!r} is not a "):
            load(name, "train", data_dir=digits_dir)
    with refused(InputError, "did you mean 'mnist'", "digits, mnist"):
        prepare("mnits", data_dir=tmp_path)
    with refused(InputError, "--from=", "has no effect with digits"):
        prepare("digits", source=tmp_path, data_dir=tmp_path)


def test_the_image_feature_of_another_dataset_is_found(tmp_path):
    x = random_images(10, 5, 6, 3)
    write_dataset(
        tmp_path,
        "other",
        lambda tfds: {"picture": tfds.features.Tensor(shape=(5, 6, 3), dtype=np.uint8), "size": np.int64},
        lambda i: {"picture": x[i], "size": i},
    )
    np.testing.assert_array_equal(load("other", "validation", data_dir=tmp_path), x[:3])
    held_out = splits.select({"train": 10, "validation": 3}, "test", 0.2)[1]
    np.testing.assert_array_equal(load("other", "test", data_dir=tmp_path, holdout=0.2), x[held_out])
    with refused(InputError, "data.name='other' has no labels; use "):
        load_labels("other", "train", data_dir=tmp_path)
    (found,) = [entry for entry in available(tmp_path) if entry["name"] == "other"]
    assert found == {
        "name": "other",
        "version": "2.0.0",
        "prepared": True,
        "splits": {"train": 10, "validation": 3},
        "shape": [5, 6, 3],
        "directory": str(tmp_path / "other" / "2.0.0"),
    }


def test_datasets_without_usable_images_are_refused(tmp_path):
    def pair(tfds):
        return {key: tfds.features.Tensor(shape=(2, 2, 1), dtype=np.uint8) for key in ("left", "right")}

    def varying(tfds):
        return {"image": tfds.features.Tensor(shape=(None, 2, 1), dtype=np.uint8)}

    def deep(tfds):
        return {"image": tfds.features.Tensor(shape=(2, 2, 4), dtype=np.uint8)}

    write_dataset(tmp_path, "pair", pair, lambda i: dict.fromkeys(("left", "right"), np.zeros((2, 2, 1), np.uint8)))
    write_dataset(tmp_path, "varying", varying, lambda i: {"image": np.zeros((1 + i, 2, 1), np.uint8)})
    write_dataset(tmp_path, "deep", deep, lambda i: {"image": np.zeros((2, 2, 4), np.uint8)})
    with refused(InputError, "left, right", "'image'"):
        load("pair", "train", data_dir=tmp_path)
    with refused(InputError, "image 1", "(2, 2, 1)", "(1, 2, 1)"):
        load("varying", "train", data_dir=tmp_path)
    with refused(InputError, "[10, 2, 2, 4]"):
        load("deep", "train", data_dir=tmp_path)
    shapes = {entry["name"]: entry["shape"] for entry in available(tmp_path)}
    found = {name: shapes.pop(name) for name in ("pair", "varying", "deep")}
    assert found == {"pair": None, "varying": [-1, 2, 1], "deep": [2, 2, 4]}
    assert shapes == dict.fromkeys(catalog.BUILTIN)


def test_a_plain_name_is_a_dataset_and_one_with_a_dot_is_a_folder(digits_dir, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("digits", "pictures"):
        (tmp_path / name).mkdir()
        for i in range(3):
            save_image(tmp_path / name / f"{i}.png", random_images(4, 6))
    assert load("digits", "train", data_dir=digits_dir).shape[1:] == (8, 8, 1)
    with refused(InputError, "is not prepared"):
        (tmp_path / "mnist").mkdir()
        load("mnist", "train", data_dir=digits_dir)
    for name in ("./digits", "pictures", Path("digits")):
        assert load(name, "train", data_dir=digits_dir, holdout=0).shape == (3, 4, 6, 1)


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
    with refused(StorageError, f"data.name='digits' is damaged or incomplete ({named!r}: ", "prepare it again"):
        load("digits", "train", data_dir=digits_dir)
    listed = [entry["name"] for entry in available(digits_dir)]
    assert listed == ["digits", "mnist", "moons", "moons_full_half", "moons_gap", "sprites"]
    assert capfd.readouterr() == ("", "")


def test_importing_the_folder_imports_no_large_library():
    code = """if True:
        import sys
        import vae_jax.data
        print(*{"tensorflow_datasets", "tensorflow", "jax", "sklearn", "PIL", "array_record"} & set(sys.modules))
    """
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "\n"


def test_names_are_resolved_to_absolute_paths(tmp_path, monkeypatch, data_dir):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pictures").mkdir()
    for name, expected in (("x.npy", "x.npy"), ("pictures", "pictures"), ("./pictures", "pictures")):
        assert resolve_name(name, data_dir=data_dir) == str(tmp_path / expected)
    for name in ("digits", "unknown", "mnist:3.0.1"):
        assert resolve_name(name, data_dir=data_dir) == name
    with refused(InputError, "data.name='./none' is not a folder; use "):
        resolve_name("./none")
