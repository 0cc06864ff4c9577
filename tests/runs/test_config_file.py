"""config.json: damaged files, and files of earlier versions."""

import json

import pytest
from training_runs import fit

from vae_jax.cli import train as train_command
from vae_jax.config import override, validation
from vae_jax.errors import CheckpointError, InputError, StorageError
from vae_jax.runs import open_run, prepare_run, read_description, restored_params, write_config
from vae_jax.runs.config_file import CONFIG_FILE
from vae_jax.runtime import atomic_files


def read_json(directory):
    return json.loads((directory / CONFIG_FILE).read_text())


def test_a_description_survives_the_file(small, tmp_path):
    run, _ = prepare_run(small(model__hidden=(8, 9)), tmp_path / "run")
    assert read_description(run.directory) is None
    write_config(run)
    assert "changes" not in read_json(run.directory)
    opened = open_run(run.directory)
    assert (opened.config, opened.data, opened.changes) == (run.config, run.data, ())


def test_a_change_is_recorded_at_the_step_of_its_first_start(small, tmp_path):
    run, _ = prepare_run(small(), tmp_path / "run")
    new, old = {"setting": "seed", "from": 1, "to": 0}, {"step": 5, "setting": "train.batch_size", "from": 8, "to": 16}
    run = type(run)(run.config, run.data, run.directory, run.mesh, (new, old))
    write_config(run, first_step=20)
    assert read_description(run.directory)["changes"] == [{"step": 20, **new}, old]
    write_config(open_run(run.directory), first_step=10)  # resumed from before the newer change
    assert [change["step"] for change in read_description(run.directory)["changes"]] == [10, 5]


@pytest.mark.fault
@pytest.mark.parametrize(
    ("content", "kind"),
    [
        ("", CheckpointError),
        ("[]", CheckpointError),
        ("{}", CheckpointError),
        ('{"config": "x", "data": {"fingerprint": "", "num_examples": 1, "image_shape": [1]}}', CheckpointError),
        ('{"config": {}, "data": {}}', CheckpointError),
        ('{"config": {}, "data": {"fingerprint": "", "num_examples": 1, "image_shape": ["a"]}}', CheckpointError),
        ('{"config": {}, "data": {"fingerprint": "", "num_examples": 1, "image_shape": [1, 1, 1]}}', InputError),
        (
            '{"config": {}, "data": {"fingerprint": "", "num_examples": 1, "image_shape": [1000000, 1000000, 1]}}',
            CheckpointError,
        ),
        (
            '{"config": {}, "data": {"fingerprint": "", "num_examples": 1, "image_shape": [1, 1, 1]}, "changes": [1]}',
            CheckpointError,
        ),
        ("\x00\xff", CheckpointError),
    ],
)
def test_a_damaged_config_is_refused_in_one_line(content, kind, tmp_path):
    (tmp_path / CONFIG_FILE).write_bytes(content.encode("latin-1"))
    with pytest.raises(kind) as caught:
        open_run(tmp_path)
    assert type(caught.value) is kind
    assert "\n" not in str(caught.value)


def test_a_config_that_cannot_be_read_is_refused(tmp_path):
    (tmp_path / CONFIG_FILE).mkdir()
    with pytest.raises(StorageError, match=r"^cannot read .*config\.json: Is a directory"):
        open_run(tmp_path)
    with pytest.raises(InputError, match="contains no run"):
        open_run(tmp_path / "absent")


@pytest.mark.fault
def test_a_run_with_a_setting_that_nothing_read_resumes(small, tmp_path, monkeypatch):
    """Earlier versions accepted such a setting, for example weight decay under plain Adam."""
    directory = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(validation, "_READ_BY", {})
        fit(small(optimizer__weight_decay=0.5, optimizer__milestones=(3,)), directory)
    assert read_json(directory)["config"]["optimizer"]["weight_decay"] == 0.5
    opened = open_run(directory)
    assert (opened.config.optimizer.weight_decay, opened.config.optimizer.milestones) == (0.0, ())
    with restored_params(opened, print) as (step, _):
        assert step == 20
    assert train_command.parse_arguments(["--workdir", str(directory)])[1] == opened.config
    _, outcome = fit(override(opened.config, train__steps=25), directory)
    assert (outcome.resumed_from, outcome.step) == (20, 25)


def test_a_run_of_a_version_without_some_settings_resumes(small, tmp_path):
    directory = tmp_path / "run"
    run, _ = fit(small(), directory)
    stored = read_json(directory)
    for section, name in (("data", "workers"), ("data", "streaming"), ("train", "microbatches")):
        del stored["config"][section][name]
    atomic_files.write_json(directory / CONFIG_FILE, stored)
    assert open_run(directory).config == run.config
    assert train_command.parse_arguments(["--workdir", str(directory)])[1] == run.config
