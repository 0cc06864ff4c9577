"""The catalog: registered datasets, names with config and version, other formats, and the folder of datasets."""

import functools
import shutil
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from inputs import refused
from prepared_datasets import edit_info

from vae_jax.data import catalog, splits
from vae_jax.data.loading import load, load_labels, resolve_name
from vae_jax.data.preparation import available, prepare
from vae_jax.errors import InputError


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
    with refused(InputError, "has several configs; use one of digits2/big, digits2/small"):
        catalog.find("digits2", digits_dir)
    (digits_dir / "digits2" / ".config").mkdir()
    (digits_dir / "digits2" / ".config" / "metadata.json").write_text('{"default_config_name": "small"}')
    assert found("digits2") == "digits2/small/1.10.0"
    assert {entry["name"] for entry in available(digits_dir)} >= {"digits2/big", "digits2/small"}


def test_other_formats_are_refused(digits_dir):
    edit_info(digits_dir / "digits" / "1.0.0", fileFormat="tfrecord")
    for call in (functools.partial(load, split="train"), prepare):
        with refused(InputError, "data.name='digits", " is in the format tfrecord", "array_record", "data.data_dir"):
            call("digits", data_dir=digits_dir)


def test_the_data_dir_comes_from_the_environment(digits_dir, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(digits_dir))
    assert available()[0]["directory"] == str(digits_dir / "digits" / "1.0.0")
    monkeypatch.delenv("TFDS_DATA_DIR")
    assert catalog.resolve_data_dir(None) == Path.home() / "tensorflow_datasets"


def test_two_threads_that_silence_tfds_both_restore_stdout():
    inside, out = threading.Event(), sys.stdout

    def first():
        with catalog.silence_tfds():
            inside.set()
            time.sleep(0.1)

    def second():
        inside.wait()
        with catalog.silence_tfds():
            time.sleep(0.2)

    both = [threading.Thread(target=f) for f in (first, second)]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join()
    assert sys.stdout is out


@pytest.fixture
def registered():
    """`register_dataset`, whose names are forgotten after the test."""
    before = dict(catalog.REGISTERED)
    yield catalog.register_dataset
    catalog.REGISTERED.clear()
    catalog.REGISTERED.update(before)


def test_a_registered_dataset_is_loaded_and_listed_by_name(registered, tmp_path, monkeypatch):
    y = np.arange(50)
    x = np.outer(y, [1, 2, 3])

    @registered("my-counts")
    def my_counts():
        return {"train": {"x": x, "y": y}, "test": {"x": x[:5], "y": y[:5]}}

    monkeypatch.chdir(tmp_path)
    (tmp_path / "my-counts").mkdir()  # the name has precedence
    assert resolve_name("my-counts", data_dir=tmp_path) == "my-counts"
    assert [len(load("my-counts", split, data_dir=tmp_path)) for split in splits.SPLITS] == [45, 5, 5]
    for split in splits.SPLITS:
        counts = load("my-counts", split, data_dir=tmp_path)
        np.testing.assert_array_equal(load_labels("my-counts", split, data_dir=tmp_path), counts[:, 0])
    assert load("my-counts", "test", data_dir=tmp_path, kind="vectors").dtype == np.float32
    unknown = dict.fromkeys(("version", "splits", "shape", "directory"))
    listed = [entry for entry in available(tmp_path) if entry["name"] == "my-counts"]
    assert listed == [{"name": "my-counts", "prepared": True} | unknown]
    with refused(InputError, "did you mean 'my-counts'"):
        load("my-count", "train", data_dir=tmp_path)


def test_a_name_is_registered_once(registered):
    def make():
        @registered("mine")
        def function():
            return {"train": {"x": np.zeros((5, 2))}}

        return function

    assert make() is not make()  # the same function of a module that is imported again
    with refused(InputError, "name='mine' is the name of ", "test_a_name_is_registered_once", "; use another name"):
        registered("mine")(dict)
    with refused(InputError, "name='digits' is the name of a built-in dataset; use another name"):
        registered("digits")
    for name in ("a/b", "x.npy", "", "1x", "a b", "a:1.0.0"):
        with refused(InputError, f"name={name!r} must be letters"):
            registered(name)


def test_the_arrays_of_a_registered_dataset_are_checked(registered):
    wrong = iter([None, {"x": [[1.0]]}, {"train": [[1.0]]}, {"train": {"x": np.full((5, 2), np.nan)}}])
    registered("wrong")(lambda: next(wrong))
    for message in ("has no training examples", "has no training examples", "examples are list; ", "x has values from"):
        with refused(InputError, f"data.name='wrong' {message}"):
            load("wrong", "train")
