"""Priors fitted to known integer codes: their entropies, samples, the bound with them, files, and refusals."""

import functools

import jax
import numpy as np
import pytest
from known_codes import known_experiment, known_integers

from vae_jax.config import choice
from vae_jax.errors import InputError
from vae_jax.runs import (
    FitSettings,
    RunDirectory,
    evaluate_run,
    fit_prior,
    read_fitted_prior,
    sample_prior,
    write_fitted_prior,
)

COUNT, CODES = 4, 3
TRANSFORMER = choice("prior", "transformer-codes", layers=1, heads=2, width=16)
STAY = 0.9  # probability that a code is that of the position before


def chains(size=2000):
    """Return codes [size, COUNT] of a Markov chain that stays at a code with probability STAY."""
    rng = np.random.default_rng(0)
    codes = [rng.integers(0, CODES, size)]
    for _ in range(COUNT - 1):
        moved = (codes[-1] + rng.integers(1, CODES, size)) % CODES
        codes.append(np.where(rng.uniform(size=size) < STAY, codes[-1], moved))
    return np.stack(codes, axis=1)


@functools.cache
def known():
    return known_integers(chains(), CODES)


@functools.cache
def fitted(prior, **settings):
    experiment, params = known()
    return fit_prior(experiment, params, prior, FitSettings(**settings))


def test_a_transformer_reaches_the_entropy_of_a_markov_chain():
    found = fitted(TRANSFORMER, steps=300, learning_rate=1e-2)
    entropy = np.log(CODES) - (COUNT - 1) * (STAY * np.log(STAY) + (1 - STAY) * np.log((1 - STAY) / 2))
    for split in ("train", "validation"):
        result = found.summary[split]
        assert result["log_prob"] == pytest.approx(-entropy, abs=0.05 + 4 * result["log_prob_se"])
        assert result["uniform_log_prob"] == pytest.approx(-COUNT * np.log(CODES), rel=1e-6)
        assert result["bits_per_code"] == pytest.approx(-result["log_prob"] / (COUNT * np.log(2)))
    z = found.sample(jax.random.key(0), 1000)
    assert (z.shape, z.dtype) == ((1000, COUNT), np.int32)
    assert np.mean(z[:, 1:] == z[:, :-1]) == pytest.approx(STAY, abs=0.03)


def test_independent_codes_have_their_frequencies_without_training():
    found = fitted(choice("prior", "categorical-codes"), steps=1, learning_rate=1e-6)
    x = known()[0].training_data.arrays["x"].astype(int)
    shares = (np.stack([(x == c).sum(axis=0) for c in range(CODES)]) + 0.5) / (len(x) + CODES / 2)
    np.testing.assert_allclose(np.exp(found.log_prob(np.full((1, COUNT), 1, np.int32))), shares[1].prod(), rtol=1e-4)


def test_the_model_has_a_bound_with_the_fitted_prior_and_draws_from_it():
    found = fitted(TRANSFORMER, steps=300, learning_rate=1e-2)
    experiment, params = known()
    with_prior = found.replace_prior(experiment, params)
    before, after = (evaluate_run(*model, split="validation") for model in (known(), with_prior))
    assert after["reconstruction"] == pytest.approx(before["reconstruction"])
    assert after["kl"] == pytest.approx(-found.summary["validation"]["log_prob"], rel=1e-5)
    assert before["kl"] == pytest.approx(COUNT * np.log(CODES))
    assert after["bits_per_code"] == pytest.approx(found.summary["validation"]["bits_per_code"], rel=1e-5)
    np.testing.assert_array_equal(sample_prior(*with_prior, jax.random.key(2), 20), found.sample(jax.random.key(2), 20))


def test_a_prior_without_parameters_is_evaluated():
    found = fitted(choice("prior", "uniform-codes"))
    assert found.params == {}
    assert found.summary["train"]["log_prob"] == pytest.approx(-COUNT * np.log(CODES))


def test_a_round_trip_through_files_has_the_same_bits(tmp_path):
    experiment, params = known()
    directory = RunDirectory(tmp_path)
    for found in (fitted(TRANSFORMER, steps=300, learning_rate=1e-2), fitted(choice("prior", "uniform-codes"))):
        write_fitted_prior(directory, found, params, step=3)
        again = read_fitted_prior(directory, experiment, params, step=3)
        assert (again.prior, again.module, again.summary) == (found.prior, found.module, found.summary)
        np.testing.assert_array_equal(again.sample(jax.random.key(1), 5), found.sample(jax.random.key(1), 5))


@pytest.mark.fault
def test_a_prior_of_another_kind_of_codes_is_refused():
    experiment, params = known()
    with pytest.raises(InputError, match=r"^prior=mixture must be .*transformer-codes.* for codes that are integers"):
        fit_prior(experiment, params, choice("prior", "mixture"))
    real, params = known_experiment(np.arange(20.0).reshape(10, 2))
    with pytest.raises(InputError, match=r"^prior=uniform-codes must be .*mixture.* for codes that are real numbers"):
        fit_prior(real, params, choice("prior", "uniform-codes"))
