"""A run with a learned codebook, interrupted between restarts of codes, ends in the bytes of an uninterrupted one."""

import numpy as np
import pytest
from training_runs import final_digest, fit, restored_state

from vae_jax.config import choice, replace_settings, validate


@pytest.fixture(scope="module")
def config(small):
    given = {
        "model": "codes",
        "model.places": 3,
        "posterior": "vq",
        "posterior.codebook_size": 8,
        "posterior.code_dim": 2,
        "posterior.restart_below": 0.95,
        "posterior.decay": 0.5,
        "prior": "categorical-codes",
        "preprocess": "dynamic-binarization",
        "likelihood": "bernoulli",
        "objective": "elbo",
        "train.steps": 8,
        "train.log_every": 2,
        "train.save_every": 2,
        "train.evaluate_every": 0,
        "evaluation.num_samples": 0,
    }
    assert choice("posterior", "vq").moves_codes
    base = small()
    return validate(replace_settings(base, given))


@pytest.mark.fault
def test_a_run_stopped_between_restarts_ends_in_the_same_bytes(config, tmp_path):
    fit(config, tmp_path / "uninterrupted")
    calls = iter([False, False, True])
    fit(config, tmp_path / "parts", stop=lambda: next(calls, True))
    stopped = restored_state(tmp_path / "parts")
    assert 0 < stopped.step < 8
    usage = np.asarray(stopped.state.statistics["codebook"]["posterior"]["usage"])
    assert (np.abs(usage - 1 / 8) < 1e-7).any()  # a code was restarted by the last step before the stop
    fit(config, tmp_path / "parts")
    assert final_digest(tmp_path / "parts") == final_digest(tmp_path / "uninterrupted")
