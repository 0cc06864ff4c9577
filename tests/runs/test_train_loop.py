"""The training loop: an interrupted run produces the same bytes as an uninterrupted one; starts, ends, and profiles."""

import contextlib
import dataclasses
import functools
import json
import random
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from hand_made import TRAINING, Conditional, hand_made, source
from training_runs import digest_of, final_digest, fit, flags, metric_rows

from vae_jax import bench
from vae_jax.config import TrainConfig, override
from vae_jax.data import from_arrays, loading
from vae_jax.errors import CheckpointError, InputError, LockedError
from vae_jax.runs import (
    Callback,
    TrainingRun,
    default_callbacks,
    plots,
    prepare_experiment,
    recording_callbacks,
    train_loop,
    validation,
)
from vae_jax.runs.experiment import programs
from vae_jax.runs.validation import Validation
from vae_jax.runtime import lock
from vae_jax.training import example_batches

# Interruption.

STEPS = 120


@pytest.fixture(scope="module")
def long(small):
    """Config of a run with many short dispatches and saves, so that a signal arrives while it works."""
    return small(
        train__steps=STEPS, train__log_every=2, train__save_every=4, train__evaluate_every=50, train__ema_decay=0.99,
        preprocess="dynamic-binarization", likelihood="bernoulli", evaluation__num_samples=0,
    )  # fmt: skip


@pytest.fixture(scope="module")
def uninterrupted(long, tmp_path_factory):
    """(last step, digest) of that run without an interruption."""
    directory = tmp_path_factory.mktemp("uninterrupted")
    fit(long, directory)
    step, digest = final_digest(directory)
    assert step == STEPS
    return step, digest


# The command without its figures, which do not depend on an interruption.
COMMAND = """
import sys
from vae_jax.cli.main import main
from vae_jax.runs import plots
plots.plot_all = lambda *_, **__: []
sys.exit(main())
"""


@pytest.mark.fault
def test_a_run_killed_at_four_moments_ends_in_the_same_bytes(long, uninterrupted, tmp_path):
    directory = tmp_path / "run"
    argv = [sys.executable, "-c", COMMAND, "train", "--workdir", str(directory)]
    argv += ["--compilation-cache", str(tmp_path / "compiled"), *flags(long)]

    def newest():
        names = [path.name for path in (directory / "checkpoints").glob("[0-9]*")]
        return max((int(name) for name in names if name.isdigit()), default=0)

    moments, reached = random.Random(0), [0]
    for _ in range(4):
        with subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
            while newest() <= reached[-1] and process.poll() is None:
                time.sleep(0.005)
            time.sleep(moments.uniform(0, 0.2))
            process.kill()
            stderr = process.stderr.read().decode()
        assert process.returncode == -signal.SIGKILL, stderr  # it had not finished
        assert not (directory / "evaluation.json").exists()
        reached.append(newest())
    assert reached[1] > 0
    assert reached == sorted(set(reached))  # each start makes progress
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.splitlines()[-1])["status"] == "done"
    assert final_digest(directory) == uninterrupted


SAVED_AT = {  # place where the signal arrives -> step that is saved then; none of them is a regular save
    "the data": 0, "the compiler": 2, "the loop": 26, "the validation": 52, "a later loop": 102,
}  # fmt: skip


@pytest.fixture
def signals_at(monkeypatch):
    """Raise a signal once in each place of a dictionary, {place: signal}; removes the place from the dictionary."""

    def arm(moments):
        def raising(place, function, when=lambda *args: True):
            @functools.wraps(function)  # the name of the compiled program must stay the same
            def wrapped(*args, **kwargs):
                if place in moments and when(*args):
                    signal.raise_signal(moments.pop(place))
                return function(*args, **kwargs)

            return wrapped

        source, read, validate = loading.ConfiguredSource, TrainingRun.read, Validation.on_steps
        for place in ("the loop", "a later loop"):
            read = raising(place, read, lambda run, step=SAVED_AT[place]: run.step + 2 == step)
        monkeypatch.setattr(source, "training", raising("the data", source.training))
        # check_memory would trace the program before the compiler does. The command looks it up in vae_jax.bench.
        monkeypatch.setattr(bench, "check_memory", lambda *_, **__: None)
        monkeypatch.setattr(programs, "train_steps", raising("the compiler", programs.train_steps))  # while tracing
        monkeypatch.setattr(TrainingRun, "read", read)
        every_50 = lambda callback, run: run.is_due(50)  # noqa: E731
        monkeypatch.setattr(Validation, "on_steps", raising("the validation", validate, every_50))
        return moments

    return arm


@pytest.mark.fault
def test_a_run_that_is_asked_to_stop_is_saved_and_resumes_with_the_same_bytes(
    long, uninterrupted, tmp_path, monkeypatch, signals_at, call
):
    moments = signals_at(dict.fromkeys(SAVED_AT, signal.SIGTERM) | {"a later loop": signal.SIGINT})
    monkeypatch.setattr(plots, "plot_all", lambda *_, **__: [])
    argv = ["train", "--workdir", tmp_path / "run", "--compilation-cache", "None", *flags(long)]
    for place, step in SAVED_AT.items():
        stopped = call(*argv).result
        assert place not in moments
        assert (stopped["status"], stopped["step"]) == ("interrupted", step)
        if step:
            assert final_digest(tmp_path / "run")[0] == step
    assert not moments
    assert call(*argv).result["status"] == "done"
    assert final_digest(tmp_path / "run") == uninterrupted


# Experiments that are made by hand.


@pytest.mark.fault
def test_a_hand_made_experiment_resumes_with_the_same_bits_after_it_was_asked_to_stop(tmp_path):
    complete = train_loop.fit(hand_made(), tmp_path / "complete")
    calls = iter([False, False, True])  # before the first step, after 5 and after 10
    parts = [train_loop.fit(hand_made(), tmp_path / "parts", callbacks=default_callbacks(lambda: next(calls)))]
    parts.append(train_loop.fit(hand_made(), tmp_path / "parts"))
    assert [(p.status, p.step, p.resumed_from) for p in parts] == [("interrupted", 10, None), ("done", 20, 10)]
    digests = [digest_of(r.state, tmp_path / n) for r, n in ((complete, "complete"), (parts[1], "parts"))]
    assert digests[0] == digests[1]
    rows = metric_rows(tmp_path / "parts")
    assert [row["step"] for row in rows] == [5, 10, 10, 15, 20, 20]
    assert [row["step"] for row in rows if "validation_bound" in row] == [10, 20]


class Killed(Callback):
    def on_steps(self, run):
        raise KeyboardInterrupt


@pytest.mark.fault
@pytest.mark.parametrize(("at", "answers"), [(10, [True, False, False, False]), (20, [False, True, False, False])])
def test_a_stop_during_a_long_validation_saves_the_run_which_resumes_with_the_same_bytes(
    at, answers, tmp_path, monkeypatch
):
    training = TrainConfig(steps=20, batch_size=16, log_every=5, evaluate_every=10, save_every=20)
    complete = train_loop.fit(hand_made(training=training), tmp_path / "complete")
    monkeypatch.setattr(example_batches, "_wait_for", lambda values, poll: poll())
    monkeypatch.setattr(validation, "PATIENCE_SECONDS", -1.0)
    answers, parts = iter(answers), tmp_path / "parts"
    polls = recording_callbacks(lambda: next(answers))
    first = train_loop.fit(hand_made(training=training), parts, callbacks=polls)
    assert (first.status, first.step) == ("interrupted" if at < 20 else "done", at)
    assert [row["step"] for row in metric_rows(parts) if "validation_bound" in row] == [10, 20][: at // 10 - 1]
    with contextlib.suppress(KeyboardInterrupt):  # after the validation, before the next save
        train_loop.fit(hand_made(training=training), parts, callbacks=[*polls, Killed()])
    second = train_loop.fit(hand_made(training=training), parts, callbacks=polls)
    assert (second.status, second.resumed_from) == ("done", at)
    assert digest_of(complete.state, tmp_path / "complete") == digest_of(second.state, parts)
    assert next(answers, None) is None


def test_a_hand_made_experiment_is_the_same_on_1_and_8_devices(one_device, tmp_path):
    one, eight = (
        train_loop.fit(hand_made(), tmp_path / name, *placement)
        for name, placement in (("one", (one_device,)), ("eight", ()))
    )
    assert {len(leaf.devices()) for leaf in jax.tree.leaves(eight.state)} == {8}
    for a, b in zip(jax.tree.leaves(one.params), jax.tree.leaves(eight.params), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.fault
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"learning_rate": 0.5},
            r"^settings\.learning_rate=0\.5 differs from 0\.01 in .*allow_change=\['settings\.lea",
        ),
        ({"seed": 1}, r"^seed=1 differs from 0 in "),
        ({"model": Conditional(width=9)}, r"^model=Conditional.*width = 9.* differs from Conditional.*width = 8"),
        ({"objective": lambda terms: terms.log_px_z.mean(axis=0)}, r"^objective=.*<lambda> differs from half_kl in "),
        ({"num_samples": 3}, r"^num_samples=3 differs from 2 in "),
        ({"data": source(seed=1)}, r"was trained on other examples than these; .* with allow_change=\['data'\]$"),
        ({"data": from_arrays(np.ones((60, 5), np.float32))}, r"was trained on other examples .* another directory$"),
        ({"training": TrainConfig(steps=20, batch_size=8, log_every=5)}, r"^train\.batch_size=8 differs from 16 in "),
        ({"training": TrainConfig(steps=5, batch_size=16, log_every=5)}, r"^train\.steps=5 must be at least 10, "),
    ],
    ids=[
        "a setting",
        "seed",
        "model",
        "objective",
        "num_samples",
        "data",
        "shape of the data",
        "batch size",
        "fewer steps",
    ],
)
def test_a_hand_made_experiment_that_differs_is_refused_and_changes_nothing(begun, changes, words):
    before = {path: path.stat().st_mtime_ns for path in begun.rglob("*")}
    with pytest.raises(InputError, match=words) as caught:
        train_loop.fit(hand_made(**changes), begun)
    assert "\n" not in str(caught.value)
    assert {path: path.stat().st_mtime_ns for path in begun.rglob("*") if path.name != "lock"} == {
        path: time for path, time in before.items() if path.name != "lock"
    }


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """Directory of a hand-made run that was stopped at step 10 of 20."""
    directory = tmp_path_factory.mktemp("begun") / "run"
    calls = iter([False, False, True])
    train_loop.fit(hand_made(), directory, callbacks=default_callbacks(lambda: next(calls)))
    assert [path.name for path in (directory / "checkpoints").iterdir()] == ["10"]
    return directory


def _failing(terms):
    raise TypeError("no bound")


@pytest.mark.fault
def test_a_run_that_failed_before_its_first_step_can_start_with_other_settings(tmp_path):
    with pytest.raises(TypeError, match="no bound"):
        train_loop.fit(hand_made(objective=_failing), tmp_path / "run")
    assert json.loads((tmp_path / "run" / "config.json").read_text())["settings"]["objective"] == "_failing"
    training = dataclasses.replace(TRAINING, steps=5)
    assert train_loop.fit(hand_made(training=training), tmp_path / "run").status == "done"
    stored = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (stored["settings"]["objective"], stored.get("changes")) == ("half_kl", None)
    with pytest.raises(InputError, match=r"^objective=_failing differs from half_kl in "):
        train_loop.fit(hand_made(objective=_failing), tmp_path / "run")


@pytest.mark.fault
def test_a_change_of_a_hand_made_experiment_is_allowed_by_name_and_recorded(tmp_path):
    directory = tmp_path / "run"
    calls = iter([False, True])
    train_loop.fit(hand_made(), directory, callbacks=default_callbacks(lambda: next(calls)))
    outcome = train_loop.fit(hand_made(0, 0.5), directory, allow_change=["settings.learning_rate"])
    assert (outcome.status, outcome.resumed_from) == ("done", 5)
    changes = json.loads((directory / "config.json").read_text())["changes"]
    assert changes == [{"setting": "settings.learning_rate", "from": 0.01, "to": 0.5, "step": 5}]
    with pytest.raises(InputError, match=r"no such setting; did you mean 'settings\.learning_rate'"):
        train_loop.fit(hand_made(0, 0.5), directory, allow_change=["settings.learning_rat"])
    wider = hand_made(0, 0.5, model=Conditional(width=9))
    with pytest.raises(CheckpointError, match=r"kernel: float32\[9, 8\] in checkpoint, float32\[9, 9\] in state"):
        train_loop.fit(wider, directory, allow_change=["model"])


@pytest.mark.fault
def test_the_evaluation_of_a_finished_run_is_removed_when_a_setting_changes(tmp_path):
    def evaluated():
        (tmp_path / "evaluation.json").write_text("{}")

    train_loop.fit(hand_made(), tmp_path)
    evaluated()
    train_loop.fit(hand_made(), tmp_path)
    assert (tmp_path / "evaluation.json").exists()
    for kept in (False, True):  # the change of an earlier start is no change of this one
        train_loop.fit(hand_made(0, 0.5), tmp_path, allow_change=["settings.learning_rate"])
        assert (tmp_path / "evaluation.json").exists() == kept
        evaluated()
    with pytest.raises(CheckpointError):  # a start that is refused removes nothing
        train_loop.fit(hand_made(0, 0.5, model=Conditional(width=9)), tmp_path, allow_change=["model"])
    assert (tmp_path / "evaluation.json").exists()


@pytest.mark.fault
def test_other_examples_of_a_hand_made_experiment_are_allowed_as_data_and_recorded(tmp_path):
    calls = iter([False, True])
    train_loop.fit(hand_made(), tmp_path, callbacks=default_callbacks(lambda: next(calls)))
    other = hand_made(data=source(seed=1))
    assert train_loop.fit(other, tmp_path, allow_change=["data"]).resumed_from == 5
    changes = json.loads((tmp_path / "config.json").read_text())["changes"]
    assert {(change["setting"], change["step"]) for change in changes} == {
        ("arrays.x.sha256", 5), ("held_out.validation.sha256", 5), ("held_out.test.sha256", 5),
    }  # fmt: skip
    assert train_loop.fit(other, tmp_path).resumed_from == 20  # the next start needs no permission


def test_runs_by_hand_and_from_a_config_do_not_share_a_directory(small, begun, tmp_path):
    with pytest.raises(InputError, match=r"made by hand, and this one is made from a config; choose another dir"):
        fit(small(), begun)
    fit(small(train__steps=5), tmp_path / "run")
    with pytest.raises(InputError, match=r"made from a config, and this one is made by hand; choose another dir"):
        train_loop.fit(hand_made(), tmp_path / "run")


# Start and end.


def test_a_finished_run_is_not_trained_again_and_not_shortened(small, tmp_path):
    _, first = fit(small(), tmp_path / "run")
    assert (first.status, first.resumed_from, first.trained_steps) == ("done", None, 20)
    _, again = fit(small(), tmp_path / "run")
    assert (again.status, again.resumed_from, again.trained_steps) == ("done", 20, 0)
    jax.tree.map(np.testing.assert_array_equal, first.params, again.params)
    with pytest.raises(InputError, match=r"^train\.steps=10 must be at least 20, the newest step in "):
        fit(small(train__steps=10), tmp_path / "run")


@pytest.mark.fault
def test_a_directory_in_use_is_refused_before_anything_is_written(small, tmp_path):
    experiment, placement = prepare_experiment(small(), tmp_path / "run")
    with lock.run_lock(tmp_path / "run"), pytest.raises(LockedError):
        train_loop.fit(experiment, tmp_path / "run", placement)
    assert not (tmp_path / "run" / "config.json").exists()


def test_a_changed_number_of_steps_is_printed_if_the_schedule_spans_them(small, tmp_path, capsys):
    config = small(schedule="cosine")
    fit(config, tmp_path / "run")
    capsys.readouterr()
    fit(override(config, train__steps=30), tmp_path / "run")
    assert "train.steps changes from 20 to 30 at step 20" in capsys.readouterr().err


def test_a_profile_is_one_trace(small, tmp_path):
    fit(small(train__steps=10), tmp_path / "run", profile=tmp_path / "profile")
    assert len(list((tmp_path / "profile").rglob("perfetto_trace.json.gz"))) == 1
