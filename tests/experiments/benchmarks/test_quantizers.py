"""experiments/benchmarks/quantizers.py: what is compared, the ratios, and a run with --quick."""

import json

import pytest
from scripts import load


def test_a_cell_is_compared_with_a_vae_of_the_same_networks():
    script = load("benchmarks/quantizers")
    sizes = {"fsq": 48, "vq": 256, "vq-gradient": 256, "residual-vq": 128, "gumbel-softmax": 256, "fsq-8": 24}
    for name, size in sizes.items():
        config = script.codes.config_of(name)
        other = script.continuous(config)
        assert (other.model.name, other.posterior.name, other.network) == ("vae", "gaussian", config.network)
        assert other.model.latent_dim == size


def test_ratios_are_medians_over_rounds():
    ratios = load("benchmarks/quantizers").ratios(
        [(2.0, 3.0), (9.0, 8.0), (4.0, 1.0)], [(1.0, 2.0), (3.0, 2.0), (1.0, 2.0)]
    )
    assert ratios == {"wall_ratio": 3, "cpu_ratio": 1.5}


@pytest.mark.thorough
def test_rows_run_and_are_printed(digits_prepared, capsys):
    script = load("benchmarks/quantizers")
    result = script.main(["--quick", "--rows", "fsq"])
    assert [row["row"] for row in result["rows"]] == ["fsq"]
    assert result["samples"]["equal_codes"] > 0.99
    assert all(row["cpu_ratio"] > 0 for row in [*result["rows"], result["samples"]])
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == result
