"""experiments/penalty.py: a run with --quick shows the effect of the penalty."""

import json

import numpy as np
import pytest
from scripts import load

pytestmark = pytest.mark.usefixtures("digits_prepared")


@pytest.mark.thorough
def test_without_the_penalty_the_noise_vanishes(tmp_path, capsys):
    result = load("penalty").main(["--quick", "--epochs", "10", "--output", str(tmp_path)])
    capsys.readouterr()
    ratio = {row["penalty"]: row["ratio"] for row in result["at_end"]}
    each_epoch = json.loads((tmp_path / "penalty.json").read_text())["noise_and_spread"]
    for name, values in each_epoch.items():
        noise, spread = np.moveaxis(np.asarray(values), 1, 0)  # each [epochs + 1, D]
        np.testing.assert_allclose(noise[0], 1)  # s starts at 0
        assert ratio[name] == pytest.approx(np.median(noise[-1] / spread[-1]))
    assert 2 * ratio["no penalty"] < ratio["KL"] < ratio["twice the KL"]
    assert {path.name for path in tmp_path.iterdir()} == {"penalty.png", "penalty.md", "penalty.json"}
