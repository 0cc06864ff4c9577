"""Densities fitted to codes of known distributions, in place of p(z) of the model, and refused settings."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jitted import log_prob
from known_codes import known_experiment

from vae_jax.config import choice
from vae_jax.distributions import Variables
from vae_jax.errors import InputError, NotFiniteError
from vae_jax.runs import CodeReader, FitSettings, fit_prior, sample_prior

N = 3000
LOG_2PI_E = np.log(2 * np.pi * np.e)
COUPLING = choice("prior", "coupling", layers=2, hidden=(16,))
COUPLING_SETTINGS = {"steps": 500, "learning_rate": 1e-2}
MIXTURE, MIXTURE_SETTINGS = choice("prior", "mixture", components=4), {"steps": 500, "learning_rate": 2e-2}
SCALE = np.array([[2.0, 0.0], [3.0, 0.5]])


def gaussian(seed=0):
    return np.random.default_rng(seed).normal(size=(N, 2)) @ SCALE.T + np.array([5.0, -1.0])


def two_clusters():
    """Return samples of 1/2 N(-m, Σ) + 1/2 N(m, Σ) far from each other; the entropy is log 2 + that of N(0, Σ).

    The standardized clusters have diagonal covariances.
    """
    sign = np.random.default_rng(1).choice([-6, 6], size=(N, 1))
    return gaussian() + sign * SCALE[:, 1]


def banana():
    """Return (a, b + a²) of a, b ~ N(0, 1), which has the entropy of N(0, I)."""
    z = np.random.default_rng(2).normal(size=(N, 2))
    return z + z[:, :1] ** 2 * np.array([[0.0, 1.0]])


ENTROPY = LOG_2PI_E + np.log(np.linalg.det(SCALE))


@functools.cache
def fitted(make, prior, *, noise=0.0, **settings):
    """Return (experiment, parameters, the fitted prior)."""
    experiment, params = known_experiment(make(), noise=noise)
    return experiment, params, fit_prior(experiment, params, prior, FitSettings(**settings))


def test_the_standard_normal_is_the_gaussian_of_maximum_likelihood():
    experiment, _, found = fitted(gaussian, choice("prior", "standard-normal"))
    x = experiment.training_data.arrays["x"].astype(np.float64)
    expected = -LOG_2PI_E - 0.5 * np.linalg.slogdet(np.cov(x.T, bias=True))[1]
    summary = found.summary
    assert summary["codes"] == "means"
    assert "steps" not in summary
    for name in ("log_prob", "gaussian_log_prob"):
        assert summary["train"][name] == pytest.approx(expected, abs=1e-4)
        assert summary["validation"][name] == pytest.approx(-ENTROPY, abs=5 * summary["validation"][f"{name}_se"])
    assert summary["train"]["num_examples"] + summary["validation"]["num_examples"] < N
    z = found.sample(jax.random.key(0), 4000)
    np.testing.assert_allclose(np.cov(z.T), SCALE @ SCALE.T, rtol=0.15)
    cold = found.sample(jax.random.key(0), 4000, temperature=0.5)
    np.testing.assert_allclose(np.cov(cold.T), np.cov(z.T) / 4, rtol=1e-3)


def test_a_mixture_reaches_the_entropy_of_two_clusters():
    summary = fitted(two_clusters, MIXTURE, **MIXTURE_SETTINGS)[2].summary
    bound = -ENTROPY - np.log(2)
    for split in ("train", "validation"):
        result = summary[split]
        assert result["log_prob"] == pytest.approx(bound, abs=0.03 + 4 * result["log_prob_se"])
        assert result["gaussian_log_prob"] < bound - 1
    assert summary["prior"] == "mixture"
    assert (summary["prior.components"], summary["steps"], summary["batch_size"]) == (4, 500, 256)


def test_a_flow_starts_at_the_gaussian_and_reaches_the_entropy_of_a_banana():
    _, _, found = fitted(banana, COUPLING, **COUPLING_SETTINGS)
    for split in ("train", "validation"):
        result = found.summary[split]
        assert result["log_prob"] == pytest.approx(-LOG_2PI_E, abs=0.1 + 4 * result["log_prob_se"])
        assert result["gaussian_log_prob"] < -LOG_2PI_E - 0.4
    start = jax.jit(found.module.init)(jax.random.key(0))["params"]
    moments = {name: found.params[name] for name in ("loc", "scale_tril")}
    gaussian = fitted(banana, choice("prior", "standard-normal"))[2]
    z = banana()[:5].astype(np.float32)
    at_start = dataclasses.replace(found, params=start | moments).log_prob(z)
    np.testing.assert_allclose(at_start, gaussian.log_prob(z), rtol=1e-5)
    assert np.abs(found.log_prob(z) - at_start).max() > 0.1


def test_samples_of_a_posterior_add_their_variance():
    _, _, found = fitted(gaussian, choice("prior", "standard-normal"), noise=1.0)
    assert found.summary["codes"] == "samples"
    z = np.asarray(found.sample(jax.random.key(0), 4000))
    np.testing.assert_allclose(np.cov(z.T), SCALE @ SCALE.T + np.eye(2), rtol=0.15)


def test_the_fit_is_a_function_of_the_seed():
    experiment, params, first = fitted(banana, COUPLING, **COUPLING_SETTINGS)
    lines = []
    again, other = (
        fit_prior(experiment, params, COUPLING, FitSettings(500, None, 1e-2, seed), log=lines.append).params
        for seed in (0, 1)
    )
    jax.tree.map(np.testing.assert_array_equal, first.params, again)
    differences = jax.tree.map(lambda a, b: np.abs(a - b).max(), again["prior"], other["prior"])
    assert min(jax.tree.leaves(differences)) > 1e-3
    assert lines[0] == f"{first.summary['train']['num_examples']} codes of 2 numbers: means of q(z|x)"
    assert lines[1].startswith("step 500 of 500: log density -")


def test_the_model_with_the_fitted_prior_has_its_samples():
    experiment, params, found = fitted(two_clusters, MIXTURE, **MIXTURE_SETTINGS)
    key = jax.random.key(3)
    z = found.sample(key, 200)
    assert np.abs((z - [5, -1]) @ np.linalg.inv(SCALE).T)[:, 1].min() > 2  # in one of the clusters
    replaced, joined = found.replace_prior(experiment, params)
    np.testing.assert_array_equal(sample_prior(replaced, joined, key, 200), z)
    np.testing.assert_allclose(found.log_prob(z), log_prob(found.density, z), rtol=1e-5)
    assert replaced.training_data is experiment.training_data
    _, separate = found.replace_prior(experiment, Variables(params, {"averages": {"a": jnp.ones(1)}}))
    assert separate.statistics == {"averages": {"model": {"a": jnp.ones(1)}}}
    assert separate.params.keys() == {"model", "prior"}


@pytest.mark.fault
def test_settings_that_cannot_be_used_are_refused():
    experiment, params = known_experiment(banana()[:40])
    count = len(experiment.training_data)
    normal, coupling = choice("prior", "standard-normal"), COUPLING
    for prior, settings, words in (
        (normal, {"steps": 5}, r"^steps=5 has no effect with prior=standard-normal, which has no parameters to train"),
        (coupling, {"steps": 0}, r"^steps=0 must be at least 1"),
        (coupling, {"batch_size": 41}, rf"^batch_size=41 must be at least 1 and at most the {count} training examples"),
        (coupling, {"learning_rate": float("nan")}, r"^learning_rate=nan must be greater than 0 and finite"),
        (coupling, {"seed": -1}, r"^seed=-1 must be at least 0"),
        (choice("prior", "vamp"), {}, r"^prior=vamp is made of posteriors of the encoder, so it cannot be fitted"),
    ):
        with pytest.raises(InputError, match=words):
            fit_prior(experiment, params, prior, FitSettings(**settings))
    with pytest.raises(NotFiniteError, match=r"^learning_rate=1e\+30 makes the density not finite before step 20; low"):
        fit_prior(experiment, params, choice("prior", "mixture", components=2), FitSettings(20, None, 1e30))


def test_several_fits_share_the_codes_of_a_model(monkeypatch):
    experiment, params = known_experiment(banana()[:40])
    reader, encoded, encode = CodeReader(experiment, params), [], CodeReader._encode

    def record(self, split, dataset):
        encoded.append(split)
        return encode(self, split, dataset)

    monkeypatch.setattr(CodeReader, "_encode", record)
    prior = choice("prior", "standard-normal")
    shared = [fit_prior(experiment, params, prior, codes=reader) for _ in range(2)]
    assert encoded == ["validation"]
    assert shared[0].summary == shared[1].summary == fit_prior(experiment, params, prior).summary
    other, moved = known_experiment(banana()[:40])
    for model in ((other, params), (experiment, moved)):
        with pytest.raises(InputError, match=r"^codes belong to another experiment or other parameters; pass a"):
            fit_prior(*model, prior, codes=reader)
