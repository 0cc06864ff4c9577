"""Promises of docs/reliability.md about the complete command: each fault is injected, and the outcome is checked."""

import ast
import json
import os
import re
import shutil
import signal
import socket
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compilations import compilations
from damage import empty, full_disk, truncate
from training_runs import final_digest, fit, flags, metric_rows, restored_state

from vae_jax.cli.main import help_text
from vae_jax.config import override
from vae_jax.data import catalog, load
from vae_jax.errors import InputError, VaeJaxError
from vae_jax.runs import (
    RunDirectory,
    compile_program,
    make_members,
    open_run,
    place_initial_state,
    plots,
    prepare_experiment,
    read_stored_run,
    restored_params,
)
from vae_jax.runs.experiment import experiment as experiment_module
from vae_jax.runs.storage import loggers
from vae_jax.runs.storage.checkpoints import Checkpoints
from vae_jax.runtime.lock import run_lock
from vae_jax.training import make_loss

pytestmark = pytest.mark.fault

DOCUMENT = Path(__file__).parents[1] / "docs" / "reliability.md"


@pytest.fixture(scope="module")
def finished(small, tmp_path_factory):
    """(directory, config) of a run with the steps 10 and 20; copy it before you damage it."""
    directory, config = tmp_path_factory.mktemp("finished") / "run", small()
    fit(config, directory)
    return directory, config


@pytest.fixture
def run(finished, tmp_path):
    """Directory of a copy of the finished run."""
    return Path(shutil.copytree(finished[0], tmp_path / "run"))


@pytest.fixture
def train(call, monkeypatch):
    """train(directory, "--train.steps", 30, ...) -> CommandResult of `vae-jax train` without its figures."""
    monkeypatch.setattr(plots, "plot_all", lambda *_, **__: [])
    return lambda directory, *words: call("train", "--workdir", directory, "--compilation-cache", "None", *words)


def saved_steps(directory):
    return sorted(path.name for path in (directory / "checkpoints").iterdir())


def refused(result, code, *words):
    """Check the exit code and that the last line of stderr contains these words; return that line."""
    assert (result.code, result.out) == (code, [])
    line = result.err[-1]
    assert line.startswith("vae-jax: ")
    assert all(word in line for word in words), line
    return line


# Checkpoints.


@pytest.mark.parametrize("damage", [truncate, empty])
def test_a_damaged_newest_step_is_reported_and_the_one_before_it_is_used(run, train, damage):
    before = final_digest(run)
    damage(run, 20)
    found = train(run)
    assert (found.result["status"], found.result["step"]) == ("done", 20)
    (line,) = [line for line in found.err if " is damaged (" in line]
    assert re.fullmatch(r"step 20 is damaged \(.+\); using step 10", line)
    assert final_digest(run) == before
    assert saved_steps(run) == ["10", "20", "damaged-20"]


def test_with_every_step_damaged_the_run_is_refused_and_not_restarted(run, train, call):
    for step in (10, 20):
        truncate(run, step)
    for result in (train(run), call("evaluate", run)):
        line = refused(result, 4, "step 20 (", "step 10 (")
        assert str(run / "checkpoints") in line
    assert saved_steps(run) == ["10", "20"]


def test_a_checkpoint_of_another_latent_size_than_the_config_is_refused(run, train, call):
    stored = json.loads((run / "config.json").read_text())
    stored["settings"]["model.latent_dim"] = 3
    (run / "config.json").write_text(json.dumps(stored))
    for result in (train(run), call("evaluate", run)):
        refused(result, 4, "model.latent_dim: 2 in checkpoint, 3 in config")


def test_a_run_in_use_names_its_owner(run, train):
    with run_lock(run):
        refused(train(run), 6, f"in use by process {os.getpid()} on {socket.gethostname()}")


# Disks.


def test_a_save_that_fails_is_reported_at_the_next_line_of_metrics(run, train, monkeypatch):
    """The disk is full long before the end of training: exit code 5, and the earlier steps are intact."""
    start = Checkpoints._start

    def fail_permanently(checkpoints):
        with full_disk():
            error = start(checkpoints)
            while checkpoints._manager.is_saving_in_progress():
                pass
        return error

    monkeypatch.setattr(Checkpoints, "_start", fail_permanently)
    line = refused(train(run, "--train.steps", 60), 5, "step 30 is not saved in ", "File too large")
    assert "\n" not in line
    assert metric_rows(run)[-1]["step"] == 35  # the step after the one that is not saved
    assert [name for name in saved_steps(run) if name.isdigit()] == ["10", "20"]
    monkeypatch.setattr(Checkpoints, "_start", start)
    assert train(run, "--train.steps", 30).result["step"] == 30
    assert saved_steps(run) == ["10", "20", "30"]  # no temporary folder remains


def test_a_log_on_a_full_disk_costs_one_warning_and_no_step(finished, train, tmp_path, monkeypatch):
    path = tmp_path / "run" / "metrics.jsonl"

    def open_on_a_full_disk(file, *args, **kwargs):
        if Path(file) == path and args == ("ab",):
            path.touch()
            file = "/dev/full"
        return open(file, *args, **kwargs)

    monkeypatch.setattr(loggers, "open", open_on_a_full_disk, raising=False)
    found = train(tmp_path / "run", *flags(finished[1]))
    assert (found.result["step"], found.result["status"]) == (20, "done")
    warnings = [line for line in found.err if "warning" in line]
    assert warnings == [f"vae-jax: warning: cannot write {path}: No space left on device; training "
                        "continues without these records"]  # fmt: skip
    plots.plot_curves(RunDirectory(tmp_path / "run"))  # metrics.jsonl has no rows
    assert saved_steps(tmp_path / "run") == ["10", "20"]


@pytest.mark.parametrize("damage", ["missing", "truncated", "flipped"])
def test_a_shard_that_is_missing_or_damaged_is_named(damage, train, data_dir, tmp_path):
    load("digits", "train", data_dir=data_dir)  # prepares the data set
    shutil.copytree(Path(data_dir) / "digits", tmp_path / "data" / "digits")
    (shard,) = (tmp_path / "data").rglob("*-train.array_record-*")
    content = shard.read_bytes()
    shard.unlink()
    if damage == "truncated":
        shard.write_bytes(content[: len(content) // 2])
    elif damage == "flipped":
        middle = len(content) // 2
        shard.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
    result = train(tmp_path / "run", "--data.data-dir", tmp_path / "data")
    refused(result, 5, str(shard), "prepare it again")
    assert not (tmp_path / "run").exists()


# Numbers that are not finite.


def infinite_gradient(value, params, present):
    """Return `value` with an infinite gradient where `present`, and with the unchanged gradient elsewhere."""
    weight = jax.tree.leaves(params)[0].ravel()[0]
    return value + jnp.sqrt(jnp.where(present, weight - jax.lax.stop_gradient(weight), 1.0)) - ~present


def not_a_number(value, params, present):
    del params
    return jnp.where(present, jnp.nan, value)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [(not_a_number, "loss=nan"), (infinite_gradient, "grad_norm=inf")],
)
def test_a_loss_or_gradient_that_is_not_finite_names_its_step_and_its_images(
    small, train, tmp_path, data_dir, monkeypatch, spoil, message
):
    """One image spoils the loss at whichever step it is read: the error lists it among the images of that step."""
    config = small(train__save_every=5)
    image = load("digits", "train", data_dir=data_dir)[321]

    def make(*args, **kwargs):
        loss = make_loss(*args, **kwargs)

        def spoiled(params, statistics, key, batch, step):
            value, others = loss(params, statistics, key, batch, step)
            return spoil(value, params, (batch["x"] == image[None]).all(axis=(1, 2, 3)).any()), others

        return spoiled

    monkeypatch.setattr(experiment_module, "make_loss", make)
    line = refused(train(tmp_path / "run", *flags(override(config, train__steps=80))), 3, message)
    step = int(re.match(r"vae-jax: step (\d+) is not finite", line)[1])
    named = [int(number) for number in line.rpartition("the step read the training examples ")[2].split(", ")]
    assert 321 in named
    assert len(set(named)) == config.train.batch_size == len(named)
    run = open_run(tmp_path / "run")
    assert not any(321 in run.experiment.examples(earlier) for earlier in range(step))
    with restored_params(run.experiment, run.directory, run.placement, pytest.fail) as (newest, params):
        assert step - 5 <= newest <= step
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params))


def test_a_batch_of_another_dtype_or_layout_is_refused_and_compiles_nothing(finished, tmp_path):
    experiment, placement = prepare_experiment(finished[1], tmp_path / "run")
    program, data = compile_program(experiment, placement), experiment.training_data.read_all()
    images = data["x"]
    state, _ = program(place_initial_state(experiment, placement), data, 2)
    state, _ = program(state, data, 2)
    wrong = {
        "images have shape [16, 8, 8, 1] and dtype float32; pass uint8 [N, H, W, C]": images.astype(np.float32) / 255,
        "images have shape [16, 8, 8, 1] and dtype int32; pass uint8 [N, H, W, C]": images.astype(np.int32),
        "images have shape [16, 8, 8] and dtype uint8; pass uint8 [N, H, W, C]": images[..., 0],
        "examples x have shape [16, 1, 8, 8] and dtype float32; pass floats [B, 8, 8, 1]": images.transpose(0, 3, 1, 2),
        "examples x have shape [16, 8, 8, 3] and dtype float32; pass floats [B, 8, 8, 1]": images.repeat(3, axis=-1),
    }
    with compilations("train_steps") as compiled:
        for message, given in wrong.items():
            with pytest.raises(InputError) as caught:
                program(state, data | {"x": given}, 2)
            assert str(caught.value) == message
        state, _ = program(state, data, 2)  # the refused calls did not donate the state
    assert (int(state.step), compiled) == (6, [])


# Changed settings of a resumed run.


@pytest.mark.parametrize(
    ("path", "flag", "value", "old"),
    [("seed", "--seed", 1, 0), ("train.batch_size", "--train.batch-size", 8, 16),
     ("data.holdout", "--data.holdout", 0.2, 0.1)],
)  # fmt: skip
def test_seed_batch_and_split_stay_as_they_are(run, train, path, flag, value, old):
    words = (
        f"{path}={value} differs from {old} in {run}",
        "choose another --workdir, ",
        f"allow the change with --allow-change {path}",
    )
    refused(train(run, flag, value), 2, *words)
    refused(train(run, flag, value, "--allow-change", "optimizer.b1"), 2, *words)


def test_a_change_that_is_allowed_is_reported_and_recorded(run, train):
    options = ["--seed", 1, "--train.batch-size", 8, "--data.holdout", 0.2, "--train.steps", 30]
    found = train(run, *options, "--allow-change", "seed", "train.batch-size", "data.holdout")
    assert found.result["step"] == 30
    for change in ("seed changes from 0 to 1 at step 20", "train.batch_size changes from 16 to 8 at step 20"):
        assert any(line.startswith(change) for line in found.err), found.err
    changes = json.loads((run / "config.json").read_text())["changes"]
    assert {change["setting"] for change in changes} == {
        "seed", "train.batch_size", "train.steps", "data.holdout", "num_examples", "arrays.x.sha256", "arrays.y.sha256",
        "held_out.validation.num_examples", "held_out.validation.sha256",
    }  # fmt: skip
    assert {change["step"] for change in changes} == {20}
    assert {"step": 20, "setting": "train.batch_size", "from": 16, "to": 8} in changes
    # The next start needs no permission, even if it falls back to a step before the change.
    truncate(run, 30)
    truncate(run, 20)
    again = train(run)
    assert again.result["step"] == 30
    assert "step 30 is damaged" in again.err[1]
    assert read_stored_run(RunDirectory(run)).changes == [change | {"step": 10} for change in changes]
    assert (restored_state(run).state.key == jax.random.key(1)).all()  # all random numbers follow the new seed
    refused(train(run, "--seed", 2), 2, "seed=2 differs from 1 in ")


def test_a_resumed_run_can_clip_its_gradients(run, train):
    found = train(run, "--optimizer.clip-norm", 0.5, "--train.steps", 30, "--allow-change", "optimizer.clip_norm")
    assert found.result["step"] == 30
    assert open_run(run).experiment.config.optimizer.clip_norm == 0.5


def test_a_change_of_the_saved_arrays_cannot_be_allowed(run, train):
    refused(train(run, "--allow-change", "train.batchsize"), 2, "no such setting; did you mean 'train.batch_size'?")
    words = "network.hidden=[9] differs from [8] in ", "choose another --workdir"
    line = refused(train(run, "--network.hidden", 9), 2, *words)
    assert "--allow-change" not in line
    words = "train.ema_decay=0.9 differs from 0.0 in ", "choose another --workdir"
    line = refused(train(run, "--train.ema-decay", 0.9), 2, *words)
    assert "--allow-change" not in line
    refused(train(run, "--network.activation", "relu"), 2, "allow the change with --allow-change network.activation")
    before = (run / "config.json").read_bytes()
    allowed = train(run, "--network.hidden", 9, "--allow-change", "network.hidden")
    refused(allowed, 4, "kernel: float32[64, 8] in checkpoint, float32[64, 9] in state")
    assert (run / "config.json").read_bytes() == before


def test_other_images_are_another_change(small, train, tmp_path):
    path, noise = tmp_path / "images.npz", np.random.default_rng(0)
    settings = {"data__name": str(path), "train__steps": 5, "train__save_every": 5}

    def draw(*shape):
        np.savez(path, images=noise.integers(0, 256, shape, dtype=np.uint8))

    draw(60, 6, 5)
    fit(small(**settings), tmp_path / "run")
    draw(60, 6, 5)
    words = "no longer contains the examples that", "allow the change with --allow-change data.name"
    refused(train(tmp_path / "run"), 2, *words)
    longer = train(tmp_path / "run", "--train.steps", 10, "--allow-change", "data.name")
    assert longer.result["step"] == 10
    draw(60, 7, 5)
    line = refused(train(tmp_path / "run", "--allow-change", "data.name"), 2, "no longer contains the examples that")
    assert line.endswith("choose another --workdir")


# Names with `..`.


def test_no_name_leads_out_of_its_folder(small, data_dir, tmp_path, call, monkeypatch):
    monkeypatch.chdir(tmp_path)
    load("digits", "train", data_dir=data_dir)  # prepares the data set
    root = tmp_path / "data"
    folder = Path(shutil.copytree(Path(data_dir) / "digits", root / "digits")) / "1.0.0"
    info = json.loads((folder / "dataset_info.json").read_text())
    for field, value in {"name": "../../out", "version": "../../out", "configName": ".."}.items():
        (folder / "dataset_info.json").write_text(json.dumps(info | {field: value}))
        refused(call("train", "--workdir", "run", "--data.data-dir", root), 5, "damaged", str(folder), value)
    refused(call("train", "--workdir", "run", "--data.data-dir", root, "--data.name", "digits/.."), 2, "digits/..")
    assert {path.name for path in tmp_path.rglob("*")} - {path.name for path in folder.iterdir()} == {
        "data", "digits", "1.0.0",
    }  # fmt: skip
    assert catalog.CACHE_FOLDER not in os.listdir(root)
    for member in make_members(small(), {"data.name": ["../../../images.npz", "/images.npz"]}):
        assert (tmp_path / member.name).parent == tmp_path


# docs/reliability.md.


def test_every_exit_code_is_documented():
    signal_codes = {128 + number for number in (signal.SIGHUP, signal.SIGINT, signal.SIGABRT, signal.SIGTERM)}
    codes = {kind.exit_code for kind in VaeJaxError.__subclasses__()} | {0} | signal_codes
    assert codes == {0, 2, 3, 4, 5, 6, 7, 129, 130, 134, 143}
    table = DOCUMENT.read_text().partition("## Exit codes")[2].partition("##")[0]
    for text in (help_text(), (DOCUMENT.parent / "reference" / "cli.md").read_text()):
        _, _, listed = " ".join(text.split()).partition("Exit codes: ")
        assert [int(code) for code in re.findall(r"(?:^|; )(\d+) ", listed.partition(".")[0])] == sorted(codes)
    assert [int(code) for code in re.findall(r"^\| (\d+) \|", table, re.MULTILINE)] == sorted(codes)


def test_every_promise_names_a_test_of_this_suite():
    """Each command of the table in docs/reliability.md selects a test with the marker `fault`."""
    selected = re.findall(r"`pytest -k (?:\"([^\"]+)\"|(\w+))`", DOCUMENT.read_text())
    words = {word for quoted, bare in selected for word in (quoted or bare).split(" or ")}
    assert len(words) > 40
    marked = []
    for path in Path(__file__).parent.rglob("test_*.py"):
        tree = ast.parse(path.read_text())
        all_marked = any(
            ast.unparse(node).startswith("pytestmark") and "fault" in ast.unparse(node) for node in tree.body
        )
        functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
        marked += [f.name for f in functions if all_marked or "pytest.mark.fault" in map(ast.unparse, f.decorator_list)]
    assert [word for word in words if not any(word in name for name in marked)] == []
