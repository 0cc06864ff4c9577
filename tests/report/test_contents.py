"""vae_jax/report/contents.py: what is read of a run, and which scores belong to its evaluation."""

import json

import numpy as np
import pytest
from report_runs import EVALUATION, write_run

from vae_jax.config import PRESETS
from vae_jax.errors import InputError
from vae_jax.report import model_name, read_contents


def test_the_files_of_a_run(tmp_path):
    rng = np.random.default_rng(0)
    scores = {name: rng.normal(size=40).astype(np.float32) for name in ("reconstruction", "elbo", "nll")}
    directory = write_run(tmp_path / "run", scores=scores)
    run = read_contents(tmp_path / "run")
    assert (run.name, run.step, run.stored.settings["train.steps"]) == ("run", 20, 4000)
    assert run.summary == (
        "digits, images · vae (mlp, gaussian, standard-normal, bernoulli) · objective elbo · seed 0 · step 20"
    )
    assert [path.name for path in run.figures] == ["samples.png"]
    assert run.environment["python"] == "3.11.2"
    np.testing.assert_array_equal(run.scores["nll"], scores["nll"])
    later = run.evaluation | {"nll": run.evaluation["nll"] + 0.01}  # the model was trained further
    directory.evaluation.write_text(json.dumps(later))
    assert read_contents(directory).scores == {}
    directory.evaluation.write_text(json.dumps(later | {"step": 10}))
    assert read_contents(directory).evaluation == {}


def test_an_unfinished_run_and_missing_or_damaged_files(tmp_path):
    directory = write_run(tmp_path / "run", evaluation=None, rows=[], figures=())
    directory.environment.write_text("[1]")
    directory.scores("test").write_text("no archive")
    run = read_contents(directory)
    assert (run.evaluation, run.scores, run.environment, run.figures, run.step) == ({}, {}, {}, [], 0)
    directory.environment.write_text("{")
    assert read_contents(directory).environment == {}
    with pytest.raises(InputError, match=r"contains no run \(config.json is missing\)"):
        read_contents(tmp_path / "absent")


def test_an_evaluation_without_scores_of_each_example(tmp_path):
    write_run(tmp_path / "run")
    assert read_contents(tmp_path / "run").evaluation == EVALUATION
    assert read_contents(tmp_path / "run").scores == {}


def test_the_name_of_a_model():
    assert model_name(PRESETS["digits"]) == "vae (mlp, gaussian, standard-normal, bernoulli)"
