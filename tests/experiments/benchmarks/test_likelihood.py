"""experiments/benchmarks/likelihood.py: the count of operations, the memory, and a run with --quick."""

import itertools
import json

import numpy as np
import pytest
from scripts import load

from vae_jax.config.building import override
from vae_jax.config.presets import PRESETS
from vae_jax.errors import InputError


@pytest.fixture
def script():
    return load("benchmarks/likelihood")


def test_quick_run(script, data_dir, capsys):
    script.main(["--quick", "--images", "30", "--data-dir", data_dir])
    *table, last = capsys.readouterr().out.splitlines()
    result = json.loads(last)
    # digits: 64-256-128, two heads of 6, and 6-128-256-64
    once, each = 64 * 256 + 256 * 128 + 2 * 128 * 6, 6 * 128 + 128 * 256 + 256 * 64
    assert result["operations_per_image"] == 2 * (once + 20 * each)
    assert [row["row"] for row in result["rows"]] == ["matrix", "products", "evaluation"]
    assert len(table) == 4
    for row in result["rows"]:
        share = row["flops"]["median"] / result["rows"][0]["flops"]["median"]
        assert row["share"]["median"] == pytest.approx(share)


def test_the_operations_of_the_mnist_preset_equal_a_manual_count(script):
    def layers(*sizes):
        shapes = itertools.pairwise(sizes)
        return {f"layer_{i}": {"kernel": np.zeros(s), "bias": np.zeros(s[1])} for i, s in enumerate(shapes)}

    params = {
        "encoder": layers(784, 200, 200),
        "posterior": {"mean": layers(200, 50), "log_variance": layers(200, 50)},
        "decoder": layers(50, 200, 200, 784),
        "output_bias": np.zeros((28, 28, 1)),
    }
    assert script.operations(params, 5000) == 2 * 216_800 + 5000 * 2 * 206_800
    assert [kernel.shape for kernel in script.kernels(params, encoder=False)] == [(50, 200), (200, 200), (200, 784)]


def test_memory_is_measured_in_a_separate_process_for_each_number_of_samples(script, monkeypatch, capsys):
    calls = []

    def child(argv):
        calls.append(argv)
        return {"num_samples": int(argv[-1]), "peak_bytes": 10 * 2**20 + int(argv[-1]), "seconds": 1.0}

    monkeypatch.setattr(script, "in_child", child)
    script.main(["--quick", "--memory"])
    *lines, last = capsys.readouterr().out.splitlines()
    assert calls == [["--quick", "--memory", "--peak", "20"], ["--quick", "--memory", "--peak", "200"]]
    assert len(lines) == 2
    assert json.loads(last)["ratio"] == pytest.approx((10 * 2**20 + 200) / (10 * 2**20 + 20))


@pytest.mark.parametrize("settings", [{"model": "layered"}, {"network": "conv"}, {"network__tied": True}])
def test_a_model_whose_products_cannot_be_counted_is_refused(settings, script):
    with pytest.raises(InputError, match="one stochastic layer"):
        script.check_countable(override(PRESETS["digits"], **settings))
