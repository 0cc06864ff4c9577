"""vae_jax/runs/evaluation/further_estimates.py: lists of results in evaluation.json."""

import json

import pytest

from vae_jax.runs import RunDirectory, further_estimates, merge_estimate


@pytest.mark.parametrize(("name", "setting"), [("ais", "num_distributions"), ("optimized", "num_steps")])
def test_a_result_replaces_that_of_its_protocol(name, setting, tmp_path):
    protocol = {"split": "test", "num_examples": 5, "num_samples": 2}
    first, second, third = ({**protocol, setting: number, "nll": nll} for number, nll in ((3, 1), (9, 2), (3, 3)))
    stored = {"step": 7, "nll": 0}
    for result in (first, second, third):
        stored = merge_estimate(stored, name, result)
    assert stored == {"step": 7, "nll": 0, name: [third, second]}
    (tmp_path / "evaluation.json").write_text(json.dumps(stored))
    assert further_estimates(RunDirectory(tmp_path), 7) == {name: [third, second]}
    assert further_estimates(RunDirectory(tmp_path), 8) == {}
    assert further_estimates(RunDirectory(tmp_path / "absent"), 7) == {}


def test_a_result_without_simulated_examples_does_not_replace_one_with_bounds():
    bounded, other = ({"num_distributions": 3, "num_simulated": count, "nll": 1.0} for count in (100, 0))
    stored = merge_estimate(merge_estimate({}, "ais", bounded | {"bdmc": {"gap": 0.1}}), "ais", other)
    assert [result["num_simulated"] for result in stored["ais"]] == [100, 0]
    assert "bdmc" in stored["ais"][0]
