"""vae_jax/runs/evaluation/annealed_likelihood.py: results, chunks that are not computed twice, and refusals."""

import dataclasses

import jax
import numpy as np
import pytest
from small_experiments import image_experiment, initial_params

from vae_jax.data import ArrayDataset
from vae_jax.errors import InputError, NotFiniteError
from vae_jax.inference import Annealing
from vae_jax.runs.evaluation import annealed_likelihood
from vae_jax.runs.evaluation.annealed_likelihood import AnnealedEvaluation, evaluate_annealed
from vae_jax.runs.experiment import memory

SETTINGS = AnnealedEvaluation(Annealing(3, num_chains=2, num_leapfrog=2, num_pilot=2), num_examples=5, num_simulated=4)


@pytest.fixture(scope="module")
def experiment():
    return image_experiment()


@pytest.fixture(scope="module")
def params(experiment):
    return initial_params(experiment)


@pytest.fixture
def evaluate(experiment, params, one_device, tmp_path, monkeypatch):
    """evaluate(settings, report): two examples at a time, of the split test."""
    monkeypatch.setattr(memory, "evaluation_sizes", lambda *_: memory.Sizes(batch_size=8, chunk=1))

    def call(settings=SETTINGS, report=lambda *_: None, step=7, params=params):
        return evaluate_annealed(experiment, params, settings, split="test", placement=one_device, step=step,
                                 partial=tmp_path / "partial.npz", report=report)  # fmt: skip

    return call


@pytest.mark.fault
def test_an_interrupted_evaluation_continues_after_the_last_chunk(evaluate, tmp_path, monkeypatch):
    shown = []
    complete = evaluate(report=lambda *line: shown.append(line))
    assert shown == [("examples", done, 5) for done in (0, 2, 4, 5)] + [
        ("simulated examples", done, 4) for done in (0, 2, 4)
    ]
    shown.clear()
    assert evaluate(report=lambda *line: shown.append(line)) == complete  # from the file, which its reader removes
    assert shown == [("examples", 5, 5), ("simulated examples", 4, 4)]
    (tmp_path / "partial.npz").unlink()
    assert complete["bdmc"]["gap"] == pytest.approx(complete["bdmc"]["upper"] - complete["bdmc"]["lower"], rel=1e-4)
    assert (complete["num_examples"], complete["step"], complete["split"]) == (5, 7, "test")
    assert 0 < complete["acceptance"] <= 1
    assert complete["monte_carlo_se"] > 0

    def stop(what, done, total):
        if (what, done) == ("examples", 4):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(report=stop)
    computed, compute = [], annealed_likelihood.evaluate_examples

    def count(*args, **settings):
        computed.append(settings["first"])
        return compute(*args, **settings)

    monkeypatch.setattr(annealed_likelihood, "evaluate_examples", count)
    again = evaluate()
    assert computed == [4, annealed_likelihood._SIMULATED, annealed_likelihood._SIMULATED + 2]
    assert again == complete


@pytest.mark.fault
@pytest.mark.parametrize("other", ["step", "weights", "examples"])
def test_chunks_of_other_weights_and_examples_are_not_used(other, evaluate, experiment, params, tmp_path, monkeypatch):
    settings = AnnealedEvaluation(SETTINGS.annealing, num_examples=2, num_simulated=0)

    def stop(what, done, total):
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(settings, report=stop)
    assert (tmp_path / "partial.npz").exists()
    shown, test = [], experiment.dataset("test")
    others = dataclasses.replace(test, arrays={name: array[::-1] for name, array in test.arrays.items()})
    if other == "examples":
        monkeypatch.setattr(type(experiment), "dataset", lambda *_: others)
    settings_of = {
        "step": {"step": 8},
        "weights": {"params": jax.tree.map(lambda leaf: leaf + 0.1, params)},
        "examples": {},
    }
    result = evaluate(settings, report=lambda what, done, total: shown.append(done), **settings_of[other])
    assert shown == [0, 2]
    assert "bdmc" not in result


def test_a_single_chain_has_no_error_of_the_chains(evaluate):
    settings = AnnealedEvaluation(dataclasses.replace(SETTINGS.annealing, num_chains=1), 2, 0)
    assert evaluate(settings)["monte_carlo_se"] is None


def test_what_cannot_be_evaluated_is_refused(evaluate, one_device, tmp_path):
    with pytest.raises(InputError, match=r"--ais\.examples=10000 must be from 1 to "):
        evaluate(AnnealedEvaluation(SETTINGS.annealing, num_examples=10_000))
    point = image_experiment(posterior="deterministic", objective="reconstruction")
    with pytest.raises(InputError, match="likelihood=ais needs a model whose posterior has a density"):
        evaluate_annealed(point, initial_params(point), SETTINGS, split="test", placement=one_device, step=1,
                          partial=tmp_path / "p.npz")  # fmt: skip


@pytest.mark.fault
def test_examples_whose_label_is_summed_out_are_refused(one_device, tmp_path, monkeypatch):
    experiment = image_experiment(model="m2", model__num_classes=2)
    arrays = experiment.dataset("test").arrays
    hidden = ArrayDataset(arrays | {"mask": np.arange(len(arrays["x"])) > 2}, "images")
    monkeypatch.setattr(type(experiment), "dataset", lambda *_: hidden)
    with pytest.raises(InputError, match=r"likelihood=ais needs the labels of all examples, and 3 of \d+ have none"):
        evaluate_annealed(experiment, initial_params(experiment), SETTINGS, split="test", placement=one_device, step=1,
                          partial=tmp_path / "p.npz")  # fmt: skip


@pytest.mark.fault
def test_an_estimate_that_is_not_finite_is_an_error(experiment, params, one_device, tmp_path):
    broken = jax.tree.map(lambda leaf: np.full(leaf.shape, np.nan, leaf.dtype), params)
    with pytest.raises(NotFiniteError, match="annealed importance sampling is not finite for 2 of 2 examples"):
        evaluate_annealed(experiment, broken, AnnealedEvaluation(SETTINGS.annealing, 2, 0), split="test",
                          placement=one_device, step=7, partial=tmp_path / "p.npz")  # fmt: skip
