"""experiments/benchmarks/startup.py: the measured starts, and the error of a start that fails."""

import pytest
from scripts import load


@pytest.mark.thorough
def test_every_start_is_measured_and_errors_are_passed_on(data_dir, capsys):
    times = load("benchmarks/startup").main(["--starts", "1", "--presets", "digits", "--data-dir", data_dir])
    assert list(times) == ["--help", "imports", "dependencies", "digits, cold", "digits, warm"]
    assert all(len(seconds) == 1 and seconds[0] > 0 for seconds in times.values())
    with pytest.raises(SystemExit, match="--preset=nothing"):
        load("benchmarks/startup").to_first_step(["--preset", "nothing"], data_dir)
    capsys.readouterr()
