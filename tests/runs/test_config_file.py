"""config.json: its content, damaged files, and files of earlier versions."""

import json
import os

import pytest
from hand_made import hand_made
from training_runs import fit

from vae_jax.cli import train as train_command
from vae_jax.config import Config, flatten, from_flat
from vae_jax.errors import CheckpointError, InputError, StorageError
from vae_jax.runs import RunDirectory, open_run, prepare_experiment, read_stored_run
from vae_jax.runs.config_file import write_config
from vae_jax.runtime import atomic_files

DATA = {
    "kind": "images", "num_examples": 1, "arrays": {"x": {"shape": [1, 1, 1], "dtype": "uint8", "sha256": ""}},
}  # fmt: skip
RUN = {"format": 2, "has_config": True, "settings": {}, "data": DATA}


def read_json(directory):
    return json.loads(RunDirectory(directory).config.read_text())


def with_shape(*shape):
    return DATA | {"arrays": {"x": DATA["arrays"]["x"] | {"shape": list(shape)}}}


def test_a_config_survives_the_file(small, tmp_path):
    directory = RunDirectory(tmp_path / "run")
    experiment, _ = prepare_experiment(small(network__hidden=(8, 9)), directory)
    assert read_stored_run(directory) is None
    write_config(directory, experiment, [])
    stored = read_json(directory)
    assert set(stored) == {"format", "has_config", "settings", "data", "held_out"}
    assert (stored["settings"]["network"], stored["settings"]["network.hidden"]) == ("mlp", [8, 9])
    read = read_stored_run(directory)
    assert (from_flat(read.settings), read.data, read.changes) == (experiment.config, experiment.data, [])
    assert open_run(directory).experiment.config == experiment.config


def test_a_hand_made_experiment_survives_the_file(tmp_path):
    directory, experiment = RunDirectory(tmp_path), hand_made()
    write_config(directory, experiment, [])
    read = read_stored_run(directory)
    assert not read.has_config
    assert (read.settings, read.data) == (experiment.description(), experiment.data)


def test_a_change_is_recorded_at_the_step_of_its_first_start(small, tmp_path):
    directory = RunDirectory(tmp_path / "run")
    experiment, _ = prepare_experiment(small(), directory)
    new, old = {"setting": "seed", "from": 1, "to": 0}, {"step": 5, "setting": "train.batch_size", "from": 8, "to": 16}
    write_config(directory, experiment, [new, old], first_step=20)
    changes = read_stored_run(directory).changes
    assert changes == [{"step": 20, **new}, old]
    write_config(directory, experiment, changes, first_step=10)  # resumed from before the newer change
    assert [change["step"] for change in read_stored_run(directory).changes] == [10, 5]
    assert open_run(directory).changed == {"seed", "train.batch_size"}


@pytest.mark.fault
@pytest.mark.parametrize(
    "content",
    [
        "", "[]", "{}", "\x00\xff", "null",
        json.dumps(RUN | {"format": 3}),
        json.dumps({"settings": {}, "data": DATA}),  # no format
        json.dumps(RUN | {"settings": "x"}),
        json.dumps(RUN | {"data": {}}),
        json.dumps(RUN | {"data": DATA | {"arrays": {}}}),
        json.dumps(RUN | {"data": with_shape("a")}),
        json.dumps(RUN | {"data": with_shape(10**6, 10**6, 1)}),
        json.dumps(RUN | {"data": with_shape(-2, -2, 1)}),
        json.dumps(RUN | {"changes": [1]}),
        json.dumps(RUN),  # no setting
        json.dumps(RUN | {"settings": {"objective": "iwea"}}),
        "[" * 100_000,
        json.dumps(RUN | {"settings": flatten(Config()) | {"model.newfield": 3}}),  # of a newer version
    ],
)  # fmt: skip
def test_a_damaged_config_is_refused_in_one_line(content, tmp_path):
    RunDirectory(tmp_path).config.write_bytes(content.encode("latin-1"))
    with pytest.raises(CheckpointError, match=r"config\.json is not the configuration of a run") as caught:
        open_run(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.fault
def test_a_config_that_cannot_be_read_is_refused(tmp_path):
    os.mkfifo(RunDirectory(tmp_path).config)
    with pytest.raises(StorageError, match=r"^cannot read .*config\.json: it is no regular file"):
        open_run(tmp_path)
    RunDirectory(tmp_path).config.unlink()
    RunDirectory(tmp_path).config.mkdir()
    with pytest.raises(StorageError, match=r"^cannot read .*config\.json: Is a directory"):
        open_run(tmp_path)
    with pytest.raises(InputError, match="contains no run"):
        open_run(tmp_path / "absent")


@pytest.mark.fault
def test_a_run_of_the_first_edition_is_refused_with_a_command_that_trains_it_again(small, tmp_path, call):
    stored = {
        "config": {"data": {"name": "digits", "binarization": "none"}, "model": {"latent_dim": 3, "network": "mlp"},
                   "train": {"steps": 40}, "objective": {"name": "elbo"}, "seed": 5},
        "data": {"fingerprint": "5f3a", "num_examples": 60, "image_shape": [8, 8, 1]},
    }  # fmt: skip
    atomic_files.write_json(tmp_path / "config.json", stored)
    command = "`vae-jax train --workdir NEW --data.name digits --train.steps 40 --model.latent_dim 3 --seed 5`"
    for action in (lambda: open_run(tmp_path), lambda: prepare_experiment(small(), tmp_path)):
        with pytest.raises(InputError, match="earlier version") as caught:
            action()
        assert type(caught.value).__mro__[1] is InputError
        assert str(caught.value).endswith(command)
        assert "\n" not in str(caught.value)
    result = call("evaluate", tmp_path)
    assert (result.code, result.out, len(result.err)) == (2, [], 1)
    assert command in result.err[0]
    # The command is one that `vae-jax train` accepts.
    _, config, *_ = train_command.parse_arguments(command.strip("`").split()[2:])
    assert (config.train.steps, config.model.latent_dim, config.seed) == (40, 3, 5)


def test_a_run_of_a_version_without_some_settings_resumes(small, tmp_path):
    directory = tmp_path / "run"
    experiment, _ = fit(small(), directory)
    stored = read_json(directory)
    for path in ("data.workers", "data.streaming", "train.microbatches"):
        del stored["settings"][path]
    atomic_files.write_json(directory / "config.json", stored)
    assert open_run(directory).experiment.config == experiment.config
    assert train_command.parse_arguments(["--workdir", str(directory)])[1] == experiment.config
    _, outcome = fit(small(train__steps=25), directory)
    assert (outcome.resumed_from, outcome.step) == (20, 25)
