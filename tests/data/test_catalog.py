"""The catalog: names with config and version, other formats, and the folder of datasets."""

import functools
import shutil
import sys
import threading
import time
from pathlib import Path

from inputs import refused
from prepared_datasets import edit_info

from vae_jax.data import catalog
from vae_jax.data.loading import load
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
