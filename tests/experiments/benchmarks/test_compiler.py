"""experiments/benchmarks/compiler.py: a run with --quick counts the operations of a step."""

import pytest
from scripts import load


@pytest.mark.thorough
def test_quick_run(data_dir, capsys):
    script = load("benchmarks/compiler")
    script.OPTIONS = {"unchanged": {}, "none": {"xla_cpu_no_such_option": True}}
    result = script.main(["--quick", "--data-dir", data_dir])
    assert [row["option"] for row in result["options"]] == ["unchanged"]
    assert result["options"][0]["ratio"] == 1
    assert "xla_cpu_no_such_option" in result["omitted"]["none"]
    # 64-8-(2 means, 2 scales) and 2-8-64, batches of 128; no gradient with respect to the image.
    forward = 64 * 8 + 8 * 4 + 2 * 8 + 8 * 64
    assert sum(p["operations"] for p in result["products"]) == 2 * 128 * (3 * forward - 64 * 8)
    assert "all products of a step" in capsys.readouterr().out
