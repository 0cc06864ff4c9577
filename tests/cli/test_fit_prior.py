"""vae_jax/cli/fit_prior.py: a density of the codes of a run, samples from it, and refused options."""

import shutil
from pathlib import Path

import numpy as np
import pytest


def test_a_fitted_prior_of_a_run_and_its_samples(copied, call):
    directory, _ = copied
    refused = call("sample", directory, "--prior", "fitted")
    assert (refused.code, refused.err) == (
        2, [f"vae-jax: prior=fitted does not exist in {directory}; run `vae-jax fit-prior {directory} --prior NAME` "
            "first"],
    )  # fmt: skip
    options = {"steps": 30, "batch_size": 64, "learning_rate": 0.01, "seed": 3}
    flags = [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", value)]
    done = call("fit-prior", directory, "--prior", "mixture", "--prior.components", 3, *flags)
    result = done.result
    assert (result["step"], result["dimensions"], result["prior.components"]) == (20, 2, 3)
    assert {name: result[name] for name in options} == options
    assert result["fitted_prior"] == str(directory / "fitted_prior")
    for split, count in (("train", 1294), ("validation", 144)):
        assert result[split]["num_examples"] == count
        assert np.isfinite([result[split][name] for name in ("log_prob", "gaussian_log_prob_se")]).all()
    assert done.err[-1].startswith("step 30 of 30: log density -")

    files = []

    def sample(*options):
        found = call("sample", directory, "--count", 40, *options).result
        files.append(Path(found["samples"]).name)
        assert found["figures"] == [str(directory / "figures" / f"{Path(found['samples']).stem}.png")]
        return found["prior"], np.load(found["samples"], allow_pickle=False)

    (own, of_model), (name, first), (_, again) = sample(), sample("--prior", "fitted"), sample("--prior", "fitted")
    assert (own, name, first.shape) == ("model", "fitted", of_model.shape)
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, of_model)
    hot = sample("--prior", "fitted", "--temperature", 5)[1]
    assert files == ["samples.npy", *["samples-fitted.npy"] * 2, "samples-fitted-temperature-5.npy"]
    assert hot.astype(float).std(axis=0).mean() > first.astype(float).std(axis=0).mean()


def test_samples_of_counts_from_a_fitted_prior(trained_on_counts, tmp_path, call):
    directory = shutil.copytree(trained_on_counts, tmp_path / "run")
    assert "validation" in call("fit-prior", directory, "--prior", "standard-normal").result
    result = call("sample", directory, "--prior", "fitted").result
    samples = np.load(result["samples"], allow_pickle=False)
    assert (samples.shape, samples.dtype, result["prior"]) == ((100, 5), np.int64, "fitted")
    assert len(result["figures"]) == 2


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["fit-prior", "EMPTY", "--prior", "mixture"], ["contains no run"]),
        (["fit-prior", "--prior", "mixture"], ["fit-prior: no run directory; use `vae-jax fit-prior RUN`"]),
        (["fit-prior", "RUN"], ["fit-prior: no prior; use `vae-jax fit-prior", "--prior NAME`, for example mixture"]),
        (["fit-prior", "RUN", "--prior", "mixtur"], ["prior='mixtur' must be one of", "did you mean 'mixture'?"]),
        (["fit-prior", "RUN", "--prior", "coupling", "--prior.components", "3"],
         ["prior.components has no effect with prior=coupling"]),
        (["fit-prior", "RUN", "--prior", "mixture", "--prior.components", "0"], ["prior.components=0"]),
        (["fit-prior", "RUN", "--prior", "mixture", "--seed", "1", "--objective", "iwae"], ["--objective"]),
        (["sample", "RUN", "--prior", "fited"], ["--prior", "model", "fitted"]),
    ],
)  # fmt: skip
def test_fit_prior_refuses(argv, words, refuses):
    refuses(argv, *words)


def test_the_help_lists_the_settings_of_the_prior_alone(call, capsys):
    with pytest.raises(SystemExit):
        call("fit-prior", "RUN", "--prior", "spline", "--help")
    printed = capsys.readouterr().out
    assert "--prior.bins" in printed
    assert "--train.steps" not in printed
    assert "vae-jax fit-prior RUN --prior NAME --help" in " ".join(printed.split())
