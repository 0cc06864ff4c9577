"""The training loop: an interrupted run produces the same bytes as an uninterrupted one; early stopping; profiles."""

import functools
import json
import random
import signal
import subprocess
import sys
import time

import pytest
from training_runs import final_digest, fit, flags, metric_rows

from vae_jax import bench
from vae_jax.config import override
from vae_jax.errors import InputError, LockedError
from vae_jax.runs import opening, plots, prepare_run, programs, train_loop
from vae_jax.runs.recorder import METRICS_FILE, Recorder
from vae_jax.runs.run import Run
from vae_jax.runtime import lock

# Interruption.

STEPS = 120


@pytest.fixture(scope="module")
def long(small):
    """Config of a run with many short dispatches and saves, so that a signal arrives while it works."""
    return small(
        train__steps=STEPS, train__log_every=2, train__save_every=4, train__evaluate_every=50, train__ema_decay=0.99,
        data__binarization="dynamic", model__likelihood="bernoulli", evaluation__num_samples=0,
    )  # fmt: skip


@pytest.fixture(scope="module")
def uninterrupted(long, compiled_once, tmp_path_factory):
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
plots.plot_all = lambda *_: []
sys.exit(main())
"""


@pytest.mark.fault
def test_a_run_killed_at_four_moments_ends_in_the_same_bytes(long, uninterrupted, compiled_once, tmp_path):
    directory = tmp_path / "run"
    argv = [sys.executable, "-c", COMMAND, "train", "--workdir", str(directory)]
    argv += ["--compilation-cache", compiled_once, *flags(long)]

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

        read, validate = Recorder.read, Recorder.validate
        for place in ("the loop", "a later loop"):
            read = raising(place, read, lambda recorder, step=SAVED_AT[place]: recorder.step + 2 == step)
        monkeypatch.setattr(opening, "training_images", raising("the data", opening.training_images))
        # check_memory would trace the program before the compiler does. The command looks it up in vae_jax.bench.
        monkeypatch.setattr(bench, "check_memory", lambda run: None)
        monkeypatch.setattr(programs, "train_steps", raising("the compiler", programs.train_steps))  # while tracing
        monkeypatch.setattr(Recorder, "read", read)
        monkeypatch.setattr(Recorder, "validate", raising("the validation", validate))
        return moments

    return arm


@pytest.mark.fault
def test_a_run_that_is_asked_to_stop_is_saved_and_resumes_with_the_same_bytes(
    long, uninterrupted, compiled_once, tmp_path, monkeypatch, signals_at, call
):
    moments = signals_at(dict.fromkeys(SAVED_AT, signal.SIGTERM) | {"a later loop": signal.SIGINT})
    monkeypatch.setattr(plots, "plot_all", lambda *_: [])
    argv = ["train", "--workdir", tmp_path / "run", "--compilation-cache", compiled_once, *flags(long)]
    for place, step in SAVED_AT.items():
        stopped = call(*argv).result
        assert place not in moments
        assert (stopped["status"], stopped["step"]) == ("interrupted", step)
        if step:
            assert final_digest(tmp_path / "run")[0] == step
    assert not moments
    assert call(*argv).result["status"] == "done"
    assert final_digest(tmp_path / "run") == uninterrupted


# Early stopping.


def test_early_stopping_stops_and_stays_stopped(small, tmp_path, monkeypatch):
    bounds = iter([1.0, 3.0, 2.0, 2.5, 9.0])
    directory = tmp_path / "run"
    config = small(train__steps=100, train__evaluate_every=10, train__save_every=50, train__patience=2)
    evaluator = Run.evaluator

    class Scripted:
        def __init__(self, original):
            self.original = original

        def bound(self, params, key, images):
            return self.original.bound(params, key, images) | {"elbo": next(bounds)}

    monkeypatch.setattr(Run, "evaluator", lambda run: Scripted(evaluator(run)))
    run, outcome = fit(config, directory)
    assert (outcome.status, outcome.step, outcome.trained_steps) == ("stopped early", 40, 40)
    history = [row["validation_bound"] for row in metric_rows(run) if "validation_bound" in row]
    assert history == [1.0, 3.0, 2.0, 2.5]
    assert final_digest(directory)[0] == 40  # saved, though 40 is not a multiple of save_every
    before = (directory / METRICS_FILE).read_bytes()
    _, again = fit(config, directory)
    assert (again.status, again.step, again.trained_steps) == ("stopped early", 40, 0)
    assert (directory / METRICS_FILE).read_bytes() == before
    _, further = fit(override(config, train__patience=3, train__steps=50), directory)  # patience may change
    assert (further.status, further.step, next(bounds, None)) == ("done", 50, None)


# Start and end.


def test_a_finished_run_is_not_trained_again_and_not_shortened(small, tmp_path):
    _, first = fit(small(), tmp_path / "run")
    assert (first.status, first.resumed_from, first.trained_steps) == ("done", None, 20)
    _, again = fit(small(), tmp_path / "run")
    assert (again.status, again.resumed_from, again.trained_steps) == ("done", 20, 0)
    with pytest.raises(InputError, match=r"^train\.steps=10 must be at least 20, the newest step in "):
        fit(small(train__steps=10), tmp_path / "run")


@pytest.mark.fault
def test_a_directory_in_use_is_refused_before_anything_is_written(small, tmp_path):
    run, images = prepare_run(small(), tmp_path / "run")
    with lock.run_lock(run.directory), pytest.raises(LockedError):
        train_loop.fit(run, images)
    assert not (run.directory / "config.json").exists()


def test_a_changed_number_of_steps_is_printed_if_the_schedule_spans_them(small, tmp_path, capsys):
    config = small(optimizer__schedule="cosine")
    fit(config, tmp_path / "run")
    capsys.readouterr()
    fit(override(config, train__steps=30), tmp_path / "run")
    assert "train.steps changes from 20 to 30 at step 20" in capsys.readouterr().err


def test_a_profile_is_one_trace(small, tmp_path):
    fit(small(train__steps=10), tmp_path / "run", profile=tmp_path / "profile")
    assert len(list((tmp_path / "profile").rglob("perfetto_trace.json.gz"))) == 1
