"""experiments/codes.py: cells of equal size, and a run with --quick whose numbers and images are stored."""

import json
import math

import numpy as np
import pytest
from scripts import load

pytestmark = pytest.mark.usefixtures("digits_prepared")


def test_the_cells_have_about_128_bits():
    script = load("codes")
    for name in set(script.CELLS) - {"fsq-8"}:
        config = script.config_of(name)
        bits = config.model.places * config.posterior.depth * math.log2(config.posterior.num_codes)
        assert 126 <= bits <= 128
        assert config.prior.name == "uniform-codes"


@pytest.mark.parametrize(("argv", "output"), [([], "runs/codes"), (["--quick"], "runs/codes-quick")])
def test_a_quick_run_has_another_folder_than_a_full_one(argv, output, monkeypatch, tmp_path, capsys):
    script, directories = load("codes"), []

    def interrupt(config, directory, *arguments):
        directories.append(str(directory))
        raise script.Interrupted

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(script, "run_cell", interrupt)
    assert script.main([*argv, "--cells", "vq"]) == {"output": output, "status": "interrupted"}
    assert directories == [f"{output}/vq"]
    capsys.readouterr()


@pytest.mark.thorough
def test_a_quick_run_writes_bounds_and_scores_and_repeats_nothing(tmp_path, monkeypatch):
    script = load("codes")
    monkeypatch.setitem(
        script.PRIORS, "transformer-codes", script.choice("prior", "transformer-codes", layers=1, width=8)
    )
    argv = ["--quick", "--cells", "fsq", "--updates", "2", "--output", str(tmp_path)]
    result = script.main(argv)
    of_prior = result["cells"]["fsq"]
    assert of_prior["uniform-codes"]["bits_per_code"] == pytest.approx(math.log2(240))
    for numbers in of_prior.values():
        nats = 16 * numbers["bits_per_code"] * math.log(2)
        assert -numbers["elbo"] == pytest.approx(nats - numbers["reconstruction"], rel=1e-5)
    assert len(result["scores"]) == 5
    text = (tmp_path / "codes.md").read_text()
    assert text.splitlines()[2].startswith("| fsq | ")
    assert text.count("| fsq, reconstructions |") == 2
    assert (tmp_path / "codes.png").stat().st_size > 1000
    with np.load(tmp_path / "fsq" / "transformer-codes.npz", allow_pickle=False) as images:
        assert images["samples"].shape == (200, 8, 8, 1)

    monkeypatch.setattr(script, "fit_prior", None)
    monkeypatch.setattr(script, "score", lambda *arguments: {name: result[name] for name in
                                                               ("scores", "classifier_accuracy")})  # fmt: skip
    assert json.dumps(script.main(argv)) == json.dumps(result)
    assert "scores" not in script.main([*argv, "--no-scores"])
    assert (tmp_path / "codes.md").read_text().splitlines() == text.splitlines()[:4]
