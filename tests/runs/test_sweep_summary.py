"""Evaluation of a sweep's members, the summary over seeds, and its table."""

import numpy as np
import pytest

from vae_jax.errors import NotFiniteError
from vae_jax.runs import evaluate_members, fit_group, make_members, markdown_table, mean_and_sd, summarize
from vae_jax.runs.evaluation import evaluation
from vae_jax.runtime import atomic_files

VARIED = {"objective.beta": [0.5, 2.0], "seed": [0, 1]}


def test_the_standard_deviation_is_that_of_a_sample():
    assert mean_and_sd([1.0, 3.0]) == {"mean": 2.0, "sd": pytest.approx(np.sqrt(2))}
    assert mean_and_sd([4.0]) == {"mean": 4.0, "sd": None}


def test_the_summary_is_over_seeds(sweep_config):
    members = make_members(sweep_config, VARIED)
    summary = summarize(members, [{"elbo": v} for v in (1.0, 3.0, 5.0, 5.0)])
    assert [row["varied"] for row in summary] == [{"objective.beta": 0.5}, {"objective.beta": 2.0}]
    assert summary[0]["elbo"] == {"mean": 2.0, "sd": pytest.approx(np.sqrt(2))}
    assert summary[1]["elbo"] == {"mean": 5.0, "sd": 0.0}
    assert markdown_table(summary).splitlines()[2] == "| 0.5 | 2 | 2.00 ± 1.41 |"
    shares = summarize(members, [{"classifier_error": v} for v in (0.031, 0.033, 0.5, 0.5)])
    assert markdown_table(shares).splitlines()[2] == "| 0.5 | 2 | 0.0320 ± 0.0014 |"
    diverged = summarize(members, [{"elbo": 1.0}, {"failure": "step 3"}, {"elbo": 5.0}, {"elbo": 5.0}])
    assert markdown_table(diverged).splitlines()[0] == "| objective.beta | members | failed | elbo |"
    assert markdown_table(diverged).splitlines()[2:] == ["| 0.5 | 1 | 1 | 1.00 |", "| 2.0 | 2 | 0 | 5.00 ± 0.00 |"]


def test_an_undefined_number_has_a_cell(sweep_config):
    members = make_members(sweep_config, {"model.latent_dim": [2, 3]})
    table = markdown_table(summarize(members, [{"elbo": 1.0, "kl": 2.0}, {"elbo": 3.0}])).splitlines()
    assert table[0] == "| model.latent_dim | members | elbo | kl |"
    assert table[2] == "| 2 | 1 | 1.00 | 2.00 |"
    assert table[3].startswith("| 3 | 1 | 3.00 | ")


@pytest.mark.fault
def test_a_member_whose_bound_is_not_finite_does_not_affect_the_others(sweep_config, tmp_path, monkeypatch):
    members = make_members(sweep_config, {"seed": [0, 1]})
    trained = fit_group(members, tmp_path)
    evaluate = evaluation.evaluate_run

    def overflow(experiment, *args, **kwargs):
        if experiment.seed == 0:
            raise NotFiniteError("the evaluation is not finite")
        return evaluate(experiment, *args, **kwargs)

    monkeypatch.setattr(evaluation, "evaluate_run", overflow)
    first, second = evaluate_members(trained)
    assert first == {"failure": f"{trained[0].directory}: the evaluation is not finite"}
    assert np.isfinite(second["elbo"])
    assert not trained[0].directory.evaluation.exists()
    stored = evaluation.read_evaluation(trained[1].directory, trained[1].experiment.training.steps)
    assert stored["elbo"] == second["elbo"]
    atomic_files.write_json(trained[1].directory.evaluation, stored | {"ais": [{"nll": 1.5}]})
    evaluate_members(trained)
    assert evaluation.read_evaluation(trained[1].directory)["ais"] == [{"nll": 1.5}]
    with pytest.raises(evaluation.Interrupted):
        evaluate_members(trained, stop=lambda: True)
    (trained[1].directory.checkpoints / "15").mkdir()  # as by another process
    before = trained[1].directory.evaluation.read_bytes()
    assert "another process has saved step 15" in evaluate_members(trained)[1]["warnings"][-1]
    assert trained[1].directory.evaluation.read_bytes() == before
    failed = [member._replace(params=None, failure="step 3") for member in trained]
    assert evaluate_members(failed) == [{"failure": "step 3"}] * 2
