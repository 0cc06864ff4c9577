"""experiments/how_loose.py: exact numbers of a linear model, stored numbers, and the table."""

import dataclasses

import numpy as np
import pytest
from scipy.stats import multivariate_normal
from scripts import load

import vae_jax
from vae_jax.runs import open_run, restored_params

ARGUMENTS = ["--images", "6", "--samples", "30", "--steps", "3"]


@pytest.fixture
def script(monkeypatch):
    script = load("how_loose")
    monkeypatch.setattr(script, "SIMULATED", 4)
    return script


@pytest.fixture(scope="module")
def linear_run(tmp_path_factory, data_dir):
    """The directory of a linear model with a Gaussian likelihood, after a few steps."""
    config = vae_jax.override(
        vae_jax.Config(), data__data_dir=data_dir, preprocess="scale", model__latent_dim=2, network__hidden=(),
        likelihood="gaussian", likelihood__scale=0.5, train__steps=3, train__save_every=3, train__log_every=3,
        train__evaluate_every=0,
    )  # fmt: skip
    directory = tmp_path_factory.mktemp("how_loose") / "linear"
    vae_jax.fit(vae_jax.build_experiment(config), directory)
    return directory


@pytest.mark.parametrize("distributions", [[], pytest.param(["3"], marks=pytest.mark.thorough)])
def test_all_numbers_of_a_linear_model_and_no_number_is_computed_twice(
    script, linear_run, capsys, monkeypatch, distributions
):
    (linear_run / "how_loose-6.json").unlink(missing_ok=True)
    arguments = [str(linear_run), *ARGUMENTS, "--distributions", *distributions]
    (row,) = script.main(arguments)["rows"]
    assert not list(linear_run.glob("*-ais-*.npz"))
    run = open_run(linear_run)
    with restored_params(run.experiment, run.directory, run.placement) as (_, params):
        weights = np.asarray(params["decoder"]["Dense_0"]["kernel"], np.float64)
        offset = np.asarray(params["output_bias"], np.float64).reshape(-1)
    x = run.experiment.dataset("test").arrays["x"][:6].reshape(6, -1) / 255.0
    expected = multivariate_normal(offset, weights.T @ weights + 0.25 * np.eye(64)).logpdf(x).mean()
    assert row["exact"]["nll"] == pytest.approx(-expected, abs=1e-3)
    if distributions:
        assert row["AIS-3"]["nll"] == pytest.approx(-expected, abs=0.5)
    assert row["gap"]["nll"] == pytest.approx(-expected, abs=1)
    assert -row["bound"]["elbo"] > -expected
    for name in ("make_evaluator", "evaluate_inference_gap", "evaluate_annealed"):
        monkeypatch.setattr(script, name, lambda *_: None)  # would fail if it were used
    assert script.main(arguments)["rows"] == [row]
    table = capsys.readouterr().err
    assert "| run | steps | images | -ELBO | IW-30 | k > 0.7 |" in table
    assert ("| AIS-3 | BDMC gap |" in table) == bool(distributions)
    assert f"| {row['exact']['nll']:.2f} |" in table


def test_a_table_of_different_numbers_has_empty_cells(script):
    rows = [
        {"run": "a", "step": 5, "images": 10, "bound": {"elbo": -90.0, "elbo_se": 0.5, "seconds": 2},
         "IW-50": {"nll": 88.0, "nll_se": 0.25, "pareto_k_above": 0.125, "seconds": 1.25}},
        {"run": "b", "step": 6, "images": 10, "bound": {"elbo": -80.0, "elbo_se": 0.5, "seconds": 2},
         "AIS-9": {"nll": 79, "monte_carlo_se": 0.01, "bdmc": {"gap": 0.5, "gap_se": 0.1}, "seconds": 7},
         "gap": {"undefined": "no Gaussian", "seconds": 0}},
    ]  # fmt: skip
    lines = script.markdown(rows).splitlines()
    assert lines[2] == "| a | 5 | 10 | 90.00 ± 0.50 | 88.00 ± 0.25 | 0.12 |  |  |  |  |  | 3 |"
    assert lines[3] == "| b | 6 | 10 | 80.00 ± 0.50 |  |  | 79.00 ± 0.01 | 0.50 ± 0.10 |  |  |  | 9 |"


@pytest.mark.parametrize(
    "change", [{"network__hidden": (4,)}, {"preprocess": "threshold"}, {"model": "conditional"}, {"prior": "mixture"}]
)
def test_a_model_that_is_not_linear_or_other_inputs_have_no_exact_number(script, linear_run, change):
    run = open_run(linear_run)
    config = vae_jax.override(run.experiment.config, **change)
    run = run._replace(experiment=dataclasses.replace(run.experiment, config=config))
    assert script.exact_nll(run, {}, np.zeros((1, 8, 8, 1))) is None
