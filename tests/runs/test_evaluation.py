"""Evaluations: undefined and infinite numbers, the protocol, interruption, and evaluation.json."""

import json

import pytest
from training_runs import assert_finite, fit

from vae_jax.errors import NotFiniteError
from vae_jax.runs import evaluation, prepare_run


@pytest.mark.fault
def test_an_evaluation_that_is_not_finite_is_an_error_and_no_result(small, tmp_path):
    """The weights after the last step are finite, but so large that the bound overflows."""
    config = small(
        optimizer__learning_rate=1e15, optimizer__name="sgd", train__steps=1, optimizer__schedule="constant",
    )  # fmt: skip
    run, outcome = fit(config, tmp_path / "run")
    assert_finite(outcome.state)
    with pytest.raises(NotFiniteError, match=r"split test is not finite: .*elbo=-inf"):
        evaluation.evaluate_run(run, outcome.state.params, split="test")


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
def test_an_evaluation_contains_no_undefined_number(small, tmp_path, settings, undefined):
    run, _ = prepare_run(small(**settings), tmp_path / "run")
    result = evaluation.evaluate_run(run, run.initial_state(run.key).params, split="test")
    assert set(result["undefined"]) == undefined
    assert undefined.isdisjoint(result)
    assert {"kl", "elbo", "nll", "bits_per_dim"} - undefined <= set(result)


def test_progress_is_reported_and_an_evaluation_can_be_interrupted(bernoulli_run):
    run, params = bernoulli_run
    total, reports = len(run.images("test")), []
    result = evaluation.evaluate_run(run, params, split="test", report_progress=lambda *args: reports.append(args))
    assert reports[-1] == (total, total)
    assert result["num_examples"] == total
    with pytest.raises(evaluation.Interrupted):
        evaluation.evaluate_run(run, params, split="test", stop=lambda: True)


def test_an_evaluation_is_read_only_for_its_step_and_protocol(bernoulli_run, tmp_path):
    run, _ = bernoulli_run
    protocol = evaluation.evaluation_protocol(run)
    assert set(protocol) == set(evaluation.PROTOCOL)
    stored = {"step": 20, "elbo": -1.0, **protocol}
    path = tmp_path / evaluation.EVALUATION_FILE
    assert evaluation.read_evaluation(tmp_path, 20) is None
    path.write_text("{")
    assert evaluation.read_evaluation(tmp_path, 20) is None
    path.write_text(json.dumps(stored))
    assert evaluation.read_evaluation(tmp_path, 20) == stored
    assert evaluation.read_evaluation(tmp_path, 20, protocol) == stored
    assert evaluation.read_evaluation(tmp_path, 21) is None
    for name in evaluation.PROTOCOL:
        assert evaluation.read_evaluation(tmp_path, 20, protocol | {name: "other"}) is None


def test_a_protocol_without_an_nll_has_no_number_of_samples(make_run):
    run, _ = make_run(evaluation__num_samples=0)
    assert not {"num_samples", "chunk"} & set(evaluation.evaluation_protocol(run))
