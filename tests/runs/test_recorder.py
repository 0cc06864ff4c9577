"""The recorder of a training: metrics that are not finite, validation, TensorBoard, and what resuming replaces."""

import numpy as np
import optax
import pytest
from training_runs import assert_finite, fit, flags, metric_rows, poison_loss

from vae_jax.cli.main import main
from vae_jax.config import override
from vae_jax.errors import InputError, NotFiniteError
from vae_jax.runs import evaluation_key, open_run, prepare_run, recorder, restore
from vae_jax.runs.checkpoints import Checkpoints
from vae_jax.runs.recorder import Recorder, steps_to_dispatch
from vae_jax.runs.run import Run


def test_a_dispatch_ends_at_a_multiple_of_log_every_and_at_the_last_step(small):
    config = small(train__steps=17, train__log_every=5).train
    assert [steps_to_dispatch(config, step) for step in (0, 3, 5, 15, 16)] == [5, 2, 5, 2, 1]


def test_training_stops_early_when_the_last_bounds_miss_the_best_before_them(small, tmp_path):
    run, _ = prepare_run(small(train__patience=2, train__evaluate_every=5), tmp_path / "run")
    observer = Recorder(run, None, first_step=0)
    stops = []
    for bound in (1.0, 3.0, 2.0, -np.inf, 3.0, 4.0):
        observer.history.append(bound)
        stops.append(observer.should_stop_early())
    assert stops == [False, False, False, True, True, False]


# Metrics that are not finite.


@pytest.mark.fault
def test_a_nan_stops_the_run_and_names_the_step(small, tmp_path, monkeypatch):
    config = small(train__steps=30)
    poison_loss(monkeypatch, [17])
    with pytest.raises(NotFiniteError, match=r"^step 17 is not finite \(loss=nan, grad_norm=nan\); ") as caught:
        fit(config, tmp_path / "run")
    assert caught.value.exit_code == 3
    assert "\n" not in str(caught.value)
    run = open_run(tmp_path / "run")
    assert [row["step"] for row in metric_rows(run)] == [5, 10, 15]
    with Checkpoints(run.directory, read_only=True) as checkpoints:
        assert checkpoints.steps() == [10]
        restored = restore(run, checkpoints)
    assert (restored.step, restored.notes) == (10, [])
    assert_finite(restored.state)
    monkeypatch.undo()  # without the cause, the same command resumes
    _, outcome = fit(config, run.directory)
    assert (outcome.resumed_from, outcome.step, outcome.status) == (10, 30, "done")


@pytest.mark.fault
@pytest.mark.parametrize(
    ("policy", "cause"),
    [
        ({"train__nonfinite": "stop"}, "(loss=inf"),
        (
            {"train__nonfinite": "skip", "train__max_skips": 1},
            "but the updated parameters are not finite; train.max_skips=1 is reached)",
        ),
    ],
)
def test_an_absurd_learning_rate_stops_at_once_with_exit_code_3(small, tmp_path, capsys, policy, cause):
    config = small(optimizer__learning_rate=1e30, optimizer__name="sgd", optimizer__schedule="constant", **policy)
    argv = ["train", "--workdir", str(tmp_path / "run"), "--compilation-cache", "None", *flags(config)]
    assert main(argv) == 3
    captured = capsys.readouterr()
    assert captured.out == ""
    line = captured.err.splitlines()[-1]
    assert line.startswith("vae-jax: step 1 is not finite (loss=")
    assert cause in line
    assert not list((tmp_path / "run" / "checkpoints").glob("[0-9]*"))


@pytest.mark.fault
def test_skipped_steps_are_counted_and_change_nothing(small, tmp_path, monkeypatch):
    config = small(train__nonfinite="skip", train__max_skips=3, train__ema_decay=0.9)
    poison_loss(monkeypatch, [6, 7, 12])
    run, outcome = fit(config, tmp_path / "run")
    assert (outcome.step, outcome.status, int(outcome.state.skipped)) == (20, "done", 0)
    assert [row.get("skipped_steps") for row in metric_rows(run)] == [None, 2, 1, None]
    assert all(np.isfinite(row["bound"]) for row in metric_rows(run))
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
    run, outcome = fit(small(train__nonfinite="skip", train__max_skips=5), tmp_path / "run")
    assert outcome.step == 20
    row = metric_rows(run)[1]
    assert (row["bound"], row["skipped_steps"]) == (None, 5)


# Validation.


def test_tensorboard_shows_images_at_each_validation(small, tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr(recorder.TensorBoard, "image", lambda board, step, name, image: shown.append((step, name)))
    fit(small(train__evaluate_every=10), tmp_path / "run")
    assert shown == [(step, name) for step in (10, 20) for name in ("samples", "reconstructions")]


def test_no_validation_without_validation_images(small, tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr(recorder.TensorBoard, "image", lambda board, step, name, image: shown.append(name))
    config = small(data__holdout=0.0, train__evaluate_every=10)
    run, outcome = fit(config, tmp_path / "run")
    assert set(shown) == {"samples"}
    assert (outcome.status, run.data["num_examples"]) == ("done", 1438)  # all images outside the test split
    assert not any("validation_bound" in row for row in metric_rows(run))
    with pytest.raises(InputError, match=r"data\.holdout=0\.0 results in no validation examples"):
        prepare_run(override(config, train__patience=2), tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_validation_uses_the_moving_average_of_the_weights(small, tmp_path):
    run, outcome = fit(small(train__steps=5, train__evaluate_every=5, train__ema_decay=0.75), tmp_path / "run")
    key, evaluator = evaluation_key(run, "validation"), run.evaluator()
    average, latest = (
        evaluator.bound(params, key, run.images("validation"))["elbo"]
        for params in (outcome.state.ema_params, outcome.state.params)
    )
    assert metric_rows(run)[-1]["validation_bound"] == average != latest


def test_a_run_that_maximizes_the_reconstruction_is_validated_by_it(small, tmp_path):
    settings = {"model__posterior": "fixed-noise", "objective__name": "reconstruction", "train__evaluate_every": 20}
    run, _ = fit(small(**settings), tmp_path / "run")
    (row,) = [row for row in metric_rows(run) if "validation_bound" in row]
    assert row["validation_bound"] == row["validation_reconstruction"]
    assert row["validation_kl"] > 0


@pytest.mark.fault
def test_images_held_out_that_cannot_be_read_are_reported_before_the_first_step(small, tmp_path, monkeypatch):
    images = Run.images

    def fail_for_validation(run, split):
        if split == "validation":
            raise InputError("needs 9 GiB of memory")
        return images(run, split)

    monkeypatch.setattr(Run, "images", fail_for_validation)
    with pytest.raises(InputError, match="needs 9 GiB"):
        fit(small(train__evaluate_every=10), tmp_path / "run")
    assert not list((tmp_path / "run" / "checkpoints").iterdir())
    fit(small(), tmp_path / "other")  # without validation, no validation images are read


# Files.


def test_tensorboard_receives_the_first_step_that_a_resumed_run_writes(small, tmp_path, monkeypatch):
    received = []

    class Board(recorder.TensorBoard):
        def __init__(self, *args, **kwargs):
            received.append(kwargs)
            super().__init__(*args, **kwargs)

    monkeypatch.setattr(recorder, "TensorBoard", Board)
    fit(small(), tmp_path / "run")
    fit(small(train__steps=30), tmp_path / "run")
    assert received == [{"purge_step": None}, {"purge_step": 21}]


def test_training_further_removes_the_evaluation(small, tmp_path):
    path = tmp_path / "run" / "evaluation.json"
    fit(small(), tmp_path / "run")
    path.write_text("{}")
    fit(small(), tmp_path / "run")
    assert path.exists()  # no step was trained
    fit(small(train__steps=25), tmp_path / "run")
    assert not path.exists()


def test_an_error_lists_at_most_128_images():
    assert recorder._format_indices(np.arange(3)) == "0, 1, 2"
    assert recorder._format_indices(np.arange(130)).endswith(", 127 and 2 more")
