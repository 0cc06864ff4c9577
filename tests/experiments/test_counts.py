"""experiments/counts.py: the simulated model, and a short run against it."""

import numpy as np
import pytest
from scripts import load

from vae_jax.errors import InputError

counts = load("counts")


def test_simulated_counts_have_the_variance_of_a_negative_binomial():
    x, truth = counts.simulate(20_000, 6, 2)
    scale = np.exp(0.5 * (truth.weights**2).sum(axis=0))  # E exp(W z), so E μ = exp(b) scale
    mean = np.exp(truth.bias) * scale
    squared = mean**2 * scale**2  # E μ²
    variance = mean + squared / truth.dispersion + squared - mean**2
    np.testing.assert_allclose(x.mean(axis=0), mean, rtol=0.05)
    assert np.median(x.var(axis=0) / variance) == pytest.approx(1, abs=0.02)  # single variances have heavy tails


@pytest.mark.parametrize(
    ("argv", "name", "epochs"),
    [([], "counts", 60), (["--quick"], "counts-quick", 5), (["--quick", "--epochs", "7"], "counts-quick", 7)],
)
def test_a_quick_run_has_another_folder_and_fewer_epochs(argv, name, epochs, monkeypatch, tmp_path):
    def train(experiment, directory):
        assert experiment.training.steps == epochs * (len(experiment.training_data) // 128)
        raise InputError(str(directory))

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(counts, "train", train)
    with pytest.raises(InputError, match=f"^runs/{name}/learned$"):
        counts.main(argv)


@pytest.mark.thorough
def test_a_short_run_reports_every_number(tmp_path, capsys):
    result = counts.main(["--quick", "--output", str(tmp_path)])
    assert "Median error of the dispersions" in capsys.readouterr().err
    assert result["true"]["nll"] < result["learned"]["nll"]  # after five epochs
    assert result["nll_excess"] == pytest.approx(result["learned"]["nll"] / result["true"]["nll"] - 1)
    assert 0 < result["dispersion_error"] < 1
    assert (tmp_path / "counts.md").read_text().startswith("| model |")
