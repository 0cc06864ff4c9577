"""A run with a learned codebook and restarts of codes: interrupted, and divided between two processes."""

import chex
import numpy as np
import pytest
from process_pairs import ends, pair
from training_runs import final_digest, fit, flags, restored_state

from vae_jax.config import choice, override, replace_settings, validate

TRAIN = "import sys; from vae_jax.cli.main import main; sys.exit(main(['train', *sys.argv[1:]]))"


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


def codebook_of(directory):
    return restored_state(directory).state.statistics["codebook"]["posterior"]


@pytest.mark.fault
def test_a_run_stopped_between_restarts_ends_in_the_same_bytes(config, tmp_path):
    fit(config, tmp_path / "uninterrupted")
    calls = iter([False, False, True])
    fit(config, tmp_path / "parts", stop=lambda: next(calls, True))
    stopped = restored_state(tmp_path / "parts")
    assert 0 < stopped.step < 8
    usage = np.asarray(codebook_of(tmp_path / "parts")["usage"])
    assert (np.abs(usage - 1 / 8) < 1e-7).any()  # a code was restarted by the last step before the stop
    fit(config, tmp_path / "parts")
    assert final_digest(tmp_path / "parts") == final_digest(tmp_path / "uninterrupted")


@pytest.mark.thorough
def test_one_and_two_processes_have_the_same_codebook(config, tmp_path):
    fit(config, tmp_path / "one")
    several = override(config, mesh__data=0)
    argv = ["-c", TRAIN, "--workdir", str(tmp_path / "two"), "--compilation-cache", str(tmp_path / "cache")]
    with pair(*argv, *flags(several)) as both:
        results = ends(both)
    assert [code for code, _, _ in results] == [0, 0], results
    one, two = (codebook_of(tmp_path / name) for name in ("one", "two"))
    chex.assert_trees_all_close(one, two, atol=1e-5)
    assert (np.abs(np.asarray(one["usage"]) - 1 / 8) < 1e-7).any()  # restarted by the last step
    assert np.asarray(one["updates"]) == 8
