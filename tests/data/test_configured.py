"""The source that the settings name: read once, fixed from then on, and streamed if it is large."""

import numpy as np
import pytest
from inputs import random_images, refused, save_image

from vae_jax.config import DataConfig
from vae_jax.data import catalog, configured, folders, splits
from vae_jax.data.configured import ConfiguredSource, open_source
from vae_jax.data.dataset import ArrayDataset
from vae_jax.data.loading import load, load_labels
from vae_jax.data.records import Records
from vae_jax.errors import InputError
from vae_jax.runtime import host


def test_examples_are_streamed_if_they_would_fill_half_of_the_memory(data_dir, monkeypatch):
    config = DataConfig(data_dir=data_dir)
    size = open_source(config).training().nbytes
    for available_bytes, streams in ((2 * size, False), (2 * size - 2, True), (None, False)):
        monkeypatch.setattr(host, "available_memory", lambda value=available_bytes: value)
        training = open_source(config).training()
        assert isinstance(training, Records if streams else ArrayDataset)
        for split in splits.SPLITS:  # of a streamed one held out of the same records
            found = open_source(config).split(split).arrays
            assert found.keys() == {"x", "y"}
            np.testing.assert_array_equal(found["x"], load("digits", split, data_dir=data_dir))
            np.testing.assert_array_equal(found["y"], load_labels("digits", split, data_dir=data_dir))
    monkeypatch.setattr(host, "available_memory", lambda: 2 * size - 2)
    never = ConfiguredSource(DataConfig(data_dir=data_dir, streaming="never"))
    assert isinstance(never.training(), ArrayDataset)
    always = ConfiguredSource(DataConfig(data_dir=data_dir, streaming="always"))
    assert isinstance(always.training(), Records)


def test_a_name_alone_opens_a_source(monkeypatch):
    monkeypatch.setitem(catalog.REGISTERED, "mine", lambda: {"train": {"x": np.ones((9, 2))}})
    assert len(open_source("mine").training()) == 7


@pytest.mark.fault
@pytest.mark.parametrize(
    ("config", "message"),
    [
        (DataConfig(resize=0), "data.resize=0 must be at least 1"),
        (DataConfig(resize=-3), "data.resize=-3 must be at least 1"),
        (DataConfig(kind="image"), "data.kind='image' must be one of auto, images, vectors, counts; did you mean "),
        (np.zeros((3, 2)), "data=ndarray must be of type DataConfig; use vae_jax.DataConfig(...)"),
    ],
)
def test_settings_that_cannot_be_used_are_refused_before_the_data_are_read(config, message):
    with refused(InputError, message):
        open_source(config)


def test_a_split_of_a_streamed_dataset_does_not_decode_the_others(data_dir, monkeypatch):
    source = ConfiguredSource(DataConfig(data_dir=data_dir, streaming="always"))
    expected = load("digits", "validation", data_dir=data_dir)
    monkeypatch.setattr(configured, "read_part", None)
    np.testing.assert_array_equal(source.split("validation").arrays["x"], expected)


def test_what_is_not_prepared_on_disk_cannot_be_streamed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("images.npy", random_images(40, 8, 8))
    with refused(InputError, "data.streaming=always does not work with data.name='images.npy', which is a path; use "):
        ConfiguredSource(DataConfig(name="images.npy", streaming="always")).training()
    monkeypatch.setattr(host, "available_memory", lambda: 1 << 20)
    assert isinstance(ConfiguredSource(DataConfig(name="images.npy")).training(), ArrayDataset)
    monkeypatch.setitem(catalog.REGISTERED, "mine", lambda: {"train": {"x": np.ones((9, 2))}})
    with refused(InputError, "data.name='mine', which is registered; use auto or never"):
        ConfiguredSource(DataConfig(name="mine", streaming="always")).training()
    assert len(ConfiguredSource(DataConfig(name="mine")).training()) == 7


def test_a_registered_function_is_called_once_for_each_source(monkeypatch):
    calls = []
    monkeypatch.setitem(catalog.REGISTERED, "mine", lambda: calls.append(0) or {"train": {"x": np.ones((9, 2))}})
    source = ConfiguredSource(DataConfig(name="mine"))
    assert [len(source.split(split)) for split in splits.SPLITS] == [7, 1, 1]
    assert (len(source.training()), len(calls), source.name) == (7, 1, "mine")


def test_the_kind_of_a_config_is_honoured(data_dir, tmp_path):
    counts = np.random.default_rng(0).poisson(3, size=(30, 7))
    np.save(tmp_path / "x.npy", counts)
    for kind, expected in (("auto", "counts"), ("counts", "counts"), ("vectors", "vectors")):
        source = ConfiguredSource(DataConfig(name=str(tmp_path / "x.npy"), kind=kind))
        assert source.split("test").kind == source.training().kind == expected
    assert ConfiguredSource(DataConfig(data_dir=data_dir, kind="images")).split("test").kind == "images"
    save_image(tmp_path / "a.png", random_images(4, 6))
    for name in ("digits", str(tmp_path)):
        for streaming in ("never", "auto", "always")[: 2 if name != "digits" else 3]:
            source = ConfiguredSource(DataConfig(name=name, data_dir=data_dir, kind="counts", streaming=streaming))
            for call in (source.training, lambda source=source: source.split("train")):
                with refused(InputError, f"data.kind=counts does not work with data.name={name!r}, which contains "):
                    call()


def save_images(folder, names, seed=0):
    folder.mkdir(exist_ok=True)
    for i, name in enumerate(names):
        save_image(folder / name, random_images(6, 5, seed=100 * seed + i))


@pytest.mark.fault
@pytest.mark.parametrize("kind", ["folder", "npy", "npz", "idx", "tfds"])
def test_splits_are_fixed_whatever_happens_to_the_files(kind, tmp_path, digits_dir):
    images, path, name, data_dir = random_images(60, 6, 5), tmp_path / f"x.{kind}", None, None
    if kind == "folder":
        save_images(path, [f"im{i:02}.png" for i in range(60)])
    elif kind == "npy":
        np.save(path, images)
    elif kind == "npz":
        np.savez(path, x=images)
    elif kind == "idx":
        path = tmp_path / "train-images-idx3-ubyte"
        path.write_bytes(np.array([0x803, 60, 6, 5], ">u4").tobytes() + images.tobytes())
    else:
        path, name, data_dir = digits_dir / "digits" / "1.0.0", "digits", str(digits_dir)
    config = DataConfig(name=name or str(path), data_dir=data_dir)
    source, expected = ConfiguredSource(config), ConfiguredSource(config)
    splits_before = {split: expected.split(split).arrays["x"].copy() for split in splits.SPLITS}
    assert len(source.split("train")) == len(splits_before["train"])
    assert source.changed_files() is None
    if kind == "folder":
        save_images(path, [f"a{i:02}.png" for i in range(40)], seed=1)
        (path / "im00.png").unlink()
        save_image(path / "im01.png", random_images(6, 5, seed=999))
        counts = "40 file(s) were added, 1 removed and 1 changed"
    else:
        changed = next(path.glob("*train*")) if kind == "tfds" else path
        changed.write_bytes(changed.read_bytes() + b"0")
        counts = "0 file(s) were added, 0 removed and 1 changed"
    for split, x in splits_before.items():
        if kind != "tfds" or split != "test":  # the test part of a prepared dataset is another file
            np.testing.assert_array_equal(source.split(split).arrays["x"], x)
    assert counts in source.changed_files()


def test_a_folder_is_decoded_once(tmp_path, monkeypatch):
    save_images(tmp_path / "x", [f"{i:02}.png" for i in range(20)])
    source, calls, read = ConfiguredSource(DataConfig(name=str(tmp_path / "x"))), [], folders.load_folder
    monkeypatch.setattr(folders, "load_folder", lambda *args, **kwargs: calls.append(0) or read(*args, **kwargs))
    for split in (*splits.SPLITS, "train"):
        source.split(split)
    source.training()
    assert len(calls) == 1


def test_the_origin_of_each_example_is_known(tmp_path):
    save_images(tmp_path / "x", [f"{i:02}.png" for i in range(20)])
    source = ConfiguredSource(DataConfig(name=str(tmp_path / "x")))
    origins = [source.split(split).origin for split in splits.SPLITS]
    assert sorted(np.concatenate([origin["index"] for origin in origins])) == list(range(20))
    for origin in origins:
        assert origin["file_name"].tolist() == [f"{i:02}.png" for i in origin["index"]]


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("holdout", [0.0, 0.1])
def test_one_image_and_two_images_are_all_splits_and_this_is_noted(count, holdout, tmp_path):
    path = tmp_path / "x.npy"
    np.save(path, random_images(count, 8, 8))
    source = ConfiguredSource(DataConfig(name=str(path), holdout=holdout))
    for split in splits.SPLITS:
        assert len(source.split(split)) == count
    (note,) = source.notes()
    assert f"{count} training example(s) are too few to hold out others" in note
    with pytest.warns(UserWarning, match="too few to hold out"):
        assert len(load(path, "test", holdout=holdout)) == count


@pytest.mark.fault
def test_equal_examples_in_two_splits_are_counted_or_kept_together(tmp_path):
    x, path = random_images(100, 4, 4), tmp_path / "x.npy"
    np.save(path, np.concatenate([x, x[:50]]))
    for choice in ("report", "together"):
        source = ConfiguredSource(DataConfig(name=str(path), duplicates=choice))
        parts = [source.split(split) for split in splits.SPLITS]
        sets = [{image.tobytes() for image in part.arrays["x"]} for part in parts]
        shared = [
            sum(image.tobytes() in sets[i] for image in parts[j].arrays["x"]) for i, j in ((0, 1), (0, 2), (1, 2))
        ]
        assert sum(map(len, parts)) == 150
        notes = source.notes()
        assert len(notes) == sum(count > 0 for count in shared)
        if choice == "together":
            assert notes == []
        else:
            assert f"{shared[1]} of the 15 test examples are identical to train examples" in " ".join(notes)
    with refused(InputError, "data.duplicates=together does not work with data.streaming=always"):
        ConfiguredSource(DataConfig(duplicates="together", streaming="always")).training()


def test_arrays_are_not_resized(tmp_path, monkeypatch):
    monkeypatch.setitem(catalog.REGISTERED, "mine", lambda: {"train": {"x": random_images(20, 8, 8)}})
    np.save(tmp_path / "x.npy", random_images(20, 8, 8))
    (tmp_path / "idx").mkdir()
    header = np.array([0x803, 20, 8, 8], ">u4").tobytes()
    (tmp_path / "idx/train-images-idx3-ubyte").write_bytes(header + random_images(20, 8, 8).tobytes())
    for name in (str(tmp_path / "x.npy"), "mine", str(tmp_path / "idx")):
        with refused(InputError, f"data.resize=4 has no effect on data.name={name!r}"):
            ConfiguredSource(DataConfig(name=name, resize=4)).training()
    with refused(InputError, "data.resize=0 must be an integer of at least 1"):
        load(tmp_path, "train", resize=0)
