"""Perplexity and usage of codes: against counts of the complete split, whatever its batches."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from code_models import code_experiment

from vae_jax.data import from_arrays
from vae_jax.distributions import ChosenCodes, Latent
from vae_jax.inference import Terms, encode
from vae_jax.runs import evaluate_run, make_evaluator
from vae_jax.runtime import Placement, sharding
from vae_jax.training.code_usage import chosen_codes, summarize_codes


def entropy(codes):
    shares = np.unique(codes, return_counts=True)[1] / codes.size
    return -(shares * np.log(shares)).sum()


def test_perplexity_and_usage_are_those_of_all_examples():
    codes = np.array([[0, 1], [0, 2], [0, 1], [0, 5]])
    values = {"codes/z": codes, "codebook/z": np.tile([8, 1], (4, 1)), "kl": np.full(4, 3.0)}
    found = summarize_codes(values, num_layers=1)
    assert "bits_per_code" not in summarize_codes(values, num_layers=2)
    assert found["code_perplexity"] == pytest.approx(math.exp(entropy(codes)))
    assert found["code_usage"] == 4 / 8
    assert found["bits_per_code"] == pytest.approx(3 / (2 * math.log(2)))
    assert set(found) == {"code_perplexity", "code_usage", "bits_per_code"}
    halves = [
        summarize_codes({name: array[part] for name, array in values.items()}, num_layers=1)
        for part in ([0, 2], [1, 3])
    ]
    assert np.mean([half["code_perplexity"] for half in halves]) < found["code_perplexity"]  # of parts it is less


@pytest.mark.parametrize(("lead", "shape"), [((), (4, 3)), ((1,), (4, 3)), ((2,), (4, 6)), ((2, 1), (4, 6))])
def test_the_codes_of_an_example_are_a_row_also_of_dependent_layers_and_of_blocks(lead, shape):
    indices = jnp.arange(math.prod(lead) * 12).reshape(*lead, 4, 3)
    log_p = jnp.zeros((2, 1, 4) if 2 in lead else (1, 4))
    latent = Latent("z", indices, log_p=log_p, posterior=ChosenCodes(indices, 30, 1))
    found = chosen_codes(Terms(jnp.zeros((1, 4)), (latent,)))
    assert (found["codes/z"].shape, found["codebook/z"].tolist()) == (shape, [[30, 1]] * 4)
    np.testing.assert_array_equal(found["codes/z"][:, :3], indices.reshape(-1, 4, 3)[0])
    np.testing.assert_array_equal(found["codes/z"][:, -3:], indices.reshape(-1, 4, 3)[-1])


def test_levels_are_counted_separately():
    codes = np.array([[0, 1, 2, 1], [0, 1, 2, 3]])  # two places of two levels
    found = summarize_codes({"codes/z": codes, "codebook/z": np.tile([4, 2], (2, 1))}, num_layers=1)
    assert found["code_perplexity_by_level"] == pytest.approx([2.0, math.exp(entropy(codes[:, 1::2]))])
    assert found["code_usage_by_level"] == [0.5, 0.5]
    assert found["code_perplexity"] == pytest.approx(np.mean(found["code_perplexity_by_level"]))
    assert summarize_codes({"kl": np.zeros(2)}, num_layers=1) == {}


def test_the_evaluation_counts_each_example_once_in_batches_of_any_size_on_any_devices():
    noise = np.random.default_rng(0).integers(0, 256, (60, 8, 8, 1), dtype=np.uint8)
    experiment = code_experiment(from_arrays(noise, holdout=0.3), preprocess="scale")
    params = experiment.evaluation_params(experiment.initial_state(experiment.key))
    params["posterior"]["projection"]["Dense_0"]["kernel"] *= 100.0  # codes that differ between examples
    arrays, key = experiment.dataset("test").arrays, experiment.evaluation_key("test")
    x = jnp.asarray(arrays["x"] / 255, jnp.float32)
    assert len(x) % 5  # the last batch is padded
    codes = np.asarray(jax.jit(lambda p, x: encode(p, {"x": x}, model=experiment.model).posterior.indices)(params, x))
    assert len(np.unique(codes)) > 2
    for batch_size, devices in ((5, 1), (7, 2)):
        evaluator = make_evaluator(experiment, Placement(sharding.make_mesh(devices)), batch_size)
        found = evaluator.bound(params, key, arrays)
        assert found["code_perplexity"] == pytest.approx(math.exp(entropy(codes)))
        assert found["code_usage"] == len(np.unique(codes)) / 4
        assert found["bits_per_code"] == pytest.approx(2)
    result = evaluate_run(experiment, params, split="test")
    assert (result["num_samples"], result["ess"]) == (1, 1)  # all samples are equal
    assert result["nll"] == pytest.approx(-result["elbo"])
