"""Callbacks: validation, pictures, early stopping, what resuming replaces, and the events of a callback of a user."""

import numpy as np
import pytest
from hand_made import hand_made
from training_runs import digest_of, fit, metric_rows

from vae_jax.errors import StorageError
from vae_jax.runs import (
    Callback,
    RunDirectory,
    StopWhen,
    TrainingRun,
    callbacks,
    default_callbacks,
    train_loop,
)

# Events.


class Events(Callback):
    """Records the events of a run by name; stops it at a step, or raises an error there."""

    def __init__(self, events=None, *, name="", stop_at=None, fail_at=None):
        self.events, self.name = [] if events is None else events, name
        self.stop_at, self.fail_at = stop_at, fail_at

    def _add(self, *event):
        self.events.append((*([self.name] if self.name else []), *event))

    def on_start(self, run):
        self._add("start", run.step)

    def on_row(self, run, step, row):
        self._add("row", step, "loss" in row)

    def on_image(self, run, name, picture):
        self._add("image", name, picture.dtype == np.uint8)

    def on_steps(self, run):
        self._add("steps", run.step)
        if run.step == self.stop_at:
            run.stop("bored")
        if run.step == self.fail_at:
            raise RuntimeError("a mistake of the user")

    def after_steps(self, run):
        self._add("after", run.step, run.stop_reason)

    def on_end(self, run):
        self._add("end", run.step)


def test_a_callback_receives_the_events_in_order(tmp_path):
    log = Events()
    train_loop.fit(hand_made(), tmp_path / "run", callbacks=[*default_callbacks(), log])
    assert log.events == [
        ("start", 0), ("steps", 5), ("after", 5, None),
        ("row", 5, True), ("row", 10, True), ("row", 10, False), ("steps", 10), ("after", 10, None),  # read to validate
        ("steps", 15), ("after", 15, None), ("row", 15, True), ("row", 20, True), ("row", 20, False), ("steps", 20),
        ("after", 20, None), ("end", 20),
    ]  # fmt: skip
    # A finished run dispatches nothing.
    log = Events()
    train_loop.fit(hand_made(), tmp_path / "run", callbacks=[*default_callbacks(), log])
    assert log.events == [("start", 20), ("end", 20)]


def test_callbacks_are_called_in_the_order_of_the_list_and_closed_in_reverse(tmp_path):
    events = []
    both = [Events(events, name="a", stop_at=5), Events(events, name="b")]
    outcome = train_loop.fit(hand_made(), tmp_path / "run", callbacks=both)
    assert (outcome.status, outcome.step) == ("bored", 5)
    assert events == [
        ("a", "start", 0), ("b", "start", 0), ("a", "steps", 5), ("b", "steps", 5),
        ("a", "after", 5, "bored"), ("b", "after", 5, "bored"),
        ("a", "row", 5, True), ("b", "row", 5, True), ("b", "end", 5), ("a", "end", 5),
    ]  # fmt: skip
    assert not list((tmp_path / "run" / "checkpoints").iterdir())  # no callback saves


def test_without_callbacks_only_the_settings_are_written(tmp_path):
    outcome = train_loop.fit(hand_made(), tmp_path / "run", callbacks=[])
    assert (outcome.status, outcome.step) == ("done", 20)
    assert {path.name for path in (tmp_path / "run").iterdir() if path.is_file()} == {"config.json", "lock"}


def test_a_callback_can_record_numbers_and_pictures(tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr(callbacks.TensorBoard, "image", lambda board, step, name, image: shown.append((step, name)))

    class Norm(Callback):
        def on_steps(self, run):
            if run.is_due(10):
                run.record({"norm": float(np.linalg.norm(run.params["code"]["bias"]))})
                run.image("square", np.zeros((4, 4, 3), np.uint8))

    outcome = train_loop.fit(hand_made(), tmp_path / "run", callbacks=[*default_callbacks(), Norm()])
    rows = [row for row in metric_rows(tmp_path / "run") if "norm" in row]
    assert [row["step"] for row in rows] == [10, 20]
    assert rows[-1]["norm"] == pytest.approx(float(np.linalg.norm(outcome.params["code"]["bias"])))
    assert shown == [(10, "figures/square"), (20, "figures/square")]
    train_loop.fit(hand_made(), tmp_path / "run", callbacks=[*default_callbacks(), Norm()])  # the run is finished
    assert [row for row in metric_rows(tmp_path / "run") if "norm" in row] == rows


@pytest.mark.fault
def test_a_run_that_a_callback_stops_is_saved_and_resumes_with_the_same_bits(tmp_path):
    """The callback is the last one, after the one that saves."""
    complete = train_loop.fit(hand_made(), tmp_path / "complete")
    expected = digest_of(complete.state, tmp_path / "complete")
    parts = tmp_path / "parts"
    first = train_loop.fit(hand_made(), parts, callbacks=[*default_callbacks(), Events(stop_at=5)])
    assert (first.status, first.step, first.resumed_from) == ("bored", 5, None)
    assert [path.name for path in (parts / "checkpoints").iterdir()] == ["5"]
    second = train_loop.fit(hand_made(), parts, callbacks=[*default_callbacks(), Events(stop_at=10)])
    assert (second.status, second.step, second.resumed_from, second.trained_steps) == ("bored", 10, 5, 5)
    third = train_loop.fit(hand_made(), parts)
    assert (third.status, third.step, third.resumed_from) == ("done", 20, 10)
    assert digest_of(third.state, parts) == expected


@pytest.mark.fault
def test_a_run_that_an_error_of_a_callback_ends_resumes_with_the_same_bits(tmp_path):
    complete = train_loop.fit(hand_made(), tmp_path / "complete")
    log = Events(fail_at=15)
    with pytest.raises(RuntimeError, match="a mistake of the user"):
        train_loop.fit(hand_made(), tmp_path / "run", callbacks=[log, *default_callbacks()])
    assert log.events[-1] == ("end", 15)
    outcome = train_loop.fit(hand_made(), tmp_path / "run")
    assert (outcome.resumed_from, outcome.step) == (10, 20)
    digests = [digest_of(r.state, tmp_path / n) for r, n in ((complete, "complete"), (outcome, "run"))]
    assert digests[0] == digests[1]


@pytest.mark.fault
def test_an_error_at_the_start_closes_the_callbacks_before_it_and_is_the_error_of_the_run(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise StorageError("disk on fire")

    monkeypatch.setattr(callbacks, "MetricsFile", refuse)
    log = Events()
    with pytest.raises(StorageError, match="disk on fire"):
        train_loop.fit(hand_made(), tmp_path / "run", callbacks=[log, *default_callbacks()])
    assert log.events == [("start", 0), ("end", 0)]


def test_a_stop_is_polled_before_the_first_step_and_once_for_each_dispatch(tmp_path):
    polls = []

    def stop():
        polls.append(len(polls))
        return len(polls) == 3

    callback = StopWhen(stop)
    run = TrainingRun(hand_made(), RunDirectory(tmp_path), None, None, first_step=0, state=None)
    callback.on_start(run)
    callback.on_start(run)  # of another member of a sweep, at the same step
    assert (len(polls), run.stop_reason) == (1, None)
    for step in (5, 5, 10):
        run.step = step
        callback.on_steps(run)
    assert (len(polls), run.stop_reason) == (3, "interrupted")


# Files.


def test_tensorboard_receives_the_first_step_that_a_resumed_run_writes(small, tmp_path, monkeypatch):
    received = []

    class Board(callbacks.TensorBoard):
        def __init__(self, *args, **kwargs):
            received.append(kwargs)
            super().__init__(*args, **kwargs)

    monkeypatch.setattr(callbacks, "TensorBoard", Board)
    fit(small(), tmp_path / "run")
    fit(small(train__steps=30), tmp_path / "run")
    assert received == [{"purge_step": None}, {"purge_step": 21}]


def test_training_further_removes_the_evaluation_and_the_figures(small, tmp_path):
    names = ("figures/samples-fitted.png", "evaluation.json", "report.html")
    paths = [tmp_path / "run" / name for name in names]
    fit(small(), tmp_path / "run")
    paths[0].parent.mkdir(exist_ok=True)
    for path in paths:
        path.write_text("{}")
    fit(small(), tmp_path / "run")
    assert all(path.exists() for path in paths)  # no step was trained
    fit(small(train__steps=25), tmp_path / "run")
    assert not any(path.exists() for path in paths)
