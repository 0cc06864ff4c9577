"""A run: interrupted or not it ends in the same bytes; what is not finite stops or is skipped; it can stop early."""

import dataclasses
import functools
import json
import os
import random
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from training_runs import end_of, fit, flags, raw

from vae_jax.bench import plan
from vae_jax.cli import train as train_command
from vae_jax.cli.main import main
from vae_jax.config import validation
from vae_jax.config.building import override
from vae_jax.data import dataset
from vae_jax.data.preprocess import mean_image
from vae_jax.errors import CheckpointError, InputError, NotFiniteError, StorageError
from vae_jax.runs import config_file, evaluation, opening, plots, programs, recorder, restoring
from vae_jax.runs.checkpoints import Checkpoints
from vae_jax.runs.loggers import read_metrics
from vae_jax.runs.run import Run, evaluation_key
from vae_jax.runtime import atomic_files
from vae_jax.training.loss import make_loss
from vae_jax.training.step import make_train_step


def rows(run):
    return read_metrics(run.directory / recorder.METRICS_FILE)


# Interruption.

STEPS = 120


@pytest.fixture(scope="module")
def long(small):
    """A run of many short dispatches and saves, which a signal finds at work."""
    return small(
        train__steps=STEPS, train__log_every=2, train__save_every=4, train__evaluate_every=50, train__ema_decay=0.99,
        data__binarization="dynamic", model__likelihood="bernoulli", evaluation__num_samples=0,
    )  # fmt: skip


@pytest.fixture(scope="module")
def left_alone(long, compiled_once, tmp_path_factory):
    """(last step, digest) of that run, never interrupted."""
    directory = tmp_path_factory.mktemp("left-alone")
    fit(long, directory)
    step, digest = end_of(directory)
    assert step == STEPS
    return step, digest


# The command without its figures, which are those of any run.
COMMAND = "import sys; from vae_jax.cli.main import main; from vae_jax.runs import plots; plots.plot_all = lambda *_: []; sys.exit(main())"


@pytest.mark.fault
def test_a_run_killed_at_four_moments_ends_in_the_same_bytes(long, left_alone, compiled_once, tmp_path):
    directory = tmp_path / "run"
    argv = [sys.executable, "-c", COMMAND, "train", "--workdir", str(directory)]
    argv += ["--compilation-cache", compiled_once, *flags(long)]

    def newest():
        return max((int(p.name) for p in (directory / "checkpoints").glob("[0-9]*") if p.name.isdigit()), default=0)

    moments, reached = random.Random(0), [0]
    for _ in range(4):
        with subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
            while newest() <= reached[-1] and process.poll() is None:
                time.sleep(0.005)
            time.sleep(moments.uniform(0, 0.2))
            process.kill()
            said = process.stderr.read().decode()
        assert process.returncode == -signal.SIGKILL, said  # it was at work
        assert not (directory / "evaluation.json").exists()
        reached.append(newest())
    assert reached[1] > 0
    assert reached == sorted(set(reached))  # each life got further
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.splitlines()[-1])["status"] == "done"
    assert end_of(directory) == left_alone


SAVED_AT = {  # where a signal comes -> the step that is saved then; none of them is that of a regular save
    "the data": 0, "the compiler": 2, "the loop": 26, "the validation": 52, "a later loop": 102,
}  # fmt: skip


@pytest.fixture
def signals_at(monkeypatch):
    """Raises a signal in each of the places of a dictionary, once; what was raised is no longer in it."""

    def arm(moments):
        def raising(where, function, when=lambda *args: True):
            @functools.wraps(function)  # its name is that of the compiled program
            def wrapped(*args, **kwargs):
                if where in moments and when(*args):
                    signal.raise_signal(moments.pop(where))
                return function(*args, **kwargs)

            return wrapped

        read, validate = recorder.Recorder.read, recorder.Recorder.validate
        for where in ("the loop", "a later loop"):
            read = raising(where, read, lambda recorder, step=SAVED_AT[where]: recorder.step + 2 == step)
        monkeypatch.setattr(opening, "training_images", raising("the data", opening.training_images))
        monkeypatch.setattr(plan, "check_memory", lambda run: None)  # which traces before the compiler does
        monkeypatch.setattr(programs, "train_steps", raising("the compiler", programs.train_steps))  # as it is traced
        monkeypatch.setattr(recorder.Recorder, "read", read)
        monkeypatch.setattr(recorder.Recorder, "validate", raising("the validation", validate))
        return moments

    return arm


@pytest.mark.fault
def test_a_run_that_is_asked_to_stop_saves_and_goes_on_the_same(
    long, left_alone, compiled_once, tmp_path, monkeypatch, signals_at, call
):
    moments = signals_at(dict.fromkeys(SAVED_AT, signal.SIGTERM) | {"a later loop": signal.SIGINT})
    monkeypatch.setattr(plots, "draw_all", lambda *_: [])
    argv = ["train", "--workdir", tmp_path / "run", "--compilation-cache", compiled_once, *flags(long)]
    for where, step in SAVED_AT.items():
        stopped = call(*argv).result
        assert where not in moments
        assert (stopped["status"], stopped["step"]) == ("interrupted", step)
        if step:
            assert end_of(tmp_path / "run")[0] == step
    assert not moments
    assert call(*argv).result["status"] == "done"
    assert end_of(tmp_path / "run") == left_alone


# What is not finite.


def poison(monkeypatch, steps):
    """Makes the loss NaN, and its gradient too, at these steps."""

    def make(*args):
        loss = make_loss(*args)

        def poisoned(params, key, batch, step):
            value, metrics = loss(params, key, batch, step)
            factor = jnp.where(jnp.isin(step, jnp.asarray(steps)), jnp.nan, 1.0)
            return value * factor, metrics

        return poisoned

    monkeypatch.setattr(programs, "make_loss", make)


def assert_finite(tree):
    for leaf in jax.tree.leaves(tree):
        assert np.isfinite(np.asarray(raw(leaf))).all()


@pytest.mark.fault
def test_a_nan_stops_the_run_and_names_the_step(small, tmp_path, monkeypatch):
    config = small(train__steps=30)
    poison(monkeypatch, [17])
    with pytest.raises(
        NotFiniteError, match=r"^step 17: not finite \(loss nan, norm of the gradient nan\); "
    ) as caught:
        fit(config, tmp_path / "run")
    assert caught.value.exit_code == 3
    assert "\n" not in str(caught.value)
    run = opening.open_run(tmp_path / "run")
    assert [row["step"] for row in rows(run)] == [5, 10, 15]
    with Checkpoints(run.directory, read_only=True) as checkpoints:
        assert checkpoints.steps() == [10]
        restored = restoring.restore(run, checkpoints)
    assert (restored.step, restored.notes) == (10, [])
    assert_finite(restored.state)
    monkeypatch.undo()  # the cause is mended: the same command goes on
    _, outcome = fit(config, run.directory)
    assert (outcome.resumed_from, outcome.step, outcome.status) == (10, 30, "done")


@pytest.mark.fault
@pytest.mark.parametrize(
    ("policy", "cause"),
    [
        ({"train__nonfinite": "stop"}, "(loss inf"),
        ({"train__nonfinite": "skip", "train__max_skips": 1}, "but not the weights after it), after 1 skipped"),
    ],
)
def test_an_absurd_learning_rate_stops_at_once_with_exit_code_3(small, tmp_path, capsys, policy, cause):
    config = small(optimizer__learning_rate=1e30, optimizer__name="sgd", optimizer__schedule="constant", **policy)
    argv = ["train", "--workdir", str(tmp_path / "run"), "--compilation-cache", "None", *flags(config)]
    assert main(argv) == 3
    said = capsys.readouterr()
    assert said.out == ""
    line = said.err.splitlines()[-1]
    assert line.startswith("vae-jax: step 1: not finite (loss ")
    assert cause in line
    assert not list((tmp_path / "run" / "checkpoints").glob("[0-9]*"))


@pytest.mark.fault
def test_skipped_steps_are_counted_and_change_nothing(small, tmp_path, monkeypatch):
    config = small(train__nonfinite="skip", train__max_skips=3, train__ema_decay=0.9)
    poison(monkeypatch, [6, 7, 12])
    run, outcome = fit(config, tmp_path / "run")
    assert (outcome.step, outcome.status, int(outcome.state.skipped)) == (20, "done", 0)
    assert [row.get("skipped_steps") for row in rows(run)] == [None, 2, 1, None]
    assert all(np.isfinite(row["bound"]) for row in rows(run))
    assert_finite(outcome.state)
    counted = {
        name: int(optax.tree.get(outcome.state.opt_state, name).count)
        for name in ("ScaleByAdamState", "ScaleByScheduleState")
    }
    assert counted == {"ScaleByAdamState": 17, "ScaleByScheduleState": 20}  # updates made, and steps


@pytest.mark.fault
def test_too_many_skips_in_a_row_stop_the_run(small, tmp_path, monkeypatch):
    poison(monkeypatch, [2, 3, 6, 7, 8, 9])
    config = small(train__nonfinite="skip", train__max_skips=2)
    with pytest.raises(NotFiniteError, match=r"^step 8: not finite .*, after 2 skipped steps; "):
        fit(config, tmp_path / "run")


@pytest.mark.fault
def test_a_row_in_which_every_step_was_skipped_has_no_mean(small, tmp_path, monkeypatch):
    poison(monkeypatch, range(5, 10))
    run, outcome = fit(small(train__nonfinite="skip", train__max_skips=5), tmp_path / "run")
    assert outcome.step == 20
    assert (rows(run)[1]["bound"], rows(run)[1]["skipped_steps"]) == (None, 5)


@pytest.mark.fault
def test_an_evaluation_that_is_not_finite_is_an_error_and_no_result(small, tmp_path):
    """Finite weights after the last step, but so far out that the bound overflows."""
    config = small(
        optimizer__learning_rate=1e15, optimizer__name="sgd", train__steps=1, optimizer__schedule="constant",
    )  # fmt: skip
    run, outcome = fit(config, tmp_path / "run")
    assert_finite(outcome.state)
    with pytest.raises(NotFiniteError, match=r"split test is not finite: .*elbo -inf"):
        evaluation.evaluate_run(run, outcome.state.params, split="test")


# Validation, early stopping, the average of the weights.


def test_early_stopping_stops_and_stays_stopped(small, tmp_path, monkeypatch):
    bounds = iter([1.0, 3.0, 2.0, 2.5, 9.0])
    directory = tmp_path / "run"
    config = small(train__steps=100, train__evaluate_every=10, train__save_every=50, train__patience=2)
    evaluator = Run.evaluator

    class Scripted:
        def __init__(self, true):
            self.true = true

        def bound(self, params, key, images):
            return self.true.bound(params, key, images) | {"elbo": next(bounds)}

    monkeypatch.setattr(Run, "evaluator", lambda run: Scripted(evaluator(run)))
    run, outcome = fit(config, directory)
    assert (outcome.status, outcome.step, outcome.trained_steps) == ("stopped early", 40, 40)
    found = [row["validation_bound"] for row in rows(run) if "validation_bound" in row]
    assert found == [1.0, 3.0, 2.0, 2.5]
    assert end_of(directory)[0] == 40  # saved, though 40 is not a multiple of save_every
    before = (directory / recorder.METRICS_FILE).read_bytes()
    _, again = fit(config, directory)
    assert (again.status, again.step, again.trained_steps) == ("stopped early", 40, 0)
    assert (directory / recorder.METRICS_FILE).read_bytes() == before
    _, further = fit(override(config, train__patience=3, train__steps=50), directory)  # patience may change
    assert (further.status, further.step, next(bounds, None)) == ("done", 50, None)


def test_tensorboard_shows_pictures_at_each_validation(small, tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr(programs.TensorBoard, "image", lambda board, step, name, image: shown.append((step, name)))
    fit(small(train__evaluate_every=10), tmp_path / "run")
    assert shown == [(step, name) for step in (10, 20) for name in ("samples", "reconstructions")]


def test_no_validation_without_held_out_images(small, tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr(programs.TensorBoard, "image", lambda board, step, name, image: shown.append(name))
    config = small(data__holdout=0.0, train__evaluate_every=10)
    run, outcome = fit(config, tmp_path / "run")
    assert set(shown) == {"samples"}
    assert (outcome.status, run.data["num_examples"]) == ("done", 1438)  # all that are not for testing
    assert not any("validation_bound" in row for row in rows(run))
    with pytest.raises(InputError, match=r"data\.holdout=0\.0: no validation examples"):
        opening.prepare_run(override(config, train__patience=2), tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_the_average_of_the_weights_is_the_recursion_and_is_what_is_evaluated(small, tmp_path):
    config = small(train__steps=5, train__save_every=5, train__evaluate_every=5, train__ema_decay=0.75)
    run, outcome = fit(config, tmp_path / "run")
    images = dataset.load_images(config, "train")

    # By hand: one dispatch of one step at a time, and m <- 0.75 m + 0.25 w from the initial weights on.
    single = dataclasses.replace(run, config=override(config, train__log_every=1, train__save_every=1))
    program = programs.compile_program(single)
    state = jax.jit(run.initial_state)(run.key, mean_image(images, binarization="none"))
    mean = jax.tree.map(lambda w: np.asarray(w, np.float64), state.params)
    for _ in range(5):
        state, _ = program(state, images, 1)
        mean = jax.tree.map(lambda m, w: 0.75 * m + 0.25 * np.asarray(w, np.float64), mean, state.params)
    for m, found, w in zip(*map(jax.tree.leaves, (mean, outcome.state.ema_params, outcome.state.params)), strict=True):
        np.testing.assert_allclose(found, m, rtol=1e-5, atol=1e-7)
        assert found.size < 8 or not np.allclose(found, w, rtol=1e-3)

    assert restoring.evaluation_params(outcome.state, config) is outcome.state.ema_params
    assert restoring.evaluation_params(outcome.state, small()) is outcome.state.params
    key, evaluator = evaluation_key(run, "validation"), run.evaluator()
    bounds = [
        evaluator.bound(params, key, run.images("validation"))["elbo"]
        for params in (outcome.state.ema_params, outcome.state.params)
    ]
    assert rows(run)[-1]["validation_bound"] == bounds[0] != bounds[1]
    with restoring.restored_params(run, pytest.fail) as (step, params):
        assert step == 5
        for saved, kept in zip(jax.tree.leaves(params), jax.tree.leaves(outcome.state.ema_params), strict=True):
            np.testing.assert_array_equal(saved, kept)


def test_a_step_without_an_average_carries_none(small, tmp_path):
    run, images = opening.prepare_run(small(), tmp_path / "run")
    state = run.initial_state(run.key)
    assert state.ema_params == ()
    step = make_train_step(make_loss(run.model, run.config.objective, run.config.data), run.optimizer)
    shapes, _ = jax.eval_shape(step, state, images[:16])
    assert shapes.ema_params == ()


# The directory of a run.


def test_preparing_writes_nothing(small, tmp_path):
    opening.prepare_run(small(), tmp_path / "deep" / "run")
    assert list(tmp_path.iterdir()) == []


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
    (tmp_path / config_file.CONFIG_FILE).write_bytes(content.encode("latin-1"))
    with pytest.raises(kind) as caught:
        opening.open_run(tmp_path)
    assert type(caught.value) is kind
    assert "\n" not in str(caught.value)


def test_a_config_that_cannot_be_read_is_refused(tmp_path):
    (tmp_path / config_file.CONFIG_FILE).mkdir()
    with pytest.raises(StorageError, match="cannot be read as a run"):
        opening.open_run(tmp_path)
    with pytest.raises(InputError, match="no run here"):
        opening.open_run(tmp_path / "absent")


@pytest.mark.fault
def test_a_run_with_a_setting_that_nothing_read_goes_on(small, tmp_path, monkeypatch):
    """As older versions took it: weight decay under plain Adam."""
    directory = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(validation, "_READ_WITH", {})
        fit(small(optimizer__weight_decay=0.5, optimizer__milestones=(3,)), directory)
    assert json.loads((directory / config_file.CONFIG_FILE).read_text())["config"]["optimizer"]["weight_decay"] == 0.5
    opened = opening.open_run(directory)
    assert (opened.config.optimizer.weight_decay, opened.config.optimizer.milestones) == (0.0, ())
    with restoring.restored_params(opened, print) as (step, _):
        assert step == 20
    assert train_command.parse_arguments(["--workdir", str(directory)])[1] == opened.config
    _, outcome = fit(override(opened.config, train__steps=25), directory)
    assert (outcome.resumed_from, outcome.step) == (20, 25)


def test_a_run_of_a_version_without_some_settings_goes_on(small, tmp_path):
    directory = tmp_path / "run"
    run, _ = fit(small(), directory)
    stored = json.loads((directory / config_file.CONFIG_FILE).read_text())
    for section, name in (("data", "workers"), ("data", "streaming"), ("train", "microbatches")):
        del stored["config"][section][name]
    atomic_files.write_json(directory / config_file.CONFIG_FILE, stored)
    assert (
        opening.open_run(directory).config
        == train_command.parse_arguments(["--workdir", str(directory)])[1]
        == run.config
    )


@pytest.mark.fault
def test_images_held_out_that_cannot_be_read_are_told_before_the_first_step(small, tmp_path, monkeypatch):
    images = Run.images

    def damaged(run, split):
        if split == "validation":
            raise InputError("needs 9 GiB of memory")
        return images(run, split)

    monkeypatch.setattr(Run, "images", damaged)
    with pytest.raises(InputError, match="needs 9 GiB"):
        fit(small(train__evaluate_every=10), tmp_path / "run")
    assert not list((tmp_path / "run" / "checkpoints").iterdir())
    fit(small(), tmp_path / "other")  # which looks at none


def test_tensorboard_is_told_what_a_resumed_run_replaces(small, tmp_path, monkeypatch):
    asked = []
    board = programs.TensorBoard
    monkeypatch.setattr(programs, "TensorBoard", lambda *args, **kwargs: asked.append(kwargs) or board(*args, **kwargs))
    fit(small(), tmp_path / "run")
    fit(small(train__steps=30), tmp_path / "run")
    assert asked == [{"purge_step": None}, {"purge_step": 21}]


def test_each_split_has_draws_of_its_own_in_evaluations(small, tmp_path):
    run, _ = opening.prepare_run(small(), tmp_path / "run")
    keys = [jax.random.key_data(evaluation_key(run, split)).tolist() for split in ("train", "validation", "test")]
    assert len({*map(tuple, keys)}) == 3


@pytest.mark.fault
def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "new" / "result.json"
    atomic_files.write_json(path, {"a": 1})

    def fail(file):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    with pytest.raises(StorageError, match=f"cannot write {path}: No space left on device"):
        atomic_files.write_file(path, fail)
    assert json.loads(path.read_text()) == {"a": 1}
    assert os.listdir(path.parent) == ["result.json"]


def test_images_binarised_once_are_the_same_at_each_start(small, tmp_path):
    config = small(data__binarization="static", model__likelihood="bernoulli")
    once, twice = dataset.load_images(config, "train"), dataset.load_images(config, "train")
    np.testing.assert_array_equal(once, twice)
    assert set(np.unique(once)) == {0, 255}
    grey = dataset.load_images(small(), "train")
    assert not np.array_equal(dataset.load_images(override(config, seed=1), "train"), once)
    # Bernoulli(pixel / 255): the mean over images of each pixel, within 5 standard errors.
    error = 5 * np.sqrt(0.25 / len(grey))
    np.save(tmp_path / "grey.npy", np.full((300, 4, 4), 128, np.uint8))
    drawn = [
        dataset.load_images(override(config, data__name=str(tmp_path / "grey.npy")), s)[:20] for s in ("train", "test")
    ]
    assert 0.3 < (drawn[0] != drawn[1]).mean() < 0.7  # a split's draws are its own
    assert (np.abs(once.mean(axis=0) - grey.mean(axis=0)) / 255 < error).all()


@pytest.mark.fault
def test_other_images_under_the_same_name_are_refused(small, tmp_path):
    path, noise = tmp_path / "images.npz", np.random.default_rng(0)
    np.savez(path, images=noise.integers(0, 256, (60, 6, 5), dtype=np.uint8))
    config = small(data__name=str(path), train__steps=5, train__save_every=5)
    run, outcome = fit(config, tmp_path / "run")
    np.savez(path, images=noise.integers(0, 256, (60, 6, 5), dtype=np.uint8))
    with pytest.raises(InputError, match=r"data\.name: the images of .* are no longer those that .* was trained on"):
        opening.prepare_run(config, run.directory)
    np.savez(path, images=noise.integers(0, 256, (60, 7, 5), dtype=np.uint8))
    with pytest.raises(InputError, match=r"are \[7, 5, 1\] now, .* was trained on \[6, 5, 1\]"):
        evaluation.evaluate_run(opening.open_run(run.directory), outcome.state.params, split="test")


def test_a_run_that_maximises_the_reconstruction_is_validated_by_it(small, tmp_path):
    validation = {"model__posterior": "fixed-noise", "objective__name": "reconstruction", "train__evaluate_every": 20}
    run, _ = fit(small(**validation), tmp_path / "run")
    (row,) = [row for row in rows(run) if "validation_bound" in row]
    assert row["validation_bound"] == row["validation_reconstruction"]
    assert row["validation_kl"] > 0


@pytest.mark.parametrize(
    ("settings", "undefined"),
    [
        ({"model__posterior": "deterministic", "objective__name": "reconstruction"},
         {"kl", "elbo", "nll", "bits_per_dim"}),
        ({"model__likelihood": "gaussian"}, {"bits_per_dim"}),
        ({"model__likelihood": "bernoulli"}, {"bits_per_dim"}),
        ({"model__likelihood": "bernoulli", "data__binarization": "dynamic"}, set()),
        ({"model__likelihood": "logistic-mixture"}, set()),
    ],
)  # fmt: skip
def test_what_an_evaluation_says_does_not_exist_is_not_in_it(small, tmp_path, settings, undefined):
    run, _ = opening.prepare_run(small(**validation), tmp_path / "run")
    found = evaluation.evaluate_run(run, run.initial_state(run.key).params, split="test")
    assert set(found["undefined"]) == undefined
    assert undefined.isdisjoint(found)
    assert {"kl", "elbo", "nll", "bits_per_dim"} - undefined <= set(found)
