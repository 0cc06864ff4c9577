"""Validations: their bound, their pictures, and early stopping."""

import pytest
from training_runs import final_digest, fit, metric_rows

from vae_jax.config import override
from vae_jax.data import loading
from vae_jax.errors import InputError
from vae_jax.runs import RunDirectory, TrainingRun, callbacks, make_evaluator, prepare_experiment, validation
from vae_jax.runs.validation import EarlyStopping

# Validation.


def test_tensorboard_shows_images_at_each_validation(small, tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr(callbacks.TensorBoard, "image", lambda board, step, name, image: shown.append((step, name)))
    fit(small(train__evaluate_every=10), tmp_path / "run")
    assert shown == [(step, f"figures/{name}") for step in (10, 20) for name in ("samples", "reconstructions")]


def test_no_validation_without_validation_examples(small, tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr(callbacks.TensorBoard, "image", lambda board, step, name, image: shown.append(name))
    config = small(data__holdout=0.0, train__evaluate_every=10)
    experiment, outcome = fit(config, tmp_path / "run")
    assert set(shown) == {"figures/samples"}
    # All images outside the test split.
    assert (outcome.status, experiment.data["num_examples"]) == ("done", 1438)
    assert not any("validation_bound" in row for row in metric_rows(tmp_path / "run"))
    lines = []
    for every in (10, 0):
        prepare_experiment(override(config, train__evaluate_every=every), tmp_path / "new", log=lines.append)
    assert lines == ["data.holdout=0.0 results in no validation examples, so no bound of them is computed"]
    with pytest.raises(InputError, match=r"data\.holdout=0\.0 results in no validation examples"):
        prepare_experiment(override(config, train__patience=2), tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_validation_uses_the_moving_average_of_the_weights(small, one_device, tmp_path):
    config = small(train__steps=5, train__evaluate_every=5, train__ema_decay=0.75)
    experiment, outcome = fit(config, tmp_path / "run")
    key, evaluator = experiment.evaluation_key("validation"), make_evaluator(experiment, one_device)
    average, latest = (
        evaluator.bound(params, key, experiment.dataset("validation").arrays)["elbo"]
        for params in (outcome.state.ema_params, outcome.state.params)
    )
    assert metric_rows(tmp_path / "run")[-1]["validation_bound"] == average != latest


def test_a_run_that_maximizes_the_reconstruction_is_validated_by_it(small, tmp_path):
    settings = {"posterior": "fixed-noise", "objective": "reconstruction", "train__evaluate_every": 20}
    fit(small(**settings), tmp_path / "run")
    (row,) = [row for row in metric_rows(tmp_path / "run") if "validation_bound" in row]
    assert row["validation_bound"] == row["validation_reconstruction"]
    assert row["validation_kl"] > 0


@pytest.mark.fault
def test_examples_held_out_that_cannot_be_read_are_reported_before_the_first_step(small, tmp_path, monkeypatch):
    split = loading.ConfiguredSource.split

    def fail_for_validation(source, name):
        if name == "validation":
            raise InputError("needs 9 GiB of memory")
        return split(source, name)

    monkeypatch.setattr(loading.ConfiguredSource, "split", fail_for_validation)
    with pytest.raises(InputError, match="needs 9 GiB"):
        fit(small(train__evaluate_every=10), tmp_path / "run")
    assert not (tmp_path / "run" / "checkpoints").exists()


# Early stopping.


def test_training_stops_early_when_the_last_bounds_miss_the_best_before_them(small, tmp_path):
    experiment, placement = prepare_experiment(small(train__patience=2, train__evaluate_every=5), tmp_path / "run")
    stops = []
    run = TrainingRun(experiment, RunDirectory(tmp_path / "run"), placement, None, first_step=0, state=None)
    stopping = EarlyStopping()
    stopping.on_start(run)
    for bound in (1.0, 3.0, None, [9.0], 3.0, 4.0):  # null is a bound that is not finite; a list, a damaged file
        stopping.on_row(run, 5, {"validation_bound": bound})
        stopping.on_row(run, 5, {"bound": 9.0})  # of the training
        stopping.on_steps(run)
        stops.append(run.stop_reason)
        run.stop_reason = None
    assert stops == [None, None, None, "stopped early", "stopped early", None]


def test_early_stopping_stops_and_stays_stopped(small, tmp_path, monkeypatch):
    bounds = iter([1.0, 3.0, 2.0, 2.5, 9.0])
    directory = tmp_path / "run"
    config = small(train__steps=100, train__evaluate_every=10, train__save_every=50, train__patience=2)

    class Scripted:
        def __init__(self, original):
            self.original = original

        def bound(self, *arguments, **calls):
            return self.original.bound(*arguments, **calls) | {"elbo": next(bounds)}

    monkeypatch.setattr(validation, "make_evaluator", lambda *args: Scripted(make_evaluator(*args)))
    _, outcome = fit(config, directory)
    assert (outcome.status, outcome.step, outcome.trained_steps) == ("stopped early", 40, 40)
    history = [row["validation_bound"] for row in metric_rows(directory) if "validation_bound" in row]
    assert history == [1.0, 3.0, 2.0, 2.5]
    assert final_digest(directory)[0] == 40  # saved, though 40 is not a multiple of save_every
    before = (directory / "metrics.jsonl").read_bytes()
    (directory / "evaluation.json").write_text("{}")
    _, again = fit(config, directory)
    assert (again.status, again.step, again.trained_steps) == ("stopped early", 40, 0)
    assert (directory / "metrics.jsonl").read_bytes() == before
    assert (directory / "evaluation.json").exists()  # the weights are the same
    _, further = fit(override(config, train__patience=3, train__steps=50), directory)  # patience may change
    assert (further.status, further.step, next(bounds, None)) == ("done", 50, None)
    assert not (directory / "evaluation.json").exists()
