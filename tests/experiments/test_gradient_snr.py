"""experiments/gradient_snr.py: its computations, and a complete run with --quick."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jitted import init
from PIL import Image
from scripts import load

from vae_jax.config import Config, choices, override
from vae_jax.inference.gradient_statistics import GradientStatistics
from vae_jax.models.build import build_model


@pytest.fixture(scope="module")
def script():
    return load("gradient_snr")


@pytest.mark.thorough
def test_quick_run(script, data_dir, tmp_path, capsys):
    result = script.main(["--quick", "--data-dir", data_dir, "--output", str(tmp_path / "out")])
    assert json.loads((tmp_path / "out" / "gradient_snr.json").read_text()) == json.loads(json.dumps(result))
    rows = {(row["estimator"], row["num_samples"]): row for row in result["rows"]}
    assert set(rows) == {(estimator, k) for estimator in choices("estimator") for k in (1, 16)}
    ratio = {key: row["encoder_snr"] for key, row in rows.items()}
    assert ratio["pathwise", 16] < ratio["pathwise", 1]
    assert ratio["doubly-reparameterized", 16] > 2 * ratio["pathwise", 16]
    assert rows["pathwise", 16]["decoder_snr"] > rows["pathwise", 1]["decoder_snr"]  # more samples help the decoder
    # With one sample, both estimators are equal for every sample.
    assert ratio["sticking-the-landing", 1] == pytest.approx(ratio["doubly-reparameterized", 1], rel=1e-4)
    with Image.open(tmp_path / "out" / "gradient_snr.png") as image:
        assert len(np.unique(np.asarray(image))) > 2
    text = (tmp_path / "out" / "gradient_snr.md").read_text()
    starts = [line.split(" | ")[0] for line in text.splitlines()]
    assert starts == ["| K", "|---|---|---|---|---|---|", "| 1", "| 16", "| slope"]
    assert text in capsys.readouterr().err


def test_a_missing_data_set_is_one_line(script, tmp_path):
    with pytest.raises(SystemExit, match="not prepared"):
        script.main(["--data-dir", str(tmp_path), "--output", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


def statistics(mean, variance):
    as_tree = lambda value: {"encoder": np.asarray(value, np.float32)}  # noqa: E731
    return GradientStatistics(as_tree(mean), as_tree(variance), None, None, None)


def test_the_variance_of_the_means_is_subtracted_from_the_bias(script):
    unbiased = statistics([3.0, 4.0], [10.0, 10.0])
    exact = script.relative_bias(statistics([0.0, 0.5], [0.0, 0.0]), statistics([3.0, 4.0], [0.0, 0.0]), 10)
    assert exact == pytest.approx(0.1)
    assert script.relative_bias(statistics([0.5, 0.5], [10.0, 10.0]), unbiased, 10) == 0
    found = script.relative_bias(statistics([3.0, 4.0], [5.0, 5.0]), unbiased, 10)
    assert found == pytest.approx(np.sqrt((25 - 1) / (25 - 2)))


def test_the_bias_is_computed_from_gradients_with_the_same_codes(script):
    """The common noise cancels: the difference of an estimator to itself is exactly zero."""
    model = build_model(override(Config(), network__hidden=(8,), model__latent_dim=2), (4, 4, 1))
    x = jax.random.bernoulli(jax.random.key(0), 0.4, (3, 4, 4, 1)).astype(jnp.float32)
    params = init(model, jax.random.key(1), {"x": x})["params"]
    scale = script.Scale((4,), gradients=40, chunk=20, images=3)
    compute = functools.partial(script.statistics_of, model, params, x, num_samples=4, scale=scale)
    variance = lambda s: sum(float(jnp.sum(v)) for v in jax.tree.leaves(s.variance))  # noqa: E731
    assert variance(compute(estimator=script.UNBIASED, subtract=script.UNBIASED)) == 0
    pathwise, unbiased = compute(estimator="pathwise"), compute(estimator=script.UNBIASED)
    difference = compute(estimator="pathwise", subtract=script.UNBIASED)
    expected = jax.tree.map(jnp.subtract, pathwise.mean, unbiased.mean)
    for a, b in zip(*map(jax.tree.leaves, (difference.mean, expected)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)
    assert 0 < variance(difference) < variance(pathwise) + variance(unbiased)


def test_slopes_are_the_exponents_of_powers(script):
    power = {"pathwise": -0.5, "sticking-the-landing": 0.0, "doubly-reparameterized": 0.5}
    rows = [
        {"estimator": estimator, "num_samples": k, "encoder_snr": 3 * k**p if k >= 4 else 9.0}
        for estimator, p in power.items()
        for k in (1, 2, 4, 8, 16)
    ]
    assert script.slopes(rows) == pytest.approx(power, abs=1e-9)
    assert "pathwise" not in script.slopes([row | {"encoder_snr": 0.0} for row in rows])
