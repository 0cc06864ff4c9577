"""One model in training: its dispatches and intervals, and metrics that are not finite."""

import types

import numpy as np
import optax
import pytest
from hand_made import TRAINING, hand_made
from training_runs import assert_finite, fit, flags, metric_rows, poison_loss, restored_state

from vae_jax.cli.main import main
from vae_jax.errors import InputError, NotFiniteError
from vae_jax.runs import Callback, RunDirectory, TrainingRun, training_run
from vae_jax.runs.training_run import Dispatch, steps_to_dispatch
from vae_jax.training import make_schedule


class Log(Callback):
    """Records the rows of a run."""

    def __init__(self):
        self.rows = []

    def on_row(self, run, step, row):
        self.rows.append((step, row))


@pytest.fixture
def run(tmp_path, one_device):
    """A run at step 10 with a callback `Log`; its checkpoints and its state are not used."""
    run = TrainingRun(
        hand_made(), RunDirectory(tmp_path), one_device, types.SimpleNamespace(), first_step=10, state=lambda: None
    )
    run.callbacks = (Log(),)
    return run


def metrics_of(losses, skipped=None):
    values = {"loss": losses, "grad_norm": np.ones_like(losses), "skipped": np.zeros_like(losses)}
    return {name: np.asarray(value) for name, value in (values | ({"skipped": skipped} if skipped else {})).items()}


def test_a_dispatch_ends_at_a_multiple_of_log_every_and_at_the_last_step():
    assert [steps_to_dispatch(5, 17, step) for step in (0, 3, 5, 15, 16)] == [5, 2, 5, 2, 1]


def test_metrics_are_read_once_as_the_mean_over_the_steps_of_an_interval(run, tmp_path, one_device):
    run.dispatched(Dispatch(10, 3, metrics_of(np.array([1.0, 2.0, 6.0, np.nan, np.nan]))))
    assert (run.step, run.first_step) == (13, 10)
    run.read()
    run.read()
    assert run.callbacks[0].rows == []  # the interval ends at step 15
    resumed = TrainingRun(
        run.experiment, run.directory, one_device, None, first_step=13, state=None, metrics={"interval": run.interval}
    )
    resumed.callbacks = (Log(),)
    for part in (run, resumed):
        part.dispatched(Dispatch(13, 2, metrics_of(np.array([1.5, 4.5, np.nan, np.nan, np.nan]))))
        part.read()
        assert part.callbacks[0].rows == [(15, {"loss": 3.0, "grad_norm": 1.0})]
        assert part.interval == {}


def test_a_member_reads_its_own_row(run, tmp_path, one_device):
    dispatch = Dispatch(10, 5, metrics_of(np.array([[1.0] * 5 + [np.nan], [4.0, 5.0, 6.0, 7.0, 8.0, np.nan]])))
    for member, loss in ((0, 1.0), (1, 6.0)):
        other = TrainingRun(
            run.experiment, RunDirectory(tmp_path), one_device, types.SimpleNamespace(), first_step=10,
            state=lambda: None, member=member,
        )  # fmt: skip
        other.callbacks = (Log(),)
        other.dispatched(dispatch)
        other.read()
        assert other.callbacks[0].rows == [(15, {"loss": loss, "grad_norm": 1.0})]


def test_the_learning_rate_is_that_of_the_last_step(run):
    rates = {"learning_rate": np.array([1.0, 0.9, 0.8, 0.7, 0.6, np.nan])}
    run.dispatched(Dispatch(10, 5, metrics_of(np.array([1.0, 2.0, 6.0, 2.0, 4.0, np.nan])) | rates))
    run.read()
    assert run.callbacks[0].rows == [(15, {"loss": 3.0, "grad_norm": 1.0, "learning_rate": 0.6})]


def test_intervals_end_at_the_last_step(run):
    due = []
    for step in range(10, 21):
        run.step = step
        due.append(run.is_due(8))
    assert [step for step, is_due in zip(range(10, 21), due, strict=True) if is_due] == [16, 20]
    assert run.is_last
    assert not run.is_due(0)


def test_the_first_reason_to_stop_counts(run):
    run.stop("interrupted")
    run.stop("stopped early")
    assert run.stop_reason == "interrupted"


def test_a_run_with_more_steps_than_train_steps_is_refused(tmp_path, one_device):
    with pytest.raises(InputError, match=r"^train\.steps=20 must be at least 21, the newest step in "):
        TrainingRun(hand_made(training=TRAINING), RunDirectory(tmp_path), one_device, None, first_step=21, state=None)


def test_an_error_lists_at_most_128_examples():
    assert training_run._format_indices(np.arange(3)) == "0, 1, 2"
    assert training_run._format_indices(np.arange(130)).endswith(", 127 and 2 more")


# Metrics that are not finite.


@pytest.mark.fault
def test_a_nan_stops_the_run_and_names_the_step(small, tmp_path, monkeypatch):
    config, directory = small(train__steps=30), tmp_path / "run"
    poison_loss(monkeypatch, [17])
    with pytest.raises(
        NotFiniteError, match=r"^step 17 is not finite \(loss=nan, grad_norm=nan\); earlier check"
    ) as caught:
        fit(config, directory)
    assert caught.value.exit_code == 3
    assert "\n" not in str(caught.value)
    assert [row["step"] for row in metric_rows(directory)] == [5, 10, 15]
    assert [path.name for path in (directory / "checkpoints").iterdir()] == ["10"]
    restored = restored_state(directory)
    assert (restored.step, restored.notes) == (10, [])
    assert_finite(restored.state)
    monkeypatch.undo()  # without the cause, the same command resumes
    _, outcome = fit(config, directory)
    assert (outcome.resumed_from, outcome.step, outcome.status) == (10, 30, "done")


@pytest.mark.fault
@pytest.mark.parametrize(
    ("policy", "problem", "cause"),
    [
        ({"train__nonfinite": "stop"}, "step 1 is not finite (loss=", "(loss=inf"),
        (
            {"train__nonfinite": "skip", "train__max_skips": 1},
            "step 1 is not finite (loss=",
            "but the updated parameters are not finite; train.max_skips=1 is reached)",
        ),
        (
            {"train__nonfinite": "skip", "train__max_skips": 1, "optimizer__learning_rate": 1e-3,
             "optimizer__skip_quantile": 0.5, "optimizer__skip_factor": 1e-6, "optimizer__skip_window": 3},
            "step 4 has a gradient above the limit of optimizer.skip_quantile (loss=",
            "; train.max_skips=1 is reached); lower optimizer.learning_rate, or raise ",
        ),
    ],
)  # fmt: skip
def test_an_absurd_learning_rate_or_limit_stops_with_exit_code_3(small, tmp_path, capsys, policy, problem, cause):
    config = small(**{"optimizer__learning_rate": 1e30, "optimizer": "sgd", "schedule": "constant"} | policy)
    argv = ["train", "--workdir", str(tmp_path / "run"), "--compilation-cache", "None", *flags(config)]
    assert main(argv) == 3
    captured = capsys.readouterr()
    assert captured.out == ""
    line = captured.err.splitlines()[-1]
    assert line.startswith(f"vae-jax: {problem}")
    assert cause in line
    assert not list((tmp_path / "run" / "checkpoints").glob("[0-9]*"))


@pytest.mark.fault
@pytest.mark.parametrize(("saved", "words"), [(None, ""), (10, "earlier checkpoints are intact; ")])
def test_the_advice_for_a_hand_made_experiment_names_no_flag(run, saved, words):
    run.checkpoints.latest_step = lambda: saved
    run.dispatched(Dispatch(10, 5, metrics_of(np.array([1.0, np.nan, 6.0, 2.0, 4.0]), [0, 1, 0, 0, 0])))
    with pytest.raises(NotFiniteError) as caught:
        run.read()
    message = str(caught.value)
    begin = f"step 11 is not finite (loss=nan, grad_norm=1.0); {words}lower the learning rate, add optax.clip_by_global"
    assert message.startswith(begin)
    assert "allow_change=[...]" in message
    assert "--" not in message


@pytest.mark.fault
def test_skipped_steps_are_counted_and_change_nothing(small, tmp_path, monkeypatch):
    config = small(train__nonfinite="skip", train__max_skips=3, train__ema_decay=0.9, schedule="cosine")
    poison_loss(monkeypatch, [6, 7, 12])
    _, outcome = fit(config, tmp_path / "run")
    assert (outcome.step, outcome.status, int(outcome.state.skipped)) == (20, "done", 0)
    rows = metric_rows(tmp_path / "run")
    assert [row.get("skipped_steps") for row in rows] == [None, 2, 1, None]
    assert all(np.isfinite(row["bound"]) for row in rows)
    schedule = make_schedule(config)
    np.testing.assert_allclose([row["learning_rate"] for row in rows], [schedule(i - 1) for i in (5, 10, 15, 20)], 1e-6)
    assert_finite(outcome.state)
    counts = {
        name: int(optax.tree.get(outcome.state.opt_state, name).count)
        for name in ("ScaleByAdamState", "ScaleByScheduleState")
    }
    assert counts == {"ScaleByAdamState": 17, "ScaleByScheduleState": 20}  # number of updates, and of steps


@pytest.mark.fault
def test_too_many_skips_in_a_row_stop_the_run(small, tmp_path, monkeypatch):
    poison_loss(monkeypatch, [2, 3, 6, 7, 8, 9])
    config = small(train__nonfinite="skip", train__max_skips=2)
    with pytest.raises(NotFiniteError, match=r"^step 8 is not finite .*; train\.max_skips=2 is reached\); "):
        fit(config, tmp_path / "run")


@pytest.mark.fault
def test_a_row_in_which_every_step_was_skipped_has_no_mean(small, tmp_path, monkeypatch):
    poison_loss(monkeypatch, range(5, 10))
    _, outcome = fit(small(train__nonfinite="skip", train__max_skips=5), tmp_path / "run")
    assert outcome.step == 20
    row = metric_rows(tmp_path / "run")[1]
    assert (row["bound"], row["skipped_steps"]) == (None, 5)
