"""Evaluations: metrics by kind, undefined and infinite numbers, the protocol, interruption, and evaluation.json."""

import functools
import json

import hand_made
import jax
import numpy as np
import pytest
from small_experiments import count_experiment, image_experiment, initial_params, vector_experiment
from training_runs import assert_finite, fit

from vae_jax.errors import NotFiniteError
from vae_jax.runs import RunDirectory
from vae_jax.runs.evaluation import evaluation
from vae_jax.training import evaluator


@pytest.mark.fault
def test_an_evaluation_that_is_not_finite_is_an_error_and_no_result(small, tmp_path):
    """The weights after the last step are finite, but so large that the bound overflows."""
    config = small(optimizer="sgd", optimizer__learning_rate=1e15, train__steps=1, schedule="constant")
    experiment, outcome = fit(config, tmp_path / "run")  # on one device, where it is evaluated, too
    assert_finite(outcome.state)
    with pytest.raises(NotFiniteError, match=r"split test is not finite: .*elbo=-inf"):
        evaluation.evaluate_run(experiment, outcome.params, split="test")


DETERMINISTIC = {"posterior": "deterministic", "objective": "reconstruction"}


@pytest.mark.parametrize(
    ("settings", "undefined"),
    [
        (DETERMINISTIC, {"kl", "elbo", "nll", "bits_per_dim"}),
        ({"likelihood": "gaussian", "preprocess": "scale"}, {"bits_per_dim"}),
        ({"likelihood": "bernoulli", "preprocess": "scale"}, {"bits_per_dim"}),
        ({"likelihood": "gaussian"}, {"bits_per_dim"}),
        ({"likelihood": "bernoulli"}, set()),
        ({"likelihood": "logistic-mixture", "preprocess": "scale"}, set()),
    ],
)
def test_an_evaluation_contains_no_undefined_number(one_device, settings, undefined):
    experiment = image_experiment(**settings)
    result = evaluation.evaluate_run(experiment, initial_params(experiment), split="test", placement=one_device)
    assert set(result["undefined"]) == undefined
    assert undefined.isdisjoint(result)
    assert {"kl", "elbo", "nll", "bits_per_dim"} - undefined <= set(result)
    assert result["likelihood"] == settings.get("likelihood", "bernoulli")


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"likelihood": "gaussian", "preprocess": "scale"},
         "gaussian is a density over real numbers, but pixels have 256 values"),
        ({"likelihood": "continuous-bernoulli", "preprocess": "scale"},
         "continuous-bernoulli is a density over numbers from 0 to 1, but pixels have 256 values"),
        ({"likelihood": "bernoulli", "preprocess": "scale"},
         "bernoulli is a distribution over binary numbers, but pixels have 256 values"),
        ({"likelihood": "gaussian"}, "gaussian is a density over real numbers, but pixels are binary"),
    ],
)  # fmt: skip
def test_the_reason_names_the_likelihood_and_the_pixels(settings, reason):
    assert evaluation.undefined_metrics(image_experiment(**settings)) == {"bits_per_dim": reason}


@pytest.mark.parametrize(
    ("make", "metrics"),
    [
        (count_experiment, {"squared_error", "log_squared_error"}),
        (vector_experiment, {"squared_error", "explained_variance"}),
        (image_experiment, {"squared_error", "psnr", "bits_per_dim", "bits_per_dim_of"}),
        (hand_made.hand_made, {"squared_error", "explained_variance"}),
    ],
)
def test_each_kind_of_data_has_its_metrics(make, metrics, one_device):
    experiment = make()
    result = evaluation.evaluate_run(experiment, initial_params(experiment), split="validation", placement=one_device)
    others = {"squared_error", "log_squared_error", "explained_variance", "psnr", "bits_per_dim", "bits_per_dim_of"}
    assert others & set(result) == metrics
    assert result["undefined"] == {}
    assert result["num_examples"] == len(experiment.dataset("validation"))
    assert np.isfinite([result["elbo"], result["nll"], result["squared_error"]]).all()
    assert json.loads(json.dumps(result)) == result


def test_counts_without_a_density_have_no_bound_and_no_bits(one_device):
    experiment = count_experiment(**DETERMINISTIC)
    result = evaluation.evaluate_run(experiment, initial_params(experiment), split="test", placement=one_device)
    assert set(result["undefined"]) == {"kl", "elbo", "nll"}
    assert not {"num_samples", "chunk", "elbo", "nll"} & set(result)


def test_a_hand_made_model_of_images_does_not_state_its_bits_per_dim():
    x = np.random.default_rng(0).integers(0, 256, (40, 2, 3, 1)).astype(np.uint8)
    experiment = hand_made.hand_made(data=hand_made.from_arrays(x, np.arange(40) % 3, holdout=0.3))
    assert "no registered choice" in evaluation._not_a_probability_of_pixels(experiment)


def test_progress_is_reported_and_an_evaluation_can_be_interrupted(bernoulli_experiment, one_device):
    experiment, params = bernoulli_experiment
    total, reports = len(experiment.dataset("test")), []
    result = evaluation.evaluate_run(
        experiment, params, split="test", placement=one_device, report_progress=lambda *args: reports.append(args)
    )
    assert (reports[0], reports[-1]) == ((0, total), (total, total))
    assert result["num_examples"] == total
    with pytest.raises(evaluation.Interrupted):
        evaluation.evaluate_run(experiment, params, split="test", placement=one_device, stop=lambda: True)


@pytest.mark.fault
def test_an_evaluation_ends_during_a_batch_that_takes_minutes(one_device, monkeypatch):
    class Computing:  # an array that is not ready
        polls = 0

        def is_ready(self):
            self.polls += 1
            return False

    array = Computing()
    monkeypatch.setattr(evaluator.Evaluator, "_jit", lambda *_: lambda params, keys, batch: {"log_px": array})
    found = evaluator.Evaluator(None, None, batch_size=2)
    examples, stop = {"x": np.zeros((2, 3))}, lambda: array.polls == 3
    with pytest.raises(evaluation.Interrupted):
        found.likelihood({}, jax.random.key(0), examples, num_samples=2, chunk=2, poll=lambda: evaluation._end_if(stop))


def test_an_evaluation_is_read_only_for_its_step_and_protocol(bernoulli_experiment, tmp_path):
    experiment, _ = bernoulli_experiment
    protocol = evaluation.evaluation_protocol(experiment)
    assert set(protocol) == set(evaluation.PROTOCOL) - {"class_samples"}  # of models that read labels
    assert protocol["preprocess"] == "dynamic-binarization"
    assert protocol["training_examples"] == experiment.data["arrays"]["x"]["sha256"]
    stored = {"step": 20, "elbo": -1.0, **protocol}
    directory = RunDirectory(tmp_path)
    assert evaluation.read_evaluation(directory, 20) is None
    for text in ("{", "[]", "1.5", "null", "[" * 100_000):
        directory.evaluation.write_text(text)
        assert evaluation.read_evaluation(directory, 20) is None
    directory.evaluation.write_text(json.dumps(stored))
    assert evaluation.read_evaluation(tmp_path, 20) == stored
    assert evaluation.read_evaluation(directory, 20, protocol) == stored
    assert evaluation.read_evaluation(directory, 21) is None
    for name in evaluation.PROTOCOL:
        assert evaluation.read_evaluation(directory, 20, protocol | {name: "other"}) is None
    more = protocol | {"batch_size": 1, "chunk": 7}  # no random number depends on them
    assert evaluation.read_evaluation(directory, 20, more) == stored


def test_a_protocol_without_an_nll_has_no_number_of_samples():
    assert "num_samples" not in evaluation.evaluation_protocol(image_experiment(evaluation__num_samples=0))
    assert "num_samples" not in evaluation.evaluation_protocol(image_experiment(**DETERMINISTIC))
    by_hand = hand_made.hand_made()
    assert evaluation.evaluation_protocol(by_hand)["preprocess"] == by_hand.description()["preprocess"]


def test_batch_size_and_chunk_are_reported_and_change_nothing(one_device):
    experiment = image_experiment()
    params = initial_params(experiment)
    other = image_experiment(evaluation__batch_size=7, evaluation__chunk=3)
    results = [evaluation.evaluate_run(e, params, split="test", placement=one_device) for e in (experiment, other)]
    assert [(result["batch_size"], result["chunk"]) for result in results] == [(80, 2), (7, 3)]
    for name in ("elbo", "nll", "squared_error"):
        np.testing.assert_allclose(results[0][name], results[1][name], rtol=1e-5)


def test_experiments_with_equal_models_share_an_evaluator(one_device):
    first, second = (image_experiment(seed=seed) for seed in (0, 1))
    assert evaluation.make_evaluator(first, one_device) is evaluation.make_evaluator(second, one_device)
    other = image_experiment(model__latent_dim=3)
    assert evaluation.make_evaluator(other, one_device) is not evaluation.make_evaluator(first, one_device)
    assert evaluation.make_evaluator(first, one_device, 9).batch_size == 9
    assert jax.device_count() > 1
    assert evaluation.make_evaluator(count_experiment(), one_device).kind == "counts"


@pytest.mark.fault
def test_numbers_that_mislead_have_a_warning(one_device):
    gaussian = image_experiment(likelihood="gaussian")
    (density,) = evaluation.likelihood_warnings(gaussian)
    assert density.startswith("likelihood=gaussian is a density over real numbers, but preprocess=dynamic-binarization")
    for settings, count in (
        ({"likelihood": "learned-gaussian", "preprocess": "static-binarization"}, 1),
        ({"likelihood": "continuous-bernoulli"}, 1),
        ({"likelihood": "gaussian", "preprocess": "scale"}, 0),
        ({}, 0),
    ):
        assert len(evaluation.likelihood_warnings(image_experiment(**settings))) == count
    assert evaluation.likelihood_warnings(hand_made.hand_made()) == []
    params = initial_params(gaussian)
    result = evaluation.evaluate_run(gaussian, params, split="test", placement=one_device)
    assert result["warnings"] == [density]
    loose = list(evaluation._loose_bound({"nll": 88.85, "ess": 19.0, "num_samples": 5000}))
    assert loose == [
        "nll=88.85 is a loose upper bound on -log p(x): the median effective sample size is 19.0 of K=5000 samples, so "
        "a larger evaluation.num_samples lowers it"
    ]
    assert not list(evaluation._loose_bound({"nll": 88.85, "ess": 50.0, "num_samples": 5000}))
    assert not list(evaluation._loose_bound({}))
    (heavy,) = evaluation._heavy_tails({"pareto_k_above": 0.25})
    assert heavy.startswith("pareto_k is above 0.7 for 25% of the examples: the mean of their importance weights is ")
    assert not list(evaluation._heavy_tails({"pareto_k_above": 0.1}))
    assert not list(evaluation._heavy_tails({}))


def test_a_model_that_reads_labels_is_evaluated_as_a_classifier_and_without_the_label(one_device):
    settings = {"model": "m2", "model__num_classes": 2, "evaluation__class_samples": 3}
    experiment, scores = image_experiment(**settings), {}
    params = initial_params(experiment)
    evaluate = functools.partial(evaluation.evaluate_run, split="test", placement=one_device)
    result = evaluate(experiment, params, receive=scores.update)
    count = len(experiment.dataset("test"))
    assert {name: array.shape for name, array in scores.items() if array.ndim > 1} == dict.fromkeys(
        ("log_qy", "log_px_y"), (count, 2)
    )
    assert result["class_samples"] == 3
    for name in ("classifier_error", "generative_error", "classifier_calibration_error", "nll_unlabelled"):
        assert np.isfinite(result[name]), name
    assert result["nll_unlabelled"] != result["nll"]
    other = image_experiment(**settings | {"evaluation__class_samples": 0})
    assert other.evaluation.class_samples == 0
    assert set(result) - set(evaluate(other, params)) == {
        "class_samples", "nll_unlabelled", "nll_unlabelled_se", "generative_error", "generative_error_se",
        "generative_calibration_error",
    }  # fmt: skip
    assert "class_samples" not in evaluation.evaluation_protocol(image_experiment())
    arrays = experiment.dataset("test").arrays
    assert list(evaluation._unknown_labels(experiment, arrays)) == []
    (line,) = evaluation._unknown_labels(experiment, arrays | {"mask": np.arange(count) < 2})
    assert line.startswith(f"{count - 2} of the {count} examples have no label: their elbo and nll are no bounds")
    assert list(evaluation._unknown_labels(image_experiment(), {"x": arrays["x"]})) == []
