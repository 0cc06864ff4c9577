"""vae_jax/runs/evaluation/inference_gap.py: means over the examples of a split, and refusals."""

import jax
import numpy as np
import pytest
from small_experiments import image_experiment, initial_params

from vae_jax.data import ArrayDataset
from vae_jax.errors import InputError, NotFiniteError
from vae_jax.inference import PosteriorOptimization
from vae_jax.runs import evaluate_inference_gap, make_evaluator
from vae_jax.runs.evaluation import inference_gap
from vae_jax.runs.experiment import memory
from vae_jax.training.evaluator import elbo_terms

SETTINGS = PosteriorOptimization(num_steps=20, num_samples=4, evaluation_samples=40, chunk=40)


@pytest.fixture(scope="module")
def experiment():
    return image_experiment()


def test_the_parts_are_means_over_the_examples_and_do_not_depend_on_batches(experiment, one_device, monkeypatch):
    monkeypatch.setattr(memory, "evaluation_sizes", lambda *_: memory.Sizes(batch_size=80, chunk=2))
    assert inference_gap._batch_size(experiment, one_device, SETTINGS) == 4
    params = jax.tree.map(lambda leaf: leaf + 0.3, initial_params(experiment))
    shown, where = [], {"split": "test", "placement": one_device, "num_examples": 5}
    found = evaluate_inference_gap(experiment, params, SETTINGS, **where, report=lambda *done: shown.append(done))
    assert shown == [(4, 5), (5, 5)]
    assert found["approximation_gap"] == pytest.approx(-found["nll"] - found["optimized_elbo"], rel=1e-4)
    assert found["amortization_gap"] == pytest.approx(found["optimized_elbo"] - found["elbo"], rel=1e-4)
    assert found["amortization_gap"] > 3 * found["amortization_gap_se"] > 0
    assert (found["num_examples"], found["split"], found["num_steps"]) == (5, "test", 20)
    assert 0 <= found["pareto_k_above"] <= 1
    # The ELBO of the encoder is that of the other evaluation, up to the noise of the samples.
    arrays = {name: array[:5] for name, array in experiment.dataset("test").arrays.items()}
    bound = make_evaluator(experiment, one_device).bound(params, experiment.evaluation_key("test"), arrays)
    assert found["elbo"] == pytest.approx(bound["elbo"], abs=4 * bound["elbo_se"])
    monkeypatch.setattr(memory, "evaluation_sizes", lambda *_: memory.Sizes(batch_size=80, chunk=1))
    again = evaluate_inference_gap(experiment, params, SETTINGS, **where)
    for name in ("elbo", "optimized_elbo", "nll"):
        assert again[name] == pytest.approx(found[name], rel=1e-4)


def test_the_preprocessing_has_the_keys_of_the_other_evaluations():
    class CalledWith(Exception):
        pass

    def preprocess(keys, batch):
        raise CalledWith(jax.random.key_data(keys).tolist())

    seen, keys = [], jax.random.split(jax.random.key(0), 2)
    for terms, settings in ((inference_gap.gap_terms, {"settings": SETTINGS}), (elbo_terms, {"kind": "images"})):
        with pytest.raises(CalledWith) as called:
            terms({}, keys, {}, model=None, preprocess=preprocess, **settings)
        seen.append(called.value.args)
    assert seen[0] == seen[1]


@pytest.mark.parametrize("count", [0, 1000])
def test_more_examples_than_there_are_are_refused(experiment, one_device, count):
    with pytest.raises(InputError, match=f"--optimized.examples={count} must be from 1 to "):
        evaluate_inference_gap(experiment, {}, SETTINGS, split="test", placement=one_device, num_examples=count)


def test_a_deterministic_posterior_is_refused(one_device):
    experiment = image_experiment(posterior="deterministic", objective="reconstruction")
    with pytest.raises(InputError, match="needs a model whose posterior has a density"):
        evaluate_inference_gap(experiment, {}, SETTINGS, split="test", placement=one_device)


def test_estimates_that_are_not_finite_are_refused():
    values = {name: np.zeros(3) for name in ("elbo", "optimized_elbo", "log_px")}
    with pytest.raises(NotFiniteError, match="estimates elbo of the optimized posterior"):
        inference_gap._summarize(values | {"elbo": np.array([0, np.nan, 0])})


@pytest.mark.fault
def test_examples_whose_label_is_summed_out_are_refused(one_device, monkeypatch):
    experiment = image_experiment(model="m2", model__num_classes=2)
    arrays = experiment.dataset("test").arrays
    hidden = ArrayDataset(arrays | {"mask": np.arange(len(arrays["x"])) > 2}, "images")
    monkeypatch.setattr(type(experiment), "dataset", lambda *_: hidden)
    with pytest.raises(InputError, match=r"likelihood=optimized needs the labels of all examples, and 3 of \d+ have"):
        evaluate_inference_gap(experiment, initial_params(experiment), SETTINGS, split="test", placement=one_device)
