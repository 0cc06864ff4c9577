"""What a run survives, and how it refuses what it cannot: each fault is made on purpose, through the whole command."""

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
from training_runs import end_of, fit, flags

from vae_jax.cli.main import help_text
from vae_jax.config.building import override
from vae_jax.data import catalog, dataset
from vae_jax.errors import InputError, VaeJaxError
from vae_jax.runs import config_file, loggers, opening, plots, programs, recorder, restoring
from vae_jax.runs.checkpoints import Checkpoints
from vae_jax.runs.loggers import read_metrics
from vae_jax.runs.members import make_members
from vae_jax.runtime.lock import run_lock
from vae_jax.training.loss import make_loss

pytestmark = pytest.mark.fault

DOCUMENT = Path(__file__).parents[1] / "docs" / "reliability.md"


@pytest.fixture(scope="module")
def finished(small, compiled_once, tmp_path_factory):
    """(directory, config) of a run with the steps 10 and 20; copy it before you damage it."""
    directory, config = tmp_path_factory.mktemp("finished") / "run", small()
    fit(config, directory)
    return directory, config


@pytest.fixture
def run(finished, tmp_path):
    return Path(shutil.copytree(finished[0], tmp_path / "run"))


@pytest.fixture
def train(call, monkeypatch, compiled_once):
    """train(directory, "--train.steps", 30, ...) -> Called: `vae-jax train`, but for its figures."""
    monkeypatch.setattr(plots, "draw_all", lambda *_: [])
    return lambda directory, *words: call("train", "--workdir", directory, "--compilation-cache", compiled_once, *words)


def saved_steps(directory):
    return sorted(path.name for path in (directory / "checkpoints").iterdir())


def refused(called, code, *words):
    """The one line that a command said, which has these words in it."""
    assert (called.code, called.out) == (code, [])
    line = called.err[-1]
    assert line.startswith("vae-jax: ")
    assert all(word in line for word in words), line
    return line


# Checkpoints.


@pytest.mark.parametrize("damage", [truncate, empty])
def test_a_damaged_newest_step_is_told_and_the_one_before_it_used(run, train, damage):
    before = end_of(run)
    damage(run, 20)
    found = train(run)
    assert (found.result["status"], found.result["step"]) == ("done", 20)
    (line,) = [line for line in found.err if " is damaged (" in line]
    assert re.fullmatch(r"step 20 is damaged \(.+\); using step 10", line)
    assert end_of(run) == before
    assert saved_steps(run) == ["10", "20", "damaged-20"]


def test_with_every_step_damaged_the_run_is_refused_and_not_begun_again(run, train, call):
    for step in (10, 20):
        truncate(run, step)
    for called in (train(run), call("evaluate", run)):
        line = refused(called, 4, "step 20 (", "step 10 (")
        assert str(run / "checkpoints") in line
    assert saved_steps(run) == ["10", "20"]


def test_a_checkpoint_of_another_latent_size_than_the_config_is_refused(run, train, call):
    stored = json.loads((run / config_file.CONFIG_FILE).read_text())
    stored["config"]["model"]["latent_dim"] = 3
    (run / config_file.CONFIG_FILE).write_text(json.dumps(stored))
    for called in (train(run), call("evaluate", run)):
        refused(called, 4, "model.latent_dim: 2 in checkpoint, 3 in config")


def test_a_run_in_use_names_its_owner(run, train):
    with run_lock(run):
        refused(train(run), 6, f"in use by process {os.getpid()} on {socket.gethostname()}")


# Disks.


def test_a_save_that_fails_is_told_at_the_next_line_of_metrics(run, train, monkeypatch):
    """On a full disk, with much left to train: exit code 5, and the earlier steps are whole."""
    start = Checkpoints._start

    def fail_for_good(checkpoints):
        with full_disk():
            error = start(checkpoints)
            while checkpoints._manager.is_saving_in_progress():
                pass
        return error

    monkeypatch.setattr(Checkpoints, "_start", fail_for_good)
    line = refused(train(run, "--train.steps", 60), 5, "step 30 is not saved in ", "File too large")
    assert "\n" not in line
    assert read_metrics(run / recorder.METRICS_FILE)[-1]["step"] == 30
    assert [name for name in saved_steps(run) if name.isdigit()] == ["10", "20"]
    monkeypatch.setattr(Checkpoints, "_start", start)
    assert train(run, "--train.steps", 30).result["step"] == 30
    assert saved_steps(run) == ["10", "20", "30"]  # and no temporary folder


def test_a_log_on_a_full_disk_costs_one_warning_and_no_step(finished, train, tmp_path, monkeypatch):
    path = tmp_path / "run" / recorder.METRICS_FILE

    def on_a_full_disk(file, *args, **kwargs):
        if Path(file) == path and args == ("ab",):
            path.touch()
            file = "/dev/full"
        return open(file, *args, **kwargs)

    monkeypatch.setattr(loggers, "open", on_a_full_disk, raising=False)
    found = train(tmp_path / "run", *flags(finished[1]))
    assert (found.result["step"], found.result["status"]) == (20, "done")
    warnings = [line for line in found.err if "warning" in line]
    assert warnings == [f"vae-jax: warning: cannot write {path}: No space left on device; going on without what "
                        "does not fit"]  # fmt: skip
    plots.plot_curves(opening.open_run(tmp_path / "run"))  # of no rows
    assert saved_steps(tmp_path / "run") == ["10", "20"]


@pytest.mark.parametrize("damage", ["missing", "truncated", "flipped"])
def test_a_shard_that_is_missing_or_damaged_is_named(damage, small, train, data_dir, tmp_path):
    run.load_images(small(), "train")  # which makes the data set
    shutil.copytree(Path(data_dir) / "digits", tmp_path / "data" / "digits")
    (shard,) = (tmp_path / "data").rglob("*-train.array_record-*")
    content = shard.read_bytes()
    shard.unlink()
    if damage == "truncated":
        shard.write_bytes(content[: len(content) // 2])
    elif damage == "flipped":
        middle = len(content) // 2
        shard.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
    called = train(tmp_path / "run", "--data.data-dir", tmp_path / "data")
    refused(called, 5, str(shard), "prepare it again")
    assert not (tmp_path / "run").exists()


# What is not finite.


def infinite_gradient(value, params, present):
    """`value`, whose gradient is infinite where `present`, and its own elsewhere."""
    weight = jax.tree.leaves(params)[0].ravel()[0]
    return value + jnp.sqrt(jnp.where(present, weight - jax.lax.stop_gradient(weight), 1.0)) - ~present


def not_a_number(value, params, present):
    del params
    return jnp.where(present, jnp.nan, value)


@pytest.mark.parametrize(
    ("spoil", "told"),
    [(not_a_number, "loss nan"), (infinite_gradient, "norm of the gradient inf")],
)
def test_what_is_not_finite_names_its_step_and_its_images(small, train, tmp_path, monkeypatch, spoil, told):
    """The loss is spoilt by one image, wherever it comes: the error has to name it among those of the step."""
    config = small(train__save_every=5)
    image = dataset.load_images(config, "train")[321]

    def make(*args):
        loss = make_loss(*args)

        def spoilt(params, key, batch, step):
            value, metrics = loss(params, key, batch, step)
            return spoil(value, params, (batch == image[None]).all(axis=(1, 2, 3)).any()), metrics

        return spoilt

    monkeypatch.setattr(programs, "make_loss", make)
    line = refused(train(tmp_path / "run", *flags(override(config, train__steps=80))), 3, told)
    step = int(re.match(r"vae-jax: step (\d+): not finite", line)[1])
    named = [int(number) for number in line.rpartition("it read the training images ")[2].split(", ")]
    assert 321 in named
    assert len(set(named)) == config.train.batch_size == len(named)
    run = opening.open_run(tmp_path / "run")
    assert not any(321 in run.examples(earlier) for earlier in range(step))
    with restoring.restored_params(run, pytest.fail) as (newest, params):
        assert step - 5 <= newest <= step
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params))


def test_many_images_are_counted():
    assert recorder._listed(np.arange(3)) == "0, 1, 2"
    assert recorder._listed(np.arange(130)).endswith(", 127 and 2 more")


def test_a_batch_of_another_dtype_or_layout_is_refused_and_compiles_nothing(finished, tmp_path):
    run, images = opening.prepare_run(finished[1], tmp_path / "run")
    program = programs.compile_program(run)
    state, _ = program(jax.jit(run.initial_state)(run.key), images, 2)
    state, _ = program(state, images, 2)
    wrong = {
        "float32[16, 8, 8, 1] must be uint8 [N, H, W, C]": images.astype(np.float32) / 255,
        "int32[16, 8, 8, 1] must be uint8 [N, H, W, C]": images.astype(np.int32),
        "uint8[16, 8, 8] must be uint8 [N, H, W, C]": images[..., 0],
        "float32[16, 1, 8, 8] must be floats [B, 8, 8, 1]": images.transpose(0, 3, 1, 2),
        "float32[16, 8, 8, 3] must be floats [B, 8, 8, 1]": images.repeat(3, axis=-1),
    }
    with compilations("train_steps") as found:
        for told, given in wrong.items():
            with pytest.raises(InputError) as caught:
                program(state, given, 2)
            assert str(caught.value) == f"images: {told}"
        state, _ = program(state, images, 2)  # the state has not been given away
    assert (int(state.step), found) == (6, [])


# Changes on the way.


@pytest.mark.parametrize(
    ("path", "flag", "value", "old"),
    [("seed", "--seed", 1, 0), ("train.batch_size", "--train.batch-size", 8, 16),
     ("data.holdout", "--data.holdout", 0.2, 0.1)],
)  # fmt: skip
def test_seed_batch_and_split_stay_as_they_are(run, train, path, flag, value, old):
    told = f"{path}: {old} in {run}, {value} asked", "choose another --workdir, ", f"allow it by --allow-change {path}"
    refused(train(run, flag, value), 2, *told)
    refused(train(run, flag, value, "--allow-change", "optimizer.b1"), 2, *told)


def test_a_change_that_is_allowed_is_told_recorded_and_remembered(run, train):
    words = ["--seed", 1, "--train.batch-size", 8, "--data.holdout", 0.2, "--train.steps", 30]
    found = train(run, *words, "--allow-change", "seed", "train.batch-size", "data.holdout")
    assert found.result["step"] == 30
    for told in ("seed: 0 until step 20, 1 from", "train.batch_size: 16 until step 20, 8 from"):
        assert any(line.startswith(told) for line in found.err), found.err
    changes = json.loads((run / config_file.CONFIG_FILE).read_text())["changes"]
    assert {change["setting"] for change in changes} == {
        "seed", "train.batch_size", "train.steps", "data.holdout", "fingerprint", "num_examples",
    }  # fmt: skip
    assert {change["step"] for change in changes} == {20}
    assert {"step": 20, "setting": "train.batch_size", "from": 16, "to": 8} in changes
    # What follows needs no leave, not even to go back to a step from before the change.
    truncate(run, 30)
    truncate(run, 20)
    again = train(run)
    assert again.result["step"] == 30
    assert "step 30 is damaged" in again.err[1]
    opened = opening.open_run(run)
    assert list(opened.changes) == [change | {"step": 10} for change in changes]
    with Checkpoints(run, read_only=True) as checkpoints:
        restored = restoring.restore(opened, checkpoints)
    assert (restored.state.key == jax.random.key(1)).all()  # all that is drawn is the new seed's
    refused(train(run, "--seed", 2), 2, "seed: 1 in ")


def test_a_run_can_begin_to_clip_its_gradients(run, train):
    found = train(run, "--optimizer.clip-norm", 0.5, "--train.steps", 30, "--allow-change", "optimizer.clip_norm")
    assert found.result["step"] == 30
    assert opening.open_run(run).config.optimizer.clip_norm == 0.5


def test_what_the_saved_arrays_are_cannot_be_allowed(run, train):
    refused(train(run, "--allow-change", "train.batchsize"), 2, "no such setting; did you mean 'train.batch_size'?")
    line = refused(train(run, "--model.hidden", 9), 2, "model.hidden: [8] in ", "choose another --workdir")
    assert "--allow-change" not in line
    line = refused(train(run, "--train.ema-decay", 0.9), 2, "train.ema_decay: 0.0 in ", "choose another --workdir")
    assert "--allow-change" not in line
    refused(train(run, "--model.activation", "relu"), 2, "allow it by --allow-change model.activation")
    before = (run / config_file.CONFIG_FILE).read_bytes()
    allowed = train(run, "--model.hidden", 9, "--allow-change", "model.hidden")
    refused(allowed, 4, "kernel: float32[64, 8] in checkpoint, float32[64, 9] in state")
    assert (run / config_file.CONFIG_FILE).read_bytes() == before


def test_other_images_are_another_change(small, train, tmp_path):
    path, noise = tmp_path / "images.npz", np.random.default_rng(0)
    settings = {"data__name": str(path), "train__steps": 5, "train__save_every": 5}

    def draw(*shape):
        np.savez(path, images=noise.integers(0, 256, shape, dtype=np.uint8))

    draw(60, 6, 5)
    fit(small(**settings), tmp_path / "run")
    draw(60, 6, 5)
    refused(train(tmp_path / "run"), 2, "no longer those that", "allow it by --allow-change data.name")
    longer = train(tmp_path / "run", "--train.steps", 10, "--allow-change", "data.name")
    assert longer.result["step"] == 10
    draw(60, 7, 5)
    line = refused(train(tmp_path / "run", "--allow-change", "data.name"), 2, "no longer those that")
    assert line.endswith("choose another --workdir")


# Names that lead elsewhere.


def test_no_name_leads_out_of_its_folder(small, data_dir, tmp_path, call, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run.load_images(small(), "train")  # which makes the data set
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
    assert catalog.HIDDEN not in os.listdir(root)
    for member in make_members(small(), {"data.name": ["../../../images.npz", "/images.npz"]}):
        assert (tmp_path / member.name).parent == tmp_path


# The document.


def test_every_exit_code_is_told():
    ended_by = {128 + signal.SIGINT, 128 + signal.SIGABRT, 128 + signal.SIGTERM}
    codes = {kind.exit_code for kind in VaeJaxError.__subclasses__()} | {0} | ended_by
    assert codes == {0, 2, 3, 4, 5, 6, 7, 130, 134, 143}
    table = DOCUMENT.read_text().partition("## Exit codes")[2].partition("##")[0]
    for text in (help_text(), (DOCUMENT.parents[1] / "README.md").read_text()):
        _, _, told = " ".join(text.split()).partition("Exit codes: ")
        assert [int(code) for code in re.findall(r"(?:^|; )(\d+) ", told.partition(".")[0])] == sorted(codes)
    assert [int(code) for code in re.findall(r"^\| (\d+) \|", table, re.MULTILINE)] == sorted(codes)


def test_every_promise_names_a_test_of_this_suite():
    """What each command of the table in docs/reliability.md selects is there, and is marked."""
    selected = re.findall(r"`pytest -k (?:\"([^\"]+)\"|(\w+))`", DOCUMENT.read_text())
    words = {word for quoted, bare in selected for word in (quoted or bare).split(" or ")}
    assert len(words) > 40
    marked = []
    for path in Path(__file__).parent.rglob("test_*.py"):
        tree = ast.parse(path.read_text())
        whole = any(ast.unparse(node).startswith("pytestmark") and "fault" in ast.unparse(node) for node in tree.body)
        functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
        marked += [f.name for f in functions if whole or "pytest.mark.fault" in map(ast.unparse, f.decorator_list)]
    assert [word for word in words if not any(word in name for name in marked)] == []
