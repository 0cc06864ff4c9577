"""experiments/probabilistic_pca.py: a linear Gaussian VAE reaches the likelihood of probabilistic PCA."""

from scripts import load


def test_the_likelihoods_agree_to_a_twentieth_of_a_nat(tmp_path, capsys):
    result = load("probabilistic_pca").main(["--steps", "1500", "--output", str(tmp_path)])
    capsys.readouterr()
    assert abs(result["difference"]) < 0.05
    assert result["vae_elbo"] < result["vae"]
