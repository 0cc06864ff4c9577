"""vae_jax/cli/output.py: the output folder, and the number of images in a figure."""

from types import SimpleNamespace

import numpy as np
import pytest
from commands import SMALL, check_refusal, snapshot
from inputs import random_images
from PIL import Image

from vae_jax import runs
from vae_jax.cli.output import log_changed_files, open_for_examples
from vae_jax.config import Config, DataConfig, override
from vae_jax.data import from_arrays, open_source
from vae_jax.runs import image_grids


@pytest.mark.parametrize(("command", "written"), [
    ("sample", ["figures/samples.png", "samples.npy"]),
    ("reconstruct", ["figures/reconstructions.png"]),
    ("interpolate", ["figures/interpolations.png"]),
    ("encode", ["codes-test.npz"]),
    ("export", ["exported/decoder.jax", "exported/encoder.jax", "exported/programs.json", "exported/sampler.jax"]),
])  # fmt: skip
def test_output_can_be_written_to_another_folder(command, written, trained, tmp_path, call):
    directory, *_ = trained
    before = snapshot(directory)
    call(command, directory, "--to", tmp_path / "out").result  # noqa: B018
    files = sorted(str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*") if p.is_file())
    assert files == written
    assert snapshot(directory) == before
    (tmp_path / "file").write_text("mine")
    refused = call(command, directory, "--to", tmp_path / "file")
    assert (refused.code, len(refused.err)) == (5, 1)
    assert refused.err[0].startswith(f"vae-jax: --to={tmp_path / 'file'} cannot be created or written to")


@pytest.mark.fault
@pytest.mark.parametrize("command", ["reconstruct", "interpolate"])
def test_commands_for_images_refuse_other_data(command, trained_on_counts, call):
    check_refusal(
        call, trained_on_counts, [command, trained_on_counts],
        f"{command} {trained_on_counts} needs a model of images, but this one is trained on counts; use `vae-jax",
    )  # fmt: skip


@pytest.mark.parametrize(("images", "count", "pairs"), [(60, 6, 3), pytest.param(30, 3, 1, marks=pytest.mark.thorough)])
def test_all_images_are_plotted_if_there_are_fewer_than_the_default(images, count, pairs, tmp_path, monkeypatch, call):
    monkeypatch.chdir(tmp_path)
    np.save("few.npy", np.random.default_rng(0).integers(0, 256, (images, 6, 6), dtype=np.uint8))
    argv = ["train", "--workdir", "run", "--data.name", "few.npy", "--train.steps", "10", *SMALL, "--mesh.data", "1"]
    call(*argv).result  # noqa: B018
    shown = {}
    for name in ("reconstructions", "interpolations"):
        monkeypatch.setattr(
            image_grids, f"save_{name}", lambda path, first, *rest, name=name: shown.update({name: len(first)})
        )
    call("reconstruct", "run").result  # noqa: B018
    call("interpolate", "run").result  # noqa: B018
    assert shown == {"reconstructions": count, "interpolations": pairs}


def test_other_data_of_a_streamed_run_may_be_in_memory(monkeypatch, tmp_path):
    np.save(tmp_path / "x.npy", random_images(5, 8, 8))
    opened = []
    monkeypatch.setattr(runs, "open_run", lambda directory, **settings: opened.append(settings))
    options = SimpleNamespace(data=SimpleNamespace(name=None, resize=None))
    open_for_examples(tmp_path, options)
    options.data.name = str(tmp_path / "x.npy")
    open_for_examples(tmp_path, options)
    streamed = override(Config(), data__streaming="always", data__workers=2)
    assert opened[0] == {}
    other = override(streamed, **opened[1])
    assert (other.data.name, other.data.streaming, other.data.resize) == (options.data.name, "auto", None)
    assert open_source(other.data).training().spec["x"].shape == (8, 8, 1)


def test_other_images_of_different_sizes_are_resized_by_request(trained_on_file, call):
    directory, *_ = trained_on_file
    (directory.parent / "new").mkdir()
    for name, size in (("a.png", (6, 6)), ("b.png", (8, 9)), ("c.png", (7, 6))):
        Image.new("L", size, 100).save(directory.parent / "new" / name)
    argv = ["encode", directory, "--data.name", directory.parent / "new"]
    assert "set data.resize=6, which scales the shorter side" in call(*argv).err[-1]
    assert call(*argv, "--data.resize", 6).result["num_examples"] == 3
    refused = call("encode", directory, "--data.resize", 6)
    assert (refused.code, "--data.resize=6 has no effect without --data.name; remove it" in refused.err[-1]) == (
        2,
        True,
    )
    assert "data.resize=0 must be" in call(*argv, "--data.resize", 0).err[-1]


def test_a_name_is_a_dataset_of_the_folder_of_the_run(copied, tmp_path, monkeypatch):
    """Whether other data can be resized depends on the datasets that the run's data.data_dir contains."""
    directory, argv = copied
    asked, options = [], SimpleNamespace(data=SimpleNamespace(name="photographs", resize=None))
    monkeypatch.setattr("vae_jax.data.can_resize", lambda name, data_dir: asked.append((name, data_dir)) or True)
    monkeypatch.setattr(runs, "open_run", lambda directory, **settings: None)
    open_for_examples(directory, options)
    assert asked == [("photographs", argv[argv.index("--data.data-dir") + 1])]


def test_files_that_change_under_a_run_are_reported(tmp_path, capsys):
    np.save(tmp_path / "x.npy", random_images(20, 8, 8))
    source = open_source(DataConfig(name=str(tmp_path / "x.npy")))
    source.split("train")
    log_changed_files(source)
    assert capsys.readouterr().err == ""
    np.save(tmp_path / "x.npy", random_images(21, 8, 8))
    log_changed_files(source)
    assert "0 file(s) were added, 0 removed and 1 changed since the start" in capsys.readouterr().err
    log_changed_files(from_arrays(random_images(20, 8, 8)))
    assert capsys.readouterr().err == ""
