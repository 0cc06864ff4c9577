"""experiments/codes.py: cells of equal size, the continuous model next to them, and a run with --quick."""

import math

import pytest
from scripts import load

pytestmark = pytest.mark.usefixtures("digits_prepared")


def test_the_cells_have_about_128_bits_and_the_networks_of_a_vae():
    script = load("codes")
    for name in script.CELLS:
        config = script.config_of(name)
        bits = config.model.places * config.posterior.depth * math.log2(config.posterior.num_codes)
        assert 126 <= bits <= 128
        assert config.prior.name == "uniform-codes"
        other = script.continuous(config)
        assert (other.model.name, other.posterior.name, other.network) == ("vae", "gaussian", config.network)
    assert script.continuous(script.config_of("fsq")).model.latent_dim == 48
    assert script.continuous(script.config_of("residual-vq")).model.latent_dim == 8 * 16


@pytest.mark.thorough
def test_a_quick_run_writes_the_table(tmp_path):
    script = load("codes")
    arguments = ["--quick", "--cells", "fsq", "--updates", "2", "--rounds", "1", "--output", str(tmp_path)]
    (row,) = script.main(arguments)["rows"]
    assert row["uniform-codes"]["bits_per_code"] == pytest.approx(math.log2(240))
    assert row["step"] > 0
    for prior in script.PRIORS:
        nats = 16 * row[prior]["bits_per_code"] * math.log(2)
        assert row[prior]["bound"] == pytest.approx(nats - row["reconstruction"], rel=1e-5)
    assert (tmp_path / "table.md").read_text().splitlines()[2].startswith("| fsq | ")
