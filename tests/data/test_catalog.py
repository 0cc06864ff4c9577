"""The catalog: registered datasets, names with config and version, other formats, and the folder of datasets."""

import functools
import json
import shutil
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from inputs import refused
from prepared_datasets import edit_info

from vae_jax.config import DataConfig
from vae_jax.data import catalog, splits
from vae_jax.data.configured import ConfiguredSource
from vae_jax.data.loading import load, load_labels, resolve_name
from vae_jax.data.preparation import available, prepare
from vae_jax.errors import InputError, StorageError


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
        return {"train": {"x": x, "y": y}, "test": {"x": 1000 + x[:5], "y": 1000 + y[:5]}}

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


@pytest.mark.fault
@pytest.mark.parametrize("place", ["feature", "snake", "top", "nested", "legacy", "in text"])
def test_the_metadata_of_a_dataset_cannot_import_a_module(place, digits_dir, tmp_path, monkeypatch):
    """TFDS imports the module of each type that features.json names."""
    (tmp_path / "evil_mod.py").write_text(f"open({str(tmp_path / 'RAN')!r}, 'w').close()")
    monkeypatch.syspath_prepend(tmp_path)
    path = digits_dir / "digits" / "1.0.0" / "features.json"
    content = json.loads(path.read_text())
    features, dictionary = content["featuresDict"]["features"], "tensorflow_datasets.core.features.features_dict"
    evil = {"pythonClassName": "evil_mod.X", "tensor": {"shape": {}, "dtype": "uint8"}}
    if place == "feature":
        features["image"]["pythonClassName"] = "evil_mod.X"
    elif place == "snake":
        del features["image"]["pythonClassName"]
        features["image"]["python_class_name"] = "evil_mod.X"
    elif place == "top":
        content["pythonClassName"] = "evil_mod.X"
    elif place == "nested":
        features["more"] = {"pythonClassName": f"{dictionary}.FeaturesDict", "featuresDict": {"features": {"a": evil}}}
    elif place == "legacy":
        content |= {"type": f"{dictionary}.FeaturesDict", "content": {"a": {"type": "evil_mod.X", "content": {}}}}
    else:
        text = json.dumps({"a": {"type": "evil_mod.X", "content": {}}})
        features["more"] = {"pythonClassName": f"{dictionary}.FeaturesDict", "jsonFeature": {"json": text}}
    path.write_text(json.dumps(content))
    for streaming in ("never", "always"):
        source = ConfiguredSource(DataConfig(data_dir=str(digits_dir), streaming=streaming))
        with refused(InputError, "data.name='digits' has a feature of the type 'evil_mod.X'", "is no type of TFDS"):
            source.training()
    assert "digits" in [entry["name"] for entry in available(digits_dir) if not entry["prepared"]]
    assert not (tmp_path / "RAN").exists()
    assert "evil_mod" not in sys.modules


def test_all_types_of_features_of_tfds_are_known():
    with catalog.silence_tfds():
        from tensorflow_datasets.core.features import feature
    abstract = {"tensorflow_datasets.core.features.top_level_feature.TopLevelFeature"}
    registered = {name for name in feature.FeatureConnector._registered_features if name.startswith("tensorflow_")}
    assert registered - abstract == catalog.FEATURE_TYPES


@pytest.mark.fault
def test_metadata_that_are_nested_too_deep_are_damaged(digits_dir):
    path = digits_dir / "digits" / "1.0.0" / "features.json"
    path.write_text('{"a": ' * 100_000 + "1" + "}" * 100_000)
    with refused(StorageError, "data.name='digits' is damaged or incomplete"):
        load("digits", "train", data_dir=digits_dir)
